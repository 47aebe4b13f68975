"""Work that repeats every epoch on the same memory: recorded once, then launched as a whole.

A GPU takes less time for an operation of a small network than Python does to launch it. A CUDA
graph launches all operations of an epoch at once, which takes a quarter of the time and less
(benchmarks/devices.py). A graph repeats operations and addresses: what work reads and writes must
stay where it is, and what Python computes in it is computed once.
"""

import sys
import threading
import warnings
from collections.abc import Callable, Hashable
from functools import cache
from typing import Any

import torch

#: how often work is done before it is recorded: by then there is what it makes once (memory that it
#: uses again, constants), and recording takes about as long as doing it twice
N_WARM_UP = 2

#: steps that are recorded at once: a graph takes memory and time for every operation, and beyond
#: some thousands launching them as one gains nothing more
MAX_STEPS = 500

# all recordings of a device are made on one stream
_lock = threading.Lock()


@cache
def _stream(device: torch.device) -> Any:
    """Return the stream on which work of a device is recorded."""
    return torch.cuda.Stream(device)


def _cuda_graph(work: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """Record work without doing it; return what does it."""
    graph = torch.cuda.CUDAGraph()
    # where recording fails, torch leaves the other stream the current one
    with _lock, torch.cuda.device(device), torch.cuda.stream(torch.cuda.current_stream(device)):
        with torch.cuda.graph(graph, stream=_stream(device), capture_error_mode="thread_local"):
            work()
    return graph.replay


#: kind of device -> what records work there
RECORDERS: dict[str, Callable[[Callable[[], object], torch.device], Callable[[], object]]] = {
    "cuda": _cuda_graph,
}


class Repeater:
    """Does work again and again, from a recording where its device can make one.

    Parameters
    ----------
    device : torch.device
    may_record : bool
        Whether work is torch's operations only: what else a user's code does would happen once.
    """

    def __init__(self, device: torch.device, may_record: bool):
        self.device = device
        self._record = RECORDERS.get(device.type) if may_record else None
        self._counts: dict[Hashable, int] = {}
        self._recordings: dict[Hashable, Callable[[], object]] = {}

    @property
    def max_steps(self) -> int:
        """How many steps work should hold at most."""
        return sys.maxsize if self._record is None else MAX_STEPS

    def __call__(self, key: Hashable, work: Callable[[], object]) -> None:
        """Do the work of this key, which is the same operations on the same memory every time."""
        if self._record is None:
            work()
            return
        count = self._counts[key] = self._counts.get(key, 0) + 1
        if count == N_WARM_UP + 1:
            try:
                self._recordings[key] = self._record(work, self.device)
            except RuntimeError as error:
                self._record = None
                warnings.warn(
                    f"Training on {self.device} goes on without a CUDA graph, slower for small "
                    f"networks, as none could be recorded: {error}"
                )
        self._recordings.get(key, work)()
