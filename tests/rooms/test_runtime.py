"""torch's process-wide state: devices, threads, and its random state, borrowed and given back."""

import threading

import pytest
import torch

from torchsk import _runtime
from torchsk._runtime import available_devices, one_thread, resolve_device, seeded_torch

# -- devices ---------------------------------------------------------------------------------------


def test_devices_that_are_here():
    assert available_devices()[0] == "cpu"
    assert resolve_device("cpu") == resolve_device(torch.device("cpu")) == torch.device("cpu")
    assert str(resolve_device("auto")) in available_devices()


def test_auto_is_the_first_accelerator(monkeypatch):
    monkeypatch.setattr(_runtime, "available_devices", lambda: ["cpu", "cuda", "cuda:0", "cuda:1"])
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ValueError, match=r"'cuda:1'\]; got device='cuda:2'\."):
        resolve_device("cuda:2")


@pytest.mark.parametrize("device", ["gpu", "cuda:63", "meta", torch.device("cuda:63")])
def test_other_devices_are_an_error_that_lists_what_is_here(device):
    with pytest.raises(ValueError, match=rf"device must be one of .*'cpu'.*device='{device}'"):
        resolve_device(device)


# -- threads ---------------------------------------------------------------------------------------


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_one_thread_restores(three_threads):
    with one_thread():
        assert torch.get_num_threads() == 1
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
    with pytest.raises(RuntimeError, match="inside"), one_thread():
        raise RuntimeError("inside")
    assert torch.get_num_threads() == 3


def test_one_thread_from_two_threads(three_threads):
    """The first to enter is the first to leave: the last one out restores."""
    entered, leave = threading.Event(), threading.Event()

    def first():
        with one_thread():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait(10)
    with one_thread():
        leave.set()
        thread.join()
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3


# -- the random state ------------------------------------------------------------------------------


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
