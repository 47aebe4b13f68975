"""An accelerator for machines without one: a device of its own that computes on the CPU.

``TORCHSK_DEVICE=simulated pytest -m device`` runs the tests of accelerators on it. It is
registered with torch as "simulated", by torch's own way to write a backend in Python.
Its tensors refuse what those of a real one refuse: operations with tensors that are elsewhere, and
``numpy()``.
"""

import torch
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

NAME = "simulated"
# what a real accelerator does with a tensor that is elsewhere, too
MIXES_DEVICES = {"aten.copy_.default", "aten._to_copy.default", "aten.index.Tensor"}


class SimulatedTensor(torch.Tensor):
    """A tensor on the simulated device; `here` is what it looks at."""

    #: Apple's GPUs have none
    has_float64 = True
    here: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, here):
        if here.dtype == torch.float64 and not cls.has_float64:
            raise TypeError("This device has no float64.")
        return cls._make_wrapper_subclass(
            cls,
            here.size(),
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=torch.device(NAME, 0),
            requires_grad=here.requires_grad,
        )

    def __init__(self, here):
        self.here = here

    def __deepcopy__(self, memo):
        copy = type(self)(self.here.detach().clone())
        if isinstance(self, torch.nn.Parameter):
            copy = torch.nn.Parameter(copy, self.requires_grad)
        return memo.setdefault(id(self), copy)

    def tolist(self):
        """Return the numbers, as any tensor does."""
        return self.here.tolist()

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        there = {id(t.here): t for t in tensors if isinstance(t, cls)}
        elsewhere = [t for t in tensors if not isinstance(t, cls) and t.ndim]
        if elsewhere and str(operation) not in MIXES_DEVICES:
            raise RuntimeError(f"{operation}: expected all tensors to be on the same device.")
        stays = (
            isinstance(args[0], cls) if operation is torch.ops.aten.copy_.default else bool(there)
        )
        if kwargs.get("device") is not None:
            stays = torch.device(kwargs["device"]).type == NAME
            kwargs["device"] = torch.device("cpu")

        def unwrap(value):
            return value.here if isinstance(value, cls) else value

        def wrap(value):
            if not isinstance(value, torch.Tensor) or not stays:
                return value
            if id(value) in there:
                return there[id(value)]
            with torch.inference_mode(value.is_inference()):  # a view may be none in that mode
                return cls(value)

        return tree_map(wrap, operation(*tree_map(unwrap, args), **tree_map(unwrap, kwargs)))


class _Module(_DummyBackendModule):
    """What torch finds as ``torch.simulated``."""

    def __init__(self):
        self.generator = torch.Generator()

    def get_rng_state(self, device):
        return self.generator.get_state()

    def set_rng_state(self, state, device):
        self.generator.set_state(state)

    def manual_seed_all(self, seed):
        self.generator.manual_seed(seed)


class _Generator(torch.Generator):
    """One of the CPU, wherever it is asked for."""

    def __new__(cls, device="cpu"):
        return super().__new__(cls)


def install():
    """Register the device with torch, for the rest of the process."""
    _setup_privateuseone_for_python_backend(NAME, _Module())
    torch.Generator = _Generator
    library = torch.library.Library("aten", "IMPL")
    _keep.append(library)

    def empty(size, *, dtype=None, **kwargs):
        return SimulatedTensor(torch.empty(size, dtype=dtype))

    def empty_strided(size, stride, *, dtype=None, **kwargs):
        return SimulatedTensor(torch.empty_strided(size, stride, dtype=dtype))

    def copy_from(source, target, non_blocking=False):
        target.here.copy_(source)
        return target

    library.impl("empty.memory_format", empty, "PrivateUse1")
    library.impl("empty_strided", empty_strided, "PrivateUse1")
    library.impl("_copy_from", copy_from, "PrivateUse1")


_keep: list = []
