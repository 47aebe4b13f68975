"""Checked rows on the host: torch's tensors as arrays, duplicates merged into weights."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from torchsk._data import Data, as_numpy, chunks, merge_duplicates


def test_as_numpy():
    tensor = torch.ones(3, requires_grad=True)
    assert isinstance(as_numpy(tensor), np.ndarray)
    assert as_numpy(torch.ones(3, dtype=torch.bfloat16)).dtype == np.float32
    data = [1, 2]
    assert as_numpy(data) is data


def _merged(X, y, weight=None):
    merged = merge_duplicates(Data(X, y, weight))
    rows = merged.X.toarray() if sp.issparse(X) else merged.X[:]
    total = np.ones(len(merged)) if merged.weight is None else merged.weight
    return rows, merged.y, total


@pytest.fixture(scope="module")
def repeated():
    """Rows with many duplicates, y, and whole weights from 0 to 3."""
    rng = np.random.RandomState(0)
    X, y = rng.randint(2, size=(50, 3)).astype(float), rng.randint(2, size=50)
    return X, y, rng.randint(4, size=50).astype(float)


@pytest.mark.parametrize("as_X", [np.asarray, sp.csr_array, sp.csc_matrix])
def test_merged_rows_are_distinct_and_carry_all_weight(repeated, as_X):
    X, y, weight = repeated
    rows, targets, total = _merged(as_X(X), y, weight)
    pairs = np.column_stack([rows, targets])
    assert len(np.unique(pairs, axis=0)) == len(pairs)
    for row, sum_of_weights in zip(pairs, total):
        same = (np.column_stack([X, y]) == row).all(axis=1)
        assert weight[same].sum() == sum_of_weights > 0
    assert total.sum() == weight.sum()


@pytest.mark.parametrize("as_X", [np.asarray, sp.csr_array])
def test_weight_k_is_k_rows_in_any_order(repeated, as_X):
    X, y, weight = repeated
    copies = np.random.RandomState(1).permutation(np.repeat(np.arange(50), weight.astype(int)))
    expected = _merged(as_X(X), y, weight)
    for found, same in zip(_merged(as_X(X[copies]), y[copies]), expected):
        np.testing.assert_array_equal(found, same)


@pytest.mark.parametrize("as_X", [np.asarray, sp.csr_array])
def test_merged_rows_are_in_the_order_of_their_values(as_X):
    """So neither the unit of a column nor the dtype changes it."""
    X = np.random.RandomState(0).normal(size=(60, 3)).astype(np.float32)
    X[::4, 0], y = 0, np.arange(60) % 2
    rows, *_ = _merged(as_X(X), y)
    if as_X is np.asarray:
        np.testing.assert_array_equal(rows, X[np.lexsort(X.T[::-1])])
    for other in (X.astype(np.float64), X * np.float32(3), X * np.float64(1e-4)):
        found, *_ = _merged(as_X(other), y)
        np.testing.assert_allclose(found / abs(other).max(), rows / abs(X).max(), rtol=1e-6)


def test_minus_zero_is_zero_and_targets_count():
    X = np.array([[0.0], [-0.0], [0.0]])
    _, _, total = _merged(X, np.array([[1.0, 0.0], [1.0, -0.0], [2.0, 0.0]]))
    assert sorted(total) == [1, 2]
    explicit_zeros = sp.csr_array((np.zeros(2), ([0, 1], [0, 0])), shape=(3, 1))
    assert len(merge_duplicates(Data(explicit_zeros, np.ones(3), None))) == 1


def test_rows_without_copies_keep_no_weights():
    data = Data(np.eye(3), np.arange(3), None)
    assert merge_duplicates(data).weight is None
    assert (
        merge_duplicates(Data(np.eye(3), np.arange(3), np.full(3, 2.0))).weight.tolist() == [2] * 3
    )


@pytest.mark.parametrize(
    "n_rows, n_numbers, size", [(10, 3, 7), (10, 3, 3), (10, 3, 100), (1, 9, 2)]
)
def test_chunks_hold_about_size_numbers(n_rows, n_numbers, size):
    rows = [range(n_rows)[part] for part in chunks(n_rows, n_numbers, size)]
    assert [i for part in rows for i in part] == list(range(n_rows))
    assert all(len(part) * n_numbers <= max(size, n_numbers) for part in rows)
