"""torch's global random state, borrowed and given back unchanged."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# fork_rng saves and restores process-wide state: two threads inside it at once would give neither
# what it gives alone.
_LOCK = threading.RLock()


@contextmanager
def seeded_torch(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's global generators inside the block; one thread at a time, all restored after."""
    on_accelerator = device is not None and device.type not in ("cpu", "meta")
    with (
        _LOCK,
        torch.random.fork_rng(
            devices=[device] if on_accelerator else [],
            device_type=device.type if device is not None and on_accelerator else "cuda",
        ),
    ):
        torch.manual_seed(seed)
        yield
