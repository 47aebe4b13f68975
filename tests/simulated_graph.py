"""A stand-in for CUDA graphs on any device: torch's operations recorded, then done again.

As a real graph it knows addresses only: an operation that is done again reads and writes the
tensors of the recording, whatever Python has bound to their names since.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class _Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.operations.append((function, args, kwargs or {}, result))
        return result


def record(work, device):
    """Record work, and return what does it; a recording does it, too, so the first call is done."""
    recorder = _Recorder()
    with recorder:
        work()
    calls = []

    def replay():
        calls.append(None)
        if len(calls) > 1:
            for operation in recorder.operations:
                _again(*operation)

    return replay


def _again(function, args, kwargs, result):
    again = function(*args, **kwargs)
    several = isinstance(result, (tuple, list))
    for old, new in zip(result, again) if several else [(result, again)]:
        if isinstance(old, torch.Tensor) and new.data_ptr() != old.data_ptr():
            old.detach().copy_(new)  # new memory, where a view or an operation in place has none
