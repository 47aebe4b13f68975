"""Update rules: one step of a solver, on a stack of models.

An update rule works on matrices with one model per row. A hyper-parameter is a scalar tensor where
all models agree and a column (n_models, 1) where they differ: the same expressions take both.
"""

from abc import ABC, abstractmethod
from collections import ChainMap
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor


def as_column(values: Sequence[float] | np.ndarray, like: Tensor) -> Tensor:
    """Return the common value as a scalar tensor, or a column (n_models, 1) of the values."""
    values = values.tolist() if isinstance(values, np.ndarray) else list(values)
    if len(set(values)) == 1:
        return like.new_full((), values[0])
    return torch.tensor(values, dtype=like.dtype, device=like.device).unsqueeze(1)


class UpdateRule(ABC):
    """One step of a solver, in place.

    Parameters
    ----------
    values : mapping from str to sequence of float
        The hyper-parameters named in `hyper_parameters`, one value per model.
    nesterov : bool
        Whether momentum looks ahead.
    like : Tensor
        Weights that the rule will update.
    """

    hyper_parameters: ClassVar[tuple[str, ...]] = ()
    #: number of vectors per model that the rule remembers
    n_moments: ClassVar[int] = 0
    #: whether `alpha` shrinks the weights directly instead of through the gradient
    decoupled: ClassVar[bool] = False
    #: learning_rate_init="auto" at a constant rate, per kind of estimator
    default_rate: ClassVar[dict[str, float]] = {"classifier": 0.001, "regressor": 0.001}
    #: the same under a schedule that comes down to nothing: its peak
    peak_rate: ClassVar[float] = 0.01
    #: default of max_grad_norm="auto"
    default_max_grad_norm: ClassVar[float | None] = None
    #: whether scikit-learn's own schedules (invscaling, adaptive) apply
    scheduled: ClassVar[bool] = False
    #: what to try when training has not converged, behind scikit-learn's words
    advice: ClassVar[str] = (
        "Raise max_iter or learning_rate_init, or use learning_rate='onecycle', which comes to "
        "rest within max_iter epochs."
    )

    def __init__(self, values: Mapping[str, Sequence[float]], nesterov: bool, like: Tensor):
        self.values = {name: np.array(values[name]) for name in self.hyper_parameters}
        self.nesterov = nesterov
        #: those of all models, or None where they differ
        self.common: list[float] | None = None
        if all(len(set(values[name])) == 1 for name in self.hyper_parameters):
            self.common = [float(values[name][0]) for name in self.hyper_parameters]
        self._like = like

    @cached_property
    def columns(self) -> dict[str, Tensor]:
        """The hyper-parameters by name."""
        return {name: as_column(value, self._like) for name, value in self.values.items()}

    @cached_property
    def complements(self) -> dict[str, Tensor]:
        """1 - each of them, rounded once: 1 - float32(0.999) would be wrong in the fifth digit."""
        return {name: as_column(1 - value, self._like) for name, value in self.values.items()}

    def rates(self, rate: np.ndarray, n_steps: np.ndarray, n_batches: int) -> np.ndarray:
        """Return the step sizes (n_batches, n_models) of an epoch.

        `rate` (n_models,) are the learning rates and `n_steps` (n_models,) the steps done so far.
        """
        return np.broadcast_to(rate, (n_batches, len(rate)))

    @abstractmethod
    def step_(
        self, weights: Tensor, gradient: Tensor, moments: Sequence[Tensor], rate: Tensor
    ) -> None:
        """Update weights and each moment (n_models, n_params); the gradient may be overwritten.

        The rate is one for all, or has the models, the parameters or both along its axes.
        """

    @classmethod
    def reexpress(cls, moments: np.ndarray, change: Any) -> np.ndarray:
        """Return the moments (n_moments, n_params) after a `Reexpression` of the weights.

        A rule that does not say how they follow starts them afresh.
        """
        return np.zeros_like(moments)


class SGD(UpdateRule):
    """Gradient descent with (Nesterov) momentum, as scikit-learn's: the velocity holds the rate."""

    hyper_parameters = ("momentum",)
    n_moments = 1
    default_rate: ClassVar[dict[str, float]] = {"classifier": 0.05, "regressor": 0.02}
    peak_rate = 0.2
    default_max_grad_norm = 1.0
    scheduled = True
    advice = f"{UpdateRule.advice[:-1]}, or solver='adam'."

    def step_(
        self, weights: Tensor, gradient: Tensor, moments: Sequence[Tensor], rate: Tensor
    ) -> None:
        """Apply v = momentum v - rate g; w += v, or w += momentum v - rate g."""
        velocity = moments[0]
        gradient.mul_(rate)
        if self.common and self.common[0] > 0 and weights.device.type in _FUSED_SGD_DEVICES:
            # the same in one pass: torch's velocity is ours where it maximises with rate -1
            torch._fused_sgd_(
                [weights], [gradient], [velocity], weight_decay=0.0,
                momentum=self.common[0], lr=-1.0, dampening=0.0,
                nesterov=self.nesterov, maximize=True, is_first_step=False,
            )  # fmt: skip
            return
        momentum = self.columns["momentum"]
        velocity.mul_(momentum).sub_(gradient)
        if self.nesterov:
            weights.addcmul_(velocity, momentum).sub_(gradient)
        else:
            weights.add_(velocity)

    @classmethod
    def reexpress(cls, moments: np.ndarray, change: Any) -> np.ndarray:
        """Return the velocity: it is a step."""
        return np.stack([change.steps(moments[0])])


class Adam(UpdateRule):
    """Adam (Kingma & Ba 2014, the form at the end of its section 2), as scikit-learn's."""

    hyper_parameters = ("beta_1", "beta_2", "epsilon")
    n_moments = 2
    peak_rate = 0.02

    def __init__(self, values: Mapping[str, Sequence[float]], nesterov: bool, like: Tensor):
        super().__init__(values, nesterov, like)
        self._no_correction = torch.tensor(1e12, dtype=like.dtype, device=like.device)

    @cached_property
    def _one(self) -> Tensor:
        return self._like.new_ones(())

    @cached_property
    def _steps(self) -> Tensor:
        return torch.empty_like(self._like)

    def rates(self, rate: np.ndarray, n_steps: np.ndarray, n_batches: int) -> np.ndarray:
        """Return rate sqrt(1 - beta_2^t) / (1 - beta_1^t)."""
        t = n_steps + np.arange(1, n_batches + 1)[:, None]
        beta_1, beta_2 = self.values["beta_1"], self.values["beta_2"]
        return rate * np.sqrt(1 - beta_2**t) / (1 - beta_1**t)

    def step_(
        self, weights: Tensor, gradient: Tensor, moments: Sequence[Tensor], rate: Tensor
    ) -> None:
        """Apply w -= rate m / (sqrt(v) + epsilon)."""
        if self.common and weights.device.type in _FUSED_ADAM_DEVICES:
            self._fused_step_(self.common, weights, gradient, moments, rate)
            return
        m, v = moments[0], moments[1]
        beta_1, beta_2, epsilon = (self.columns[name] for name in self.hyper_parameters)
        m.mul_(beta_1).addcmul_(gradient, self.complements["beta_1"])
        v.mul_(beta_2).addcmul_(gradient.square_(), self.complements["beta_2"])
        denominator = torch.sqrt(v, out=gradient).add_(epsilon)
        weights.sub_(torch.div(m, denominator, out=gradient).mul_(rate))

    def _fused_step_(
        self,
        common: list[float],
        weights: Tensor,
        gradient: Tensor,
        moments: Sequence[Tensor],
        rate: Tensor,
    ) -> None:
        """Do the same in the one pass of torch's fused kernel.

        Its own bias correction, which treats epsilon differently, is switched off by a step number
        at which it is 1: `rates` has corrected already. It takes one rate, so several are
        multiplied in afterwards: the kernel steps from zero.
        """
        beta_1, beta_2, epsilon = common
        alone = rate.ndim == 0
        target = weights if alone else self._steps.zero_()
        torch._fused_adam_(
            [target], [gradient], [moments[0]], [moments[1]], [],
            [self._no_correction], lr=rate if alone else self._one, beta1=beta_1, beta2=beta_2,
            weight_decay=0.0, eps=epsilon, amsgrad=False, maximize=False,
        )  # fmt: skip
        if not alone:
            weights.addcmul_(target, rate)

    @classmethod
    def reexpress(cls, moments: np.ndarray, change: Any) -> np.ndarray:
        """Return both: they are averages of gradients and of their squares."""
        return np.stack([change.gradients(moments[0]), change.squares(moments[1])])


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019): alpha shrinks the weights."""

    decoupled = True


class RMSprop(UpdateRule):
    """RMSprop (Tieleman & Hinton 2012); beta_2 is the smoothing of the squared gradients."""

    hyper_parameters = ("beta_2", "epsilon")
    n_moments = 1
    peak_rate = 0.005

    def step_(
        self, weights: Tensor, gradient: Tensor, moments: Sequence[Tensor], rate: Tensor
    ) -> None:
        """Apply w -= rate g / (sqrt(v) + epsilon)."""
        v, beta_2 = moments[0], self.columns["beta_2"]
        v.mul_(beta_2).addcmul_(gradient, gradient * self.complements["beta_2"])
        weights.sub_(gradient.div_(torch.sqrt(v).add_(self.columns["epsilon"])).mul_(rate))

    @classmethod
    def reexpress(cls, moments: np.ndarray, change: Any) -> np.ndarray:
        """Return the average of squared gradients."""
        return np.stack([change.squares(moments[0])])


class Adagrad(UpdateRule):
    """Adagrad (Duchi, Hazan & Singer 2011)."""

    hyper_parameters = ("epsilon",)
    n_moments = 1
    default_rate: ClassVar[dict[str, float]] = {"classifier": 0.01, "regressor": 0.01}
    peak_rate = 0.2

    def step_(
        self, weights: Tensor, gradient: Tensor, moments: Sequence[Tensor], rate: Tensor
    ) -> None:
        """Apply w -= rate g / (sqrt(sum of g^2) + epsilon)."""
        total = moments[0].add_(gradient.square())
        weights.sub_(gradient.div_(torch.sqrt(total).add_(self.columns["epsilon"])).mul_(rate))

    @classmethod
    def reexpress(cls, moments: np.ndarray, change: Any) -> np.ndarray:
        """Return the sum of squared gradients."""
        return np.stack([change.squares(moments[0])])


#: decay of a decoupled rule that goes with a penalty of 1 on the mean loss
DECAY_PER_PENALTY = 60.0
#: a user's module may be deep, without clipping: the peak is that much lower
MODULE_PEAK_DIVISOR = 4.0

_FUSED_SGD_DEVICES = ("cpu", "cuda") if hasattr(torch, "_fused_sgd_") else ()
_FUSED_ADAM_DEVICES = ("cpu", "cuda") if hasattr(torch, "_fused_adam_") else ()

UPDATE_RULES: dict[str, type[UpdateRule]] = {
    "sgd": SGD,
    "adam": Adam,
    "adamw": AdamW,
    "rmsprop": RMSprop,
    "adagrad": Adagrad,
}

#: every solver by name; those that are no update rule have a lane of their own
SOLVERS = ChainMap[str, Any]({"lbfgs": None}, UPDATE_RULES)


def default_rate(solver: Any, kind: str) -> float:
    """Return the learning rate of a solver, for "classifier" or "regressor"."""
    return UPDATE_RULES.get(solver, UpdateRule).default_rate[kind]


def peak_rate(solver: Any, is_built_in: bool) -> float:
    """Return the peak of the learning rate for the built-in network, or for a user's module."""
    peak = UPDATE_RULES.get(solver, UpdateRule).peak_rate
    return peak if is_built_in else peak / MODULE_PEAK_DIVISOR


def default_max_grad_norm(solver: Any) -> float | None:
    """Return the largest norm of the gradient."""
    return UPDATE_RULES.get(solver, UpdateRule).default_max_grad_norm


def is_decoupled(solver: Any) -> bool:
    """Return whether the solver shrinks the weights itself, instead of through the loss."""
    return UPDATE_RULES.get(solver, UpdateRule).decoupled


def is_scheduled(solver: Any) -> bool:
    """Return whether every schedule applies: to sgd as in scikit-learn, and to torch's classes."""
    return solver not in UPDATE_RULES or UPDATE_RULES[solver].scheduled
