"""partial_fit: the scalers follow the stream, and the network does not notice."""

import pickle

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from losses import REGRESSION, case_id, draw_y
from networks import mlp
from sklearn.base import clone
from sklearn.preprocessing import StandardScaler
from skops import io as sio

from torchsk import TorchClassifier, TorchRegressor
from torchsk._data import Data
from torchsk._fitting import _follow
from torchsk._solvers import UPDATE_RULES

UNITS = {
    "1": lambda X: X,
    "1e-4": lambda X: 1e-4 * X,
    "1e4": lambda X: 1e4 * X,
    "far": lambda X: X + 1e6,
    "tiny and far": lambda X: 1e-4 * X + 1e6,
}
every_unit = pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
#: larger than the defaults: a pass is 40 steps
RATES = {"sgd": 0.02, "adam": 0.01, "adamw": 0.01, "rmsprop": 0.005, "adagrad": 0.05}


def _stuck(X, is_stuck):
    """Return X with a last column that is constant."""
    X = np.array(X)
    if is_stuck:
        X[:, -1] = X[0, -1]
    return X


# -- whatever comes first --


@every_unit
@pytest.mark.parametrize("stuck", [False, True])
def test_iris_class_by_class(iris, unit, stuck):
    """The first call sees one class; a column may be constant in the first five."""
    X, y = unit(iris[0]), iris[1]
    for seed in range(2):
        clf = TorchClassifier(random_state=seed)
        clf.partial_fit(_stuck(X[:50], stuck), y[:50], classes=[0, 1, 2])
        for call in range(40):
            clf.partial_fit(_stuck(X, stuck and call < 4), y)
        assert clf.score(X, y) >= 0.93


@pytest.fixture(scope="module")
def line():
    """2000 x 5 rows, and y far from zero."""
    X = np.random.RandomState(0).normal(size=(2000, 5))
    return X, 100 * X[:, 0] + 1e4


def _one_pass(reg, X, y, stuck=False):
    for call, start in enumerate(range(0, 2000, 50)):
        rows = slice(start, start + 50)
        reg.partial_fit(_stuck(X[rows], stuck and call < 4), y[rows])
    return reg.score(X, y)


@every_unit
@pytest.mark.parametrize("stuck", [False, True])
@pytest.mark.parametrize("n_rows", [1, 2])
def test_first_rows_are_few(line, unit, stuck, n_rows):
    X, y = unit(line[0]), line[1]
    reg = TorchRegressor(random_state=0).partial_fit(_stuck(X[:n_rows], stuck), y[:n_rows])
    assert _one_pass(reg, X, y, stuck) >= 0.95


FIRST = {
    "one row": lambda X, y: (X[:1], y[:1]),
    "two rows": lambda X, y: (X[:2], y[:2]),
    "constant y": lambda X, y: (X[:50], np.full(50, y[0])),
    "y hardly spread": lambda X, y: (X[np.argsort(y)[900:905]], np.sort(y)[900:905]),
}


@pytest.mark.parametrize("solver", UPDATE_RULES)
@pytest.mark.parametrize("first", FIRST.values(), ids=FIRST)
def test_a_first_batch_does_no_harm(line, solver, first):
    X, y = line
    reg = TorchRegressor(solver=solver, learning_rate_init=RATES[solver], random_state=0)
    for _ in range(3 if len(first(X, y)[0]) < 50 else 1):
        reg.partial_fit(*first(X, y))
    # 50 rows with a wrong y take longer to be forgotten
    assert _one_pass(reg, X, y) > (0.95 if solver == "sgd" or len(first(X, y)[0]) < 50 else 0.9)


@pytest.mark.parametrize("rows", [slice(0, 1), slice(0, 2), slice(0, 59), [0, 59]], ids=str)
def test_a_first_batch_of_wine(wine, rows):
    """Features of very different scales; 59 rows are of the first class."""
    X, y = wine
    clf = TorchClassifier(random_state=0).partial_fit(X[rows], y[rows], classes=[0, 1, 2])
    for _ in range(40):
        clf.partial_fit(X, y)
    assert clf.score(X, y) > 0.98


# -- the function does not jump --


def _raw_before_and_after(est, X, y, X_new, y_new):
    """Return raw outputs for X before and after the scalers have seen new rows."""
    before = est._fitted.model
    after, change = _follow(before, Data(X_new, est._fitted.targets.encode(y_new), None))
    assert change is not None
    assert after.x_scaler.moments.n == before.x_scaler.moments.n + len(X_new)
    return before.raw(X).numpy(), after.raw(X).numpy()


@pytest.fixture(scope="module")
def rows():
    """90 x 4: rows whose later ones lie elsewhere and further apart."""
    rng = np.random.RandomState(0)
    X = rng.normal(size=(90, 4)) * [1, 1e-4, 1e4, 5] + [0, 1e6, 0, -7]
    X[50:] = X[50:] * [1.5, 1, 1.2, 1.3] + [0.5, 0, 0, 3]
    return X


def test_the_function_of_a_classifier_does_not_jump(rows):
    y = np.arange(90) % 3
    clf = TorchClassifier((7, 6), activation="tanh", max_iter=5, random_state=0)
    clf.fit(rows[:50], y[:50])
    before, after = _raw_before_and_after(clf, rows, y, rows[50:], y[50:])
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("hidden", [(), (6,)], ids=str)
@pytest.mark.parametrize("case", REGRESSION, ids=case_id)
def test_the_function_of_a_regressor_does_not_jump(rows, case, hidden):
    loss, _, params = case
    y = 3 + draw_y(case, 90)
    y[50:] *= 1.4
    reg = TorchRegressor(loss, hidden, loss_params=params, max_iter=5, random_state=0)
    reg.fit(rows[:50], y[:50])
    before, after = _raw_before_and_after(reg, rows, y, rows[50:], y[50:])
    n = 2 if loss == "gaussian" else None  # its deviations are kept roughly
    np.testing.assert_allclose(after[:, :n], before[:, :n], rtol=1e-5, atol=1e-6)


def test_weights_stay_where_no_spread_was_known(rows):
    X, y = np.array(rows), 1e3 + rows[:, :1]
    X[:50, 1], y[:50] = X[0, 1], y[0]
    reg = TorchRegressor("squared_error", (), max_iter=5, random_state=0).fit(X[:50], y[:50])
    before = reg._fitted.model
    after, _ = _follow(before, Data(X[50:], y[50:], None))
    (coef,), _ = before.spec.split(before.flat)
    (later,), _ = after.spec.split(after.flat)
    assert later[1] == coef[1]
    assert not np.allclose(later[0], coef[0], rtol=0.01)


# -- whose rows they are --


def _moments(est):
    return est._fitted.model.x_scaler.moments


def test_the_scaler_is_that_of_all_rows(rows):
    """Those of fit, too; each call of partial_fit adds its own, with their weights."""
    y, weight = np.arange(90) % 2, np.random.RandomState(0).uniform(0.5, 2, 90)
    clf = TorchClassifier((3,), max_iter=2, random_state=0, class_weight={0: 1.0, 1: 3.0})
    clf.fit(rows[:20], y[:20], weight[:20])
    oracle, weights = StandardScaler(), weight * np.where(y == 1, 3, 1)
    oracle.partial_fit(rows[:20], sample_weight=weights[:20])
    for part in (slice(20, 21), slice(21, 60), slice(60, 90)):
        clf.partial_fit(rows[part], y[part], weight[part])
        oracle.partial_fit(rows[part], sample_weight=weights[part])
    scaler = clf._fitted.model.x_scaler
    np.testing.assert_allclose(scaler.moments.n, oracle.n_samples_seen_)
    np.testing.assert_allclose(scaler.mean, oracle.mean_)
    np.testing.assert_allclose(scaler.scale, oracle.scale_, rtol=1e-6)


def test_weights_are_repeats(rows):
    y, weight = rows[:, 0], np.arange(90) % 3 + 1
    weighted, repeated = (TorchRegressor("squared_error", (3,), random_state=0) for _ in range(2))
    for part in (slice(0, 30), slice(30, 90)):
        X_part, y_part, w = rows[part], y[part], weight[part]
        weighted.partial_fit(X_part, y_part, w)
        repeated.partial_fit(np.repeat(X_part, w, axis=0), np.repeat(y_part, w))
    for name in ("x_scaler", "y_scaler"):
        ours, theirs = (getattr(e._fitted.model, name).moments for e in (weighted, repeated))
        assert ours.n == theirs.n
        np.testing.assert_allclose(ours.mean, theirs.mean)
        np.testing.assert_allclose(ours.variance, theirs.variance)


def test_who_keeps_the_first_scaler(rows):
    y = rows[:, 0]
    warm = TorchRegressor("squared_error", (3,), max_iter=2, random_state=0, warm_start=True).fit(
        rows[:50], y[:50]
    )
    scaler = warm._fitted.model.x_scaler
    assert warm.fit(rows[50:], y[50:])._fitted.model.x_scaler is scaler
    assert warm.partial_fit(rows[50:], y[50:])._fitted.model.x_scaler is not scaler
    fixed = warm.set_params(standardize=False)._fitted.model.x_scaler
    assert warm.partial_fit(rows[50:], y[50:])._fitted.model.x_scaler is fixed
    own = TorchRegressor(module=mlp, standardize=True, random_state=0)
    own.partial_fit(rows[:50], y[:50])
    scaler = own._fitted.model.x_scaler
    assert own.partial_fit(rows[50:], y[50:])._fitted.model.x_scaler is scaler


def test_sparse_streams(rows):
    X, y = np.where(rows > 0, rows, 0), rows[:, 0]
    oracle, reg = (
        StandardScaler(with_mean=False),
        TorchRegressor("squared_error", (3,), random_state=0),
    )
    for part in (slice(0, 10), slice(10, 90)):
        reg.partial_fit(sp.csr_array(X[part]), y[part])
        oracle.partial_fit(sp.csr_array(X[part]))
    scaler = reg._fitted.model.x_scaler
    assert not scaler.mean.any()
    np.testing.assert_allclose(scaler.scale, oracle.scale_)
    np.testing.assert_allclose(reg.predict(sp.csr_array(X)), reg.predict(X), rtol=1e-6)


# -- who trains, and where it is kept --


@pytest.mark.parametrize("solver", UPDATE_RULES)
def test_lanes_agree_on_a_stream(rows, solver):
    y = np.column_stack([rows[:, 0], rows[:, 3]])
    fast = TorchRegressor(hidden_layer_sizes=(5, 4), solver=solver, batch_size=8, random_state=0)
    slow = clone(fast).set_params(skorch_callbacks=[])
    for part in (slice(0, 1), slice(0, 12), slice(12, 50), slice(50, 90)):
        for model in (fast, slow):
            model.set_params(batch_size=min(8, len(y[part]))).partial_fit(rows[part], y[part])
    np.testing.assert_allclose(fast.loss_curve_, slow.loss_curve_, rtol=1e-3)
    np.testing.assert_allclose(slow.predict(rows), fast.predict(rows), rtol=1e-3, atol=1e-3)


def test_an_optimizer_of_torch_on_a_stream(line):
    """Its moments stay as they are."""
    X, y = line
    reg = TorchRegressor(solver=torch.optim.Adam, learning_rate_init=0.02, random_state=0)
    for rows in (slice(0, 1), slice(0, 500), *[slice(i, i + 100) for i in range(0, 2000, 100)] * 2):
        reg.partial_fit(X[rows], y[rows])
    assert reg.score(X, y) > 0.95


def _by_pickle(est):
    return pickle.loads(pickle.dumps(est))


def _by_skops(est):
    data = sio.dumps(est)
    return sio.loads(data, trusted=sio.get_untrusted_types(data=data))


@pytest.mark.parametrize("copy", [_by_pickle, _by_skops])
def test_a_saved_model_follows_on(rows, copy):
    reg = TorchRegressor("squared_error", (3,), random_state=0).partial_fit(rows[:5], rows[:5, 0])
    twin = copy(reg)
    for model in (reg, twin):
        model.partial_fit(rows[5:], rows[5:, 0])
    assert twin._fitted.model.x_scaler.moments.n == 90
    np.testing.assert_array_equal(twin.predict(rows), reg.predict(rows))
