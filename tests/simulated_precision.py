"""Products in bfloat16 on any processor, as torch computes them where the processor has them.

After ``torch.set_float32_matmul_precision("medium")`` torch rounds what it multiplies to bfloat16,
and sums in float32, on processors that are faster so, and for products of more than 4096
multiply-adds (all models of a stack counted). `reduced_products` does that here.
"""

from contextlib import contextmanager
from unittest import mock

import torch

from torchsk import _matmul

#: torch multiplies that many numbers as they are
SMALL = 16**3


def is_here():
    """Whether this processor rounds by itself."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


class _Rounding:
    """torch, with the products that `_matmul` calls replaced."""

    def __init__(self):
        self.n_rounded = 0

    def __getattr__(self, name):
        function = getattr(torch, name)
        if name not in ("mm", "addmm", "bmm", "baddbmm"):
            return function

        def product(*args, **kwargs):
            *first, a, b = args
            if a.dtype == torch.float32 and a.numel() * b.shape[-1] > SMALL:
                self.n_rounded += 1
                a, b = a.bfloat16().float(), b.bfloat16().float()
            return function(*first, a, b, **kwargs)

        return product


@contextmanager
def reduced_products():
    """Multiply in bfloat16 inside the block; yields a counter, `n_rounded`."""
    before, rounding = torch.get_float32_matmul_precision(), _Rounding()
    torch.set_float32_matmul_precision("medium")
    try:
        with mock.patch.object(_matmul, "torch", torch if is_here() else rounding):
            yield rounding
    finally:
        torch.set_float32_matmul_precision(before)
