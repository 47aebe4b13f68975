"""What torch keeps for the whole process: devices, threads, random generators; and forks of it."""

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

# -- devices ---------------------------------------------------------------------------------------

#: kinds of device that have no float64
FLOAT32_ONLY = {"mps"}

#: kind of device -> (what torch calls it, whether this torch was built with it)
BUILDS: dict[str, tuple[str, Callable[[], bool]]] = {
    "cuda": ("CUDA", torch.backends.cuda.is_built),
    "mps": ("MPS (macOS only)", torch.backends.mps.is_built),
}


def exact_dtype(device: torch.device) -> torch.dtype:
    """Return float64, in which sums are taken, or float32 where a device has no other."""
    return torch.float32 if device.type in FLOAT32_ONLY else torch.float64


def available_devices() -> list[str]:
    """Return the names of the devices that torch can use here, "cpu" first."""
    if not torch.accelerator.is_available():
        return ["cpu"]
    accelerator = torch.accelerator.current_accelerator()  # torch 2.6 raises where there is none
    assert accelerator is not None
    kind, n_devices = accelerator.type, torch.accelerator.device_count()
    return ["cpu", kind, *(f"{kind}:{i}" for i in range(n_devices))]


def resolve_device(device: str | torch.device) -> torch.device:
    """Return the torch device; "auto" is the first accelerator, else the CPU."""
    names = available_devices()
    if str(device) == "auto":
        return torch.device(names[1] if len(names) > 1 else "cpu")
    if str(device) not in names:
        raise ValueError(
            f"device must be one of {['auto', *names]}; got device={str(device)!r}."
            f"{_why_absent(str(device))}"
        )
    return torch.device(device)


def _why_absent(device: str) -> str:
    """Return why torch has no device of this kind here, and what to do."""
    kind = device.partition(":")[0]
    if kind not in BUILDS or kind in available_devices():
        return ""
    name, is_built = BUILDS[kind]
    if is_built():
        return f" This torch ({torch.__version__}) has {name}, but finds no such device."
    return (
        f" This torch ({torch.__version__}) was built without {name}: install a build that has it "
        "(https://pytorch.org/get-started/locally), or use device='auto'."
    )


# -- memory ----------------------------------------------------------------------------------------


def give_back_memory() -> None:
    """Hand what was freed back to the system, where C's library can be asked to."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
        if trim is not None:
            trim(0)


# -- threads ---------------------------------------------------------------------------------------

# multiply-adds of a forward pass from which a second core pays; below, its barriers cost more, and
# on a busy machine a hundred times more
PARALLEL_SIZE = 2**25

_threads_lock = threading.Lock()
_threads_before: list[int] = []
_trainer_lock = threading.Lock()
_this_thread = threading.local()
_is_forked = False


def threads_for(n_multiply_adds: float, device: torch.device) -> AbstractContextManager[None]:
    """Return a context with as many of torch's threads as pay for products of this size.

    One in a forked process: OpenMP's threads do not survive a fork, and waiting for them would
    deadlock.
    """
    is_small = device.type == "cpu" and n_multiply_adds < PARALLEL_SIZE
    return one_thread() if is_small or _is_forked else nullcontext()


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch's operations on one core inside the block, and restore after it.

    Small operations lose more time at the barriers of a second thread than they gain. torch keeps
    one thread count per Python thread; a new thread starts with the value that any thread set last,
    which may be the 1 of another thread inside such a block. So the count before is kept.
    """
    if getattr(_this_thread, "is_inside", False):
        yield
        return
    with _threads_lock:
        before = torch.get_num_threads()
        if before == 1 and _threads_before:
            before = _threads_before[0]
        _threads_before.append(before)
        torch.set_num_threads(1)
    _this_thread.is_inside = True
    try:
        yield
    finally:
        _this_thread.is_inside = False
        with _threads_lock:
            _threads_before.remove(before)
            torch.set_num_threads(before)


def one_at_a_time() -> AbstractContextManager[object]:
    """Return what keeps the other threads of the process out of a block.

    Two that train in it would hand Python to and fro, slower than one after the other, and share
    the warning filters.
    """
    return _trainer_lock


# -- autograd --------------------------------------------------------------------------------------


def without_autograd(calls_user: bool) -> AbstractContextManager[object]:
    """Return a context for operations whose derivatives are ours.

    In inference mode they do not pass through autograd's half of torch, which takes a fifth of a
    small step. A user's loss or activation is differentiated by autograd: around it there is
    no_grad, which lets it be turned on.
    """
    return torch.no_grad() if calls_user else torch.inference_mode()


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which the built-in network is computed in its own dtype."""
    kind = device.type
    is_on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if is_on else nullcontext()


# -- random generators -----------------------------------------------------------------------------

# fork_rng saves and restores process-wide state: two threads inside it at once would give neither
# what it gives alone.
_generators_lock = threading.RLock()


@contextmanager
def seeded_torch(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's global generators inside the block; one thread at a time, restored after.

    Those of the CPU and of `device`; `torch.manual_seed` would reach every accelerator.
    """
    devices = [] if device is None or device.type in ("cpu", "meta") else [device]
    kind = devices[0].type if devices else "cuda"
    with _generators_lock, torch.random.fork_rng(devices, device_type=kind):
        torch.default_generator.manual_seed(seed)
        for there in devices:
            state = torch.Generator(there).manual_seed(seed).get_state()
            torch.get_device_module(kind).set_rng_state(state, there)
        yield


# -- forks -----------------------------------------------------------------------------------------


def _after_fork() -> None:
    """Forget the threads of the parent, which may have held the locks."""
    global _threads_lock, _this_thread, _is_forked, _trainer_lock, _generators_lock
    _threads_lock, _this_thread, _is_forked = threading.Lock(), threading.local(), True
    _trainer_lock, _generators_lock = threading.Lock(), threading.RLock()
    _threads_before.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
