"""The one training loop, for a single network or for a stack of them.

`StackLane` trains jobs of equal `stack_key` in lockstep, one row of a weight matrix per job. Every
job has its own data, batches, learning rate, penalties and stopping rule; a job that ends leaves
the stack. With one job the same code runs 2-D operations on the only row.
"""

import copy
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from torchsk._data import chunks
from torchsk._dropout import PER_WORD, as_mask, draw_, make_generator, n_words
from torchsk._heads import Head
from torchsk._matmul import prefers_onednn
from torchsk._mlp import Network, NetworkSpec, Reexpression
from torchsk._models import Model, narrowing_of
from torchsk._rows import Rows
from torchsk._runtime import exact_dtype, threads_for, without_autocast, without_autograd
from torchsk._solvers import UPDATE_RULES, UpdateRule, as_column
from torchsk._sparse import network_class
from torchsk._training.batches import (
    Batch,
    Block,
    Penalty,
    Plan,
    RowOrder,
    TrainingData,
    runs_of,
)
from torchsk._training.graphs import Repeater
from torchsk._training.jobs import (
    Lane,
    SolverState,
    TrainingCancelled,
    TrainingJob,
    TrainingResult,
    Validation,
)
from torchsk._training.run import Run

# rows gathered at a time, in numbers (16 MB of float32): one epoch of small data, some batches of
# large data
BLOCK_SIZE = 4_000_000
# numbers that the weights, gradients and batches of a stack may fill before they leave the cache
CACHE_SIZE = 1_000_000
# multiply-adds from which one wide product of models that share their batches beats small ones
WIDE_SIZE = 4_000_000

FLOAT32 = torch.finfo(torch.float32)

#: parameters of an estimator that `StackLane.stack_key` tells apart
STACK_PARAMETERS = frozenset({
    "batch_size", "device", "dropout", "hidden_layer_sizes", "loss", "loss_params", "module",
    "module_params", "nesterovs_momentum", "numerical_embedding", "shuffle", "solver",
})  # fmt: skip


@dataclass(frozen=True)
class StackLane(Lane):
    """Trains the built-in network by an update rule, in float32, alone or in a stack."""

    solver: str

    multiplies_sparse = True

    @property
    def key(self) -> str:
        """The solver, whose moments are remembered."""
        return self.solver

    def stack_key(self, job: TrainingJob) -> Hashable | None:
        """Return what jobs must share to train together; None for jobs that train alone."""
        if not job.head.per_sample:
            return None
        rows, settings = job.rows, job.settings
        n_batches = len(settings.cut(rows.n_rows))
        # one batch that holds all rows may be padded, up to twice its length; even ones all are
        width = settings.batch_size if n_batches > 1 else rows.n_rows.bit_length()
        if settings.n_batches is not None:
            width = 0
        return (
            self, replace(job.model.spec, activations=()), job.head.stack_key,
            settings.nesterovs_momentum, settings.shuffle, settings.is_penalised, str(job.device),
            type(rows.X), n_batches, width,
        )  # fmt: skip

    def reexpress(self, state: SolverState, change: Reexpression) -> SolverState:
        """Return the state with its moments re-expressed as the rule says."""
        rule = UPDATE_RULES[self.solver]
        return replace(state, moments=rule.reexpress(state.moments, change))

    def max_models(self, job: TrainingJob) -> int:
        """Return how many models like this one a stack should hold at most."""
        if job.device.type != "cpu":
            return 1024
        spec = job.model.narrowing.spec
        row_size = spec.n_features + sum(spec.row_sizes)
        per_model = 3 * spec.n_params + 4 * job.settings.batch_size * row_size
        return max(24, min(64, CACHE_SIZE // per_model))

    def train(
        self, jobs: Sequence[TrainingJob], should_stop: Callable[[], bool] | None = None
    ) -> list[TrainingResult | Exception]:
        """Train jobs of equal `stack_key` in lockstep."""
        job = jobs[0]
        # the products of a stack are small
        size = job.settings.batch_size * job.model.n_multiply_adds if len(jobs) == 1 else 0
        mode = without_autograd(_any_calls_user(jobs))
        with threads_for(size, job.device), without_autocast(job.device), mode:
            return _Stack(jobs).run(should_stop)


def _any_calls_user(jobs: Sequence[TrainingJob]) -> bool:
    """Return whether a step calls a loss or an activation of a user's."""
    return any(job.calls_user for job in jobs)


@dataclass
class _Member:
    """One job on its row of the stack."""

    job: TrainingJob
    #: where its outcome goes
    slot: int
    row: int
    #: one object for models that share their batches
    order: RowOrder
    n_steps: int
    run: Run = field(init=False)
    generator: torch.Generator | None = None


class _Stack:
    """Models that train in lockstep."""

    def __init__(self, jobs: Sequence[TrainingJob]):
        first = jobs[0]
        self.device, self.head = first.device, first.head
        #: columns that no model embeds are left out
        self.narrowing = narrowing_of([job.model for job in jobs])
        self.spec = self.narrowing.spec
        #: widths of the layers that drop units
        self.dropped = self.spec.dropped
        self.no_masks: list[Tensor | None] = [None] * len(self.spec.dropout)
        self.outcomes: list[TrainingResult | Exception] = [RuntimeError("not trained")] * len(jobs)
        self.data = TrainingData(jobs)
        self.network_class = network_class(self.data.X)
        slots: dict[RowOrder, list[int]] = {}
        for i, order in enumerate(self.data.orders):
            slots.setdefault(order, []).append(i)
        # models of equal activations are neighbours, and among these those that share batches
        places = [(jobs[i], i, order) for order, group in slots.items() for i in group]
        activations = list(dict.fromkeys(job.model.spec.activations for job in jobs))
        places.sort(key=lambda place: activations.index(place[0].model.spec.activations))
        self.weights = self._to_device([job.model.flat for job, *_ in places])
        n_moments = UPDATE_RULES[first.settings.solver].n_moments
        self.moments = self.weights.new_zeros(n_moments, *self.weights.shape)
        for row, (job, *_) in enumerate(places):
            if job.state is not None:
                self.moments[:, row] = self._to_device(job.state.moments)
        self.members = [
            _Member(job, slot, row, order, 0 if job.state is None else job.state.n_steps)
            for row, (job, slot, order) in enumerate(places)
        ]
        for member in self.members:
            member.run = Run(
                member.job, partial(self._flat, member), partial(self._are_finite, member)
            )
            if self.dropped:
                member.generator = make_generator(member.job.rng, self.device, member.n_steps)
        for order, group in slots.items():
            if len(group) > 1:
                order.rng = copy.deepcopy(order.rng)  # goes on when the first of them has ended
        self._bind()

    def _to_device(self, vectors: Iterable[np.ndarray]) -> Tensor:
        """Return weights or moments (n_vectors, n_params) in the order of the network."""
        array = np.array([self.narrowing.take(vector) for vector in vectors], dtype=np.float32)
        return torch.from_numpy(self.network_class.arranged(self.spec, array)).to(self.device)

    def _to_host(self, tensor: Tensor) -> np.ndarray:
        """Return a copy of weights or moments (..., n_params) in the order of the models' own."""
        array = self.network_class.restored(self.spec, tensor.cpu().numpy().copy())
        return self.narrowing.put(array)

    def _spec_of(self, job: TrainingJob) -> NetworkSpec:
        """Return the shape of one model, without the columns that none of the stack embeds."""
        return replace(self.narrowing.spec, activations=job.model.spec.activations)

    def _bind(self) -> None:
        """(Re)build all that depends on which models are left."""
        jobs = [member.job for member in self.members]
        first, n_models = jobs[0], len(jobs)
        self.spec = NetworkSpec.of_stack([self._spec_of(job) for job in jobs])
        self.gradient = torch.empty_like(self.weights)
        row = 0 if n_models == 1 else slice(None)
        #: numbers of neighbours that share their batches
        self.n_sharing = [len(list(group)) for _, group in groupby(self._orders())]
        are_grouped = self.network_class.takes_tables or self._wide_pays()
        self.groups = self.n_sharing if are_grouped else None
        self.network = self.network_class(self.spec, self.weights[row], self.groups)
        self.gradients = self.network_class(self.spec, self.gradient[row], self.groups)
        self.coefs = self.weights[:, : self.spec.n_coefs]
        self.coef_gradients = self.gradient[:, : self.spec.n_coefs]
        rule = UPDATE_RULES[first.settings.solver]
        values = {
            name: [getattr(job.settings, name) for job in jobs] for name in rule.hyper_parameters
        }
        self.rule: UpdateRule = rule(values, first.settings.nesterovs_momentum, self.weights)
        self.moment_tables = self.moments.unbind()
        #: share of the rate at which each weight is trained, where they differ
        self.rate_factors = self.spec.rate_factors(self.weights)
        self.is_penalised = first.settings.is_penalised
        self.penalty = Penalty(
            as_column([job.settings.alpha for job in jobs], self.weights),
            as_column([job.settings.penalty for job in jobs], self.weights),
        )
        limits = [job.settings.max_grad_norm for job in jobs]
        #: largest norm of the gradient of each model, if one has a limit
        self.max_grad_norm: Tensor | None = None
        if any(limit is not None for limit in limits):
            low, high = FLOAT32.tiny, FLOAT32.max
            norms = [high if limit is None else min(max(limit, low), high) for limit in limits]
            self.max_grad_norm = as_column(norms, self.weights)
        cuts = [job.settings.cut(job.rows.n_rows) for job in jobs]
        self.plan = Plan(cuts, self.data.weight is not None, self.device)
        #: what shrinks the coefs of each model in a step, under a decoupled rule
        self.decay = self.weights.new_empty(() if n_models == 1 else (n_models, 1))
        #: training loss of each model in this epoch
        self.loss = self.weights.new_zeros(n_models, dtype=exact_dtype(self.device))
        self.repeat = Repeater(self.device, may_record=not _any_calls_user(jobs))
        self._block_cache: dict[tuple, Block] = {}
        self._word_cache: dict[tuple, Tensor] = {}

    def run(self, should_stop: Callable[[], bool] | None) -> list[TrainingResult | Exception]:
        """Train until every model has ended."""
        try:
            while self.members:
                self._after_epoch(self._run_epoch(should_stop))
        except KeyboardInterrupt as interrupt:
            if len(self.outcomes) > 1:
                raise
            (member,) = self.members
            member.run.interrupt(interrupt)
            self._end(member)
        return self.outcomes

    # -- one epoch --

    def _run_epoch(self, should_stop: Callable[[], bool] | None) -> list[float]:
        """Pass once over all rows; return the training loss of every model."""
        rate = np.array([member.job.schedule.rate for member in self.members])
        if self.rule.decoupled:  # by the schedule's rate, without Adam's bias correction
            decay = 1 - rate * [member.job.settings.decay for member in self.members]
            decay = decay.astype(np.float32).reshape(self.decay.shape)
            self.decay.copy_(torch.from_numpy(decay))
        n_steps = np.array([member.n_steps for member in self.members])
        table = self.rule.rates(rate, n_steps, self.plan.n_batches).astype(np.float32)
        rates = torch.from_numpy(table).to(self.device)
        self.loss.zero_()
        for block in self._blocks():
            if should_stop is not None and should_stop():
                raise TrainingCancelled
            block.take_rates(rates)
            if not self.dropped:
                self.repeat(block, partial(self._train_on, block))
                continue
            # a block serves several parts of an epoch: their masks are cut where their rows end
            key = block, tuple(batch.n_rows for batch in block.batches)
            self.repeat(key, partial(self._train_on, block, *self._draw(block)))
        for member in self.members:
            member.n_steps += self.plan.n_batches
        return self.loss.tolist()

    def _train_on(
        self, block: Block, bits: Tensor | None = None, offsets: Sequence[list[int]] = ()
    ) -> None:
        """Take the steps of a block, and add its loss.

        Bits and offsets are what `_draw` returns; there are none where no units are dropped.
        """
        if bits is None:
            for batch in block.batches:
                self._step(batch, self.no_masks)
        else:
            tables = {p: as_mask(bits, p) for p in set(self.spec.dropout) if p}
            for batch, starts in zip(block.batches, offsets):
                self._step(batch, self._masks(batch, tables, starts))
        self.loss += block.loss()

    def _blocks(self) -> Iterator[Block]:
        """Gather the rows of the epoch, some batches at a time."""
        n_batches, n_models = self.plan.n_batches, len(self.members)
        n_groups = n_models if self.groups is None else len(self.groups)
        per_row = n_groups * self.data.X.row_size
        per_row += n_models * (self.head.n_outputs + sum(self.dropped))
        size = max(1, BLOCK_SIZE // (self.plan.sizes[0] * per_row))
        size = min(size, self.repeat.max_steps)
        changes = n_batches > 1  # one batch holds the same rows every epoch
        index = None
        if changes or not self._block_cache:
            rows = {order: order.next_epoch() for order in dict.fromkeys(self._orders())}
            table = self.plan.table([rows[order] for order, _ in groupby(self._orders())])
            shared = len(table) < n_models
            per_model = np.repeat(table, self.n_sharing, axis=0) if shared else table
            index = self.plan.arrange(per_model)
            by_group = index if self.groups is None else self.plan.arrange(table)
        for first in range(0, n_batches, size):
            stop = min(first + size, n_batches)
            sizes = self.plan.sizes[first:stop]
            key = tuple(runs_of(sizes))
            if key not in self._block_cache:
                self._block_cache[key] = Block(
                    self.plan, self.data, self.head, n_groups, self.penalty, sizes
                )
            block = self._block_cache[key]
            if index is not None:
                block.fill(index, by_group, first)
            yield block

    def _orders(self) -> Iterator[RowOrder]:
        return (member.order for member in self.members)

    def _wide_pays(self) -> bool:
        """Return whether one product per group beats one per model in the first layer."""
        n_models, n_groups = len(self.members), len(self.n_sharing)
        fan_in, fan_out, *_ = self.spec.layer_sizes
        size = fan_in * fan_out * n_models // n_groups * self.members[0].job.settings.batch_size
        is_shared = n_models > n_groups and self.spec.embedding is None
        return is_shared and size >= WIDE_SIZE and prefers_onednn(self.weights, size)

    def _step(self, batch: Batch, masks: list[Tensor | None]) -> None:
        """Update the weights of every model on one batch."""
        tape = self.network.forward(batch.X, masks, batch.out)
        delta = self.head.residual(batch.raw, batch.target).mul_(batch.factor)
        self.network.backward(delta.mT, tape, self.gradients)
        if self.is_penalised and not self.rule.decoupled:
            torch.linalg.vector_norm(self.coefs, dim=1, out=batch.norm)
            self.coef_gradients.addcmul_(self.coefs, batch.penalty)
        if self.max_grad_norm is not None:
            norm = torch.linalg.vector_norm(self.gradient, dim=1, keepdim=True)
            self.gradient.mul_(self.max_grad_norm / torch.maximum(norm, self.max_grad_norm))
        if self.is_penalised and self.rule.decoupled:
            self.coefs.mul_(self.decay)
        rate = batch.rate if self.rate_factors is None else batch.rate * self.rate_factors
        self.rule.step_(self.weights, self.gradient, self.moment_tables, rate)

    def _draw(self, block: Block) -> tuple[Tensor, list[list[int]]]:
        """Draw the bits of all masks of a block, from each model's own generator.

        Return them (n_models, n_bytes), and where those of each batch and model begin. Padding
        draws nothing: a model draws what it would draw alone.
        """
        sizes = np.array(
            [[n_words(self.dropped, n) for n in batch.n_rows] for batch in block.batches]
        )
        totals = sizes.sum(axis=0).tolist()
        shape = len(totals), max(totals)
        if shape not in self._word_cache:
            self._word_cache[shape] = torch.empty(shape, dtype=torch.int64, device=self.device)
        words = self._word_cache[shape]
        for member, row, total in zip(self.members, words, totals):
            assert member.generator is not None
            draw_(row[:total], member.generator)
        return words.view(torch.uint8), (PER_WORD * (np.cumsum(sizes, axis=0) - sizes)).tolist()

    def _masks(
        self, batch: Batch, tables: dict[float, Tensor], offsets: list[int]
    ) -> list[Tensor | None]:
        """Return this batch's dropout masks (n_models, width, n_samples), one per hidden layer.

        The tables hold the masks (n_models, ...) of all units and rows, by probability.
        """
        *lead, _, n_samples = batch.out.shape
        masks: list[Tensor | None] = []
        at, is_even = 0, len(set(zip(offsets, batch.n_rows))) == 1
        for width, p in zip(self.spec.layer_sizes[1:], self.spec.dropout):
            if p == 0:
                masks.append(None)
                continue
            table = tables[p]
            if is_even:
                start = offsets[0] + at * n_samples
                mask = table[:, start : start + width * n_samples].view(-1, width, n_samples)
                masks.append(mask if lead else mask[0])
            else:
                mask = self.weights.new_zeros(*lead, width, n_samples)
                for part, row, offset, n in zip(mask, table, offsets, batch.n_rows):
                    start = offset + at * n
                    part[:, :n] = row[start : start + width * n].view(width, n)
                masks.append(mask)
            at += width
        return masks

    # -- between epochs --

    def _after_epoch(self, losses: list[float]) -> None:
        """Record the epoch, and let the models leave that have ended."""
        with torch.inference_mode(False):  # a scorer, schedule or callback may need autograd
            for member, loss in zip(list(self.members), losses):
                try:
                    self._record(member, loss)
                except Exception as error:  # diverged, or one of theirs
                    self._leave(member, error)
        if any(member.slot < 0 for member in self.members):
            stay = [member.row for member in self.members if member.slot >= 0]
            self.members = [self.members[row] for row in stay]
            if self.members:
                index = torch.tensor(stay, device=self.device)
                self.weights = self.weights[index]
                self.moments = self.moments[:, index]
                for row, member in enumerate(self.members):
                    member.row = row
                self._bind()

    def _flat(self, member: _Member) -> np.ndarray:
        """Return a copy of the weights of one model."""
        return self._to_host(self.weights[member.row])

    def _are_finite(self, member: _Member) -> bool:
        """Return whether the weights of one model are finite."""
        return bool(np.isfinite(self._flat(member)).all())

    def _record(self, member: _Member, loss: float) -> None:
        """Record the epoch of one model, which ends with it or not."""
        job = member.job

        def model() -> Model:
            return job.model.trained(self._flat(member))

        validation = None
        if job.validation is not None:
            network = self._network_for(job.validation.rows.X, member)
            validation = validate(network, job.validation, self.head, model)
        member.run.after_epoch(loss, validation, model)
        if member.run.ending is not None:
            self._end(member)

    def _network_for(self, X: Rows, member: _Member) -> Network:
        """Return the network of one model for rows that may be stored in another way."""
        wanted, flat = network_class(X), self.weights[member.row]
        if wanted is not self.network_class:
            arranged = wanted.arranged(self.spec, self._flat(member))
            flat = torch.from_numpy(arranged).to(self.device)
        return wanted(self._spec_of(member.job), flat)

    def _end(self, member: _Member) -> None:
        """Take the result of a model that stops here."""
        job, shuffler = member.job, member.order.rng
        if shuffler is not None and shuffler is not job.rng:
            job.rng.set_state(shuffler.get_state())  # as if it had shuffled by itself
        best = member.run.best_weights()
        flat = self._flat(member) if best is None else best
        state = SolverState(
            job.lane.key,
            member.n_steps,
            job.schedule.epoch,
            job.schedule.rate,
            self._to_host(self.moments[:, member.row]),
        )
        self._leave(member, member.run.result(job.model.trained(flat), state))

    def _leave(self, member: _Member, outcome: TrainingResult | Exception) -> None:
        """Note the outcome of a model, and let go of its rows: a run holds its member."""
        self.outcomes[member.slot], member.slot = outcome, -1
        del member.run


def predict_rows(network: Network, X: Rows) -> Tensor:
    """Return raw outputs (n_rows, n_outputs), some rows at a time."""
    parts = [
        network.predict(X.part(rows))
        for rows in chunks(X.n_rows, max(X.row_size, *network.row_sizes), BLOCK_SIZE)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def validate(
    network: Network, validation: Validation, head: Head, model: Callable[[], Model]
) -> tuple[float, float]:
    """Return (loss, score) on held-out rows."""
    return validation.evaluate(predict_rows(network, validation.rows.X), head, model)
