"""The one training loop, for a single network or for a stack of them.

`train(jobs)` runs jobs of equal `stack_key` in lockstep, one row of a weight matrix per job. Every
job has its own data, batches, learning rate, penalties and stopping rule; a job that ends leaves
the stack. With one job the same code runs 2-D operations on the only row.
"""

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from torchsk._heads import Head
from torchsk._mlp import Network, NetworkSpec
from torchsk._solvers import (
    FULL_BATCH_SOLVERS,
    UPDATE_RULES,
    Schedule,
    UpdateRule,
    as_column,
    minimize_lbfgs,
)
from torchsk._stopping import DIVERGED, Progress, is_diverged
from torchsk._tensors import Rows, one_thread

# rows gathered at a time, in numbers (16 MB of float32): one epoch of small data, some batches of
# large data
BLOCK_SIZE = 4_000_000
# numbers that the weights, gradients and batches of a stack may fill before they leave the cache
CACHE_SIZE = 1_000_000
# multiply-adds of a forward pass from which a second core pays; below, its barriers cost more, and
# on a busy machine a hundred times more
PARALLEL_SIZE = 2**25


class TrainingCancelled(BaseException):
    """Training was told to stop: the search around it is being interrupted."""


@dataclass(frozen=True)
class Validation:
    """Held-out rows and how they are scored.

    `score` is None for the head's own score, "loss" for the negative loss, or a function of the
    flat weights.
    """

    X: Rows
    target: Tensor
    weight: Tensor | None
    score: str | Callable[[np.ndarray], float] | None = None


@dataclass(frozen=True)
class SolverState:
    """What a solver remembers between calls of partial_fit: moments (n_moments, n_params), ..."""

    moments: np.ndarray
    n_steps: int
    rate: float
    epoch: int
    solver: Any = None


class Lane(Protocol):
    """Trains a job in another way than the stack does."""

    @property
    def key(self) -> Hashable:
        """What a later call must share to go on with the solver's state."""

    def train(self, job: "TrainingJob", should_stop: Callable[[], bool] | None) -> "TrainingResult":
        """Train one job."""


@dataclass
class TrainingJob:
    """Everything that one fit of the built-in network needs, validated and encoded."""

    spec: NetworkSpec
    head: Head
    X: Rows
    target: Tensor
    weight: Tensor | None
    flat: np.ndarray
    rng: np.random.RandomState
    device: torch.device
    solver: str
    schedule: Schedule
    hyper_parameters: dict[str, float]
    progress: Progress
    batch_size: int
    n_rows_seen: int
    max_iter: int
    nesterov: bool = True
    alpha: float = 0.0
    max_grad_norm: float | None = None
    shuffle: bool = True
    tol: float = 1e-4
    n_iter_no_change: float = 10
    max_fun: int = 15_000
    state: SolverState | None = None
    validation: Validation | None = None
    keep_best: bool = False
    verbose: bool = False
    warn_at_max_iter: bool = True
    on_epoch: Callable[[Progress, Callable[[], np.ndarray]], bool] | None = None
    lane: Lane | None = None

    @property
    def dtype(self) -> torch.dtype:
        """float32, or float64 for solvers whose line search needs it."""
        return torch.float64 if self.solver in FULL_BATCH_SOLVERS else torch.float32


@dataclass
class TrainingResult:
    """What training gives back."""

    flat: np.ndarray
    progress: Progress
    n_iter: int
    state: SolverState | None = None
    loss: float = math.nan
    warning: str | None = None
    interrupted: bool = False
    net: Any = None


def stack_key(job: TrainingJob) -> Hashable | None:
    """Return what jobs must share to train together; None for jobs that train alone."""
    alone = job.lane is not None or job.solver in FULL_BATCH_SOLVERS
    if alone or not job.head.per_sample:
        return None
    n_batches = -(-job.X.n_rows // job.batch_size)
    # one batch that holds all rows may be padded, up to twice its length
    width = job.X.n_rows.bit_length() if n_batches == 1 else job.batch_size
    return (
        job.spec, job.head, job.solver, job.nesterov, job.shuffle, str(job.device), type(job.X),
        job.alpha > 0, n_batches, width,
    )  # fmt: skip


def max_models(job: TrainingJob) -> int:
    """Return how many models like this one a stack should hold at most."""
    if job.device.type != "cpu":
        return 1024
    per_model = 3 * job.spec.n_params + 4 * job.batch_size * sum(job.spec.layer_sizes)
    return max(16, min(64, CACHE_SIZE // per_model))


def train(
    jobs: Sequence[TrainingJob], should_stop: Callable[[], bool] | None = None
) -> list[TrainingResult | Exception]:
    """Train jobs of equal `stack_key` together; return one result or exception per job.

    Parameters
    ----------
    jobs : sequence of TrainingJob
    should_stop : callable, optional
        Looked at before each block of batches; TrainingCancelled is raised when it returns True.
    """
    if jobs[0].lane is not None:
        return [jobs[0].lane.train(job, should_stop) for job in jobs]
    with torch.no_grad(), one_thread() if _is_small(jobs) else nullcontext():
        if jobs[0].solver in FULL_BATCH_SOLVERS:
            return [_train_full_batch(job, should_stop) for job in jobs]
        return _Stack(jobs).run(should_stop)


def _is_small(jobs: Sequence[TrainingJob]) -> bool:
    """Return whether a second core would cost a step more than it gives."""
    job = jobs[0]
    on_cpu, work = job.device.type == "cpu", job.batch_size * job.spec.n_coefs
    return on_cpu and (len(jobs) > 1 or work < PARALLEL_SIZE)


# -- stochastic solvers ----------------------------------------------------------------------------


@dataclass
class _Model:
    """One job on its row of the stack."""

    job: TrainingJob
    slot: int
    offset: int
    order: np.ndarray
    n_steps: int
    best: np.ndarray | None = None
    n_iter: int = 0
    generator: torch.Generator | None = None
    is_full: bool = field(init=False)

    def __post_init__(self) -> None:
        self.is_full = len(self.order) <= self.job.batch_size

    def next_order(self) -> np.ndarray:
        """Return this epoch's order of the rows: scikit-learn's cumulative shuffles."""
        if self.job.shuffle and not self.is_full:
            permutation = np.arange(len(self.order))
            self.job.rng.shuffle(permutation)
            self.order = self.order[permutation]
        return self.order


class _Stack:
    """Models that train in lockstep."""

    def __init__(self, jobs: Sequence[TrainingJob]):
        first = jobs[0]
        self.device, self.head, self.spec = first.device, first.head, first.spec
        self.outcomes: list[TrainingResult | Exception] = [RuntimeError("not trained")] * len(jobs)
        n_moments = UPDATE_RULES[first.solver].n_moments
        self.weights = self._to_device(np.stack([job.flat for job in jobs]))
        self.moments = self._to_device(
            np.stack(
                [
                    np.zeros((n_moments, self.spec.n_params))
                    if job.state is None
                    else job.state.moments
                    for job in jobs
                ],
                axis=1,
            )
        )
        parts, offsets = _distinct(
            [job.X for job in jobs], [(job.target, job.weight) for job in jobs]
        )
        self.X: Rows = type(first.X).concatenate([jobs[i].X for i in parts])  # type: ignore[misc]
        self.target = torch.cat([jobs[i].target for i in parts])
        self.weight = None
        if any(job.weight is not None for job in jobs):
            self.weight = torch.cat([_weight_of(jobs[i]) for i in parts])
        self.models = [
            _Model(
                job,
                i,
                offset,
                np.arange(job.X.n_rows),
                0 if job.state is None else job.state.n_steps,
            )
            for i, (job, offset) in enumerate(zip(jobs, offsets))
        ]
        for model in self.models:
            if any(self.spec.dropout):
                seed = int(model.job.rng.randint(2**31 - 1))
                model.generator = torch.Generator(self.device).manual_seed(seed)
            if model.job.keep_best:
                model.best = np.array(model.job.flat, dtype=np.float32)
        self._bind()

    def _to_device(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array.astype(np.float32)).to(self.device)

    def _bind(self) -> None:
        """(Re)build all that depends on which models are left."""
        jobs = [model.job for model in self.models]
        first, n_models = jobs[0], len(jobs)
        self.gradient = torch.empty_like(self.weights)
        row = 0 if n_models == 1 else slice(None)
        self.network = Network(self.spec, self.weights[row])
        self.gradients = Network(self.spec, self.gradient[row])
        self.coefs = self.weights[:, : self.spec.n_coefs]
        self.coef_gradients = self.gradient[:, : self.spec.n_coefs]
        rule = UPDATE_RULES[first.solver]
        values = {
            name: [job.hyper_parameters[name] for job in jobs] for name in rule.hyper_parameters
        }
        self.rule: UpdateRule = rule(values, first.nesterov, self.weights)
        self.is_penalised = first.alpha > 0
        self.alpha = as_column([job.alpha for job in jobs], self.weights)
        norms = [math.inf if job.max_grad_norm is None else job.max_grad_norm for job in jobs]
        self.max_grad_norm = None if min(norms) == math.inf else as_column(norms, self.weights)
        self.plan = _Plan(self.models, self.weight is not None, self.device)
        self.tiny = torch.tensor(1e-6, device=self.device)
        self._block_cache: dict[tuple[int, bool], _Block] = {}

    def run(self, should_stop: Callable[[], bool] | None) -> list[TrainingResult | Exception]:
        """Train until every model has ended."""
        try:
            while self.models:
                self._after_epoch(self._run_epoch(should_stop))
        except KeyboardInterrupt:
            if len(self.outcomes) > 1:
                raise
            (model,) = self.models
            self._end(model, interrupted=True)
        return self.outcomes

    # -- one epoch --

    def _run_epoch(self, should_stop: Callable[[], bool] | None) -> list[float]:
        """Pass once over all rows; return the training loss of every model."""
        rate = np.array([model.job.schedule.rate for model in self.models])
        if self.rule.decoupled:  # by the schedule's rate, without Adam's bias correction
            alpha = np.array([model.job.alpha for model in self.models])
            self.decay = as_column(1 - rate * alpha, self.weights)
        rates = self.rule.rates(
            rate,
            np.array([model.n_steps for model in self.models]),
            self.plan.n_batches,
        )
        table = torch.tensor(rates, dtype=torch.float32, device=self.device)
        steps = (table.squeeze(1) if len(self.models) == 1 else table.unsqueeze(2)).unbind()
        loss = torch.zeros(len(self.models), dtype=torch.float64, device=self.device)
        for block in self._blocks():
            if should_stop is not None and should_stop():
                raise TrainingCancelled
            for i, batch in enumerate(block.batches, start=block.first):
                self._step(batch, steps[i], self.plan.n_rows[i])
            loss += block.loss(self.head)
        for model in self.models:
            model.n_steps += self.plan.n_batches
        return loss.tolist()

    def _blocks(self) -> Iterator["_Block"]:
        """Gather the rows of the epoch, some batches at a time."""
        n_batches = self.plan.n_batches
        per_batch = self.plan.batch_size * len(self.models) * self.X.n_features
        size = max(1, BLOCK_SIZE // per_batch)
        changes = n_batches > 1  # one batch holds the same rows every epoch
        index = self.plan.index(self.models) if changes or not self._block_cache else None
        for first in range(0, n_batches, size):
            stop = min(first + size, n_batches)
            key = (stop - first, stop == n_batches)
            if key not in self._block_cache:
                self._block_cache[key] = _Block(self, stop - first, stop == n_batches)
            block = self._block_cache[key]
            if index is not None:
                block.fill(self, index, first)
            yield block

    def _step(self, batch: "_Batch", rate: Tensor, n_rows: Sequence[int]) -> None:
        """Update the weights of every model on one batch, of which it has n_rows rows."""
        raw = batch.raw
        tape = self.network.forward(batch.X, self._masks(raw.shape[:-1], batch.n_rows), raw)
        delta = self.head.residual(raw, batch.target).mul_(batch.factor)
        self.network.backward(delta, tape, self.gradients)
        if self.is_penalised and not self.rule.decoupled:
            torch.linalg.vector_norm(self.coefs, dim=1, out=batch.norm)
            self.coef_gradients.addcmul_(self.coefs, batch.penalty)
        if self.max_grad_norm is not None:
            # as torch.nn.utils.clip_grad_norm_, per model
            norm = torch.linalg.vector_norm(self.gradient, dim=1, keepdim=True)
            self.gradient.mul_((self.max_grad_norm / norm.add_(self.tiny)).clamp_(max=1.0))
        if self.is_penalised and self.rule.decoupled:
            self.coefs.mul_(self.decay)
        self.rule.step_(self.weights, self.gradient, self.moments, rate)

    def _masks(self, shape: torch.Size, n_rows: Sequence[int]) -> list[Tensor | None]:
        """Draw this batch's dropout masks, from each model's own generator.

        Padding draws nothing: a model of n_rows rows draws the masks that it would draw alone.
        """
        if self.models[0].generator is None:
            return [None] * len(self.spec.dropout)
        masks: list[Tensor | None] = []
        for width, p in zip(self.spec.layer_sizes[1:], self.spec.dropout):
            if p == 0:
                masks.append(None)
                continue
            mask = self.weights.new_zeros(*shape, width)
            for model, part, n in zip(self.models, mask if mask.ndim == 3 else [mask], n_rows):
                part[:n].bernoulli_(1 - p, generator=model.generator)
            masks.append(mask.div_(1 - p))
        return masks

    # -- between epochs --

    def _after_epoch(self, losses: list[float]) -> None:
        """Record the epoch, and let the models leave that have ended."""
        for model, loss in zip(list(self.models), losses):
            try:
                self._record(model, loss)
            except Exception as error:  # of a user's scorer, schedule or callback
                self.outcomes[model.slot], model.slot = error, -1
        if any(model.slot < 0 for model in self.models):
            stay = [i for i, model in enumerate(self.models) if model.slot >= 0]
            self.models = [self.models[i] for i in stay]
            if self.models:
                index = torch.tensor(stay, device=self.device)
                self.weights = self.weights[index]
                self.moments = self.moments[:, index]
                self._bind()

    def _row(self, model: _Model) -> int:
        return next(i for i, other in enumerate(self.models) if other is model)

    def _flat(self, model: _Model) -> np.ndarray:
        """Return a copy of the weights of one model."""
        return self.weights[self._row(model)].cpu().numpy().copy()

    def _record(self, model: _Model, loss: float) -> None:
        job = model.job
        model.n_iter += 1
        validation = None
        if job.validation is not None:
            validation = validate(
                Network(self.spec, self.weights[self._row(model)]),
                self.head,
                job.validation,
                lambda: self._flat(model),
            )

        def keep() -> None:
            if model.best is not None:
                model.best = self._flat(model)

        ending = record_epoch(job, model.n_iter, loss, validation, lambda: self._flat(model), keep)
        if ending == "diverged":
            self._diverge(model)
        elif ending is not None:
            self._end(model, at_max_iter=ending == "max_iter")

    def _end(self, model: _Model, at_max_iter: bool = False, interrupted: bool = False) -> None:
        """Take the result of a model that stops here."""
        row, job = self._row(model), model.job
        flat = self._flat(model) if model.best is None else model.best
        if not np.isfinite(flat).all():
            self._diverge(model)
            return
        self.outcomes[model.slot] = TrainingResult(
            flat,
            job.progress,
            model.n_iter,
            SolverState(
                self.moments[:, row].cpu().numpy().copy(),
                model.n_steps,
                job.schedule.rate,
                job.schedule.epoch,
                job.solver,
            ),
            job.progress.loss_curve[-1] if job.progress.loss_curve else math.nan,
            max_iter_warning(job) if at_max_iter else None,
            interrupted,
        )
        model.slot = -1

    def _diverge(self, model: _Model) -> None:
        """End a model whose loss, score or weights are not finite."""
        message = DIVERGED.format(epoch=model.n_iter)
        job, slot = model.job, model.slot
        if model.best is not None and math.isfinite(job.progress.best_score):
            self._end(model)
            outcome = self.outcomes[slot]
            assert isinstance(outcome, TrainingResult)
            outcome.warning = f"{message} The best weights so far were kept."
            outcome.state = None
        else:
            self.outcomes[slot] = ValueError(message)
            model.slot = -1


class _Plan:
    """Where each row of each model goes in an epoch: batches first, then models, then rows."""

    def __init__(self, models: list[_Model], weighted: bool, device: torch.device):
        lengths = np.array([len(model.order) for model in models])
        self.device, self.lengths = device, lengths
        self.n_models, self.longest = len(models), int(lengths.max())
        # one batch may be longer for some models than for others, and so may the last of several
        self.batch_size = min(models[0].job.batch_size, self.longest)
        if self.longest <= max(model.job.batch_size for model in models):
            self.batch_size = self.longest
        self.n_batches = -(-self.longest // self.batch_size)
        self.last = self.longest - (self.n_batches - 1) * self.batch_size
        self.is_padded = bool((lengths != self.longest).any())
        self.weighted = weighted or self.is_padded
        positions = np.arange(self.longest) < lengths[:, None]
        self.valid = self.arrange(positions.astype(np.float32))
        sizes = np.minimum(
            lengths[None] - self.batch_size * np.arange(self.n_batches)[:, None], self.batch_size
        )
        #: rows of each model in the last batch, padding left out
        self.n_last_rows = sizes[-1].tolist()
        self.n_rows = sizes.tolist()
        #: share of each batch in its model's epoch (n_batches, n_models)
        self.shares = torch.from_numpy((sizes / lengths).astype(np.float32)).to(device)

    def arrange(self, table: np.ndarray) -> Tensor:
        """Return the entries of (n_models, longest) in the order of use, on the device."""
        cut = (self.n_batches - 1) * self.batch_size
        full = table[:, :cut].reshape(self.n_models, self.n_batches - 1, self.batch_size)
        flat = np.concatenate([full.transpose(1, 0, 2).ravel(), table[:, cut:].ravel()])
        return torch.from_numpy(flat).to(self.device)

    def index(self, models: list[_Model]) -> Tensor:
        """Return the row numbers of a new epoch, in the order of use."""
        table = np.empty((self.n_models, self.longest), dtype=np.int64)
        for row, model in zip(table, models):
            order = model.next_order()
            row[: len(order)] = order
            row[len(order) :] = order[0]
            row += model.offset
        return self.arrange(table)


@dataclass
class _Batch:
    """What one step needs: views of a block's tensors; leading n_models axis in a stack."""

    X: Tensor
    target: Tensor
    raw: Tensor
    norm: Tensor
    factor: Tensor
    penalty: Tensor
    n_rows: list[int]


class _Block:
    """Some batches of an epoch: tensors that are filled anew, and their views per step.

    Rows lie in the order of use: batches first, then models, then rows.
    """

    def __init__(self, stack: _Stack, n_batches: int, is_last: bool):
        self.plan, self.alpha = stack.plan, stack.alpha
        n_models = len(stack.models)
        self.sizes = [self.plan.batch_size] * n_batches
        if is_last:
            self.sizes[-1] = self.plan.last
        self.counts = [n_models * size for size in self.sizes]
        total, device, dtype = sum(self.counts), stack.device, stack.weights.dtype
        self.X = torch.empty(total, stack.X.n_features, device=device, dtype=dtype)
        self.target = stack.target.new_empty(total, stack.target.shape[1])
        self.raw = torch.empty(total, stack.head.n_outputs, device=device, dtype=dtype)
        self.norms = torch.zeros(n_batches, n_models, device=device, dtype=dtype)
        self.factors = torch.empty(total, 1, device=device, dtype=dtype)
        sizes = torch.tensor(self.sizes, device=device, dtype=dtype)
        #: 1 / (sum of the weights of a batch), (n_batches, n_models)
        self.inverse = (1 / sizes).unsqueeze(1).expand(n_batches, n_models).contiguous()
        self.penalties = torch.empty(n_batches, n_models, 1, device=device, dtype=dtype)
        lead = () if n_models == 1 else (n_models,)

        def steps(rows: Tensor) -> list[Tensor]:
            return [part.view(*lead, -1, rows.shape[1]) for part in rows.split(self.counts)]

        n_rows = [[self.plan.batch_size] * n_models] * n_batches
        if is_last:
            n_rows[-1] = self.plan.n_last_rows
        factors = steps(self.factors) if self.plan.weighted else (1 / sizes).unbind()
        self.batches = [
            _Batch(*views)
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

    def fill(self, stack: _Stack, index: Tensor, first: int) -> None:
        """Gather the rows of the batches from number `first` on."""
        self.first = first
        start = first * self.plan.batch_size * self.norms.shape[1]
        here = slice(start, start + len(self.X))
        stack.X.take(index[here], out=self.X)
        torch.index_select(stack.target, 0, index[here], out=self.target)
        if self.plan.weighted:
            weight = self.plan.valid[here]
            if stack.weight is not None:
                weight = weight * stack.weight.index_select(0, index[here])
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


def _distinct(rows: Sequence[Rows], others: Sequence[tuple]) -> tuple[list[int], list[int]]:
    """Return (indices of jobs with data of their own, offset of every job's first row).

    Jobs that share X, target and weight share one copy of them.
    """
    seen: dict[tuple, int] = {}
    parts, offsets, total = [], [], 0
    for i, (X, (target, weight)) in enumerate(zip(rows, others)):
        key = (id(X), id(target), id(weight))
        if key not in seen:
            seen[key] = total
            parts.append(i)
            total += X.n_rows
        offsets.append(seen[key])
    return parts, offsets


def _weight_of(job: TrainingJob) -> Tensor:
    if job.weight is not None:
        return job.weight
    return torch.ones(job.X.n_rows, device=job.device, dtype=job.dtype)


# -- validation and reports, shared by every kind of training -------------------------------------


def predict_rows(network: Network, X: Rows, n_outputs: int) -> Tensor:
    """Return raw outputs (n_rows, n_outputs), some rows at a time."""
    step = max(1, BLOCK_SIZE // max(X.n_features, *network.widths))
    if X.n_rows <= step:
        return network.predict(X.all())
    parts = []
    for start in range(0, X.n_rows, step):
        index = torch.arange(start, min(start + step, X.n_rows))
        parts.append(network.predict(X.take(index.to(network.coefs[0].device))))
    return torch.cat(parts)


def validate(
    network: Network, head: Head, validation: Validation, flat: Callable[[], np.ndarray]
) -> tuple[float, float]:
    """Return (loss, score) on held-out rows."""
    return score_raw(predict_rows(network, validation.X, head.n_outputs), head, validation, flat)


def score_raw(
    raw: Tensor, head: Head, validation: Validation, weights: Callable[[], Any]
) -> tuple[float, float]:
    """Return (loss, score) of the raw outputs (n_rows, n_outputs) of held-out rows."""
    losses = head.loss(raw, validation.target).double()
    weight = validation.weight
    mean = losses.mean() if weight is None else (losses @ weight.double()) / weight.double().sum()
    loss = float(mean) * head.loss_scale
    if not bool(torch.isfinite(raw).all()):
        return loss, math.nan
    if callable(validation.score):
        return loss, float(validation.score(weights()))
    if validation.score == "loss":
        return loss, -loss
    return loss, head.score(raw, validation.target, weight)


def record_epoch(
    job: TrainingJob,
    n_iter: int,
    loss: float,
    validation: tuple[float, float] | None,
    weights: Callable[[], Any],
    keep: Callable[[], None],
    told_to_stop: bool = False,
) -> str | None:
    """Record an epoch; return "diverged", "stop" or "max_iter" if the run ends with it.

    `weights` returns the weights of the epoch, and `keep` keeps them as the best so far.
    """
    progress = job.progress
    progress.n_samples_seen += job.n_rows_seen
    is_best = progress.record(loss, validation, job.tol)
    if job.verbose:
        report(n_iter, loss, validation)
    if is_diverged(loss, validation):
        return "diverged"
    if is_best:
        keep()
    job.schedule.after_epoch(progress.n_samples_seen)
    if job.on_epoch is not None and job.on_epoch(progress, weights):
        told_to_stop = True
    plateau = progress.plateau(job.tol, job.n_iter_no_change)
    if plateau is not None:
        onwards = job.schedule.after_plateau()
        if job.verbose:
            print(f"{plateau} {onwards or job.schedule.last_words}")
        progress.n_no_improvement = 0 if onwards else progress.n_no_improvement
        plateau = None if onwards else plateau
    if plateau is not None or told_to_stop:
        return "stop"
    return "max_iter" if n_iter == job.max_iter else None


def report(n_iter: int, loss: float, validation: tuple[float, float] | None) -> None:
    """Print one epoch, in scikit-learn's words."""
    print(f"Iteration {n_iter}, loss = {loss:.8f}")
    if validation is not None:
        print(f"Validation score: {validation[1]:f}")
        print(f"Validation loss: {validation[0]:.8f}")


def max_iter_warning(job: TrainingJob) -> str | None:
    """Return scikit-learn's words for a run cut short by max_iter, with what to try."""
    if not job.warn_at_max_iter:
        return None
    words = (
        f"Stochastic Optimizer: Maximum iterations ({job.max_iter}) reached and the optimization "
        "hasn't converged yet."
    )
    rule = UPDATE_RULES.get(job.solver)
    if rule is not None and rule.default_max_grad_norm is not None:
        words += " A larger learning_rate_init, or solver='adam', may need fewer iterations."
    return words


# -- lbfgs -----------------------------------------------------------------------------------------


class _ToldToStop(Exception):
    """A callback has asked to end the minimisation."""


def _train_full_batch(
    job: TrainingJob, should_stop: Callable[[], bool] | None
) -> TrainingResult | Exception:
    """Minimise the penalised mean loss of all rows, in float64."""
    n_rows, n_evaluated = job.X.n_rows, 0
    latest = np.array(job.flat, dtype=np.float64)
    weight = None if job.weight is None else job.weight.double()
    total = float(n_rows) if weight is None else float(weight.sum())
    step = max(1, BLOCK_SIZE // job.X.n_features)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = torch.from_numpy(flat).to(job.device, job.dtype)
        gradient = torch.zeros_like(weights)
        part = torch.empty_like(weights)
        network, gradients = Network(job.spec, weights), Network(job.spec, part)
        loss = 0.0
        for start in range(0, n_rows, step):
            rows = slice(start, min(start + step, n_rows))
            X = (
                job.X.all()
                if step >= n_rows
                else job.X.take(torch.arange(rows.start, rows.stop, device=job.device))
            )
            raw = torch.empty(len(X), job.head.n_outputs, dtype=job.dtype, device=job.device)
            tape = network.forward(X, [None] * len(job.spec.activations), raw)
            losses = job.head.loss(raw, job.target[rows])
            delta = job.head.residual(raw, job.target[rows])
            if weight is not None:
                losses, delta = losses * weight[rows], delta * weight[rows].unsqueeze(1)
            loss += float(losses.sum()) / total
            network.backward(delta.div_(total), tape, gradients)
            gradient += part
        coefs = weights[: job.spec.n_coefs]
        gradient[: job.spec.n_coefs] += coefs * (job.alpha / total)
        loss += 0.5 * job.alpha * float(coefs @ coefs) / total
        return loss, gradient.cpu().numpy().astype(np.float64)

    def reported(flat: np.ndarray, loss: float) -> float:
        """Return the loss in the unit of `loss_`: a mean over outputs where the head takes one."""
        penalty = 0.5 * job.alpha * float(np.square(flat[: job.spec.n_coefs]).sum()) / total
        return (float(loss) - penalty) * job.head.loss_scale + penalty

    def after_iteration(flat: np.ndarray) -> None:
        nonlocal n_evaluated, latest
        if should_stop is not None and should_stop():
            raise TrainingCancelled
        n_evaluated, latest = n_evaluated + 1, flat.copy()
        if job.verbose:
            loss = reported(flat, objective(flat)[0])
            print(f"Iteration {n_evaluated}, loss = {loss:.8f}")
        if job.on_epoch is not None and job.on_epoch(job.progress, lambda: latest):
            raise _ToldToStop

    interrupted = False
    with torch.no_grad():
        try:
            found = minimize_lbfgs(
                objective,
                latest,
                max_iter=job.max_iter,
                max_fun=job.max_fun,
                tol=job.tol,
                callback=after_iteration,
            )
            flat, n_iter, loss = found.x, min(found.nit, job.max_iter), reported(found.x, found.fun)
            warning = (
                None
                if found.status == 0
                else (
                    f"lbfgs failed to converge after {n_iter} iteration(s) "
                    f"(status={found.status}):\n{found.message}\n\nIncrease "
                    f"max_iter={job.max_iter} or max_fun={job.max_fun}, or scale the data "
                    "(standardize=True)."
                )
            )
        except (KeyboardInterrupt, _ToldToStop) as ending:
            interrupted = isinstance(ending, KeyboardInterrupt)
            flat, n_iter, warning = latest, n_evaluated, None
            loss = reported(flat, objective(flat)[0])
    if not (math.isfinite(loss) and np.isfinite(flat).all()):
        return ValueError(DIVERGED.format(epoch=n_iter))
    return TrainingResult(flat, job.progress, n_iter, None, loss, warning, interrupted)
