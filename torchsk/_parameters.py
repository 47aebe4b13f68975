"""The parameters of the estimators: what each may be, and what it means in numbers."""

import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from sklearn.metrics import get_scorer_names
from torch import nn

from torchsk import _defaults
from torchsk._activations import ACTIVATIONS, check_activation, is_sigmoid
from torchsk._embedding import EMBEDDINGS, Embedding
from torchsk._hints import did_you_mean, suggesting
from torchsk._mlp import INITS, NetworkSpec
from torchsk._schedules import SCHEDULES
from torchsk._sklearn_compat import Hidden, Interval, Options, StrOptions, is_valid
from torchsk._solvers import (
    DECAY_PER_PENALTY,
    SOLVERS,
    default_max_grad_norm,
    default_rate,
    is_decoupled,
    peak_rate,
)

# views, not copies, of the tables: a name is valid once it has a row
PARAMETER_CONSTRAINTS: dict = {
    "hidden_layer_sizes": ["array-like", Interval(numbers.Integral, 1, None, closed="left")],
    # an instance gets an error of its own
    "activation": [StrOptions(ACTIVATIONS.keys()), list, tuple, type, Hidden(nn.Module)],
    "loss": [str, callable],
    "loss_params": [dict, None],
    "module": [nn.Module, callable, None],
    "module_params": [dict, None],
    "dropout": [StrOptions({"auto"}), Interval(numbers.Real, 0, 1, closed="left"), list, tuple],
    "init": [StrOptions(dict.fromkeys(("glorot_uniform", *INITS)).keys()), callable],
    "standardize": ["boolean", StrOptions({"auto"})],
    "numerical_embedding": [StrOptions({*EMBEDDINGS}), None],
    "solver": [StrOptions(SOLVERS.keys()), callable],
    "alpha": [StrOptions({"auto"}), Interval(numbers.Real, 0, None, closed="left")],
    "batch_size": [StrOptions({"auto"}), Interval(numbers.Integral, 1, None, closed="left")],
    "learning_rate": [StrOptions(SCHEDULES.keys()), callable],
    "learning_rate_init": [
        StrOptions({"auto"}), Interval(numbers.Real, 0, None, closed="neither")
    ],
    "power_t": [Interval(numbers.Real, 0, None, closed="left")],
    "max_iter": [Interval(numbers.Integral, 1, None, closed="left")],
    "shuffle": ["boolean"],
    "random_state": ["random_state"],
    "tol": [Interval(numbers.Real, 0, None, closed="left")],
    "verbose": ["verbose"],
    "warm_start": ["boolean"],
    "momentum": [Interval(numbers.Real, 0, 1, closed="both")],
    "nesterovs_momentum": ["boolean"],
    "early_stopping": ["boolean"],
    "scoring": [str, callable, None],  # of a name that is unknown check_scoring_name speaks
    "validation_fraction": [Interval(numbers.Real, 0, 1, closed="left")],
    "beta_1": [Interval(numbers.Real, 0, 1, closed="left")],
    "beta_2": [Interval(numbers.Real, 0, 1, closed="left")],
    "epsilon": [Interval(numbers.Real, 0, None, closed="neither")],
    "n_iter_no_change": [
        Interval(numbers.Integral, 1, None, closed="left"), Options(numbers.Real, {np.inf})
    ],
    "max_fun": [Interval(numbers.Integral, 1, None, closed="left")],
    "max_grad_norm": [
        StrOptions({"auto"}), Interval(numbers.Real, 0, None, closed="neither"), None
    ],
    "device": [str, torch.device],
    "skorch_callbacks": [list, tuple, None],
}  # fmt: skip


#: parameter -> the one that a value may have been meant for
MISTAKEN: dict[str, str] = {
    "learning_rate": "learning_rate_init",
    "learning_rate_init": "learning_rate",
}


def meant(estimator: Any) -> str:
    """Return what was meant by the first parameter that is not valid, as far as can be told."""
    constraints = estimator._parameter_constraints
    for name, value in estimator.get_params(deep=False).items():
        if name not in constraints or is_valid(value, constraints[name]):
            continue
        other = MISTAKEN.get(name)
        if other is not None and is_valid(value, constraints[other]):
            return f" Did you mean {other}={value!r}?"
        options = [one.options for one in constraints[name] if isinstance(one, StrOptions)]
        return did_you_mean(value, [option for names in options for option in names])
    return ""


def check_scoring_name(scoring: Any) -> None:
    """Raise if it is the name of no scorer; there are too many to list, so of those like it."""
    names = ["loss", *get_scorer_names()]
    if not isinstance(scoring, str) or scoring in names:
        return
    way = did_you_mean(scoring, names) or " sklearn.metrics.get_scorer_names() lists them."
    raise ValueError(
        "scoring must be 'loss', None, a callable or the name of a scorer of scikit-learn; "
        f"got scoring={scoring!r}.{way}"
    )


@dataclass(frozen=True)
class Settings:
    """The parameters of training: scikit-learn's names and meanings, every "auto" resolved.

    `early_stopping` is whether this call stops early, and `incremental` whether it is one of
    partial_fit. Where `alpha` was "auto" it is 0, and `penalty` is the factor of half the squared
    norm of the weights that is added to the mean loss of every batch; where `batch_size` was, an
    epoch is cut into `n_batches` that are even but for a row, and it is the size of the largest.
    `usual_rate` is what `learning_rate_init` is where it is "auto".
    """

    solver: Any
    alpha: float
    penalty: float
    batch_size: int
    n_batches: int | None
    learning_rate_init: float
    usual_rate: float
    max_iter: int
    shuffle: bool
    tol: float
    verbose: bool
    momentum: float
    nesterovs_momentum: bool
    early_stopping: bool
    beta_1: float
    beta_2: float
    epsilon: float
    n_iter_no_change: float
    max_fun: int
    max_grad_norm: float | None
    incremental: bool

    @classmethod
    def of(
        cls,
        estimator: Any,
        n_rows: int,
        n_features: int,
        *,
        n_known: int | None = None,
        has_epochs: bool = True,
        early_stopping: bool = False,
        incremental: bool = False,
        is_embedded: bool = False,
    ) -> "Settings":
        """Return those of an estimator that trains on rows (n_rows, n_features).

        With the rows of earlier calls `n_known` are known; without epochs they are one batch.
        """
        n_known = n_rows if n_known is None else n_known
        is_built_in, alpha, penalty = estimator.module is None, estimator.alpha, 0.0
        if alpha == "auto":
            alpha = _defaults.ALPHA_OF_A_MODULE
            if is_built_in:
                size = n_known, n_features
                n_sigmoids, alpha = _n_sigmoids(estimator), 0.0
                penalty = _defaults.penalty(
                    *size, isinstance(estimator, ClassifierMixin), n_sigmoids,
                    is_embedded=is_embedded,
                )  # fmt: skip
        n_batches = None
        if not has_epochs:
            batch_size = n_rows
        elif estimator.batch_size == "auto":
            rule = _defaults.n_batches_of_a_stream if incremental else _defaults.n_batches
            n_batches = rule(n_rows)
            batch_size = -(-n_rows // n_batches)
        else:
            batch_size = min(int(estimator.batch_size), n_rows)
        max_grad_norm = estimator.max_grad_norm
        if max_grad_norm == "auto":
            max_grad_norm = default_max_grad_norm(estimator.solver) if is_built_in else None
        return cls(
            solver=estimator.solver,
            alpha=float(alpha),
            penalty=penalty,
            batch_size=batch_size,
            n_batches=n_batches,
            learning_rate_init=resolve_learning_rate(estimator, incremental),
            usual_rate=usual_rate(estimator, incremental),
            max_iter=1 if incremental else int(estimator.max_iter),
            shuffle=bool(estimator.shuffle),
            tol=float(estimator.tol),
            verbose=bool(estimator.verbose),
            momentum=float(estimator.momentum),
            nesterovs_momentum=bool(estimator.nesterovs_momentum),
            early_stopping=early_stopping,
            beta_1=float(estimator.beta_1),
            beta_2=float(estimator.beta_2),
            epsilon=float(estimator.epsilon),
            n_iter_no_change=estimator.n_iter_no_change,
            max_fun=int(estimator.max_fun),
            max_grad_norm=max_grad_norm,
            incremental=incremental,
        )

    @property
    def is_penalised(self) -> bool:
        """Whether weights are."""
        return self.alpha > 0 or self.penalty > 0

    @property
    def decay(self) -> float:
        """By how much, times the learning rate, a rule shrinks the weights that does it itself."""
        return self.alpha + DECAY_PER_PENALTY * self.penalty

    @property
    def equivalent_alpha(self) -> float:
        """The number for `alpha` that does nearly the same as `penalty`."""
        if is_decoupled(self.solver):
            return self.decay
        return self.alpha + self.penalty * self.batch_size

    def cut(self, n_rows: int) -> np.ndarray:
        """Return the rows of each batch of an epoch of n_rows."""
        if self.n_batches is None:
            starts = np.arange(0, n_rows, self.batch_size)
            return np.minimum(n_rows - starts, self.batch_size)
        return (n_rows + np.arange(self.n_batches)[::-1]) // self.n_batches


def _n_sigmoids(estimator: Any) -> int:
    """Return the number of hidden layers whose activation is a sigmoid."""
    sizes = estimator.hidden_layer_sizes
    n_layers = len(sizes) if isinstance(sizes, Sequence | np.ndarray) else 1
    return sum(map(is_sigmoid, _one_per_layer("activation", estimator.activation, n_layers)))


def resolve_learning_rate(estimator: Any, incremental: bool = False) -> float:
    """Return the initial learning rate, or the peak of the schedule."""
    if estimator.learning_rate_init != "auto":
        return float(estimator.learning_rate_init)
    return usual_rate(estimator, incremental)


def usual_rate(estimator: Any, incremental: bool = False) -> float:
    """Return what "auto" is for the solver; under a schedule of fixed length its peak."""
    schedule = estimator.learning_rate
    comes_down = isinstance(schedule, str) and SCHEDULES[schedule].is_fixed
    if comes_down and not incremental:
        return peak_rate(estimator.solver, estimator.module is None)
    kind = "classifier" if isinstance(estimator, ClassifierMixin) else "regressor"
    return default_rate(estimator.solver, kind)


def make_spec(
    hidden_layer_sizes: Any,
    activation: Any,
    dropout: Any,
    numerical_embedding: str | None,
    n_features: int,
    n_outputs: int,
) -> NetworkSpec:
    """Return the shape of the built-in network."""
    sizes = hidden_layer_sizes
    sizes = list(sizes) if isinstance(sizes, Sequence | np.ndarray) else [sizes]
    if not all(isinstance(size, numbers.Integral) and int(size) >= 1 for size in sizes):
        raise ValueError(
            "hidden_layer_sizes must be an int >= 1 or a sequence of them; "
            f"got hidden_layer_sizes={hidden_layer_sizes!r}."
        )
    activations = _one_per_layer("activation", activation, len(sizes))
    for one in activations:
        with suggesting(one, ACTIVATIONS):
            check_activation(one)
    drops = _one_per_layer("dropout", 0.0 if dropout == "auto" else dropout, len(sizes))
    for p in drops:
        if not (isinstance(p, numbers.Real) and 0 <= float(p) < 1):
            raise ValueError(
                "dropout must be a number in [0, 1), or a list with one per hidden layer; "
                f"got dropout={dropout!r}."
            )
    embedding = None if numerical_embedding is None else Embedding(n_features)
    n_inputs = n_features if embedding is None else embedding.width
    layers = (n_inputs, *(int(size) for size in sizes), n_outputs)
    return NetworkSpec(layers, activations, tuple(float(p) for p in drops), embedding)


def _one_per_layer(name: str, value: Any, n_layers: int) -> tuple:
    """Return one entry per hidden layer."""
    if not isinstance(value, list | tuple):
        return (value,) * n_layers
    if len(value) != n_layers:
        raise ValueError(
            f"{name} must be one value, or a list with one per hidden layer ({n_layers}); "
            f"got {name}={value!r}."
        )
    return tuple(value)
