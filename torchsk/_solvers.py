"""Update rules and learning-rate schedules, on a stack of models; lbfgs.

An update rule works on matrices with one model per row. A hyper-parameter is a scalar tensor where
all models agree and a column (n_models, 1) where they differ: the same expressions take both.
"""

import math
from abc import ABC, abstractmethod
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import scipy.optimize
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor


def as_column(values: Sequence[float] | np.ndarray, like: Tensor) -> Tensor:
    """Return the common value as a scalar tensor, or a column (n_models, 1) of the values."""
    column = torch.tensor(list(values), dtype=like.dtype, device=like.device).unsqueeze(1)
    return column[0, 0].clone() if len(set(values)) == 1 else column


# -- update rules ----------------------------------------------------------------------------------


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
    #: default of learning_rate_init="auto", per kind of estimator
    default_rate: ClassVar[dict[str, float]] = {"classifier": 0.001, "regressor": 0.001}
    #: default of max_grad_norm="auto"
    default_max_grad_norm: ClassVar[float | None] = None
    #: whether scikit-learn's own schedules (invscaling, adaptive) apply
    scheduled: ClassVar[bool] = False

    def __init__(self, values: Mapping[str, Sequence[float]], nesterov: bool, like: Tensor):
        self.values = {name: np.array(values[name]) for name in self.hyper_parameters}
        self.nesterov = nesterov
        self.columns = {name: as_column(value, like) for name, value in self.values.items()}
        # rounded once: 1 - float32(0.999) would be wrong in the fifth digit
        self.complements = {name: as_column(1 - value, like) for name, value in self.values.items()}

    def rates(self, rate: np.ndarray, n_steps: np.ndarray, n_batches: int) -> np.ndarray:
        """Return the step sizes (n_batches, n_models) of an epoch.

        `rate` (n_models,) are the learning rates and `n_steps` (n_models,) the steps done so far.
        """
        return np.broadcast_to(rate, (n_batches, len(rate)))

    @abstractmethod
    def step_(
        self, weights: Tensor, gradient: Tensor, moments: Sequence[Tensor], rate: Tensor
    ) -> None:
        """Update weights and each moment (n_models, n_params); the gradient may be overwritten."""


class SGD(UpdateRule):
    """Gradient descent with (Nesterov) momentum, as scikit-learn's: the velocity holds the rate."""

    hyper_parameters = ("momentum",)
    n_moments = 1
    default_rate: ClassVar[dict[str, float]] = {"classifier": 0.05, "regressor": 0.02}
    default_max_grad_norm = 1.0
    scheduled = True

    def step_(
        self, weights: Tensor, gradient: Tensor, moments: Sequence[Tensor], rate: Tensor
    ) -> None:
        """Apply v = momentum v - rate g; w += v, or w += momentum v - rate g."""
        velocity, momentum = moments[0], self.columns["momentum"]
        gradient.mul_(rate)
        common = float(self.values["momentum"][0])
        if momentum.ndim == 0 and common > 0 and weights.device.type in _FUSED_SGD_DEVICES:
            # the same in one pass: torch's velocity is ours where it maximises with rate -1
            torch._fused_sgd_(
                [weights], [gradient], [velocity], weight_decay=0.0,
                momentum=common, lr=-1.0, dampening=0.0,
                nesterov=self.nesterov, maximize=True, is_first_step=False,
            )  # fmt: skip
            return
        velocity.mul_(momentum).sub_(gradient)
        if self.nesterov:
            weights.addcmul_(velocity, momentum).sub_(gradient)
        else:
            weights.add_(velocity)


class Adam(UpdateRule):
    """Adam (Kingma & Ba 2014, the form at the end of its section 2), as scikit-learn's."""

    hyper_parameters = ("beta_1", "beta_2", "epsilon")
    n_moments = 2

    def __init__(self, values: Mapping[str, Sequence[float]], nesterov: bool, like: Tensor):
        super().__init__(values, nesterov, like)
        self._no_correction = like.new_tensor(1e12)
        self._one, self._steps = like.new_ones(()), torch.empty_like(like)

    def rates(self, rate: np.ndarray, n_steps: np.ndarray, n_batches: int) -> np.ndarray:
        """Return rate sqrt(1 - beta_2^t) / (1 - beta_1^t)."""
        t = n_steps + np.arange(1, n_batches + 1)[:, None]
        beta_1, beta_2 = self.values["beta_1"], self.values["beta_2"]
        return rate * np.sqrt(1 - beta_2**t) / (1 - beta_1**t)

    def step_(
        self, weights: Tensor, gradient: Tensor, moments: Sequence[Tensor], rate: Tensor
    ) -> None:
        """Apply w -= rate m / (sqrt(v) + epsilon)."""
        common = all(column.ndim == 0 for column in self.columns.values())
        if common and weights.device.type in _FUSED_ADAM_DEVICES:
            self._fused_step_(weights, gradient, moments, rate)
            return
        m, v = moments[0], moments[1]
        beta_1, beta_2, epsilon = (self.columns[name] for name in self.hyper_parameters)
        m.mul_(beta_1).addcmul_(gradient, self.complements["beta_1"])
        v.mul_(beta_2).addcmul_(gradient.square_(), self.complements["beta_2"])
        denominator = torch.sqrt(v, out=gradient).add_(epsilon)
        weights.sub_(torch.div(m, denominator, out=gradient).mul_(rate))

    def _fused_step_(
        self, weights: Tensor, gradient: Tensor, moments: Sequence[Tensor], rate: Tensor
    ) -> None:
        """Do the same in the one pass of torch's fused kernel.

        Its own bias correction, which treats epsilon differently, is switched off by a step number
        at which it is 1: `rates` has corrected already. It takes one rate, so that of a stack is
        multiplied in afterwards: the kernel steps from zero.
        """
        beta_1, beta_2, epsilon = (float(self.values[name][0]) for name in self.hyper_parameters)
        alone = len(weights) == 1
        target = weights if alone else self._steps.zero_()
        torch._fused_adam_(
            [target], [gradient], [moments[0]], [moments[1]], [],
            [self._no_correction], lr=rate if alone else self._one, beta1=beta_1, beta2=beta_2,
            weight_decay=0.0, eps=epsilon, amsgrad=False, maximize=False,
        )  # fmt: skip
        if not alone:
            weights.addcmul_(target, rate)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019): alpha shrinks the weights."""

    decoupled = True


class RMSprop(UpdateRule):
    """RMSprop (Tieleman & Hinton 2012); beta_2 is the smoothing of the squared gradients."""

    hyper_parameters = ("beta_2", "epsilon")
    n_moments = 1

    def step_(
        self, weights: Tensor, gradient: Tensor, moments: Sequence[Tensor], rate: Tensor
    ) -> None:
        """Apply w -= rate g / (sqrt(v) + epsilon)."""
        v, beta_2 = moments[0], self.columns["beta_2"]
        v.mul_(beta_2).addcmul_(gradient, gradient * self.complements["beta_2"])
        weights.sub_(gradient.div_(torch.sqrt(v).add_(self.columns["epsilon"])).mul_(rate))


class Adagrad(UpdateRule):
    """Adagrad (Duchi, Hazan & Singer 2011)."""

    hyper_parameters = ("epsilon",)
    n_moments = 1
    default_rate: ClassVar[dict[str, float]] = {"classifier": 0.01, "regressor": 0.01}

    def step_(
        self, weights: Tensor, gradient: Tensor, moments: Sequence[Tensor], rate: Tensor
    ) -> None:
        """Apply w -= rate g / (sqrt(sum of g^2) + epsilon)."""
        total = moments[0].add_(gradient.square())
        weights.sub_(gradient.div_(torch.sqrt(total).add_(self.columns["epsilon"])).mul_(rate))


_FUSED_SGD_DEVICES = ("cpu", "cuda") if hasattr(torch, "_fused_sgd_") else ()
_FUSED_ADAM_DEVICES = ("cpu", "cuda") if hasattr(torch, "_fused_adam_") else ()

UPDATE_RULES: dict[str, type[UpdateRule]] = {
    "sgd": SGD,
    "adam": Adam,
    "adamw": AdamW,
    "rmsprop": RMSprop,
    "adagrad": Adagrad,
}

#: solvers that see all rows at once; they train one model, in float64, and cannot partial_fit
FULL_BATCH_SOLVERS = {"lbfgs": Adam.default_rate}

SOLVERS = ChainMap[str, Any](FULL_BATCH_SOLVERS, UPDATE_RULES)


# -- schedules -------------------------------------------------------------------------------------


class Schedule:
    """A constant learning rate.

    Parameters
    ----------
    rate : float
        The initial learning rate.
    power_t : float
        Exponent of "invscaling".
    max_iter : int
        Number of epochs that "cosine" and "onecycle" are spread over.
    factor : callable, optional
        epoch -> factor, for a user's own schedule.
    """

    #: printed when a plateau ends the run
    last_words: ClassVar[str] = "Stopping."

    def __init__(
        self,
        rate: float,
        power_t: float = 0.5,
        max_iter: int = 200,
        factor: Callable[[int], float] | None = None,
    ):
        self.initial, self.power_t, self.max_iter, self.factor = rate, power_t, max_iter, factor
        self.epoch = 0
        self.rate = self.at(0, 0)

    def at(self, epoch: int, n_samples_seen: int) -> float:
        """Return the rate of an epoch, counted from 0."""
        return self.initial

    def after_epoch(self, n_samples_seen: int) -> None:
        """Set the rate of the next epoch."""
        self.epoch += 1
        self.rate = self.at(self.epoch, n_samples_seen)

    def resume(self, epoch: int, rate: float, n_samples_seen: int | None = None) -> None:
        """Go on where an earlier run ended: at its rate, or as if rate_0 had always been this."""
        self.epoch = epoch
        self.rate = rate if n_samples_seen is None else self.at(epoch, n_samples_seen)

    def after_plateau(self) -> str | None:
        """React to a run that no longer improves: None ends it, words go on."""
        return None


class InverseScaling(Schedule):
    """rate_0 / (t + 1)^power_t, t the number of rows trained on so far."""

    def at(self, epoch: int, n_samples_seen: int) -> float:
        """Return the rate after n_samples_seen rows."""
        return self.initial / (n_samples_seen + 1) ** self.power_t if epoch else self.initial


class Adaptive(Schedule):
    """Divide by 5 at every plateau, down to 1e-6."""

    last_words = "Learning rate too small. Stopping."

    def after_epoch(self, n_samples_seen: int) -> None:
        """Keep the rate."""
        self.epoch += 1

    def resume(self, epoch: int, rate: float, n_samples_seen: int | None = None) -> None:
        """Go on with the rate that the plateaus have left."""
        self.epoch, self.rate = epoch, rate

    def after_plateau(self) -> str | None:
        """Divide the rate by 5 unless it is at the bottom."""
        if self.rate <= 1e-6:
            return None
        self.rate /= 5
        return f"Setting learning rate to {self.rate:f}"


class Cosine(Schedule):
    """Half a cosine from rate_0 to 0 (Loshchilov & Hutter 2017, eq. 5, without restarts)."""

    def at(self, epoch: int, n_samples_seen: int) -> float:
        """Return rate_0 (1 + cos(pi epoch / max_iter)) / 2."""
        return self.initial * (1 + math.cos(math.pi * min(epoch / self.max_iter, 1))) / 2


class OneCycle(Schedule):
    """Up from rate_0 / 25 in 30% of the epochs, then down to rate_0 / 250000 (Smith 2018)."""

    def at(self, epoch: int, n_samples_seen: int) -> float:
        """Return the rate between the turning points, along half cosines."""
        position, peak = min(epoch / max(1, self.max_iter - 1), 1), 0.3
        low, high, final = self.initial / 25, self.initial, self.initial / 250_000
        if position < peak:
            return _half_cosine(low, high, position / peak)
        return _half_cosine(high, final, (position - peak) / (1 - peak))


class Custom(Schedule):
    """rate_0 times the user's factor(epoch)."""

    def at(self, epoch: int, n_samples_seen: int) -> float:
        """Return rate_0 factor(epoch)."""
        assert self.factor is not None
        return self.initial * float(self.factor(epoch))


def _half_cosine(start: float, stop: float, position: float) -> float:
    return stop + (start - stop) * (1 + math.cos(math.pi * position)) / 2


SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Schedule,
    "invscaling": InverseScaling,
    "adaptive": Adaptive,
    "cosine": Cosine,
    "onecycle": OneCycle,
}
_SGD_ONLY = ("invscaling", "adaptive")


def make_schedule(
    learning_rate: str | Callable[[int], float],
    rate: float,
    *,
    solver: str,
    power_t: float,
    max_iter: int,
) -> Schedule:
    """Return the schedule by name, or of a callable epoch -> factor."""
    if callable(learning_rate):
        return Custom(rate, factor=learning_rate)
    rule = UPDATE_RULES.get(solver)  # none: an optimizer class, which takes every schedule
    ignored = learning_rate in _SGD_ONLY and rule is not None and not rule.scheduled
    return SCHEDULES["constant" if ignored else learning_rate](rate, power_t, max_iter)


# -- lbfgs -----------------------------------------------------------------------------------------


def minimize_lbfgs(
    objective: Callable[[np.ndarray], tuple[float, np.ndarray]],
    flat: np.ndarray,
    *,
    max_iter: int,
    max_fun: int,
    tol: float,
    callback: Callable[[Any], None] | None = None,
) -> scipy.optimize.OptimizeResult:
    """Minimise objective(flat) -> (loss, gradient) with scipy's L-BFGS-B (Zhu et al. 1997)."""
    # scipy's own vector operations are too small for the threads of its OpenBLAS
    with ThreadpoolController().select(internal_api="openblas").limit(limits=1):
        return scipy.optimize.minimize(
            objective,
            flat,
            method="L-BFGS-B",
            jac=True,
            callback=callback,
            options={"maxiter": max_iter, "maxfun": max_fun, "gtol": tol},
        )
