"""Centre and scale of columns: how they are taken from rows, follow a stream, and are applied."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.utils.sparsefuncs import mean_variance_axis

from torchsk._data import chunks

#: a spread that grows by more than this factor at once was as good as none: two rows that happen
#: to be alike, or the rows of one class
MAX_GROWTH = 2.0


class Squares:
    """The usual measure of spread: squared differences, whose mean is the variance."""

    @staticmethod
    def distance(X: Any, center: np.ndarray) -> np.ndarray:
        """Return how far each number (n_rows, n_columns) is from the centre of its column."""
        # in C order whatever the order of X, so that sums are the same to the last bit
        centred = np.subtract(X, center, dtype=np.float64, order="C")
        return np.square(centred, out=centred)

    @staticmethod
    def about(spread: np.ndarray, mean: np.ndarray, center: np.ndarray) -> np.ndarray:
        """Return the mean distance from a centre, given that from the mean."""
        return spread + (mean - center) ** 2


@dataclass(frozen=True)
class Moments:
    """What is known of columns from all rows so far.

    Parameters
    ----------
    n : float
        Sum of the weights of the rows.
    mean : ndarray of shape (n_columns,)
    variance : ndarray of shape (n_columns,)
        Mean distance from the mean, by `Squares` or whatever measures distances as it does. They
        must be those of a Bregman divergence, in squared units of X.
    """

    n: float
    mean: np.ndarray
    variance: np.ndarray

    @classmethod
    def of(
        cls, X: Any, weight: np.ndarray | None = None, name: str = "X", measure: Any = Squares
    ) -> "Moments":
        """Return the (weighted) moments of the columns of X."""
        return cls(*_moments(X, weight, measure))._checked(X, name)

    def with_rows(
        self, X: Any, weight: np.ndarray | None = None, name: str = "X", measure: Any = Squares
    ) -> "Moments":
        """Return the moments of the rows so far and X together (Chan, Golub & LeVeque 1979)."""
        n, mean, variance = _moments(X, weight, measure)
        share = n / (self.n + n)
        with np.errstate(over="ignore", invalid="ignore"):
            center = self.mean + share * (mean - self.mean)
            spread = (1 - share) * measure.about(self.variance, self.mean, center)
            spread += share * measure.about(variance, mean, center)
        return Moments(self.n + n, center, spread)._checked(X, name)

    @cached_property
    def deviation(self) -> np.ndarray:
        """Standard deviation of each column; 0 for a column without spread."""
        deviation = np.sqrt(self.variance)
        # rounding leaves a constant column with a spread of a few eps times its value
        deviation[deviation <= 10 * np.finfo(np.float64).eps * np.abs(self.mean)] = 0.0
        return deviation

    def _checked(self, X: Any, name: str) -> "Moments":
        """Return them, or raise if a variance is not finite."""
        if not np.isfinite(self.variance).all():
            raise ValueError(
                f"{name} must be finite and small enough to be squared in float64; got values "
                f"up to {abs(X[:]).max():.3g}."
            )
        return self


@dataclass(frozen=True)
class Standardizer:
    """Centre and scale of columns, float64 (n_columns,).

    Parameters
    ----------
    mean, scale : ndarray of shape (n_columns,)
    moments : Moments or None
        What they were taken from, if they shall follow later rows.
    centred : bool
        False once there have been sparse rows: then `mean` is 0.
    """

    mean: np.ndarray
    scale: np.ndarray
    moments: Moments | None = None
    centred: bool = True

    @classmethod
    def fit(cls, X: Any, weight: np.ndarray | None = None, name: str = "X") -> "Standardizer":
        """Return the (weighted) mean and standard deviation of the columns of X.

        Sparse X is scaled but not centred. Columns without spread get scale 1.
        """
        return cls._of(Moments.of(X, weight, name), centred=not sp.issparse(X))

    def with_rows(self, X: Any, weight: np.ndarray | None = None) -> "Standardizer":
        """Return the scaler of the rows so far and X together."""
        assert self.moments is not None
        centred = self.centred and not sp.issparse(X)
        return self._of(self.moments.with_rows(X, weight), centred)

    @property
    def known(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the rows, a deviation of 0 where there is none yet."""
        if self.moments is None:
            return self.mean, self.scale
        return self.moments.mean, self.moments.deviation

    def change(self, later: "Standardizer") -> tuple[np.ndarray, np.ndarray]:
        """Return (factor, shift): z of this scaler is ``factor * z + shift`` of the later one's z.

        Where there was no spread yet, or next to none (`MAX_GROWTH`), the later scale counts as
        this one's too: a small one that stood in would blow up the weights of a column.
        """
        is_known = MAX_GROWTH * self.known[1] >= later.known[1]
        scale = np.where(is_known, self.scale, later.scale)
        return later.scale / scale, (later.mean - self.mean) / scale

    @classmethod
    def _of(cls, moments: Moments, centred: bool) -> "Standardizer":
        mean, deviation = moments.mean, moments.deviation
        scale = np.where(deviation > 0, deviation, 1.0)
        return cls(mean if centred else np.zeros_like(mean), scale, moments, centred)

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Return (X - mean) / scale in float64."""
        with np.errstate(over="ignore"):  # who takes the result looks at its range
            Z = np.subtract(X, self.mean, dtype=np.float64)
            return np.divide(Z, self.scale, out=Z)


def _moments(
    X: Any, weight: np.ndarray | None, measure: Any
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return (sum of the weights, mean, mean distance from it) of the columns of X."""
    total = float(X.shape[0] if weight is None else weight.sum(dtype=np.float64))
    with np.errstate(over="ignore", invalid="ignore"):
        if sp.issparse(X):
            return total, *_sparse_moments(X, weight)
        return total, *_dense_moments(X, weight, measure)


def _dense_moments(
    X: Any, weight: np.ndarray | None, measure: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance of the columns, in two passes over chunks of rows."""
    n_rows, n_columns = X.shape
    weight = np.ones(n_rows) if weight is None else weight.astype(np.float64)
    total = weight.sum()
    mean, variance = np.zeros(n_columns), np.zeros(n_columns)
    for rows in chunks(n_rows, n_columns):
        mean += weight[rows] @ X[rows].astype(np.float64, order="C", copy=False) / total
    for rows in chunks(n_rows, n_columns):
        variance += weight[rows] @ measure.distance(X[rows], mean) / total
    return mean, variance


def _sparse_moments(X: Any, weight: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance of the columns of a sparse matrix, implicit zeros included."""
    X = X.astype(np.float64)
    X.sum_duplicates()  # scikit-learn counts the parts of an entry that is stored in several
    mean, variance = mean_variance_axis(X, axis=0, weights=weight)
    return mean, variance
