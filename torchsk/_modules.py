"""The user's own module: how it is made, checked, and kept in an estimator."""

import copy
import inspect
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import NoneType, SimpleNamespace
from typing import Any, Self

import numpy as np
import torch
from scipy.sparse import issparse
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from torchsk._heads import Head
from torchsk._models import Model, output_dtype
from torchsk._runtime import seeded_torch

# with fewer rows torch takes other kernels, which round differently: a row would not be predicted
# alone as it is among others
MIN_ROWS = 16
#: rows that fit into memory whatever becomes of them: an embedding or a recurrent layer may make
#: hundreds of numbers of one
MAX_ROWS = 1000


def build_module(
    module: Any, params: dict | None, input_shape: tuple[int, ...], n_outputs: int
) -> nn.Module:
    """Return a module of the user's own: a copy of an instance, else what the callable returns.

    A parameter called n_features, input_shape or n_outputs is passed by name. A callable without
    these gets `params` alone if that is enough for it, else ``(n_features, n_outputs, **params)``.
    Rows of several axes have an input_shape, but no n_features.
    """
    if isinstance(module, nn.Module):
        if params:
            raise ValueError(
                "module_params must be None where module is an instance (give its class instead); "
                f"got module_params={params!r}."
            )
        return copy.deepcopy(_with_parameters(module))
    signature, params = inspect.signature(module), params or {}
    sizes = {"n_features": input_shape[0], "input_shape": input_shape, "n_outputs": n_outputs}
    named = {name: size for name, size in sizes.items() if name in signature.parameters}
    args = () if named or _accepts(signature, params) else (input_shape[0], n_outputs)
    if len(input_shape) > 1 and (args or "n_features" in named.keys() - params.keys()):
        raise ValueError(
            "module must take input_shape (and n_outputs) by name where X has more than two axes, "
            "for there is no n_features: or flatten X; got rows of shape "
            f"{input_shape} and module={module!r}."
        )
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


def takes_ids(module: nn.Module, X: Any) -> bool:
    """Return whether a module refuses float32 rows of integer X, and takes int64 ones.

    What is asked is a copy, in eval mode and with generators of its own: nothing is left behind.
    """
    if X.dtype.kind not in "iu":
        return False
    rows = X[:2].toarray() if issparse(X) else X[:2]
    integers = torch.from_numpy(np.array(rows, dtype=np.int64))
    asked = copy.deepcopy(module).to("cpu", torch.float32).eval()
    with seeded_torch(0), _kept_generators(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if _refusal(asked, integers.float()) is None:
            return False
        # an id too large is no matter of the dtype
        return isinstance(_refusal(asked, integers), IndexError | NoneType)


def _refusal(module: nn.Module, rows: Tensor) -> Exception | None:
    """Return the error that a module raises for some rows."""
    try:
        module(rows)
    except Exception as error:  # whatever the user's module raises
        return error
    return None


@contextmanager
def naming_rows(rows: Tensor) -> Iterator[None]:
    """Have an error about the rows that a module is given say what they are."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        shape = tuple(rows.shape[1:])
        way = " For images without an axis of channels, give X[:, None]." if len(shape) == 2 else ""
        error.args = (
            f"{str(error).rstrip('.')}. The module was given {len(rows)} rows of the shape {shape},"
            f" that of the rows of X.{way}",
        )
        raise


@contextmanager
def _kept_generators() -> Iterator[None]:
    """Leave numpy's and Python's global generators as they were."""
    of_numpy, of_python = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(of_numpy)  # noqa: NPY002
        random.setstate(of_python)


def as_raw(output: Any, head: Head, n_samples: int) -> Tensor:
    """Return a module's output as raw outputs (n_samples, n_outputs), or raise if it cannot be."""
    if not isinstance(output, Tensor):
        raise TypeError(
            f"module must return a tensor; got {type(output).__name__}. Of nn.LSTM's (output, "
            "state), say, return a linear layer of output[:, -1]."
        )
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
    shape : tuple of int
        Shape of a row of X.
    ids : bool
        Whether rows are int64: ids to look up in an embedding.
    """

    holder: Any
    shape: tuple[int, ...]
    ids: bool

    has_module = True
    n_layers = None

    @classmethod
    def start(
        cls,
        module: Any,
        params: dict | None,
        X: Any,
        head: Head,
        rng: np.random.RandomState,
        before: Model | None,
        device: str,
    ) -> "ModuleModel":
        """Return the module before its first epoch, or as it was left `before`."""
        if before is None:
            shape = X.shape[1:]
            with seeded_torch(int(rng.randint(2**31 - 1))):
                built = build_module(module, params, shape, head.n_outputs)
            holder, is_ids = SimpleNamespace(module_=built), takes_ids(built, X)
            return cls(head, None, None, output_dtype(X), device, holder, shape, is_ids)
        if not isinstance(before, ModuleModel) or before.head.n_outputs != head.n_outputs:
            raise ValueError(
                "module and the number of outputs must be those of the fitted model to train on; "
                f"got module={module!r} with {head.n_outputs} outputs."
            )
        return replace(before, head=head, device=device)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of a row of X."""
        return self.shape

    @property
    def takes_ids(self) -> bool:
        """Whether rows are int64, as was decided at the first fit."""
        return self.ids

    @property
    def mixes_rows(self) -> bool:
        """Whether it has a layer of dropout or batch normalisation."""
        return any(isinstance(m, _DropoutNd | _NormBase) for m in self.holder.module_.modules())

    @property
    def widest(self) -> int:
        """Ten numbers per row: a guess."""
        return 10

    def rows_at_a_time(self, size: int) -> int:
        """Return how many rows to predict at once; rows of images and ids grow on their way."""
        n_rows = max(MIN_ROWS, super().rows_at_a_time(size))
        return min(n_rows, MAX_ROWS) if self.takes_ids or len(self.input_shape) > 1 else n_rows

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
            padded = torch.cat([X, X[-1:].expand(n_missing, *self.input_shape)]).contiguous()
            return as_raw(module(padded), self.head, len(padded))[: len(X)]

        return predict, np.dtype(np.int64 if self.takes_ids else np.float32)


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
