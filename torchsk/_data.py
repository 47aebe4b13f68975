"""Checked rows on the host: some of them, in chunks, merged; no copy is made before its time."""

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from numbers import Number
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

# numbers in a chunk of rows: about 32 MB of float64, large enough to be fast, small enough to be
# nothing
CHUNK_SIZE = 4_000_000
#: how the names of dtypes begin that hold times, in numpy, pandas and polars
TIMES = re.compile("date|time|duration|period", re.IGNORECASE)


def chunks(n_rows: int, n_numbers: int, size: int | None = None) -> Iterator[slice]:
    """Yield slices of rows of n_numbers each that hold about `size` (CHUNK_SIZE) numbers."""
    step = max(1, (size or CHUNK_SIZE) // max(1, n_numbers))
    return (slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step))


def row_size(X: Any) -> int:
    """Return how many numbers a row of X (n_rows, ...) holds."""
    return math.prod(X.shape[1:])


class RowsOf:
    """Some rows of an array (n_rows, ...), copied only as they are looked at."""

    def __init__(self, array: np.ndarray, index: np.ndarray):
        self.array, self.index = array, index
        self.shape, self.dtype = (len(index), *array.shape[1:]), array.dtype

    def __getitem__(self, rows: Any) -> np.ndarray:
        return self.array[self.index[rows]]


@dataclass(frozen=True)
class Data:
    """Validated rows: X (n, ...), encoded y (n,) or (n, n_targets), weights (n,) or None."""

    X: Any
    y: np.ndarray
    weight: np.ndarray | None

    def take(self, index: np.ndarray) -> "Data":
        """Return some of the rows; of an array only where to find them, as it may be large."""
        X = self.X[index] if sp.issparse(self.X) else RowsOf(self.X, index)
        weight = None if self.weight is None else self.weight[index]
        return Data(X, self.y[index], weight)

    def __len__(self) -> int:
        return self.X.shape[0]


def is_mapped(X: Any) -> bool:
    """Return whether an array, or some rows of it, looks at a file (numpy.memmap)."""
    X = X.array if isinstance(X, RowsOf) else X
    while isinstance(X, np.ndarray) and not isinstance(X, np.memmap):
        X = X.base
    return isinstance(X, np.memmap)


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


def merge_duplicates(data: Data) -> Data:
    """Return one row per distinct (x, y) with the sum of their weights, sorted by their values.

    Rows of weight zero are left out. k copies of a row and one row of weight k give the same
    result, so a fit on either is the same computation, bit by bit.
    """
    given = np.ones(len(data)) if data.weight is None else data.weight
    groups: dict[bytes, tuple[int, float]] = {}
    for i, key in enumerate(_row_keys(data.X, data.y)):
        if given[i] > 0:
            first, total = groups.get(key, (i, 0.0))
            groups[key] = (first, total + given[i])
    kept = [groups[key] for key in sorted(groups)]
    weight = np.array([total for _, total in kept])
    merged = data.take(np.array([first for first, _ in kept]))
    return replace(merged, weight=None if (weight == 1).all() else weight)


def _row_keys(X: Any, y: np.ndarray) -> Iterator[bytes]:
    """Yield the bytes of each (x, y); they sort as the values do, whatever their unit or dtype."""
    targets = y.reshape(len(y), -1)
    if sp.issparse(X):
        matrix = sp.csr_array(X, dtype=np.float64, copy=True)
        matrix.sum_duplicates()
        matrix.eliminate_zeros()
        bounds, data, targets = matrix.indptr, _sortable(matrix.data), _sortable(targets)
        indices = matrix.indices.astype(">u8")
        for i, target in enumerate(targets):
            row = slice(bounds[i], bounds[i + 1])
            yield indices[row].tobytes() + data[row].tobytes() + target.tobytes()
    else:
        for rows in chunks(len(targets), row_size(X)):
            flat = X[rows].reshape(len(targets[rows]), -1)
            for row in _sortable(np.hstack([flat, targets[rows]], dtype=np.float64)):
                # of an image, any order that its numbers alone decide will do
                yield row.tobytes() if X.ndim == 2 else hashlib.blake2b(row).digest()


def _sortable(values: np.ndarray) -> np.ndarray:
    """Return integers whose bytes sort as the numbers do; -0.0 is 0.0."""
    bits = (np.ascontiguousarray(values, dtype=np.float64) + 0.0).view(np.uint64)
    sign = np.uint64(1 << 63)
    return np.where(bits & sign, ~bits, bits | sign).astype(">u8")


def as_numpy(data: Any) -> Any:
    """Return a torch tensor as an array; everything else unchanged."""
    if not isinstance(data, Tensor):
        return data
    data = data.detach().cpu()
    return (data.float() if data.dtype == torch.bfloat16 else data).numpy()


def as_table(X: Any) -> Any:
    """Return X as scikit-learn's validation takes it, or raise a ValueError if it holds times.

    A torch tensor becomes an array. A sparse frame of pandas becomes dense where its columns are
    filled with something other than zeros, and float64 where scipy has no sparse matrix of its
    dtypes, or scikit-learn would leave them: bool, float16, object, and mixtures with these.
    """
    X = as_numpy(X)
    dtypes = set(X.dtypes if hasattr(X, "columns") else [getattr(X, "dtype", None)])
    times = sorted(str(dtype) for dtype in dtypes if TIMES.match(str(dtype)))
    if times:
        raise ValueError(
            f"X must hold numbers; got columns of {' and '.join(times)}: make numbers of them, "
            "such as days since a date, or the year, month and weekday."
        )
    if not all(hasattr(dtype, "subtype") and hasattr(dtype, "fill_value") for dtype in dtypes):
        return X
    if not all(_is_zero(dtype.fill_value) for dtype in dtypes):
        return X.sparse.to_dense()
    if all(dtype.subtype.kind in "iufc" and dtype.subtype != np.float16 for dtype in dtypes):
        return X
    return X.astype(type(dtypes.pop())(np.float64, 0.0))


def _is_zero(value: Any) -> bool:
    return isinstance(value, Number | np.bool_) and value == 0


def as_floats(X: Any) -> Any:
    """Return an array or a sparse matrix in native float64 or float32: no copy of one that is."""
    return X if X.dtype in (np.float64, np.float32) else X.astype(np.float64)
