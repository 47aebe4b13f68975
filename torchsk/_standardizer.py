"""Centre and scale of columns: how they are taken from rows, and applied."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.utils.sparsefuncs import mean_variance_axis

from torchsk._data import chunks


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
    for rows in chunks(n_rows, n_columns):
        mean += weight[rows] @ X[rows].astype(np.float64, order="C", copy=False) / total
    for rows in chunks(n_rows, n_columns):
        centred = np.subtract(X[rows], mean, dtype=np.float64, order="C")
        variance += weight[rows] @ np.square(centred, out=centred) / total
    return mean, variance


def _sparse_moments(X: Any, weight: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance of the columns of a sparse matrix, implicit zeros included."""
    X = X.astype(np.float64)
    X.sum_duplicates()  # scikit-learn counts the parts of an entry that is stored in several
    mean, variance = mean_variance_axis(X, axis=0, weights=weight)
    return mean, variance
