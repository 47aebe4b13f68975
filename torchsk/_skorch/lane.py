"""Who makes a net of a job and drives it, epoch by epoch."""

import copy
import dis
import math
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from skorch.callbacks import Callback, LRScheduler
from skorch.exceptions import SkorchException
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler as TorchScheduler

from torchsk._dropout import Dropout, make_generator
from torchsk._mlp import Reexpression
from torchsk._models import Model
from torchsk._modules import ModuleModel, naming_rows
from torchsk._optimizers import (
    check_solver,
    class_of,
    make_groups,
    make_options,
    reexpress_,
    resume,
)
from torchsk._rows import Examples
from torchsk._runtime import seeded_torch, threads_for
from torchsk._schedules import Constant
from torchsk._skorch.batches import Batches
from torchsk._skorch.nets import ClassifierNet, RegressorNet
from torchsk._training import (
    Lane,
    Run,
    SolverState,
    TrainingCancelled,
    TrainingJob,
    TrainingResult,
)

# numbers in the held-out rows that go through the module at a time
CHUNK_SIZE = 100_000


@dataclass(frozen=True)
class NetState(SolverState):
    """What this lane remembers between calls of partial_fit: the net.

    `change` is how the weights have been re-expressed since.
    """

    net: Any = None
    change: Reexpression | None = None


@dataclass(frozen=True)
class SkorchLane(Lane):
    """Trains a network with skorch.

    Parameters
    ----------
    solver : str or Optimizer class
    learning_rate : str, callable or scheduler class
    callbacks : sequence
        The user's, as they were given.
    n_classes : int or None
        None for numbers.
    """

    solver: Any
    learning_rate: Any
    callbacks: Sequence
    n_classes: int | None

    reads_files = True

    def __post_init__(self) -> None:
        check_solver(self.solver)
        if not issubclass(class_of(self.learning_rate) or TorchScheduler, TorchScheduler):
            raise ValueError(
                "learning_rate must be a name, a callable epoch -> factor, or a "
                "torch.optim.lr_scheduler class or a functools.partial of one; "
                f"got learning_rate={self.learning_rate!r}."
            )

    @property
    def key(self) -> tuple:
        """The solver, and that skorch has run it."""
        return "skorch", self.solver

    def reexpress(self, state: SolverState, change: Reexpression) -> SolverState:
        """Return the state with the change: an optimizer of its own will take it up."""
        return replace(state, change=change) if isinstance(state, NetState) else state

    def train(
        self, jobs: Sequence[TrainingJob], should_stop: Callable[[], bool] | None = None
    ) -> list[TrainingResult | Exception]:
        """Train each job."""
        return [self._train(job, should_stop) for job in jobs]

    def _train(self, job: TrainingJob, should_stop: Callable[[], bool] | None) -> TrainingResult:
        """Train one job; torch's global generators are borrowed and given back."""
        # not drawn from job.rng itself: the batches are those of a stack
        seed = copy.deepcopy(job.rng).randint(2**31 - 1) + job.progress.n_epochs
        with (
            threads_for(math.inf, job.device),
            seeded_torch(seed, job.device),
            torch.inference_mode(False),
            torch.enable_grad(),
        ):
            training = _Training(self, job)
            try:
                return training.train(should_stop)
            finally:
                vars(training).clear()  # its parts hold each other, and the rows

    def make_net(self, job: TrainingJob) -> Any:
        """Return an initialised net, which goes on where that of `job.state` ended."""
        settings = job.settings
        optimizer, options, loss_penalises = make_options(settings)
        options |= make_groups(settings, job.schedule.rate, job.model.rate_factors)
        classes = {} if self.n_classes is None else {"classes": np.arange(self.n_classes)}
        net = (ClassifierNet if classes else RegressorNet)(
            job.model.trainable().to(job.device, torch.float32),
            criterion=nn.Identity,  # the loss is in get_loss
            optimizer=optimizer,
            **{f"optimizer__{name}": value for name, value in options.items()},
            lr=job.schedule.rate,
            max_epochs=settings.max_iter,
            batch_size=settings.batch_size,
            iterator_train=Batches.shuffled,
            iterator_valid=Batches.in_order,
            iterator_valid__batch_size=job.model.rows_at_a_time(CHUNK_SIZE),
            dataset=Batches,
            dataset__dtype=np.int64 if job.model.takes_ids else np.float32,
            train_split=Batches.with_held_out,
            verbose=int(settings.verbose),
            device=str(job.device),
            **classes,
        )
        net.head_ = job.head
        net.alpha_ = settings.alpha if loss_penalises else 0.0
        net.penalty_ = settings.penalty if loss_penalises else 0.0
        net.max_grad_norm_, net.rate_ = settings.max_grad_norm, job.schedule.rate
        net.best_losses_, net.schedules_ = {}, {}
        net.given_ = [self.learning_rate, *self.callbacks]
        net.initialize()
        before, change = None, None
        if isinstance(job.state, NetState):
            before, change = job.state.net, job.state.change
        if before is not None:
            resume(net.optimizer_, before.optimizer_)
            if change is not None:
                reexpress_(net.optimizer_, change)
            net.history, net.best_losses_ = copy.copy(before.history), dict(before.best_losses_)
            net.rate_, net.schedules_ = before.rate_, before.schedules_
        if before is not None and _are_same(before.given_, net.given_):
            net.callbacks, net.callbacks_ = before.callbacks, before.callbacks_
        else:
            net.callbacks = [*self._scheduler(job), *map(_make_callback, self.callbacks)]
            net.initialize_callbacks()
        if type(job.schedule) is not Constant:
            _check_rates(self.learning_rate, net.callbacks)
        return net

    def _scheduler(self, job: TrainingJob) -> list[LRScheduler]:
        """Return skorch's callback of a scheduler class, which watches held-out rows if any are."""
        scheduler = class_of(self.learning_rate)
        if scheduler is None:
            return []
        keywords = getattr(self.learning_rate, "keywords", {})
        monitor = "train_loss" if job.validation is None else "valid_loss"
        return [LRScheduler(scheduler, monitor=monitor, **keywords)]


def _are_same(before: list | None, now: list) -> bool:
    return before is not None and [id(given) for given in before] == [id(given) for given in now]


def _make_callback(given: Any) -> Any:
    """Return the callback to attach; of an instance a copy, for skorch writes on it."""
    if isinstance(given, tuple):
        name, given = given
        return name, _make_callback(given)
    callback = copy.copy(given) if isinstance(given, Callback) or not callable(given) else given()
    if not isinstance(callback, Callback):
        raise TypeError(
            "skorch_callbacks must hold skorch callbacks: instances, classes, or functions that "
            f"return one; got {given!r}."
        )
    return callback


def _check_rates(learning_rate: Any, callbacks: Sequence) -> None:
    """Raise if a callback sets the rate: a schedule that sets it, too, would have the last word."""
    for given in callbacks:
        callback = given[1] if isinstance(given, tuple) else given
        if isinstance(callback, LRScheduler):
            raise ValueError(
                "learning_rate must be 'constant' where skorch_callbacks hold an LRScheduler, "
                f"which it would overrule; got learning_rate={learning_rate!r}: give "
                "learning_rate='constant', or the scheduler's class as learning_rate."
            )


def _is_request(interrupt: KeyboardInterrupt) -> bool:
    """Return whether a callback has raised it to stop, as EarlyStopping does; else it is Ctrl-C."""
    *_, (frame, _) = traceback.walk_tb(interrupt.__traceback__)
    is_raised = dis.opname[frame.f_code.co_code[frame.f_lasti]] == "RAISE_VARARGS"
    return is_raised and isinstance(frame.f_locals.get("self"), Callback)


class _Training:
    """The training of one net."""

    def __init__(self, lane: SkorchLane, job: TrainingJob):
        self.job, self.model, self.key = job, job.model, lane.key
        self.net = lane.make_net(job)
        self.is_module = isinstance(self.model, ModuleModel)
        sizes = job.settings.cut(job.rows.n_rows)
        # batch normalisation cannot train on one row
        if self.is_module and len(sizes) > 1 and sizes[-1] < 2:
            sizes = np.append(sizes[:-2], sizes[-2:].sum())
        #: steps before this call
        self.n_steps = 0 if job.state is None else job.state.n_steps
        dropouts = [part for part in self.net.module_.modules() if isinstance(part, Dropout)]
        self.masks = dropouts[0].masks if dropouts else None
        if self.masks is not None:
            self.masks.generator = make_generator(job.rng, job.device, self.n_steps)
        self.n_batches = len(sizes)
        self.data = self._batches(job.rows, job.rng if job.settings.shuffle else None, sizes)
        if (validation := job.validation) is not None:
            self.data.held_out = self._batches(validation.rows)
            self.data.held_out.score = lambda raw: validation.evaluate(
                raw, job.head, lambda: self.model.trained_by(self.net)
            )
        self.run = Run(job, self._state, self._are_finite)

    def _batches(self, rows: Examples, *args: Any) -> Batches:
        return Batches(rows.X, self.job.head.decode(rows.target), rows.target, rows.weight, *args)

    def _state(self) -> dict[str, Any]:
        return copy.deepcopy(self.net.module_.state_dict())

    def _are_finite(self) -> bool:
        return all(bool(p.isfinite().all()) for p in self.net.module_.parameters())

    def train(self, should_stop: Callable[[], bool] | None) -> TrainingResult:
        """Train until the run ends."""
        net, run = self.net, self.run
        doubtful = self._gives_probabilities()
        net.begin(self.data)
        try:
            while run.ending is None:
                if should_stop is not None and should_stop():
                    raise TrainingCancelled
                self._run_epoch()
        except KeyboardInterrupt as interrupt:
            run.interrupt(interrupt)
        if (best := run.best_weights()) is not None:
            net.module_.load_state_dict(best)
        net.end(self.data)
        net.module_.eval()
        if doubtful and self._gives_probabilities():
            warnings.warn(
                "The module's outputs all lie in [0, 1], but this loss takes logits. "
                f"{self.job.head.probability_hint}"
            )
        schedule = self.job.schedule
        if self.masks is not None:
            self.masks.generator = None
        n_steps = self.n_steps + run.n_iter * self.n_batches
        state = NetState(self.key, n_steps, schedule.epoch, schedule.rate, np.empty(0), net)
        return run.result(self.model.trained_by(net), state, net=net)

    def _gives_probabilities(self) -> bool:
        """Return whether outputs of a user's module look like probabilities, not like logits."""
        if not self.is_module:
            return False
        X, _ = next(self.data.in_order(self.job.settings.batch_size))
        was_training = self.net.module_.training
        with torch.no_grad(), naming_rows(X):
            raw = self.net.module_.eval()(X)
        self.net.module_.train(was_training)
        return isinstance(raw, Tensor) and self.job.head.are_probabilities(raw)

    def _run_epoch(self) -> None:
        """Train one epoch and record it."""
        job, net, run = self.job, self.net, self.run
        if job.schedule.rate != net.rate_:  # else the rate may be a callback's
            net.rate_ = job.schedule.rate
            for group in net.optimizer_.param_groups:
                group["lr"] = net.rate_ * group.get("rate_factor", 1.0)
        stop = self._fit_loop()
        if len(net.history) > 1:
            net.history[-2]["batches"] = []  # they would fill the memory
        epoch = net.history[-1]
        if "train_loss" not in epoch:  # a callback stopped it in its middle
            run.ending = "stop"
            return
        validation = None
        if job.validation is not None:
            validation = epoch["valid_loss"], epoch["valid_score"]
        run.after_epoch(epoch["train_loss"], validation, self._snapshot, told_to_stop=stop)

    def _fit_loop(self) -> bool:
        """Let skorch train one epoch; return whether a callback has asked to stop."""
        try:
            self.net.fit_loop(self.data, epochs=1)
        except KeyboardInterrupt as interrupt:
            if not _is_request(interrupt):
                raise  # Ctrl-C
            return True
        except (KeyError, ValueError, SkorchException) as error:
            if "was not found in history" not in str(error):
                raise
            raise ValueError(self._why_not_recorded(error)) from error
        return False

    def _why_not_recorded(self, error: Exception) -> str:
        """Return what a callback may read, in place of what it has not found."""
        own = "or record it with an EpochScoring before them"
        if self.job.validation is None:
            return (
                "skorch_callbacks must not read valid_loss unless rows are held out: use "
                "early_stopping=True, pass X_val and y_val, have them monitor 'train_loss', "
                f"{own}; got {error}"
            )
        return (
            "skorch_callbacks must read what is recorded: torchsk records 'train_loss', "
            "'valid_loss', for both '..._best', and 'valid_score' (of scoring, or the estimator's "
            f"own score). Have them monitor one of these, {own}; got {error}"
        )

    def _snapshot(self) -> Model:
        """Return a model that later epochs do not change."""
        module = copy.deepcopy(self.net.module_).eval()
        return self.model.trained_by(SimpleNamespace(module_=module))
