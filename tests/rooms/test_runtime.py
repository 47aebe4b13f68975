"""torch's global random state, borrowed and given back."""

import threading

import pytest
import torch

from torchsk._random import seeded_torch


def test_seeds_inside_and_restores_after():
    before = torch.random.get_rng_state()
    with seeded_torch(7):
        first = torch.rand(3)
    with seeded_torch(7):
        again = torch.rand(3)
    assert torch.equal(first, again)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_restores_after_an_error():
    before = torch.random.get_rng_state()
    with pytest.raises(RuntimeError, match="inside"), seeded_torch(7):
        torch.rand(3)
        raise RuntimeError("inside")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_threads_do_not_disturb_each_other():
    before = torch.random.get_rng_state()
    drawn = {}

    def draw(seed):
        for _ in range(20):
            with seeded_torch(seed):
                drawn.setdefault(seed, set()).add(tuple(torch.rand(3).tolist()))

    threads = [threading.Thread(target=draw, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(draws) for draws in drawn.values()] == [1] * 4
    assert torch.equal(torch.random.get_rng_state(), before)
