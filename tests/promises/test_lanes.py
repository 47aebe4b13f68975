"""The built-in network, trained by skorch, is the same network."""

import numpy as np
import pytest
import torch
from sklearn.base import clone

from torchsk import TorchClassifier, TorchRegressor


def same(a, b, atol=1e-5):
    """Assert that two fitted estimators have the same weights and curves."""
    for ours, theirs in zip([*a.coefs_, *a.intercepts_], [*b.coefs_, *b.intercepts_]):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=atol)
    for ours, theirs in zip(a.module_.parameters(), b.module_.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=atol)
    assert (a.n_iter_, a.t_) == (b.n_iter_, b.t_)
    for name in ("loss_curve_", "validation_loss_curve_", "validation_scores_"):
        if getattr(a, name) is not None:
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-4, atol=1e-6)


OPTIONS = {
    "plain": {},
    "batches": {"batch_size": 32, "learning_rate": "invscaling", "nesterovs_momentum": False},
    "penalty": {"alpha": 3.0, "batch_size": 50, "max_grad_norm": None},
    "clipped": {"max_grad_norm": 0.05, "batch_size": 32, "learning_rate": "cosine"},
    "early": {"early_stopping": True, "n_iter_no_change": 2, "batch_size": 32},
    "adaptive": {"learning_rate": "adaptive", "tol": 0.05, "n_iter_no_change": 1},
    "embedded": {"numerical_embedding": "periodic", "alpha": 1.0, "batch_size": 32},
    "in order": {"shuffle": False, "batch_size": 64, "activation": "logistic"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_lanes_give_the_same_classifier(iris, solver, options):
    X, y = iris
    weight = np.random.RandomState(0).randint(0, 3, len(y)).astype(float)
    est = TorchClassifier((8,), solver=solver, max_iter=25, random_state=3, **options)
    fast = clone(est).fit(X, y, weight)
    slow = clone(est).set_params(skorch_callbacks=[]).fit(X, y, weight)
    same(fast, slow)
    np.testing.assert_allclose(fast.predict_proba(X), slow.predict_proba(X), atol=1e-5)


# few epochs at the peak of a cycle, where a difference of rounding grows tenfold in each
RUNS = {"constant": {"learning_rate": "constant", "max_iter": 15}, "cycle": {"max_iter": 3}}


@pytest.mark.parametrize("embedding", [None, "periodic"])
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("solver", ["adamw", "rmsprop", "adagrad"])
def test_lanes_give_the_same_regressor(diabetes, solver, run, embedding):
    X, y = diabetes
    Y = np.column_stack([y, y**0.5])
    est = TorchRegressor("huber", (6, 5), solver=solver, random_state=0, **RUNS[run])
    est.set_params(alpha=0.1, numerical_embedding=embedding)
    fast = clone(est).fit(X, Y, X_val=X[:50], y_val=Y[:50])
    slow = clone(est).set_params(skorch_callbacks=[]).fit(X, Y, X_val=X[:50], y_val=Y[:50])
    same(fast, slow, atol=1e-3)  # y is in hundreds


@pytest.mark.parametrize("embedding", [None, "periodic"])
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_lanes_agree_in_partial_fit_and_warm_start(iris, solver, embedding):
    X, y = iris
    est = TorchClassifier((5,), solver=solver, batch_size=40, random_state=0, max_iter=5)
    est.set_params(numerical_embedding=embedding)
    for method in ("partial_fit", "fit"):
        fast = clone(est).set_params(warm_start=True)
        slow = clone(fast).set_params(skorch_callbacks=[])
        for _ in range(3):
            for model in (fast, slow):
                args = (None, [0, 1, 2]) if method == "partial_fit" else ()
                getattr(model, method)(X, y, *args)
        same(fast, slow)
        assert len(slow.loss_curve_) == (3 if method == "partial_fit" else 15)


def test_an_mlp_may_change_lanes(iris):
    X, y = iris
    clf = TorchClassifier((5,), random_state=0, max_iter=20).fit(X, y)
    with pytest.raises(AttributeError):
        clf.net_  # noqa: B018
    clf.set_params(skorch_callbacks=[]).partial_fit(X, y)
    assert len(clf.net_.history) == 1
    clf.set_params(skorch_callbacks=None, solver="adam").partial_fit(X, y)
    assert not hasattr(clf, "net_")
    assert len(clf.loss_curve_) == 22
