"""Faults that were found, each as the test that it failed."""

import json
import subprocess
import sys
import textwrap

import joblib
import numpy as np
import pytest
import torch
from numpydoc.docscrape import ClassDoc
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from torch import nn

from torchsk import TorchClassifier, TorchRegressor
from torchsk._heads import make_head
from torchsk._training import Progress

MB = 2**20


# -- heads -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss, name", [("huber", "delta"), ("smooth_l1", "beta")])
def test_heads_with_other_thresholds_are_not_equal(loss, name):
    one, nine = (make_head(loss, {name: value}, "regression", 1) for value in (1.0, 9.0))
    assert one != nine
    assert one.stack_key == nine.stack_key
    assert one.standardized(np.array([2.0])) != nine.standardized(np.array([2.0]))
    assert one.stack_key != make_head(loss, None, "regression", 2).stack_key


def test_folds_whose_thresholds_differ_train_in_one_stack(diabetes):
    X, y = diabetes
    net = TorchRegressor("huber", 4, max_iter=3, loss_params={"delta": 20.0}, random_state=0)
    alone = GridSearchCV(net, {"alpha": [0.1, 1.0]}, cv=3).fit(X, y)
    with joblib.parallel_config("torchsk"):
        stacked = GridSearchCV(net, {"alpha": [0.1, 1.0]}, cv=3).fit(X, y)
    np.testing.assert_allclose(
        stacked.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"], rtol=1e-4
    )


@pytest.mark.parametrize("weight", [torch.tensor([1.0, 2.0]), np.array([1.0, 2.0])], ids=type)
def test_own_losses_with_arrays_as_parameters_are_stacked(weight, diabetes):
    def loss(raw, target, weight):
        return ((raw - target).square() * torch.as_tensor(weight, dtype=raw.dtype)).sum(1)

    heads = [make_head(loss, {"weight": w}, "regression", 2) for w in (weight, weight * 1)]
    assert heads[0] == heads[1]
    assert hash(heads[0]) == hash(heads[1])
    assert heads[0] != make_head(loss, {"weight": weight * 2}, "regression", 2)
    X, y = diabetes
    net = TorchRegressor(loss, 4, max_iter=2, loss_params={"weight": weight}, random_state=0)
    with joblib.parallel_config("torchsk"):
        search = GridSearchCV(net, {"alpha": [0.1, 1.0]}, cv=2, error_score="raise")
        search.fit(X, np.column_stack([y, -y]))


# -- memory ----------------------------------------------------------------------------------------

LBFGS = """
    import json, resource, sys, warnings
    import numpy as np, torch
    from torchsk import TorchRegressor

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    X = np.random.RandomState(0).normal(size=(int(sys.argv[1]), 2))
    net = TorchRegressor(hidden_layer_sizes=500, solver="lbfgs", max_iter=2, random_state=0)
    net.fit(X[:1000], X[:1000, 0])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    net.fit(X, X[:, 0])
    print(json.dumps(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts kilobytes")
@pytest.mark.parametrize("n_rows", [50_000, 150_000])
def test_the_memory_of_lbfgs_is_bounded_by_the_widest_layer(n_rows):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LBFGS), str(n_rows)],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) < 160 * MB


# -- docstrings ------------------------------------------------------------------------------------

#: parameters whose words depend on what is predicted
DIFFERENT = {"loss", "loss_params", "learning_rate_init", "standardize", "scoring", "class_weight"}


def test_the_two_estimators_say_the_same_of_the_same_parameter():
    classes = TorchClassifier, TorchRegressor
    docs = [{p.name: p for p in ClassDoc(cls)["Parameters"]} for cls in classes]
    assert set(docs[0]) ^ set(docs[1]) == {"class_weight"}
    for name in set(docs[0]) - DIFFERENT:
        assert docs[0][name] == docs[1][name], name


# -- how a run ends, in every lane -----------------------------------------------------------------

LANES = {
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
    return net.set_params(max_iter=len(scores)).fit(X, y)


@pytest.mark.parametrize("bad", [np.inf, np.nan, -np.inf])
@pytest.mark.parametrize("lane", [*LANES, "stack"])
def test_a_score_that_is_not_finite_keeps_the_finite_best(lane, bad, iris):
    scores = [0.5, 0.6, 0.7]
    if lane == "stack":
        calls = [joblib.delayed(fit_with_scores)(*iris, [*scores, bad]) for _ in range(2)]
        with joblib.parallel_config("torchsk"):
            net, _ = joblib.Parallel()(calls)
        params = {}
    else:
        params = LANES[lane]
        with pytest.warns(ConvergenceWarning, match=r"epoch 4.*best weights so far were kept"):
            net = fit_with_scores(*iris, [*scores, bad], **params)
    assert net.n_iter_ == 4
    assert net.best_validation_score_ == 0.7
    np.testing.assert_equal(net.validation_scores_, [*scores, bad])
    best = fit_with_scores(*iris, scores, **params)
    np.testing.assert_allclose(net.predict_proba(iris[0]), best.predict_proba(iris[0]), rtol=1e-5)


@pytest.mark.parametrize("lane", [*LANES, "stack"])
def test_without_a_finite_best_a_score_that_is_not_finite_is_an_error(lane, iris):
    def fit():
        fit_with_scores(*iris, [np.inf, 0.5], **LANES.get(lane, {}))

    with pytest.raises(ValueError, match="score was not finite in epoch 1"):
        if lane == "stack":
            with joblib.parallel_config("torchsk"):
                joblib.Parallel()([joblib.delayed(fit)() for _ in range(2)])
        else:
            fit()


def test_minus_infinity_is_no_best_loss():
    progress = Progress(early_stopping=False)
    assert progress.record(1.0, None, 0.0)
    assert not progress.record(-np.inf, None, 0.0)
    assert progress.best_loss == 1.0
