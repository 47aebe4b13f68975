"""Divergence is an error that says what to try, or the best weights so far are kept."""

import re
import warnings

import joblib
import numpy as np
import pytest
import skorch.callbacks as cbs
import torch
from networks import mlp
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from torch import nn

from torchsk import TorchClassifier, TorchRegressor

WILD = {"learning_rate_init": 1e7, "max_grad_norm": None, "standardize": False}
NO_WAY = r"Training diverged.*epoch \d+.*learning_rate_init.*max_grad_norm.*standardize"


def linear(n_features, n_outputs):
    return nn.Sequential(nn.Linear(n_features, 4), nn.Linear(4, n_outputs))


LANES = {"built-in": {"activation": "identity"}, "module": {"module": linear}}
SCORERS = [None, "loss", "r2"]


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("solver", ["sgd", "adam", "rmsprop"])
def test_divergence_alone(lane, solver, diabetes):
    X, y = diabetes
    net = TorchRegressor(random_state=0, solver=solver, max_iter=200, **WILD, **LANES[lane])
    net.set_params(learning_rate_init=1e30)
    with pytest.raises(ValueError, match=NO_WAY):
        net.fit(X, 1e3 * y)
    assert not hasattr(net, "n_iter_")
    good = TorchRegressor(random_state=0, max_iter=5, max_grad_norm=1.0, **LANES[lane]).fit(X, y)
    before, state = good.predict(X), set(vars(good))
    for method in (good.fit, good.partial_fit):
        good.set_params(**{**WILD, "learning_rate_init": 1e30, "solver": solver})
        try:
            for _ in range(20):
                method(X, 1e3 * y)
                before = good.predict(X)
        except ValueError as error:
            assert re.search(NO_WAY, str(error))
        else:
            raise AssertionError("did not diverge")
        assert set(vars(good)) == state
        np.testing.assert_array_equal(good.predict(X), before)


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("scoring", SCORERS)
def test_divergence_keeps_the_best(lane, scoring, diabetes):
    X, y = diabetes

    def wild_later(epoch):
        return 1.0 if epoch < 3 else 1e20

    net = TorchRegressor(
        learning_rate=wild_later, learning_rate_init=1e-3, max_grad_norm=None, early_stopping=True,
        scoring=scoring, random_state=0, **LANES[lane],
    )  # fmt: skip
    with pytest.warns(ConvergenceWarning, match=NO_WAY + ".*The best weights so far were kept"):
        net.fit(X, y)
    assert 3 <= net.n_iter_ < 10
    short = clone(net).set_params(learning_rate="constant", max_iter=3).fit(X, y)
    np.testing.assert_array_equal(net.predict(X), short.predict(X))
    net.set_params(learning_rate="constant").partial_fit(X, y)
    assert np.isfinite(net.predict(X)).all()


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("solver", ["sgd", "adam", "rmsprop", "adagrad"])
def test_no_model_that_predicts_nan(lane, early_stopping, solver, diabetes, iris):
    for estimator, (X, y) in ((TorchRegressor, diabetes), (TorchClassifier, iris)):
        for scale in (1.0, 1e6, 1e18):
            net = estimator(
                solver=solver, early_stopping=early_stopping, random_state=0, max_iter=8, **WILD
            )
            try:
                net.set_params(**LANES[lane]).fit(scale * X, y)
            except ValueError as error:
                assert re.search(NO_WAY, str(error))
                assert not hasattr(net, "n_iter_")
            else:
                assert np.isfinite(net.predict(scale * X)).all()
                assert np.isfinite(net.loss_curve_[:-1]).all()


def test_divergence_at_once_with_early_stopping(diabetes):
    X, y = diabetes
    net = TorchRegressor(early_stopping=True, activation="identity", random_state=0, **WILD)
    with pytest.raises(ValueError, match=NO_WAY):
        net.set_params(learning_rate_init=1e30).fit(X, y)


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("backend", ["sequential", "torchsk"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_divergence_in_a_search(lane, backend, early_stopping, diabetes):
    X, y = diabetes
    net = TorchRegressor(
        early_stopping=early_stopping, random_state=0, max_iter=15, **WILD, **LANES[lane]
    )
    net.set_params(standardize=True)
    search = GridSearchCV(net, {"learning_rate_init": [0.01, 1e30, 0.02]}, cv=3, error_score=np.nan)
    with joblib.parallel_config(backend), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        search.fit(X, y)
    scores = search.cv_results_["mean_test_score"]
    assert np.isfinite(scores[[0, 2]]).all()
    assert np.isnan(scores[1])
    alone = clone(net).set_params(learning_rate_init=0.02, early_stopping=early_stopping).fit(X, y)
    assert np.isfinite(alone.predict(X)).all()
    assert np.isfinite(search.predict(X)).all()


def test_a_search_in_which_all_diverge_says_why(diabetes):
    net = TorchRegressor(activation="identity", random_state=0, **WILD)
    search = GridSearchCV(net, {"learning_rate_init": [1e30, 1e31]}, cv=2)
    with joblib.parallel_config("torchsk"), pytest.raises(ValueError, match="Training diverged"):
        search.fit(*diabetes)


def test_divergence(diabetes):
    X, y = diabetes
    wild = TorchRegressor(
        module=mlp, learning_rate_init=1e6, max_grad_norm=None, random_state=0, max_iter=50
    )
    with pytest.raises(ValueError, match="Training diverged.*learning_rate_init"):
        wild.fit(X, y)

    class Break(cbs.Callback):
        def on_epoch_begin(self, net, **kwargs):
            if len(net.history) == 4:
                torch.nn.init.constant_(net.module_[0].weight, torch.nan)

    with pytest.raises(ValueError, match="Training diverged"):
        TorchClassifier(
            module=lambda n, k: nn.Sequential(nn.Linear(n, k), nn.Sigmoid()), loss="bce",
            skorch_callbacks=[Break], max_iter=9,
        ).fit(X, y > 100)  # fmt: skip

    kept = TorchRegressor(
        module=mlp, early_stopping=True, random_state=0, skorch_callbacks=[Break], max_iter=9
    )
    with pytest.warns(UserWarning, match="best weights so far were kept"):
        kept.fit(X, y)
    assert kept.n_iter_ == 4
    assert np.isfinite(kept.predict(X)).all()


# -- scores that are not finite, in every lane --


ENDINGS = {
    "alone": {},
    "skorch, built-in network": {"skorch_callbacks": []},
    "skorch, own module": {"module": nn.Linear},
}


def fit_with_scores(X, y, scores, **params):
    """A network whose epochs a scorer gives these scores."""
    left = iter(scores)
    net = TorchClassifier(
        (8,), early_stopping=True, scoring=lambda *_: next(left), random_state=0, **params
    )
    return net.set_params(max_iter=len(scores), learning_rate="constant").fit(X, y)


@pytest.mark.parametrize("bad", [np.inf, np.nan, -np.inf])
@pytest.mark.parametrize("lane", [*ENDINGS, "stack"])
def test_a_score_that_is_not_finite_keeps_the_finite_best(lane, bad, iris):
    scores = [0.5, 0.6, 0.7]
    if lane == "stack":
        calls = [joblib.delayed(fit_with_scores)(*iris, [*scores, bad]) for _ in range(2)]
        with joblib.parallel_config("torchsk"):
            net, _ = joblib.Parallel()(calls)
        params = {}
    else:
        params = ENDINGS[lane]
        with pytest.warns(ConvergenceWarning, match=r"epoch 4.*best weights so far were kept"):
            net = fit_with_scores(*iris, [*scores, bad], **params)
    assert net.n_iter_ == 4
    assert net.best_validation_score_ == 0.7
    np.testing.assert_equal(net.validation_scores_, [*scores, bad])
    best = fit_with_scores(*iris, scores, **params)
    np.testing.assert_allclose(net.predict_proba(iris[0]), best.predict_proba(iris[0]), rtol=1e-5)


@pytest.mark.parametrize("lane", [*ENDINGS, "stack"])
def test_without_a_finite_best_a_score_that_is_not_finite_is_an_error(lane, iris):
    def fit():
        fit_with_scores(*iris, [np.inf, 0.5], **ENDINGS.get(lane, {}))

    with pytest.raises(ValueError, match="score was not finite in epoch 1"):
        if lane == "stack":
            with joblib.parallel_config("torchsk"):
                joblib.Parallel()([joblib.delayed(fit)() for _ in range(2)])
        else:
            fit()
