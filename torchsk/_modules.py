"""The user's own module: how it is made, checked, and kept in an estimator."""

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from torchsk._heads import Head
from torchsk._models import Model
from torchsk._runtime import seeded_torch

# with fewer rows torch takes other kernels, which round differently: a row would not be predicted
# alone as it is among others
MIN_ROWS = 16


def build_module(module: Any, params: dict | None, n_features: int, n_outputs: int) -> nn.Module:
    """Return a module of the user's own: a copy of an instance, else what the callable returns.

    A parameter called n_features or n_outputs is passed by name. A callable without these gets
    `params` alone if that is enough for it, else ``(n_features, n_outputs, **params)``.
    """
    if isinstance(module, nn.Module):
        if params:
            raise ValueError(
                "module_params must be None where module is an instance (give its class instead); "
                f"got module_params={params!r}."
            )
        return copy.deepcopy(_with_parameters(module))
    signature, params = inspect.signature(module), params or {}
    sizes = {"n_features": n_features, "n_outputs": n_outputs}
    named = {name: size for name, size in sizes.items() if name in signature.parameters}
    args = () if named or _accepts(signature, params) else (n_features, n_outputs)
    built = module(*args, **(named | params))
    if not isinstance(built, nn.Module):
        raise TypeError(f"module must return an nn.Module; got {type(built).__name__}.")
    return _with_parameters(built)


def _with_parameters(module: nn.Module) -> nn.Module:
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise ValueError(f"module must have parameters to train; got {module!r}.")
    return module


def _accepts(signature: inspect.Signature, params: dict) -> bool:
    try:
        signature.bind(**params)
    except TypeError:
        return False
    return True


def as_raw(output: Any, head: Head, n_samples: int) -> Tensor:
    """Return a module's output as raw outputs (n_samples, n_outputs), or raise if it cannot be."""
    if not isinstance(output, Tensor):
        raise TypeError(f"module must return a tensor; got {type(output).__name__}.")
    if output.ndim == 1 and head.n_outputs == 1:
        output = output.unsqueeze(1)
    if output.shape[:1] != (n_samples,):
        raise ValueError(
            f"module must return a tensor ({n_samples}, {head.n_outputs}) for {n_samples} rows; "
            f"got the shape {tuple(output.shape)}."
        )
    # not a number is for the stopping rules: training diverged
    check_raw = Head.check_raw if bool(output.isnan().any()) else type(head).check_raw
    check_raw(head, output.detach())
    return output


@dataclass(frozen=True)
class ModuleModel(Model):
    """A user's module; it computes in float32.

    Parameters
    ----------
    holder : object
        What has the module as `module_`: the net that trained it.
    """

    holder: Any

    n_layers = None

    @classmethod
    def start(
        cls,
        module: Any,
        params: dict | None,
        n_features: int,
        head: Head,
        rng: np.random.RandomState,
        before: Model | None,
        dtype: str,
        device: str,
    ) -> "ModuleModel":
        """Return the module before its first epoch, or as it was left `before`."""
        if before is None:
            with seeded_torch(int(rng.randint(2**31 - 1))):
                built = build_module(module, params, n_features, head.n_outputs)
            return cls(head, None, None, dtype, device, SimpleNamespace(module_=built))
        if not isinstance(before, ModuleModel) or before.head.n_outputs != head.n_outputs:
            raise ValueError(
                "module and the number of outputs must be those of the fitted model to train on; "
                f"got module={module!r} with {head.n_outputs} outputs."
            )
        return replace(before, head=head, device=device)

    @property
    def mixes_rows(self) -> bool:
        """Whether it has a layer of dropout or batch normalisation."""
        return any(isinstance(m, _DropoutNd | _NormBase) for m in self.holder.module_.modules())

    @property
    def widest(self) -> int:
        """Ten numbers per row: a guess."""
        return 10

    def trainable(self) -> nn.Module:
        """Return a copy of the module."""
        return copy.deepcopy(self.holder.module_)

    def trained_by(self, net: Any) -> Self:
        """Return the model with the net as its holder."""
        return replace(self, holder=net)

    def weights(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Raise: only the built-in network has coefs and intercepts."""
        raise AttributeError("coefs_ and intercepts_ are not there with module=...; see module_.")

    def module(self) -> nn.Module:
        """Return a copy on the CPU; standardisation becomes its first and last layer."""
        module = copy.deepcopy(self.holder.module_).cpu()
        if self.x_scaler is not None:
            mean, scale = self.x_scaler.mean, self.x_scaler.scale
            module = nn.Sequential(_Affine(-mean / scale, 1 / scale), module)
        if self.y_scaler is not None:
            module = nn.Sequential(module, _Affine(*self._raw_affine()))
        return module.eval()

    def _predictor(
        self, dtype: np.dtype, device: torch.device
    ) -> tuple[Callable[[Tensor], Tensor], np.dtype]:
        module = self.holder.module_.eval()

        @torch.no_grad()
        def predict(X: Tensor) -> Tensor:
            n_missing = max(0, MIN_ROWS - len(X))
            padded = torch.cat([X, X[-1:].expand(n_missing, -1)])
            return as_raw(module(padded), self.head, len(padded))[: len(X)]

        return predict, np.dtype(np.float32)


class _Affine(nn.Module):
    """offset + factor * x, column by column."""

    offset: Tensor
    factor: Tensor

    def __init__(self, offset: np.ndarray, factor: np.ndarray):
        super().__init__()
        self.register_buffer("offset", torch.from_numpy(offset).float())
        self.register_buffer("factor", torch.from_numpy(factor).float())

    def forward(self, x: Tensor) -> Tensor:
        """Return offset + factor * x."""
        return self.offset + self.factor * x
