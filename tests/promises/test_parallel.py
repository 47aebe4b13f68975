"""In parallel all is the same: in a stack and in worker processes."""

import os
import re
import warnings
from concurrent.futures.process import BrokenProcessPool

import joblib
import numpy as np
import pytest
from joblib.externals.loky import get_reusable_executor
from networks import failed_fits
from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_selection import RFECV
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    cross_val_predict,
    cross_validate,
    learning_curve,
    permutation_test_score,
    validation_curve,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

import torchsk
from torchsk._skorch import SkorchLane
from torchsk._training import LbfgsLane, StackLane

pytestmark = pytest.mark.usefixtures("no_deadlock", "no_thread_left")


# -- every loop of scikit-learn --------------------------------------------------------------------


def _network(**kwargs):
    kwargs = {"hidden_layer_sizes": (4,), "max_iter": 4, "random_state": 0} | kwargs
    return torchsk.TorchClassifier(**kwargs)


def _pipeline():
    return Pipeline([("scale", StandardScaler()), ("net", _network())])


ALPHAS = {"net__alpha": [1e-4, 1e-2, 1.0, 10.0]}


def _grid(X, y):
    return GridSearchCV(_pipeline(), ALPHAS, cv=3).fit(X, y).cv_results_["mean_test_score"]


def _random(X, y):
    search = RandomizedSearchCV(_pipeline(), ALPHAS, n_iter=3, cv=3, random_state=0, refit=False)
    return search.fit(X, y).cv_results_["mean_test_score"]


def _halving(X, y):
    search = HalvingGridSearchCV(_pipeline(), ALPHAS, cv=3, factor=2, random_state=0, refit=False)
    return search.fit(X, y).cv_results_["mean_test_score"]


def _importance(net):
    return np.abs(net.coefs_[0]).sum(axis=1)


# name -> (loop, sizes of the stacks)
LOOPS = {
    "GridSearchCV": (_grid, [12, 1]),
    "RandomizedSearchCV": (_random, [9]),
    "HalvingGridSearchCV": (_halving, None),
    "cross_validate": (lambda X, y: cross_validate(_pipeline(), X, y)["test_score"], [5]),
    "cross_val_predict": (
        lambda X, y: cross_val_predict(_pipeline(), X, y, method="predict_proba"),
        [5],
    ),
    "learning_curve": (
        lambda X, y: learning_curve(_pipeline(), X, y, cv=3, train_sizes=[0.9, 1.0])[1],
        [6],
    ),
    "validation_curve": (
        lambda X, y: validation_curve(
            _pipeline(), X, y, param_name="net__alpha", param_range=[0.1, 1, 2], cv=3
        )[1],
        [9],
    ),
    "permutation_test_score": (
        lambda X, y: permutation_test_score(
            _pipeline(), X, y, cv=3, n_permutations=5, random_state=0
        )[1],
        [1, 1, 1, 5, 5, 5],
    ),
    "BaggingClassifier": (
        lambda X, y: BaggingClassifier(_pipeline(), 6, random_state=0).fit(X, y).predict_proba(X),
        [6],
    ),
    "VotingClassifier": (
        lambda X, y: (
            VotingClassifier(
                [(f"net{i}", _network(random_state=i)) for i in range(3)], voting="soft"
            )
            .fit(X, y)
            .predict_proba(X)
        ),
        [3],
    ),
    "StackingClassifier": (
        lambda X, y: (
            StackingClassifier([(f"net{i}", _network(random_state=i)) for i in range(2)])
            .fit(X, y)
            .predict(X)
        ),
        [2, 2, 2, 2, 2, 2],  # the folds of one network train in a loop inside one task
    ),
    "OneVsRestClassifier": (
        lambda X, y: OneVsRestClassifier(_network()).fit(X, y).predict_proba(X),
        [3],
    ),
    "MultiOutputClassifier": (
        lambda X, y: MultiOutputClassifier(_network()).fit(X, np.c_[y, y % 2, y > 0]).predict(X),
        None,
    ),
    "RFECV": (
        lambda X, y: (
            RFECV(_network(), cv=3, importance_getter=_importance)
            .fit(X, y)
            .cv_results_["mean_test_score"]
        ),
        [3, 3, 3, 3],
    ),
}


@pytest.fixture
def sizes(monkeypatch):
    """Count the jobs of every call of the real trainer."""
    sizes = []
    for lane in (StackLane, LbfgsLane, SkorchLane):

        def spy(self, jobs, *args, train=lane.train, **kwargs):
            sizes.append(len(jobs))
            return train(self, jobs, *args, **kwargs)

        monkeypatch.setattr(lane, "train", spy)
    return sizes


@pytest.mark.parametrize("loop", LOOPS)
def test_every_loop_stacks_and_scores_the_same(loop, sizes, iris):
    run, expected_sizes = LOOPS[loop]
    expected = run(*iris)
    n_alone = len(sizes)
    assert set(sizes) == {1}
    sizes.clear()
    with joblib.parallel_config("torchsk"):
        np.testing.assert_allclose(run(*iris), expected, atol=1e-5)
    assert sum(sizes) == n_alone
    if expected_sizes is not None:
        assert sizes[: len(expected_sizes)] == expected_sizes
    assert len(sizes) <= 0.75 * n_alone


def test_a_scorer_of_early_stopping_that_fails_fails_its_fit_only(iris):
    def scorer(estimator, X, y):
        if estimator.alpha == 1.0:
            raise RuntimeError("no score")
        return estimator.score(X, y)

    def score(alpha):
        net = _network(alpha=alpha, early_stopping=True, scoring=scorer)
        try:
            return net.fit(*iris).validation_scores_
        except RuntimeError as error:
            return str(error)

    tasks = [joblib.delayed(score)(alpha) for alpha in (0.1, 1.0, 2.0)]
    expected = [score(0.1), "no score", score(2.0)]
    with joblib.parallel_config("torchsk"):
        assert joblib.Parallel()(tasks) == expected


# -- worker processes ------------------------------------------------------------------------------


def test_worker_processes_stack_their_share(iris):
    X, y = iris

    def task(i):
        from torchsk._training import StackLane

        if not hasattr(StackLane, "sizes_seen"):  # a fresh worker
            train, StackLane.sizes_seen = StackLane.train, []

            def spy(lane, jobs, *args, **kwargs):
                StackLane.sizes_seen.append(len(jobs))
                return train(lane, jobs, *args, **kwargs)

            StackLane.train = spy
        weights = _network(alpha=1.0 + i).fit(X, y).coefs_[0]
        return os.getpid(), StackLane.sizes_seen[-1], weights

    with joblib.parallel_config("torchsk", n_jobs=2):
        pids, sizes, weights = zip(
            *joblib.Parallel()(joblib.delayed(task)(i) for i in range(6)), strict=True
        )
    assert os.getpid() not in pids
    assert sizes == (3,) * 6
    for i, found in enumerate(weights):
        expected = _network(alpha=1.0 + i).fit(X, y).coefs_[0]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@failed_fits
def test_a_search_in_worker_processes(iris):
    grid = {"net__alpha": [1e-4, 1.0], "net__learning_rate_init": [0.05, -1.0]}
    search = GridSearchCV(_pipeline(), grid, cv=3)
    expected = search.fit(*iris).cv_results_["mean_test_score"]
    with joblib.parallel_config("torchsk", n_jobs=2, max_models=8):
        search.fit(*iris)
        np.testing.assert_allclose(search.cv_results_["mean_test_score"], expected, atol=1e-5)
        search.set_params(error_score="raise")
        with pytest.raises(ValueError, match="learning_rate_init"):
            search.fit(*iris)
        search.set_params(error_score=np.nan, param_grid=ALPHAS).fit(*iris)  # a fresh pool


def test_loky_as_an_executor_and_a_worker_that_is_lost(iris):
    expected = _grid(*iris)
    executor = get_reusable_executor(2, reuse=True)  # joblib's own, which runs already
    with joblib.parallel_config("torchsk", executor=executor, n_jobs=2):
        np.testing.assert_allclose(_grid(*iris), expected, atol=1e-5)
        with pytest.raises(BrokenProcessPool) as info:
            joblib.Parallel()(joblib.delayed(os._exit)(1) for _ in range(3))
    assert re.match(r"What was lost: group \d of 2 \(\d of 3 tasks\)", info.value.__notes__[0])
    executor.shutdown(kill_workers=True)


# -- random searches -------------------------------------------------------------------------------


def _random_search(seed):
    rng = np.random.RandomState(seed)
    X, y = rng.randn(rng.randint(30, 60), rng.randint(1, 5)), rng.randint(2, size=60)
    y = y[: len(X)]
    choices = {
        "hidden_layer_sizes": [(3,), (5,), (3, 2), ()],
        "alpha": [0.0, 1e-3, 1.0, -1.0],
        "learning_rate_init": [1e-3, 0.1, 1e30],
        "batch_size": ["auto", 7, 16],
        "max_iter": [1, 3, 6],
        "solver": ["sgd", "adam", "lbfgs"],
        "activation": ["relu", "tanh"],
        "early_stopping": [False, True],
        "dropout": [0.0, 0.3],
    }
    names = rng.choice(sorted(choices), size=3, replace=False).tolist()
    grid = {
        name: [choices[name][i] for i in rng.permutation(len(choices[name]))[: rng.randint(1, 4)]]
        for name in names
    }
    search = GridSearchCV(_network(random_state=seed), grid, cv=int(rng.randint(2, 4)), refit=False)
    return search, X, y


def _check_random_search(seed):
    search, X, y = _random_search(seed)
    outcomes = []
    for backend in "sequential", "torchsk":
        with joblib.parallel_config(backend), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                outcomes.append(search.fit(X, y).cv_results_["mean_test_score"])
            except ValueError as error:  # every fit failed
                outcomes.append(str(error)[:30])
    assert type(outcomes[0]) is type(outcomes[1])
    if isinstance(outcomes[0], str):
        assert outcomes[0] == outcomes[1]
    else:
        np.testing.assert_allclose(outcomes[1], outcomes[0], atol=1e-6)


@pytest.mark.parametrize("seed", range(60))
def test_random_searches(seed):
    _check_random_search(seed)


@pytest.mark.slow
@pytest.mark.skipif("TORCHSK_EXAMPLES" not in os.environ, reason="TORCHSK_EXAMPLES is not set")
@pytest.mark.parametrize("seed", range(60, 210))
def test_more_random_searches(seed):
    _check_random_search(seed)
