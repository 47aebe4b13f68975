"""What both estimators share: fitted attributes, raw outputs, the module."""

import inspect
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sklearn
import torch
from networks import Classifier, Regressor
from sklearn.preprocessing import StandardScaler
from torch import nn

from torchsk import TorchClassifier, TorchRegressor


def test_fitted_attributes(clf, reg):
    for model, n_features, n_outputs, activation in [
        (clf, 4, 3, "softmax"),
        (reg, 10, 1, "identity"),
    ]:
        assert [coef.shape for coef in model.coefs_] == [(n_features, 16), (16, n_outputs)]
        assert [b.shape for b in model.intercepts_] == [(16,), (n_outputs,)]
        assert (model.n_layers_, model.n_outputs_) == (3, n_outputs)
        assert model.out_activation_ == activation
        assert model.device_ == "cpu"
        assert model.loss_ == model.loss_curve_[-1]
        assert model.best_loss_ == min(model.loss_curve_)
        assert model.n_iter_ == len(model.loss_curve_) <= 100
        assert model.t_ == model.n_iter_ * (150 if n_features == 4 else 442)


def test_unfitted_has_no_fitted_attributes():
    for name in ("coefs_", "intercepts_", "module_", "loss_", "classes_"):
        assert not hasattr(Classifier(), name)
    with pytest.raises(sklearn.exceptions.NotFittedError):
        Regressor().predict([[0.0]])


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_coefs_predict_by_hand(standardize, dtype, wine, diabetes):
    for model, (X, y), output in [
        (Classifier(activation="tanh"), wine, "decision_function"),
        (Regressor(activation="tanh"), diabetes, "predict"),
    ]:
        X = X.astype(dtype)
        model.set_params(standardize=standardize, hidden_layer_sizes=(8, 4)).fit(X, y)
        layer = X.astype(np.float64)
        for coef, intercept in zip(model.coefs_[:-1], model.intercepts_[:-1]):
            layer = np.tanh(layer @ coef + intercept)
        by_hand = layer @ model.coefs_[-1] + model.intercepts_[-1]
        given = getattr(model, output)(X)
        tol = 1e-8 if dtype == np.float64 else 1e-3
        np.testing.assert_allclose(given, by_hand.reshape(given.shape), rtol=tol, atol=tol)


@pytest.mark.parametrize("activation", ["relu", ["gelu", "tanh"], nn.Hardswish])
def test_module_gives_raw_outputs(activation, iris, diabetes):
    sizes = {"hidden_layer_sizes": (8, 6), "activation": activation, "dropout": 0.1}
    for model, (X, y), output in [
        (Classifier(), iris, "decision_function"),
        (Regressor(), diabetes, "predict"),
    ]:
        module = model.set_params(**sizes).fit(X, y).module_
        assert isinstance(module, nn.Module)
        with torch.no_grad():
            raw = module(torch.tensor(X, dtype=torch.float32)).numpy()
        given = getattr(model, output)(X)
        np.testing.assert_allclose(raw.reshape(given.shape), given, rtol=1e-3, atol=1e-4)
        with torch.no_grad():  # an export: nobody's weights are shared
            next(module.parameters()).zero_()
        np.testing.assert_array_equal(getattr(model, output)(X), given)


def test_standardize_is_a_standard_scaler_in_front(wine):
    X, y = wine
    Z = StandardScaler().fit_transform(X)
    inside = Classifier().fit(X, y).predict_proba(X)
    outside = Classifier(standardize=False).fit(Z, y).predict_proba(Z)
    np.testing.assert_allclose(inside, outside, atol=1e-4)
    raw = Classifier(standardize=False).fit(X, y)
    assert raw.score(X, y) < Classifier().fit(X, y).score(X, y)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_predictions_have_the_dtype_of_X(dtype, clf, reg, iris, diabetes):
    X, Z = iris[0].astype(dtype), diabetes[0].astype(dtype)
    for output in (clf.predict_proba(X), clf.decision_function(X), reg.predict(Z)):
        assert output.dtype == dtype
    assert clf.fit(*iris) is clf  # refit below changes nothing
    model = Classifier(max_iter=2).fit(X, iris[1])
    assert {array.dtype for array in (*model.coefs_, *model.intercepts_)} == {np.dtype(dtype)}


def test_one_row_alone_is_the_row_among_all(clf, reg, iris, diabetes):
    for predict, X in [
        (clf.predict_proba, iris[0]),
        (clf.decision_function, iris[0]),
        (reg.predict, diabetes[0]),
    ]:
        whole = predict(X)
        alone = np.concatenate([predict(X[i : i + 1]) for i in range(len(X))])
        np.testing.assert_allclose(alone, whole, rtol=1e-12, atol=1e-12)


def test_predicting_leaves_the_model_alone(clf, iris):
    before = pickle.dumps(clf)
    clf.predict(iris[0]), clf.predict_proba(iris[0]), clf.coefs_, clf.module_
    assert pickle.dumps(clf) == before


def test_weights_cannot_be_written_to(clf):
    for array in (*clf.coefs_, *clf.intercepts_):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_names_of_parameters_are_read_once_per_class(monkeypatch):
    class Own(TorchClassifier):
        def __init__(self, alpha=1.0, *, mine=2):
            super().__init__(alpha=alpha)
            self.mine = mine

    names = set(TorchClassifier().get_params())
    assert set(Own().get_params()) == {"alpha", "mine"}
    assert set(TorchRegressor().get_params()) != names == set(TorchClassifier().get_params())
    monkeypatch.delattr(inspect, "signature")
    assert set(TorchClassifier().get_params()) == names
    assert Own(alpha=3.0).set_params(mine=4).get_params() == {"alpha": 3.0, "mine": 4}


def test_defaults_are_checked_once_per_class():
    class Own(TorchClassifier):
        def __init__(self, max_iter=-1, alpha=1e-4):
            super().__init__(max_iter=max_iter, alpha=alpha)

    X, y = np.eye(4), [0, 1, 0, 1]
    with pytest.raises(ValueError, match="'max_iter' parameter of Own must be an int"):
        Own().fit(X, y)
    Own(max_iter=1).fit(X, y)
    with pytest.raises(ValueError, match="'alpha' parameter of Own must be"):
        Own(max_iter=1, alpha=-1.0).fit(X, y)


def test_parameters_are_checked_whatever_the_class_looks_like():
    class Made(TorchClassifier):
        def __new__(cls, *args, **kwargs):
            return super().__new__(cls)

    class Strict(TorchClassifier):
        _parameter_constraints = {**TorchClassifier._parameter_constraints, "tol": ["no such"]}

    X, y = np.eye(4), [0, 1, 0, 1]
    with pytest.raises(ValueError, match="'tol' parameter of Made must be"):
        Made(max_iter=1, tol="x").fit(X, y)
    for _ in range(2):
        with pytest.raises(ValueError, match="Unknown constraint type"):
            Strict(max_iter=1).fit(X, y)


def test_parameters_are_checked_in_threads():
    X, y = np.eye(4), [0, 1, 0, 1]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(20):
            own = type("Own", (TorchClassifier,), {})
            nets = [own(max_iter=1, scoring=value) for value in (3, None) * 3]
            with ThreadPoolExecutor(len(nets)) as pool:
                fits = [pool.submit(net.fit, X, y) for net in nets]
            errors = [fit.exception() for fit in fits]
            assert [type(error) for error in errors[1::2]] == [type(None)] * 3
            assert all("'scoring' parameter of Own must be" in str(e) for e in errors[::2])
    finally:
        sys.setswitchinterval(interval)
