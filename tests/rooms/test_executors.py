"""Any executor: what it is given, what comes back, and that nothing is left behind."""

import os
import signal
import sys
import threading
import time
import warnings
from concurrent.futures import (
    CancelledError,
    Future,
    InvalidStateError,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from concurrent.futures.process import BrokenProcessPool

import joblib
import numpy as np
import pytest
import torch
from networks import threads_of_torchsk
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate

from torchsk import TorchClassifier

pytestmark = pytest.mark.usefixtures("no_deadlock", "no_thread_left")

NET = TorchClassifier((4,), max_iter=4, random_state=0)
ALPHAS = {"alpha": [1e-4, 1e-2, 1.0, 10.0]}


class Executor:
    """Runs what it is given at once, or never; can refuse and fail as real ones do."""

    def __init__(self, runs=True, n_accepted=100, error=None):
        self.runs, self.n_accepted, self.error = runs, n_accepted, error
        self.futures, self.sizes = [], []

    def submit(self, call, *args):
        if len(self.futures) == self.n_accepted:
            raise OSError("no more")
        self.sizes.append(len(args[0]))
        future = Future()
        self.futures.append(future)
        if self.error is not None:
            future.set_exception(self.error)
        elif self.runs:
            future.set_result(call(*args))
        return future

    def __reduce__(self):
        raise TypeError("an executor is never pickled")


def in_groups(executor, n_jobs=3, **kwargs):
    return joblib.parallel_config("torchsk", executor=executor, n_jobs=n_jobs, **kwargs)


def squares(n_tasks):
    return joblib.Parallel()(joblib.delayed(pow)(i, 2) for i in range(n_tasks))


# -- what it is given ------------------------------------------------------------------------------


@pytest.mark.parametrize("n_tasks, n_groups", [(0, 0), (1, 1), (2, 2), (3, 3), (20, 3)])
def test_tasks_are_cut_into_n_jobs_groups(n_tasks, n_groups):
    executor = Executor()
    with in_groups(executor):
        assert squares(n_tasks) == [i**2 for i in range(n_tasks)]
    assert len(executor.futures) == n_groups


def test_n_jobs_of_a_loop_is_not_looked_at(iris):
    executor = Executor()
    with in_groups(executor):
        GridSearchCV(NET, ALPHAS, cv=3, n_jobs=2).fit(*iris)
    assert len(executor.futures) == 3


def test_data_travel_once_per_group():
    X, y = np.random.RandomState(0).normal(size=(1000, 64)), np.arange(1000) % 2
    executor = Executor()
    with in_groups(executor, n_jobs=2):
        cross_validate(NET.set_params(max_iter=1), X, y, cv=12)
    assert sum(executor.sizes) < 2.5 * X.nbytes


@pytest.mark.parametrize("n_jobs", [1, 2, 5])
def test_weights_do_not_depend_on_the_number_of_groups(n_jobs, iris):
    def weights():
        nets = cross_validate(NET, *iris, cv=6, return_estimator=True)["estimator"]
        return [net.coefs_[0] for net in nets]

    expected = weights()
    with in_groups(Executor(), n_jobs):
        np.testing.assert_allclose(weights(), expected, rtol=1e-4, atol=1e-6)


THREAD = ThreadPoolExecutor(1)  # a group inside a group would wait for ever


def _search_in_a_task(X, y):
    with in_groups(THREAD):
        return cross_val_score(NET, X, y, cv=3), threading.current_thread().name


def test_a_group_has_one_thread_of_torch():
    n_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with in_groups(Executor()):
            found = joblib.Parallel()(joblib.delayed(torch.get_num_threads)() for _ in range(4))
        assert found == [1] * 4
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(n_threads)


def test_a_loop_inside_a_task_runs_in_its_process(iris):
    expected = cross_val_score(NET, *iris, cv=3)
    with in_groups(THREAD):
        found = joblib.Parallel()(joblib.delayed(_search_in_a_task)(*iris) for _ in range(4))
    for scores, name in found:
        np.testing.assert_allclose(scores, expected, atol=1e-5)
        assert name == "torchsk-task"


# -- what comes back -------------------------------------------------------------------------------


class Odd(Exception):
    """Can be pickled, but not made again."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def _fail(i):
    if i == 1:
        raise Odd("this", "that")
    return threading.Lock() if i == 2 else i


def test_what_cannot_travel_says_so():
    with in_groups(Executor(), 1):
        with pytest.raises(RuntimeError, match=r"Odd\('this and that'\) cannot be pickled") as info:
            joblib.Parallel()(joblib.delayed(_fail)(i) for i in range(2))
        assert any("in _fail" in note for note in info.value.__notes__)
        with pytest.raises(RuntimeError, match="result of a task cannot be pickled"):
            joblib.Parallel()(joblib.delayed(_fail)(i) for i in (0, 2))
        assert joblib.Parallel()(joblib.delayed(_fail)(i) for i in (0, 3)) == [0, 3]


def _fits_with_warnings(iris):
    net = TorchClassifier((4,), max_iter=3, learning_rate="constant", random_state=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cross_val_score(net, *iris, cv=4)
    return [(str(w.message), w.category, w.filename, w.lineno) for w in caught]


def test_warnings_arrive_as_without_it(iris):
    expected = _fits_with_warnings(iris)
    assert [warned[1] for warned in expected] == [ConvergenceWarning] * 4
    with in_groups(Executor()):
        assert _fits_with_warnings(iris) == expected


def test_filters_travel(iris):
    net = TorchClassifier((4,), max_iter=3, learning_rate="constant", random_state=0)
    with in_groups(Executor()), warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        with pytest.raises(ConvergenceWarning):
            cross_val_score(net, *iris, cv=4, error_score="raise")


class OddWarning(UserWarning):
    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def test_a_warning_that_cannot_travel_keeps_its_words():
    def task():
        warnings.warn(OddWarning("this", "that"), stacklevel=1)

    with in_groups(Executor()), pytest.warns(UserWarning, match="OddWarning: this and that"):
        joblib.Parallel()([joblib.delayed(task)()])


# -- errors of the executor ------------------------------------------------------------------------


@pytest.mark.parametrize("n_jobs", [None, 0, -1, True, 2.5, "2"])
def test_n_jobs_is_the_number_of_groups(n_jobs, iris):
    executor = Executor()
    with pytest.raises(ValueError, match=f"n_jobs must be a positive .* got n_jobs={n_jobs!r}"):
        with in_groups(executor, n_jobs):
            cross_val_score(NET, *iris)
    assert not executor.futures


@pytest.mark.parametrize("params", [{"executor": Executor()}, {"max_models": 2}], ids=list)
def test_parameters_belong_to_the_context(params):
    with pytest.raises(TypeError, match="must be given to joblib.parallel_config"):
        joblib.Parallel(backend="torchsk", **params)([joblib.delayed(abs)(1)])


def test_n_jobs_may_be_numpys():
    with in_groups(Executor(), np.int64(2)):
        assert squares(3) == [0, 1, 4]


@pytest.mark.parametrize("executor", [3, ProcessPoolExecutor, "dask"], ids=str)
def test_what_is_no_executor(executor):
    with pytest.raises(TypeError, match="executor must be an object with a method submit.*; got"):
        in_groups(executor)


def test_threads_of_running_workers_cannot_be_set():
    with in_groups(Executor(), inner_max_num_threads=2):
        with pytest.raises(ValueError, match="inner_max_num_threads must be None with an exec"):
            squares(2)


def test_a_pool_that_was_shut_down(iris):
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with in_groups(pool), pytest.raises(ValueError, match=r"executor must be .* shut down .*got"):
        cross_val_score(NET, *iris)


def test_submit_that_fails_midway_takes_back_what_it_has():
    executor = Executor(runs=False, n_accepted=2)
    with in_groups(executor):
        with pytest.raises(OSError, match="no more"):
            squares(9)
        assert [future.cancelled() for future in executor.futures] == [True, True]
        executor.runs, executor.n_accepted = True, 100
        assert squares(2) == [0, 1]


def test_a_lost_worker_is_the_error_of_its_executor():
    executor = Executor(error=BrokenProcessPool("a worker died"))
    with in_groups(executor), pytest.raises(BrokenProcessPool, match="a worker died") as info:
        squares(9)
    assert info.value.__notes__[0] == "What was lost: group 1 of 3 (3 of 9 tasks)."


def test_a_group_that_is_cancelled_from_outside():
    executor = Executor(runs=False)

    def cancel():
        while len(executor.futures) < 3:
            time.sleep(0.01)
        executor.futures[1].cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    with in_groups(executor), pytest.raises(CancelledError) as info:
        squares(8)
    thread.join()
    assert info.value.__notes__[0] == "What was lost: group 2 of 3 (3 of 8 tasks)."
    assert all(future.cancelled() for future in executor.futures)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to oneself")
def test_ctrl_c_cancels_and_drops():
    executor = Executor(runs=False)

    def interrupt():
        while len(executor.futures) < 3:
            time.sleep(0.01)
        executor.futures[0].set_running_or_notify_cancel()
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with in_groups(executor):
        with pytest.raises(KeyboardInterrupt):
            squares(9)
        thread.join()
        running, *others = executor.futures
        assert all(future.cancelled() for future in others)
        running.set_result("nobody looks at this")
        executor.runs = True
        assert squares(4) == [0, 1, 4, 9]
    with pytest.raises(InvalidStateError):
        others[0].set_result(None)


# -- threads: the workers share this process -------------------------------------------------------


def _global_state():
    return (
        torch.get_num_threads(),
        torch.initial_seed(),
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002
        list(warnings.filters),
        warnings.showwarning,
    )


def test_threads_leave_the_process_as_it_was(iris):
    n_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        before = _global_state()
        with ThreadPoolExecutor(3) as executor, in_groups(executor):
            search = GridSearchCV(NET, ALPHAS, cv=3, refit=False).fit(*iris)
            assert set(executor.map(lambda _: torch.get_num_threads(), range(3))) == {2}
        assert _global_state() == before
    finally:
        torch.set_num_threads(n_threads)
    expected = GridSearchCV(NET, ALPHAS, cv=3, refit=False).fit(*iris)
    for name in "mean_test_score", "std_test_score":
        np.testing.assert_allclose(search.cv_results_[name], expected.cv_results_[name], atol=1e-5)


inside, most = [], []


def _note_how_many_are_inside():
    inside.append(None)
    most.append(len(inside))
    time.sleep(0.01)
    inside.pop()


def test_groups_in_one_process_train_one_after_the_other():
    most.clear()
    with ThreadPoolExecutor(3) as executor, in_groups(executor):
        joblib.Parallel()(joblib.delayed(_note_how_many_are_inside)() for _ in range(9))
    assert most == [1] * 9


def test_two_searches_at_once(iris):
    expected = GridSearchCV(NET, ALPHAS, cv=3).fit(*iris).cv_results_["mean_test_score"]
    found = []

    def search(executor):
        with in_groups(executor, 2):
            found.append(GridSearchCV(NET, ALPHAS, cv=3).fit(*iris).cv_results_["mean_test_score"])

    with ThreadPoolExecutor(2) as executor:
        threads = [threading.Thread(target=search, args=[executor]) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not threads_of_torchsk()
    np.testing.assert_allclose(found, [expected, expected], atol=1e-5)
