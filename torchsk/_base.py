"""What both estimators share: check, hand over, set what is fitted; read raw outputs; pickle."""

import copyreg
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from sklearn.callback import CallbackSupportMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from torchsk import _stacking
from torchsk._data import Data, as_numpy, check_weights
from torchsk._fitting import make_job
from torchsk._heads import LOSS_NAMES, Head, make_head
from torchsk._hints import suggesting
from torchsk._inputs import check_ids, check_inputs, held_out_names, warn_of_other_scale
from torchsk._models import Fitted, Model, output_dtype
from torchsk._parameters import PARAMETER_CONSTRAINTS, Settings, meant
from torchsk._sklearn_compat import (
    CALLBACK_STATE,
    InvalidParameterError,
    KnownParameters,
    callback_tasks,
    check_weight,
)
from torchsk._targets import Targets
from torchsk._training import Lane, TrainingResult, lane_of

# fitted attributes that lanes with epochs have
CURVES = (
    "loss_curve_", "validation_loss_curve_", "validation_scores_", "best_loss_",
    "best_validation_score_",
)  # fmt: skip
#: parameter -> the dict of its parameters: ``module__width`` in set_params is an entry of it
ENTRIES = {"module": "module_params", "loss": "loss_params"}


def _read_only(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Return the arrays, which are copies: to write to them would change nothing."""
    for array in arrays:
        array.flags.writeable = False
    return arrays


class BaseTorchMLP(CallbackSupportMixin, KnownParameters, ABC):
    """Base of TorchClassifier and TorchRegressor; `__init__` of the subclasses only stores."""

    _parameter_constraints: dict = PARAMETER_CONSTRAINTS

    numerical_embedding: str | None
    #: what the last call of fit or partial_fit has left
    _fitted: Fitted

    @abstractmethod
    def _learn(
        self, y: np.ndarray, before: Fitted | None, incremental: bool
    ) -> tuple[Targets, np.ndarray]:
        """Return (what is learnt from y alone, or was `before`; y encoded)."""

    def _validate_params(self):
        """Validate as scikit-learn does; the error says, too, what was meant."""
        try:
            super()._validate_params()
        except InvalidParameterError as error:
            error.args = (f"{error}{meant(self)}",)
            raise

    def set_params(self, **params):
        """Set parameters of the estimator, or single entries of `module_params` and `loss_params`.

        Parameters
        ----------
        **params : dict
            Parameters by name. ``module__width=8`` sets ``width`` in `module_params`, which becomes
            a new dict, so that the one that was given stays as it is; ``loss__delta=2.0`` sets
            ``delta`` in `loss_params`. Together with ``module_params=...`` it comes second.

        Returns
        -------
        self : TorchClassifier or TorchRegressor
            The estimator.

        Raises
        ------
        ValueError
            If there is no such parameter, or no class or function as `module` to take the entries.
        """
        entries: dict[str, dict] = {}
        for name in list(params):
            parameter, is_entry, key = name.partition("__")
            if is_entry and parameter in ENTRIES:
                entries.setdefault(parameter, {})[key] = params.pop(name)
        module = params.get("module", self.module)
        if "module" in entries and (module is None or isinstance(module, nn.Module)):
            raise ValueError(
                f"module must be a class or function where module__{next(iter(entries['module']))} "
                "is set, an entry of its module_params; got a module of type "
                f"{type(module).__name__}."
            )
        super().set_params(**params)
        for parameter, changed in entries.items():
            name = ENTRIES[parameter]
            setattr(self, name, {**(getattr(self, name) or {}), **changed})
        return self

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
            goes_on = incremental or self.warm_start
            before = getattr(self, "_fitted", None) if goes_on else None
            shape = None if before is None else before.model.input_shape
            X, y = check_inputs(self, X, y, has_module=self.module is not None, shape=shape)
            weight = None if sample_weight is None else check_weight(as_numpy(sample_weight), X)
            targets, y = self._learn(y, before, incremental)
            held_out = self._check_held_out(X_val, y_val, targets, X.shape[1:])
            with suggesting(self.loss, LOSS_NAMES):
                head = make_head(self.loss, self.loss_params, targets.problem, targets.n_targets)
            head.check_target(y)
            if held_out is not None:
                head.check_target(held_out.y, "y_val")
                warn_of_other_scale(X, held_out.X, "X")
                if targets.problem == "regression":
                    warn_of_other_scale(y, held_out.y, "y")
            data, held_out = targets.class_weights(
                Data(X, y, weight), held_out, getattr(self, "class_weight", None), incremental
            )
            self._check_weights(data.weight, head)
            job = make_job(self, data, held_out, targets, head, before, incremental=incremental)
            tasks = callback_tasks(
                self,
                job.settings.max_iter,
                X=data.X,
                y=lambda: targets.decode(data.y),
                metadata=None if data.weight is None else {"sample_weight": data.weight},
            )
            if tasks is not None:
                after_epoch, after_fit = tasks
                job.on_epoch = lambda model: after_epoch(
                    lambda: {"_fitted": Fitted(model(), targets, job.progress)}
                )
            result = _stacking.train_job(job)
            if isinstance(self.random_state, np.random.RandomState):
                job.draw_unused_orders(result.n_iter)
            self._set_fitted(targets, job.lane, result)
            self._set_resolved(job.settings, job.model)
            if tasks is not None:
                after_fit()
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

    def _check_held_out(
        self, X_val: Any, y_val: Any, targets: Targets, shape: tuple[int, ...]
    ) -> Data | None:
        """Validate the user's held-out rows, each of a shape."""
        if (X_val is None) != (y_val is None):
            raise ValueError("X_val and y_val must be given together; got only one of them.")
        if X_val is None:
            return None
        has_module = self.module is not None
        with held_out_names("X_val and y_val"):
            X_val, y_val = check_inputs(self, X_val, y_val, has_module=has_module, shape=shape)
        with held_out_names("y_val"):
            return Data(X_val, targets.encode(y_val), None)

    def _check_weights(self, weight: np.ndarray | None, head: Head) -> None:
        """Raise unless training can divide by the sum of the weights, and the head knows them."""
        if weight is None:
            return
        check_weights(weight)
        if not head.per_sample:
            raise ValueError(
                "sample_weight and class_weight must be None for a loss that returns one "
                f"number for a whole batch; got loss={self.loss!r} with weights."
            )

    def _set_fitted(self, targets: Targets, lane: Lane, result: TrainingResult) -> None:
        """Set the fitted attributes and pass on what training has to say."""
        model, progress = result.model, result.progress
        self._fitted = Fitted(model, targets, progress, result.state)
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
        if lane.has_epochs:
            stops_early = progress.early_stopping
            self.loss_curve_ = progress.loss_curve
            self.validation_loss_curve_ = progress.validation_loss_curve
            self.validation_scores_ = progress.validation_scores
            self.best_loss_ = None if stops_early else progress.best_loss
            self.best_validation_score_ = progress.best_score if stops_early else None
        else:
            for name in CURVES:
                self.__dict__.pop(name, None)
        if result.warning is not None:
            warnings.warn(result.warning)

    def _set_resolved(self, settings: Settings, model: Model) -> None:
        """Set what "auto" has become."""
        self.alpha_ = settings.equivalent_alpha
        self.batch_size_ = settings.batch_size
        self.learning_rate_init_ = settings.learning_rate_init
        self.__dict__.pop("dropout_", None)
        if model.dropout is not None:
            self.dropout_ = list(model.dropout)

    # -- fitted --

    def _checked(self, X: Any) -> Any:
        """Return X (n_samples, ...), validated."""
        if not hasattr(self, "_fitted"):
            check_is_fitted(self)  # takes longer than a row
        model = self._fitted.model
        X = check_inputs(self, X, has_module=model.has_module, shape=model.input_shape)
        if model.takes_ids:
            check_ids(X)
        return X

    def _read(self, X: Any, *meanings: Callable[[Any, Tensor], Tensor]) -> list[np.ndarray]:
        """Validate X and return what each meaning(head, raw) makes of the raw outputs."""
        X = self._checked(X)
        model = self._fitted.model
        with model.threads(X.shape[0]):
            raw = model.raw(X)
            values = [meaning(model.head, raw).numpy() for meaning in meanings]
        if not all(np.isfinite(value).all() for value in values):
            raise ValueError(
                f"X must give outputs within the range of {output_dtype(X)}; got outputs that are "
                "not finite, so values in X are missing or too large, or a module returns such "
                "outputs."
            )
        return values

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

    def _fitted_model(self, name: str) -> Model:
        if not hasattr(self, "_fitted"):
            raise AttributeError(
                f"{type(self).__name__} is not fitted yet: call fit before {name}."
            )
        return self._fitted.model

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

    def _has_epochs(self) -> bool:
        if not lane_of(self.solver).has_epochs:
            raise AttributeError(
                f"solver={self.solver!r} has no epochs. Use fit, or a stochastic solver such as "
                "'sgd' or 'adam'."
            )
        return True

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = self.numerical_embedding is None
        return tags
