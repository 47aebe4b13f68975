"""torch's global random state, borrowed and given back unchanged."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# fork_rng saves and restores process-wide state: two threads inside it at once would give neither
# what it gives alone.
_LOCK = threading.RLock()


def _after_fork() -> None:
    """Forget the lock of the parent, which another thread may have held."""
    global _LOCK
    _LOCK = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def seeded_torch(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's global generators inside the block; one thread at a time, restored after.

    Those of the CPU and of `device`; `torch.manual_seed` would reach every accelerator.
    """
    devices = [] if device is None or device.type in ("cpu", "meta") else [device]
    kind = devices[0].type if devices else "cuda"
    with _LOCK, torch.random.fork_rng(devices, device_type=kind):
        torch.default_generator.manual_seed(seed)
        for there in devices:
            state = torch.Generator(there).manual_seed(seed).get_state()
            torch.get_device_module(kind).set_rng_state(state, there)
        yield
