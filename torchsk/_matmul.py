"""Products of matrices, by the fastest kernel that torch brings for this processor.

torch hands float32 products on x86 to MKL, which on AMD's processors keeps to AVX2. oneDNN, which
comes with torch as well, uses AVX-512 wherever it is; a call costs some ten microseconds more, and
there is none for stacks of matrices. So large products go to oneDNN where `ONEDNN_SIZES` says that
it is faster. The choice depends on the processor's name alone: it is the same in every run and in
every worker of a machine. `benchmarks/products.py` measures what the table holds.

After ``torch.set_float32_matmul_precision("medium")`` all products are torch's own, which then
round what they multiply to bfloat16 on processors that multiply it faster.
"""

from typing import Any

import torch
from torch import Tensor

#: (maker, vector instructions) -> multiply-adds from which oneDNN is at least as fast as MKL.
#: MKL is the faster one on Intel (with AMX: 160 GFLOP/s against 140), and with AVX2 on AMD's
#: (90 against 80); with AVX-512 on AMD's oneDNN is as fast (Zen 4) to twice as fast.
ONEDNN_SIZES = {("AMD", "AVX512"): 2**21}


def _processor() -> tuple[str, str]:
    """Return the maker of this processor and the vector instructions that torch uses."""
    capabilities: dict[str, Any] = dict(getattr(torch.cpu, "get_capabilities", dict)())
    maker, *_ = capabilities.get("cpu_name", "").replace("(R)", "").split() or [""]
    return maker, torch.backends.cpu.get_cpu_capability().partition("_")[0]


def _onednn_size() -> float:
    """Return the number of multiply-adds from which products go to oneDNN here."""
    is_there = torch.backends.mkldnn.is_available() and hasattr(
        torch.ops.mkldnn, "_linear_pointwise"
    )
    return ONEDNN_SIZES.get(_processor(), float("inf")) if is_there else float("inf")


_ONEDNN_SIZE = _onednn_size()


def is_reduced() -> bool:
    """Return whether torch was told to multiply float32 in bfloat16 where that is faster."""
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    if matmul is None:
        return torch.get_float32_matmul_precision() == "medium"
    return matmul.fp32_precision == "bf16"


def prefers_onednn(like: Tensor, n_multiply_adds: float) -> bool:
    """Return whether a product of this size, of two matrices like this one, goes to oneDNN."""
    return (
        n_multiply_adds >= _ONEDNN_SIZE
        and like.dtype == torch.float32
        and like.device.type == "cpu"
        and not is_reduced()
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


#: numbers up to which a product with ones sums them faster than torch's own sum; and how many at a
#: time, for it is less exact where there are many
SUM_SIZE, MAX_SUMMED = 2**15, 512


def sum_into(out: Tensor, a: Tensor, ones: dict[int, Tensor]) -> None:
    """Write the sums over the last axis of a (..., m, k) to `out` (..., m, 1).

    `ones` keeps columns of ones from one call to the next.
    """
    k = a.shape[-1]
    if a.ndim > 2 or k > MAX_SUMMED or a.numel() > SUM_SIZE or not a.is_cpu:
        torch.sum(a, -1, keepdim=True, out=out)
        return
    if k not in ones:
        ones[k] = a.new_ones(k, 1)
    torch.mm(a, ones[k], out=out)
