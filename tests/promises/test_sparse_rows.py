"""Sparse X trains and predicts as its dense copy does, and its rows never become dense."""

import joblib
import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_predict

from torchsk import TorchClassifier, TorchRegressor, _models, _rows

N_ROWS, N_FEATURES = 300, 1500
FORMATS = [sp.csr_array, sp.csc_array, sp.coo_array, sp.csr_matrix, sp.csc_matrix, sp.coo_matrix]
TOLERANCE = {np.float32: 1e-4, np.float64: 1e-9}
SOLVERS = ["sgd", "adam", "adamw", "rmsprop", "adagrad", "lbfgs"]
CONTAINERS = (sp.csr_array, sp.csr_matrix, sp.csc_array, sp.csc_matrix, sp.coo_array, sp.coo_matrix)


def _draw(dtype=np.float64):
    """Return (X, y) with 15 entries a row, of very different scales."""
    rng = np.random.RandomState(0)
    X = sp.random_array((N_ROWS, N_FEATURES), density=0.01, rng=rng, format="csr")
    scale = 10.0 ** rng.uniform(-3, 3, N_FEATURES)
    y = np.asarray(X[:, : N_FEATURES // 2].sum(axis=1) - X[:, N_FEATURES // 2 :].sum(axis=1))
    return sp.csr_array(X * scale).astype(dtype), y.ravel()


@pytest.fixture(scope="module")
def thin():
    return _draw()


@pytest.fixture
def no_dense_rows(monkeypatch):
    """Fail where rows of a sparse matrix are made dense."""

    def refuse(self, *args, **kwargs):
        raise AssertionError("rows were made dense")

    for cls in CONTAINERS:
        for name in ("toarray", "todense"):
            monkeypatch.setattr(cls, name, refuse)


@pytest.fixture
def made_dense(monkeypatch):
    """Make every sparse row dense before it is multiplied."""

    def switch(on):
        monkeypatch.setattr(_rows, "MAX_DENSITY", -1.0 if on else 1 / 16)
        monkeypatch.setattr(_models, "MAX_DENSITY", -1.0 if on else 1 / 4)

    return switch


def _regressor(solver="sgd", **params):
    params = {"hidden_layer_sizes": (12, 5), "max_iter": 8, "random_state": 0} | params
    return TorchRegressor(solver=solver, batch_size=50, **params)


@pytest.mark.parametrize("hidden", [(), (12, 5)], ids=str)
@pytest.mark.parametrize("solver", SOLVERS)
def test_it_trains_as_dense_rows_do(solver, hidden, thin, made_dense):
    X, y = thin
    weight = np.random.RandomState(1).uniform(0, 2, N_ROWS)
    # a small epsilon would turn the rounding of a gradient near zero into a step
    net = _regressor(solver, hidden_layer_sizes=hidden, epsilon=0.01)
    ours = clone(net).fit(X, y, weight)
    made_dense(True)
    theirs = clone(net).fit(X, y, weight)
    expected = theirs.predict(X)
    np.testing.assert_allclose(ours.predict(X), expected, atol=1e-4)
    made_dense(False)
    np.testing.assert_allclose(theirs.predict(X), expected, rtol=1e-9)
    assert ours.loss_ == pytest.approx(theirs.loss_, rel=1e-4)


@pytest.mark.parametrize("solver", SOLVERS)
def test_no_row_becomes_dense(solver, thin, no_dense_rows):
    X, y = thin
    stops = solver != "lbfgs"
    net = _regressor(solver, max_iter=3, early_stopping=stops).fit(X, y)
    net.predict(X)
    net.score(X, y)
    clf = TorchClassifier((4,), solver=solver, max_iter=2, random_state=0)
    clf.fit(X, y > 0).predict_proba(X)
    if stops:
        net.fit(X, y, X_val=X[:50], y_val=y[:50])
        clf.fit(X, y > 0, X_val=X[:50], y_val=y[:50] > 0)
        clf.partial_fit(X, y > 0).decision_function(X)


@pytest.mark.parametrize("backend", ["torchsk", "sequential"])
def test_no_row_becomes_dense_in_a_search(backend, thin, no_dense_rows):
    X, y = thin
    search = GridSearchCV(_regressor(max_iter=2), {"alpha": [1e-3, 1.0]}, cv=3)
    with joblib.parallel_config(backend):
        search.fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_stack_trains_what_one_does_alone(thin, early_stopping):
    X, y = thin
    # candidates of one fold share their rows, those of others do not
    grid = {"alpha": [1e-3, 1.0], "learning_rate_init": [0.02, 0.1]}
    net = _regressor(dropout=0.2, max_iter=4, early_stopping=early_stopping)
    alone = GridSearchCV(net, grid, cv=3).fit(X, y)
    with joblib.parallel_config("torchsk"):
        stacked = GridSearchCV(net, grid, cv=3).fit(X, y)
    for i in range(3):
        name = f"split{i}_test_score"
        np.testing.assert_allclose(alone.cv_results_[name], stacked.cv_results_[name], rtol=1e-4)


def test_folds_on_both_sides_of_the_limit_train(thin, monkeypatch):
    """Rows of one fold may be thin enough to stay sparse, and those of another not."""
    X, y = thin
    density = [X[rows].nnz / (len(rows) * N_FEATURES) for rows in np.array_split(np.arange(300), 3)]
    monkeypatch.setattr(_rows, "MAX_DENSITY", float(np.median(density)))
    net = _regressor(max_iter=3)
    expected = cross_val_predict(net, X, y, cv=3)
    with joblib.parallel_config("torchsk"):
        np.testing.assert_allclose(cross_val_predict(net, X, y, cv=3), expected, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("make", FORMATS)
def test_every_format_is_the_same(make, dtype, thin):
    X, y = thin
    X = X.astype(dtype)
    reference = _regressor(max_iter=3).fit(X, y)
    net = _regressor(max_iter=3).fit(make(X), y)
    np.testing.assert_array_equal(net.predict(X), reference.predict(X))
    found = net.predict(make(X))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, reference.predict(X), rtol=TOLERANCE[dtype])


def test_held_out_rows_may_be_of_the_other_kind(thin):
    X, y = thin
    net = _regressor(max_iter=3, standardize=False)
    X = sp.csr_array(X / np.maximum(abs(X).max(axis=0).toarray(), 1e-9))
    held_out = X[:60], X[:60].toarray()
    for rows in (X, X.toarray()):
        curves = [
            clone(net).fit(rows, y, X_val=X_val, y_val=y[:60]).validation_loss_curve_
            for X_val in held_out
        ]
        np.testing.assert_allclose(*curves, rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_network_of_dense_rows_predicts_sparse_ones(dtype, thin):
    """Its inputs are centred, so zeros are not zero to it."""
    X, y = thin
    dense = X.toarray().astype(dtype) + 1e3
    net = _regressor(max_iter=3).fit(dense, y)
    sparse = sp.csr_array(X.astype(dtype))
    expected = net.predict(sparse.toarray())
    np.testing.assert_allclose(net.predict(sparse), expected, rtol=TOLERANCE[dtype])


def test_a_stream_follows_with_sparse_rows(thin, made_dense):
    X, y = thin
    streams = [_regressor(), _regressor()]
    for net, dense in zip(streams, (False, True)):
        made_dense(dense)
        for rows in np.array_split(np.arange(N_ROWS), 6):
            net.partial_fit(X[rows], y[rows])
    np.testing.assert_allclose(streams[0].predict(X), streams[1].predict(X), atol=1e-3)


def test_many_rows_are_predicted_in_chunks(thin, monkeypatch):
    X, y = thin
    net = _regressor(max_iter=2).fit(X, y)
    expected = net.predict(X)
    monkeypatch.setattr(_models, "CHUNK_SIZE", 400)
    for make in FORMATS:
        np.testing.assert_allclose(net.predict(make(X)), expected, rtol=1e-9)


def test_rows_without_an_entry():
    X = sp.csr_array((40, 600))
    net = _regressor(max_iter=2).fit(X, np.arange(40.0))
    assert np.ptp(net.predict(X)) == 0
