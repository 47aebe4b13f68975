"""Which rows each step of a stack sees: the plan of an epoch, and its batches as tensors.

Rows, targets, weights and factors of a block are stored with samples as rows. A `Batch` shows them
to the network, in which samples are columns: its `X` and `out` are (..., width, n_samples); its
`raw` is `out` with samples as rows, and so is its `target`.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchsk._heads import Head
from torchsk._rows import Rows, SparseRows
from torchsk._runtime import exact_dtype
from torchsk._training.jobs import TrainingJob


class RowOrder:
    """The order in which one job, or several that share their batches, see their rows.

    Parameters
    ----------
    rows : ndarray of shape (n_rows,)
        Numbers of the rows in the data of the stack.
    rng : RandomState or None
        Shuffles them; without it the order stays.
    """

    def __init__(self, rows: np.ndarray, rng: np.random.RandomState | None):
        self.rows, self.rng = rows, rng

    def next_epoch(self) -> np.ndarray:
        """Return this epoch's order: scikit-learn's cumulative shuffles."""
        if self.rng is not None:
            permutation = np.arange(len(self.rows), dtype=self.rows.dtype)
            self.rng.shuffle(permutation)
            self.rows = self.rows[permutation]
        return self.rows


class TrainingData:
    """The rows of all jobs of a stack, one after the other; jobs that share rows share one copy.

    Jobs that share their rows and the state of their random generators (the candidates of a grid
    search on one fold) see the same batches for ever, and so share one `RowOrder`.

    Parameters
    ----------
    jobs : sequence of TrainingJob
    """

    def __init__(self, jobs: Sequence[TrainingJob]):
        #: the order of each job's rows
        self.orders: list[RowOrder] = []
        owners, offsets, total = [], {}, 0
        orders: dict[Hashable, RowOrder] = {}
        n_holders = Counter(id(job.rng) for job in jobs)
        for job in jobs:
            rows, settings = job.rows, job.settings
            key = (id(rows.X), id(rows.target), id(rows.weight))
            if key not in offsets:
                offsets[key] = total
                owners.append(job)
                total += rows.n_rows
            # one batch that holds all rows is the same every epoch
            rng = job.rng if settings.shuffle and rows.n_rows > settings.batch_size else None
            stop = offsets[key] + rows.n_rows
            small = np.int32 if stop < 2**31 else np.int64  # half the memory, the same shuffles
            numbers = np.arange(offsets[key], stop, dtype=small)
            # those that hold one generator, such as numpy's global one, draw from it in turn
            is_alone = len(jobs) == 1 or n_holders[id(rng)] > 1
            state = object() if is_alone else _state_of(rng)
            self.orders.append(orders.setdefault((key, state), RowOrder(numbers, rng)))
        parts = [job.rows for job in owners]
        rows_class = type(parts[0].X)
        self.X: Rows = rows_class.concatenate([part.X for part in parts])  # type: ignore[misc]
        self.target = torch.cat([part.target for part in parts])
        self.weight: Tensor | None = None
        if any(job.rows.weight is not None for job in jobs):
            self.weight = torch.cat([_weight_of(job) for job in owners])


def _state_of(rng: np.random.RandomState | None) -> Hashable:
    """Return what tells one state of a generator from all others."""
    if rng is None:
        return None
    _, keys, position, *_ = rng.get_state(legacy=True)
    return np.asarray(keys).tobytes(), position


def _weight_of(job: TrainingJob) -> Tensor:
    if job.rows.weight is not None:
        return job.rows.weight
    return torch.ones(job.rows.n_rows, device=job.device, dtype=job.lane.dtype)


class Plan:
    """Where each row of each model goes in an epoch: batches first, then models, then rows.

    Parameters
    ----------
    cuts : list of ndarray of shape (n_batches,)
        Rows of each batch, for each model. A batch is as long as that of the model that has most
        rows in it; the others are padded.
    weighted : bool
        Whether rows have weights.
    device : torch.device
    """

    def __init__(self, cuts: list[np.ndarray], weighted: bool, device: torch.device):
        own, self.device = np.array(cuts).T, device
        self.n_batches, self.n_models = own.shape
        lengths, sizes = own.sum(axis=0), own.max(axis=1)
        self.sizes: list[int] = sizes.tolist()
        #: where each batch begins, and the last ends
        self.starts = [0, *accumulate(self.sizes)]
        self.is_padded = self.n_models > 1 and bool((own != sizes[:, None]).any())
        self.weighted = weighted or self.is_padded
        #: rows of each batch and model, padding left out
        self.n_rows: list[tuple[int, ...]] = list(map(tuple, own.tolist()))
        #: share of each batch in its model's epoch (n_batches, n_models)
        self.shares = torch.from_numpy((own / lengths).astype(np.float32)).to(device)
        #: 1 for a row and 0 for padding, in the order of use; None without padding
        self.valid: Tensor | None = None
        #: number of rows -> where each place of an epoch finds its row, 0 for padding
        self._places: dict[int, np.ndarray] = {}
        if self.is_padded:
            position = np.arange(self.starts[-1]) - np.repeat(self.starts[:-1], sizes)
            is_row = position < np.repeat(own.T, sizes, axis=1)
            self.valid = self.arrange(is_row.astype(np.float32))
            first = np.repeat(np.cumsum(own, axis=0).T - own.T, sizes, axis=1)
            self._places = dict(zip(lengths.tolist(), np.where(is_row, first + position, 0)))

    def arrange(self, table: np.ndarray) -> Tensor:
        """Return the entries of (n_tables, n_places) in the order of use, on the device."""
        if len(table) == 1:
            return torch.from_numpy(table[0]).to(self.device)
        parts, start = [], 0
        for count, size in runs_of(self.sizes):
            part = table[:, start : start + count * size].reshape(len(table), count, size)
            parts.append(part.transpose(1, 0, 2).ravel())
            start += count * size
        return torch.from_numpy(np.concatenate(parts)).to(self.device)

    def table(self, orders: Sequence[np.ndarray]) -> np.ndarray:
        """Return the row numbers of each order's epoch, (n_orders, n_places)."""
        if not self.is_padded:
            return orders[0][np.newaxis] if len(orders) == 1 else np.stack(orders)
        return np.stack([order[self._places[len(order)]] for order in orders])


def runs_of(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Return (number of neighbours, their size) for each run of batches of one size."""
    return [(len(list(run)), size) for size, run in groupby(sizes)]


@dataclass
class Penalty:
    """L2 penalty of each model: half the squared norm of its coefs, times a factor per batch.

    Parameters
    ----------
    alpha : Tensor, scalar or of shape (n_models, 1)
        Divided by the sum of the weights of a batch, as in scikit-learn.
    on_mean : Tensor, scalar or of shape (n_models, 1)
        Not divided: the same at every batch, whatever its rows weigh.
    """

    alpha: Tensor
    on_mean: Tensor

    def of(self, inverse: Tensor) -> Tensor:
        """Return the factors, given 1 / (sum of the weights of a batch), (n_batches, ..., 1)."""
        return torch.addcmul(self.on_mean, inverse, self.alpha)


@dataclass(slots=True)
class Batch:
    """What one step needs: views of a block's tensors; leading n_models axis in a stack.

    X (..., n_features, size) has one table per group of models in a stack with groups; for sparse
    rows it is a list of matrices (size, n_features), one per group. `out` is (..., n_outputs,
    size), and `raw` is the same with samples as rows.
    """

    X: Any
    target: Tensor
    out: Tensor
    raw: Tensor
    norm: Tensor
    factor: Tensor
    penalty: Tensor
    rate: Tensor
    n_rows: tuple[int, ...]


class Block:
    """Some batches of an epoch: tensors that are filled anew, and their views per step.

    Rows lie in the order of use: batches first, then models (or groups of them), then rows.
    """

    def __init__(
        self,
        plan: Plan,
        data: TrainingData,
        head: Head,
        n_groups: int,
        penalty: Penalty,
        sizes: list[int],
    ):
        self.plan, self.data, self.head, self.penalty = plan, data, head, penalty
        self.n_groups, n_models, n_outputs = n_groups, plan.n_models, head.n_outputs
        device, dtype = plan.device, penalty.alpha.dtype
        self.sizes, self.runs, n_batches = sizes, runs_of(sizes), len(sizes)
        self.n_rows = sum(sizes)
        total = self.n_rows * n_models
        self.target = data.target.new_empty(total, data.target.shape[1])
        #: raw outputs; every batch lies (n_models, n_outputs, size)
        self.out = torch.empty(total, n_outputs, device=device, dtype=dtype)
        self.norms = torch.zeros(n_batches, n_models, device=device, dtype=dtype)
        #: weight of a row / sum of the weights of its batch, where rows have weights
        self.factors = torch.empty(total if plan.weighted else 0, 1, device=device, dtype=dtype)
        #: factor of half the squared norm of the coefs
        self.penalties = torch.empty(n_batches, n_models, 1, device=device, dtype=dtype)
        #: step sizes
        self.rates = torch.empty(n_batches, n_models, 1, device=device, dtype=dtype)
        #: share of each batch in its model's epoch
        self.shares = torch.empty(n_batches, n_models, device=device, dtype=dtype)

        outs = self._tables(self.out, n_outputs, -1)
        targets = self._tables(self.target, -1, data.target.shape[1])
        raws = [out.mT for out in outs]
        self.X: Tensor | None = None
        inputs: Sequence[Any] = [None] * n_batches
        if not isinstance(data.X, SparseRows):  # those come in matrices of their own
            shape = self.n_rows * n_groups, data.X.row_size
            self.X = torch.empty(shape, device=device, dtype=dtype)
            tables = self._tables(self.X, -1, data.X.row_size, n_tables=n_groups)
            inputs = self._steps([table.mT for table in tables])
        if plan.weighted:
            factors: Sequence[Tensor] = self._steps(self._tables(self.factors, -1, 1))
        else:
            inverse = torch.from_numpy(1 / np.array(sizes)).to(dtype).to(device)
            factors = inverse.unbind()
            self.penalties.copy_(penalty.of(inverse.view(-1, 1, 1)))
        rates = self.rates.flatten() if n_models == 1 else self.rates
        self.batches = [
            Batch(*views)
            for views in zip(
                inputs, self._steps(targets), self._steps(outs), self._steps(raws),
                self.norms.unbind(), factors, self.penalties.unbind(), rates.unbind(),
                plan.n_rows[:n_batches],
            )
        ]  # fmt: skip
        #: raw outputs and targets, as the loss takes them: those of many batches at once if it can
        self.raws = list(zip(raws, targets))
        if not head.per_sample:
            self.raws = [(batch.raw, batch.target) for batch in self.batches]
        elif n_outputs == 1:
            self.raws = [(self.out, self.target)]
        self.first = -1

    def fill(self, index: Tensor, group_index: Tensor, first: int) -> None:
        """Gather the rows of the batches from number `first` on: by model, and by group for X."""
        start = self.plan.starts[first]
        if first != self.first:
            self.first = first
            self.shares.copy_(self.plan.shares[first : first + len(self.batches)])
            for batch, n_rows in zip(self.batches, self.plan.n_rows[first:]):
                batch.n_rows = n_rows
        group_rows = slice(start * self.n_groups, (start + self.n_rows) * self.n_groups)
        if isinstance(self.data.X, SparseRows):
            self._cut(self.data.X.take(group_index[group_rows]))
        else:
            self.data.X.take(group_index[group_rows], out=self.X)
        rows = slice(start * self.plan.n_models, (start + self.n_rows) * self.plan.n_models)
        torch.index_select(self.data.target, 0, index[rows], out=self.target)
        if self.plan.weighted:
            parts = [] if self.plan.valid is None else [self.plan.valid[rows]]
            if self.data.weight is not None:
                parts.append(self.data.weight.index_select(0, index[rows]))
            self._weigh(parts[0] if len(parts) == 1 else parts[0] * parts[1])

    def take_rates(self, rates: Tensor) -> None:
        """Set the step sizes, given those of all batches of the epoch (n_batches, n_models)."""
        self.rates.squeeze(2).copy_(rates[self.first : self.first + len(self.batches)])

    def _cut(self, matrix: Any) -> None:
        """Give each batch its rows of a sparse matrix, in the order of use."""
        start = 0
        for batch, size in zip(self.batches, self.sizes):
            stops = range(start + size, start + size * self.n_groups + 1, size)
            batch.X = [matrix[stop - size : stop] for stop in stops]
            start = stops[-1]

    def _tables(self, rows: Tensor, *shape: int, n_tables: int | None = None) -> list[Tensor]:
        """Return views (n_batches, n_models, *shape) of rows, one per size of batch.

        A -1 in the shape is the size, which is the shape for rows of a single number. There may be
        another number of tables than n_models per batch.
        """
        n_tables = n_tables or self.plan.n_models
        parts = rows.split([count * size * n_tables for count, size in self.runs])
        return [
            part.view(count, n_tables, *(size if n == -1 else n for n in shape or (-1,)))
            for part, (count, size) in zip(parts, self.runs)
        ]

    def _steps(self, tables: Sequence[Tensor]) -> list[Tensor]:
        """Return one view (n_tables, ...) per batch of all tables; (...) for one model."""
        is_one = self.plan.n_models == 1
        return [
            view for table in tables for view in (table.squeeze(1) if is_one else table).unbind()
        ]

    def _weigh(self, weight: Tensor) -> None:
        """Set what depends on the weights of the rows (n_rows,)."""
        tables = self._tables(weight)
        totals = torch.cat([table.sum(2) for table in tables])
        # a batch without weight, or next to none, changes nothing
        has_weight = totals >= torch.finfo(totals.dtype).tiny
        inverse = torch.where(has_weight, 1 / totals, torch.zeros_like(totals)).unsqueeze(2)
        self.penalties.copy_(self.penalty.of(inverse) * has_weight.unsqueeze(2))
        parts = inverse.split([len(table) for table in tables])
        for table, part, factors in zip(tables, parts, self._tables(self.factors)):
            torch.mul(table, part, out=factors)

    def loss(self) -> Tensor:
        """Return these batches' part of each model's epoch loss (n_models,), penalty included.

        As in scikit-learn a batch counts by its rows, within it a row by its weight.
        """
        parts = [self.head.loss(raw, target).reshape(-1) for raw, target in self.raws]
        losses = parts[0] if len(parts) == 1 else torch.cat(parts)
        exact = exact_dtype(losses.device)
        if self.plan.weighted:
            tables = self._tables(losses * self.factors.squeeze(1))
            batches = torch.cat([table.sum(2, dtype=exact) for table in tables])
            data = (batches * self.shares).sum(0)
        else:
            tables = [losses.view(1, 1, -1)] if self.plan.n_models == 1 else self._tables(losses)
            sums = [table.sum((0, 2), dtype=exact) for table in tables]
            data = sum(sums[1:], sums[0]) / self.plan.starts[-1]
        shares = 0.5 * self.penalties.squeeze(2) * self.shares
        return data * self.head.loss_scale + (self.norms.square() * shares).sum(0)
