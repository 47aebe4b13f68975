"""The second lane: skorch trains what the stack cannot, behind the same estimator.

A user's module, skorch's callbacks, and torch's optimizers and schedulers come here. The estimator
holds a skorch net and drives it epoch by epoch: stopping rules, losses and batches are those of the
first lane, and nothing is held out, printed or swallowed that the estimator does not know of.
"""

import copy
import dis
import math
import pickle
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from skorch import NeuralNet, NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import Callback, EpochTimer, LRScheduler
from skorch.dataset import Dataset
from skorch.exceptions import SkorchException
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import LRScheduler as TorchScheduler

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
from torchsk._models import FittedNetwork
from torchsk._modules import FittedModule, as_raw
from torchsk._optimizers import class_of, optimizer_options, resume
from torchsk._rows import DenseRows
from torchsk._runtime import available_devices, seeded_torch
from torchsk._solvers import FULL_BATCH_SOLVERS, UPDATE_RULES
from torchsk._stopping import why_not_finite

# numbers in the held-out rows that go through the module at a time
CHUNK_SIZE = 100_000


# -- batches ---------------------------------------------------------------------------------------


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


# -- the net ---------------------------------------------------------------------------------------


class _Net(NeuralNet):
    """What our nets change in skorch's: the loss and its record, checks, and how they are saved."""

    head_: Head
    #: penalty on parameters of two or more dimensions
    alpha_: float
    max_grad_norm_: float | None
    #: the rate that the schedule has set last
    rate_: float
    best_losses_: dict[str, float]
    #: states of torch's schedulers, by the names of their callbacks
    schedules_: dict[str, dict]
    #: the user's callbacks as they were given; not saved
    given_: list | None

    def get_default_callbacks(self) -> list:
        """Return a clock only: losses are recorded by the net itself, and nothing is printed."""
        return [("epoch_timer", EpochTimer())]

    def check_data(self, X: Any, y: Any = None) -> None:
        """Do nothing: the estimator has checked the data."""

    def infer(self, x: Any, **fit_params: Any) -> Tensor:
        """Return raw outputs, checked before a loss sees them."""
        return as_raw(super().infer(x, **fit_params), self.head_, len(x))

    def get_loss(self, y_pred: Tensor, y_true: Any, X: Any = None, training: bool = False) -> Any:
        """Return the penalised weighted mean; what is reported of it rides along."""
        losses, weight = self.head_.loss(y_pred, y_true.target), y_true.weight
        inverse: Any
        loss: Any
        if weight is None:
            inverse, loss = 1 / len(losses), losses.mean()
        else:
            weight = weight.to(losses.dtype)
            total = weight.sum()
            # a batch without weight, or next to none, changes nothing
            has_weight = total >= torch.finfo(total.dtype).tiny
            inverse = torch.where(has_weight, 1 / total, torch.zeros_like(total))
            loss = losses @ weight * inverse
        reported = loss.detach() * self.head_.loss_scale
        if training and self.alpha_:
            coefs = [p for p in self.module_.parameters() if p.ndim > 1 and p.requires_grad]
            penalty = 0.5 * self.alpha_ * inverse * sum(coef.square().sum() for coef in coefs)
            loss, reported = loss + penalty, reported + penalty
        loss.reported = reported.detach()
        return loss

    # skorch calls these before the hooks of the callbacks

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
        """Forget the last epoch's batches."""
        super().on_epoch_begin(net, **kwargs)
        self.losses_: list[Tensor] = []
        self.raw_: list[Tensor] = []

    def on_grad_computed(self, net: Any, named_parameters: Any, **kwargs: Any) -> None:
        """Clip the gradient."""
        if self.max_grad_norm_ is not None:
            clip_grad_norm_([p for _, p in named_parameters], self.max_grad_norm_)

    def on_batch_end(
        self, net: Any, batch: Any, training: bool, loss: Any, y_pred: Tensor, **kwargs: Any
    ) -> None:
        """Collect losses of training batches, and outputs of held-out rows."""
        if training:
            self.losses_.append(loss.reported * len(y_pred))
        else:
            self.raw_.append(y_pred)

    def on_epoch_end(self, net: Any, dataset_train: Any, dataset_valid: Any, **kwargs: Any) -> None:
        """Record train_loss and, where rows are held out, valid_loss and valid_score."""
        self._record("train_loss", float(torch.stack(self.losses_).sum()) / len(dataset_train))
        if dataset_valid is not None:
            loss, score = dataset_valid.score(torch.cat(self.raw_))
            self._record("valid_loss", loss)
            self.history.record("valid_score", score)
        self.losses_, self.raw_ = [], []

    def _record(self, name: str, loss: float) -> None:
        best = self.best_losses_.get(name, math.inf)
        self.history.record(name, loss)
        self.history.record(f"{name}_best", loss < best)
        self.best_losses_[name] = min(loss, best)

    def begin(self, data: Batches) -> None:
        """Begin to train; torch's schedulers, which skorch makes anew, go on where they were."""
        rates = [group["lr"] for group in self.optimizer_.param_groups]
        self.notify("on_train_begin", X=data.X, y=data.y)
        for name, callback in self.callbacks_:
            if name in self.schedules_:
                callback.lr_scheduler_.load_state_dict(self.schedules_[name])
                for group, rate in zip(self.optimizer_.param_groups, rates):
                    group["lr"] = rate

    def end(self, data: Batches) -> None:
        """End training."""
        self.losses_, self.raw_ = [], []
        self.notify("on_train_end", X=data.X, y=data.y)
        self.schedules_ = {
            name: copy.deepcopy(callback.lr_scheduler_.state_dict())
            for name, callback in self.callbacks_
            if isinstance(callback, LRScheduler)
        }

    # saving

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind the callbacks that do not pickle (writers, lambdas) and what is double."""
        callbacks = [(name, _without_scheduler(callback)) for name, callback in self.callbacks_]
        callbacks = [pair for pair in callbacks if _pickles(pair)]
        double: dict[str, Any] = {"module": None, "callbacks": [], "given_": None}
        return {**super().__getstate__(), **double, "callbacks_": callbacks}

    def __reduce_ex__(self, protocol: Any) -> tuple:
        """Name a function to load by: formats that call none, such as skops, must not get here."""
        return _load_net, (type(self), self.__getstate__())

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Raise: skorch's own unpickles what is in the state, code of strangers included."""
        raise TypeError("a net that skorch has trained can be loaded by pickle only.")

    def _set_state(self, state: dict[str, Any]) -> None:
        """Come to the CPU where the device is not there."""
        absent = state["device"] not in available_devices()
        super().__setstate__({**state, "device": "cpu"} if absent else state)
        self.module = self.module_


def _load_net(kind: type[_Net], state: dict[str, Any]) -> _Net:
    """Return the net that was pickled."""
    net = kind.__new__(kind)
    net._set_state(state)
    return net


def _without_scheduler(callback: Callback) -> Callback:
    """Return the callback without what holds the optimizer; on_train_begin makes it anew."""
    if isinstance(callback, LRScheduler):
        callback = copy.copy(callback)
        callback.lr_scheduler_ = None
    return callback


def _pickles(value: Any) -> bool:
    try:
        pickle.dumps(value)
    except Exception:  # whatever the user's object raises
        return False
    return True


class ClassifierNet(_Net, NeuralNetClassifier):
    """A net whose predictions are class codes, or label indicators."""

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return probabilities, (n_samples, 2) in binary problems."""
        proba = self.head_.inverse_link(self.forward(X).detach()).numpy()
        return np.hstack([1 - proba, proba]) if proba.shape[1] == 1 else proba

    def predict(self, X: Any) -> np.ndarray:
        """Return class codes (n_samples,) or label indicators (n_samples, n_labels)."""
        head: Any = self.head_
        return head.predict_codes(self.forward(X)).numpy()


class RegressorNet(_Net, NeuralNetRegressor):
    """A net whose predictions are numbers, standardised where the estimator standardises y."""

    def predict(self, X: Any) -> np.ndarray:
        """Return the predicted numbers."""
        head: Any = self.head_
        return head.as_prediction(head.inverse_link(self.forward(X).detach()).numpy())


# -- the lane --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NetState(SolverState):
    """What the second lane remembers between calls of partial_fit: the net."""

    net: Any = None


@dataclass(frozen=True)
class SkorchLane:
    """Trains a network with skorch.

    Parameters
    ----------
    network : FittedNetwork
        The network before training.
    solver : str or Optimizer class
    learning_rate : str, callable or scheduler class
    callbacks : sequence
        The user's, as they were given.
    n_classes : int or None
        None for numbers.
    """

    network: FittedNetwork
    solver: Any
    learning_rate: Any
    callbacks: Sequence
    n_classes: int | None

    def __post_init__(self) -> None:
        if self.solver in FULL_BATCH_SOLVERS:
            raise ValueError(
                f"solver must be one of {sorted(UPDATE_RULES)} or a torch.optim.Optimizer class "
                "(torch.optim.LBFGS is one) with module, skorch_callbacks or a torch scheduler; "
                f"got solver={self.solver!r}."
            )
        if not issubclass(class_of(self.learning_rate) or TorchScheduler, TorchScheduler):
            raise ValueError(
                "learning_rate must be a name, a callable epoch -> factor, or a "
                "torch.optim.lr_scheduler class or a functools.partial of one; "
                f"got learning_rate={self.learning_rate!r}."
            )

    @property
    def key(self) -> tuple:
        """What a later call must share to go on with the state of this one."""
        return "skorch", self.solver

    def train(
        self, job: TrainingJob, should_stop: Callable[[], bool] | None = None
    ) -> TrainingResult:
        """Train one job; torch's global generators are borrowed and given back."""
        # not drawn from job.rng itself: the batches are those of the first lane
        seed = copy.deepcopy(job.rng).randint(2**31 - 1) + job.progress.n_epochs
        with seeded_torch(seed, job.device), torch.inference_mode(False), torch.enable_grad():
            return _Run(self, job).run(should_stop)

    def make_net(self, job: TrainingJob) -> Any:
        """Return an initialised net, which goes on where that of `job.state` ended."""
        kind = {} if self.n_classes is None else {"classes": np.arange(self.n_classes)}
        optimizer, options = optimizer_options(
            job.solver, job.hyper_parameters, job.nesterov, job.alpha
        )
        net = (ClassifierNet if kind else RegressorNet)(
            self.network.trainable().to(job.device, torch.float32),
            criterion=nn.Identity,  # the loss is in get_loss
            optimizer=optimizer,
            **{f"optimizer__{name}": value for name, value in options.items()},
            lr=job.schedule.rate,
            max_epochs=job.max_iter,
            batch_size=job.batch_size,
            iterator_train=Batches.shuffled,
            iterator_valid=Batches.in_order,
            iterator_valid__batch_size=max(1, CHUNK_SIZE // job.X.n_features),
            dataset=Batches,
            train_split=Batches.with_held_out,
            verbose=int(job.verbose),
            device=str(job.device),
            **kind,
        )
        is_in_loss = job.solver not in UPDATE_RULES or not UPDATE_RULES[job.solver].decoupled
        net.head_, net.alpha_ = job.head, job.alpha if is_in_loss else 0.0
        net.max_grad_norm_, net.rate_ = job.max_grad_norm, job.schedule.rate
        net.best_losses_, net.schedules_ = {}, {}
        net.given_ = [self.learning_rate, *self.callbacks]
        net.initialize()
        before = job.state.net if isinstance(job.state, NetState) else None
        if before is not None:
            resume(net.optimizer_, before.optimizer_)
            net.history, net.best_losses_ = copy.copy(before.history), dict(before.best_losses_)
            net.rate_, net.schedules_ = before.rate_, before.schedules_
        if before is not None and _are_same(before.given_, net.given_):
            net.callbacks, net.callbacks_ = before.callbacks, before.callbacks_
        else:
            net.callbacks = [*self._scheduler(job), *map(_make_callback, self.callbacks)]
            net.initialize_callbacks()
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


def _is_request(interrupt: KeyboardInterrupt) -> bool:
    """Return whether a callback has raised it to stop, as EarlyStopping does; else it is Ctrl-C."""
    *_, (frame, _) = traceback.walk_tb(interrupt.__traceback__)
    is_raised = dis.opname[frame.f_code.co_code[frame.f_lasti]] == "RAISE_VARARGS"
    return is_raised and isinstance(frame.f_locals.get("self"), Callback)


class _Run:
    """One training run of a net."""

    def __init__(self, lane: SkorchLane, job: TrainingJob):
        self.job, self.network, self.key = job, lane.network, lane.key
        self.net = lane.make_net(job)
        # batch normalisation cannot train on one row
        min_rows = 2 if isinstance(self.network, FittedModule) else 1
        self.data = self._batches(job, job.rng if job.shuffle else None, min_rows)
        if (validation := job.validation) is not None:
            self.data.held_out = self._batches(validation)
            self.data.held_out.score = lambda raw: score_raw(
                raw, job.head, validation, lambda: self.network.weights_of(self.net)
            )
        self.best = self._state() if job.keep_best else None
        self.n_iter, self.ending = 0, ""

    def _batches(self, rows: TrainingJob | Validation, *args: Any) -> Batches:
        return Batches(rows.X, self.job.head.decode(rows.target), rows.target, rows.weight, *args)

    def _state(self) -> dict[str, Any]:
        return copy.deepcopy(self.net.module_.state_dict())

    def run(self, should_stop: Callable[[], bool] | None) -> TrainingResult:
        """Train until the run ends."""
        net, interrupted = self.net, False
        doubtful = self._gives_probabilities()
        net.begin(self.data)
        try:
            while not self.ending:
                if should_stop is not None and should_stop():
                    raise TrainingCancelled
                self._run_epoch()
        except KeyboardInterrupt:
            interrupted = True
        diverged = self.ending == "diverged"
        if diverged and not (self.best is not None and self.job.progress.best_score > -math.inf):
            raise ValueError(why_not_finite(self.job.progress, self.n_iter))
        if self.best is not None:
            net.module_.load_state_dict(self.best)
        net.end(self.data)
        if not all(bool(p.isfinite().all()) for p in net.module_.parameters()):
            raise ValueError(why_not_finite(self.job.progress, self.n_iter))
        net.module_.eval()
        if doubtful and self._gives_probabilities():
            warnings.warn(
                "The module's outputs all lie in [0, 1], but this loss takes logits. If the module "
                "ends in a sigmoid name loss='bce', if it ends in a softmax leave that out."
            )
        return self._result(interrupted)

    def _gives_probabilities(self) -> bool:
        """Return whether outputs of a user's module look like probabilities, not like logits."""
        if not isinstance(self.network, FittedModule):
            return False
        X, _ = next(self.data.in_order(self.job.batch_size))
        was_training = self.net.module_.training
        with torch.no_grad():
            raw = self.net.module_.eval()(X)
        self.net.module_.train(was_training)
        return isinstance(raw, Tensor) and self.job.head.are_probabilities(raw)

    def _run_epoch(self) -> None:
        """Train one epoch, record it, and set how the run ends if it does."""
        job, net = self.job, self.net
        if job.schedule.rate != net.rate_:  # else the rate may be a callback's
            net.rate_ = job.schedule.rate
            for group in net.optimizer_.param_groups:
                group["lr"] = net.rate_
        stop = self._fit_loop()
        if len(net.history) > 1:
            net.history[-2]["batches"] = []  # they would fill the memory
        epoch = net.history[-1]
        if "train_loss" not in epoch:  # a callback stopped it in its middle
            self.ending = "stop"
            return
        self.n_iter += 1
        loss, validation = epoch["train_loss"], None
        if job.validation is not None:
            validation = epoch["valid_loss"], epoch["valid_score"]
        ending = record_epoch(
            job, self.n_iter, loss, validation, self._snapshot, self._keep, told_to_stop=stop
        )
        self.ending = ending or ""

    def _fit_loop(self) -> bool:
        """Let skorch train one epoch; return whether a callback has asked to stop."""
        try:
            self.net.fit_loop(self.data, epochs=1)
        except KeyboardInterrupt as interrupt:
            if not _is_request(interrupt):
                raise  # Ctrl-C
            return True
        except (KeyError, SkorchException) as error:
            if self.job.validation is not None or "was not found in history" not in str(error):
                raise
            raise ValueError(
                "skorch_callbacks must not read valid_loss unless rows are held out: use "
                "early_stopping=True, pass X_val and y_val, or have them monitor 'train_loss'; "
                f"got {error}"
            ) from error
        return False

    def _keep(self) -> None:
        if self.best is not None:
            self.best = self._state()

    def _snapshot(self) -> Any:
        """Return weights that later epochs do not change."""
        module = copy.deepcopy(self.net.module_).eval()
        return self.network.weights_of(SimpleNamespace(module_=module))

    def _result(self, interrupted: bool) -> TrainingResult:
        job, net = self.job, self.net
        schedule, curve = job.schedule, job.progress.loss_curve
        result = TrainingResult(
            self.network.weights_of(net),
            job.progress,
            self.n_iter,
            NetState(np.empty(0), self.n_iter, schedule.rate, schedule.epoch, self.key, net),
            loss=curve[-1] if curve else math.nan,
            warning=max_iter_warning(job) if self.ending == "max_iter" else None,
            interrupted=interrupted,
            net=net,
        )
        if self.ending == "diverged":
            message = why_not_finite(job.progress, self.n_iter)
            result.state, result.warning = None, f"{message} The best weights so far were kept."
        return result
