"""The one training loop, for a single network or for a stack of them.

`train(jobs)` runs jobs of equal `stack_key` in lockstep, one row of a weight matrix per job. Every
job has its own data, batches, learning rate, penalties and stopping rule; a job that ends leaves
the stack. With one job the same code runs 2-D operations on the only row.
"""

import copy
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from torchsk._batches import Batch, Block, Plan, RowOrder, TrainingData
from torchsk._heads import Head
from torchsk._jobs import (
    SolverState,
    TrainingCancelled,
    TrainingJob,
    TrainingResult,
    Validation,
    max_iter_warning,
    record_epoch,
    score_raw,
)
from torchsk._lbfgs import train_lbfgs
from torchsk._matmul import prefers_onednn
from torchsk._mlp import Network
from torchsk._rows import Rows
from torchsk._runtime import exact_dtype, threads_for
from torchsk._solvers import FULL_BATCH_SOLVERS, UPDATE_RULES, UpdateRule, as_column
from torchsk._stopping import why_not_finite

# rows gathered at a time, in numbers (16 MB of float32): one epoch of small data, some batches of
# large data
BLOCK_SIZE = 4_000_000
# numbers that the weights, gradients and batches of a stack may fill before they leave the cache
CACHE_SIZE = 1_000_000
# multiply-adds from which one wide product of models that share their batches beats small ones
WIDE_SIZE = 4_000_000


def stack_key(job: TrainingJob) -> Hashable | None:
    """Return what jobs must share to train together; None for jobs that train alone."""
    alone = job.lane is not None or job.solver in FULL_BATCH_SOLVERS
    if alone or not job.head.per_sample:
        return None
    n_batches = -(-job.X.n_rows // job.batch_size)
    # one batch that holds all rows may be padded, up to twice its length
    width = job.X.n_rows.bit_length() if n_batches == 1 else job.batch_size
    return (
        job.spec, job.head.stack_key, job.solver, job.nesterov, job.shuffle, str(job.device),
        type(job.X), job.alpha > 0, n_batches, width,
    )  # fmt: skip


def max_models(job: TrainingJob) -> int:
    """Return how many models like this one a stack should hold at most."""
    if job.device.type != "cpu":
        return 1024
    per_model = 3 * job.spec.n_params + 4 * job.batch_size * sum(job.spec.layer_sizes)
    return max(24, min(64, CACHE_SIZE // per_model))


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
    with threads_for(_n_multiply_adds(jobs), jobs[0].device):
        if jobs[0].lane is not None:
            return [jobs[0].lane.train(job, should_stop) for job in jobs]
        with torch.no_grad():
            if jobs[0].solver in FULL_BATCH_SOLVERS:
                return [train_lbfgs(job, should_stop) for job in jobs]
            return _Stack(jobs).run(should_stop)


def _n_multiply_adds(jobs: Sequence[TrainingJob]) -> float:
    """Return those of a forward pass of one model, 0 for the small products of a stack."""
    job = jobs[0]
    if job.lane is not None:
        return math.inf
    n_rows = job.X.n_rows if job.solver in FULL_BATCH_SOLVERS else job.batch_size
    return n_rows * job.spec.n_coefs if len(jobs) == 1 else 0


# -- stochastic solvers ----------------------------------------------------------------------------


@dataclass
class _Model:
    """One job on its row of the stack."""

    job: TrainingJob
    slot: int
    #: one object for models that share their batches
    order: RowOrder
    n_steps: int
    best: np.ndarray | None = None
    n_iter: int = 0
    generator: torch.Generator | None = None


class _Stack:
    """Models that train in lockstep."""

    def __init__(self, jobs: Sequence[TrainingJob]):
        first = jobs[0]
        self.device, self.head, self.spec = first.device, first.head, first.spec
        self.outcomes: list[TrainingResult | Exception] = [RuntimeError("not trained")] * len(jobs)
        self.data = TrainingData(jobs)
        slots: dict[RowOrder, list[int]] = {}
        for i, order in enumerate(self.data.orders):
            slots.setdefault(order, []).append(i)
        # models that share their batches are neighbours
        self.models = [
            _Model(jobs[i], i, order, 0 if (state := jobs[i].state) is None else state.n_steps)
            for order, group in slots.items()
            for i in group
        ]
        self.weights = self._to_device(np.stack([model.job.flat for model in self.models]))
        no_moments = np.zeros((UPDATE_RULES[first.solver].n_moments, self.spec.n_params))
        states = [model.job.state for model in self.models]
        moments = [no_moments if state is None else state.moments for state in states]
        self.moments = self._to_device(np.stack(moments, axis=1))
        for model in self.models:
            if any(self.spec.dropout):
                seed = int(model.job.rng.randint(2**31 - 1))
                # another seed at each call of partial_fit, whose random_state starts anew
                model.generator = torch.Generator(self.device).manual_seed(seed + model.n_steps)
            if model.job.keep_best:
                model.best = np.array(model.job.flat, dtype=np.float32)
        for order, group in slots.items():
            if len(group) > 1:
                order.rng = copy.deepcopy(order.rng)  # goes on when the first of them has ended
        self._bind()

    def _to_device(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array.astype(np.float32)).to(self.device)

    def _bind(self) -> None:
        """(Re)build all that depends on which models are left."""
        jobs = [model.job for model in self.models]
        first, n_models = jobs[0], len(jobs)
        self.gradient = torch.empty_like(self.weights)
        row = 0 if n_models == 1 else slice(None)
        #: numbers of neighbours that share their batches
        self.n_sharing = [len(list(group)) for _, group in groupby(self._orders())]
        self.groups = self.n_sharing if self._wide_pays() else None
        self.network = Network(self.spec, self.weights[row], self.groups)
        self.gradients = Network(self.spec, self.gradient[row], self.groups)
        self.coefs = self.weights[:, : self.spec.n_coefs]
        self.coef_gradients = self.gradient[:, : self.spec.n_coefs]
        rule = UPDATE_RULES[first.solver]
        values = {
            name: [job.hyper_parameters[name] for job in jobs] for name in rule.hyper_parameters
        }
        self.rule: UpdateRule = rule(values, first.nesterov, self.weights)
        self.moment_tables = self.moments.unbind()
        self.is_penalised = first.alpha > 0
        self.alpha = as_column([job.alpha for job in jobs], self.weights)
        norms = [math.inf if job.max_grad_norm is None else job.max_grad_norm for job in jobs]
        self.max_grad_norm = None if min(norms) == math.inf else as_column(norms, self.weights)
        self.plan = Plan(
            [len(order.rows) for order in self._orders()],
            [job.batch_size for job in jobs],
            self.data.weight is not None,
            self.device,
        )
        self.tiny = torch.tensor(1e-6, dtype=self.weights.dtype, device=self.device)
        self._block_cache: dict[tuple[int, bool], Block] = {}

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
        dtype = exact_dtype(self.device)
        loss = torch.zeros(len(self.models), dtype=dtype, device=self.device)
        for block in self._blocks():
            if should_stop is not None and should_stop():
                raise TrainingCancelled
            for i, batch in enumerate(block.batches, start=block.first):
                self._step(batch, steps[i])
            loss += block.loss()
        for model in self.models:
            model.n_steps += self.plan.n_batches
        return loss.tolist()

    def _blocks(self) -> Iterator[Block]:
        """Gather the rows of the epoch, some batches at a time."""
        n_batches, n_models = self.plan.n_batches, len(self.models)
        n_groups = n_models if self.groups is None else len(self.groups)
        per_row = n_groups * self.data.X.n_features + n_models * self.head.n_outputs
        size = max(1, BLOCK_SIZE // (self.plan.batch_size * per_row))
        changes = n_batches > 1  # one batch holds the same rows every epoch
        index = None
        if changes or not self._block_cache:
            rows = [order.next_epoch() for order in dict.fromkeys(self._orders())]
            table = self.plan.table(rows)
            index = self.plan.arrange(np.repeat(table, self.n_sharing, axis=0))
            by_group = index if self.groups is None else self.plan.arrange(table)
        for first in range(0, n_batches, size):
            stop = min(first + size, n_batches)
            key = (stop - first, stop == n_batches)
            if key not in self._block_cache:
                self._block_cache[key] = Block(
                    self.plan, self.data, self.head, n_groups, self.alpha, *key
                )
            block = self._block_cache[key]
            if index is not None:
                block.fill(index, by_group, first)
            yield block

    def _orders(self) -> Iterator[RowOrder]:
        return (model.order for model in self.models)

    def _wide_pays(self) -> bool:
        """Return whether one product per group beats one per model in the first layer."""
        n_models, n_groups = len(self.models), len(self.n_sharing)
        fan_in, fan_out, *_ = self.spec.layer_sizes
        size = fan_in * fan_out * n_models // n_groups * self.models[0].job.batch_size
        return n_models > n_groups and size >= WIDE_SIZE and prefers_onednn(self.weights, size)

    def _step(self, batch: Batch, rate: Tensor) -> None:
        """Update the weights of every model on one batch."""
        tape = self.network.forward(batch.X, self._masks(batch), batch.out)
        delta = self.head.residual(batch.raw, batch.target).mul_(batch.factor)
        self.network.backward(delta.mT, tape, self.gradients)
        if self.is_penalised and not self.rule.decoupled:
            torch.linalg.vector_norm(self.coefs, dim=1, out=batch.norm)
            self.coef_gradients.addcmul_(self.coefs, batch.penalty)
        if self.max_grad_norm is not None:
            # as torch.nn.utils.clip_grad_norm_, per model
            norm = torch.linalg.vector_norm(self.gradient, dim=1, keepdim=True)
            self.gradient.mul_((self.max_grad_norm / norm.add_(self.tiny)).clamp_(max=1.0))
        if self.is_penalised and self.rule.decoupled:
            self.coefs.mul_(self.decay)
        self.rule.step_(self.weights, self.gradient, self.moment_tables, rate)

    def _masks(self, batch: Batch) -> list[Tensor | None]:
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
            *lead, _, n_samples = batch.out.shape
            mask = self.weights.new_zeros(*lead, width, n_samples)
            for model, part, n in zip(self.models, mask if lead else [mask], batch.n_rows):
                part[:, :n].bernoulli_(1 - p, generator=model.generator)
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
            if model.best is not None and np.isfinite(flat := self._flat(model)).all():
                model.best = flat

        ending = record_epoch(job, model.n_iter, loss, validation, lambda: self._flat(model), keep)
        if ending == "diverged":
            self._diverge(model)
        elif ending is not None:
            self._end(model, at_max_iter=ending == "max_iter")

    def _end(self, model: _Model, at_max_iter: bool = False, interrupted: bool = False) -> None:
        """Take the result of a model that stops here."""
        row, job = self._row(model), model.job
        flat = self._flat(model) if model.best is None else model.best
        shuffler = model.order.rng
        if shuffler is not None and shuffler is not job.rng:
            job.rng.set_state(shuffler.get_state())  # as if it had shuffled by itself
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
        job, slot = model.job, model.slot
        message = why_not_finite(job.progress, model.n_iter)
        if model.best is not None and math.isfinite(job.progress.best_score):
            self._end(model)
            outcome = self.outcomes[slot]
            assert isinstance(outcome, TrainingResult)
            outcome.warning = f"{message} The best weights so far were kept."
            outcome.state = None
        else:
            self.outcomes[slot] = ValueError(message)
            model.slot = -1


def predict_rows(network: Network, X: Rows) -> Tensor:
    """Return raw outputs (n_rows, n_outputs), some rows at a time."""
    step = max(1, BLOCK_SIZE // max(X.n_features, *network.widths))
    if X.n_rows <= step:
        return network.predict(X.all())
    parts, device = [], network.coefs[0].device
    for start in range(0, X.n_rows, step):
        stop = min(start + step, X.n_rows)
        parts.append(network.predict(X.take(torch.arange(start, stop, device=device))))
    return torch.cat(parts)


def validate(
    network: Network, head: Head, validation: Validation, flat: Callable[[], np.ndarray]
) -> tuple[float, float]:
    """Return (loss, score) on held-out rows."""
    return score_raw(predict_rows(network, validation.X), head, validation, flat)
