"""Products of matrices, by the fastest kernel that torch brings for this processor.

torch hands float32 products on x86 to MKL, which on processors of other makers than Intel keeps to
AVX2. oneDNN, which comes with torch as well, uses AVX-512 wherever it is there and is then about
twice as fast; a call costs some ten microseconds more, so small products stay with MKL.
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


def prefers_onednn(like: Tensor, n_multiply_adds: int) -> bool:
    """Return whether products of this size, of matrices like this one, go to oneDNN."""
    return (
        _FAST_ONEDNN
        and n_multiply_adds >= ONEDNN_SIZE
        and like.dtype == torch.float32
        and like.device.type == "cpu"
    )


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x (n, k) @ weight (m, k) transposed + bias (m,)."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
