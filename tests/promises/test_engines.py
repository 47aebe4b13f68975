"""Stacks on real engines: Dask and a pool of spawned processes, one of each for all tests."""

import os
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

import joblib
import numpy as np
import pytest
import sklearn
from networks import Net, failed_fits
from pages import python_blocks
from sklearn.ensemble import BaggingClassifier
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.model_selection import GridSearchCV, cross_validate
from test_parallel import LOOPS

from torchsk import TorchClassifier

pytest.importorskip("distributed")
pytestmark = pytest.mark.usefixtures("no_deadlock")

PAGE = Path(__file__).parents[2] / "docs" / "distributed.rst"
NET = TorchClassifier((4,), max_iter=4, random_state=0)
ALPHAS = {"alpha": [1e-4, 1e-2, 1.0, 10.0]}


@pytest.fixture(scope="module")
def page():
    """The variables of the page and its searches; the last block stops its workers."""
    *blocks, close = [
        source
        for _, source in python_blocks(PAGE, every=True)
        if "MPIPoolExecutor" not in source and "RayExecutor" not in source
    ]
    page, searches = {"__name__": "__main__"}, []
    for source in blocks:
        page.pop("search", None)
        exec(source, page)
        searches += [page["search"]] if "search" in page else []
    yield {**page, "searches": searches}
    exec(close, page)


@pytest.fixture(params=["dask", "spawn"])
def executor(page, request):
    return page["client"].get_executor() if request.param == "dask" else page["pool"]


def in_groups(executor, n_jobs=2):
    return joblib.parallel_config("torchsk", executor=executor, n_jobs=n_jobs)


def test_the_page(page):
    plain = GridSearchCV(page["net"], page["grid"], cv=3).fit(page["X"], page["y"])
    dask, one_by_one, pool = [s.cv_results_["mean_test_score"] for s in page["searches"]]
    expected = plain.cv_results_["mean_test_score"]
    np.testing.assert_array_equal(one_by_one, expected)  # the same weights
    for found in dask, pool:
        np.testing.assert_allclose(found, expected, atol=0.005)  # the same within rounding
    assert page["search"].best_score_ > 0.9


@pytest.mark.parametrize(
    "loop", ["GridSearchCV", "HalvingGridSearchCV", "RFECV", "BaggingClassifier", "cross_validate"]
)
def test_loops_score_the_same(loop, page, iris):
    run, _ = LOOPS[loop]
    expected = run(*iris)
    with in_groups(page["pool"]):
        np.testing.assert_allclose(run(*iris), expected, atol=1e-5)


def test_groups_run_on_workers_and_stack(executor):
    def task(i, X=np.zeros((6, 2)), y=np.arange(6) % 2):  # noqa: B008
        import torch

        from torchsk._training import StackLane

        sizes, train = [], StackLane.train

        def spy(lane, jobs, *args, **kwargs):
            sizes.append((len(jobs), torch.get_num_threads()))
            return train(lane, jobs, *args, **kwargs)

        StackLane.train = spy
        try:
            NET.fit(X + i, y)
        finally:
            StackLane.train = train
        return os.getpid(), sizes

    with in_groups(executor):
        pids, sizes = zip(
            *joblib.Parallel()(joblib.delayed(task)(i) for i in range(6)), strict=True
        )
    assert os.getpid() not in pids
    assert (3, 1) in sum(sizes, [])


def test_a_class_of_main_comes_and_goes(page, iris, monkeypatch):
    local = type("Local", (Net,), {"__module__": "__main__"})
    monkeypatch.setattr(sys.modules["__main__"], "Local", local, raising=False)
    net = TorchClassifier(module=local, max_iter=1, random_state=0)
    with in_groups(page["pool"], 1):
        bag = BaggingClassifier(net, 2, random_state=0).fit(*iris)
    assert [type(each.module_) for each in bag.estimators_] == [local, local]


@failed_fits
def test_errors_and_warnings_arrive(executor, iris):
    net = TorchClassifier((4,), max_iter=3, learning_rate="constant", random_state=0)
    search = GridSearchCV(net, {"learning_rate_init": [0.01, -1.0]}, cv=3, refit=False)
    scores, told = [], []
    for context in joblib.parallel_config("sequential"), in_groups(executor):
        with context, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            scores.append(search.fit(*iris).cv_results_["mean_test_score"])
        told.append([w.category for w in caught])
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-5)
    assert np.isnan(scores[1]).tolist() == [False, True]
    assert told[0] == told[1]
    assert told[1][:4] == [ConvergenceWarning] * 3 + [FitFailedWarning]
    with in_groups(executor), pytest.raises(ValueError, match="learning_rate_init") as info:
        search.set_params(error_score="raise").fit(*iris)
    assert any("in _validate_params" in note for note in info.value.__notes__)


def _score_if_configured(estimator, X, y):
    return float(sklearn.get_config()["assume_finite"])


def test_the_configuration_of_scikit_learn_travels(executor, iris):
    with sklearn.config_context(assume_finite=True), in_groups(executor):
        scores = cross_validate(NET, *iris, cv=2, scoring=_score_if_configured)["test_score"]
    assert scores.tolist() == [1.0, 1.0]


def test_two_searches_at_once(executor, iris):
    expected = GridSearchCV(NET, ALPHAS, cv=3).fit(*iris).cv_results_["mean_test_score"]
    found = []

    def search():
        with in_groups(executor):
            found.append(GridSearchCV(NET, ALPHAS, cv=3).fit(*iris).cv_results_["mean_test_score"])

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_allclose(found, [expected, expected], atol=1e-5)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to oneself")
def test_ctrl_c_while_workers_are_busy(executor, tmp_path, iris):
    def task(i):
        (tmp_path / f"begun {i}").touch()
        while not (tmp_path / "end").exists():
            time.sleep(0.02)

    def interrupt():
        while not list(tmp_path.glob("begun*")):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with in_groups(executor, 9):
        with pytest.raises(KeyboardInterrupt):
            joblib.Parallel()(joblib.delayed(task)(i) for i in range(9))
        time.sleep(0.2)  # until Dask's workers know what is cancelled
        (tmp_path / "end").touch()
        cross_validate(NET, *iris)  # the next loop of the same workers
    thread.join()
    assert len(list(tmp_path.glob("begun*"))) < 9


def test_dask_runs_again_what_a_lost_worker_had(page, tmp_path):
    def task(i):
        if i == 0 and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os._exit(1)
        return i**2

    with in_groups(page["client"].get_executor()):
        results = joblib.Parallel()(joblib.delayed(task)(i) for i in range(6))
    assert results == [0, 1, 4, 9, 16, 25]
    assert (tmp_path / "died").exists()
