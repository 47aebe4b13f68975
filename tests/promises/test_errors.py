"""Errors name the argument, and a fit that fails loses nothing."""

import pickle

import numpy as np
import pandas as pd
import pytest
import skorch.callbacks as cbs
from networks import Classifier, Regressor, mlp
from sklearn.base import clone

from torchsk import TorchClassifier, TorchRegressor

FEATURES = ["a", "b", "c", "d"]


def _with(array, value):
    array = np.array(array, dtype=float)
    array.flat[3] = value
    return array


BAD_DATA = {
    "X_val alone": ({"X_val": np.ones((3, 4))}, r"^X_val and y_val must be given together"),
    "y_val alone": ({"y_val": np.ones(3)}, r"^X_val and y_val must be given together"),
    "X_val of other width": (
        {"X_val": np.ones((3, 5)), "y_val": np.ones(3)},
        r"X has 5 features, but .* is expecting 4",
    ),
    "X_val of other length": ({"X_val": np.ones((3, 4)), "y_val": np.ones(2)}, "inconsistent"),
    "NaN in X_val": (
        {"X_val": np.full((3, 4), np.nan), "y_val": np.ones(3)},
        r"contains NaN",
    ),
    "zero weights": ({"sample_weight": np.zeros(150)}, r"at least one non-zero number"),
    "negative weights": ({"sample_weight": _with(np.ones(150), -1)}, r"[Nn]egative"),
    "NaN weights": ({"sample_weight": _with(np.ones(150), np.nan)}, r"contains NaN"),
    "few weights": ({"sample_weight": np.ones(149)}, r"sample_weight.shape"),
}


@pytest.mark.parametrize("estimator", [Classifier(), Regressor()], ids=str)
@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_fit_parameters(case, estimator, iris):
    kwargs, message = BAD_DATA[case]
    with pytest.raises(ValueError, match=message):
        clone(estimator).fit(*iris, **kwargs)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(value, iris):
    X, y = iris
    for estimator in (Classifier(), Regressor()):
        with pytest.raises(ValueError, match="Input X contains"):
            estimator.fit(_with(X, value), y)
        with pytest.raises(ValueError, match="Input y contains"):
            estimator.fit(X, _with(y, value))


def test_words_that_name_the_argument(iris):
    X, y = iris
    net = TorchClassifier((3,), max_iter=2, random_state=0)
    for class_weight in ({0: -1, 1: 1, 2: 1}, {0: np.nan}, {0: np.inf}, dict.fromkeys(range(3), 0)):
        with pytest.raises(ValueError, match=r"^sample_weight, times class_weight, must be >= 0"):
            clone(net).set_params(class_weight=class_weight).fit(X, y)
    for weight in (np.full(150, 1.7e308), np.full(150, 1e-300)):
        with pytest.raises(ValueError, match=r"^sample_weight, .* sum that float32 can divide by"):
            clone(net).fit(X, y, weight)
    net.fit(X, y)
    with pytest.raises(ValueError, match=r"^X must give outputs within the range of float64"):
        net.set_params(activation="identity").fit(X, y).predict(np.full((1, 4), 1.7e308))
    large = TorchRegressor(hidden_layer_sizes=(), max_iter=2, random_state=0)
    with pytest.raises(ValueError, match=r"^y must be within the range of float32.*X as float64"):
        large.fit(X.astype(np.float32), X[:, 0] * 1e100)
    assert np.isfinite(large.fit(X, X[:, 0] * 1e100).predict(X)).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_bad_rows_to_predict(value, dtype, clf, reg, iris, diabetes):
    for predict, X in [
        (clf.predict, iris[0]),
        (clf.predict_proba, iris[0]),
        (reg.predict, diabetes[0]),
    ]:
        with pytest.raises(ValueError, match="Input X contains"):
            predict(_with(X, value).astype(dtype))
        with pytest.raises(ValueError, match=f"X has 3 features, but .* expecting {X.shape[1]}"):
            predict(X[:, :3].astype(dtype))
        with pytest.raises(ValueError, match="Expected 2D array, got 1D array"):
            predict(X[0].astype(dtype))
        with pytest.raises(ValueError, match=r"Found array with 0 sample\(s\)"):
            predict(X[:0].astype(dtype))


def test_feature_names_are_checked(iris):
    X, y = iris
    frame = pd.DataFrame(X, columns=FEATURES)
    model = Classifier(max_iter=2).fit(frame, y)
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        model.predict(X)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[FEATURES[::-1]])
    with pytest.raises(ValueError, match="feature names should match"):
        model.fit(frame, y, X_val=frame[FEATURES[::-1]], y_val=y)


# -- a fit that fails ------------------------------------------------------------------------------


def _diverge(model, X, y):
    model.set_params(learning_rate_init=1e30, max_grad_norm=None, activation="identity").fit(X, y)


def _raise(tensor):
    raise RuntimeError("init failed")


FAILURES = {
    "NaN": lambda model, X, y: model.fit(_with(X, np.nan), y),
    "other columns": lambda model, X, y: model.fit(
        pd.DataFrame(X[:, :2]).add_prefix("f"), _with(y, np.nan)
    ),
    "weights": lambda model, X, y: model.fit(X[:, :2], y == 1, np.zeros(len(y))),
    "device": lambda model, X, y: model.set_params(device="nowhere").fit(X[:, :2], y == 1),
    "init": lambda model, X, y: model.set_params(init=_raise).fit(X[:, :2], y == 1),
    "diverged": lambda model, X, y: _diverge(model, 1e3 * X[:, :2], y),
    "validation": lambda model, X, y: model.fit(X[:, :2], y == 1, X_val=X, y_val=y),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("estimator_class", [Classifier, Regressor])
def test_a_failed_refit_loses_nothing(failure, estimator_class, iris):
    X, y = iris
    frame = pd.DataFrame(X, columns=FEATURES)
    model = estimator_class(max_iter=5, standardize=failure != "diverged").fit(frame, y)
    before, attributes = model.predict(frame), set(vars(model))
    with pytest.raises((ValueError, RuntimeError)):
        FAILURES[failure](model, X, y)
    assert set(vars(model)) == attributes
    assert model.feature_names_in_.tolist() == FEATURES
    np.testing.assert_array_equal(model.predict(frame), before)


def test_a_failed_refit_leaves_the_model(iris):
    X, y = iris
    clf = TorchClassifier(module=mlp, max_iter=5, random_state=0).fit(X, y)
    before, net = clf.predict_proba(X), clf.net_

    class Fail(cbs.Callback):
        def on_batch_end(self, net, **kwargs):
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        clf.set_params(skorch_callbacks=[Fail]).partial_fit(X, y)
    assert clf.net_ is net
    np.testing.assert_array_equal(clf.predict_proba(X), before)


def test_a_partial_fit_that_fails_leaves_the_optimizer_alone(iris):
    X, y = iris
    net = TorchClassifier(module=mlp, solver="adam", batch_size=50, random_state=0)
    net.partial_fit(X, y, classes=[0, 1, 2])
    control = pickle.loads(pickle.dumps(net))

    class Fails(cbs.Callback):
        n_batches = 0

        def on_batch_end(self, net, **kwargs):
            self.n_batches += 1
            if self.n_batches == 2:
                raise RuntimeError("third batch")

    with pytest.raises(RuntimeError, match="third batch"):
        net.set_params(skorch_callbacks=[Fails]).partial_fit(X, y)
    net.set_params(skorch_callbacks=None).partial_fit(X, y)
    control.partial_fit(X, y)
    np.testing.assert_array_equal(net.predict_proba(X), control.predict_proba(X))
