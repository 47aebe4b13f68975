"""The joblib backend "torchsk": what stacks, that nothing changes by it, and that all ends."""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import warnings
import weakref
from dataclasses import dataclass

import joblib
import numpy as np
import pytest
import torch
from networks import SECONDS_BEFORE_DEADLOCK, failed_fits, threads_of_torchsk
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import GridSearchCV, cross_validate

from torchsk import _stacking
from torchsk._rows import DenseRows, Examples
from torchsk._training import TrainingCancelled

pytestmark = pytest.mark.usefixtures("no_deadlock", "no_thread_left")


# -- a fake trainer and a toy estimator: fast schedules, results that are equal bitwise --


@dataclass
class Job:
    lane: "FakeLane"
    rows: Examples
    key: object
    ridge: float
    device: str = "cpu"

    @property
    def n_bytes(self):
        return self.rows.size


def make_job(X=None, target=None, key=0, ridge=1.0):
    X, target = (torch.eye(2) if part is None else part for part in (X, target))
    return Job(LANE, Examples(DenseRows(X), target, None), key, ridge)


class FakeLane:
    """Solves ridge regressions; `stacks` are the jobs of each call."""

    def __init__(self):
        self.stacks, self.threads, self.hang = [], [], False

    @property
    def sizes(self):
        return [len(jobs) for jobs in self.stacks]

    def stack_key(self, job):
        return job.key

    def max_models(self, job):
        return 32

    def train(self, jobs, should_stop=lambda: False):
        self.stacks.append(jobs)
        self.threads.append(threading.current_thread().name)
        while self.hang:
            if should_stop():
                raise TrainingCancelled
            time.sleep(0.005)
        return [self._solve(job) for job in jobs]

    @staticmethod
    def _solve(job):
        if job.ridge < 0:
            return ValueError("diverged")
        X = job.rows.X.part(slice(None)).double().numpy()
        target = job.rows.target.numpy()
        return np.linalg.solve(X.T @ X + job.ridge * np.eye(X.shape[1]), X.T @ target)


LANE = FakeLane()


class Ridge(ClassifierMixin, BaseEstimator):
    """Ridge classification whose weights come from `train_job`, `n_fits` times."""

    def __init__(self, ridge=1.0, key=0, n_fits=1):
        self.ridge, self.key, self.n_fits = ridge, key, n_fits

    def fit(self, X, y):
        self.classes_, codes = np.unique(y, return_inverse=True)
        target = torch.from_numpy(np.eye(len(self.classes_))[codes])
        for _ in range(self.n_fits):
            job = make_job(torch.tensor(X, dtype=torch.float32), target, self.key, self.ridge)
            self.coef_ = _stacking.train_job(job)
        return self

    def predict(self, X):
        return self.classes_[np.argmax(X @ self.coef_, axis=1)]


@pytest.fixture
def fake(monkeypatch):
    lane = FakeLane()
    monkeypatch.setitem(globals(), "LANE", lane)
    return lane


@pytest.fixture
def data(iris):
    X, y = iris
    return X - X.mean(axis=0), y


def _search(grid, cv=3, **kwargs):
    return GridSearchCV(Ridge(), grid, cv=cv, **kwargs)


RIDGES = {"ridge": [1e-3, 1.0, 10.0, 100.0]}


# -- who trains with whom --


def test_tasks_with_several_fits_meet_every_time(fake, data):
    with joblib.parallel_config("torchsk"):
        GridSearchCV(Ridge(n_fits=3), RIDGES, cv=3, refit=False).fit(*data)
    assert fake.sizes == [12, 12, 12]


def test_only_equal_keys_train_together(fake, data):
    with joblib.parallel_config("torchsk"):
        _search({"key": [0, 1], "ridge": [1.0, 2.0]}, refit=False).fit(*data)
    assert fake.sizes == [6, 6]
    assert all(len({job.key for job in jobs}) == 1 for jobs in fake.stacks)


def test_what_has_no_key_trains_by_itself_in_its_own_thread(fake, data):
    with joblib.parallel_config("torchsk"):
        _search({"key": [None, 0]}, refit=False).fit(*data)
    assert fake.sizes == [1, 1, 1, 3]
    assert fake.threads == ["torchsk-task"] * 3 + ["torchsk-group"]


@pytest.mark.parametrize(
    "max_models, expected",
    [(None, [20] * 3), (40, [40, 20]), (100, [60]), (15, [10] * 6), (1, [1] * 60)],
)
def test_max_models_limits_a_stack_of_whole_folds(fake, data, max_models, expected):
    with joblib.parallel_config("torchsk", max_models=max_models):
        _search({"ridge": list(range(20))}, refit=False).fit(*data)
    assert fake.sizes == expected


@pytest.mark.parametrize(
    "bound, expected",
    [
        ({"MAX_WAITING_TASKS": 8}, 8),
        ({"MAX_WAITING_BYTES": 1}, 1),
        ({"MAX_WAITING_BYTES": 1199}, 2),  # a fold of iris has 400 numbers here
        ({"MAX_WAITING_BYTES": 2000}, 5),
        ({}, 27),
    ],
)
def test_tasks_that_wait_are_few(fake, data, monkeypatch, bound, expected):
    for name, value in bound.items():
        monkeypatch.setattr(_stacking, name, value)
    most = 0
    train = fake.train

    def spy(jobs, should_stop):
        nonlocal most
        most = max(most, threads_of_torchsk().count("torchsk-task"))
        return train(jobs, should_stop)

    fake.train = spy
    with joblib.parallel_config("torchsk", max_models=4):
        _search({"ridge": list(range(9))}, refit=False).fit(*data)
    assert most == expected
    assert sum(fake.sizes) == 27


def test_equal_data_are_kept_once(fake, data):
    with joblib.parallel_config("torchsk"):
        GridSearchCV(Ridge(), RIDGES, cv=3, refit=False).fit(*data)
    (jobs,) = fake.stacks
    for name in "X", "target":
        assert len({id(getattr(job.rows, name)) for job in jobs}) == 3
    assert not jobs[0].rows.X.tensor.equal(jobs[-1].rows.X.tensor)
    # candidates of one fold stand together
    assert [id(job.rows.X) for job in jobs] == [
        id(jobs[i].rows.X) for i in (0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8)
    ]


def test_only_equal_bytes_are_shared():
    """A difference counts anywhere, in sign, in dtype; what nobody holds is forgotten."""
    large = torch.arange(10_000.0)
    changed = large.clone()
    changed[5001] += 1e-3  # none of the numbers that are looked at first
    targets = [large, changed, torch.zeros(3), -torch.zeros(3), torch.zeros(3, dtype=torch.int32)]
    nan = torch.full((3,), torch.nan)
    share, held = _stacking._SharedData(), []
    for target in [*targets, nan]:
        for _ in range(2):
            held.append(make_job(target=target.clone()))
            share(held[-1])
    assert len({id(job.rows.target) for job in held}) == len(targets) + 1
    assert len({id(job.rows.X) for job in held}) == 1
    before = weakref.ref(held[0].rows.target)
    held.clear()
    assert before() is None
    job = make_job(target=large)
    share(job)
    assert job.rows.target is large


def test_n_jobs_of_the_loop_does_not_unstack(fake, data):
    for n_jobs in 1, 2, -1:
        fake.stacks.clear()
        with joblib.parallel_config("torchsk"):
            _search(RIDGES, refit=False, n_jobs=n_jobs).fit(*data)
        assert fake.sizes == [12]


def test_outside_the_context_nothing_stacks(fake, data):
    _search(RIDGES, refit=False).fit(*data)
    assert fake.sizes == [1] * 12
    assert fake.threads == ["MainThread"] * 12


def test_a_fit_in_another_thread_trains_at_once(fake, data):
    fits_elsewhere, names = [], []

    def fit_elsewhere(estimator, X, y):
        thread = threading.Thread(target=Ridge(key="elsewhere").fit, args=data)
        thread.start()
        thread.join()
        fits_elsewhere.append(fake.stacks[-1][0].key)
        names.append(fake.threads[-1])
        return estimator.score(X, y)

    with joblib.parallel_config("torchsk"):
        _search(RIDGES, scoring=fit_elsewhere, refit=False).fit(*data)
    assert fits_elsewhere == ["elsewhere"] * 12
    assert not any(name.startswith("torchsk") for name in names)
    assert fake.sizes == [12] + [1] * 12


def test_tasks_run_in_the_order_of_a_plain_loop(fake):
    seen = []

    def task(i):
        seen.append(i)
        _stacking.train_job(make_job(key="late" if i < 2 else "early"))
        seen.append(i)

    with joblib.parallel_config("torchsk", max_models=3):
        joblib.Parallel()(joblib.delayed(task)(i) for i in range(5))
    assert seen == [0, 1, 2, 3, 4, 2, 3, 4, 0, 1]


def test_nested_loops_run_inline(fake, data):
    def task(i):
        inner = joblib.Parallel(n_jobs=2)(joblib.delayed(abs)(-j) for j in range(3))
        scores = cross_validate(Ridge(), *data, cv=3, n_jobs=2)["test_score"]
        return inner, scores, threading.current_thread().name

    with joblib.parallel_config("torchsk"):
        results = joblib.Parallel()(joblib.delayed(task)(i) for i in range(4))
    expected = cross_validate(Ridge(), *data, cv=3)["test_score"]
    for inner, scores, name in results:
        assert (inner, name) == ([0, 1, 2], "torchsk-task")
        np.testing.assert_array_equal(scores, expected)
    assert fake.sizes[:3] == [4, 4, 4]


def test_a_group_travels_in_a_pickle_and_runs_anywhere(fake):
    calls = [_Call(i) for i in range(5)]
    group = pickle.loads(pickle.dumps(_stacking.TaskGroup(calls, max_models=2)))
    values, errors = zip(*group(), strict=True)
    assert list(values) == [0, 1, None, 3, 4]
    assert [str(error) for error in errors] == ["None", "None", "diverged", "None", "None"]
    assert fake.sizes == [2, 2, 1]


class _Call:
    def __init__(self, i):
        self.i = i

    def __call__(self):
        job = make_job(ridge=-1 if self.i == 2 else 1)
        _stacking.train_job(job)
        return self.i


# -- errors ----------------------------------------------------------------------------------------


@failed_fits
def test_a_fit_that_fails_fails_alone(fake, data):
    grid = {"ridge": [-1.0, 1.0, 2.0]}
    with joblib.parallel_config("torchsk"):
        search = _search(grid).fit(*data)
    assert np.isnan(search.cv_results_["mean_test_score"]).tolist() == [True, False, False]
    assert fake.sizes == [9, 1]
    with joblib.parallel_config("torchsk"), pytest.raises(ValueError, match="diverged") as info:
        _search(grid, error_score="raise").fit(*data)
    assert any("in fit" in note for note in info.value.__notes__)


@failed_fits
def test_a_stack_that_fails_as_a_whole_fails_its_fits_only(fake, data, monkeypatch):
    train = fake.train

    def fail(jobs, *args, **kwargs):
        if jobs[0].key == 1:
            raise MemoryError("too large")
        return train(jobs, *args, **kwargs)

    monkeypatch.setattr(fake, "train", fail)
    with joblib.parallel_config("torchsk"):
        search = _search({"key": [0, 1]}).fit(*data)
    assert np.isnan(search.cv_results_["mean_test_score"]).tolist() == [False, True]


def test_the_error_of_a_stack_has_one_traceback(fake, monkeypatch):
    error = MemoryError("too large")
    monkeypatch.setattr(fake, "train", lambda jobs, *args, **kwargs: [error] * len(jobs))
    _, errors = zip(*_stacking.TaskGroup([_Call(i) for i in (0, 1, 3, 4)])(), strict=True)
    assert [len(error.__notes__) for error in errors] == [1] * 4


def test_an_error_of_the_backend_reaches_every_task(fake, data, monkeypatch):
    monkeypatch.setattr(fake, "max_models", lambda job: 1 / 0)
    with joblib.parallel_config("torchsk"), pytest.raises(ZeroDivisionError):
        _search(RIDGES).fit(*data)


def test_threads_that_cannot_start_are_an_error(fake, data, monkeypatch):
    start = threading.Thread.start

    def refuse(thread):
        if thread.name == "torchsk-task" and len(threads_of_torchsk()) > 4:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with joblib.parallel_config("torchsk"), pytest.raises(RuntimeError, match="can't start"):
        _search(RIDGES).fit(*data)


@failed_fits
def test_an_error_in_a_scorer(fake, data):
    def scorer(estimator, X, y):
        if estimator.ridge == 1.0:
            raise RuntimeError("no score")
        return estimator.score(X, y)

    with joblib.parallel_config("torchsk"):
        search = _search(RIDGES, scoring=scorer).fit(*data)
    assert np.isnan(search.cv_results_["mean_test_score"]).tolist() == [False, True, False, False]
    with joblib.parallel_config("torchsk"), pytest.raises(RuntimeError, match="no score"):
        _search(RIDGES, scoring=scorer, error_score="raise").fit(*data)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, ZeroDivisionError])
def test_any_exception_of_a_task_ends_the_loop(fake, error):
    def task(i):
        _stacking.train_job(make_job(key=i % 2))
        if i == 3:
            raise error("here")

    with joblib.parallel_config("torchsk"), pytest.raises(error, match="here"):
        joblib.Parallel()(joblib.delayed(task)(i) for i in range(8))


def test_an_error_while_tasks_are_made(fake):
    def tasks():
        yield joblib.delayed(abs)(1)
        raise ValueError("no task")

    with joblib.parallel_config("torchsk"):
        with pytest.raises(ValueError, match="no task"):
            joblib.Parallel()(tasks())
        assert joblib.Parallel()(joblib.delayed(abs)(-i) for i in range(3)) == [0, 1, 2]


@pytest.mark.parametrize(
    "params, error, message",
    [
        ({"max_model": 8}, TypeError, "must be n_jobs, max_models or executor; got max_model"),
        ({"max_models": 0}, ValueError, "max_models must be an int >= 1 or None; got max_models=0"),
        ({"max_models": 2.5}, ValueError, "max_models must be an int >= 1"),
        ({"n_jobs": 0}, ValueError, "n_jobs == 0"),
    ],
)
def test_bad_parameters(fake, data, params, error, message):
    with pytest.raises(error, match=message), joblib.parallel_config("torchsk", **params):
        _search(RIDGES).fit(*data)


# -- the other ways of joblib --


@pytest.mark.parametrize("size", [0, 1, 3, 300])
def test_loops_without_fits(size):
    with joblib.parallel_config("torchsk"):
        assert joblib.Parallel()(joblib.delayed(abs)(-i) for i in range(size)) == list(range(size))


@pytest.mark.parametrize(
    "kwargs",
    [
        {"return_as": "generator"},
        {"return_as": "generator_unordered"},
        {"batch_size": 3},
        {"pre_dispatch": 2},
        {"n_jobs": 3},
        {"backend": "torchsk"},
        {"require": "sharedmem"},
        {"prefer": "threads"},
    ],
    ids=str,
)
def test_options_of_parallel(fake, kwargs):
    def task(i):
        _stacking.train_job(make_job())
        return i

    with joblib.parallel_config("torchsk"):
        results = joblib.Parallel(**kwargs)(joblib.delayed(task)(i) for i in range(10))
        assert sorted(results) == list(range(10))


def test_timeout(fake):
    fake.hang = True
    with joblib.parallel_config("torchsk"), pytest.raises(multiprocessing.TimeoutError):
        joblib.Parallel(timeout=0.1)(joblib.delayed(_Call(i))() for i in range(3))


def test_two_generators_at_once(fake):
    with joblib.parallel_config("torchsk"):
        first = joblib.Parallel(return_as="generator")(joblib.delayed(abs)(i) for i in range(4))
        second = joblib.Parallel(return_as="generator")(joblib.delayed(abs)(i) for i in range(3))
        assert list(second) == [0, 1, 2]
        assert list(first) == [0, 1, 2, 3]


# -- warnings are global; tasks that take turns must not see each other's --


def test_warning_filters_are_a_tasks_own(fake):
    def task(i):
        with warnings.catch_warnings():
            warnings.simplefilter("error" if i % 2 else "ignore")
            _stacking.train_job(make_job())
            try:
                warnings.warn("a warning", UserWarning, stacklevel=1)
            except UserWarning:
                return "error"
            return "ignore"

    filters, content, show = warnings.filters, list(warnings.filters), warnings.showwarning
    with joblib.parallel_config("torchsk"):
        results = joblib.Parallel()(joblib.delayed(task)(i) for i in range(6))
    assert results == ["ignore", "error"] * 3
    assert fake.sizes == [6]
    assert warnings.filters is filters
    assert warnings.filters == content
    assert warnings.showwarning is show


def test_recorded_warnings_are_a_tasks_own(fake):
    def task(i):
        with warnings.catch_warnings(record=True) as record:
            warnings.simplefilter("always")
            _stacking.train_job(make_job())
            warnings.warn(f"from {i}", UserWarning, stacklevel=1)
        return [str(warning.message) for warning in record]

    with joblib.parallel_config("torchsk"):
        results = joblib.Parallel()(joblib.delayed(task)(i) for i in range(4))
    assert results == [[f"from {i}"] for i in range(4)]


# -- interrupts --


def _interrupt_when(condition):
    def wait():
        while not condition():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to oneself")
@pytest.mark.parametrize("key", [0, None], ids=["stack", "alone"])
def test_ctrl_c_ends_training(fake, data, key):
    fake.hang = True
    thread = _interrupt_when(lambda: fake.stacks)
    with joblib.parallel_config("torchsk"), pytest.raises(KeyboardInterrupt):
        _search({"key": [key], **RIDGES}).fit(*data)
    assert len(fake.stacks) == 1
    thread.join()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to oneself")
def test_ctrl_c_does_not_wait_for_a_scorer(fake, data):
    scoring, go_on = threading.Event(), threading.Event()

    def scorer(estimator, X, y):
        scoring.set()
        go_on.wait(2 * SECONDS_BEFORE_DEADLOCK)
        return 0.0

    thread = _interrupt_when(scoring.is_set)
    try:
        with joblib.parallel_config("torchsk"), pytest.raises(KeyboardInterrupt):
            _search(RIDGES, scoring=scorer).fit(*data)
    finally:
        go_on.set()
    thread.join()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to oneself")
@pytest.mark.parametrize("seed", range(10))
def test_ctrl_c_at_any_time(fake, seed):
    rng = np.random.RandomState(seed)
    tasks, moment = _random_tasks(rng), time.monotonic() + 0.03 + 0.05 * rng.rand()
    with pytest.raises(KeyboardInterrupt), joblib.parallel_config("torchsk", max_models=3):
        thread = _interrupt_when(lambda: time.monotonic() > moment)
        while True:
            joblib.Parallel()(tasks)
    thread.join()


# -- random schedules and random searches --


def _random_task(seed):
    """Fit a few times, fail sometimes, loop inside sometimes: a function of the seed alone."""
    rng = np.random.RandomState(seed)
    total = []
    for _ in range(rng.randint(4)):
        key = [None, "a", "b", "c"][rng.randint(4)]
        X = torch.from_numpy(rng.rand(3, 2)).float()
        job = make_job(X, torch.ones(3, 1).double(), key, rng.choice([1.0] * 4 + [-1.0]))
        what = rng.randint(5)
        if what == 0:
            total += joblib.Parallel(n_jobs=2)([joblib.delayed(_stacking.train_job)(job)])
        else:
            total.append(_stacking.train_job(job))
        if what == 1:
            time.sleep(0.001)
        if what == 2 and rng.rand() < 0.2:
            raise RuntimeError("after a fit")
    return [float(result.sum()) for result in total]


def _random_tasks(rng):
    def guarded(seed):
        try:
            return _random_task(seed)
        except (ValueError, RuntimeError) as error:
            return str(error)

    return [joblib.delayed(guarded)(seed) for seed in rng.randint(2**31, size=rng.randint(1, 60))]


@pytest.mark.parametrize("seed", range(20))
def test_random_schedules(fake, seed, monkeypatch):
    rng = np.random.RandomState(seed)
    monkeypatch.setattr(_stacking, "MAX_WAITING_TASKS", rng.choice([2, 10, 256]))
    tasks = _random_tasks(rng)
    with joblib.parallel_config("sequential"):
        expected = joblib.Parallel()(tasks)
    n_alone = len(fake.stacks)
    fake.stacks.clear()
    with joblib.parallel_config("torchsk", max_models=int(rng.choice([1, 3, 32]))):
        assert joblib.Parallel()(tasks) == expected
    assert sum(fake.sizes) == n_alone
