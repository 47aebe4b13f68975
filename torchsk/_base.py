"""What both estimators share: validate -> head -> job -> train -> fitted attributes."""

import copy
import copyreg
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, is_classifier
from sklearn.callback import CallbackSupportMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import check_scoring
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from torchsk import _stacking
from torchsk._data import as_numpy, check_weights, is_mapped, merge_duplicates, take_rows
from torchsk._heads import Head, make_head
from torchsk._jobs import Lane, TrainingJob, TrainingResult, Validation
from torchsk._mlp import draw_weights
from torchsk._models import FittedMLP, FittedNetwork
from torchsk._modules import FittedModule
from torchsk._optimizers import class_of
from torchsk._parameters import PARAMETER_CONSTRAINTS, make_spec
from torchsk._rows import MappedRows, as_rows, as_tensor, as_weight
from torchsk._runtime import exact_dtype, resolve_device
from torchsk._schedules import Schedule, make_schedule
from torchsk._sklearn_compat import (
    CALLBACK_STATE,
    callback_tasks,
    check_weight,
)
from torchsk._solvers import FULL_BATCH_SOLVERS, UPDATE_RULES
from torchsk._standardizer import Standardizer
from torchsk._stopping import Progress

# up to this many rows in one batch, duplicates are merged: k repeats = weight k, bit by bit
MAX_ROWS_TO_MERGE = 1000
# fitted attributes that solvers with epochs have
CURVES = (
    "loss_curve_", "validation_loss_curve_", "validation_scores_", "best_loss_",
    "best_validation_score_",
)  # fmt: skip


@dataclass(frozen=True)
class Data:
    """Validated rows: X (n, n_features), encoded y (n,) or (n, n_targets), weights (n,) or None."""

    X: Any
    y: np.ndarray
    weight: np.ndarray | None

    def take(self, index: np.ndarray) -> "Data":
        """Return some of the rows."""
        weight = None if self.weight is None else self.weight[index]
        return Data(take_rows(self.X, index), self.y[index], weight)

    def __len__(self) -> int:
        return self.X.shape[0]


def _read_only(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Return the arrays, which are copies: to write to them would change nothing."""
    for array in arrays:
        array.flags.writeable = False
    return arrays


class BaseTorchMLP(CallbackSupportMixin, BaseEstimator, ABC):
    """Base of TorchClassifier and TorchRegressor; `__init__` of the subclasses only stores."""

    _parameter_constraints: dict = PARAMETER_CONSTRAINTS

    #: the fitted network
    _model: Any

    # -- what the two estimators differ in --

    @abstractmethod
    def _check_y(self, y: np.ndarray, learn: bool, complete: bool = False) -> np.ndarray:
        """Set what is learnt from y alone and return it encoded: codes, indicators or numbers."""

    @abstractmethod
    def _decode_y(self, y: np.ndarray) -> np.ndarray:
        """Return encoded y as the user gave it."""

    @abstractmethod
    def _problem(self, y: np.ndarray) -> tuple[str, int]:
        """Return (kind of problem, number of targets) for the head."""

    def _stratify(self, y: np.ndarray) -> np.ndarray | None:
        """Return what the validation split is stratified by."""
        return None

    def _class_weights(self, data: Data, incremental: bool) -> Data:
        """Return the data with class weights multiplied into the sample weights."""
        return data

    # -- fit --

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        X_val: Any = None,
        y_val: Any = None,
        *,
        incremental: bool = False,
    ) -> "BaseTorchMLP":
        """Fit from the start, or train on (warm_start, partial_fit)."""
        # inference mode would give tensors that autograd refuses: an activation or loss may need it
        with self._restored_on_error(), torch.inference_mode(False):
            first = not hasattr(self, "_model") or not (incremental or self.warm_start)
            data = self._check_data(X, y, sample_weight, first, incremental)
            held_out = self._check_validation_data(X_val, y_val)
            kind, n_targets = self._problem(data.y)
            head = make_head(self.loss, self.loss_params, kind, n_targets)
            head.check_target(data.y)
            if held_out is not None:
                head.check_target(held_out.y, "y_val")
            data = self._class_weights(data, incremental)
            if data.weight is not None:
                check_weights(data.weight)
            if not head.per_sample and data.weight is not None:
                raise ValueError(
                    "sample_weight and class_weight must be None for a loss that returns one "
                    f"number for a whole batch; got loss={self.loss!r} with weights."
                )
            self._train(data, held_out, head, first, incremental)
        return self

    @contextmanager
    def _restored_on_error(self) -> Iterator[None]:
        """Leave a fitted estimator as it was when a refit fails."""
        before = dict(vars(self))
        try:
            yield
        except BaseException:
            running = {name: vars(self)[name] for name in CALLBACK_STATE if name in vars(self)}
            self.__dict__.clear()
            self.__dict__.update(before | running)
            raise

    def _check_data(
        self, X: Any, y: Any, sample_weight: Any, first: bool, incremental: bool
    ) -> Data:
        """Validate X, y and weights."""
        X, y = self._validated(X, y, reset=first)
        weight = None if sample_weight is None else check_weight(as_numpy(sample_weight), X)
        complete = not first and not incremental
        return Data(X, self._check_y(y, first and not incremental, complete), weight)

    def _validated(self, X: Any, y: Any, reset: bool) -> tuple[Any, np.ndarray]:
        """Return X (n_samples, n_features) and y as scikit-learn checks them."""
        return validate_data(
            self,
            as_numpy(X),
            as_numpy(y),
            accept_sparse=["csr", "csc"],
            multi_output=True,
            y_numeric=not self._is_classifier(),
            dtype=(np.float64, np.float32),
            reset=reset,
        )

    def _check_validation_data(self, X_val: Any, y_val: Any) -> Data | None:
        """Validate the user's held-out rows."""
        if (X_val is None) != (y_val is None):
            raise ValueError("X_val and y_val must be given together; got only one of them.")
        if X_val is None:
            return None
        try:
            X_val, y_val = self._validated(X_val, y_val, reset=False)
            return Data(X_val, self._check_y(y_val, learn=False), None)
        except ValueError as error:
            error.add_note("X and y are X_val and y_val here.")
            raise

    def _split(
        self, data: Data, held_out: Data | None, rng: np.random.RandomState, incremental: bool
    ) -> tuple[Data, Data | None]:
        """Return (training rows, validation rows), split as scikit-learn's MLP does."""
        stops_early = self.early_stopping and self.solver not in FULL_BATCH_SOLVERS
        if held_out is not None or not stops_early or incremental:
            return data, held_out
        if not self.validation_fraction:
            raise ValueError(
                "validation_fraction must be in (0, 1) with early_stopping and without X_val; "
                f"got validation_fraction={self.validation_fraction!r}."
            )
        train, validation = train_test_split(
            np.arange(len(data)),
            random_state=rng,
            test_size=self.validation_fraction,
            stratify=self._stratify(data.y),
        )
        if len(validation) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of "
                "your dataset."
            )
        training, held_out = data.take(train), data.take(validation)
        for part, name in ((training, "training"), (held_out, "validation")):
            if part.weight is not None and not part.weight.any():
                raise ValueError(
                    f"sample_weight must not be all zero in the {name} rows of early_stopping."
                )
        return training, held_out

    def _train(
        self, data: Data, held_out: Data | None, head: Head, first: bool, incremental: bool
    ) -> None:
        """Train the network, in one lane or the other, and set the fitted attributes."""
        device = resolve_device(self.device)
        if self.solver in FULL_BATCH_SOLVERS and exact_dtype(device) != torch.float64:
            raise ValueError(
                f"device must be one that has float64 for solver={self.solver!r}; "
                f"got device={self.device!r}."
            )
        rng = check_random_state(self.random_state)
        model = self._start(data, head, rng, first, str(device))
        whole = data
        training, held_out = self._split(data, held_out, rng, incremental)
        batch_size, n_rows_seen = self._resolve_batch_size(len(training)), len(training)
        if head.per_sample and self._merges_duplicates(training, batch_size, held_out, model):
            index, weight = merge_duplicates(training.X, training.y, training.weight)
            training = replace(training.take(index), weight=None if (weight == 1).all() else weight)
        if first:
            model = self._with_scalers(model, training)
        lane = self._lane(model)
        job = self._make_job(
            model,
            lane,
            training,
            held_out,
            rng,
            device,
            batch_size,
            n_rows_seen,
            first,
            incremental,
        )
        is_one_batch = len(training) <= batch_size
        del training, held_out  # what they hold training has as tensors
        tasks = callback_tasks(
            self,
            job.max_iter,
            X=whole.X,
            y=lambda: self._decode_y(whole.y),
            metadata=None if whole.weight is None else {"sample_weight": whole.weight},
        )
        if tasks is not None:
            after_epoch, after_fit = tasks
            job.on_epoch = lambda _, weights: after_epoch(
                lambda: {"_model": model.trained(weights())}
            )
        result = _stacking.train_job(job)
        if isinstance(self.random_state, np.random.RandomState) and is_one_batch:
            self._draw_unused_orders(rng, n_rows_seen, result.n_iter)
        self._set_fitted(model.trained(result.flat), result)
        if tasks is not None:
            after_fit()

    def _draw_unused_orders(self, rng: np.random.RandomState, n_rows: int, n_epochs: int) -> None:
        """Advance the caller's generator as scikit-learn does, though one batch needs no order."""
        if self.shuffle and self.solver not in FULL_BATCH_SOLVERS:
            for _ in range(n_epochs):
                rng.shuffle(np.arange(n_rows))

    def _start(
        self, data: Data, head: Head, rng: np.random.RandomState, first: bool, device: str
    ) -> FittedNetwork:
        """Return the network with its starting weights, drawn or those of the last fit."""
        before = None if first else self._model
        n_features, dtype = data.X.shape[1], data.X.dtype.name
        if self.module is not None:
            return FittedModule.start(
                self.module, self.module_params, n_features, head, rng, before, dtype, device
            )
        head = head.on_logits
        spec = make_spec(
            self.hidden_layer_sizes, self.activation, self.dropout, n_features, head.n_outputs
        )
        if before is None:
            flat = draw_weights(spec, self.init, rng, self.activation)
            return FittedMLP(head, None, None, dtype, device, spec, flat)
        if not isinstance(before, FittedMLP) or spec.layer_sizes != before.spec.layer_sizes:
            fitted = before.spec.layer_sizes if isinstance(before, FittedMLP) else "a module"
            raise ValueError(
                "hidden_layer_sizes and the number of outputs must be those of the fitted model to "
                f"train on; got layers {spec.layer_sizes}, fitted {fitted}."
            )
        return replace(before, spec=spec, head=head, device=device)

    def _lane(self, model: FittedNetwork) -> Lane | None:
        """Return skorch's lane if the network, or something of torch's or skorch's, needs it."""
        if (
            self.module is None
            and self.skorch_callbacks is None
            and isinstance(self.solver, str)
            and class_of(self.learning_rate) is None
        ):
            return None
        from torchsk import _skorch

        n_classes = len(self.classes_) if self._is_classifier() else None
        return _skorch.SkorchLane(
            model, self.solver, self.learning_rate, self.skorch_callbacks or (), n_classes
        )

    def _resolve_batch_size(self, n_rows: int) -> int:
        if self.batch_size == "auto":
            return min(200, n_rows)
        if self.batch_size > n_rows:
            warnings.warn(
                "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped"
            )
        return min(int(self.batch_size), n_rows)

    def _merges_duplicates(
        self, data: Data, batch_size: int, held_out: Data | None, model: FittedNetwork
    ) -> bool:
        """Return whether all rows are one batch, whose order and copies then cannot matter."""
        return (
            len(data) <= min(MAX_ROWS_TO_MERGE, batch_size)
            and not (self.early_stopping and held_out is not None)
            and not model.mixes_rows
        )

    def _with_scalers(self, model: FittedNetwork, data: Data) -> FittedNetwork:
        """Return the model with its scalers, fixed at the first fit."""
        if not self.standardize or (self.standardize == "auto" and self.module is not None):
            return model
        x_scaler, y_scaler = Standardizer.fit(data.X, data.weight, "X"), None
        if model.head.equivariant:
            if abs(data.y).max() > np.finfo(model.dtype).max:
                raise ValueError(
                    f"y must be within the range of {model.dtype}, the dtype of X, in which "
                    "predictions are returned: scale it, or give X as float64."
                )
            y_scaler = Standardizer.fit(data.y, data.weight, "y")
            y_scaler = Standardizer(*model.head.standardization(y_scaler.mean, y_scaler.scale))
        return replace(model, x_scaler=x_scaler, y_scaler=y_scaler)

    def _make_job(
        self,
        model: FittedNetwork,
        lane: Lane | None,
        training: Data,
        held_out: Data | None,
        rng: np.random.RandomState,
        device: torch.device,
        batch_size: int,
        n_rows_seen: int,
        first: bool,
        incremental: bool,
    ) -> TrainingJob:
        """Return the job that trains `model`."""
        head = model.head
        if model.y_scaler is not None:
            head = head.standardized(model.y_scaler.scale)

        def rows(data: Data, suffix: str = "") -> dict[str, Any]:
            return self._tensors(data, model, head, lane, device, suffix)

        stops_early = self.early_stopping and not incremental
        if self.solver in FULL_BATCH_SOLVERS and (model.mixes_rows or held_out is not None):
            what = "dropout" if model.mixes_rows else "X_val and y_val"
            warnings.warn(f"solver={self.solver!r} makes no use of {what}.")
        progress = Progress(stops_early) if first else self._progress.copy()
        progress.early_stopping = stops_early
        schedule = self._make_schedule()
        state = self._solver_state if incremental and not first else None
        memory = self.solver if lane is None else lane.key
        if state is not None and memory != state.solver:
            state = None
        if state is not None:
            schedule.resume(state.epoch, state.rate, progress.n_samples_seen)
        validation = None
        if held_out is not None and self.solver not in FULL_BATCH_SOLVERS:
            score = self._score_rule(model, held_out)
            validation = Validation(**rows(held_out, "_val"), score=score)
        return TrainingJob(
            spec=getattr(model, "spec", None),  # type: ignore[arg-type]  # a module has neither
            flat=getattr(model, "flat", None),  # type: ignore[arg-type]
            head=head,
            rng=rng,
            device=device,
            schedule=schedule,
            progress=progress,
            batch_size=batch_size,
            n_rows_seen=n_rows_seen,
            max_iter=1 if incremental else int(self.max_iter),
            state=state,
            validation=validation,
            keep_best=stops_early,
            warn_at_max_iter=not incremental,
            lane=lane,
            **self._settings(),
            **rows(training),
        )

    def _settings(self) -> dict[str, Any]:
        """Return what a job takes from the parameters as they are."""
        rule = UPDATE_RULES.get(self.solver)
        max_grad_norm = self.max_grad_norm
        if max_grad_norm == "auto":
            max_grad_norm = None if rule is None else rule.default_max_grad_norm
        return {
            "solver": self.solver,
            "hyper_parameters": {
                name: float(getattr(self, name))
                for name in ("momentum", "beta_1", "beta_2", "epsilon")
            },
            "nesterov": bool(self.nesterovs_momentum),
            "alpha": float(self.alpha),
            "max_grad_norm": max_grad_norm,
            "shuffle": bool(self.shuffle),
            "tol": float(self.tol),
            "n_iter_no_change": self.n_iter_no_change,
            "max_fun": int(self.max_fun),
            "verbose": bool(self.verbose),
        }

    def _tensors(
        self,
        data: Data,
        model: FittedNetwork,
        head: Head,
        lane: Lane | None,
        device: torch.device,
        suffix: str,
    ) -> dict[str, Any]:
        """Return X, target and weight as training takes them; a suffix marks held-out rows."""
        dtype = torch.float64 if self.solver in FULL_BATCH_SOLVERS else torch.float32
        y = data.y if model.y_scaler is None else model.y_scaler.transform(data.y)
        target = head.encode(y)
        return {
            "X": MappedRows(data.X, model.x_scaler, device, dtype)
            if lane is not None and is_mapped(data.X)
            else as_rows(data.X, model.x_scaler, device, dtype, "X" + suffix),
            "target": torch.from_numpy(target).to(device)
            if target.dtype.kind == "i"
            else as_tensor(target, None, device, dtype, "y" + suffix),
            # rounded weights would make one of two equal validation scores the better one
            "weight": None
            if data.weight is None
            else as_weight(data.weight, device, exact_dtype(device) if suffix else dtype),
        }

    def _make_schedule(self) -> Schedule:
        """Return the learning rate's schedule, at its beginning."""
        rate, rule = self.learning_rate_init, UPDATE_RULES.get(self.solver)
        if rate == "auto":
            kind = "classifier" if self._is_classifier() else "regressor"
            rate = 0.001 if rule is None else rule.default_rate[kind]
        return make_schedule(
            self.learning_rate if class_of(self.learning_rate) is None else "constant",
            float(rate),
            power_t=self.power_t,
            max_iter=self.max_iter,
            scheduled=rule is None or rule.scheduled,
        )

    def _score_rule(self, model: FittedNetwork, held_out: Data) -> str | Callable | None:
        """Return what early stopping watches: the head's score, the loss, or a user's scorer."""
        if self.scoring is None or self.scoring == "loss":
            return self.scoring
        fitted = copy.copy(self)
        fitted.__dict__.pop("feature_names_in_", None)
        fitted._model = model
        scorer = check_scoring(fitted, self.scoring)
        X, y = held_out.X[:], self._decode_y(held_out.y)
        weights = {} if held_out.weight is None else {"sample_weight": held_out.weight}

        def score(trained: Any) -> float:
            fitted._model = model.trained(trained)
            return scorer(fitted, X, y, **weights)

        return score

    def _set_fitted(self, model: FittedNetwork, result: TrainingResult) -> None:
        """Set the fitted attributes and pass on what training has to say."""
        progress = result.progress
        self._model, self._progress, self._solver_state = model, progress, result.state
        for name, value in {"n_layers_": model.n_layers, "net_": result.net}.items():
            self.__dict__.pop(name, None)
            if value is not None:
                setattr(self, name, value)
        self.n_outputs_ = model.head.n_outputs
        self.out_activation_ = model.head.out_activation
        self.device_ = model.device
        self.n_iter_ = result.n_iter
        self.t_ = progress.n_samples_seen
        self.loss_ = result.loss
        if self.solver not in FULL_BATCH_SOLVERS:
            stops_early = progress.early_stopping
            self.loss_curve_ = progress.loss_curve
            self.validation_loss_curve_ = progress.validation_loss_curve
            self.validation_scores_ = progress.validation_scores
            self.best_loss_ = None if stops_early else progress.best_loss
            self.best_validation_score_ = progress.best_score if stops_early else None
        else:
            for name in CURVES:
                self.__dict__.pop(name, None)
        if result.interrupted:
            warnings.warn("Training interrupted by user.")
        if result.warning is not None:
            warnings.warn(result.warning, ConvergenceWarning)

    # -- fitted --

    def _checked(self, X: Any) -> Any:
        """Return X (n_samples, n_features), validated."""
        if not hasattr(self, "_model"):
            check_is_fitted(self)  # takes longer than a row
        if self._needs_no_validation(X):
            return X
        return validate_data(
            self,
            as_numpy(X),
            accept_sparse=["csr", "csc"],
            dtype=(np.float64, np.float32),
            reset=False,
        )

    def _read(self, X: Any, *meanings: Callable[[Any, Tensor], Tensor]) -> list[np.ndarray]:
        """Validate X and return what each meaning(head, raw) makes of the raw outputs."""
        X = self._checked(X)
        model = self._model
        with model.threads(*X.shape):
            raw = model.raw(X)
            values = [meaning(model.head, raw).numpy() for meaning in meanings]
        if not all(np.isfinite(value).all() for value in values):
            raise ValueError(
                f"X must give outputs within the range of {X.dtype}; got outputs that are not "
                "finite, so values in X are missing or too large, or a module returns such outputs."
            )
        return values

    def _needs_no_validation(self, X: Any) -> bool:
        """Return whether X is as validation would return it, which takes longer than a row."""
        return (
            type(X) is np.ndarray
            and X.dtype in (np.float64, np.float32)
            and X.ndim == 2
            and X.shape[0] > 0
            and X.shape[1] == self.n_features_in_
            and not hasattr(self, "feature_names_in_")
            and bool(np.isfinite(X).all())
        )

    @property
    def coefs_(self) -> list[np.ndarray]:
        """Weights of each layer, (fan_in, fan_out), for raw inputs and outputs; read-only."""
        return _read_only(self._fitted_model("coefs_").weights()[0])

    @property
    def intercepts_(self) -> list[np.ndarray]:
        """Intercepts of each layer, (fan_out,), for raw inputs and outputs; read-only."""
        return _read_only(self._fitted_model("intercepts_").weights()[1])

    @property
    def module_(self) -> nn.Module:
        """The network as a plain nn.Module: raw float32 features in, raw outputs out."""
        return self._fitted_model("module_").module()

    def _fitted_model(self, name: str) -> FittedNetwork:
        if not hasattr(self, "_model"):
            raise AttributeError(f"{type(self).__name__} is not fitted yet, so it has no {name}.")
        return self._model

    # pickle and copy ask for __reduce_ex__ first; skops takes __getstate__ itself

    def __reduce_ex__(self, protocol):
        make = copyreg.__newobj__  # type: ignore[attr-defined]
        return make, (type(self),), super().__getstate__()

    def __getstate__(self):
        if hasattr(self, "net_"):
            raise TypeError(
                "skops keeps no tensors, so it cannot save what skorch has trained (module=, "
                "skorch_callbacks=, classes of torch): pickle the estimator, or keep its weights "
                "with net_.save_params."
            )
        return super().__getstate__()

    def _is_classifier(self) -> bool:
        return is_classifier(self)

    def _is_stochastic(self) -> bool:
        if self.solver in FULL_BATCH_SOLVERS:
            raise AttributeError(
                f"partial_fit is only available for stochastic solvers; got solver={self.solver!r}."
            )
        return True

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags
