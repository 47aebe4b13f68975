"""Masks: their share, their scale, and that they come from one stream of bits."""

import numpy as np
import pytest
import torch
from torch import nn

from torchsk._dropout import Dropout, Masks, as_mask, draw_, make_generator, n_words

CPU = torch.device("cpu")


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.9])
def test_a_mask_drops_its_share_and_keeps_the_mean(p):
    words = torch.empty(100_000, dtype=torch.int64)
    draw_(words, torch.Generator().manual_seed(0))
    mask = as_mask(words.view(torch.uint8), p)
    assert (mask == 0).float().mean().item() == pytest.approx(p, abs=0.004)
    assert mask.mean().item() == pytest.approx(1, abs=0.01)
    assert len(mask.unique()) == 2


def test_bits_are_uniform():
    words = torch.empty(50_000, dtype=torch.int64)
    draw_(words, torch.Generator().manual_seed(1))
    bits = words.view(torch.uint8).numpy()
    counts = np.bincount(bits, minlength=256)
    assert abs(counts / counts.mean() - 1).max() < 0.15
    for place in range(8):  # every byte of a word, the highest too
        assert abs(bits[place::8].mean() - 127.5) < 2


def test_draws_may_be_cut_anywhere():
    whole, parts = torch.empty(100, dtype=torch.int64), torch.empty(100, dtype=torch.int64)
    draw_(whole, torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(2)
    for part in parts.split([1, 17, 40, 42]):
        draw_(part, generator)
    assert torch.equal(whole, parts)


def test_layers_share_the_bits_of_a_batch():
    masks = Masks([3, 5])
    masks.generator = make_generator(np.random.RandomState(0), CPU, 0)
    layers = [Dropout(0.5, masks, 0), Dropout(0.25, masks, 1)]
    first = [layer(torch.ones(7, width)) for layer, width in zip(layers, (3, 5))]
    words = torch.empty(n_words([3, 5], 7), dtype=torch.int64)
    draw_(words, make_generator(np.random.RandomState(0), CPU, 0))
    bits = words.view(torch.uint8)[: 7 * 8].split([21, 35])
    for found, part, p in zip(first, bits, (0.5, 0.25)):
        assert torch.equal(found, as_mask(part.view(-1, 7), p).mT)


def test_outside_of_training_nothing_is_dropped():
    layer = Dropout(0.5, Masks([4]), 0).eval()
    x = torch.ones(3, 4)
    assert layer(x) is x
    torch.manual_seed(0)
    expected = nn.functional.dropout(x, 0.5)
    torch.manual_seed(0)  # without a generator it is torch's own
    assert torch.equal(layer.train()(x), expected)
