"""Products of matrices, by the fastest kernel that torch brings for this processor.

torch hands float32 products on x86 to MKL, which on processors of other makers than Intel keeps to
AVX2. oneDNN, which comes with torch as well, uses AVX-512 wherever it is there and is then about
twice as fast; a call costs some ten microseconds more, and there is none for stacks of matrices, so
small products and stacks stay with MKL. `benchmarks/single_fit.py` shows both.
"""

import torch
from torch import Tensor

# multiply-adds from which oneDNN is faster
ONEDNN_SIZE = 2**20


def has_fast_onednn() -> bool:
    """Return whether oneDNN is built in and this processor has AVX-512."""
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


_FAST_ONEDNN = has_fast_onednn()


def _prefers_onednn(a: Tensor, n: int) -> bool:
    """Return whether a (m, k) times a matrix (k, n) goes to oneDNN."""
    return (
        _FAST_ONEDNN
        and a.numel() * n >= ONEDNN_SIZE
        and a.dtype == torch.float32
        and a.device.type == "cpu"
    )


def _onednn(a: Tensor, b: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(a, b.mT, None, "none", [], "")


def affine(weight: Tensor, X: Tensor, bias: Tensor, out: Tensor | None = None) -> Tensor:
    """Return weight (..., m, k) @ X (..., k, n) + bias (..., m, 1), in `out` where that is faster.

    Memory that is used again is faster than new memory, but oneDNN returns new memory only.
    """
    if weight.ndim == 3:
        return torch.baddbmm(bias, weight, X, out=out)
    if _prefers_onednn(weight, X.shape[1]):
        return _onednn(weight, X).add_(bias)
    return torch.addmm(bias, weight, X, out=out)


def product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """Return a (..., m, k) @ b (..., k, n), in a contiguous `out` where that is faster."""
    if a.shape[-1] == 1:
        return torch.mul(a, b, out=out)  # an outer product needs no sums
    if a.ndim == 3:
        return torch.bmm(a, b, out=out)
    return _onednn(a, b) if _prefers_onednn(a, b.shape[1]) else torch.mm(a, b, out=out)


def product_into(out: Tensor, a: Tensor, b: Tensor) -> None:
    """Write a (..., m, k) @ b (..., k, n) to `out`, any view."""
    if a.ndim == 2 and not _prefers_onednn(a, b.shape[1]):
        torch.mm(a, b, out=out)
    elif a.ndim == 3 and out.shape[1] > 2 * out.shape[2]:
        out.copy_(torch.bmm(b.mT, a.mT).mT)  # faster with the longer side last
    else:
        # bmm(out=) takes several times longer where out is no dense tensor
        out.copy_(product(a, b))
