"""Products of matrices, by the fastest kernel that torch brings for this processor.

torch hands float32 products on x86 to MKL, which on processors of other makers than Intel keeps to
AVX2. oneDNN, which comes with torch as well, uses AVX-512 wherever it is there and is then up to
twice as fast (as fast where AVX-512 takes two cycles); a call costs some ten microseconds more, and
there is none for stacks of matrices, so small products and stacks stay with MKL.
`benchmarks/single_fit.py` shows both.
"""

import torch
from torch import Tensor

# multiply-adds from which oneDNN is faster
ONEDNN_SIZE = 2**21


def has_fast_onednn() -> bool:
    """Return whether oneDNN is built in and this processor has AVX-512."""
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


_FAST_ONEDNN = has_fast_onednn()


def prefers_onednn(like: Tensor, n_multiply_adds: float) -> bool:
    """Return whether a product of this size, of two matrices like this one, goes to oneDNN."""
    return (
        _FAST_ONEDNN
        and n_multiply_adds >= ONEDNN_SIZE
        and like.dtype == torch.float32
        and like.device.type == "cpu"
    )


def _onednn(a: Tensor, b_transposed: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(a, b_transposed, bias, "none", [], "")


def affine(a: Tensor, b: Tensor, bias: Tensor, out: Tensor | None = None) -> Tensor:
    """Return a (..., m, k) @ b (..., k, n) + bias, (..., m, 1) or (n,).

    The result is in `out` where that is faster: memory that is used again is faster than new
    memory, but oneDNN returns new memory only.
    """
    if a.ndim == 3:
        return torch.baddbmm(bias, a, b, out=out)
    if not prefers_onednn(a, a.numel() * b.shape[1]):
        return torch.addmm(bias, a, b, out=out)
    if bias.ndim == 1:
        return _onednn(a, b.mT, bias)
    return _onednn(a, b.mT).add_(bias)


def product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """Return a (..., m, k) @ b (..., k, n), in a contiguous `out` where that is faster."""
    if a.shape[-1] == 1:
        return torch.mul(a, b, out=out)  # an outer product needs no sums
    if a.ndim == 3:
        return torch.bmm(a, b, out=out)
    if prefers_onednn(a, a.numel() * b.shape[1]):
        return _onednn(a, b.mT)
    return torch.mm(a, b, out=out)


def outer_into(out: Tensor, a: Tensor, b: Tensor) -> None:
    """Write a (..., m, k) @ b (..., n, k) transposed to `out`, a view that may cut m in several."""
    if a.ndim == 3:
        # faster with the longer side last
        is_long = out.shape[1] > 2 * out.shape[2]
        result = torch.bmm(b, a.mT).mT if is_long else torch.bmm(a, b.mT)
    elif prefers_onednn(a, a.numel() * b.shape[0]):
        result = _onednn(a, b)
    elif out.ndim == 2:
        torch.mm(a, b.mT, out=out)
        return
    else:
        result = torch.mm(a, b.mT)
    # products with out= take several times longer where out is no dense tensor
    out.copy_(result.view(out.shape))
