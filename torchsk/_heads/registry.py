"""The tables of losses, and `make_head`, which looks them up."""

import inspect
from dataclasses import fields
from typing import Any, NamedTuple

from torch import nn

from torchsk._heads.base import Head
from torchsk._heads.classification import (
    BinaryCrossEntropy,
    Binomial,
    FocalBinomial,
    FocalMultinomial,
    Hinge,
    MultiMargin,
    Multinomial,
    NegativeLogLikelihood,
)
from torchsk._heads.custom import CustomClasses, CustomLabels, CustomNumbers, _Custom
from torchsk._heads.regression import (
    AbsoluteError,
    Gamma,
    Gaussian,
    Huber,
    Poisson,
    Quantile,
    SmoothL1,
    SquaredError,
    Tweedie,
)

#: loss -> problem -> head
LOSSES: dict[str, dict[str, type[Head]]] = {
    "log_loss": {"binary": Binomial, "multilabel": Binomial, "multiclass": Multinomial},
    "cross_entropy": {"binary": Multinomial, "multiclass": Multinomial},
    "bce": {"binary": BinaryCrossEntropy, "multilabel": BinaryCrossEntropy},
    "nll": {"binary": NegativeLogLikelihood, "multiclass": NegativeLogLikelihood},
    "hinge": {"binary": Hinge, "multilabel": Hinge, "multiclass": MultiMargin},
    "focal": {"binary": FocalBinomial, "multilabel": FocalBinomial, "multiclass": FocalMultinomial},
    "squared_error": {"regression": SquaredError},
    "absolute_error": {"regression": AbsoluteError},
    "huber": {"regression": Huber},
    "smooth_l1": {"regression": SmoothL1},
    "quantile": {"regression": Quantile},
    "poisson": {"regression": Poisson},
    "gamma": {"regression": Gamma},
    "tweedie": {"regression": Tweedie},
    "gaussian": {"regression": Gaussian},
}

#: problem -> head of a loss that is no row of LOSSES
CUSTOM_LOSSES: dict[str, type[_Custom]] = {
    "binary": CustomClasses,
    "multiclass": CustomClasses,
    "multilabel": CustomLabels,
    "regression": CustomNumbers,
}

#: other names of the rows of LOSSES
ALIASES: dict[str, str] = {
    "mse": "squared_error",
    "mae": "absolute_error",
    "pinball": "quantile",
}

#: the names that a loss may have, whatever the problem
LOSS_NAMES = (*LOSSES, *ALIASES)


class TorchLoss(NamedTuple):
    """The row of LOSSES that a torch loss stands for."""

    name: str
    #: options of the torch loss that are parameters of the head; the others must be left alone
    options: tuple[str, ...] = ()
    problems: tuple[str, ...] = ("binary", "multiclass", "multilabel", "regression")


#: torch loss -> what it stands for
TORCH_LOSSES: dict[type, TorchLoss] = {
    nn.BCEWithLogitsLoss: TorchLoss("log_loss", ("pos_weight",), ("binary", "multilabel")),
    nn.CrossEntropyLoss: TorchLoss("cross_entropy", ("weight", "label_smoothing")),
    nn.BCELoss: TorchLoss("bce"),
    nn.NLLLoss: TorchLoss("nll", ("weight",)),
    nn.MultiMarginLoss: TorchLoss("hinge", ("p", "margin", "weight"), ("multiclass",)),
    nn.MSELoss: TorchLoss("squared_error"),
    nn.L1Loss: TorchLoss("absolute_error"),
    nn.HuberLoss: TorchLoss("huber", ("delta",)),
    nn.SmoothL1Loss: TorchLoss("smooth_l1", ("beta",)),
    nn.PoissonNLLLoss: TorchLoss("poisson"),
    nn.GaussianNLLLoss: TorchLoss("gaussian", ("eps", "full")),
}


def make_head(loss: Any, loss_params: dict | None, problem: str, n_targets: int) -> Head:
    """Return the head of a loss for one problem.

    Parameters
    ----------
    loss : str, type, nn.Module or callable
        A row of `LOSSES` or `ALIASES`, a torch loss of `TORCH_LOSSES` (class or instance), or the
        user's own ``loss(raw, target)``.
    loss_params : dict or None
        Parameters of the loss, by name.
    problem : {"binary", "multiclass", "multilabel", "regression"}
        What y poses.
    n_targets : int
        As in `Head`.

    Returns
    -------
    head : Head
        The head.

    Raises
    ------
    ValueError
        If there is no such loss for this problem, or a parameter is unknown or out of
        range.
    """
    if not (loss_params is None or isinstance(loss_params, dict)):
        raise ValueError(f"loss_params must be a dict or None; got loss_params={loss_params!r}.")
    params = dict(loss_params or {})
    torch_loss = TORCH_LOSSES.get(loss if isinstance(loss, type) else type(loss))
    if torch_loss is None and callable(loss):
        return CUSTOM_LOSSES[problem](n_targets, loss, tuple(params.items()))

    name = torch_loss.name if torch_loss is not None else str(loss)
    name = ALIASES.get(name, name)
    heads = LOSSES.get(name, {})
    if problem not in heads or (torch_loss is not None and problem not in torch_loss.problems):
        names = sorted(name for name, heads in LOSSES.items() if problem in heads)
        raise ValueError(
            f"loss must be one of {names}, a torch loss that stands for one of them, or a "
            f"callable loss(raw, target), for {problem} problems; got loss={loss!r}."
            f"{_owner(heads, problem)}"
        )
    if isinstance(loss, nn.Module) and torch_loss is not None:
        params = _options_of(loss, torch_loss) | params
    known = [option.name for option in fields(heads[problem]) if "rule" in option.metadata]
    if not set(params) <= set(known):
        raise ValueError(
            f"loss_params must have no keys{f' but {known}' if known else ''} for loss={name!r} in "
            f"{problem} problems; got loss_params={params!r}."
        )
    return heads[problem](n_targets, **params)


def _owner(heads: dict[str, type[Head]], problem: str) -> str:
    """Return what to say of a loss that belongs to the other estimator."""
    if not heads or ("regression" in heads) == (problem == "regression"):
        return ""
    return f" {'TorchRegressor' if 'regression' in heads else 'TorchClassifier'} has it."


def _options_of(loss: nn.Module, torch_loss: TorchLoss) -> dict[str, Any]:
    """Return the parameters of the head that stand for the options of a torch loss."""
    params = {}
    for name, parameter in inspect.signature(type(loss)).parameters.items():
        value = getattr(loss, name, parameter.default)  # size_average, reduce: in `reduction`
        if name in torch_loss.options:
            params[name] = value
        elif not (value is parameter.default or value == parameter.default):
            raise ValueError(
                f"{name} must be {parameter.default!r} in loss=nn.{type(loss).__name__}(...); "
                f"got {name}={value!r}."
            )
    return params
