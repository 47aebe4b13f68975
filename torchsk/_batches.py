"""Which rows each step of a stack sees: the plan of an epoch, and its batches as tensors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from torchsk._heads import Head
from torchsk._jobs import TrainingJob
from torchsk._tensors import Rows


class TrainingData:
    """The rows of all jobs of a stack, one after the other; jobs that share rows share one copy.

    Parameters
    ----------
    jobs : sequence of TrainingJob
    """

    def __init__(self, jobs: Sequence[TrainingJob]):
        #: number of every job's first row
        self.offsets: list[int] = []
        owners, seen, total = [], {}, 0
        for job in jobs:
            key = (id(job.X), id(job.target), id(job.weight))
            if key not in seen:
                seen[key] = total
                owners.append(job)
                total += job.X.n_rows
            self.offsets.append(seen[key])
        rows = type(owners[0].X)
        self.X: Rows = rows.concatenate([job.X for job in owners])  # type: ignore[misc]
        self.target = torch.cat([job.target for job in owners])
        self.weight: Tensor | None = None
        if any(job.weight is not None for job in jobs):
            self.weight = torch.cat([_weight_of(job) for job in owners])


def _weight_of(job: TrainingJob) -> Tensor:
    if job.weight is not None:
        return job.weight
    return torch.ones(job.X.n_rows, device=job.device, dtype=job.dtype)


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
        """Return the entries of (n_models, longest) in the order of use, on the device."""
        cut = (self.n_batches - 1) * self.batch_size
        full = table[:, :cut].reshape(self.n_models, self.n_batches - 1, self.batch_size)
        flat = np.concatenate([full.transpose(1, 0, 2).ravel(), table[:, cut:].ravel()])
        return torch.from_numpy(flat).to(self.device)

    def index(self, orders: Sequence[np.ndarray]) -> Tensor:
        """Return the row numbers of each model's epoch, in the order of use."""
        table = np.empty((self.n_models, self.longest), dtype=np.int64)
        for row, order in zip(table, orders):
            row[: len(order)] = order
            row[len(order) :] = order[0]
        return self.arrange(table)


@dataclass
class Batch:
    """What one step needs: views of a block's tensors; leading n_models axis in a stack."""

    X: Tensor
    target: Tensor
    raw: Tensor
    norm: Tensor
    factor: Tensor
    penalty: Tensor
    n_rows: list[int]


class Block:
    """Some batches of an epoch: tensors that are filled anew, and their views per step.

    Rows lie in the order of use: batches first, then models, then rows.
    """

    def __init__(
        self,
        plan: Plan,
        data: TrainingData,
        n_outputs: int,
        alpha: Tensor,
        n_batches: int,
        is_last: bool,
    ):
        self.plan, self.data, self.alpha = plan, data, alpha
        n_models, device, dtype = plan.n_models, plan.device, alpha.dtype
        self.sizes = [self.plan.batch_size] * n_batches
        if is_last:
            self.sizes[-1] = self.plan.last
        self.counts = [n_models * size for size in self.sizes]
        total = sum(self.counts)
        self.X = torch.empty(total, data.X.n_features, device=device, dtype=dtype)
        self.target = data.target.new_empty(total, data.target.shape[1])
        self.raw = torch.empty(total, n_outputs, device=device, dtype=dtype)
        self.norms = torch.zeros(n_batches, n_models, device=device, dtype=dtype)
        self.factors = torch.empty(total, 1, device=device, dtype=dtype)
        sizes = torch.tensor(self.sizes, device=device, dtype=dtype)
        #: 1 / (sum of the weights of a batch), (n_batches, n_models)
        self.inverse = (1 / sizes).unsqueeze(1).expand(n_batches, n_models).contiguous()
        self.penalties = torch.empty(n_batches, n_models, 1, device=device, dtype=dtype)
        lead = () if n_models == 1 else (n_models,)

        def steps(rows: Tensor) -> list[Tensor]:
            return [part.view(*lead, -1, rows.shape[1]) for part in rows.split(self.counts)]

        n_rows = plan.n_rows[-n_batches:] if is_last else plan.n_rows[:n_batches]
        factors = steps(self.factors) if self.plan.weighted else (1 / sizes).unbind()
        self.batches = [
            Batch(*views)
            for views in zip(
                steps(self.X),
                steps(self.target),
                steps(self.raw),
                self.norms.unbind(),
                factors,
                self.penalties.unbind(),
                n_rows,
            )
        ]
        self.penalties.copy_(self.inverse.unsqueeze(2) * self.alpha)
        self.first = 0

    def fill(self, index: Tensor, first: int) -> None:
        """Gather the rows of the batches from number `first` on."""
        self.first = first
        start = first * self.plan.batch_size * self.norms.shape[1]
        here = slice(start, start + len(self.X))
        self.data.X.take(index[here], out=self.X)
        torch.index_select(self.data.target, 0, index[here], out=self.target)
        if self.plan.weighted:
            weight = self.plan.valid[here]
            if self.data.weight is not None:
                weight = weight * self.data.weight.index_select(0, index[here])
            self._weigh(weight)

    def _tables(self, rows: Tensor) -> list[Tensor]:
        """Return views (n_batches, n_models, size) of rows (n_rows,): one per size of batch."""
        n_models = self.norms.shape[1]
        n_last = self.counts[-1] if self.sizes[-1] != self.sizes[0] else 0
        full, last = rows[: len(rows) - n_last], rows[len(rows) - n_last :]
        tables = [full.view(-1, n_models, self.sizes[0])]
        return [*tables, last.view(1, n_models, -1)] if n_last else tables

    def _weigh(self, weight: Tensor) -> None:
        """Set what depends on the weights of the rows (n_rows,)."""
        tables = self._tables(weight)
        totals = torch.cat([table.sum(2) for table in tables])
        # a batch without weight changes nothing
        torch.where(totals > 0, 1 / totals, torch.zeros_like(totals), out=self.inverse)
        self.penalties.copy_(self.inverse.unsqueeze(2) * self.alpha)
        start = 0
        for table, factors in zip(tables, self._tables(self.factors.squeeze(1))):
            inverse = self.inverse[start : start + len(table)].unsqueeze(2)
            torch.mul(table, inverse, out=factors)
            start += len(table)

    def loss(self, head: Head) -> Tensor:
        """Return these batches' part of each model's epoch loss (n_models,), penalty included.

        As in scikit-learn a batch counts by its rows, within it a row by its weight.
        """
        losses = head.loss(self.raw, self.target) * head.loss_scale
        if self.plan.weighted:
            losses = losses * self.factors.squeeze(1)
        data = torch.cat([table.sum(2, dtype=torch.float64) for table in self._tables(losses)])
        if not self.plan.weighted:
            data = data * self.inverse
        penalty = 0.5 * self.norms.square() * self.penalties.squeeze(2)
        shares = self.plan.shares[self.first : self.first + len(data)]
        return ((data + penalty) * shares).sum(0)
