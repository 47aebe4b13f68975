"""Which tasks of a search go to which process."""

import numpy as np
import pytest
from joblib.parallel import BatchedCalls
from sklearn.model_selection import ParameterGrid

from torchsk import _dealing


@pytest.mark.parametrize(
    "n_folds, n_processes, expected",
    [
        (4, 2, [[0, 2, 4, 6, 8, 10], [1, 3, 5, 7, 9, 11]]),
        (3, 2, [[0, 3, 6, 9, 2, 8], [1, 4, 7, 10, 5, 11]]),
        (1, 3, [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]),
        (12, 2, [[0, 2, 4, 6, 8, 10], [1, 3, 5, 7, 9, 11]]),
        (4, 13, [[i] for i in range(12)]),
    ],
)
def test_processes_are_dealt_whole_folds(n_folds, n_processes, expected):
    """As a search dispatches its tasks: one candidate after the other, each on every fold."""
    X, folds = np.zeros((3, 2)), [np.arange(3) for _ in range(n_folds)]
    tasks = [
        BatchedCalls([(len, (X,), {"train": folds[i % n_folds], "n": i})], None) for i in range(12)
    ]
    assert sorted(_dealing.shares_of(tasks, n_processes)) == [sorted(share) for share in expected]


def _tasks(grid, n_folds):
    """As a search dispatches its tasks: one candidate after the other, each on every fold."""
    X, folds = np.zeros((3, 2)), [np.arange(3) for _ in range(n_folds)]
    return [
        BatchedCalls([(len, (X,), {"train": fold, "parameters": candidate})], None)
        for candidate in ParameterGrid(grid)
        for fold in folds
    ]


def test_many_kinds_of_networks_stay_whole():
    """Each kind is one group for whichever process is free, the largest networks first."""
    widths = [(8,), (100,), (50, 50), [16]]
    grid = {
        "net__alpha": [0.1, 0.2, 0.3],
        "net__activation": ["relu", "tanh"],
        "net__batch_size": [16, 32, "auto"],
        "net__hidden_layer_sizes": widths,
    }
    tasks, candidates = _tasks(grid, 5), list(ParameterGrid(grid))
    parts = _dealing.queue(tasks, 2)
    assert sorted(i for part in parts for i in part) == list(range(len(tasks)))
    kinds = []
    for part in parts:
        settings = [candidates[i // 5] for i in part]
        (kind,) = {(s["net__batch_size"], sum(s["net__hidden_layer_sizes"])) for s in settings}
        kinds.append(kind)
    assert [n_units for _, n_units in kinds] == [100] * 6 + [16] * 3 + [8] * 3


@pytest.mark.parametrize(
    "grid, n_processes",
    [
        ({"alpha": np.arange(60), "batch_size": [16, 32]}, 2),  # few kinds
        ({"alpha": np.arange(60), "hidden_layer_sizes": [(i,) for i in range(4)]}, 2),
        ({"alpha": np.arange(10), "hidden_layer_sizes": [(i,) for i in range(12)]}, 4),
        ({"alpha": np.arange(12), "hidden_layer_sizes": [(i,) for i in range(8)]}, 2),  # full
        ({"alpha": np.arange(60), "pca__n_components": np.arange(1, 20)}, 2),  # not a network's
    ],
)
def test_other_searches_are_dealt_in_whole_folds(grid, n_processes):
    tasks = _tasks(grid, 4)
    assert _dealing.queue(tasks, n_processes) == _dealing.shares_of(tasks, n_processes)


def test_a_kind_that_is_most_of_a_search_is_cut():
    grids = [{"alpha": np.arange(20), "hidden_layer_sizes": [(9,)]}]
    grids.append({"hidden_layer_sizes": [(i,) for i in range(8)]})
    parts = _dealing.queue(_tasks(grids, 4), 2)
    assert [len(part) for part in parts] == [40, 40] + [4] * 8
    assert {i % 4 for i in parts[0]} == {0, 2}  # by folds
