"""To start or to go on: partial_fit, warm_start, another solver."""

import numpy as np
import pytest
from networks import Classifier, Regressor

from torchsk._fitting import _generator


def test_partial_fit_learns_from_a_stream(digits):
    X, y = digits
    model = Classifier()
    for epoch in range(15):
        for start in range(0, 400, 100):
            rows = slice(start, start + 100)
            classes = np.arange(10) if epoch == start == 0 else None
            assert model.partial_fit(X[rows], y[rows], classes=classes) is model
    assert model.score(X[400:], y[400:]) > 0.85
    assert model.t_ == 15 * 400
    assert len(model.loss_curve_) == 60


def test_partial_fit_of_a_regressor(friedman1):
    X, y = friedman1
    model = Regressor()
    for _ in range(70):
        model.partial_fit(X, y)
    assert model.score(X, y) > 0.8


def test_solver_may_change_between_calls(iris):
    X, y = iris
    model = Classifier()
    for solver in ("sgd", "adam", "adagrad", "sgd"):
        model.set_params(solver=solver).partial_fit(X, y, classes=[0, 1, 2])
    assert len(model.loss_curve_) == 4
    model.set_params(solver="lbfgs").fit(X, y)
    assert not hasattr(model, "loss_curve_")
    assert not hasattr(model, "best_loss_")
    assert model.set_params(solver="adam").partial_fit(X, y).score(X, y) > 0.97


def test_partial_fit_errors(iris):
    X, y = iris
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        Classifier().partial_fit(X, y)
    model = Classifier().partial_fit(X[:100], y[:100], classes=[0, 1])
    with pytest.raises(ValueError, match="`y` has classes not in `self.classes_`"):
        model.partial_fit(X, y)
    with pytest.raises(ValueError, match="is not the same as on last call"):
        model.partial_fit(X[:100], y[:100], classes=[0, 1, 2])
    np.testing.assert_array_equal(model.partial_fit(X[:100], y[:100]).classes_, [0, 1])
    with pytest.raises(ValueError, match="class_weight must be None or a dict in partial_fit"):
        Classifier(class_weight="balanced").partial_fit(X, y, classes=[0, 1, 2])
    for make in (Classifier, Regressor):
        assert not hasattr(make(solver="lbfgs"), "partial_fit")
        assert hasattr(make(solver="adam"), "partial_fit")


def test_warm_start_goes_on(iris):
    X, y = iris
    model = Classifier(max_iter=5, warm_start=True).fit(X, y)
    losses = [model.fit(X, y).loss_ for _ in range(4)]
    assert losses == sorted(losses, reverse=True)
    assert model.n_iter_ == 5
    assert len(model.loss_curve_) == 25
    with pytest.raises(ValueError, match="warm_start can only be used where `y` has the same"):
        model.fit(X[:100], y[:100])
    with pytest.raises(ValueError, match="hidden_layer_sizes"):
        model.set_params(hidden_layer_sizes=(7,)).fit(X, y)
    with pytest.raises(ValueError, match="X has 2 features"):
        model.set_params(hidden_layer_sizes=(16,)).fit(X[:, :2], y)
    assert model.n_features_in_ == 4


@pytest.mark.parametrize("seed", [0, 1, 42, 2**32 - 1, np.int64(7), True])
def test_a_seed_gives_numpys_generator(seed):
    ours, theirs = _generator(seed), np.random.RandomState(seed)
    for state, expected in zip(ours.get_state(), theirs.get_state(), strict=True):
        np.testing.assert_array_equal(state, expected)
    np.testing.assert_array_equal(ours.normal(size=1301), theirs.normal(size=1301))
    assert _generator(theirs) is theirs
