"""What the heads share: checks of loss parameters, and operations on class codes."""

import math
from collections.abc import Callable
from dataclasses import field
from functools import lru_cache
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: a normal float32 just above 0, and the exponent up to which exp is at home in float32
TINY, MAX_EXPONENT = 1.2e-38, 60.0


def option(default: Any, rule: str, is_valid: Callable[[Any, Any], bool], **kwargs: Any) -> Any:
    """Declare a parameter of a loss: what it must be, and `is_valid(value, head)`."""
    return field(default=default, metadata={"rule": rule, "is_valid": is_valid}, **kwargs)


def as_plain(value: Any) -> Any:
    """Return arrays, tensors and lists as tuples, and their scalars as numbers."""
    if isinstance(value, Tensor | np.ndarray | np.generic):
        value = value.tolist()
    return tuple(value) if isinstance(value, list) else value


def is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def is_positive(value: Any) -> bool:
    return is_number(value) and value > 0


def are_numbers(value: Any, low: float, high: float = math.inf) -> bool:
    """Return whether value is a number in [low, high), or a tuple of them."""
    values = value if isinstance(value, tuple) else (value,)
    return len(values) > 0 and all(is_number(v) and low <= v < high for v in values)


@lru_cache(maxsize=256)
def _cached_tensor(value: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(value, dtype=dtype, device=device)


def constant(value: float | tuple[float, ...], like: Tensor) -> Tensor:
    """Return a number or a tuple as a tensor of another's type, on its device; do not change it."""
    return _cached_tensor(value, like.dtype, like.device)


def as_codes(raw: Tensor, target: Tensor) -> Tensor:
    """Return class codes (..., n_samples, 1) with raw's leading axes."""
    return target.expand(*raw.shape[:-1], 1)


def softmax(raw: Tensor) -> Tensor:
    """Return the softmax over the last axis, in a new tensor."""
    return _over_classes(torch.softmax, raw)


def log_softmax(raw: Tensor) -> Tensor:
    """Return the logarithm of the softmax over the last axis, in a new tensor."""
    return _over_classes(torch.log_softmax, raw)


def _over_classes(function: Callable[[Tensor, int], Tensor], raw: Tensor) -> Tensor:
    """Return a function over the last axis.

    torch's kernels are slow where that axis is shorter than a vector register; over the axis before
    it, they are fast at any length.
    """
    if raw.shape[-1] < 16:
        return function(raw.mT.contiguous(), -2).mT
    return function(raw, -1)


def gather(raw: Tensor, target: Tensor) -> Tensor:
    """Return raw of the target's class, (..., n_samples, 1)."""
    return raw.gather(-1, as_codes(raw, target))


def add_at_(raw: Tensor, target: Tensor, value: float | Tensor) -> Tensor:
    """Add value, a number or (..., n_samples, 1), to raw at the target's class, in place."""
    codes = as_codes(raw, target)
    value = value if isinstance(value, Tensor) else constant(value, raw)
    return raw.scatter_add_(-1, codes, value.expand(codes.shape))


def average(values: Tensor, weight: Tensor | None) -> Tensor:
    """Return the (weighted) mean over the samples, the first axis."""
    if weight is None:
        return values.mean(0)
    weight = weight.to(values.dtype)
    return torch.tensordot(weight, values, dims=1) / weight.sum()
