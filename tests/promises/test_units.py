"""The unit and the origin of X and y do not matter."""

import numpy as np
import pytest
from losses import draw_problem
from networks import Classifier
from sklearn.base import clone
from sklearn.linear_model import PoissonRegressor
from sklearn.metrics import d2_tweedie_score, r2_score

from torchsk import TorchClassifier, TorchRegressor


def test_no_overflow_in_large_inputs(iris):
    X, y = iris
    model = Classifier().fit(X * 1e30, y)
    assert model.score(X * 1e30, y) > 0.95
    assert Classifier().fit(X * 1e-30, y).score(X * 1e-30, y) > 0.95


@pytest.mark.parametrize("loss", ["huber", "smooth_l1"])
@pytest.mark.parametrize("unit", [1e-4, 1.0, 1e4])
def test_thresholds_learn_in_every_unit(loss, unit, diabetes):
    X, y = diabetes
    net = TorchRegressor(loss=loss, random_state=0).fit(X, unit * y)
    assert net.score(X, unit * y) > 0.5


@pytest.fixture(scope="module")
def plane():
    """200 x 3 standard normal rows and a linear target of unit spread."""
    rng = np.random.RandomState(0)
    X = rng.normal(size=(200, 3))
    return X, X @ [0.6, -0.6, 0.5]


UNITS = {
    "far features": (lambda X: X + 1e9, lambda y: y),
    "tiny features": (lambda X: X * 1e-30, lambda y: y),
    "huge features": (lambda X: X * 1e30, lambda y: y),
    "features of all sizes": (lambda X: X * [1e-30, 1.0, 1e30] + [0, 1e9, 0], lambda y: y),
    "far target": (lambda X: X, lambda y: 1e6 + 1e-4 * y),
    "tiny target": (lambda X: X, lambda y: 1e-30 * y),
    "huge target": (lambda X: X, lambda y: 1e30 * y),
    "largest that can be squared": (lambda X: X * 1e150, lambda y: 1e150 * y),
    "smallest that can be squared": (lambda X: X * 1e-150, lambda y: 1e-150 * y),
}


@pytest.fixture(scope="module", params=["sgd", "lbfgs"])
def plain_nets(request, plane):
    """Networks of one solver for several losses, fitted to the plane."""
    losses = ["squared_error", "absolute_error", "quantile"]
    losses += ["gaussian"] if request.param != "lbfgs" else []  # its minimum is a deviation of 0
    same = {"solver": request.param, "max_iter": 60, "learning_rate": "cosine", "random_state": 0}
    return [TorchRegressor(loss, (), **same).fit(*plane) for loss in losses]


@pytest.mark.parametrize("unit", UNITS)
def test_units_do_not_matter(unit, plain_nets, plane):
    X, y = plane
    change_X, change_y = UNITS[unit]
    for plain in plain_nets:
        net = clone(plain).fit(change_X(X), change_y(y))
        assert plain.score(X, y) > (0.9 if net.loss != "quantile" else 0.7)
        got, expected = net.predict(change_X(X)), change_y(plain.predict(X))
        spread = np.ptp(change_y(y))
        assert abs(got - expected).max() < 1e-3 * spread
        assert got.dtype == np.float64


def test_labels_of_far_features(plane):
    X, y = plane
    net = TorchClassifier((), random_state=0).fit(1e9 + X, y > 0)
    assert net.score(1e9 + X, y > 0) > 0.97


@pytest.mark.parametrize("loss", ["poisson", "gamma", "tweedie"])
def test_the_unit_of_positive_targets_does_not_matter(loss):
    X, y = draw_problem("regression", positive=True)
    small, large = (
        TorchRegressor(loss=loss, max_iter=20, random_state=0).fit(X, factor * y[:, 0]).predict(X)
        for factor in (1.0, 2.0**20)
    )
    np.testing.assert_allclose(large, small * 2.0**20, rtol=1e-5)


@pytest.mark.parametrize(("loss", "unit"), [("poisson", 1e30), ("gamma", 1e-30), ("tweedie", 1e20)])
def test_positive_losses_know_no_unit(loss, unit):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 3))
    y = np.exp(X[:, 0] / 2)
    one, other = (
        TorchRegressor(loss, (10,), max_iter=20, random_state=0).fit(X, y * u).predict(X) / u
        for u in (1.0, unit)
    )
    np.testing.assert_allclose(other, one, rtol=1e-3)


@pytest.fixture(scope="module")
def rates():
    """2000 x 5 rows, and a signal of unit spread."""
    X = np.random.RandomState(0).normal(size=(2000, 5))
    signal = X @ [0.6, -0.4, 0.3, 0, 0] + 0.3 * np.sin(2 * X[:, 3]) * X[:, 4]
    return X, signal / signal.std()


@pytest.mark.parametrize("loss", ["poisson", "gamma", "tweedie"])
@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_means_that_hardly_differ(loss, solver, rates):
    """Their null deviance is a thousandth of that of counts near 1."""
    X, signal = rates
    y = np.random.RandomState(1).poisson(1e4 * np.exp(0.03 * signal))
    net = TorchRegressor(loss, solver=solver, max_iter=200, random_state=0).fit(X[:1000], y[:1000])
    assert r2_score(y[1000:], net.predict(X[1000:])) > (0.85 if solver != "lbfgs" else 0.8)
    if solver != "lbfgs":
        assert net.loss_curve_[0] > 0.3  # a half is that of a constant
        reg = TorchRegressor(loss, solver=solver, learning_rate_init=0.02, random_state=0)
        for k in [*range(0, 2000, 50)] * 4:
            reg.partial_fit(X[k : k + (1 if k == 0 else 50)], y[k : k + (1 if k == 0 else 50)])
        assert r2_score(y, reg.predict(X)) > 0.85


def test_counts_as_they_often_are(rates):
    X, signal = rates
    y = np.random.RandomState(1).poisson(3 * np.exp(0.5 * signal))
    net = TorchRegressor("poisson", early_stopping=True, random_state=0).fit(X[:1500], y[:1500])
    linear = PoissonRegressor(alpha=1e-4).fit(X[:1500], y[:1500])
    ours, theirs = (d2_tweedie_score(y[1500:], m.predict(X[1500:]), power=1) for m in (net, linear))
    assert ours > theirs - 0.02
