"""Accuracy that is promised: of the defaults in cross-validation, and of two classics."""

import numpy as np
import pytest
from sklearn import datasets
from sklearn.model_selection import (
    KFold,
    StratifiedKFold,
    cross_val_score,
    cross_validate,
    train_test_split,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from torchsk import TorchClassifier, TorchRegressor

FLOORS = {
    "breast_cancer": (datasets.load_breast_cancer, TorchClassifier, 0.97),
    "digits": (datasets.load_digits, TorchClassifier, 0.965),
    "wine": (datasets.load_wine, TorchClassifier, 0.965),
    "iris": (datasets.load_iris, TorchClassifier, 0.94),
    "diabetes": (datasets.load_diabetes, TorchRegressor, 0.40),
    "friedman1": (
        lambda return_X_y: datasets.make_friedman1(2000, noise=1, random_state=0),
        TorchRegressor,
        0.93,
    ),
}


@pytest.mark.parametrize("name", FLOORS)
def test_defaults_in_five_fold_cross_validation(name):
    load, estimator_class, floor = FLOORS[name]
    X, y = load(return_X_y=True)
    splitter = StratifiedKFold if estimator_class is TorchClassifier else KFold
    scores = cross_val_score(
        make_pipeline(StandardScaler(), estimator_class(random_state=0)),
        X,
        y,
        cv=splitter(5, shuffle=True, random_state=0),
    )
    assert scores.mean() >= floor


def test_logistic_regression_of_one_neuron():
    """A neuron with a sigmoid, bce, 1000 full-batch epochs of plain sgd: 0.96 train, 0.94 test."""
    X, y = datasets.make_regression(200, 1, noise=20, random_state=0)
    y = np.round(1 / (1 + np.exp(-y)))
    neuron = TorchClassifier(
        (),
        loss="bce",
        learning_rate_init=0.02,
        momentum=0.5,
        nesterovs_momentum=False,
        batch_size=150,
        max_iter=1000,
        n_iter_no_change=1000,
        alpha=0,
        standardize=False,
        random_state=0,
    )
    result = cross_validate(
        neuron, X, y, cv=StratifiedKFold(4, shuffle=True, random_state=0), return_train_score=True
    )
    assert result["train_score"].mean() >= 0.95
    assert result["test_score"].mean() >= 0.94


def test_breast_cancer_with_15_hidden_nodes(breast_cancer):
    """455 rows to train, 114 to test: 0.96 test accuracy, 8 of 569 wrong with a small penalty."""
    X, y = breast_cancer
    scores, n_wrong = [], []
    for seed in range(5):
        X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=114, random_state=seed)
        network = TorchClassifier((15,), loss="bce", random_state=0).fit(X_train, y_train)
        scores.append(network.score(X_test, y_test))
        # the default penalty keeps it from getting every training row right
        network.set_params(alpha=1e-4).fit(X_train, y_train)
        n_wrong.append((network.predict(X) != y).sum())
    assert np.mean(scores) >= 0.96
    assert np.mean(n_wrong) <= 8
