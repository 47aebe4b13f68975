"""X in every container, dtype and memory layout."""

import datetime
import itertools

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
import torch
from networks import Classifier, Regressor
from numpy.testing import assert_allclose
from sklearn.base import is_classifier

from torchsk import TorchClassifier, TorchRegressor


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


# -- every dtype in every container ----------------------------------------------------------------

NUMPY_DTYPES = (
    *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
    *("float16", "float32", "float64", "longdouble", "object", ">f8", ">f4", ">i4", ">u2"),
)
NULLABLE_DTYPES = ("boolean", "Int8", "UInt16", "Int32", "UInt64", "Float32", "Float64")
#: scipy has no sparse matrices of these
NOT_SPARSE = {"float16", "object", ">f8", ">f4", ">i4", ">u2"}
#: polars reads no arrays of these
NOT_POLARS = {">f8", ">f4", ">i4", ">u2", "longdouble"}
SPARSE = [f"{form}_{kind}" for form in ("csr", "csc", "coo") for kind in ("matrix", "array")]


def _sparse_columns(X, dtype):
    zero = np.zeros(1, dtype)[0]
    columns = X.astype(dtype).T
    return pd.DataFrame(
        {n: pd.arrays.SparseArray(c, fill_value=zero) for n, c in zip("abc", columns)}
    )


TABLES = {
    "ndarray": lambda X, dtype: X.astype(dtype),
    "pandas": lambda X, dtype: pd.DataFrame(X, columns=list("abc")).astype(dtype),
    "sparse pandas": _sparse_columns,
    "polars": lambda X, dtype: pl.DataFrame(X.astype(dtype), schema=list("abc")),
    **{name: lambda X, dtype, name=name: getattr(sp, name)(X.astype(dtype)) for name in SPARSE},
}
TABLES_OF_DTYPES = [
    *(
        (table, dtype)
        for table in TABLES
        for dtype in NUMPY_DTYPES
        if not (
            table in SPARSE and dtype in NOT_SPARSE or table == "polars" and dtype in NOT_POLARS
        )
    ),
    *(("pandas", dtype) for dtype in NULLABLE_DTYPES),
]


def _numbers_of_a_model(Estimator, X, y):
    """All that an estimator makes of X, as one list of arrays."""
    net = Estimator(hidden_layer_sizes=(4,), max_iter=2, random_state=0).fit(X, y, X_val=X, y_val=y)
    numbers = [net.validation_loss_curve_, net.partial_fit(X, y).score(X, y), net.predict(X)]
    return [*numbers, *([net.predict_proba(X)] if is_classifier(net) else [])]


@pytest.fixture(scope="module")
def numbers_of_float64():
    """Function (table, is_bool) -> (X, y, what both estimators make of X as float64); kept."""
    known = {}

    def make(table, is_bool):
        if (table, is_bool) not in known:
            X = np.random.RandomState(0).randint(2 if is_bool else 4, size=(40, 3))
            y = (X[:, 0] > X[:, 1]).astype(int)
            copy = TABLES[table](X, "float64")
            both = [_numbers_of_a_model(E, copy, y) for E in (TorchClassifier, TorchRegressor)]
            known[table, is_bool] = X, y, both
        return known[table, is_bool]

    return make


@pytest.mark.parametrize(("table", "dtype"), TABLES_OF_DTYPES)
def test_every_dtype_is_its_float64_copy(table, dtype, numbers_of_float64):
    X, y, both = numbers_of_float64(table, dtype.startswith("bool"))
    data = TABLES[table](X, dtype)
    # float32 X is predicted in float32; frames may lay out float64 otherwise than other dtypes
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    for Estimator, expected in zip((TorchClassifier, TorchRegressor), both):
        for numbers, those in zip(_numbers_of_a_model(Estimator, data, y), expected, strict=True):
            assert_allclose(numbers, those, rtol=tolerance, atol=tolerance)


SPARSE_FRAMES = {
    "of get_dummies": lambda X: pd.get_dummies(pd.DataFrame(X), columns=[0, 1, 2], sparse=True),
    "filled with NaN": lambda X: pd.DataFrame(X.astype(float)).astype(pd.SparseDtype(float)),
    "filled with True": lambda X: pd.DataFrame(X > 0).astype(pd.SparseDtype(bool, True)),
    "of bool and int8": lambda X: pd.DataFrame(
        {0: pd.arrays.SparseArray(X[:, 0] > 0), 1: pd.arrays.SparseArray(X[:, 1].astype("int8"))}
    ),
}


@pytest.mark.parametrize("frame", SPARSE_FRAMES)
def test_sparse_frames(frame):
    X = np.random.RandomState(0).randint(4, size=(40, 3))
    y = X[:, 0] > 1
    data = SPARSE_FRAMES[frame](X).rename(columns=str)
    dense = data.sparse.to_dense().astype(float)
    # not standardised: sparse X is not centred
    models = [Classifier(max_iter=5, standardize=False).fit(X, y) for X in (data, dense)]
    proba, expected = [model.predict_proba(X) for model, X in zip(models, (data, dense))]
    assert_allclose(proba, expected, rtol=1e-6)
    assert list(models[0].feature_names_in_) == list(data.columns)


@pytest.mark.parametrize(
    "column",
    [
        np.arange(40).astype("datetime64[D]"), np.arange(40).astype("timedelta64[s]"),
        pd.date_range("2020", periods=40), pd.date_range("2020", periods=40, tz="UTC"),
        pd.period_range("2020", periods=40, freq="D"),
        pl.Series(np.arange(40).astype("datetime64[us]")), pl.Series([datetime.time(1)] * 40),
    ],
    ids=lambda column: str(column.dtype),
)  # fmt: skip
def test_times_are_no_numbers(column):
    y = np.arange(40) % 2
    frame = {pl.Series: pl.DataFrame}.get(type(column), pd.DataFrame)
    tables = [frame({"when": column}), frame({"when": column, "number": y})]
    tables += [column[:, np.newaxis]] if isinstance(column, np.ndarray) else []
    for X in tables:
        with pytest.raises(ValueError, match="X must hold numbers; got columns of"):
            Classifier().fit(X, y)
        with pytest.raises(ValueError, match="X_val must hold numbers"):
            Regressor().fit(np.eye(40)[:, : X.shape[1]], y, X_val=X, y_val=y)


@pytest.mark.parametrize("wrong", [1j, "a"])
def test_what_is_no_number_has_a_clear_error(wrong):
    X, y = np.full((40, 2), wrong), np.arange(40) % 2
    with pytest.raises(ValueError, match="Complex data not supported|could not convert string"):
        Classifier().fit(X, y)


def _repeated(X):
    """Entries in two halves, the later columns first."""
    rows, columns = np.nonzero(X)
    both = np.r_[rows, rows[::-1]], np.r_[columns, columns[::-1]]
    return sp.coo_array((np.r_[X[rows, columns], X[rows, columns][::-1]] / 2, both), X.shape)


def _unsorted(X):
    """CSR rows with their entries backwards."""
    X = sp.csr_array(X)
    ends = list(itertools.pairwise(X.indptr))
    order = np.concatenate([np.arange(start, stop)[::-1] for start, stop in ends])
    return sp.csr_array((X.data[order], X.indices[order], X.indptr), X.shape)


def _with_zeros(X):
    """CSR with every zero stored."""
    n_rows, n_columns = X.shape
    columns, starts = np.tile(np.arange(n_columns), n_rows), np.arange(0, X.size + 1, n_columns)
    return sp.csr_array((X.ravel(), columns, starts), X.shape)


def _with_long_indices(X):
    X = sp.csr_array(X)
    X.indices, X.indptr = X.indices.astype(np.int64), X.indptr.astype(np.int64)
    return X


def _sealed(X):
    X = sp.csr_array(X)
    for array in (X.data, X.indices, X.indptr):
        array.flags.writeable = False
    return X


@pytest.mark.parametrize(
    "make",
    [_repeated, _unsorted, _with_zeros, _with_long_indices, _sealed],
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize("solver", ["sgd", "lbfgs"])
def test_how_sparse_entries_are_stored_makes_no_difference(solver, make, iris):
    X, y = np.round(iris[0]) - 1, iris[1]
    data = make(X)
    stored = [data.data, *(data.coords if data.format == "coo" else (data.indices, data.indptr))]
    before = [array.copy() for array in stored]
    net = Classifier(solver=solver, max_iter=10)
    expected = net.fit(sp.csr_array(X), y).predict_proba(sp.csr_array(X))
    assert_allclose(net.fit(data, y).predict_proba(data), expected, rtol=1e-6)
    for now, then in zip(stored, before, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("make", [sp.csr_array, sp.coo_matrix])
def test_no_rows_is_an_error(make, clf, iris):
    with pytest.raises(ValueError, match=r"0 sample\(s\)"):
        clf.predict(make(iris[0][:0]))


# -- y and weights --------------------------------------------------------------------------------

COLUMNS = {
    **{
        dtype: lambda y, dtype=dtype: y.astype(dtype)
        for dtype in ("bool", "float16", ">i4", "uint64")
    },
    **{
        dtype: lambda y, dtype=dtype: pd.Series(y).astype(dtype)
        for dtype in ("Int64", "UInt8", "boolean", "Float32", "category")
    },
    "sparse pandas": lambda y: pd.Series(pd.arrays.SparseArray(y)),
    "polars": pl.Series,
    "polars bool": lambda y: pl.Series(y.astype(bool)),
    "torch bool": lambda y: torch.from_numpy(y).bool(),
}


@pytest.mark.parametrize("column", COLUMNS)
def test_columns_as_y_and_as_weights(column, halves):
    X, y, *_ = halves
    weight = (X[:, 0] > X[:, 0].mean()).astype(int)
    for Estimator in (Classifier, Regressor):
        net = Estimator(max_iter=2)
        expected = net.fit(X, y, weight.astype(float), X_val=X, y_val=y).predict(X)
        curve = net.validation_loss_curve_
        data, given = COLUMNS[column](y), COLUMNS[column](weight)
        predicted = net.fit(X, data, given, X_val=X, y_val=data).predict(X)
        np.testing.assert_array_equal(predicted, expected)
        assert net.validation_loss_curve_ == curve
        assert net.score(X, y, given) == net.score(X, y, weight.astype(float))


@pytest.mark.parametrize(
    "make",
    [
        lambda y: y.astype(bool), lambda y: y.astype("float16"), sp.csr_array, sp.coo_matrix,
        lambda y: sp.lil_array(y.astype(bool)), lambda y: pd.DataFrame(y).astype("Int64"),
        lambda y: pd.DataFrame(y).astype(pd.SparseDtype(bool, False)), pl.DataFrame,
    ],
    ids=["bool", "float16", "csr", "coo", "lil of bool", "Int64", "sparse pandas", "polars"],
)  # fmt: skip
def test_labels_in_every_container(make, digits):
    X, y = digits[0][:100], digits[1][:100, np.newaxis] > np.arange(3)
    net = Classifier(max_iter=2)
    expected = net.fit(X, y.astype(int)).predict_proba(X)
    np.testing.assert_array_equal(net.fit(X, make(y.astype(int))).predict_proba(X), expected)


def test_labels_that_are_objects_say_what_to_do(iris):
    message = r"Unknown label type: unknown.*y is an array of objects: use y\.astype\(bool\)"
    with pytest.raises(ValueError, match=message):
        Classifier().fit(iris[0], iris[1].astype(object))


@pytest.mark.parametrize("key", [np.int8, np.float64, np.bool_, bool, float])
def test_keys_of_class_weight(key, halves):
    X, y, *_ = halves
    expected = Classifier(max_iter=2, class_weight={0: 1.0, 1: 3.0}).fit(X, y).predict_proba(X)
    weights = {key(0): np.float16(1), key(1): np.float16(3)}
    net = Classifier(max_iter=2, class_weight=weights).fit(X, y)
    np.testing.assert_array_equal(net.predict_proba(X), expected)
