"""Elementwise activations with their derivatives: the table, and the trial of a user's own."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

aten = torch.ops.aten


@dataclass(frozen=True)
class Activation:
    """An elementwise activation and its derivative.

    Parameters
    ----------
    forward_ : callable
        z -> a; may overwrite z when the derivative needs the output only.
    backward_ : callable
        (delta, saved) -> delta * a'(z), written into delta; saved is a, or z if `saves_input`.
    module : type
        The nn.Module of the same function.
    saves_input : bool
        Whether the derivative is computed from z instead of from a.
    """

    forward_: Callable[[Tensor], Tensor]
    backward_: Callable[[Tensor, Tensor], Tensor]
    module: Callable[[], nn.Module]
    saves_input: bool = False


def _grad_input(op: Any, *args: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the backward of an ATen op that writes its result over delta."""
    return lambda delta, saved: op.grad_input(delta, saved, *args, grad_input=delta)


def _selu_backward(delta: Tensor, a: Tensor) -> Tensor:
    return aten.elu_backward.grad_input(
        delta, _SELU_ALPHA, _SELU_SCALE, 1.0, True, a, grad_input=delta
    )


# Klambauer et al. 2017, "Self-normalizing neural networks", eq. 14
_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805

ACTIVATIONS: dict[str, Activation] = {
    "identity": Activation(lambda z: z, lambda delta, a: delta, nn.Identity),
    "logistic": Activation(torch.sigmoid_, _grad_input(aten.sigmoid_backward), nn.Sigmoid),
    "tanh": Activation(torch.tanh_, _grad_input(aten.tanh_backward), nn.Tanh),
    "relu": Activation(torch.relu_, _grad_input(aten.threshold_backward, 0), nn.ReLU),
    "leaky_relu": Activation(
        lambda z: aten.leaky_relu_(z, 0.01),
        _grad_input(aten.leaky_relu_backward, 0.01, True),
        nn.LeakyReLU,
    ),
    "elu": Activation(
        aten.elu_,
        lambda delta, a: aten.elu_backward.grad_input(
            delta, 1.0, 1.0, 1.0, True, a, grad_input=delta
        ),
        nn.ELU,
    ),
    "selu": Activation(torch.selu_, _selu_backward, nn.SELU),
    "gelu": Activation(aten.gelu, _grad_input(aten.gelu_backward), nn.GELU, saves_input=True),
    "silu": Activation(aten.silu, _grad_input(aten.silu_backward), nn.SiLU, saves_input=True),
    "mish": Activation(
        aten.mish,
        lambda delta, z: delta.copy_(aten.mish_backward(delta, z)),
        nn.Mish,
        saves_input=True,
    ),
    "softplus": Activation(
        aten.softplus, _grad_input(aten.softplus_backward, 1.0, 20.0), nn.Softplus, saves_input=True
    ),
    "softsign": Activation(
        nn.functional.softsign,
        lambda delta, z: delta.div_((1 + z.abs()).square_()),
        nn.Softsign,
        saves_input=True,
    ),
    "hardtanh": Activation(
        lambda z: aten.hardtanh_(z), _grad_input(aten.hardtanh_backward, -1.0, 1.0), nn.Hardtanh
    ),
    "hardsigmoid": Activation(
        aten.hardsigmoid, _grad_input(aten.hardsigmoid_backward), nn.Hardsigmoid, saves_input=True
    ),
    "relu6": Activation(
        lambda z: aten.hardtanh_(z, 0.0, 6.0),
        _grad_input(aten.hardtanh_backward, 0.0, 6.0),
        nn.ReLU6,
    ),
}


#: an activation of the table, or a parameter-free nn.Module class
ActivationName = str | type[nn.Module]
#: activations of the models of a stack, each with the number of neighbours that have it
ActivationRuns = tuple[tuple[ActivationName, int], ...]


def make_activation(activation: ActivationName | ActivationRuns) -> Activation:
    """Return the table's activation, one made of a class, or one made of the runs of a stack."""
    if isinstance(activation, tuple):
        return _side_by_side(activation)
    if isinstance(activation, str):
        return ACTIVATIONS[activation]
    module = activation().eval()  # RReLU and its like: no draws of torch's global generator

    def forward(z: Tensor) -> Tensor:
        return module(z.mT).mT  # a module sees samples as rows

    def backward_(delta: Tensor, z: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(forward(leaf), leaf, delta)
        return delta.copy_(gradient)

    return Activation(forward, backward_, activation, saves_input=True)


def _side_by_side(runs: ActivationRuns) -> Activation:
    """Return what applies each activation to its models: z is (n_models, width, n_samples)."""
    activations = [make_activation(name) for name, _ in runs]
    sizes = [n_models for _, n_models in runs]
    keeps_z = any(activation.saves_input for activation in activations)

    def forward_(z: Tensor) -> Tensor:
        parts = [
            activation.forward_(part)
            for activation, part in zip(activations, z.split_with_sizes(sizes))
        ]
        return torch.cat(parts) if keeps_z else z

    def backward_(delta: Tensor, saved: Tensor) -> Tensor:
        # z itself where it is kept; the others have written their output over their part of it
        deltas, kept = delta.split_with_sizes(sizes), saved.split_with_sizes(sizes)
        for activation, *parts in zip(activations, deltas, kept):
            activation.backward_(*parts)
        return delta

    return Activation(forward_, backward_, nn.Identity, saves_input=True)


def is_sigmoid(activation: ActivationName) -> bool:
    """Return whether it passes on less than a third of a signal of size 1, as sigmoids do."""
    signal = torch.tensor([[-1.0, 1.0]], device="cpu")  # whatever the default device
    low, high = make_activation(activation).forward_(signal).flatten()
    return bool((high - low).abs() < 2 / 3)


def check_activation(activation: Any) -> None:
    """Raise unless it is in the table, or an nn.Module class without parameters."""
    if isinstance(activation, str) and activation in ACTIVATIONS:
        return
    if _is_usable(activation):
        return
    way = "."
    if _is_usable(kind := type(activation)):
        name = f"nn.{kind.__name__}" if kind is getattr(nn, kind.__name__, None) else kind.__name__
        way = f": give the class {name}, not an instance."
    raise ValueError(
        f"activation must be one of {sorted(ACTIVATIONS)} or an nn.Module class without "
        "parameters that keeps the shape and works out of place; "
        f"got activation={activation!r}{way}"
    )


def _is_usable(activation: Any) -> bool:
    """Return whether it is an nn.Module class that can stand between two layers."""
    if isinstance(activation, type) and issubclass(activation, nn.Module):
        with suppress(TypeError, RuntimeError):  # needs arguments; refuses (2, 3)
            module, z = activation().eval(), torch.full((2, 3), -1.0)
            same = module(z).shape == z.shape and bool(z.eq(-1).all())
            return same and not list(module.parameters())
    return False
