"""Rows on a device: the only door between numpy or scipy.sparse data and torch tensors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from torchsk._data import RowsOf, check_weights, chunks, row_size
from torchsk._standardizer import Standardizer

# training passes over zeros where there are many: a product takes longer for an entry than a dense
# one for a number, and every step has to cut its rows
MAX_DENSITY, MIN_COLUMNS = 1 / 16, 512


class DenseRows:
    """Rows in one tensor (n_rows, ...) on the device."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor
        #: how many rows there are, and how many numbers each holds
        self.n_rows, self.row_size = len(tensor), row_size(tensor)

    def take(self, index: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the rows of a (device) index."""
        return torch.index_select(self.tensor, 0, index, out=out)

    def part(self, rows: slice) -> Tensor:
        """Return some neighbouring rows: a view."""
        return self.tensor[rows]

    @staticmethod
    def concatenate(parts: Sequence["DenseRows"]) -> "DenseRows":
        """Return all rows of all parts, one after the other."""
        return parts[0] if len(parts) == 1 else DenseRows(torch.cat([p.tensor for p in parts]))


class SparseRows:
    """Rows of float features in a scipy CSR matrix, which stay sparse when they are taken."""

    def __init__(self, matrix: Any):
        self.matrix = matrix
        self.n_rows = matrix.shape[0]
        self.row_size = 1 + matrix.nnz // max(1, self.n_rows)

    def take(self, index: Tensor) -> Any:
        """Return the rows of an index."""
        return self.matrix[index.numpy()]

    def part(self, rows: slice) -> Any:
        """Return some neighbouring rows."""
        return self.matrix[rows]

    @staticmethod
    def concatenate(parts: Sequence["SparseRows"]) -> "SparseRows":
        """Return all rows of all parts, one after the other."""
        if len(parts) == 1:
            return parts[0]
        return SparseRows(sp.vstack([part.matrix for part in parts], format="csr"))


class CompressedRows:
    """Rows of float features in a scipy CSR matrix, made dense as they are taken."""

    def __init__(self, matrix: Any, device: torch.device, dtype: torch.dtype):
        self.matrix, self.device, self.dtype = matrix, device, dtype
        self.n_rows, self.row_size = matrix.shape

    def take(self, index: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the rows of an index as a dense tensor on the device."""
        dense = torch.from_numpy(self.matrix[index.cpu().numpy()].toarray())
        return dense.to(self.device, self.dtype) if out is None else out.copy_(dense)

    def part(self, rows: slice) -> Tensor:
        """Return some neighbouring rows, dense."""
        return torch.from_numpy(self.matrix[rows].toarray()).to(self.device, self.dtype)

    @staticmethod
    def concatenate(parts: Sequence["CompressedRows"]) -> "CompressedRows":
        """Return all rows of all parts, one after the other."""
        first = parts[0]
        if len(parts) == 1:
            return first
        matrix = sp.vstack([part.matrix for part in parts], format="csr")
        return CompressedRows(matrix, first.device, first.dtype)


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
        self.n_rows, self.row_size = X.shape[0], row_size(X)

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

    def part(self, rows: slice) -> Tensor:
        """Return some neighbouring rows."""
        return self.take(torch.arange(*rows.indices(self.n_rows), device="cpu"))

    @staticmethod
    def concatenate(parts: Sequence["MappedRows"]) -> "MappedRows":
        """Return the only part."""
        (part,) = parts
        return part


Rows = DenseRows | SparseRows | CompressedRows | MappedRows


@dataclass(frozen=True)
class Examples:
    """Rows with what is learnt from them.

    Parameters
    ----------
    X : Rows of shape (n_rows, ...)
        Standardised features, or what a module takes.
    target : Tensor of shape (n_rows, n_columns)
        y as the head has encoded it.
    weight : Tensor of shape (n_rows,) or None
        Sample weights, times class weights.
    """

    X: Rows
    target: Tensor
    weight: Tensor | None

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.X.n_rows

    @property
    def size(self) -> int:
        """How many numbers the rows hold."""
        return self.X.n_rows * self.X.row_size

    def map(self, function: Callable[[Any], Any]) -> "Examples":
        """Return them with X, target and weight (if any) as the function returns each."""
        weight = None if self.weight is None else function(self.weight)
        return Examples(function(self.X), function(self.target), weight)


def as_rows(
    X: Any,
    scaler: Standardizer | None,
    device: torch.device,
    dtype: torch.dtype,
    name: str = "X",
    *,
    may_stay_sparse: bool = False,
) -> Rows:
    """Return X (n_samples, ...), standardised in float64 and then cast, on the device."""
    if sp.issparse(X) and scaler is not None and scaler.mean.any():
        X = X.toarray()  # of zeros a mean is taken off, too
    if not sp.issparse(X):
        return DenseRows(as_tensor(X, scaler, device, dtype, name))
    matrix = X.tocsr()
    if not matrix.has_canonical_format:  # before parts of an entry are rounded
        matrix = matrix.copy()
        matrix.sum_duplicates()
    entries = matrix.data
    with np.errstate(over="ignore"):
        if scaler is not None:
            entries = entries / scaler.scale[matrix.indices]
        entries = entries.astype(np.float32 if dtype == torch.float32 else np.float64)
    for part in chunks(len(entries), 1):
        _check_range(entries[part], name)
    matrix = type(matrix)((entries, matrix.indices, matrix.indptr), shape=matrix.shape)
    n_rows, n_columns = matrix.shape
    is_thin = n_columns >= MIN_COLUMNS and matrix.nnz <= MAX_DENSITY * n_rows * n_columns
    if may_stay_sparse and is_thin and device.type == "cpu":
        return SparseRows(matrix)
    return CompressedRows(matrix, device, dtype)


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
        for rows in chunks(len(array), row_size(array)):
            array[rows] = X[rows] if scaler is None else scaler.transform(X[rows])
            _check_range(array[rows], name)
    return out.to(device)


def as_weight(weight: np.ndarray, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return sample weights (n_samples,) cast and on the device."""
    check_weights(weight)
    return torch.from_numpy(weight).to(device, dtype)


def _check_range(array: np.ndarray, name: str) -> None:
    """Raise when a cast to float32 made values infinite."""
    if not np.isfinite(array).all():
        ways = "scale it" if array.ndim > 2 else "scale it, or use standardize=True"
        raise ValueError(
            f"{name} must be finite and within the range of {array.dtype} (about 3e38); {ways}."
        )
