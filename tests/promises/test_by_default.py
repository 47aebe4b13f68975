"""Defaults: accurate, indifferent to units of weights and to repeats, readable after the fit."""

import warnings

import joblib
import numpy as np
import pytest
from sklearn.datasets import make_classification, make_moons
from sklearn.ensemble import AdaBoostClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import (
    GridSearchCV,
    StratifiedKFold,
    cross_val_score,
    train_test_split,
)
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import StandardScaler
from torch import nn

from torchsk import TorchClassifier, TorchRegressor, from_sklearn
from torchsk._training import StackLane

ESTIMATORS = [TorchClassifier, TorchRegressor]


def _distinct(n=40, kind=TorchClassifier):
    rng = np.random.RandomState(0)
    X = rng.normal(size=(n, 5))
    y = X[:, 0] + X[:, 1] ** 2 + 0.1 * rng.normal(size=n)
    return X, (y > y.mean()).astype(int) if kind is TorchClassifier else y


# -- weights and repeats --


@pytest.mark.parametrize("kind", ESTIMATORS)
@pytest.mark.parametrize("params", [{}, {"dropout": 0.2}, {"solver": "adam"}, {"solver": "lbfgs"}])
@pytest.mark.parametrize("n", [40, 140])
def test_a_row_of_weight_k_is_k_rows(kind, params, n):
    X, y = _distinct(n, kind)
    weight = np.random.RandomState(1).randint(0, 7, size=n)
    weight[:2] = 1, 0
    order = np.random.RandomState(2).permutation(np.repeat(np.arange(n), weight))
    assert len(order) <= 1000
    weighed = kind(random_state=0, **params).fit(X, y, sample_weight=weight)
    repeated = kind(random_state=0, **params).fit(X[order], y[order])
    for name in ("alpha_", "batch_size_", "dropout_"):
        assert getattr(weighed, name) == getattr(repeated, name)
    for found, expected in zip(repeated.coefs_, weighed.coefs_):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_the_scale_of_the_weights_does_not_matter(kind):
    X, y = _distinct(300, kind)
    weight = np.random.RandomState(1).uniform(0.5, 2, size=300)
    nets = [kind(random_state=0).fit(X, y, scale * weight) for scale in (1, 1e-6, 1e6)]
    for net in nets[1:]:
        np.testing.assert_allclose(net.coefs_[0], nets[0].coefs_[0], rtol=1e-3, atol=1e-4)


def test_boosting_by_weights_that_sum_to_one(breast_cancer):
    X, y = breast_cancer

    def score(**params):
        net = TorchClassifier(max_iter=20, random_state=0, **params)
        boosted = AdaBoostClassifier(net, n_estimators=3, random_state=0)
        return cross_val_score(boosted, X, y, cv=3).mean()

    assert score() > 0.95
    # a number is multiplied by n in effect, as in scikit-learn
    assert score(alpha=1.0) < 0.7
    assert score(alpha=1.0 / len(y)) > 0.95


@pytest.mark.parametrize("params", [{}, {"solver": "lbfgs", "max_iter": 20}, {"solver": "adam"}])
def test_a_number_for_alpha_counts_by_the_sum_of_the_weights(params, breast_cancer):
    X, y = breast_cancer
    n = len(y)
    ones = TorchClassifier(alpha=0.5, random_state=0, **params).fit(X, y, np.ones(n))
    shares = TorchClassifier(alpha=0.5 / n, random_state=0, **params).fit(X, y, np.full(n, 1 / n))
    expected = ones.predict_proba(X)
    np.testing.assert_allclose(shares.predict_proba(X), expected, atol=1e-3)
    shares = shares.set_params(alpha=0.5).fit(X, y, np.full(n, 1 / n))
    assert abs(shares.predict_proba(X) - expected).max() > 0.3


# -- units and dtypes --


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_units_dtypes_and_the_order_of_rows_do_not_matter(kind):
    X, y = _distinct(300, kind)
    X = X.astype(np.float32)
    order = np.random.RandomState(0).permutation(300)
    net = kind(random_state=0).fit(X, y)
    for scale in (1, 3, 1e-4):
        other = kind(random_state=0).fit((X * scale)[order].astype(np.float64), y[order])
        np.testing.assert_allclose(other.predict(X * scale), net.predict(X), atol=1e-3)


# -- n and n + 1 --


@pytest.mark.parametrize("n", [320, 326])
def test_a_row_more_changes_no_more_than_that(n):
    X, y = make_classification(n + 400, 20, n_informative=8, flip_y=0.1, random_state=0)
    norms = [
        np.linalg.norm(TorchClassifier(random_state=0).fit(X[:m], y[:m]).coefs_[0])
        for m in (n, n + 1)
    ]
    assert norms[0] == pytest.approx(norms[1], rel=0.05)


@pytest.mark.parametrize("n", [150, 569, 1003, 2002])
def test_folds_that_differ_by_a_row_train_in_one_stack(n, monkeypatch):
    sizes, train = [], StackLane.train

    def spy(self, jobs, *args, **kwargs):
        sizes.append(len(jobs))
        return train(self, jobs, *args, **kwargs)

    monkeypatch.setattr(StackLane, "train", spy)
    X, y = make_classification(n, 20, random_state=0)
    search = GridSearchCV(TorchClassifier((8,), max_iter=2), {"tol": [1, 2]}, cv=5, refit=False)
    with joblib.parallel_config("torchsk"):
        search.fit(X, y)
    assert sizes == [10]


# -- what "auto" became --


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_what_auto_became_is_a_number_to_centre_a_grid_on(kind):
    X, y = _distinct(1200, kind)  # too many for equal rows to be merged
    net = kind(random_state=0).fit(X, y)
    assert net.dropout_ == [0.0]
    assert net.learning_rate_init_ == 0.2
    same = kind(
        random_state=0,
        alpha=net.alpha_,
        batch_size=net.batch_size_,
        dropout=net.dropout_,
        learning_rate_init=net.learning_rate_init_,
    ).fit(X, y)
    for name in ("alpha_", "batch_size_", "dropout_", "learning_rate_init_"):
        assert getattr(same, name) == getattr(net, name)
    norms = [np.linalg.norm(n.coefs_[0]) for n in (same, net)]
    assert norms[0] == pytest.approx(norms[1], rel=0.02)


def test_what_auto_became_follows_the_solver_and_the_call():
    X, y = _distinct(100)
    rates = {"sgd": 0.2, "adam": 0.02, "adamw": 0.02, "rmsprop": 0.005, "adagrad": 0.2}
    for solver, rate in rates.items():
        assert TorchClassifier(solver=solver, max_iter=1).fit(X, y).learning_rate_init_ == rate
    net = TorchClassifier().partial_fit(X, y, classes=[0, 1])
    assert net.learning_rate_init_ == 0.05
    net = TorchClassifier(learning_rate="constant", max_iter=2).fit(X, y)
    assert net.learning_rate_init_ == 0.05
    net = TorchClassifier(module=nn.Linear, max_iter=2).fit(X, y)
    assert (net.learning_rate_init_, net.alpha_) == (0.05, 0.0001)
    assert not hasattr(net, "dropout_")
    wide = TorchClassifier((20, 5), max_iter=1).fit(*make_classification(1500, 20, random_state=0))
    assert wide.dropout_ == [0.1, 0.0]


# -- the schedule runs to its end --


@pytest.mark.parametrize("schedule", ["onecycle", "cosine"])
def test_max_iter_is_the_length_of_the_schedule(schedule):
    X, y = _distinct(100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = TorchClassifier(learning_rate=schedule, max_iter=30, tol=10.0).fit(X, y)
    assert net.n_iter_ == 30
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(3\)"):
        TorchClassifier(learning_rate="constant", max_iter=3).fit(X, y)
    assert TorchClassifier(learning_rate="constant", tol=10.0, max_iter=50).fit(X, y).n_iter_ < 20


def test_partial_fit_has_no_end_to_come_down_to():
    X, y = _distinct(100)
    net = TorchClassifier(max_iter=5, random_state=0)
    for _ in range(12):
        before = None if not hasattr(net, "coefs_") else net.coefs_[0]
        net.partial_fit(X, y, classes=[0, 1])
    assert abs(net.coefs_[0] - before).max() > 1e-4


def test_a_rate_of_the_mlp_is_too_small_and_says_so():
    X, y = make_classification(400, 20, n_informative=8, random_state=0)
    with pytest.warns(ConvergenceWarning, match=r"learning_rate_init=0\.001.*0\.2"):
        TorchClassifier(learning_rate_init=0.001, random_state=0).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TorchClassifier(learning_rate_init=0.1, random_state=0).fit(X, y)
        TorchClassifier(random_state=0).fit(X, y)


@pytest.mark.parametrize("settings", [
    {"learning_rate_init": 5}, {"learning_rate_init": 1000}, {"solver": "adam"},
    {"skorch_callbacks": []},
], ids=["sgd", "far above", "adam", "skorch"])  # fmt: skip
def test_a_rate_of_which_the_network_dies_says_so(settings, breast_cancer):
    X, y = breast_cancer
    Z = StandardScaler().fit_transform(X)
    words = r"the same for all rows: learning_rate_init=\d+ is far"
    net = TorchClassifier(random_state=0, learning_rate_init=5).set_params(**settings)
    with pytest.warns(ConvergenceWarning, match=words):
        net.fit(Z, y)
    assert len(set(net.predict(Z))) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert net.set_params(solver="sgd", learning_rate_init=1).fit(Z, y).score(Z, y) > 0.95


def test_a_network_that_has_nothing_to_learn_is_not_said_to_have_died():
    rng = np.random.RandomState(0)
    X, y = rng.normal(size=(200, 3)), rng.normal(size=200)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TorchRegressor(alpha=1e3, random_state=0).fit(X, y)  # constant, at the usual rate


def test_from_sklearn_warns_of_nothing_new():
    X, y = _distinct(60)
    for mlp, target in ((MLPClassifier(max_iter=3), y), (MLPRegressor(max_iter=3), X[:, 0])):
        told = []
        for net in (mlp, from_sklearn(mlp)):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                net.fit(X, target)
            told.append({str(w.category) for w in caught})
        assert told[1] <= told[0]


def test_lbfgs_does_what_was_planned_in_silence():
    X, y = _distinct(60, TorchRegressor)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = TorchRegressor(solver="lbfgs", random_state=0).fit(X, y)
    assert net.n_iter_ == 50
    with pytest.warns(ConvergenceWarning, match="lbfgs failed to converge"):
        TorchRegressor(solver="lbfgs", learning_rate="constant", max_iter=2).fit(X, y)


# -- early stopping --


@pytest.mark.parametrize("scoring", ["loss", None, "r2", "neg_mean_squared_error"])
def test_constant_targets_are_predicted_under_every_scoring(scoring):
    X = np.random.RandomState(0).normal(size=(80, 3))
    net = TorchRegressor(early_stopping=True, scoring=scoring, random_state=0)
    np.testing.assert_allclose(net.fit(X, np.ones(80)).predict(X), 1.0, atol=0.05)


def test_scores_are_scores_and_losses_are_losses(breast_cancer):
    X, y = breast_cancer
    split = dict(zip(("X", "X_val", "y", "y_val"), train_test_split(X, y, random_state=0)))
    net = TorchClassifier(early_stopping=True, random_state=0).fit(**split)
    assert 0.9 < net.best_validation_score_ <= 1
    best = int(np.argmin(net.validation_loss_curve_))
    assert net.best_validation_score_ == net.validation_scores_[best]
    assert net.score(split["X_val"], split["y_val"]) == pytest.approx(net.best_validation_score_)


def test_held_out_rows_are_weighed_by_classes_as_training_is():
    X, y = make_moons(300, noise=0.3, random_state=0)
    X_val, y_val = make_moons(100, noise=0.3, random_state=1)
    weights = {0: 50, 1: 1}
    net = TorchClassifier(class_weight=weights, early_stopping=True, random_state=0)
    net.fit(X, y, X_val=X_val, y_val=y_val)
    curve = np.array(net.validation_loss_curve_)
    assert curve.min() < 0.5 * curve[0]
    proba = net.predict_proba(X_val)[np.arange(100), y_val]
    weight = np.where(y_val == 0, 50, 1)
    assert np.average(-np.log(proba), weights=weight) == pytest.approx(curve.min(), rel=1e-3)


RARE = [
    ([50, 1, 3], 0.1), ([30, 2], 0.1), ([20, 1], 0.1), ([10] * 12, 0.05), ([1] * 20, 0.2),
    ([40, 4, 4, 4], 0.1),
]  # fmt: skip


@pytest.mark.parametrize(("counts", "fraction"), RARE)
def test_every_class_keeps_a_row_to_train_on(counts, fraction):
    y = np.repeat(np.arange(len(counts)), counts)
    X = np.random.RandomState(0).normal(size=(len(y), 3)) + y[:, None]
    net = TorchClassifier(early_stopping=True, validation_fraction=fraction, random_state=0)
    net.set_params(max_iter=3, n_iter_no_change=5).fit(X, y)
    assert len(net.classes_) == len(counts)
    assert np.isfinite(net.predict_proba(X)).all()


@pytest.mark.parametrize("n_classes", [2, 3])
def test_held_out_rows_stay_scikit_learns_where_every_class_has_some(n_classes):
    X, y = make_classification(
        200, 10, n_informative=5, n_classes=n_classes, weights=None, random_state=0
    )
    params = {"early_stopping": True, "max_iter": 3, "random_state": 0}
    mlp = MLPClassifier((8,), **params).fit(X, y)
    ours = from_sklearn(MLPClassifier((8,), **params)).fit(X, y)
    np.testing.assert_allclose(ours.validation_scores_, mlp.validation_scores_)


# -- accuracy --


def test_a_default_fit_is_as_good_as_the_mlp_on_the_first_data_sets(iris, wine, breast_cancer):
    for X, y in (iris, wine, breast_cancer):
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        assert cross_val_score(TorchClassifier(random_state=0), X, y, cv=folds).mean() > 0.95


@pytest.mark.parametrize("hidden", [(100,), (16, 8), (50, 50, 50)])
def test_layers_of_sigmoids_learn(hidden, iris):
    """What serves relu would shrink them to nothing."""
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    net = TorchClassifier(hidden, activation="logistic", random_state=0)
    assert cross_val_score(net, *iris, cv=folds).mean() > 0.9


@pytest.mark.parametrize("hidden", [2, 4, 5, 15])
def test_tiny_layers_learn(hidden, breast_cancer):
    X, y = breast_cancer
    net = TorchClassifier(hidden, random_state=0)
    assert cross_val_score(net, X, y, cv=3).mean() > 0.95
