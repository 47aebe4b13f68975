"""TorchClassifier: what its predictions mean."""

import numpy as np
import pytest
from networks import Classifier
from sklearn import datasets


@pytest.mark.parametrize("loss", ["log_loss", "cross_entropy"])
def test_one_class_alone_is_certain(loss, iris):
    X, y = iris
    model = Classifier(loss=loss).fit(X[:50], y[:50] + 7)
    np.testing.assert_array_equal(model.predict(X), np.full(150, 7))
    np.testing.assert_array_equal(model.predict_proba(X), np.ones((150, 1)))


def test_multilabel():
    X, Y = datasets.make_multilabel_classification(200, n_classes=4, random_state=0)
    model = Classifier(max_iter=100).fit(X, Y)
    assert model.predict(X).shape == model.predict_proba(X).shape == Y.shape
    np.testing.assert_array_equal(model.predict(X), model.decision_function(X) > 0)
    assert np.mean(model.predict(X) == Y) > 0.9
    assert model.classes_.tolist() == [0, 1, 2, 3]
