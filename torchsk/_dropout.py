"""Dropout masks, from a generator of their own: the same alone, in a stack, and in skorch's net.

The bits of a batch are drawn at once, as int64 (seven times faster than `bernoulli_`), and cut into
one byte for each unit and row; a unit is dropped where that is among the lowest. So probabilities
are rounded to multiples of 1 / 256.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

#: values of a byte, and bytes in an int64
LEVELS, PER_WORD = 256, 8


def n_words(widths: Sequence[int], n_rows: int) -> int:
    """Return how many int64 hold the bits of one batch, of layers with these widths."""
    return -(-sum(widths) * n_rows // PER_WORD)


def make_generator(
    rng: np.random.RandomState, device: torch.device, n_steps: int
) -> torch.Generator:
    """Return a generator of masks, seeded from rng.

    The seed is another one at each call of partial_fit, whose random_state starts anew.
    """
    return torch.Generator(device).manual_seed(int(rng.randint(2**31 - 1)) + n_steps)


def draw_(words: Tensor, generator: torch.Generator) -> None:
    """Fill int64 words with bits of a generator."""
    words.random_(-(2**63), None, generator=generator)


def as_mask(bits: Tensor, p: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a mask of the bits' shape: 0 with probability p, rounded, else 1 / (1 - p)."""
    n_dropped = round(p * LEVELS)
    mask = torch.empty(bits.shape, dtype=dtype, device=bits.device)
    torch.ge(bits, n_dropped, out=mask)
    return mask.mul_(LEVELS / (LEVELS - n_dropped))


class Masks:
    """Masks of one network that trains alone, layer by layer.

    Parameters
    ----------
    widths : sequence of int
        Of the layers that drop units.
    """

    def __init__(self, widths: Sequence[int]):
        self.widths = widths
        #: None outside of training: then there is nothing to draw from
        self.generator: torch.Generator | None = None
        self._bits: list[Tensor] = []

    def draw(self, n_rows: int, device: torch.device) -> None:
        """Draw the bits of a batch."""
        assert self.generator is not None
        words = torch.empty(n_words(self.widths, n_rows), dtype=torch.int64, device=device)
        draw_(words, self.generator)
        sizes = [width * n_rows for width in self.widths]
        parts = words.view(torch.uint8)[: sum(sizes)].split(sizes)
        self._bits = [part.view(-1, n_rows) for part in parts]

    def of(self, layer: int) -> Tensor:
        """Return the bits (width, n_rows) of a layer."""
        return self._bits[layer]


class Dropout(nn.Module):
    """nn.Dropout with the masks of a stack.

    Parameters
    ----------
    p : float
    masks : Masks
        Shared by the layers of a network.
    layer : int
        Number of this one among those that drop units.
    """

    def __init__(self, p: float, masks: Masks, layer: int):
        super().__init__()
        self.p, self.masks, self.layer = p, masks, layer

    def forward(self, x: Tensor) -> Tensor:
        """Return x (n_rows, width) with units dropped, in training."""
        if not self.training:
            return x
        if self.masks.generator is None:
            return nn.functional.dropout(x, self.p)
        if self.layer == 0:
            self.masks.draw(len(x), x.device)
        return x * as_mask(self.masks.of(self.layer), self.p, x.dtype).mT
