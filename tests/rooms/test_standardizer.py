"""Centre and scale: StandardScaler is the oracle."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.preprocessing import StandardScaler

from torchsk import _data
from torchsk._rows import as_tensor
from torchsk._standardizer import MAX_GROWTH, Moments, Standardizer


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


@pytest.mark.parametrize("chunk_size", [4_000_000, 35])
@pytest.mark.parametrize("weighted", [False, True])
def test_standardizer_is_standard_scaler(X, weight, weighted, chunk_size, monkeypatch):
    monkeypatch.setattr(_data, "CHUNK_SIZE", chunk_size)
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
    tensor = as_tensor(X, Standardizer.fit(X), torch.device("cpu"), torch.float32)
    expected = StandardScaler().fit_transform(X)
    np.testing.assert_allclose(tensor, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sparse", [False, True])
def test_values_too_large_to_be_squared(sparse):
    X = np.array([[1e200, 1.0], [-1e200, 2.0]])
    with pytest.raises(
        ValueError, match=r"y must be finite and small enough .*; got values up to 1e\+200\."
    ):
        Standardizer.fit(sp.csr_array(X) if sparse else X, name="y")


# -- streams --


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_moments_follow_a_stream_as_standard_scalers(X, weight, weighted, sparse):
    if sparse:
        X = np.where(X > 0, X, 0)[:, :3]
    weight = weight if weighted else None
    oracle, scaler = StandardScaler(with_mean=not sparse), None
    for rows in np.array_split(np.arange(60), [1, 7, 40]):
        part = sp.csr_array(X[rows]) if sparse else X[rows]
        w = None if weight is None else np.maximum(weight[rows], 1e-3)
        oracle.partial_fit(part, sample_weight=w)
        scaler = Standardizer.fit(part, w) if scaler is None else scaler.with_rows(part, w)
    np.testing.assert_allclose(scaler.moments.n, oracle.n_samples_seen_)
    np.testing.assert_allclose(scaler.mean, 0 if sparse else oracle.mean_, rtol=1e-12)
    np.testing.assert_allclose(scaler.scale, oracle.scale_, rtol=1e-6)
    assert scaler.centred is not sparse


def test_weights_are_repeats_in_a_stream(X):
    weight = np.random.RandomState(0).randint(0, 4, 60).astype(float)
    weighted = Moments.of(X[:20], weight[:20]).with_rows(X[20:], weight[20:])
    repeated = Moments.of(np.repeat(X, weight.astype(int), axis=0))
    assert weighted.n == repeated.n
    np.testing.assert_allclose(weighted.mean, repeated.mean, rtol=1e-12)
    np.testing.assert_allclose(weighted.deviation, repeated.deviation, rtol=1e-6)


def test_a_column_without_spread_stays_one(X):
    """Whatever the batches: the rounding of their means is no spread."""
    moments = Moments.of(np.full((7, 1), 1e9 + 0.1))
    for n_rows in range(1, 300):
        moments = moments.with_rows(np.full((n_rows, 1), 1e9 + 0.1))
    assert moments.deviation == 0


def test_sparse_rows_end_the_centring(X):
    scaler = Standardizer.fit(X)
    assert scaler.mean.any()
    for rows in (sp.csr_array(X), X):
        scaler = scaler.with_rows(rows)
        assert not scaler.mean.any()
        np.testing.assert_allclose(scaler.scale, Standardizer.fit(X).scale)


def test_change_of_scaler(X):
    """Old z = factor * new z + shift, but where the old scale knew (next to) nothing."""
    X = X[:, :4] * [1, 1, 1, 1e-3]
    near = X[:20].copy()
    near[:, 1] = near[0, 1]
    near[:, 2] = near[0, 2] + (near[:, 2] - near[0, 2]) / (10 * MAX_GROWTH)
    old = Standardizer.fit(near)
    new = old.with_rows(X)
    factor, shift = old.change(new)
    Z = factor * new.transform(X) + shift
    np.testing.assert_allclose(Z[:, [0, 3]], old.transform(X)[:, [0, 3]], rtol=1e-6)
    np.testing.assert_array_equal(factor[1:3], 1)
    # what the network has said of the old mean it says still
    np.testing.assert_allclose(factor * new.transform(old.mean) + shift, 0, atol=1e-6)


def test_a_stream_too_large_to_be_squared():
    scaler = Standardizer.fit(np.full((2, 1), 1e160))
    with pytest.raises(ValueError, match="X must be finite and small enough to be squared"):
        scaler.with_rows(np.full((2, 1), -1e160))
