"""The parameters of the estimators: what each may be, and the network that some of them shape."""

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.metrics import get_scorer_names
from torch import nn

from torchsk._activations import ACTIVATIONS, check_activation
from torchsk._mlp import INITS, NetworkSpec
from torchsk._schedules import SCHEDULES
from torchsk._sklearn_compat import Interval, Options, StrOptions
from torchsk._solvers import SOLVERS

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
