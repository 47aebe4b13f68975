"""The one training loop, for a single network or for a stack of them.

`train(jobs)` runs jobs of equal `stack_key` in lockstep, one row of a weight matrix per job. Every
job has its own data, batches, learning rate, penalties and stopping rule; a job that ends leaves
the stack. With one job the same code runs 2-D operations on the only row.
"""

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchsk._heads import Head
from torchsk._mlp import Network, NetworkSpec
from torchsk._solvers import (
    FULL_BATCH_SOLVERS,
    UPDATE_RULES,
    Column,
    Schedule,
    UpdateRule,
    add_scaled_,
    as_column,
    minimize_lbfgs,
)
from torchsk._stopping import DIVERGED, Progress, is_diverged
from torchsk._tensors import Rows, one_thread

# rows gathered at a time, in numbers (16 MB of float32): one epoch of small data, some batches of
# large data
BLOCK_SIZE = 4_000_000
# numbers that the weights, gradients and batches of a stack may fill before they leave the cache
CACHE_SIZE = 400_000


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


def stack_key(job: TrainingJob) -> Hashable | None:
    """Return what jobs must share to train together; None for jobs that train alone."""
    if job.solver in FULL_BATCH_SOLVERS:
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
    return max(4, min(32, CACHE_SIZE // per_model))


def train(
    jobs: Sequence[TrainingJob], should_stop: Callable[[], bool] | None = None
) -> list[TrainingResult | Exception]:
    """Train jobs of equal `stack_key` together; return one result or exception per job.

    Parameters
    ----------
    jobs : sequence of TrainingJob
    should_stop : callable, optional
        Looked at once per epoch; TrainingCancelled is raised when it returns True.
    """
    if jobs[0].solver in FULL_BATCH_SOLVERS:
        return [_train_full_batch(job) for job in jobs]
    with torch.no_grad(), one_thread() if len(jobs) > 1 else nullcontext():
        return _Stack(jobs).run(should_stop)


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
        self.X = type(first.X).concatenate([jobs[i].X for i in parts])
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
        columns = {
            name: as_column([job.hyper_parameters[name] for job in jobs], self.weights)
            for name in rule.hyper_parameters
        }
        self.rule: UpdateRule = rule(columns, first.nesterov)
        self.is_penalised = first.alpha > 0
        self.alpha = as_column([job.alpha for job in jobs], self.weights)
        norms = [math.inf if job.max_grad_norm is None else job.max_grad_norm for job in jobs]
        self.max_grad_norm = None if min(norms) == math.inf else as_column(norms, self.weights)
        self.plan = _Plan(self.models, self.weight is not None, self.device)
        self._block: _Block | None = None

    def run(self, should_stop: Callable[[], bool] | None) -> list[TrainingResult | Exception]:
        """Train until every model has ended."""
        try:
            while self.models:
                if should_stop is not None and should_stop():
                    raise TrainingCancelled
                self._after_epoch(self._run_epoch())
        except KeyboardInterrupt:
            if len(self.outcomes) > 1:
                raise
            (model,) = self.models
            self._end(model, interrupted=True)
        return self.outcomes

    # -- one epoch --

    def _run_epoch(self) -> list[float]:
        """Pass once over all rows; return the training loss of every model."""
        n_batches = self.plan.n_batches
        rates = self.rule.rates(
            np.array([model.job.schedule.rate for model in self.models]),
            np.array([model.n_steps for model in self.models]),
            n_batches,
        )
        steps: Any = rates[:, 0].tolist()
        if len(self.models) > 1:
            steps = torch.from_numpy(np.array(rates, dtype=np.float32)).to(self.device).unsqueeze(2)
        loss: Tensor | float = 0.0
        for block in self._blocks():
            for step in range(block.n_steps):
                self._step(block, step, steps[block.first + step])
            loss = loss + block.loss(self.head, self.alpha)
        for model in self.models:
            model.n_steps += n_batches
        assert isinstance(loss, Tensor)
        return loss.tolist()

    def _blocks(self) -> Iterator["_Block"]:
        """Gather the rows of the epoch, some batches at a time."""
        if self.plan.n_batches == 1:  # the same rows every epoch: gather them once
            if self._block is None:
                self._block = _Block(self, self.plan.index(self.models), 0, 1)
            yield self._block
            return
        index = self.plan.index(self.models)
        per_batch = self.plan.batch_size * len(self.models) * self.X.n_features
        size = max(1, BLOCK_SIZE // per_batch)
        for first in range(0, self.plan.n_batches, size):
            yield _Block(self, index, first, min(first + size, self.plan.n_batches))

    def _step(self, block: "_Block", step: int, rate: Column) -> None:
        """Update the weights of every model on one batch."""
        raw, factor = block.raw[step], block.factors[step]
        masks = self._masks(raw.shape[:-1])
        tape = self.network.forward(block.X[step], masks, raw)
        delta = self.head.residual(raw, block.targets[step]).mul_(factor)
        self.network.backward(delta, tape, self.gradients)
        if self.is_penalised and not self.rule.decoupled:
            torch.linalg.vector_norm(self.coefs, dim=1, out=block.norms[step])
            add_scaled_(self.coef_gradients, self.coefs, self.alpha * block.penalty_factors[step])
        if self.max_grad_norm is not None:
            # as torch.nn.utils.clip_grad_norm_, per model
            norm = torch.linalg.vector_norm(self.gradient, dim=1, keepdim=True)
            self.gradient.mul_((self.max_grad_norm / norm.add_(1e-6)).clamp_(max=1.0))
        if self.is_penalised and self.rule.decoupled:
            add_scaled_(self.coefs, self.coefs, -1.0 * rate * self.alpha)
        self.rule.step_(self.weights, self.gradient, self.moments, rate)

    def _masks(self, shape: torch.Size) -> list[Tensor | None]:
        """Draw this batch's dropout masks, from each model's own generator."""
        if self.models[0].generator is None:
            return [None] * len(self.spec.dropout)
        masks: list[Tensor | None] = []
        for width, p in zip(self.spec.layer_sizes[1:], self.spec.dropout):
            if p == 0:
                masks.append(None)
                continue
            mask = torch.empty(*shape, width, device=self.device)
            for model, part in zip(self.models, mask if mask.ndim == 3 else [mask]):
                part.bernoulli_(1 - p, generator=model.generator)
            masks.append(mask.div_(1 - p))
        return masks

    # -- between epochs --

    def _after_epoch(self, losses: list[float]) -> None:
        """Record the epoch, and let the models leave that have ended."""
        for model, loss in zip(list(self.models), losses):
            self._record(model, loss)
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
        job, progress = model.job, model.job.progress
        model.n_iter += 1
        validation = None
        if job.validation is not None:
            validation = validate(
                Network(self.spec, self.weights[self._row(model)]),
                self.head,
                job.validation,
                lambda: self._flat(model),
            )
        progress.n_samples_seen += job.n_rows_seen
        is_best = progress.record(loss, validation, job.tol)
        if job.verbose:
            report(model.n_iter, loss, validation)
        if is_diverged(loss, validation):
            self._diverge(model)
            return
        if is_best and model.best is not None:
            model.best = self._flat(model)
        job.schedule.after_epoch(progress.n_samples_seen)
        told_to_stop = job.on_epoch is not None and job.on_epoch(
            progress, lambda: self._flat(model)
        )
        plateau = progress.plateau(job.tol, job.n_iter_no_change)
        if plateau is not None:
            onwards = job.schedule.after_plateau()
            if job.verbose:
                print(f"{plateau} {onwards or 'Stopping.'}")
            progress.n_no_improvement = 0 if onwards else progress.n_no_improvement
            plateau = None if onwards else plateau
        if plateau is not None or told_to_stop:
            self._end(model)
        elif model.n_iter == job.max_iter:
            self._end(model, at_max_iter=True)

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
        #: share of each batch in its model's epoch (n_batches, n_models)
        self.shares = torch.from_numpy((sizes / lengths).astype(np.float32)).to(device)
        self.sizes = [self.batch_size] * (self.n_batches - 1) + [self.last]

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


class _Block:
    """Some batches of an epoch, gathered: lists with one tensor per step."""

    def __init__(self, stack: _Stack, index: Tensor, first: int, stop: int):
        plan, n_models = stack.plan, len(stack.models)
        self.first, self.n_steps = first, stop - first
        self.sizes = plan.sizes[first:stop]
        counts = [n_models * size for size in self.sizes]
        start = n_models * plan.batch_size * first
        here = slice(start, start + sum(counts))
        index = index[here]
        self.lead = () if n_models == 1 else (n_models,)
        self.target = stack.target.index_select(0, index)
        self.raw_rows = torch.empty(
            len(index), stack.head.n_outputs, device=stack.device, dtype=stack.weights.dtype
        )
        self.X = self._steps(stack.X.take(index), counts)
        self.targets = self._steps(self.target, counts)
        self.raw = self._steps(self.raw_rows, counts)
        self.norms = torch.zeros(self.n_steps, n_models, device=stack.device)
        shares = plan.shares[first:stop]
        if not plan.weighted:
            self.factors: Any = [1 / size for size in self.sizes]
            self.penalty_factors: Any = self.factors
            self.row_shares: Any = 1 / plan.longest
            self.penalty_shares: Any = 1 / plan.longest
            return
        weight = plan.valid[here]
        if stack.weight is not None:
            weight = weight * stack.weight.index_select(0, index)
        parts = [part.view(n_models, -1) for part in weight.split(counts)]
        totals = torch.stack([part.sum(1) for part in parts])
        # a batch without weight changes nothing
        inverse = torch.where(totals > 0, 1 / totals, torch.zeros_like(totals))
        self.factors = [
            (part * inv.unsqueeze(1)).unsqueeze(2).view(*self.lead, -1, 1)
            for part, inv in zip(parts, inverse)
        ]
        self.penalty_factors = inverse.unsqueeze(2)
        self.penalty_shares = inverse * shares
        self.row_shares = torch.cat(
            [(part * share.unsqueeze(1)).ravel() for part, share in zip(parts, self.penalty_shares)]
        )

    def _steps(self, rows: Tensor, counts: list[int]) -> list[Tensor]:
        return [part.view(*self.lead, -1, rows.shape[1]) for part in rows.split(counts)]

    def loss(self, head: Head, alpha: Column) -> Tensor:
        """Return these batches' part of each model's epoch loss (n_models,), penalty included."""
        losses = head.loss(self.raw_rows, self.target) * (self.row_shares * head.loss_scale)
        n_models = self.norms.shape[1]
        counts = [n_models * size for size in self.sizes]
        data = sum(
            part.view(n_models, -1).sum(1, dtype=torch.float64) for part in losses.split(counts)
        )
        penalty = (self.norms.square().double() * self.penalty_shares).sum(0)
        if isinstance(alpha, Tensor):
            alpha = alpha.squeeze(1)
        return data + 0.5 * alpha * penalty


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
    return torch.ones(job.X.n_rows, device=job.device)


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
    raw = predict_rows(network, validation.X, head.n_outputs)
    losses = head.loss(raw, validation.target).double()
    weight = validation.weight
    mean = losses.mean() if weight is None else (losses @ weight.double()) / weight.double().sum()
    loss = float(mean) * head.loss_scale
    if callable(validation.score):
        return loss, float(validation.score(flat()))
    if validation.score == "loss":
        return loss, -loss
    if not bool(torch.isfinite(raw).all()):
        return loss, math.nan
    return loss, head.score(raw, validation.target, weight)


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
    if UPDATE_RULES[job.solver].default_max_grad_norm is not None:
        words += " A larger learning_rate_init, or solver='adam', may need fewer iterations."
    return words


# -- lbfgs -----------------------------------------------------------------------------------------


def _train_full_batch(job: TrainingJob) -> TrainingResult | Exception:
    """Minimise the penalised mean loss of all rows, in float64."""
    n_rows, n_evaluated = job.X.n_rows, 0
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

    def after_iteration(flat: np.ndarray) -> None:
        nonlocal n_evaluated, latest
        n_evaluated, latest = n_evaluated + 1, flat.copy()
        if job.verbose:
            print(f"Iteration {n_evaluated}, loss = {objective(flat)[0]:.8f}")

    latest = np.array(job.flat, dtype=np.float64)
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
            flat, n_iter, loss = found.x, min(found.nit, job.max_iter), float(found.fun)
            warning = (
                None
                if found.status == 0
                else (
                    f"lbfgs failed to converge after {n_iter} iteration(s) (status={found.status}):\n"
                    f"{found.message}\n\nIncrease max_iter={job.max_iter} or max_fun={job.max_fun}, or "
                    "scale the data (standardize=True)."
                )
            )
        except KeyboardInterrupt:
            flat, n_iter, interrupted, warning = latest, n_evaluated, True, None
            loss = objective(flat)[0]
    if not (math.isfinite(loss) and np.isfinite(flat).all()):
        return ValueError(DIVERGED.format(epoch=n_iter))
    return TrainingResult(flat, job.progress, n_iter, None, loss, warning, interrupted)
