"""Weights of samples and classes: zero is absence, k is k rows, a class is its samples."""

import numpy as np
from networks import Classifier, Regressor, mlp
from sklearn import datasets
from sklearn.base import clone
from sklearn.utils.class_weight import compute_sample_weight

from torchsk import TorchClassifier


def test_zero_weight_is_absence(wine):
    X, y = wine
    weight = (np.arange(178) % 3 > 0).astype(float)
    kept = weight > 0
    np.testing.assert_array_equal(
        Classifier().fit(X, y, weight).coefs_[0], Classifier().fit(X[kept], y[kept]).coefs_[0]
    )


def test_whole_weights_are_repeats(diabetes):
    X, y = diabetes[0][:60], diabetes[1][:60]
    weight = np.arange(60) % 4
    repeated = Regressor().fit(np.repeat(X, weight, axis=0), np.repeat(y, weight))
    np.testing.assert_array_equal(repeated.predict(X), Regressor().fit(X, y, weight).predict(X))


def test_weights_matter_in_mini_batches_too(breast_cancer):
    X, y = breast_cancer
    weight = np.where(y == 0, 0.05, 1.0)
    plain, weighted = (Classifier().fit(X, y, w).predict_proba(X)[:, 1] for w in (None, weight))
    assert weighted.mean() > plain.mean()
    scaled = Classifier().fit(X, y, np.ones(569)).predict_proba(X)[:, 1]
    np.testing.assert_allclose(scaled, plain, atol=1e-4)


def test_class_weight_of_labels():
    X, Y = datasets.make_multilabel_classification(150, n_classes=3, random_state=0)
    for class_weight in ({0: 1, 1: 9}, [{0: 1, 1: 9}] * 3):
        heavy = Classifier(class_weight=class_weight).fit(X, Y).predict_proba(X)
        by_sample = Classifier().fit(X, Y, compute_sample_weight([{0: 1, 1: 9}] * 3, Y))
        np.testing.assert_allclose(heavy, by_sample.predict_proba(X), atol=1e-5)


def test_a_class_without_weight_may_be_balanced(iris):
    X, y = iris
    net = TorchClassifier((5,), class_weight="balanced", max_iter=50, random_state=0)
    net.fit(X, y, np.where(y == 0, 0.0, 1.0))
    assert set(net.predict(X[y > 0])) == {1, 2}


def test_class_weight_and_the_weight_zero(iris):
    X, y = iris
    keep = y != 2
    est = TorchClassifier(module=mlp, max_iter=30, random_state=0)
    balanced = clone(est).set_params(class_weight={0: 0.0, 1: 1.0, 2: 1.0}, batch_size=150)
    assert (balanced.fit(X, y).predict(X[y == 0]) > 0).all()
    zero = clone(est).fit(X, y, keep.astype(float))
    assert (zero.predict(X[~keep]) < 2).all()
    batch_without = clone(est).set_params(batch_size=50, shuffle=False)
    assert np.isfinite(batch_without.fit(X, y, keep.astype(float)).loss_)
