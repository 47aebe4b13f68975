"""Rows on a device: casts, sparse rows, rows on disk; nothing is copied whole."""

import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from networks import mlp
from sklearn.base import clone

from torchsk import TorchClassifier, _data
from torchsk._rows import as_rows, as_tensor, as_weight
from torchsk._standardizer import Standardizer

CPU = torch.device("cpu")
FLOATS = [torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("scaled", [False, True])
def test_sparse_rows_are_dense_rows(dtype, scaled):
    matrix = sp.random_array((60, 6), density=0.3, rng=np.random.default_rng(0), format="csc")
    weight = np.random.RandomState(1).uniform(size=60)
    scaler = Standardizer.fit(matrix, weight) if scaled else None
    sparse = as_rows(matrix, scaler, CPU, dtype)
    dense = as_rows(matrix.toarray(), scaler, CPU, dtype)
    index = torch.tensor([3, 3, 0, 59])
    for rows in (sparse, dense):
        assert (rows.n_rows, rows.row_size) == (60, 6)
        assert rows.take(index).dtype == rows.part(slice(None)).dtype == dtype
    torch.testing.assert_close(sparse.take(index), dense.take(index))
    torch.testing.assert_close(sparse.part(slice(1, 5)), dense.part(slice(1, 5)))
    twice = type(sparse).concatenate([sparse, sparse])
    torch.testing.assert_close(twice.take(index + 60), dense.take(index))
    torch.testing.assert_close(
        type(dense).concatenate([dense, dense]).take(index + 60), dense.take(index)
    )
    assert type(sparse).concatenate([sparse]) is sparse


@pytest.mark.parametrize("scaled", [False, True])
def test_no_whole_copy_in_float64(scaled, monkeypatch):
    monkeypatch.setattr(_data, "CHUNK_SIZE", 10_000)
    X = np.random.RandomState(0).normal(size=(20_000, 20)).astype(np.float32)
    scaler = Standardizer.fit(X) if scaled else None
    tracemalloc.start()
    as_tensor(X, scaler, CPU, torch.float32)  # torch's own memory is not traced
    Standardizer.fit(X)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < X.nbytes / 2


@pytest.mark.parametrize("standardize", [False, True])
def test_early_stopping_copies_no_rows_in_float64(standardize, monkeypatch):
    monkeypatch.setattr(_data, "CHUNK_SIZE", 10_000)
    X = np.random.RandomState(0).normal(size=(20_000, 50))
    clf = TorchClassifier((2,), early_stopping=True, max_iter=1, standardize=standardize)
    clf.fit(X[:100], X[:100, 0] > 0)  # what is imported and made once
    tracemalloc.start()
    clf.fit(X, X[:, 0] > 0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < X.nbytes / 2


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("writeable", [True, False])
def test_X_is_read_only(order, writeable):
    X = np.array(np.arange(12.0).reshape(4, 3), order=order)
    before, X.flags.writeable = X.copy(), writeable
    as_tensor(X, None, CPU, torch.float64).add_(1)
    as_tensor(X, Standardizer.fit(X), CPU, torch.float64).add_(1)
    np.testing.assert_array_equal(X, before)


@pytest.mark.parametrize("sparse", [False, True])
def test_values_beyond_float32(sparse):
    X = np.array([[1e39, 1.0], [2.0, 3.0]])
    X = sp.csr_array(X) if sparse else X
    with (
        np.errstate(over="ignore"),
        pytest.raises(ValueError, match="X must be finite and within the range of float32"),
    ):
        as_rows(X, None, CPU, torch.float32)
    as_rows(X, None, CPU, torch.float64)


def test_large_finite_values_pass():
    X = np.full((4, 2), 3e38, dtype=np.float32)
    assert torch.isfinite(as_tensor(X, None, CPU, torch.float32)).all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_weights(dtype):
    weight = np.array([0.0, 0.25, 3.0])
    tensor = as_weight(weight, CPU, dtype)
    assert tensor.dtype == dtype
    assert tensor.tolist() == weight.tolist()
    for power in (1e-300, 1e-40, 1e300):
        with pytest.raises(ValueError, match=r"^sample_weight.* must .* sum"):
            as_weight(weight * power, CPU, torch.float32)


# -- rows on disk ----------------------------------------------------------------------------------


def test_a_memory_map_is_read_batch_by_batch(tmp_path, monkeypatch):
    from torchsk import _rows

    rng = np.random.RandomState(0)
    rows = rng.normal(size=(3000, 20)).astype(np.float32)
    y = (rows[:, 0] > rows[:, 1]).astype(int)
    mapped = np.memmap(tmp_path / "X", np.float32, "w+", shape=rows.shape)
    mapped[:] = rows
    mapped = np.memmap(tmp_path / "X", np.float32, "r", shape=rows.shape)
    longest = []
    take = _rows.MappedRows.take

    def watched(self, index, out=None):
        longest.append(len(index))
        return take(self, index, out)

    monkeypatch.setattr(_rows.MappedRows, "take", watched)
    for standardize in (False, True):
        clf = TorchClassifier(
            module=mlp, batch_size=250, max_iter=5, random_state=0, standardize=standardize,
            solver="adam", learning_rate_init=0.01,
        )  # fmt: skip
        in_memory = clone(clf).fit(rows, y)
        assert not longest
        on_disk = clone(clf).fit(mapped, y, X_val=mapped[:100], y_val=y[:100])
        assert set(longest) == {250, 100}
        longest.clear()
        np.testing.assert_allclose(on_disk.predict_proba(rows), in_memory.predict_proba(rows))
        assert on_disk.score(mapped, y) > 0.9
    clf.set_params(early_stopping=True)
    in_memory, on_disk = clone(clf).fit(rows, y), clone(clf).fit(mapped, y)
    assert max(longest) < len(rows) / 2
    np.testing.assert_allclose(on_disk.predict_proba(rows), in_memory.predict_proba(rows))


def test_rows_of_a_split_are_read_forwards(monkeypatch):
    from torchsk._data import RowsOf
    from torchsk._rows import MappedRows

    X, seen = np.arange(40.0).reshape(20, 2), []

    class Watched(np.ndarray):
        def __getitem__(self, rows):
            seen.append(rows)
            return np.asarray(self)[rows]

    index = np.random.RandomState(0).permutation(20)[:15]
    rows = MappedRows(RowsOf(X.view(Watched), index), None, torch.device("cpu"), torch.float64)
    order = torch.tensor([3, 14, 0, 7])
    np.testing.assert_array_equal(rows.take(order), X[index][order])
    assert (np.diff(seen[-1]) > 0).all()
