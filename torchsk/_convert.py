"""Between scikit-learn's MLPs and ours: the same parameters, weights and predictions."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import LabelBinarizer

from torchsk._base import BaseTorchMLP
from torchsk._classifier import TorchClassifier
from torchsk._heads import make_head
from torchsk._mlp import NetworkSpec, pack
from torchsk._models import MLPModel
from torchsk._parameters import Settings, resolve_learning_rate
from torchsk._regressor import TorchRegressor
from torchsk._solvers import UPDATE_RULES
from torchsk._targets import Labels, Numbers, Targets
from torchsk._training import Progress, SolverState, TrainingResult, lane_of

OURS: dict[type, type[BaseTorchMLP]] = {
    MLPClassifier: TorchClassifier,
    MLPRegressor: TorchRegressor,
}
#: our estimator -> (scikit-learn's, its losses)
THEIRS: dict[type[BaseTorchMLP], tuple[type, tuple[str, ...]]] = {
    TorchClassifier: (MLPClassifier, ("log_loss",)),
    TorchRegressor: (MLPRegressor, ("squared_error", "poisson")),
}
#: what ours does that scikit-learn's does not, switched off
AS_SKLEARN = {"dropout": 0.0, "standardize": False, "max_grad_norm": None, "scoring": None}
#: scikit-learn's "auto"
BATCH_SIZE = 200
ACTIVATIONS = ("identity", "logistic", "tanh", "relu")
#: parameters of training, and what scikit-learn knows of their values
CHOICES = {
    "solver": ("lbfgs", "sgd", "adam"),
    "learning_rate": ("constant", "invscaling", "adaptive"),
}
#: type of y in scikit-learn's words -> problem in ours
PROBLEMS = {"binary": "binary", "multiclass": "multiclass", "multilabel-indicator": "multilabel"}
#: solver -> attributes of scikit-learn's optimizer that hold its moments
MOMENTS = {"sgd": ("velocities",), "adam": ("ms", "vs")}
#: fitted attributes of the same name and meaning
ATTRIBUTES = (
    "n_features_in_", "feature_names_in_", "classes_", "n_layers_", "n_outputs_", "out_activation_",
    "n_iter_", "t_", "loss_", "loss_curve_", "best_loss_", "validation_scores_",
    "best_validation_score_",
)  # fmt: skip


def from_sklearn(estimator: Any) -> Any:
    """Return the torchsk counterpart of a scikit-learn MLP, or of an estimator that holds some.

    The result has the same parameters, with ``dropout=0``, ``standardize=False``,
    ``max_grad_norm=None``, ``scoring=None`` and ``batch_size=200`` for "auto", so that fitting it
    gives scikit-learn's weights. If the MLP is fitted, the result is fitted too: it has the same
    weights, predictions and fitted attributes, and ``partial_fit`` goes on with the moments of the
    solver.

    Parameters
    ----------
    estimator : MLPClassifier, MLPRegressor, or estimator that holds some
        In a Pipeline, a search such as GridSearchCV, an ensemble or any other estimator, every MLP
        is replaced, at any depth: parameters (also the candidates in ``param_grid``) and fitted
        parts such as ``best_estimator_``. All else is copied as it is, and stays fitted if it was.

    Returns
    -------
    converted : TorchClassifier, TorchRegressor, or estimator like the one given
        A new estimator; the one given is not changed.

    Raises
    ------
    TypeError
        If there is no MLP.

    See Also
    --------
    to_sklearn : The way back.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neural_network import MLPClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from torchsk import from_sklearn
    >>> X, y = load_iris(return_X_y=True)
    >>> mlp = make_pipeline(StandardScaler(), MLPClassifier((20,), max_iter=500, random_state=0))
    >>> net = from_sklearn(mlp.fit(X, y))
    >>> bool((net.predict(X) == mlp.predict(X)).all())
    True
    """
    return _replace(estimator, (MLPClassifier, MLPRegressor), _from_mlp)


def to_sklearn(estimator: Any) -> Any:
    """Return the scikit-learn MLP with the parameters and predictions of a torchsk estimator.

    The result needs no torch: a model can be trained here and deployed with scikit-learn alone.
    Standardisation is folded into the weights, which are then in float64.

    What scikit-learn's MLP does not have is left out as far as it concerns training only: the
    solvers and schedules beyond scikit-learn's become its default ones, "auto" becomes the number
    that it has been in the fit, and ``dropout``,
    ``class_weight``, ``init``, ``scoring``, ``max_grad_norm`` and ``device`` have no counterpart.
    Fitting the result therefore trains another model; predicting with it gives the same
    predictions.

    Parameters
    ----------
    estimator : TorchClassifier, TorchRegressor, or estimator that holds some
        As in `from_sklearn`, every one is replaced, at any depth. The grid of a search stays as it
        is: over parameters that scikit-learn's MLP lacks, the search predicts but cannot be fitted
        again.

    Returns
    -------
    converted : MLPClassifier, MLPRegressor, or estimator like the one given
        A new estimator, fitted if the one given is.

    Raises
    ------
    TypeError
        If there is no torchsk estimator.
    ValueError
        If scikit-learn has no such model: another activation or loss, or a module of your own.

    See Also
    --------
    from_sklearn : The way here.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_diabetes
    >>> from torchsk import TorchRegressor, to_sklearn
    >>> X, y = load_diabetes(return_X_y=True)
    >>> net = TorchRegressor(hidden_layer_sizes=20, random_state=0).fit(X, y)
    >>> mlp = to_sklearn(net)
    >>> mlp
    MLPRegressor(alpha=0.36..., batch_size=34, hidden_layer_sizes=20,
                 learning_rate_init=0.02, max_iter=50, random_state=0,
                 solver='sgd')
    >>> np.allclose(mlp.predict(X), net.predict(X))
    True
    """
    return _replace(estimator, (TorchClassifier, TorchRegressor), _to_mlp)


# -- estimators that hold others -------------------------------------------------------------------


def _replace(holder: Any, kinds: tuple[type, ...], convert: Callable[[Any], Any]) -> Any:
    """Return a deep copy of the holder in which every instance of `kinds` is converted."""
    found = list(_find(holder, (*kinds, np.ma.MaskedArray), set()))
    memo = {id(part): convert(part) for part in found if isinstance(part, kinds)}
    if not memo:
        names = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"estimator must be or hold a {names}; got {holder!r}.")
    # deepcopy takes what its memo already has as the copy of an object; masked arrays (the
    # candidates in cv_results_) would not pass the memo on
    for part in found:
        if isinstance(part, np.ma.MaskedArray):
            memo[id(part)] = _copy_masked(part, memo)
    return copy.deepcopy(holder, memo)


def _copy_masked(array: Any, memo: dict) -> Any:
    data = copy.deepcopy(np.ma.getdata(array), memo)
    return np.ma.array(data, mask=array.mask.copy(), fill_value=array.fill_value)


def _find(part: Any, kinds: tuple[type, ...], seen: set[int]) -> Iterator[Any]:
    """Yield the instances of `kinds` inside estimators, containers and arrays of objects."""
    if id(part) in seen:
        return
    seen.add(id(part))
    parts: Any = ()
    if isinstance(part, kinds):
        yield part
    if isinstance(part, dict):
        parts = part.values()
    elif isinstance(part, list | tuple | set | frozenset):
        parts = part
    elif isinstance(part, np.ndarray) and part.dtype == object:
        parts = np.asarray(part).ravel().tolist()
    elif not isinstance(part, kinds) and _has_parts(part):
        parts = getattr(part, "__dict__", {}).values()
    for inner in parts:
        yield from _find(inner, kinds, seen)


def _has_parts(part: Any) -> bool:
    """Return whether to look into the attributes of an object."""
    return isinstance(part, BaseEstimator) or type(part).__module__.startswith("sklearn.")


# -- from scikit-learn -----------------------------------------------------------------------------


def _from_mlp(mlp: Any) -> BaseTorchMLP:
    """Return our estimator, fitted if the MLP is."""
    theirs, ours = next(pair for pair in OURS.items() if isinstance(mlp, pair[0]))
    params = {name: getattr(mlp, name) for name in theirs().get_params()}
    if params["batch_size"] == "auto":
        params["batch_size"] = BATCH_SIZE
    est = ours(**copy.deepcopy(params), **AS_SKLEARN)
    _copy_routing(mlp, est)
    if not hasattr(mlp, "coefs_"):
        return est
    for name in ("n_features_in_", "feature_names_in_", "classes_"):
        if hasattr(mlp, name):
            setattr(est, name, copy.copy(getattr(mlp, name)))
    targets: Targets = Numbers(mlp.n_outputs_)
    if isinstance(est, TorchClassifier):
        targets = Labels(est.classes_, PROBLEMS[mlp._label_binarizer.y_type_])
    coefs, intercepts = mlp.coefs_, mlp.intercepts_
    sizes = (mlp.n_features_in_, *(len(intercept) for intercept in intercepts))
    n_hidden = len(sizes) - 2
    model = MLPModel(
        spec=NetworkSpec(sizes, (mlp.activation,) * n_hidden, (0.0,) * n_hidden),
        flat=pack(coefs, intercepts),
        head=make_head(est.loss, None, targets.problem, mlp.n_outputs_).on_logits,
        x_scaler=None,
        y_scaler=None,
        dtype=coefs[0].dtype.name,
        device="cpu",
    )
    state = _solver_state(mlp)
    result = TrainingResult(model, _progress(mlp), mlp.n_iter_, float(mlp.loss_), state)
    est._set_fitted(targets, lane_of(mlp.solver), result)
    n_rows = mlp.t_ // max(1, mlp.n_iter_) or BATCH_SIZE  # lbfgs does not count them
    est._set_resolved(Settings.of(est, n_rows, mlp.n_features_in_), model)
    return est


def _progress(mlp: Any) -> Progress:
    """Return the record of the MLP's training; lbfgs leaves none."""
    curve = [float(loss) for loss in getattr(mlp, "loss_curve_", ())]
    scores = getattr(mlp, "validation_scores_", None)
    best_loss = getattr(mlp, "best_loss_", None)
    best_score = getattr(mlp, "best_validation_score_", None)
    return Progress(
        early_stopping=best_score is not None,
        loss_curve=curve,
        validation_scores=None if scores is None else [float(score) for score in scores],
        best_loss=np.inf if best_loss is None else float(best_loss),
        best_watched=-np.inf if best_score is None else float(best_score),
        best_score=-np.inf if best_score is None else float(best_score),
        n_no_improvement=getattr(mlp, "_no_improvement_count", 0),
        n_samples_seen=int(mlp.t_),
        n_epochs=len(curve),
    )


def _solver_state(mlp: Any) -> SolverState | None:
    """Return what the MLP's optimizer remembers, if it trained with the solver it now names."""
    optimizer: Any = getattr(mlp, "_optimizer", None)
    n_layers = len(mlp.coefs_)
    names = MOMENTS.get(mlp.solver, ())
    if not names or not all(hasattr(optimizer, name) for name in names):
        return None
    moments = [getattr(optimizer, name) for name in names]
    follows_schedule = UPDATE_RULES[mlp.solver].scheduled
    return SolverState(
        key=lane_of(mlp.solver).key,
        moments=np.stack([pack(moment[:n_layers], moment[n_layers:]) for moment in moments]),
        n_steps=getattr(optimizer, "t", 0),
        rate=optimizer.learning_rate if follows_schedule else mlp.learning_rate_init,
        epoch=len(mlp.loss_curve_),
    )


# -- to scikit-learn -------------------------------------------------------------------------------


def _to_mlp(est: BaseTorchMLP) -> Any:
    """Return scikit-learn's estimator, fitted if ours is."""
    fitted = getattr(est, "_fitted", None)
    model = None if fitted is None else fitted.model
    if est.module is not None if model is None else not isinstance(model, MLPModel):
        raise ValueError(
            f"module must be None to become scikit-learn's MLP; got module={est.module!r}."
        )
    embedding = est.numerical_embedding if model is None else model.spec.embedding
    if embedding is not None:
        raise ValueError(
            "numerical_embedding must be None to become scikit-learn's MLP, which has no such "
            "layer; got numerical_embedding='periodic'."
        )
    theirs, losses = next(THEIRS[cls] for cls in THEIRS if isinstance(est, cls))
    params = theirs().get_params()
    for name in params:
        value = getattr(est, name)
        if name not in CHOICES or value in CHOICES[name]:
            params[name] = copy.deepcopy(value)
    for name in ("alpha", "batch_size"):  # the two go together
        if params[name] == "auto":
            params[name] = getattr(est, f"{name}_", getattr(theirs(), name))
    if est.batch_size == BATCH_SIZE:  # the same, but no number that may be larger than n
        params["batch_size"] = "auto"
    changes_schedule = params["learning_rate"] != est.learning_rate
    params |= {
        "learning_rate_init": resolve_learning_rate(est, incremental=changes_schedule),
        "activation": _activation(est, model),
    }
    loss = _loss(est, model, losses)
    mlp = theirs(**params | ({"loss": loss} if "loss" in params else {}))
    _copy_routing(est, mlp)
    if model is not None:
        _set_fitted(mlp, est, model)
    return mlp


def _activation(est: BaseTorchMLP, model: MLPModel | None) -> str:
    """Return the one activation of the hidden layers, or raise."""
    activation = est.activation if model is None else model.spec.activations
    several = isinstance(activation, list | tuple)
    names = list(dict.fromkeys(activation)) if several else [activation]
    if not names:  # no hidden layer
        return est.activation if est.activation in ACTIVATIONS else ACTIVATIONS[0]
    if len(names) > 1 or names[0] not in ACTIVATIONS:
        raise ValueError(
            f"activation must be one of {ACTIVATIONS}, the same in every layer, to become "
            f"scikit-learn's MLP; got activation={est.activation!r}."
        )
    return names[0]


def _loss(est: BaseTorchMLP, model: MLPModel | None, losses: tuple[str, ...]) -> str:
    """Return the name of the loss that has our head in scikit-learn's MLP, or raise."""
    if model is None:
        problem = "multiclass" if isinstance(est, TorchClassifier) else "regression"
        head = make_head(est.loss, est.loss_params, problem, 3).on_logits
    else:
        problem, head = est._fitted.targets.problem, model.head
    for loss in losses:
        if make_head(loss, None, problem, head.n_targets).on_logits == head:
            return loss
    raise ValueError(
        f"loss must be {' or '.join(map(repr, losses))} to become scikit-learn's MLP; got "
        f"loss={est.loss!r}, loss_params={est.loss_params!r}."
    )


def _set_fitted(mlp: Any, est: BaseTorchMLP, model: MLPModel) -> None:
    """Give the MLP the fitted state of ours."""
    if model.x_scaler is not None or model.y_scaler is not None:
        model = replace(model, dtype="float64")  # folding in float32 would cost digits
    for name in ATTRIBUTES:
        if hasattr(est, name):
            setattr(mlp, name, copy.copy(getattr(est, name)))
    mlp.coefs_, mlp.intercepts_ = model.weights()
    # what scikit-learn's MLP needs to predict and to train on
    mlp._best_coefs = [coef.copy() for coef in mlp.coefs_]
    mlp._best_intercepts = [intercept.copy() for intercept in mlp.intercepts_]
    mlp._no_improvement_count = est._fitted.progress.n_no_improvement
    if isinstance(est, TorchClassifier):
        labels = (
            np.eye(len(est.classes_), dtype=int)
            if est._fitted.targets.problem == "multilabel"
            else est.classes_
        )
        mlp._label_binarizer = LabelBinarizer().fit(labels)


def _copy_routing(source: Any, target: Any) -> None:
    """Copy which metadata `set_fit_request` and its like have asked for."""
    if not hasattr(source, "_metadata_request"):
        return
    asked, request = source.get_metadata_routing(), target.get_metadata_routing()
    for method in ("fit", "partial_fit", "score"):
        known = getattr(request, method)
        for param, alias in getattr(asked, method).requests.items():
            if param in known.requests:
                known.add_request(param=param, alias=alias)
    target._metadata_request = request
