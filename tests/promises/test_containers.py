"""X in every container, dtype and memory layout."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
import torch
from networks import Classifier


@pytest.fixture(scope="module")
def whole_iris(iris):
    """Iris rounded to small whole numbers, which every dtype holds, and its probabilities."""
    X, y = np.round(iris[0]), iris[1]
    return X, y, Classifier().fit(X, y).predict_proba(X)


def _memmap(X, tmp_path):
    data = np.memmap(tmp_path / "X", dtype=X.dtype, mode="w+", shape=X.shape)
    data[:] = X
    data.flush()
    return np.memmap(tmp_path / "X", dtype=X.dtype, mode="r", shape=X.shape)


def _read_only(X, tmp_path):
    X = X.copy()
    X.flags.writeable = False
    return X


NAMES = ["a", "b", "c", "d"]
CONTAINERS = {
    **{
        dtype: lambda X, _, dtype=dtype: X.astype(dtype)
        for dtype in (
            *("float16", "float32", "float64", "longdouble", "int8", "uint8", "int16", "uint16"),
            *("int32", "uint32", "int64", "uint64", "object", ">f8", ">i4"),
        )
    },
    "list": lambda X, _: X.tolist(),
    "pandas": lambda X, _: pd.DataFrame(X, columns=NAMES),
    "pandas of mixed dtypes": lambda X, _: pd.DataFrame(X, columns=NAMES).astype(
        {"a": "int8", "b": "float32", "c": "Int64", "d": "Float32"}
    ),
    "polars": lambda X, _: pl.DataFrame(X, schema=NAMES),
    "memmap": _memmap,
    "read-only": _read_only,
    "Fortran order": lambda X, _: np.asfortranarray(X),
    "strided": lambda X, _: np.repeat(X, 2, axis=1)[:, ::2],
    "reversed": lambda X, _: X[::-1].copy()[::-1],
    "torch.float32": lambda X, _: torch.from_numpy(X).float(),
    "torch.int64": lambda X, _: torch.from_numpy(X).long(),
    "torch with gradient": lambda X, _: torch.from_numpy(X).requires_grad_(),
}


@pytest.mark.filterwarnings("ignore:X does not have valid feature names:UserWarning")
@pytest.mark.parametrize("container", CONTAINERS)
def test_containers_of_X(container, whole_iris, tmp_path):
    X, y, expected = whole_iris
    data = CONTAINERS[container](X, tmp_path)
    model = Classifier().fit(data, y)
    np.testing.assert_allclose(model.predict_proba(data), expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(model.predict_proba(X), expected, rtol=1e-3, atol=1e-4)
    named = container in ("pandas", "pandas of mixed dtypes", "polars")
    assert list(getattr(model, "feature_names_in_", [])) == (NAMES if named else [])


@pytest.mark.parametrize("make", [sp.csr_array, sp.csc_array, sp.coo_array, sp.csr_matrix])
def test_sparse_is_dense(make, whole_iris):
    X, y, _ = whole_iris
    dense = Classifier(standardize=False, max_iter=10).fit(X, y)
    sparse = Classifier(standardize=False, max_iter=10).fit(make(X), y)
    np.testing.assert_allclose(sparse.predict_proba(make(X)), dense.predict_proba(X), atol=1e-4)
    scaled = Classifier().fit(make(X), y)  # scaled, not centred
    np.testing.assert_allclose(scaled.predict_proba(X), scaled.predict_proba(make(X)))
    assert scaled.score(X, y) > 0.9


@pytest.mark.parametrize("standardize", [True, False])
def test_rows_may_lie_backwards(standardize, iris):
    X, y = iris
    net = Classifier(standardize=standardize).fit(X[::-1], y[::-1])
    for view in (X[::-1], X[:, ::-1], X[::2], X.T.copy().T):
        expected = net.predict_proba(view.copy())
        np.testing.assert_allclose(net.predict_proba(view), expected, rtol=1e-12)


def test_inputs_are_not_changed(iris):
    X, y = iris[0].copy(), iris[1].copy()
    weight = np.ones(150)
    Classifier(standardize=False, max_iter=3).fit(X, y, weight).predict(X)
    np.testing.assert_array_equal(X, iris[0])
    np.testing.assert_array_equal(y, iris[1])
    np.testing.assert_array_equal(weight, 1)
