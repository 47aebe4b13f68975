"""TorchClassifier: what its predictions mean."""

import numpy as np
import pytest
from networks import Classifier
from scipy.special import log_expit, log_softmax
from sklearn import datasets
from torch import nn


@pytest.mark.parametrize("loss", ["log_loss", "cross_entropy"])
def test_one_class_alone_is_certain(loss, iris):
    X, y = iris
    model = Classifier(loss=loss).fit(X[:50], y[:50] + 7)
    np.testing.assert_array_equal(model.predict(X), np.full(150, 7))
    np.testing.assert_array_equal(model.predict_proba(X), np.ones((150, 1)))
    np.testing.assert_array_equal(model.predict_log_proba(X), np.zeros((150, 1)))


def test_multilabel():
    X, Y = datasets.make_multilabel_classification(200, n_classes=4, random_state=0)
    model = Classifier(max_iter=100).fit(X, Y)
    assert model.predict(X).shape == model.predict_proba(X).shape == Y.shape
    np.testing.assert_array_equal(model.predict(X), model.decision_function(X) > 0)
    assert np.mean(model.predict(X) == Y) > 0.9
    assert model.classes_.tolist() == [0, 1, 2, 3]


TARGETS = {
    "binary": lambda y: (y > 0).astype(int),
    "multiclass": lambda y: y,
    "multilabel": lambda y: np.c_[y > 0, y > 1, y == 1].astype(int),
}
#: what a module must end in
ENDS = {"bce": nn.Sigmoid, "nll": lambda: nn.LogSoftmax(-1)}
LOSSES = [
    *((loss, kind) for loss in ("log_loss", "focal") for kind in TARGETS),
    *((loss, kind) for loss in ("cross_entropy", "nll") for kind in ("binary", "multiclass")),
    *(("bce", kind) for kind in ("binary", "multilabel")),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("loss", "kind"), LOSSES)
@pytest.mark.parametrize("lane", ["built-in", "module"])
def test_log_probabilities_of_confident_rows(lane, loss, kind, dtype, iris):
    X, y = iris[0], TARGETS[kind](iris[1])

    def linear(n_features, n_outputs):
        return nn.Sequential(nn.Linear(n_features, n_outputs), ENDS.get(loss, nn.Identity)())

    model = Classifier(loss=loss, module=linear if lane == "module" else None, max_iter=20).fit(
        X, y
    )
    far = (1000 * X).astype(dtype)
    log_proba, decision = model.predict_log_proba(far), model.decision_function(far)
    expected = {
        "binary": lambda: log_expit(np.c_[-decision, decision]),
        "multilabel": lambda: log_expit(decision),
        "multiclass": lambda: log_softmax(decision, axis=1),
    }[kind]()
    assert log_proba.dtype == far.dtype
    assert abs(decision).max() > 80
    np.testing.assert_allclose(
        log_proba, expected, rtol=1e-5 if dtype == "float32" else 1e-12, atol=1e-37
    )
    np.testing.assert_allclose(np.exp(log_proba), model.predict_proba(far), atol=1e-6)
