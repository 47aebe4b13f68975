"""The second lane: skorch trains what the stack cannot, behind the same estimator.

A user's module, skorch's callbacks, and torch's optimizers and schedulers come here. The estimator
holds a skorch net and drives it epoch by epoch: the stopping rules are those of the first lane, and
nothing is held out, printed or swallowed that the estimator does not know of.
"""

import copy
import inspect
import math
import pickle
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from skorch import NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import Callback, EpochTimer, LRScheduler
from skorch.dataset import Dataset
from skorch.exceptions import SkorchException
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler as TorchScheduler

from torchsk._heads import Head
from torchsk._models import FittedNetwork
from torchsk._random import seeded_torch
from torchsk._solvers import FULL_BATCH_SOLVERS, SOLVERS, UPDATE_RULES, UpdateRule
from torchsk._stopping import DIVERGED
from torchsk._tensors import (
    DenseRows,
    Rows,
    Standardizer,
    available_devices,
    is_mapped,
)
from torchsk._training import (
    SolverState,
    TrainingCancelled,
    TrainingJob,
    TrainingResult,
    Validation,
    max_iter_warning,
    record_epoch,
    score_raw,
)

# numbers in the rows that are predicted at a time, where a module's own widths are not known
CHUNK_SIZE = 100_000


# -- the user's module -----------------------------------------------------------------------------


def build_module(module: Any, params: dict | None, n_features: int, n_outputs: int) -> nn.Module:
    """Return a module of the user's own: a copy of an instance, else what the callable returns.

    A parameter called n_features or n_outputs is passed by name. A callable without these gets
    `params` alone if that is enough for it, else ``(n_features, n_outputs, **params)``.
    """
    if isinstance(module, nn.Module):
        if params:
            raise ValueError(
                "module_params must be None where module is an instance (give its class instead); "
                f"got module_params={params!r}."
            )
        return copy.deepcopy(module)
    signature, params = inspect.signature(module), params or {}
    sizes = {"n_features": n_features, "n_outputs": n_outputs}
    named = {name: size for name, size in sizes.items() if name in signature.parameters}
    args = () if named or _accepts(signature, params) else (n_features, n_outputs)
    built = module(*args, **(named | params))
    if not isinstance(built, nn.Module):
        raise TypeError(f"module must return an nn.Module; got {type(built).__name__}.")
    return built


def _accepts(signature: inspect.Signature, params: dict) -> bool:
    try:
        signature.bind(**params)
    except TypeError:
        return False
    return True


def as_raw(output: Any, head: Head, n_samples: int) -> Tensor:
    """Return a module's output as raw outputs (n_samples, n_outputs), or raise if it cannot be."""
    if not isinstance(output, Tensor):
        raise TypeError(f"module must return a tensor; got {type(output).__name__}.")
    if output.ndim == 1 and head.n_outputs == 1:
        output = output.unsqueeze(1)
    if output.shape[:1] != (n_samples,):
        raise ValueError(
            f"module must return a tensor ({n_samples}, {head.n_outputs}) for {n_samples} rows; "
            f"got the shape {tuple(output.shape)}."
        )
    head.check_raw(output)
    return output


@dataclass(frozen=True)
class FittedModule(FittedNetwork):
    """A user's module with all that prediction needs; it computes in float32.

    `holder` is what has it as `module_`: the net that trained it.
    """

    holder: Any
    head: Head
    x_scaler: Standardizer | None
    y_scaler: Standardizer | None
    dtype: str
    device: str

    spec: ClassVar[None] = None
    flat: ClassVar[None] = None
    n_layers: ClassVar[None] = None

    @classmethod
    def start(
        cls,
        module: Any,
        params: dict | None,
        n_features: int,
        head: Head,
        rng: np.random.RandomState,
        before: FittedNetwork | None,
        dtype: str,
        device: str,
    ) -> "FittedModule":
        """Return the module before its first epoch, or as it was left `before`."""
        if before is None:
            with seeded_torch(int(rng.randint(2**31 - 1))):
                built = build_module(module, params, n_features, head.n_outputs)
            return cls(SimpleNamespace(module_=built), head, None, None, dtype, device)
        if not isinstance(before, FittedModule) or before.head.n_outputs != head.n_outputs:
            raise ValueError(
                "module and the number of outputs must be those of the fitted model to train on; "
                f"got module={module!r} with {head.n_outputs} outputs."
            )
        return replace(before, head=head, device=device)

    @property
    def mixes_rows(self) -> bool:
        """Whether there is a layer of dropout or batch normalisation."""
        return any(isinstance(m, _DropoutNd | _NormBase) for m in self.holder.module_.modules())

    @property
    def widest(self) -> int:
        """Ten numbers per row: a guess."""
        return 10

    def trainable(self) -> nn.Module:
        """Return a copy of the module."""
        return copy.deepcopy(self.holder.module_)

    def weights_of(self, net: Any) -> Any:
        """Return the net: a holder of the module."""
        return net

    def trained(self, weights: Any) -> Self:
        """Return the network with another holder."""
        return replace(self, holder=weights)

    def weights(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Raise: only the built-in network has coefs and intercepts."""
        raise AttributeError("coefs_ and intercepts_ are not there with module=...; see module_.")

    def module(self) -> nn.Module:
        """Return a copy on the CPU; standardisation becomes its first and last layer."""
        module = copy.deepcopy(self.holder.module_).cpu().eval()
        layers = [module]
        if self.x_scaler is not None:
            layers.insert(
                0, _Affine(-self.x_scaler.mean / self.x_scaler.scale, 1 / self.x_scaler.scale)
            )
        if self.y_scaler is not None:
            layers.append(_Affine(*self._raw_affine()))
        return nn.Sequential(*layers).eval() if len(layers) > 1 else module

    def _predictor(
        self, dtype: np.dtype, device: torch.device
    ) -> tuple[Callable[[Tensor], Tensor], np.dtype]:
        module = self.holder.module_.eval()
        return lambda X: as_raw(module(X), self.head, len(X)), np.dtype(np.float32)


class _Affine(nn.Module):
    """offset + factor * x, column by column."""

    def __init__(self, offset: np.ndarray, factor: np.ndarray):
        super().__init__()
        self.register_buffer("offset", torch.from_numpy(offset).float())
        self.register_buffer("factor", torch.from_numpy(factor).float())

    def forward(self, x: Tensor) -> Tensor:
        """Return offset + factor * x."""
        return self.offset + self.factor * x


# -- batches ---------------------------------------------------------------------------------------


class Batches(Dataset):
    """Rows and their targets, in memory or in a mapped file, cut into batches.

    A batch is (X, y), y in the form that scikit-learn's metrics take (class codes, numbers) with
    the head's target and the weights riding along as attributes. `X` may be an array, as in
    ``net_.predict(X)``; then there is no y.
    """

    def __init__(
        self,
        X: Any,
        y: Tensor | None = None,
        *,
        target: Tensor | None = None,
        weight: Tensor | None = None,
        validation: Validation | None = None,
        held_out: "Batches | None" = None,
        rng: np.random.RandomState | None = None,
        weights: Callable[[], Any] | None = None,
        min_rows: int = 1,
    ):
        self.rows: Any = X
        if not hasattr(X, "n_rows"):
            self.rows = DenseRows(torch.as_tensor(np.asarray(X), dtype=torch.float32))
        self.X, self.y = X, y
        self.target, self.weight, self.validation, self.weights = (
            target,
            weight,
            validation,
            weights,
        )
        self.held_out, self.rng, self.min_rows = held_out, rng, min_rows
        self.order = np.arange(len(self))

    def __len__(self) -> int:
        return self.rows.n_rows

    def __getitem__(self, i: Any) -> tuple[Tensor, Tensor | None]:
        index = torch.atleast_1d(torch.as_tensor(i))
        return self._batch(index) if np.ndim(i) else tuple(part[0] for part in self._batch(index))

    def split(self) -> tuple["Batches", "Batches | None"]:
        """Return (rows to train on, held-out rows)."""
        return self, self.held_out

    def shuffled(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield one epoch in scikit-learn's order: cumulative shuffles, none of a single batch."""
        if self.rng is not None and len(self) > batch_size:
            permutation = np.arange(len(self))
            self.rng.shuffle(permutation)
            self.order = self.order[permutation]
        return self._cut(batch_size)

    def in_order(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield all rows as they come."""
        return self._cut(batch_size)

    def _cut(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        stops = list(range(batch_size, len(self), batch_size))
        if stops and len(self) - stops[-1] < self.min_rows:
            del stops[-1]  # the last rows join the batch before
        index = torch.from_numpy(self.order)
        for start, stop in zip([0, *stops], [*stops, len(self)]):
            yield self._batch(index[start:stop])

    def _batch(self, index: Tensor) -> tuple[Tensor, Any]:
        index = index if self.y is None else index.to(self.y.device)
        X = self.rows.take(index)
        if self.y is None or self.target is None:
            return X, None
        y: Any = self.y[index]
        y.target = self.target[index]
        y.weight = None if self.weight is None else self.weight[index]
        return X, y


# -- the net ---------------------------------------------------------------------------------------


class _Net:
    """What our nets change in skorch's: the loss and its record, checks, and how they are saved."""

    head_: Head
    #: penalty on parameters of two or more dimensions, largest norm of the gradient, last rate set
    alpha_: float
    max_grad_norm_: float | None
    rate_: float
    #: the user's callbacks as they were given; not saved
    given_: Any

    def get_default_callbacks(self) -> list:
        return [("epoch_timer", EpochTimer())]

    def check_data(self, X: Any, y: Any = None) -> None:
        """Do nothing: the estimator has."""

    def infer(self, x: Any, **fit_params: Any) -> Tensor:
        """Return the module's raw outputs, checked before anything sees them."""
        return as_raw(super().infer(x, **fit_params), self.head_, len(x))  # type: ignore[misc]

    def get_loss(
        self, y_pred: Tensor, y_true: Any, X: Any = None, training: bool = False
    ) -> Tensor:
        """Return the penalised weighted mean loss; the loss to report rides along as `reported`."""
        losses, weight = self.head_.loss(y_pred, y_true.target), y_true.weight
        if weight is None:
            share, data = 1 / len(losses), losses.mean()
        else:  # a batch without weight changes nothing
            share = (weight.sum() > 0) / weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)
            data = losses @ weight * share
        loss: Any = data
        reported = data.detach() * self.head_.loss_scale
        if self.alpha_ and training:
            coefs = [p for p in self.module_.parameters() if p.ndim > 1 and p.requires_grad]
            penalty = 0.5 * self.alpha_ * share * sum(coef.square().sum() for coef in coefs)
            loss, reported = loss + penalty, reported + penalty.detach()
        loss.reported = reported
        return loss

    # -- skorch calls these before the hooks of the callbacks --

    def on_epoch_begin(self, net: Any, *args: Any, **kwargs: Any) -> None:
        super().on_epoch_begin(net, *args, **kwargs)  # type: ignore[misc]
        self.losses_: list[Tensor] = []
        self.raw_: list[Tensor] = []

    def on_grad_computed(self, net: Any, named_parameters: Any, **kwargs: Any) -> None:
        if self.max_grad_norm_ is not None:
            clip_grad_norm_([p for _, p in named_parameters], self.max_grad_norm_)

    def on_batch_end(
        self, net: Any, batch: Any, training: bool, loss: Any, y_pred: Any, **kwargs: Any
    ) -> None:
        if training:
            self.losses_.append(loss.reported * len(batch[0]))
        else:
            self.raw_.append(y_pred)

    def on_epoch_end(self, net: Any, dataset_train: Any, dataset_valid: Any, **kwargs: Any) -> None:
        """Record train_loss and, if rows are held out, valid_loss and valid_score."""
        super().on_epoch_end(
            net, dataset_train=dataset_train, dataset_valid=dataset_valid, **kwargs
        )
        self._record("train_loss", float(torch.stack(self.losses_).sum()) / len(dataset_train))
        if dataset_valid is not None:
            loss, score = score_raw(
                torch.cat(self.raw_), self.head_, dataset_valid.validation, dataset_valid.weights
            )
            self._record("valid_loss", loss)
            self.history.record("valid_score", score)
        self.losses_, self.raw_ = [], []

    def _record(self, name: str, loss: float) -> None:
        best = min((row[name] for row in self.history[:-1] if name in row), default=math.inf)
        self.history.record(name, loss)
        self.history.record(f"{name}_best", loss < best)

    # -- saving --

    def __getstate__(self) -> dict:
        """Leave behind what does not pickle (writers, lambdas), and schedulers: on_train_begin."""
        state = super().__getstate__()
        state |= {"given_": None, "callbacks": []}
        state["callbacks_"] = [(name, _unbound(cb)) for name, cb in self.callbacks_ if _pickles(cb)]
        return state

    def __setstate__(self, state: dict) -> None:
        """Come to the CPU if the device is not there."""
        if state["device"] not in available_devices():
            state = {**state, "device": "cpu"}
        super().__setstate__(state)  # type: ignore[misc]


def _unbound(callback: Any) -> Any:
    callback = copy.copy(callback)
    if isinstance(callback, LRScheduler):
        callback.lr_scheduler_ = None  # holds the optimizer: everything, a second time
    return callback


def _pickles(callback: Any) -> bool:
    try:
        pickle.dumps(_unbound(callback))
    except Exception:  # whatever the user's object raises
        return False
    return True


class ClassifierNet(_Net, NeuralNetClassifier):
    """A net whose predictions are class codes, or label indicators."""

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return probabilities, (n_samples, 2) in binary problems."""
        proba = self.head_.inverse_link(self.forward(X)).numpy()
        return np.hstack([1 - proba, proba]) if proba.shape[1] == 1 else proba

    def predict(self, X: Any) -> np.ndarray:
        """Return class codes (n_samples,) or label indicators (n_samples, n_labels)."""
        return self.head_.predict_codes(self.forward(X)).numpy()  # type: ignore[attr-defined]


class RegressorNet(_Net, NeuralNetRegressor):
    """A net whose predictions are numbers, standardised if the estimator standardises y."""

    def predict(self, X: Any) -> np.ndarray:
        """Return the predicted numbers."""
        prediction = self.head_.inverse_link(self.forward(X)).numpy()
        return self.head_.as_prediction(prediction)  # type: ignore[attr-defined]


# -- optimizers ------------------------------------------------------------------------------------


class RuleOptimizer(Optimizer):
    """An update rule of the first lane as a torch optimizer.

    Everything it needs is in `param_groups`, so it is saved and loaded as any other.
    """

    def __init__(
        self, params: Any, lr: float, solver: str, nesterov: bool, alpha: float, **values: float
    ):
        super().__init__(
            params, {"lr": lr, "solver": solver, "nesterov": nesterov, "alpha": alpha, **values}
        )

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update_(parameter, group)
        return loss

    def _update_(self, parameter: Tensor, group: dict) -> None:
        weights = parameter.detach().reshape(1, -1)
        rule, state = self._rule(group, weights), self.state[parameter]
        if not state:
            state["n_steps"] = 0
            state["moments"] = weights.new_zeros(rule.n_moments, *weights.shape)
        rate = rule.rates(np.array([group["lr"]]), np.array([state["n_steps"]]), 1)[0, 0]
        state["n_steps"] += 1
        if rule.decoupled and parameter.ndim > 1:
            weights.mul_(1 - group["lr"] * group["alpha"])
        gradient = parameter.grad.reshape(1, -1).clone()  # type: ignore[union-attr]
        rule.step_(weights, gradient, state["moments"], weights.new_tensor(rate))
        if not parameter.is_contiguous():  # weights are a copy
            parameter.copy_(weights.reshape(parameter.shape))

    def _rule(self, group: dict, like: Tensor) -> UpdateRule:
        """Return the rule of a group, made anew when its numbers have changed."""
        make = UPDATE_RULES[group["solver"]]
        key = (make, like.device, group["nesterov"], *(group[n] for n in make.hyper_parameters))
        if self.__dict__.get("_made", (None,))[0] != key:
            values = {name: [group[name]] for name in make.hyper_parameters}
            self._made = key, make(values, group["nesterov"], like)
        return self._made[1]


def class_of(value: Any) -> type | None:
    """Return the class that a class, or a functools.partial of one, makes; else None."""
    value = getattr(value, "func", value)
    return value if isinstance(value, type) else None


def _optimizer_options(job: TrainingJob) -> dict[str, Any]:
    """Return optimizer=..., optimizer__name=... for skorch.

    Of an optimizer class, those options that it has: momentum, nesterov, betas, eps.
    """
    values = job.hyper_parameters
    if job.solver in UPDATE_RULES:
        options: dict[str, Any] = {"solver": job.solver, "nesterov": job.nesterov, **values}
        options["alpha"] = job.alpha
        return {"optimizer": RuleOptimizer} | {f"optimizer__{k}": v for k, v in options.items()}
    cls = class_of(job.solver)
    if cls is None or not issubclass(cls, Optimizer):
        raise ValueError(
            f"solver must be one of {sorted(SOLVERS)}, a torch.optim.Optimizer class or a "
            f"functools.partial of one; got solver={job.solver!r}."
        )
    options = {"momentum": values["momentum"], "betas": (values["beta_1"], values["beta_2"])}
    options |= {"eps": values["epsilon"], "nesterov": job.nesterov and values["momentum"] > 0}
    known = inspect.signature(cls).parameters
    given = getattr(job.solver, "keywords", {})
    return {"optimizer": job.solver} | {
        f"optimizer__{name}": value
        for name, value in options.items()
        if name in known
        and name not in given
        and isinstance(known[name].default, tuple) == isinstance(value, tuple)
    }


def _resume(optimizer: Optimizer, before: Optimizer) -> None:
    """Go on with the state and the rate of another optimizer, and one's own other options."""
    saved = before.state_dict()
    groups = [
        {**old, **new, "lr": old["lr"]}
        for old, new in zip(saved["param_groups"], optimizer.state_dict()["param_groups"])
    ]
    optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})


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
    learning_rate : str, callable or torch scheduler class
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
                f"(torch.optim.LBFGS is one) with module or skorch_callbacks; got "
                f"solver={self.solver!r}."
            )
        scheduler = class_of(self.learning_rate)
        if scheduler is not None and not issubclass(scheduler, TorchScheduler):
            raise ValueError(
                "learning_rate must be a name, a callable epoch -> factor, a "
                "torch.optim.lr_scheduler class or a functools.partial of one; got "
                f"learning_rate={self.learning_rate!r}."
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
        with (
            seeded_torch(int(seed), job.device),
            torch.inference_mode(False),
            torch.enable_grad(),
        ):
            return _Run(self, job).run(should_stop)

    def make_net(self, job: TrainingJob) -> Any:
        """Return an initialised net that goes on where `job.state` ended."""
        net = (RegressorNet if self.n_classes is None else ClassifierNet)(
            self.network.trainable().to(job.device, torch.float32),
            criterion=nn.Identity,  # the head is in get_loss
            **_optimizer_options(job),
            lr=job.schedule.rate,
            max_epochs=job.max_iter,
            batch_size=job.batch_size,
            iterator_train=Batches.shuffled,
            iterator_valid=Batches.in_order,
            iterator_valid__batch_size=max(1, CHUNK_SIZE // job.X.n_features),
            dataset=Batches,
            train_split=Batches.split,
            verbose=int(job.verbose),
            device=str(job.device),
        )
        if self.n_classes is not None:
            net.classes = np.arange(self.n_classes)
        decoupled = job.solver in UPDATE_RULES and UPDATE_RULES[job.solver].decoupled
        net.head_, net.alpha_ = job.head, 0.0 if decoupled else job.alpha
        net.max_grad_norm_, net.rate_, net.given_ = (
            job.max_grad_norm,
            job.schedule.rate,
            self._given,
        )
        net.initialize()
        before = job.state.net if isinstance(job.state, NetState) else None
        if before is not None:
            _resume(net.optimizer_, before.optimizer_)
            net.history, net.rate_ = copy.copy(before.history), before.rate_
        if before is not None and _are_same(before.given_, self._given):
            net.callbacks, net.callbacks_ = before.callbacks, before.callbacks_
        else:
            net.callbacks = [*self._scheduler(job), *map(_make_callback, self.callbacks)]
            net.initialize_callbacks()
        return net

    @property
    def _given(self) -> list:
        return [*self.callbacks, self.learning_rate]

    def _scheduler(self, job: TrainingJob) -> list[LRScheduler]:
        """Return skorch's callback for a scheduler class; plateaus are those of held-out rows."""
        scheduler = class_of(self.learning_rate)
        if scheduler is None:
            return []
        keywords = getattr(self.learning_rate, "keywords", {})
        monitor = "train_loss" if job.validation is None else "valid_loss"
        return [LRScheduler(scheduler, monitor=monitor, **keywords)]


def _are_same(before: list | None, now: list) -> bool:
    return before is not None and [id(x) for x in before] == [id(x) for x in now]


def _make_callback(given: Any) -> Any:
    """Return a callback to attach: skorch writes on it, so a copy of an instance."""
    if isinstance(given, tuple):
        name, callback = given
        return name, _make_callback(callback)
    callback = copy.copy(given) if isinstance(given, Callback) else given()
    if not isinstance(callback, Callback):
        raise TypeError(
            "skorch_callbacks must hold skorch callbacks: instances, classes or functions that "
            f"return one; got {given!r}."
        )
    return callback


class _Run:
    """One training run of a net."""

    def __init__(self, lane: SkorchLane, job: TrainingJob):
        self.job, self.network = job, lane.network
        self.net = net = lane.make_net(job)
        validation, held_out = job.validation, None
        if validation is not None:
            held_out = Batches(
                validation.X,
                job.head.decode(validation.target),
                target=validation.target,
                weight=validation.weight,
                validation=validation,
                weights=lambda: self.network.weights_of(net),
            )
        self.data = Batches(
            job.X,
            job.head.decode(job.target),
            target=job.target,
            weight=job.weight,
            held_out=held_out,
            rng=job.rng if job.shuffle else None,
            # batch normalisation cannot train on one row
            min_rows=2 if self.network.spec is None else 1,
        )
        self.best = _copy_state(net) if job.keep_best else None
        self.n_iter, self.ending = 0, ""

    def run(self, should_stop: Callable[[], bool] | None) -> TrainingResult:
        """Train until the run ends."""
        net, interrupted = self.net, False
        net.notify("on_train_begin", X=self.data.X, y=self.data.y)
        try:
            while not self.ending:
                if should_stop is not None and should_stop():
                    raise TrainingCancelled
                self._run_epoch()
        except KeyboardInterrupt:
            interrupted = True
        has_best = self.best is not None and math.isfinite(self.job.progress.best_score)
        if self.best is not None and (has_best or self.ending != "diverged"):
            net.module_.load_state_dict(self.best)
        if self.ending == "diverged" and not has_best:
            raise ValueError(DIVERGED.format(epoch=self.n_iter))
        net.notify("on_train_end", X=self.data.X, y=self.data.y)
        net.module_.eval()
        return self._result(interrupted)

    def _run_epoch(self) -> None:
        """Train one epoch, record it, and set how the run ends if it does."""
        job, net = self.job, self.net
        if job.schedule.rate != net.rate_:  # else the rate may be a callback's
            net.rate_ = job.schedule.rate
            for group in net.optimizer_.param_groups:
                group["lr"] = net.rate_
        told_to_stop = self._fit_loop()
        if len(net.history) > 1:
            net.history[-2]["batches"] = []  # they would fill the memory
        epoch = net.history[-1]
        if "train_loss" not in epoch:  # a callback stopped it in its middle
            self.ending = "stop"
            return
        self.n_iter += 1
        validation = (epoch["valid_loss"], epoch["valid_score"]) if job.validation else None
        self.ending = (
            record_epoch(
                job, self.n_iter, epoch["train_loss"], validation, self._snapshot, self._keep,
                told_to_stop,
            )
            or ""
        )  # fmt: skip

    def _fit_loop(self) -> bool:
        """Run one epoch; return whether a callback has asked to stop."""
        try:
            self.net.fit_loop(self.data, epochs=1)
        except KeyboardInterrupt as interrupt:
            frame, _ = list(traceback.walk_tb(interrupt.__traceback__))[-1]
            if not isinstance(frame.f_locals.get("self"), Callback):
                raise
            return True
        except (KeyError, SkorchException) as error:
            if self.job.validation is None and "was not found in history" in str(error):
                raise ValueError(
                    "A skorch callback reads what the history does not hold. valid_loss is "
                    "recorded where rows are held out: use early_stopping=True, pass X_val and "
                    f"y_val, or let the callback monitor 'train_loss'; got {error}"
                ) from error
            raise
        return False

    def _keep(self) -> None:
        if self.best is not None:
            self.best = _copy_state(self.net)

    def _snapshot(self) -> Any:
        """Return the weights of this epoch, which later epochs do not change."""
        module = copy.deepcopy(self.net.module_).eval()
        return self.network.weights_of(SimpleNamespace(module_=module))

    def _result(self, interrupted: bool) -> TrainingResult:
        job, net = self.job, self.net
        state, warning = None, max_iter_warning(job) if self.ending == "max_iter" else None
        if self.ending == "diverged":
            message = DIVERGED.format(epoch=self.n_iter)
            warning = f"{message} The best weights so far were kept."
        elif not all(bool(p.isfinite().all()) for p in net.module_.parameters()):
            raise ValueError(DIVERGED.format(epoch=self.n_iter))
        else:
            schedule = job.schedule
            solver = ("skorch", job.solver)
            state = NetState(np.empty(0), self.n_iter, schedule.rate, schedule.epoch, solver, net)
        curve = job.progress.loss_curve
        loss = curve[-1] if curve else math.nan
        weights = self.network.weights_of(net)
        return TrainingResult(
            weights, job.progress, self.n_iter, state, loss, warning, interrupted, net
        )


def _copy_state(net: Any) -> dict[str, Any]:
    return copy.deepcopy(net.module_.state_dict())
