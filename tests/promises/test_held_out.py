"""Held-out rows: what is recorded of them, and early stopping by them."""

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import sklearn
from networks import Classifier, Net, Regressor
from sklearn import datasets
from sklearn.base import clone
from sklearn.metrics import get_scorer, log_loss
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler
from torch import nn

from torchsk import TorchClassifier, TorchRegressor
from torchsk._inputs import warn_of_other_scale


def test_validation_rows_are_recorded(halves):
    X, y, X_val, y_val = halves
    plain = Classifier().fit(X, y)
    model = Classifier().fit(X, y, X_val=pd.DataFrame(X_val), y_val=y_val.tolist())
    np.testing.assert_array_equal(model.coefs_[0], plain.coefs_[0])  # only recorded
    assert len(model.validation_loss_curve_) == model.n_iter_ == len(model.loss_curve_)
    assert model.validation_scores_[-1] == pytest.approx(model.score(X_val, y_val))
    loss = log_loss(y_val, model.predict_proba(X_val))
    assert model.validation_loss_curve_[-1] == pytest.approx(loss, rel=1e-4)
    assert model.best_validation_score_ is None
    assert plain.validation_loss_curve_ is plain.validation_scores_ is None


@pytest.mark.parametrize("held_out_is_sparse", [True, False])
def test_held_out_rows_may_be_sparse_beside_dense_ones(held_out_is_sparse, halves):
    """And the other way round."""
    X, y, X_val, y_val = halves
    X, X_val = X + 3, X_val + 3  # a mean that counts
    kinds = (np.asarray, sp.csr_array) if held_out_is_sparse else (sp.csr_array, np.asarray)
    rows, others = (kind(table) for kind, table in zip(kinds, (X, X_val)))
    model = Classifier().fit(rows, y, X_val=others, y_val=y_val)
    same = Classifier().fit(rows, y, X_val=kinds[0](X_val), y_val=y_val)
    np.testing.assert_allclose(model.validation_loss_curve_, same.validation_loss_curve_, rtol=1e-4)


def _count_certain(estimator, X, y):
    """A scorer: how many rows get their class with a probability above 0.99."""
    return float((estimator.predict_proba(X)[np.arange(len(y)), y] > 0.99).sum())


def _accuracy(model, X, y):
    return model.score(X, y)


SCORINGS = {
    "score": (None, _accuracy),
    "loss": ("loss", _accuracy),
    "name": ("roc_auc", get_scorer("roc_auc")),
    "callable": (_count_certain, _count_certain),
}


@pytest.mark.parametrize("scoring", SCORINGS)
def test_early_stopping_keeps_the_best_weights(scoring, halves):
    X, y, X_val, y_val = halves
    scoring, score = SCORINGS[scoring]
    model = Classifier(
        early_stopping=True, scoring=scoring, max_iter=100, alpha=0, n_iter_no_change=3
    ).fit(X, y, X_val=X_val, y_val=y_val)
    assert model.n_iter_ < 100
    assert len(set(model.validation_scores_)) > 1
    if scoring == "loss":
        best = int(np.argmin(model.validation_loss_curve_))
        kept = log_loss(y_val, model.predict_proba(X_val))
        assert kept == pytest.approx(model.validation_loss_curve_[best], rel=1e-4)
    else:
        best = int(np.argmax(model.validation_scores_))
    assert model.best_validation_score_ == model.validation_scores_[best]
    assert score(model, X_val, y_val) == pytest.approx(model.best_validation_score_, rel=1e-4)
    assert model.best_loss_ is None
    assert len(model.validation_scores_) == len(model.validation_loss_curve_) == model.n_iter_


def test_early_stopping_of_a_regressor(friedman1):
    X, y = friedman1
    model = Regressor(early_stopping=True, max_iter=300).fit(X, y)
    _, held_out = train_test_split(np.arange(200), test_size=0.1, random_state=_after_the_draws())
    assert model.score(X[held_out], y[held_out]) == pytest.approx(
        model.best_validation_score_, rel=1e-4
    )
    assert model.validation_loss_curve_[-1] < model.validation_loss_curve_[0]


def _after_the_draws():
    """random_state=0 after the weights of 10-16-1 are drawn."""
    rng = np.random.RandomState(0)
    rng.uniform(size=10 * 16 + 16 + 16 + 1)
    return rng


def test_scorers_weigh_the_held_out_rows(halves):
    X, y, *_ = halves
    weight = np.where(y == 0, 3.0, 1.0)
    models = []
    for enabled in (True, False):
        with sklearn.config_context(enable_metadata_routing=enabled):
            model = Classifier(early_stopping=True, scoring="accuracy", max_iter=5)
            models.append(model.fit(X, y, weight))
    plain = Classifier(early_stopping=True, max_iter=5).fit(X, y, weight)
    for model in models:
        np.testing.assert_allclose(model.validation_scores_, plain.validation_scores_)


def test_early_stopping_keeps_the_best(wine):
    X, y = wine
    clf = TorchClassifier(
        module=Net, early_stopping=True, scoring="neg_log_loss", n_iter_no_change=5, random_state=0,
        learning_rate_init=0.3, max_iter=60, validation_fraction=0.3,
    ).fit(X, y)  # fmt: skip
    rng = np.random.RandomState(0)
    rng.randint(2**31 - 1)
    _, X_val, _, y_val = train_test_split(X, y, random_state=rng, test_size=0.3)
    best = max(clf.validation_scores_)
    assert clf.best_validation_score_ == best
    assert -log_loss(y_val, clf.predict_proba(X_val)) == pytest.approx(best, rel=1e-5)
    assert clf.n_iter_ < 60
    recorded = clone(clf).set_params(early_stopping=False, max_iter=5, scoring=None)
    recorded.fit(X, y, X_val=X_val, y_val=y_val)
    assert recorded.validation_scores_[-1] == pytest.approx(recorded.score(X_val, y_val))


def test_early_stopping_needs_a_fraction():
    X, y = datasets.load_iris(return_X_y=True)
    with pytest.raises(ValueError, match=r"validation_fraction must be in \(0, 1\)"):
        TorchClassifier(early_stopping=True, validation_fraction=0).fit(X, y)


def test_small_classes_in_early_stopping(iris):
    """A class of one row is trained on, where scikit-learn's split raises."""
    X, y = iris
    assert Classifier(early_stopping=True).fit(X[:51], y[:51]).score(X[:51], y[:51]) == 1
    with pytest.raises(ValueError, match="least populated class"):  # one row would be held out
        Classifier(early_stopping=True).fit(X[45:51], y[45:51])


def test_weights_that_vanish_in_the_validation_rows(iris):
    X, y = iris
    weight = np.zeros(150)
    weight[0] = 1
    with pytest.raises(ValueError, match="sample_weight must not be all zero in the"):
        Classifier(early_stopping=True).fit(X, y, weight)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_a_score_without_meaning_is_recorded_or_an_error(breast_cancer):
    X, y = breast_cancer
    one_class = {"X_val": X[y == 1][:20], "y_val": y[y == 1][:20]}
    net = Classifier(scoring="roc_auc", max_iter=2)
    assert np.isnan(net.fit(X, y, **one_class).validation_scores_).tolist() == [True, True]
    with pytest.raises(ValueError, match="score was not finite in epoch 1, though the loss was"):
        net.set_params(early_stopping=True).fit(X, y, **one_class)


OTHER_SCALE = r"^X_val seems to be on another scale than X: in \d+ of {} columns .*transform_input"


@pytest.mark.parametrize("scaler", [StandardScaler(), MinMaxScaler()], ids=str)
def test_held_out_rows_that_were_not_transformed_as_the_others(scaler, halves):
    X, y, X_val, y_val = halves
    fast = TorchClassifier((4,), max_iter=1, random_state=0)
    with sklearn.config_context(enable_metadata_routing=True):
        net = clone(fast).set_fit_request(X_val=True, y_val=True)
        held_out = {"X_val": X_val, "y_val": y_val}
        with pytest.warns(UserWarning, match=OTHER_SCALE.format(30)):
            Pipeline([("scale", scaler), ("net", net)]).fit(X, y, **held_out)
        steps = [("scale", scaler), ("net", net)]
        Pipeline(steps, transform_input=["X_val"]).fit(X, y, **held_out)  # no warning
    with pytest.warns(UserWarning, match=OTHER_SCALE.format(30)):
        fast.fit(scaler.fit_transform(X), y, X_val=pd.DataFrame(X_val), y_val=y_val)


def test_a_held_out_target_that_was_not_transformed_as_the_other(diabetes):
    X, y = diabetes
    fast = TorchRegressor(hidden_layer_sizes=(4,), max_iter=1, random_state=0)
    with pytest.warns(UserWarning, match=r"^y_val seems .* What transforms y must transform y_v"):
        fast.fit(X, (y - y.mean()) / y.std(), X_val=X, y_val=y)


@pytest.mark.parametrize("scaler", [StandardScaler(), RobustScaler()], ids=str)
def test_held_out_rows_that_are_spread_otherwise(scaler, diabetes):
    """Where means differ by less than the deviations of X, as those of diabetes: 0, and 1 / 21."""
    X, y = diabetes
    fast = TorchRegressor(hidden_layer_sizes=(4,), max_iter=1, random_state=0)
    scaled = scaler.fit_transform(X[:300])
    for rows, held_out, word in ((scaled, X[300:], "less"), (X[:300], scaler.transform(X), "more")):
        with pytest.warns(UserWarning, match=rf"^X_val .* in \d+ of 10 columns .* {word} than"):
            fast.fit(rows, y[:300], X_val=held_out, y_val=y[-len(held_out) :])


def test_images_that_were_not_divided_as_the_others(digits):
    X, y = digits
    images = X.reshape(-1, 1, 8, 8)
    net = TorchClassifier(module=nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), max_iter=1)
    with pytest.warns(UserWarning, match=OTHER_SCALE.format(r"\d+")):
        net.fit(images / 255, y, X_val=images, y_val=y)


def _honest(rng, kind, n_rows):
    """Return rows of a distribution that is hard on a rule about scales."""
    X = {
        "heavy tails": lambda: rng.standard_cauchy((n_rows, 4)),
        "heavy tails of whole rows": lambda: (
            rng.standard_cauchy((n_rows, 1)) * rng.normal(size=(n_rows, 4))
        ),
        "growth": lambda: np.exp(np.exp(rng.normal(size=(n_rows, 2)))),
        "rare": lambda: (rng.random((n_rows, 30)) < 0.02).astype(float),
        "sparse": lambda: sp.random_array((n_rows, 300), density=0.02, rng=rng, format="csr"),
        "constant": lambda: np.full((n_rows, 3), 0.1) + [0, 0, 1e9],
        "images": lambda: rng.integers(0, 2, (n_rows, 1)) * rng.integers(0, 255, (n_rows, 16)),
        "one column": lambda: rng.lognormal(sigma=2, size=(n_rows, 1)),
        "shifted by three deviations": lambda: rng.normal(0 if n_rows == 60 else 3, 1, (n_rows, 4)),
    }
    return X[kind]()


@pytest.mark.parametrize("n_held_out", [1, 3, 12, 40])
@pytest.mark.parametrize("kind", [
    "heavy tails", "heavy tails of whole rows", "growth", "rare", "sparse", "constant", "images",
    "one column", "shifted by three deviations",
])  # fmt: skip
def test_rows_of_the_same_kind_are_on_the_same_scale(kind, n_held_out):
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(100):
            some, others = _honest(rng, kind, 60), _honest(rng, kind, n_held_out)
            warn_of_other_scale(some, others, "X")


@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer", "digits", "diabetes"])
def test_rows_of_one_table_are_on_the_same_scale(name):
    X = getattr(datasets, f"load_{name}")().data
    for seed in range(20):
        for test_size in (12, 0.1, 0.5):
            warn_of_other_scale(*train_test_split(X, test_size=test_size, random_state=seed), "X")


def test_of_many_rows_some_from_all_over_are_looked_at():
    X = np.repeat([[0.0], [1.0]], 5000, axis=0)
    warn_of_other_scale(X, X[::-1][:5000], "X")  # sorted rows: the first ones alone are constant
    with pytest.warns(UserWarning, match=r"in 1 of 1 columns"):
        warn_of_other_scale(X, X + 100, "X")
