"""Which rows each step of a stack sees: the plan of an epoch, and its batches as tensors.

Rows, targets, weights and factors of a block are stored with samples as rows. A `Batch` shows them
to the network, in which samples are columns: its `X` and `out` are (..., width, n_samples); its
`raw` is `out` with samples as rows, and so is its `target`.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from torchsk._heads import Head
from torchsk._rows import Rows
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
            permutation = np.arange(len(self.rows))
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
            numbers = np.arange(offsets[key], offsets[key] + rows.n_rows)
            # those that hold one generator, such as numpy's global one, draw from it in turn
            state = _state_of(rng) if n_holders[id(rng)] <= 1 else object()
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
    """Where each row of each model goes in an epoch: batches first, then models, then rows."""

    def __init__(
        self, n_rows: list[int], batch_sizes: list[int], weighted: bool, device: torch.device
    ):
        lengths, self.device = np.array(n_rows), device
        self.n_models, self.longest = len(lengths), int(lengths.max())
        # one batch may be longer for some models than for others, and so may the last of several
        self.batch_size = min(max(batch_sizes), self.longest)
        self.n_batches = -(-self.longest // self.batch_size)
        self.last = self.longest - (self.n_batches - 1) * self.batch_size
        self.is_padded = bool((lengths != self.longest).any())
        self.weighted = weighted or self.is_padded
        positions = np.arange(self.longest) < lengths[:, None]
        self.valid = self.arrange(positions.astype(np.float32))
        sizes = np.minimum(
            lengths[None] - self.batch_size * np.arange(self.n_batches)[:, None], self.batch_size
        )
        #: rows of each batch and model, padding left out
        self.n_rows = sizes.tolist()
        #: share of each batch in its model's epoch (n_batches, n_models)
        self.shares = torch.from_numpy((sizes / lengths).astype(np.float32)).to(device)

    def arrange(self, table: np.ndarray) -> Tensor:
        """Return the entries of (n_tables, longest) in the order of use, on the device."""
        cut = (self.n_batches - 1) * self.batch_size
        full = table[:, :cut].reshape(len(table), self.n_batches - 1, self.batch_size)
        flat = np.concatenate([full.transpose(1, 0, 2).ravel(), table[:, cut:].ravel()])
        return torch.from_numpy(flat).to(self.device)

    def table(self, orders: Sequence[np.ndarray]) -> np.ndarray:
        """Return the row numbers of each order's epoch, (n_orders, longest)."""
        table = np.empty((len(orders), self.longest), dtype=np.int64)
        for row, order in zip(table, orders):
            row[: len(order)] = order
            row[len(order) :] = order[0]
        return table


@dataclass
class Batch:
    """What one step needs: views of a block's tensors; leading n_models axis in a stack.

    X (..., n_features, size) has one table per group of models in a stack with groups; `out` is
    (..., n_outputs, size), and `raw` is the same with samples as rows.
    """

    X: Tensor
    target: Tensor
    out: Tensor
    raw: Tensor
    norm: Tensor
    factor: Tensor
    penalty: Tensor
    n_rows: list[int]


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
        alpha: Tensor,
        n_batches: int,
        is_last: bool,
    ):
        self.plan, self.data, self.head, self.alpha = plan, data, head, alpha
        n_outputs = head.n_outputs
        self.n_groups, n_models = n_groups, plan.n_models
        device, dtype = plan.device, alpha.dtype
        self.sizes = [self.plan.batch_size] * n_batches
        if is_last:
            self.sizes[-1] = self.plan.last
        self.n_rows = sum(self.sizes)
        self.X = torch.empty(self.n_rows * n_groups, data.X.n_features, device=device, dtype=dtype)
        total = self.n_rows * n_models
        self.target = data.target.new_empty(total, data.target.shape[1])
        #: raw outputs; every batch lies (n_models, n_outputs, size)
        self.out = torch.empty(total, n_outputs, device=device, dtype=dtype)
        self.norms = torch.zeros(n_batches, n_models, device=device, dtype=dtype)
        #: weight of a row / sum of the weights of its batch
        self.factors = torch.empty(total, 1, device=device, dtype=dtype)
        sizes = torch.tensor(self.sizes, device=device, dtype=dtype)
        #: alpha / sum of the weights of a batch
        self.penalties = torch.empty(n_batches, n_models, 1, device=device, dtype=dtype)
        #: share of each batch in its model's epoch (n_batches, n_models)
        self.shares = plan.shares[-n_batches:] if is_last else plan.shares[:n_batches]

        def steps(rows: Tensor, n_tables: int) -> list[Tensor]:
            """Return one view (n_tables, size, n_columns) per batch; (size, ...) for one model."""
            lead = () if n_models == 1 else (n_tables,)
            parts = rows.split([n_tables * size for size in self.sizes])
            return [part.view(*lead, -1, rows.shape[1]) for part in parts]

        outs = [part.view(*part.shape[:-2], n_outputs, -1) for part in steps(self.out, n_models)]
        self.batches = [
            Batch(*views)
            for views in zip(
                [part.mT for part in steps(self.X, n_groups)],
                steps(self.target, n_models),
                outs,
                [out.mT for out in outs],
                self.norms.unbind(),
                steps(self.factors, n_models) if self.plan.weighted else (1 / sizes).unbind(),
                self.penalties.unbind(),
                plan.n_rows[-n_batches:] if is_last else plan.n_rows[:n_batches],
            )
        ]
        #: raw outputs and targets, as the loss takes them: all at once where that is the same
        self.raws = [(self.out, self.target)]
        if n_outputs > 1 or not head.per_sample:
            tables = self._tables(self.out, n_outputs, -1)
            targets = self._tables(self.target, -1, data.target.shape[1])
            self.raws = [(out.mT, target) for out, target in zip(tables, targets)]
        self._penalise(1 / sizes.unsqueeze(1))
        self.first = 0

    def fill(self, index: Tensor, group_index: Tensor, first: int) -> None:
        """Gather the rows of the batches from number `first` on: by model, and by group for X."""
        self.first = first
        start = first * self.plan.batch_size
        group_rows = slice(start * self.n_groups, (start + self.n_rows) * self.n_groups)
        self.data.X.take(group_index[group_rows], out=self.X)
        rows = slice(start * self.plan.n_models, (start + self.n_rows) * self.plan.n_models)
        torch.index_select(self.data.target, 0, index[rows], out=self.target)
        if self.plan.weighted:
            weight = self.plan.valid[rows]
            if self.data.weight is not None:
                weight = weight * self.data.weight.index_select(0, index[rows])
            self._weigh(weight)

    def _tables(self, rows: Tensor, *shape: int) -> list[Tensor]:
        """Return views (n_batches, n_models, *shape) of rows, one per size of batch.

        A -1 in the shape is the size, which is the shape for rows of a single number.
        """
        n_last = self.sizes[-1] if self.sizes[-1] != self.sizes[0] else 0
        n_models = self.plan.n_models
        parts = rows.split([(self.n_rows - n_last) * n_models, n_last * n_models])
        sizes = self.sizes[0], n_last
        return [
            part.view(-1, n_models, *(size if n == -1 else n for n in shape or (-1,)))
            for part, size in zip(parts, sizes)
            if len(part)
        ]

    def _weigh(self, weight: Tensor) -> None:
        """Set what depends on the weights of the rows (n_rows,)."""
        tables = self._tables(weight)
        totals = torch.cat([table.sum(2) for table in tables])
        # a batch without weight, or next to none, changes nothing
        has_weight = totals >= torch.finfo(totals.dtype).tiny
        inverse = torch.where(has_weight, 1 / totals, torch.zeros_like(totals))
        self._penalise(inverse)
        starts = (0, len(tables[0]))
        for start, table, factors in zip(starts, tables, self._tables(self.factors)):
            torch.mul(table, inverse[start : start + len(table)].unsqueeze(2), out=factors)

    def _penalise(self, inverse: Tensor) -> None:
        """Set the penalties, given 1 / (sum of the weights of a batch), (n_batches, n_models)."""
        self.penalties.copy_(inverse.unsqueeze(2) * self.alpha)
        self.penalty_shares = 0.5 * self.penalties.squeeze(2) * self.shares

    def loss(self) -> Tensor:
        """Return these batches' part of each model's epoch loss (n_models,), penalty included.

        As in scikit-learn a batch counts by its rows, within it a row by its weight.
        """
        parts = [self.head.loss(raw, target).view(-1) for raw, target in self.raws]
        losses = parts[0] if len(parts) == 1 else torch.cat(parts)
        exact = exact_dtype(losses.device)
        if self.plan.weighted:
            tables = self._tables(losses * self.factors.squeeze(1))
            batches = torch.cat([table.sum(2, dtype=exact) for table in tables])
            data = (batches * self.shares).sum(0)
        else:
            sums = [table.sum((0, 2), dtype=exact) for table in self._tables(losses)]
            data = sum(sums[1:], sums[0]) / self.plan.longest
        return data * self.head.loss_scale + (self.norms.square() * self.penalty_shares).sum(0)
