"""Centre and scale: StandardScaler is the oracle."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.preprocessing import StandardScaler

from torchsk import _data
from torchsk._rows import as_tensor
from torchsk._standardizer import Standardizer


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
