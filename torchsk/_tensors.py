"""The only door between numpy, pandas or scipy.sparse data and torch tensors."""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.utils.sparsefuncs import mean_variance_axis
from torch import Tensor

# about 32 MB of float64: large enough to be fast, small enough to be nothing
CHUNK_SIZE = 4_000_000


# -- devices ---------------------------------------------------------------------------------------


#: kinds of device that have no float64
FLOAT32_ONLY = {"mps"}


def exact_dtype(device: torch.device) -> torch.dtype:
    """Return float64, in which sums are taken, or float32 where a device has no other."""
    return torch.float32 if device.type in FLOAT32_ONLY else torch.float64


def available_devices() -> list[str]:
    """Return the names of the devices that torch can use here, "cpu" first."""
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is None or not torch.accelerator.is_available():
        return ["cpu"]
    kind, n_devices = accelerator.type, torch.accelerator.device_count()
    return ["cpu", kind, *(f"{kind}:{i}" for i in range(n_devices))]


def resolve_device(device: str | torch.device) -> torch.device:
    """Return the torch device; "auto" is the first accelerator, else the CPU."""
    names = available_devices()
    if str(device) == "auto":
        return torch.device(names[1] if len(names) > 1 else "cpu")
    if str(device) not in names:
        raise ValueError(f"device must be one of {['auto', *names]}; got device={str(device)!r}.")
    return torch.device(device)


# multiply-adds of a forward pass from which a second core pays; below, its barriers cost more, and
# on a busy machine a hundred times more
PARALLEL_SIZE = 2**25

_threads_lock = threading.Lock()
_threads_before: list[int] = []
_this_thread = threading.local()
_is_forked = False


def threads_for(n_multiply_adds: float, device: torch.device) -> AbstractContextManager[None]:
    """Return a context with as many of torch's threads as pay for products of this size.

    One in a forked process: the threads stayed behind, and who calls for them waits for ever.
    """
    is_small = device.type == "cpu" and n_multiply_adds < PARALLEL_SIZE
    return one_thread() if is_small or _is_forked else nullcontext()


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch's operations on one core inside the block, and restore after it.

    Small operations lose more time at the barriers of a second thread than they gain. In torch each
    Python thread has a number of its own, which it takes over from the last that was set anywhere
    at its first operation: then it may be the 1 of another thread that is inside.
    """
    if getattr(_this_thread, "is_inside", False):
        yield
        return
    with _threads_lock:
        before = torch.get_num_threads()
        if before == 1 and _threads_before:
            before = _threads_before[0]
        _threads_before.append(before)
        torch.set_num_threads(1)
    _this_thread.is_inside = True
    try:
        yield
    finally:
        _this_thread.is_inside = False
        with _threads_lock:
            _threads_before.remove(before)
            torch.set_num_threads(before)


def _after_fork() -> None:
    """Forget the threads of the parent, which may have held the lock."""
    global _threads_lock, _this_thread, _is_forked
    _threads_lock, _this_thread, _is_forked = threading.Lock(), threading.local(), True
    _threads_before.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# -- standardisation -------------------------------------------------------------------------------


def _chunks(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Yield slices of rows that hold about CHUNK_SIZE numbers each."""
    step = max(1, CHUNK_SIZE // max(1, n_columns))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


@dataclass(frozen=True)
class Standardizer:
    """Centre and scale of columns, float64 (n_columns,)."""

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(cls, X: Any, weight: np.ndarray | None = None, name: str = "X") -> "Standardizer":
        """Return the (weighted) mean and standard deviation of the columns of X.

        Sparse X is scaled but not centred. Columns without spread get scale 1.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            mean, variance = (_sparse_moments if sp.issparse(X) else _dense_moments)(X, weight)
        if not np.isfinite(variance).all():
            raise ValueError(
                f"{name} must be finite and small enough to be squared in float64; got values "
                f"up to {abs(X[:]).max():.3g}."
            )
        scale = np.sqrt(variance)
        # rounding leaves a constant column with a spread of a few eps times its value
        scale[scale <= 10 * np.finfo(np.float64).eps * np.abs(mean)] = 1.0
        return cls(np.zeros_like(mean) if sp.issparse(X) else mean, scale)

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Return (X - mean) / scale in float64."""
        with np.errstate(over="ignore"):  # who takes the result looks at its range
            Z = np.subtract(X, self.mean, dtype=np.float64)
            return np.divide(Z, self.scale, out=Z)


def _dense_moments(X: Any, weight: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance of the columns, in two passes over chunks of rows."""
    n_rows, n_columns = X.shape
    weight = np.ones(n_rows) if weight is None else weight.astype(np.float64)
    total = weight.sum()
    mean, variance = np.zeros(n_columns), np.zeros(n_columns)
    # in C order whatever the order of X, so that they are the same to the last bit
    for rows in _chunks(n_rows, n_columns):
        mean += weight[rows] @ X[rows].astype(np.float64, order="C", copy=False) / total
    for rows in _chunks(n_rows, n_columns):
        centred = np.subtract(X[rows], mean, dtype=np.float64, order="C")
        variance += weight[rows] @ np.square(centred, out=centred) / total
    return mean, variance


def _sparse_moments(X: Any, weight: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance of the columns of a sparse matrix, implicit zeros included."""
    X = X.astype(np.float64)
    X.sum_duplicates()  # scikit-learn counts the parts of an entry that is stored in several
    mean, variance = mean_variance_axis(X, axis=0, weights=weight)
    return mean, variance


# -- rows ------------------------------------------------------------------------------------------


class RowsOf:
    """Some rows of an array (n_rows, n_columns), copied only as they are looked at."""

    def __init__(self, array: np.ndarray, index: np.ndarray):
        self.array, self.index = array, index
        self.shape = len(index), array.shape[1]

    def __getitem__(self, rows: Any) -> np.ndarray:
        return self.array[self.index[rows]]


class DenseRows:
    """Rows of float features in one tensor (n_rows, n_features) on the device."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor
        self.n_rows, self.n_features = tensor.shape

    def take(self, index: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the rows of a (device) index as a dense tensor."""
        return torch.index_select(self.tensor, 0, index, out=out)

    def all(self) -> Tensor:
        """Return every row."""
        return self.tensor

    @staticmethod
    def concatenate(parts: Sequence["DenseRows"]) -> "DenseRows":
        """Return all rows of all parts, one after the other."""
        return parts[0] if len(parts) == 1 else DenseRows(torch.cat([p.tensor for p in parts]))


class SparseRows:
    """Rows of float features in a scipy CSR matrix, made dense as they are taken."""

    def __init__(self, matrix: Any, device: torch.device, dtype: torch.dtype):
        self.matrix, self.device, self.dtype = matrix, device, dtype
        self.n_rows, self.n_features = matrix.shape

    def take(self, index: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the rows of an index as a dense tensor on the device."""
        dense = torch.from_numpy(self.matrix[index.cpu().numpy()].toarray())
        return dense.to(self.device, self.dtype) if out is None else out.copy_(dense)

    def all(self) -> Tensor:
        """Return every row, dense."""
        return torch.from_numpy(self.matrix.toarray()).to(self.device, self.dtype)

    @staticmethod
    def concatenate(parts: Sequence["SparseRows"]) -> "SparseRows":
        """Return all rows of all parts, one after the other."""
        first = parts[0]
        if len(parts) == 1:
            return first
        matrix = sp.vstack([part.matrix for part in parts], format="csr")
        return SparseRows(matrix, first.device, first.dtype)


class MappedRows:
    """Rows of a memory-mapped array, read, standardised and cast as they are taken."""

    def __init__(
        self,
        X: np.ndarray | RowsOf,
        scaler: Standardizer | None,
        device: torch.device,
        dtype: torch.dtype,
    ):
        self.X: np.ndarray = X.array if isinstance(X, RowsOf) else X
        self.index = X.index if isinstance(X, RowsOf) else None
        self.scaler, self.device, self.dtype = scaler, device, dtype
        self.n_rows, self.n_features = X.shape

    def take(self, index: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the rows of an index as a dense tensor on the device."""
        numbers = index.cpu().numpy()
        numbers = numbers if self.index is None else self.index[numbers]
        # files are read forwards
        ordered, back = np.unique(numbers, return_inverse=True)
        rows = np.array(self.X[ordered])
        rows = rows if self.scaler is None else self.scaler.transform(rows)
        dense = torch.from_numpy(rows).to(self.dtype)[torch.from_numpy(back)]
        return dense.to(self.device) if out is None else out.copy_(dense)

    def all(self) -> Tensor:
        """Return every row."""
        return self.take(torch.arange(self.n_rows, device="cpu"))

    @staticmethod
    def concatenate(parts: Sequence["MappedRows"]) -> "MappedRows":
        """Return the only part."""
        (part,) = parts
        return part


Rows = DenseRows | SparseRows | MappedRows


def is_mapped(X: Any) -> bool:
    """Return whether an array, or some rows of it, looks at a file (numpy.memmap)."""
    X = X.array if isinstance(X, RowsOf) else X
    while isinstance(X, np.ndarray) and not isinstance(X, np.memmap):
        X = X.base
    return isinstance(X, np.memmap)


def take_rows(X: Any, index: np.ndarray) -> Any:
    """Return some rows of X; of an array only where to find them, as it may be large."""
    return X[index] if sp.issparse(X) else RowsOf(X, index)


def as_rows(
    X: Any, scaler: Standardizer | None, device: torch.device, dtype: torch.dtype, name: str = "X"
) -> Rows:
    """Return X (n_samples, n_columns), standardised in float64 and then cast, on the device."""
    if sp.issparse(X):
        matrix = X.tocsr()
        if scaler is not None:
            matrix = (matrix.astype(np.float64) @ sp.diags_array(1 / scaler.scale)).tocsr()
        matrix = matrix.astype(np.float32 if dtype == torch.float32 else np.float64)
        _check_range(matrix.data, name)
        return SparseRows(matrix, device, dtype)
    return DenseRows(as_tensor(X, scaler, device, dtype, name))


def as_tensor(
    X: np.ndarray | RowsOf,
    scaler: Standardizer | None,
    device: torch.device,
    dtype: torch.dtype,
    name: str = "X",
) -> Tensor:
    """Return X standardised in float64, cast and on the device; never a whole copy in float64."""
    out = torch.empty(X.shape, dtype=dtype, device="cpu")
    array = out.numpy()
    with np.errstate(over="ignore"):
        for rows in _chunks(*X.shape):
            array[rows] = X[rows] if scaler is None else scaler.transform(X[rows])
    _check_range(array, name)
    return out.to(device)


def as_weight(weight: np.ndarray, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return sample weights (n_samples,) cast and on the device."""
    check_weights(weight)
    return torch.from_numpy(weight).to(device, dtype)


def check_weights(weight: np.ndarray) -> None:
    """Raise unless none is negative and training can divide by their sum."""
    with np.errstate(over="ignore"):
        total = weight.sum()
    if not (1e-30 < total < 3e38 and weight.min() >= 0):
        raise ValueError(
            "sample_weight, times class_weight, must be >= 0 and have a sum that float32 can "
            f"divide by (about 1e-30 to 3e38); got weights from {weight.min():g} to "
            f"{weight.max():g} with a sum of {total:g}."
        )


def _check_range(array: np.ndarray, name: str) -> None:
    """Raise when a cast to float32 made values infinite."""
    for rows in _chunks(len(array), array[:1].size):
        # a sum is finite if all its terms are; the reverse may fail by overflow, so look again
        with np.errstate(over="ignore", invalid="ignore"):
            total = array[rows].sum(dtype=np.float64)
        if not np.isfinite(total) and not np.isfinite(array[rows]).all():
            raise ValueError(
                f"{name} must be finite and within the range of {array.dtype} (about 3e38); "
                f"scale it, or use standardize=True."
            )


def merge_duplicates(
    X: Any, y: np.ndarray, weight: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return (index of one row per distinct (x, y), sum of their weights), sorted by content.

    Rows of weight zero are left out. k copies of a row and one row of weight k give the same
    result, so a full-batch fit on either is the same computation, bit by bit.
    """
    weight = np.ones(len(y)) if weight is None else weight
    groups: dict[bytes, tuple[int, float]] = {}
    for i, key in enumerate(_row_keys(X, y)):
        if weight[i] > 0:
            first, total = groups.get(key, (i, 0.0))
            groups[key] = (first, total + weight[i])
    kept = [groups[key] for key in sorted(groups)]
    return np.array([first for first, _ in kept]), np.array([total for _, total in kept])


def _row_keys(X: Any, y: np.ndarray) -> Iterator[bytes]:
    """Yield the bytes of each (x, y); -0.0 is 0.0."""
    targets = np.ascontiguousarray(y.reshape(len(y), -1), dtype=np.float64) + 0.0
    if sp.issparse(X):
        matrix = sp.csr_array(X, dtype=np.float64, copy=True)
        matrix.sum_duplicates()
        matrix.eliminate_zeros()
        bounds = matrix.indptr
        for i, target in enumerate(targets):
            row = slice(bounds[i], bounds[i + 1])
            indices = matrix.indices[row].astype(np.int64)
            yield indices.tobytes() + matrix.data[row].tobytes() + target.tobytes()
    else:
        for row in np.hstack([X, targets], dtype=np.float64) + 0.0:
            yield row.tobytes()


def as_numpy(data: Any) -> Any:
    """Return a torch tensor as an array; everything else unchanged."""
    if not isinstance(data, Tensor):
        return data
    data = data.detach().cpu()
    return (data.float() if data.dtype == torch.bfloat16 else data).numpy()
