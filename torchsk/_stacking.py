"""The joblib backend "torchsk": fits of one process meet and train as one stack.

A scikit-learn loop hands its tasks to joblib, joblib to a `TorchskBackend`, and the backend to one
`TaskGroup` per process. The tasks of a group are coroutines on threads: each has a thread, but only
one of them runs at a time. A task runs until its estimator's fit hands over a job (`train_job`) or
until it ends; then the next one runs. Jobs that fit together train together, and their tasks run on
with the results. So the user's code never runs twice at once, and nobody waits for each other.
"""

import threading
import traceback
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import chain
from numbers import Integral
from typing import Any

import joblib
import numpy as np
from joblib.parallel import LokyBackend, SequentialBackend, get_active_backend

from torchsk._dealing import queue, shares_of, with_same_arrays
from torchsk._executors import Ending, ExecutorBackend, check_executor, check_n_groups
from torchsk._runtime import give_back_memory
from torchsk._training import TrainingCancelled, TrainingJob, TrainingResult

# What joblib is told: loops that cut their work by the number of jobs (Bagging) then cut it finely.
N_REPORTED_JOBS = 128
# A waiting task keeps the copies of the rows that its loop and its pipeline have made: with this
# many tasks, or bytes of the rows that their fits were given, training waits for no more of them.
MAX_WAITING_TASKS = 256
MAX_WAITING_BYTES = 120_000_000
# Bytes of its rows from which the memory of a task that has ended goes back to the system: C's
# library would keep some for each of the threads on which tasks have run.
LARGE_TASK = 2**22
# Numbers of an array by which most arrays are told apart, before all of them are compared.
N_NUMBERS = 256
# How long an interrupted search waits for its threads (training looks at its stop flag).
SECONDS_TO_END = 1.0

_this_thread = threading.local()


def register() -> None:
    """Make the backend known to joblib as "torchsk"."""
    joblib.register_parallel_backend("torchsk", TorchskBackend)


def train_job(job: TrainingJob) -> TrainingResult:
    """Train one job, in a stack with the other fits of its `TaskGroup` if it runs in one."""
    task = _own_task()
    (outcome,) = job.lane.train([job]) if task is None else [task.train(job)]
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _own_task() -> "_Task | None":
    """Return the task that runs on this thread."""
    return getattr(_this_thread, "task", None)


class _Task:
    """One call on a thread of its own, which runs only while its group lets it.

    The group calls `resume` and goes on when the task has handed over a `job`, whose `outcome` the
    group sets before it resumes the task again, or when the task has reached its `ending`.
    """

    def __init__(self, index: int, call: Callable[[], Any], group: "TaskGroup"):
        self.index, self._call, self._group = index, call, group
        self.job: Any = None
        self.key: Hashable = None
        #: bytes of the X that its fit was given, and that it keeps while it waits
        self.n_bytes = 0
        self.outcome: Any = None
        self.ending: Ending | None = None
        self._thread: threading.Thread | None = None
        self._warnings = _WarningState()
        self._own_turn, self._group_turn = threading.Lock(), threading.Lock()
        self._own_turn.acquire()
        self._group_turn.acquire()

    def resume(self) -> None:
        """Run on until the next job is handed over or the task has ended."""
        group_warnings = _WarningState()
        self._warnings.restore()
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="torchsk-task", daemon=True)
            thread.start()
            self._thread = thread
        else:
            self._own_turn.release()
        self._group_turn.acquire()
        self._warnings = _WarningState()
        group_warnings.restore()
        if self.ending is not None:
            self._thread.join()

    def cancel(self) -> None:
        """End a task that waits; one that has not started never will."""
        if self._thread is not None:
            self.outcome = TrainingCancelled()
            self.resume()

    def train(self, job: TrainingJob) -> TrainingResult | BaseException:
        """Hand over a job and wait for its outcome (on the task's thread)."""
        if self._group.cancelled:
            return TrainingCancelled()
        self.key, self.n_bytes = job.lane.stack_key(job), job.n_bytes
        if self.key is None:
            return self._group.train([job])[0]
        self.job = job
        self._group_turn.release()
        self._own_turn.acquire()
        self.job = None
        return self.outcome

    def _run(self) -> None:
        _this_thread.task = self
        try:
            self.ending = self._call(), None
        except BaseException as error:
            self.ending = None, _note_traceback(error)
        finally:
            self._group_turn.release()


class TaskGroup:
    """The work of one process: calls without arguments, run so that their fits train in stacks.

    Tasks start until all of them wait, or enough of them. Then one stack trains, and its tasks run
    on before new ones start, so only those that wait hold memory. A group can be pickled; calling
    it, in any process, returns the calls' endings in order.
    """

    def __init__(self, calls: Sequence[Callable[[], Any]], max_models: int | None = None):
        self.calls, self.max_models = calls, max_models
        self.cancelled = False

    def __call__(self) -> list[Ending | None]:
        endings: list[Ending | None] = [None] * len(self.calls)
        self.run(endings.__setitem__)
        return endings

    def run(self, on_end: Callable[[int, Ending], object]) -> None:
        """Run all calls; `on_end(i, ending)` is called when call i has ended."""
        # those that are given the same rows follow each other: they share a copy
        order = chain.from_iterable(with_same_arrays(self.calls))
        ready = deque(_Task(i, self.calls[i], self) for i in order)
        waiting: dict[Hashable, list[_Task]] = {}  # by stack_key
        share_data = _SharedData()
        try:
            while ready or waiting:
                if self.cancelled:
                    raise TrainingCancelled
                if ready and not self._are_enough(list(waiting.values())):
                    task = ready[0]
                    task.resume()  # may fail: too many threads
                    ready.popleft()
                    if task.ending is not None:
                        on_end(task.index, task.ending)
                        if task.n_bytes > LARGE_TASK:
                            give_back_memory()
                    else:
                        waiting.setdefault(task.key, []).append(task)
                        share_data(task.job)
                    continue
                key, tasks = max(waiting.items(), key=lambda item: len(item[1]))
                stack = _pick_stack(tasks, self._limit(tasks))
                outcomes = self.train([task.job for task in stack])
                for task, outcome in zip(stack, outcomes, strict=True):
                    task.outcome = outcome
                    tasks.remove(task)
                ready.extendleft(reversed(stack))
                if not tasks:
                    del waiting[key]
        except BaseException as error:
            self.cancelled = True
            _note_traceback(error)
            for task in (*ready, *chain.from_iterable(waiting.values())):
                task.cancel()
                on_end(task.index, (None, error))

    def _limit(self, tasks: Sequence[_Task]) -> int:
        """Return how many of these tasks, of one stack_key, may train together."""
        job = tasks[0].job
        return self.max_models or job.lane.max_models(job)

    def _are_enough(self, waiting: Sequence[Sequence[_Task]]) -> bool:
        """Return whether no more tasks should start before some have trained."""
        sizes = [task.n_bytes for task in chain.from_iterable(waiting)]
        if len(sizes) >= max(MAX_WAITING_TASKS, self.max_models or 0):
            return True
        # the next one will be as large
        return sum(sizes) + max(sizes, default=0) > MAX_WAITING_BYTES

    def train(self, jobs: list[TrainingJob]) -> Sequence[TrainingResult | BaseException]:
        """Train a stack until it is done or cancelled; an error of the whole is one of each fit."""
        try:
            return jobs[0].lane.train(jobs, should_stop=lambda: self.cancelled)
        except Exception as error:
            return [error] * len(jobs)


def _pick_stack(tasks: Iterable[_Task], limit: int) -> list[_Task]:
    """Return at most `limit` of the tasks: whole groups that share their rows, or even parts."""
    groups: dict[int, list[_Task]] = {}
    for task in tasks:
        groups.setdefault(id(task.job.rows.X), []).append(task)
    stack: list[_Task] = []
    for group in sorted(groups.values(), key=len, reverse=True):
        n_parts = -(-len(group) // limit)
        part = group[: -(-len(group) // n_parts)]
        if len(stack) + len(part) <= limit:
            stack += part
    return stack


class TorchskBackend(LokyBackend):
    """What joblib sees: tasks are buffered, then cut into one `TaskGroup` per process.

    A LokyBackend by inheritance, because joblib cares for memory-mapped arrays of those only; the
    worker processes belong to `_pool`: a plain one, or the one of the user's executor (None: the
    group runs in this process).
    """

    def __init__(
        self,
        max_models: int | None = None,
        executor: Any = None,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        **unknown: Any,
    ):
        if unknown:
            raise TypeError(
                "The parameters of the joblib backend 'torchsk' must be n_jobs, max_models or "
                f"executor; got {', '.join(unknown)}."
            )
        if max_models is not None and not (isinstance(max_models, Integral) and max_models >= 1):
            raise ValueError(f"max_models must be an int >= 1 or None; got {max_models=!r}.")
        if executor is not None:
            check_executor(executor)
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self._max_models, self._executor, self._n_processes = max_models, executor, 1
        self._pool: Any = None
        self._submitted: list[tuple[Callable[[], Any], Future]] = []

    @property
    def _workers(self) -> Any:
        return self._pool._workers

    def effective_n_jobs(self, n_jobs: int) -> int:
        """Many: what counts is how finely loops cut their work (0 is a ValueError)."""
        super().effective_n_jobs(n_jobs)
        return N_REPORTED_JOBS

    def compute_batch_size(self) -> int:
        """One call, one task."""
        return 1

    def get_nested_backend(self) -> tuple[SequentialBackend, None]:
        """Parallel loops inside a task run inline."""
        return SequentialBackend(nesting_level=(self.nesting_level or 0) + 1), None

    def configure(self, n_jobs: int = 1, parallel: Any = None, **kwargs: Any) -> int:
        """Start worker processes if the context's n_jobs asks for some."""
        for name in {"executor", "max_models"} & kwargs.keys():
            raise TypeError(f"{name} must be given to joblib.parallel_config; got it in Parallel.")
        # A loop's own n_jobs may well be N_REPORTED_JOBS. It counts only outside of any context.
        active_backend, context_n_jobs = get_active_backend()
        if active_backend is self:
            n_jobs = context_n_jobs
        self._pool = None
        if self._executor is not None:
            self._n_processes = check_n_groups(n_jobs)
            if _own_task() is None:
                self._pool = ExecutorBackend(self._executor, self.inner_max_num_threads)
            else:  # which a worker may be waiting for
                self._n_processes = 1
        else:
            self._n_processes = super().effective_n_jobs(1 if n_jobs is None else int(n_jobs))
            if self._n_processes > 1:
                self._pool = LokyBackend(
                    nesting_level=self.nesting_level,
                    inner_max_num_threads=self.inner_max_num_threads,
                )
                self._pool.configure(self._n_processes, parallel, **kwargs)
        self.parallel = parallel
        # Everything at once, but not "all": there joblib loses an error of the tasks' iterator.
        parallel.pre_dispatch = 2**31
        return N_REPORTED_JOBS

    def submit(self, func: Callable[[], Any], callback: Callable[[Future], object]) -> Future:
        """Keep a task until joblib has dispatched all."""
        future: Future = Future()
        future.add_done_callback(callback)
        self._submitted.append((func, future))
        return future

    @contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """Run what was submitted (joblib enters here when it has dispatched every task)."""
        submitted, self._submitted = self._submitted, []
        calls, cut = [func for func, _ in submitted], shares_of
        running: Any = nullcontext()
        if isinstance(self._pool, ExecutorBackend):
            running = self._pool.receiving()
        elif self._pool is not None:
            cut = queue
        shares = cut(calls, self._n_processes)
        for i, share in enumerate(shares, start=1):
            calls, futures = zip(*(submitted[j] for j in share), strict=True)
            group = TaskGroup(calls, self._max_models)
            if self._pool is None:
                running = _running_here(group, futures)
            else:
                name = f"group {i} of {len(shares)} ({len(share)} of {len(submitted)} tasks)"
                self._pool.submit(group, callback=partial(_pass_on, futures, name))
        with running:
            yield

    def start_call(self) -> None:
        """Keep joblib's memory maps to its own workers."""
        if not isinstance(self._pool, LokyBackend):
            self.parallel._reducer_callback = None

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Forget what was submitted and kill the worker processes, if there are any."""
        self._submitted = []
        if self._pool is not None:
            self._pool.abort_everything(ensure_ready=False)
            if ensure_ready:
                self.configure(self.parallel.n_jobs, self.parallel)

    def terminate(self) -> None:
        """Clean up after a call; worker processes stay for the next one."""
        if self._pool is not None:
            self._pool.terminate()


@contextmanager
def _running_here(group: TaskGroup, futures: Sequence[Future]) -> Iterator[None]:
    """Run a group on a thread, so that this one can be interrupted; an error here cancels it."""

    def on_end(i: int, ending: Ending) -> None:
        _resolve(futures[i], ending)

    thread = threading.Thread(target=group.run, args=[on_end], name="torchsk-group", daemon=True)
    try:
        thread.start()
        yield
    except BaseException:
        group.cancelled = True
        raise
    finally:
        if thread.is_alive():
            thread.join(SECONDS_TO_END)


def _pass_on(futures: Sequence[Future], name: str, group_future: Future) -> None:
    """Pass on the endings that a worker returned, or the error that ended the worker."""
    try:
        endings = group_future.result()
    except BaseException as error:
        error.add_note(f"What was lost: {name}.")
        endings = [(None, error)] * len(futures)
    for future, ending in zip(futures, endings, strict=True):
        _resolve(future, ending)


def _resolve(future: Future, ending: Ending) -> None:
    value, error = ending
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)


def _note_traceback(error: BaseException) -> BaseException:
    """Keep the traceback as a note: joblib drops it, and so does pickle."""
    notes = getattr(error, "__notes__", [])
    if not any(note.startswith("Traceback") for note in notes):  # one may end all fits of a stack
        error.add_note("".join(traceback.format_exception(error)))
    return error


class _WarningState:
    """The warning filters and hooks, which are global: every task sees its own."""

    NAMES = ("filters", "showwarning", "_showwarnmsg_impl")

    def __init__(self) -> None:
        self._state = {name: getattr(warnings, name) for name in self.NAMES}

    def restore(self) -> None:
        """Make this the current state."""
        vars(warnings).update(self._state)
        with warnings.catch_warnings():  # makes Python forget which warnings it has shown
            pass


class _SharedData:
    """Replaces the data of a job by that of an earlier one with the same bytes, if still in use."""

    def __init__(self) -> None:
        self._held: dict[Hashable, list[weakref.ref]] = {}

    def __call__(self, job: TrainingJob) -> None:
        job.rows = job.rows.map(partial(self._share, str(job.device)))

    def _share(self, device: str, data: Any) -> Any:
        arrays = _arrays(data)
        key = (type(data).__name__, device, *(_summary(array) for array in arrays))
        held = [other for ref in self._held.get(key, ()) if (other := ref()) is not None]
        for other in held:
            if all(map(_are_same, arrays, _arrays(other))):
                return other
        self._held[key] = [weakref.ref(other) for other in (*held, data)]
        return data


def _arrays(data: Any) -> list[np.ndarray]:
    """Return what a tensor, or rows in a tensor or a sparse matrix, consist of."""
    matrix = getattr(data, "matrix", None)
    if matrix is not None:
        arrays = [np.array(matrix.shape), matrix.data, matrix.indices, matrix.indptr]
    else:
        arrays = [getattr(data, "tensor", data).cpu().numpy()]
    return [np.ascontiguousarray(array) for array in arrays]


def _summary(array: np.ndarray) -> Hashable:
    """Return what tells most arrays apart: shape, dtype, some of the numbers."""
    some = array.ravel()[:: 1 + array.size // N_NUMBERS]
    return array.shape, array.dtype.str, some.tobytes()


def _are_same(array: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two arrays of one shape and dtype hold the same bytes."""
    words = f"i{array.itemsize}"
    return np.array_equal(array.view(words), other.view(words))
