"""The parameters of the estimators: what each may be, and what it means in numbers."""

import numbers
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.base import is_classifier
from sklearn.metrics import get_scorer_names
from torch import nn

from torchsk._activations import ACTIVATIONS, check_activation
from torchsk._mlp import INITS, NetworkSpec
from torchsk._schedules import SCHEDULES
from torchsk._sklearn_compat import Interval, Options, StrOptions
from torchsk._solvers import SOLVERS, default_max_grad_norm, default_rate

# views, not copies, of the tables: a name is valid once it has a row
PARAMETER_CONSTRAINTS: dict = {
    "hidden_layer_sizes": ["array-like", Interval(numbers.Integral, 1, None, closed="left")],
    # an instance gets an error of its own
    "activation": [StrOptions(ACTIVATIONS.keys()), list, tuple, type, nn.Module],
    "loss": [str, callable],
    "loss_params": [dict, None],
    "module": [nn.Module, callable, None],
    "module_params": [dict, None],
    "dropout": [Interval(numbers.Real, 0, 1, closed="left"), list, tuple],
    "init": [StrOptions({"glorot_uniform", *INITS}), callable],
    "standardize": ["boolean", StrOptions({"auto"})],
    "solver": [StrOptions(SOLVERS.keys()), callable],
    "alpha": [Interval(numbers.Real, 0, None, closed="left")],
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
    "scoring": [StrOptions({"loss", *get_scorer_names()}), callable, None],
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


@dataclass(frozen=True)
class Settings:
    """The parameters of training: scikit-learn's names and meanings, every "auto" resolved.

    `early_stopping` is whether this call stops early, and `incremental` whether it is one of
    partial_fit.
    """

    solver: Any
    alpha: float
    batch_size: int
    learning_rate_init: float
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
        cls, estimator: Any, n_rows: int, *, early_stopping: bool, incremental: bool
    ) -> "Settings":
        """Return those of an estimator that trains on n_rows rows."""
        max_grad_norm = estimator.max_grad_norm
        if max_grad_norm == "auto":
            max_grad_norm = default_max_grad_norm(estimator.solver)
        return cls(
            solver=estimator.solver,
            alpha=float(estimator.alpha),
            batch_size=resolve_batch_size(estimator.batch_size, n_rows),
            learning_rate_init=resolve_learning_rate(estimator),
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


def resolve_batch_size(batch_size: int | str, n_rows: int) -> int:
    """Return the number of rows per step, of n_rows."""
    if batch_size == "auto":
        return min(200, n_rows)
    if int(batch_size) > n_rows:
        warnings.warn(
            "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped"
        )
    return min(int(batch_size), n_rows)


def resolve_learning_rate(estimator: Any) -> float:
    """Return the initial learning rate."""
    if estimator.learning_rate_init != "auto":
        return float(estimator.learning_rate_init)
    kind = "classifier" if is_classifier(estimator) else "regressor"
    return default_rate(estimator.solver, kind)


def make_spec(
    hidden_layer_sizes: Any, activation: Any, dropout: Any, n_features: int, n_outputs: int
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
        check_activation(one)
    drops = _one_per_layer("dropout", dropout, len(sizes))
    for p in drops:
        if not (isinstance(p, numbers.Real) and 0 <= float(p) < 1):
            raise ValueError(
                "dropout must be a number in [0, 1), or a list with one per hidden layer; "
                f"got dropout={dropout!r}."
            )
    layers = (n_features, *(int(size) for size in sizes), n_outputs)
    return NetworkSpec(layers, activations, tuple(float(p) for p in drops))


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
