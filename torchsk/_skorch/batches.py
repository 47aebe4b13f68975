"""Rows as a data set of skorch, and its batches."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from skorch.dataset import Dataset
from torch import Tensor

from torchsk._rows import DenseRows


class Batches(Dataset):
    """Rows with their targets, cut into batches.

    A batch is (X, y); y is in the form that scikit-learn's metrics take (class codes, numbers), and
    the head's target and the weights ride along as its attributes. Rows may also be an array, as in
    ``net_.predict(X)``; then there is no y.
    """

    def __init__(
        self,
        X: Any,
        y: Tensor | None = None,
        target: Tensor | None = None,
        weight: Tensor | None = None,
        rng: np.random.RandomState | None = None,
        sizes: np.ndarray | None = None,
        dtype: type = np.float32,
    ):
        self.rows = X if hasattr(X, "n_rows") else DenseRows(torch.tensor(np.asarray(X, dtype)))
        self.X, self.y, self.target, self.weight = X, y, target, weight
        #: rows of each batch of an epoch, if they are given
        self.rng, self.sizes = rng, sizes
        self.order = np.arange(len(self))
        #: the rows that are held out, and how they are scored
        self.held_out: Batches | None = None
        self.score: Callable[[Tensor], tuple[float, float]] | None = None

    def __len__(self) -> int:
        return self.rows.n_rows

    def with_held_out(self) -> tuple["Batches", "Batches | None"]:
        """Return (rows to train on, rows that are held out)."""
        return self, self.held_out

    def shuffled(self, batch_size: int) -> Iterator[tuple[Tensor, Any]]:
        """Return an epoch in scikit-learn's order: cumulative shuffles, none of a single batch."""
        if self.rng is not None and len(self._stops(batch_size)):
            permutation = np.arange(len(self))
            self.rng.shuffle(permutation)
            self.order = self.order[permutation]
        return self.in_order(batch_size)

    def in_order(self, batch_size: int) -> Iterator[tuple[Tensor, Any]]:
        """Yield all batches."""
        for index in np.split(self.order, self._stops(batch_size)):
            yield self._batch(torch.from_numpy(index))

    def _stops(self, batch_size: int) -> np.ndarray:
        """Return where all batches but the last end."""
        if self.sizes is None:
            return np.arange(batch_size, len(self), batch_size)
        return np.cumsum(self.sizes)[:-1]

    def _batch(self, index: Tensor) -> tuple[Tensor, Any]:
        index = index if self.y is None else index.to(self.y.device)
        y: Any = None
        if self.y is not None and self.target is not None:
            y = self.y[index]
            y.target = self.target[index]
            y.weight = None if self.weight is None else self.weight[index]
        return self.rows.take(index), y
