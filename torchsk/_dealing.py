"""Which calls of a loop go to which process: whole folds, or whole kinds of networks.

Calls are those that joblib makes of a loop's tasks; they are dealt out by their numbers.
"""

from collections.abc import Hashable, Sequence
from itertools import chain
from numbers import Integral
from typing import Any

from torchsk._training import STACK_PARAMETERS

# Kinds of networks per process from which each kind trains in one process, and fits of a kind per
# process from which it does not: then its stacks are full in all of them.
MIN_KINDS, FULL_STACK = 4, 24


def shares_of(calls: Sequence[Any], n_processes: int) -> list[list[int]]:
    """Deal out the numbers of the calls to k processes: those with the same arrays stay together.

    What cannot be dealt in whole groups is dealt one by one, so that all shares are alike.
    """
    whole, k = with_same_arrays(calls), n_processes
    rest = list(chain.from_iterable(whole[len(whole) // k * k :]))
    shares = [
        [*chain.from_iterable(whole[j : len(whole) // k * k : k]), *rest[j::k]] for j in range(k)
    ]
    return [sorted(share) for share in shares if share]


def queue(calls: Sequence[Any], n_processes: int) -> list[list[int]]:
    """Return the numbers of the calls as processes that queue for work are to take them.

    Usually that is one share for each. A search of many kinds of networks, with few fits of each,
    is cut by kind: half of every stack would take far more than half of its time.
    """
    kinds, k = _kinds(calls), n_processes
    if len(kinds) < MIN_KINDS * k or len(calls) >= FULL_STACK * k * len(kinds):
        return shares_of(calls, k)
    largest = len(calls) // (2 * k)
    parts: list[list[int]] = []
    for kind in kinds:
        n_parts = 1 if len(kind) <= largest else k
        parts += [[kind[i] for i in part] for part in shares_of([calls[j] for j in kind], n_parts)]
    return parts


def _kinds(calls: Sequence[Any]) -> list[list[int]]:
    """Return the numbers of the calls, in a list for each setting of what keeps networks apart.

    Those that are likely to take long come first, so that no process waits for another at the end.
    """
    kinds: dict[Hashable, list[int]] = {}
    n_units: dict[Hashable, int] = {}
    for i, call in enumerate(calls):
        settings = {
            name: value
            for parameters in _arguments(call)
            if isinstance(parameters, dict)
            for name, value in parameters.items()
            if str(name).rpartition("__")[2] in STACK_PARAMETERS
        }
        key = tuple((name, repr(settings[name])) for name in sorted(settings))
        kinds.setdefault(key, []).append(i)
        n_units[key] = sum(_n_units(value) for value in settings.values())
    return [kinds[key] for key in sorted(kinds, key=lambda key: (-n_units[key], -len(kinds[key])))]


def _n_units(value: Any) -> int:
    """Return the number of hidden units, if these are sizes of hidden layers."""
    if not isinstance(value, (tuple, list)):
        return 0
    return sum(int(width) for width in value if isinstance(width, Integral))


def _arguments(call: Any) -> list[Any]:
    """Return all arguments of a call that joblib has made."""
    return [
        value
        for _, args, kwargs in getattr(call, "items", ())
        for value in (*args, *kwargs.values())
    ]


def with_same_arrays(calls: Sequence[Any]) -> list[list[int]]:
    """Return the numbers of the calls, in a list for each set of arrays that some are given."""
    groups: dict[Hashable, list[int]] = {}
    for i, call in enumerate(calls):
        key = tuple(id(value) for value in _arguments(call) if hasattr(value, "shape"))
        groups.setdefault(key, []).append(i)
    return list(groups.values())
