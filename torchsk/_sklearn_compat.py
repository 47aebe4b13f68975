"""Every private scikit-learn name that torchsk needs, in one place."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.base import _fit_context as fit_context
from sklearn.utils._available_if import _AvailableIfDescriptor
from sklearn.utils._param_validation import (
    Hidden,
    Interval,
    InvalidParameterError,
    Options,
    StrOptions,
    make_constraint,
    validate_parameter_constraints,
)
from sklearn.utils.multiclass import _check_partial_fit_first_call as check_partial_fit_first_call
from sklearn.utils.validation import _check_sample_weight

__all__ = [
    "CALLBACK_STATE",
    "Hidden",
    "KnownParameters",
    "Interval",
    "InvalidParameterError",
    "Options",
    "StrOptions",
    "available_if",
    "callback_tasks",
    "check_partial_fit_first_call",
    "check_weight",
    "fit_context",
    "is_valid",
]

#: attributes that scikit-learn keeps on an estimator while its callbacks run
CALLBACK_STATE = ("_callback_fit_ctx", "_skl_callbacks_to_teardown")


#: stands for a default where none is valid
_NONE = object()


class KnownParameters(BaseEstimator):
    """An estimator whose class looks once what its parameters are called, and at their defaults.

    scikit-learn reads the signature anew at each get_params, set_params and clone: with forty
    parameters half a millisecond, several times a fit in a search. And it checks all of them at
    each fit, though most are what they are by default.
    """

    @classmethod
    def _get_param_names(cls) -> list[str]:
        if "_param_names" not in vars(cls):
            cls._param_names = super()._get_param_names()
        return cls._param_names

    @classmethod
    def _valid_defaults(cls) -> dict[str, Any]:
        """Return the defaults that need no check, by name."""
        if "_defaults" not in vars(cls):
            parameters = inspect.signature(cls.__init__).parameters
            constraints = cls._parameter_constraints
            cls._defaults = {
                name: parameters[name].default
                for name in cls._get_param_names()
                if is_valid(parameters[name].default, constraints.get(name, "no_validation"))
            }
        return cls._defaults

    def _validate_params(self):
        """Validate, as scikit-learn does, what is not the default."""
        valid = self._valid_defaults()
        params = self.get_params(deep=False).items()
        changed = {name: value for name, value in params if value is not valid.get(name, _NONE)}
        validate_parameter_constraints(
            self._parameter_constraints, changed, caller_name=type(self).__name__
        )


class _AvailableIf(_AvailableIfDescriptor):
    """scikit-learn's, with the reason in the message itself: what people read is its last line."""

    def _check(self, obj: Any, owner: type) -> None:
        try:
            super()._check(obj, owner)
        except AttributeError as error:
            raise AttributeError(f"{error}: {error.__cause__}") from None


def available_if(check: Callable[[Any], bool]) -> Callable[[Callable], Any]:
    """Make a method available where check(estimator) does not raise an error, which says why."""
    return lambda method: _AvailableIf(method, check, attribute_name=method.__name__)


def is_valid(value: Any, constraints: Any) -> bool:
    """Return whether a value satisfies one of the constraints of a parameter."""
    if constraints == "no_validation":
        return True
    return any(make_constraint(one).is_satisfied_by(value) for one in constraints)


def check_weight(sample_weight: Any, X: Any) -> np.ndarray:
    """Return sample weights, float64 (n_samples,), none negative, not all zero."""
    return _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)


def callback_tasks(
    estimator: Any, max_epochs: int, **data: Any
) -> tuple[Callable[[Callable[[], dict]], bool], Callable[[], None]] | None:
    """Open a callback context for a fit whose subtasks are epochs; None if nobody listens.

    Returns (after_epoch, after_fit); after_epoch takes a function that gives the attributes which
    turn the estimator into a fitted one, and returns whether a callback asks to stop.
    """
    if not hasattr(estimator, "_skl_callbacks"):
        return None
    context = estimator._init_callback_context(max_subtasks=max_epochs)
    context.call_on_fit_task_begin(estimator=estimator, **data)

    def begin() -> Any:
        return context.subcontext(task_name="epoch").call_on_fit_task_begin(
            estimator=estimator, **data
        )

    epoch = [begin()]
    n_epochs = 1

    def after_epoch(fitted: Callable[[], dict]) -> bool:
        nonlocal n_epochs
        stop = epoch.pop().call_on_fit_task_end(
            estimator=estimator, reconstruction_attributes=fitted, **data
        )
        if not stop and n_epochs < max_epochs:
            epoch.append(begin())
            n_epochs += 1
        return bool(stop)

    def after_fit() -> None:
        if epoch:  # end the epoch task that was begun but not run, as scikit-learn's estimators do
            epoch.pop().call_on_fit_task_end(estimator=estimator)
        context.call_on_fit_task_end(estimator=estimator, reconstruction_attributes=dict, **data)

    return after_epoch, after_fit
