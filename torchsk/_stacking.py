"""The joblib backend "torchsk": fits of one process meet and train as one stack.

A scikit-learn loop hands its tasks to joblib, joblib to a `TorchskBackend`, and the backend to one
`TaskGroup` per process. The tasks of a group are coroutines on threads: each has a thread, but only
one of them runs at a time. A task runs until its estimator's fit hands over a job (`train_job`) or
until it ends; then the next one runs. Jobs that fit together train together, and their tasks run on
with the results. So the user's code never runs twice at once, and nobody waits for each other.
"""

import hashlib
import threading
import traceback
import warnings
import weakref
from collections import deque
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from itertools import chain
from numbers import Integral

import joblib
import numpy as np
from joblib.parallel import LokyBackend, SequentialBackend, get_active_backend

from torchsk import _training

# What joblib is told: loops that cut their work by the number of jobs (Bagging) then cut it finely.
N_REPORTED_JOBS = 128
# A waiting task keeps its copies of the data: with this many, training waits for no more of them.
MAX_WAITING_TASKS = 256
# How long an interrupted search waits for its threads (training looks at its stop flag).
SECONDS_TO_END = 1.0

_this_thread = threading.local()


def register():
    """Make the backend known to joblib as "torchsk"."""
    joblib.register_parallel_backend("torchsk", TorchskBackend)


def train_job(job):
    """Train one job, in a stack with the other fits of its `TaskGroup` if it runs in one."""
    task = getattr(_this_thread, "task", None)
    if task is None:
        (outcome,) = _training.train([job])
    else:
        outcome = task.train(job)
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


class _Task:
    """One call on a thread of its own, which runs only while its group lets it.

    The group calls `resume` and goes on when the task has handed over a `job`, whose `outcome` the
    group sets before it resumes the task again, or has ended (no job: `value` and `error` are set).
    """

    def __init__(self, index, call, group):
        self.index = index
        self.job = self.key = self.outcome = self.value = self.error = None
        self._call, self._group = call, group
        self._thread = self._warnings = None
        self._own_turn, self._group_turn = threading.Lock(), threading.Lock()
        self._own_turn.acquire()
        self._group_turn.acquire()

    def resume(self):
        """Run on until the next job is handed over (True) or the task has ended (False)."""
        group_warnings = _WarningState()
        self.job = None
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="torchsk-task", daemon=True)
            thread.start()
            self._thread = thread
        else:
            self._warnings.restore()
            self._own_turn.release()
        self._group_turn.acquire()
        self._warnings = _WarningState()
        group_warnings.restore()
        if self.job is None:
            self._thread.join()
        return self.job is not None

    def cancel(self, error):
        """End a task that waits or has not started."""
        if self._thread is not None:
            self.outcome = _training.TrainingCancelled()
            self.resume()
        self.error = error

    def train(self, job):
        """Hand over a job and wait for its outcome (on the task's thread)."""
        if self._group.cancelled:
            return _training.TrainingCancelled()
        self.key = _training.stack_key(job)
        if self.key is None:
            (outcome,) = _training.train([job], should_stop=self._group.is_cancelled)
            return outcome
        self.job = job
        self._group_turn.release()
        self._own_turn.acquire()
        return self.outcome

    def _run(self):
        _this_thread.task = self
        try:
            self.value = self._call()
        except BaseException as error:
            self.error = _note_traceback(error)
        finally:
            self._group_turn.release()


class TaskGroup:
    """The work of one process: calls without arguments, run so that their fits train in stacks.

    A stack trains when it holds `max_models` jobs, or when no task can run before somebody trains.
    The tasks of a trained stack run on before new ones start, so only those that wait hold memory.
    A group can be pickled; calling it (in any process) returns (value, error) per call, in order.
    """

    def __init__(self, calls, max_models=None):
        self.calls, self.max_models = calls, max_models
        self.cancelled = False

    def __call__(self):
        outcomes = [None] * len(self.calls)
        self.run(outcomes.__setitem__)
        return outcomes

    def is_cancelled(self):
        return self.cancelled

    def run(self, on_end):
        """Run all calls; `on_end(i, (value, error))` is called when call i has ended."""
        ready = deque(_Task(i, call, self) for i, call in enumerate(self.calls))
        stacks = {}  # stack_key -> tasks that wait
        share_data = _SharedData()
        try:
            while ready or stacks:
                if self.cancelled:
                    raise _training.TrainingCancelled
                if ready and sum(map(len, stacks.values())) < self._max_waiting:
                    task = ready[0]
                    waits = task.resume()
                    ready.popleft()
                    if not waits:
                        on_end(task.index, (task.value, task.error))
                        continue
                    share_data(task.job)
                    key = task.key
                    stacks.setdefault(key, []).append(task)
                    if len(stacks[key]) < (self.max_models or _training.max_models(task.job)):
                        continue
                else:
                    key = max(stacks, key=lambda key: len(stacks[key]))
                self._train(stacks[key])
                ready.extendleft(reversed(stacks.pop(key)))
        except BaseException as error:
            self.cancelled = True
            _note_traceback(error)
            for task in (*ready, *chain.from_iterable(stacks.values())):
                task.cancel(error)
                on_end(task.index, (None, error))

    @property
    def _max_waiting(self):
        return max(MAX_WAITING_TASKS, self.max_models or 0)

    def _train(self, tasks):
        """Train the tasks' jobs as one stack; an error of the stack is an error of every fit."""
        try:
            outcomes = _training.train([task.job for task in tasks], should_stop=self.is_cancelled)
        except Exception as error:
            outcomes = [error] * len(tasks)
        for task, outcome in zip(tasks, outcomes, strict=True):
            task.outcome = outcome


class TorchskBackend(LokyBackend):
    """What joblib sees: tasks are buffered, then cut into one `TaskGroup` per process.

    A LokyBackend by inheritance, because joblib cares for memory-mapped arrays of those only; the
    worker processes belong to a plain one, `_loky` (None: the group runs in this process).
    """

    def __init__(self, max_models=None, nesting_level=None, inner_max_num_threads=None, **unknown):
        if unknown:
            raise TypeError(
                "The parameters of the joblib backend 'torchsk' must be n_jobs or max_models; "
                f"got {', '.join(unknown)}."
            )
        if max_models is not None and not (isinstance(max_models, Integral) and max_models >= 1):
            raise ValueError(f"max_models must be an int >= 1 or None; got {max_models=!r}.")
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self._max_models = max_models
        self._loky, self._n_processes = None, 1
        self._buffer = []  # (call, future)

    @property
    def _workers(self):
        return self._loky._workers

    def effective_n_jobs(self, n_jobs):
        """Many: what counts is how finely loops cut their work (0 is a ValueError)."""
        super().effective_n_jobs(n_jobs)
        return N_REPORTED_JOBS

    def compute_batch_size(self):
        return 1

    def get_nested_backend(self):
        """Parallel loops inside a task run inline."""
        return SequentialBackend(nesting_level=(self.nesting_level or 0) + 1), None

    def configure(self, n_jobs=1, parallel=None, **kwargs):
        """Start worker processes if the context's n_jobs asks for some."""
        # A loop's own n_jobs may well be N_REPORTED_JOBS. It counts only outside of any context.
        active_backend, context_n_jobs = get_active_backend()
        if active_backend is self:
            n_jobs = 1 if context_n_jobs is None else int(context_n_jobs)
        self._n_processes = super().effective_n_jobs(n_jobs)
        self._loky = None
        if self._n_processes > 1:
            self._loky = LokyBackend(
                nesting_level=self.nesting_level, inner_max_num_threads=self.inner_max_num_threads
            )
            self._loky.configure(self._n_processes, parallel, **kwargs)
        self.parallel = parallel
        # Everything at once, but not "all": there joblib loses an error of the tasks' iterator.
        parallel.pre_dispatch = 2**31
        return N_REPORTED_JOBS

    def submit(self, func, callback=None):
        future = Future()
        future.add_done_callback(callback)
        self._buffer.append((func, future))
        return future

    @contextmanager
    def retrieval_context(self):
        """Run what was submitted (joblib enters here when it has dispatched every task)."""
        submitted, self._buffer = self._buffer, []
        if self._loky is not None:
            # Every k-th task: neighbours cost alike, and are often the folds of one candidate.
            for i in range(min(self._n_processes, len(submitted))):
                calls, futures = zip(*submitted[i :: self._n_processes], strict=True)
                group = TaskGroup(calls, self._max_models)
                self._loky.submit(group, callback=partial(_resolve_all, futures))
            yield
        elif submitted:
            calls, futures = zip(*submitted, strict=True)
            with _running_thread(TaskGroup(calls, self._max_models), futures):
                yield
        else:
            yield

    def abort_everything(self, ensure_ready=True):
        self._buffer = []
        if self._loky is not None:
            self._loky.abort_everything(ensure_ready=False)
            if ensure_ready:
                self.configure(self.parallel.n_jobs, self.parallel)

    def terminate(self):
        if self._loky is not None:
            self._loky.terminate()


@contextmanager
def _running_thread(group, futures):
    """Run a group on a thread of its own, so that this one can be interrupted; cancel on error."""
    thread = threading.Thread(
        target=group.run,
        args=(lambda i, outcome: _resolve(futures[i], *outcome),),
        name="torchsk-group",
        daemon=True,
    )
    thread.start()
    try:
        yield
    except BaseException:
        group.cancelled = True
        raise
    finally:
        thread.join(SECONDS_TO_END)


def _resolve(future, value, error):
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)


def _resolve_all(futures, group_future):
    """Pass on what a worker's group returned, or the error that ended the worker."""
    try:
        outcomes = group_future.result()
    except BaseException as error:
        outcomes = [(None, error)] * len(futures)
    for future, outcome in zip(futures, outcomes, strict=True):
        _resolve(future, *outcome)


def _note_traceback(error):
    """Keep the traceback as a note: joblib drops it, and so does pickle."""
    error.add_note("".join(traceback.format_exception(error)))
    return error


class _WarningState:
    """The warning filters and hooks, which are global: every task sees its own."""

    NAMES = ("filters", "showwarning", "_showwarnmsg_impl")

    def __init__(self):
        self._state = {name: getattr(warnings, name) for name in self.NAMES}

    def restore(self):
        vars(warnings).update(self._state)
        with warnings.catch_warnings():  # tells the registries of shown warnings to start anew
            pass


class _SharedData:
    """Replaces the data of a job by that of an earlier one with the same bytes, if still in use."""

    def __init__(self):
        self._held = weakref.WeakValueDictionary()

    def __call__(self, job):
        for name in ("X", "target", "weight"):
            data = getattr(job, name)
            if data is not None:
                key = (type(data), str(job.device), *_fingerprint(data))
                setattr(job, name, self._held.setdefault(key, data))


def _fingerprint(data):
    """Yield what tells a tensor, or rows in a tensor or a sparse matrix, from all others."""
    matrix = getattr(data, "matrix", None)
    if matrix is not None:
        yield matrix.shape
        arrays = matrix.data, matrix.indices, matrix.indptr
    else:
        arrays = (getattr(data, "tensor", data).cpu().numpy(),)
    for array in arrays:
        yield array.shape, array.dtype.str, hashlib.blake2b(np.ascontiguousarray(array)).digest()
