"""Periodic embeddings of numeric columns: what a network makes of them before its first layer.

A column x becomes [x, W cos(2 pi f x + b) + c], all of it trained: "PBLD" of Holzmueller et al.
2024, "Better by default", after Gorishniy et al. 2022, "On embeddings for numerical features". The
numbers of all columns are one flat vector, the tail of a network's.

Columns of two values have nothing to embed and pass through: all their numbers are zero, and so are
the coefs behind. Gradients keep that: it is a fixed point of training, by any solver. So whatever
the columns hold, a network has the same layout; and where it counts, a narrower one (`columns`),
that leaves the zeros out, computes the same.

In training samples are columns, as in the rest of the network.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchsk._data import chunks
from torchsk._matmul import affine, product

# the recipe: cosines of a column, numbers made of them, spread of the first frequencies, and the
# share of the learning rate at which all of it is trained
N_FREQUENCIES, N_OUTPUTS, SIGMA, RATE_FACTOR = 16, 3, 0.1, 0.1
#: names of embeddings
EMBEDDINGS = ("periodic",)


@dataclass(frozen=True)
class Embedding:
    """The shape of the embedding of a table.

    Parameters
    ----------
    n_features : int
        Columns of the table.
    columns : tuple of int or None
        Those that are embedded; None for all.
    n_frequencies, n_outputs : int
        Cosines of a column, and numbers that are made of them.
    """

    n_features: int
    columns: tuple[int, ...] | None = None
    n_frequencies: int = N_FREQUENCIES
    n_outputs: int = N_OUTPUTS

    @property
    def n_columns(self) -> int:
        """Number of columns that are embedded."""
        return self.n_features if self.columns is None else len(self.columns)

    @property
    def width(self) -> int:
        """Number of inputs of the first layer: the columns, then what is made of each."""
        return self.n_features + self.n_columns * self.n_outputs

    @property
    def n_cosines(self) -> int:
        """Number of cosines of a row."""
        return self.n_columns * self.n_frequencies

    @property
    def n_params(self) -> int:
        """Length of the flat vector."""
        return sum(self.sizes)

    @property
    def sizes(self) -> list[int]:
        """How many numbers f, b, W and c are."""
        return [self.n_columns * math.prod(shape) for shape in self._shapes]

    @property
    def _shapes(self) -> tuple[tuple[int, ...], ...]:
        k, n = self.n_frequencies, self.n_outputs
        return (k,), (k,), (n, k), (n,)

    def split(self, tail: Any) -> list[Any]:
        """Return views (f, b, W, c) of flat numbers (..., n_params), array or tensor.

        f and b are (..., n_columns, n_frequencies), W (..., n_columns, n_outputs, n_frequencies)
        and c (..., n_columns, n_outputs).
        """
        if isinstance(tail, Tensor):
            parts: Any = tail.split(self.sizes, dim=-1)
        else:
            parts = np.split(tail, np.cumsum(self.sizes)[:-1], axis=-1)
        lead = *tail.shape[:-1], self.n_columns
        return [part.reshape(*lead, *shape) for part, shape in zip(parts, self._shapes)]

    def draw(self, rng: np.random.RandomState) -> np.ndarray:
        """Return the numbers to start from (n_params,)."""
        tail = np.empty(self.n_params)
        frequencies, phases, *outputs = self.split(tail)
        frequencies[...] = rng.normal(0.0, SIGMA, frequencies.shape)
        phases[...] = rng.uniform(-math.pi, math.pi, phases.shape)
        bound = 1 / math.sqrt(self.n_frequencies)
        for part in outputs:
            part[...] = rng.uniform(-bound, bound, part.shape)
        return tail

    def rescaled(self, tail: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Return the numbers that make the same of x as these make of (x - mean) / scale."""
        tail = tail.astype(np.float64)
        frequencies, phases, *_ = self.split(tail)
        frequencies /= scale[:, None]
        phases -= 2 * np.pi * frequencies * mean[:, None]
        phases[...] = np.remainder(phases, 2 * np.pi)  # float32 has digits for small ones only
        return tail

    def narrowed(self, columns: np.ndarray) -> tuple["Embedding", np.ndarray, np.ndarray]:
        """Return (the embedding of some columns, where its outputs and its numbers lie here)."""
        narrow = replace(self, columns=tuple(columns.tolist()))
        outputs = np.arange(self.n_features, self.width).reshape(-1, self.n_outputs)[columns]
        parts = [part[columns].ravel() for part in self.split(np.arange(self.n_params))]
        return (
            narrow,
            np.concatenate([np.arange(self.n_features), outputs.ravel()]),
            np.hstack(parts),
        )


class EmbeddingLayer:
    """An embedding, or a stack of them, looking at flat numbers.

    Parameters
    ----------
    spec : Embedding
    tail : Tensor of shape (n_params,) or (n_models, n_params)
        The numbers; every method sees later in-place changes.
    """

    def __init__(self, spec: Embedding, tail: Tensor):
        f, b, W, c = spec.split(tail)
        #: as products take them: f, b and c as columns of one
        self.parts = [f.unsqueeze(-1), b.unsqueeze(-1), W, c.unsqueeze(-1)]
        self._n_axes = tail.ndim - 1
        self._memory: dict[tuple[str, int], Tensor] = {}
        self._columns: Tensor | None = None
        if spec.columns is not None:
            self._columns = torch.tensor(spec.columns, dtype=torch.int64, device=tail.device)

    def forward(self, X: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return (inputs of the first layer (..., width, n_samples), what `backward` needs).

        X is (..., n_features, n_samples).
        """
        f, b, W, c = self.parts
        if self._n_axes:  # columns of all models along one axis
            f, b, W, c = (part.flatten(0, 1) for part in self.parts)
        x = X if self._columns is None else X.index_select(-2, self._columns)
        x = x.contiguous().view(-1, 1, x.shape[-1])
        angles = torch.mul(f * (2 * math.pi), x, out=self._use_again("angles", x)).add_(b)
        cosines = torch.cos(angles, out=self._use_again("cosines", x))
        outputs = affine(W, cosines, c)
        inputs = torch.cat([X, outputs.view(*X.shape[:-2], -1, X.shape[-1])], dim=-2)
        return inputs, (x, W, angles, cosines)

    def _use_again(self, name: str, x: Tensor) -> Tensor | None:
        """Return memory of a stack for each cosine of x (n_columns, 1, n_samples).

        It is that of many models; for one, new memory is found faster than the old.
        """
        if self._n_axes == 0:
            return None
        key, n_frequencies = (name, x.shape[-1]), self.parts[0].shape[-2]
        if key not in self._memory:
            self._memory[key] = x.new_empty(x.shape[0], n_frequencies, x.shape[-1])
        return self._memory[key]

    def backward(
        self, delta: Tensor, saved: tuple[Tensor, ...], gradient: "EmbeddingLayer | None"
    ) -> None:
        """Write d loss / d numbers into `gradient`, given delta = d loss / d outputs.

        Delta is (..., n_columns * n_outputs, n_samples); what was saved is overwritten.
        """
        assert gradient is not None
        x, W, angles, cosines = saved
        df, db, dW, dc = gradient.parts
        delta = delta.reshape(*W.shape[:2], -1)
        by_angle = product(W.mT, delta, self._use_again("deltas", x)).mul_(angles.sin_())
        torch.mul(by_angle.sum(-1).view(db.shape), -1, out=db)
        torch.mul(by_angle.mul_(x).sum(-1).view(df.shape), -2 * math.pi, out=df)
        dW.copy_(product(delta, cosines.mT).view(dW.shape))
        torch.sum(delta.view(*dc.shape[:-1], -1), -1, keepdim=True, out=dc)


class PeriodicEmbedding(nn.Module):
    """An embedding in plain torch, samples as rows.

    All its numbers are one parameter with one axis: no coefs, which a penalty would shrink.

    Parameters
    ----------
    spec : Embedding
    tail : ndarray of shape (n_params,)
    """

    columns: Tensor

    def __init__(self, spec: Embedding, tail: np.ndarray):
        super().__init__()
        self.sizes, self.n_frequencies, self.n_outputs = (
            spec.sizes, spec.n_frequencies, spec.n_outputs
        )  # fmt: skip
        self.numbers = nn.Parameter(torch.tensor(tail, dtype=torch.float32, device="cpu"))
        columns = np.arange(spec.n_features)[
            slice(None) if spec.columns is None else [*spec.columns]
        ]
        self.register_buffer("columns", torch.from_numpy(columns), persistent=False)

    def forward(self, X: Tensor) -> Tensor:
        """Return [X, what is made of its columns], (n_rows, width)."""
        f, b, W, c = self.numbers.split(self.sizes)
        k, n = self.n_frequencies, self.n_outputs
        angles = 2 * math.pi * X[:, self.columns].unsqueeze(-1) * f.view(-1, k) + b.view(-1, k)
        outputs = torch.einsum("rck,cok->rco", angles.cos(), W.view(-1, n, k)) + c.view(-1, n)
        return torch.cat([X, outputs.flatten(1)], dim=1)


@dataclass(frozen=True)
class ColumnValues:
    """What is known of the values of columns from all rows so far.

    Parameters
    ----------
    low, high : ndarray of shape (n_columns,)
        The smallest and the largest value.
    are_numeric : ndarray of shape (n_columns,)
        Which columns are embedded: those that have shown a value between the two, or may.
    """

    low: np.ndarray
    high: np.ndarray
    are_numeric: np.ndarray

    @classmethod
    def of(cls, X: Any, *, goes_on: bool = False) -> "ColumnValues":
        """Return what rows X show; if more will follow, a constant column counts as numeric."""
        low, high = X[:1].min(axis=0), X[:1].max(axis=0)
        start = cls(low, high, np.zeros(len(low), bool)).with_rows(X)
        if goes_on:
            start = replace(start, are_numeric=start.are_numeric | (start.low == start.high))
        return start

    def with_rows(self, X: Any) -> "ColumnValues":
        """Return what is known with more rows; what was numeric stays so."""
        parts = list(chunks(X.shape[0], X.shape[1]))
        low = np.min([self.low, *(X[rows].min(axis=0) for rows in parts)], axis=0)
        high = np.max([self.high, *(X[rows].max(axis=0) for rows in parts)], axis=0)
        are_numeric = self.are_numeric.copy()
        for values in (self.low, self.high, *(X[rows] for rows in parts)):
            are_numeric |= ((values != low) & (values != high)).reshape(-1, len(low)).any(axis=0)
        return ColumnValues(low, high, are_numeric)
