"""The door to torch: StandardScaler's moments, casts, duplicates, devices, threads."""

import threading
import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler

from torchsk import TorchClassifier, _tensors
from torchsk._tensors import (
    Standardizer,
    as_numpy,
    as_rows,
    as_tensor,
    as_weight,
    available_devices,
    merge_duplicates,
    one_thread,
    resolve_device,
)

CPU = torch.device("cpu")
FLOATS = [torch.float32, torch.float64]


@pytest.fixture(scope="module")
def X():
    """60 x 5: ordinary, large, tiny, far from zero, constant."""
    rng = np.random.RandomState(0)
    columns = [
        rng.normal(size=60),
        rng.normal(size=60) * 1e6,
        rng.normal(size=60) * 1e-30,
        rng.normal(size=60) + 1e9,
        np.full(60, 0.1),
    ]
    return np.stack(columns, axis=1)


@pytest.fixture(scope="module")
def weight():
    weight = np.random.RandomState(1).uniform(size=60)
    weight[::7] = 0
    return weight


# -- standardisation --


@pytest.mark.parametrize("chunk_size", [4_000_000, 35])
@pytest.mark.parametrize("weighted", [False, True])
def test_standardizer_is_standard_scaler(X, weight, weighted, chunk_size, monkeypatch):
    monkeypatch.setattr(_tensors, "CHUNK_SIZE", chunk_size)
    weight = weight if weighted else None
    scaler, oracle = Standardizer.fit(X, weight), StandardScaler().fit(X, sample_weight=weight)
    np.testing.assert_allclose(scaler.mean, oracle.mean_, rtol=1e-12)
    np.testing.assert_allclose(scaler.scale, oracle.scale_, rtol=1e-6)
    Z = scaler.transform(X)
    np.testing.assert_allclose(Z, oracle.transform(X), rtol=1e-6, atol=1e-6)
    assert Z.dtype == np.float64
    np.testing.assert_allclose(Z * scaler.scale + scaler.mean, X, rtol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_sparse_columns_are_scaled_not_centred(weight, weighted):
    weight = weight if weighted else None
    dense = np.random.RandomState(0).binomial(3, 0.3, size=(60, 4)).astype(float)
    dense[:, 2] = 0
    matrix = sp.csr_array(dense)
    oracle = StandardScaler(with_mean=False).fit(matrix, sample_weight=weight)
    for version in (matrix, matrix.tocsc(), sp.csr_matrix(matrix)):
        scaler = Standardizer.fit(version, weight)
        np.testing.assert_allclose(scaler.scale, oracle.scale_, rtol=1e-12)
        assert not scaler.mean.any()


def test_one_row_and_constant_columns_keep_scale_1():
    one = Standardizer.fit(np.array([[3.0, -2e9]]))
    np.testing.assert_array_equal(one.scale, [1, 1])
    np.testing.assert_array_equal(one.mean, [3, -2e9])
    for value in (0.1, 1e9 + 0.1, 1e-30, -7.0):
        constant = Standardizer.fit(np.full((1000, 1), value))
        assert constant.scale == 1, value
        assert abs(constant.transform(np.full((1, 1), value))) <= 1e-14 * abs(value)


def test_spread_is_seen_in_float32_data_far_from_zero():
    X = (np.random.RandomState(0).normal(size=(500, 1)) + 3000).astype(np.float32)
    scaler = Standardizer.fit(X)
    np.testing.assert_allclose(scaler.scale, X.astype(float).std(), rtol=1e-9)


def test_standardized_columns_survive_the_cast(X):
    """1e9 with a spread of one has no float32: it is centred in float64 first."""
    tensor = as_tensor(X, Standardizer.fit(X), CPU, torch.float32)
    expected = StandardScaler().fit_transform(X)
    np.testing.assert_allclose(tensor, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sparse", [False, True])
def test_values_too_large_to_be_squared(sparse):
    X = np.array([[1e200, 1.0], [-1e200, 2.0]])
    with pytest.raises(
        ValueError, match=r"y must be finite and small enough .*; got values up to 1e\+200\."
    ):
        Standardizer.fit(sp.csr_array(X) if sparse else X, name="y")


# -- tensors and rows --


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("scaled", [False, True])
def test_sparse_rows_are_dense_rows(dtype, scaled, weight):
    matrix = sp.random_array((60, 6), density=0.3, rng=np.random.default_rng(0), format="csc")
    scaler = Standardizer.fit(matrix, weight) if scaled else None
    sparse = as_rows(matrix, scaler, CPU, dtype)
    dense = as_rows(matrix.toarray(), scaler, CPU, dtype)
    index = torch.tensor([3, 3, 0, 59])
    for rows in (sparse, dense):
        assert (rows.n_rows, rows.n_features) == (60, 6)
        assert rows.take(index).dtype == rows.all().dtype == dtype
    torch.testing.assert_close(sparse.take(index), dense.take(index))
    torch.testing.assert_close(sparse.all(), dense.all())
    twice = type(sparse).concatenate([sparse, sparse])
    torch.testing.assert_close(twice.take(index + 60), dense.take(index))
    torch.testing.assert_close(
        type(dense).concatenate([dense, dense]).take(index + 60), dense.take(index)
    )
    assert type(sparse).concatenate([sparse]) is sparse


@pytest.mark.parametrize("scaled", [False, True])
def test_no_whole_copy_in_float64(scaled, monkeypatch):
    monkeypatch.setattr(_tensors, "CHUNK_SIZE", 10_000)
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
    monkeypatch.setattr(_tensors, "CHUNK_SIZE", 10_000)
    X = np.random.RandomState(0).normal(size=(20_000, 50))
    clf = TorchClassifier((2,), early_stopping=True, max_iter=1, standardize=standardize)
    with pytest.warns(ConvergenceWarning):
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


def test_as_numpy():
    tensor = torch.ones(3, requires_grad=True)
    assert isinstance(as_numpy(tensor), np.ndarray)
    assert as_numpy(torch.ones(3, dtype=torch.bfloat16)).dtype == np.float32
    data = [1, 2]
    assert as_numpy(data) is data


@pytest.mark.parametrize("dtype", FLOATS)
def test_weights(dtype):
    weight = np.array([0.0, 0.25, 3.0])
    tensor = as_weight(weight, CPU, dtype)
    assert tensor.dtype == dtype
    assert tensor.tolist() == weight.tolist()
    for power in (1e-300, 1e-40, 1e300):
        with pytest.raises(ValueError, match=r"^sample_weight.* must .* sum"):
            as_weight(weight * power, CPU, torch.float32)


# -- duplicates --


def _merged(X, y, weight=None):
    index, total = merge_duplicates(X, y, weight)
    X = X.toarray() if sp.issparse(X) else X
    return X[index], y[index], total


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


def test_minus_zero_is_zero_and_targets_count():
    X = np.array([[0.0], [-0.0], [0.0]])
    _, _, total = _merged(X, np.array([[1.0, 0.0], [1.0, -0.0], [2.0, 0.0]]))
    assert sorted(total) == [1, 2]
    explicit_zeros = sp.csr_array((np.zeros(2), ([0, 1], [0, 0])), shape=(3, 1))
    assert len(merge_duplicates(explicit_zeros, np.ones(3), None)[0]) == 1


# -- devices and threads --


def test_devices_that_are_here():
    assert available_devices()[0] == "cpu"
    assert resolve_device("cpu") == resolve_device(CPU) == CPU
    assert str(resolve_device("auto")) in available_devices()


def test_auto_is_the_first_accelerator(monkeypatch):
    monkeypatch.setattr(_tensors, "available_devices", lambda: ["cpu", "cuda", "cuda:0", "cuda:1"])
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ValueError, match=r"'cuda:1'\]; got device='cuda:2'\."):
        resolve_device("cuda:2")


@pytest.mark.parametrize("device", ["gpu", "cuda:63", "meta", torch.device("cuda:63")])
def test_other_devices_are_an_error_that_lists_what_is_here(device):
    with pytest.raises(ValueError, match=rf"device must be one of .*'cpu'.*device='{device}'"):
        resolve_device(device)


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_one_thread_restores(three_threads):
    with one_thread():
        assert torch.get_num_threads() == 1
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
    with pytest.raises(RuntimeError, match="inside"), one_thread():
        raise RuntimeError("inside")
    assert torch.get_num_threads() == 3


def test_one_thread_from_two_threads(three_threads):
    """The first to enter is the first to leave: the last one out restores."""
    entered, leave = threading.Event(), threading.Event()

    def first():
        with one_thread():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait(10)
    with one_thread():
        leave.set()
        thread.join()
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
