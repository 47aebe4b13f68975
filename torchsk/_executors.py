"""Hand calls to an executor of PEP 3148: Dask's, MPI's, a pool of processes or of threads.

A call travels as one pickle of cloudpickle, so that what several of its tasks share, such as X,
travels once, and that a class defined in `__main__` is known where it arrives. Its endings and its
warnings come back in the same way. The executor itself is never pickled.
"""

import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future
from contextlib import contextmanager
from functools import partial
from numbers import Integral
from typing import Any

import cloudpickle
import numpy as np

from torchsk._runtime import one_at_a_time, one_thread

# (value, error) of one task
Ending = tuple[Any, BaseException | None]
# what `warnings.warn_explicit` takes: message, category, filename, lineno
Warned = tuple[Warning, type[Warning], str, int]


def check_executor(executor: Any) -> None:
    """Raise an error unless calls can be submitted to the object."""
    if isinstance(executor, type) or not callable(getattr(executor, "submit", None)):
        raise TypeError(
            "executor must be an object with a method submit that returns a future, such as "
            f"concurrent.futures.ProcessPoolExecutor(); got {executor=!r}."
        )


def check_n_groups(n_jobs: Any) -> int:
    """Return n_jobs of the context: an executor does not tell how many workers it has."""
    if not isinstance(n_jobs, Integral) or isinstance(n_jobs, bool) or n_jobs < 1:
        raise ValueError(
            "n_jobs must be a positive int with an executor, the number of groups into which the "
            "tasks are cut: give the number of its workers to parallel_config; "
            f"got {n_jobs=!r}."
        )
    return int(n_jobs)


class ExecutorBackend:
    """What `TorchskBackend` asks of the workers of a joblib backend, with those of an executor."""

    def __init__(self, executor: Any, inner_max_num_threads: int | None = None):
        if inner_max_num_threads is not None:
            raise ValueError(
                "inner_max_num_threads must be None with an executor, whose workers run already; "
                f"got {inner_max_num_threads=!r}."
            )
        self._executor = executor
        self._handed_out: list[Any] = []
        self._warned: list[Warned] = []

    def submit(self, call: Callable[[], Sequence[Ending]], callback: Callable[[Future], object]):
        """Hand out a call; `callback` is given a future with its endings."""
        future: Future = Future()
        future.add_done_callback(callback)
        # an array, which Dask looks through and sends far faster than bytes
        packed = np.frombuffer(cloudpickle.dumps(call), dtype=np.uint8)
        try:
            # the name keeps Dask from taking equal calls for one
            handed_out = self._executor.submit(run_packed, packed, uuid.uuid4().hex)
        except BrokenExecutor:
            raise
        except RuntimeError as error:  # as PEP 3148 asks of one that was shut down
            raise ValueError(
                "executor must be one that takes new work, not one that was shut down "
                f"({error}); got executor={self._executor!r}."
            ) from error
        self._handed_out.append(handed_out)
        handed_out.add_done_callback(partial(self._receive, future))
        return future

    def _receive(self, future: Future, handed_out: Any) -> None:
        """Unpack what came back (on a thread of the executor)."""
        try:
            packed_endings, packed_warned = handed_out.result()
            endings = [cloudpickle.loads(packed) for packed in packed_endings]
            self._warned += cloudpickle.loads(packed_warned)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(endings)

    @contextmanager
    def receiving(self) -> Iterator[None]:
        """Warn after the block, on this thread, of what the workers have warned of."""
        try:
            yield
            self._handed_out.clear()  # an error leaves them to abort_everything
        finally:
            warned, self._warned = self._warned, []
            for message, category, filename, lineno in warned:
                warnings.warn_explicit(message, category, filename, lineno)

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel what has not begun; joblib drops what the rest sends back."""
        for handed_out in self._handed_out:
            handed_out.cancel()

    def terminate(self) -> None:
        """Nothing to clean up: the executor is the user's."""


def run_packed(packed: np.ndarray, name: str) -> tuple[list[bytes], bytes]:
    """Run a call in a worker; return its endings, and the warnings that were shown."""
    with one_at_a_time(), one_thread(), warnings.catch_warnings(record=True) as caught:
        # the caller's filters decide, which scikit-learn's tasks bring along
        warnings.simplefilter("always")
        endings = cloudpickle.loads(packed)()
    warned = [_as_warned(warning) for warning in caught]
    return [_pack(ending) for ending in endings], cloudpickle.dumps(warned)


def _pack(ending: Ending) -> bytes:
    """Pickle an ending; in the place of one that cannot travel, an error that says so."""
    value, error = ending
    try:
        if error is not None:
            _check_travels(error)
        return cloudpickle.dumps(ending)
    except Exception as failure:
        what = "The result of a task" if error is None else repr(error)
        substitute = RuntimeError(f"{what} cannot be pickled on its way back: {failure!r}.")
        for note in getattr(error, "__notes__", []):
            substitute.add_note(note)
        return cloudpickle.dumps((None, substitute))


def _as_warned(warning: warnings.WarningMessage) -> Warned:
    """Return what makes the same warning elsewhere; a UserWarning for one that cannot travel."""
    message, category = warning.message, warning.category
    try:
        _check_travels(message)
    except Exception:
        category = UserWarning
        message = category(f"{warning.category.__name__}: {message}")
    return message, category, warning.filename, warning.lineno  # type: ignore[return-value]


def _check_travels(error: Any) -> None:
    """Fail for an exception that cannot be pickled, or not be made again from its pickle."""
    cloudpickle.loads(cloudpickle.dumps(error))
