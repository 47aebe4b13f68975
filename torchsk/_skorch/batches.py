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
        min_rows: int = 1,
    ):
        self.rows = X if hasattr(X, "n_rows") else DenseRows(torch.tensor(np.float32(X)))
        self.X, self.y, self.target, self.weight = X, y, target, weight
        self.rng, self.min_rows = rng, min_rows
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
        if self.rng is not None and len(self) > batch_size:
            permutation = np.arange(len(self))
            self.rng.shuffle(permutation)
            self.order = self.order[permutation]
        return self.in_order(batch_size)

    def in_order(self, batch_size: int) -> Iterator[tuple[Tensor, Any]]:
        """Yield all batches; a last one of less than min_rows joins the one before."""
        stops = list(range(batch_size, len(self), batch_size))
        if stops and len(self) - stops[-1] < self.min_rows:
            del stops[-1]
        for index in np.split(self.order, stops):
            yield self._batch(torch.from_numpy(index))

    def _batch(self, index: Tensor) -> tuple[Tensor, Any]:
        index = index if self.y is None else index.to(self.y.device)
        y: Any = None
        if self.y is not None and self.target is not None:
            y = self.y[index]
            y.target = self.target[index]
            y.weight = None if self.weight is None else self.weight[index]
        return self.rows.take(index), y
