"""Losses of numbers."""

import math
from abc import abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.metrics import d2_pinball_score
from torch import Tensor
from torch.nn import functional as F

from torchsk._heads.base import ChangeOfUnit, RegressionHead, Spread
from torchsk._heads.tools import (
    MAX_EXPONENT,
    TINY,
    are_numbers,
    constant,
    is_number,
    is_positive,
    option,
)


class LocationHead(RegressionHead):
    """A regression head whose predictions move and stretch with y; real numbers, raw as it is."""

    equivariant = True

    @property
    def loss_scale(self) -> float:
        """scikit-learn's MLP optimises the sum over outputs and reports the mean."""
        return 1 / self.n_outputs


class SquaredError(LocationHead):
    """Half the squared error.

    Domain: real numbers
    Link:   raw = mean
    Loss:   sum over outputs of (raw - target)^2 / 2; reported as the mean over outputs
    """

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        return 0.5 * (raw - target).square().sum(-1)

    def residual(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return raw - target."""
        return raw - target

    def loss_unit(self, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
        """Return the variance."""
        return self.standardization(mean, deviation)[1] ** 2


class AbsoluteError(LocationHead):
    """The absolute error.

    Domain: real numbers
    Link:   raw = median
    Loss:   sum over outputs of |raw - target|; reported as the mean over outputs
    """

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        return (raw - target).abs().sum(-1)

    def residual(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return the sign of raw - target."""
        return (raw - target).sign_()

    def loss_unit(self, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
        """Return the deviation."""
        return self.standardization(mean, deviation)[1]


_THRESHOLD = (
    "a number > 0, or one per target",
    lambda value, head: are_numbers(value, TINY) and np.size(value) in (1, head.n_targets),
)


class _Threshold(LocationHead):
    """An error that is quadratic up to a threshold and linear beyond it.

    The threshold is in y's own unit. It rides along in the target, (y, threshold), so that fits
    which standardise y by different scales (the folds of a cross-validation) train in one stack.
    """

    #: name of the threshold
    _threshold: ClassVar[str]

    @property
    def stack_key(self) -> Hashable:
        """All but the threshold, which the loss takes from the target."""
        return type(self), self.n_targets

    def standardized(self, mean: np.ndarray, deviation: np.ndarray) -> RegressionHead:
        """Return the head whose threshold is divided by the scale of y."""
        scale = self.standardization(mean, deviation)[1]
        threshold = np.broadcast_to(getattr(self, self._threshold) / scale, self.n_targets)
        return StandardizedThreshold(self.n_targets, tuple(threshold.tolist()))

    def encode(self, y: np.ndarray) -> np.ndarray:
        """Return (y, threshold), (n_samples, 2 * n_targets)."""
        threshold = np.asarray(getattr(self, self._threshold), dtype=y.dtype)
        return np.hstack([y, np.broadcast_to(threshold, y.shape)])

    def loss_unit(self, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
        """Return scale^2 min(1, threshold / scale), over what this loss is divided by."""
        scale = self.standardization(mean, deviation)[1]
        threshold = getattr(self, self._threshold) + np.zeros_like(mean)
        unit = np.asarray(self._unit(torch.from_numpy(threshold)))
        return scale * np.minimum(scale, threshold) / unit

    def decode(self, target: Tensor) -> Tensor:
        return target[..., : self.n_targets]

    @abstractmethod
    def _unit(self, threshold: Tensor) -> Tensor | float:
        """Return what Huber's loss is divided by."""

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        threshold = target[..., self.n_targets :]
        size = (raw - target[..., : self.n_targets]).abs_()
        near = torch.minimum(size, threshold)
        return (near / self._unit(threshold) * (size - 0.5 * near)).sum(-1)

    def residual(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return the error, clipped at the threshold, in the loss's unit."""
        threshold = target[..., self.n_targets :]
        error = raw - target[..., : self.n_targets]
        return error.clamp_(-threshold, threshold).div_(self._unit(threshold))


@dataclass(frozen=True)
class Huber(_Threshold):
    """Huber's loss, as nn.HuberLoss.

    Domain: real numbers
    Link:   raw = mean of the samples nearer than delta, in y's own unit
    Loss:   sum over outputs of e^2 / 2 if |e| <= delta else delta * (|e| - delta / 2),
            e = raw - target; reported as the mean over outputs
    """

    delta: float | tuple[float, ...] = option(1.0, *_THRESHOLD)

    _threshold = "delta"

    def _unit(self, threshold: Tensor) -> float:
        return 1.0


@dataclass(frozen=True)
class SmoothL1(_Threshold):
    """Huber's loss divided by its threshold, as nn.SmoothL1Loss.

    Domain: real numbers
    Link:   raw = mean of the samples nearer than beta, in y's own unit
    Loss:   sum over outputs of e^2 / (2 beta) if |e| < beta else |e| - beta / 2,
            e = raw - target; reported as the mean over outputs
    """

    beta: float | tuple[float, ...] = option(1.0, *_THRESHOLD)

    _threshold = "beta"

    def _unit(self, threshold: Tensor) -> Tensor:
        return threshold


@dataclass(frozen=True)
class StandardizedThreshold(_Threshold):
    """What both are where y is standardised: from the absolute error's size to the squared one's.

    The threshold, in y's own unit, may be far from y's spread. Huber's loss is then tiny where it
    is small, and smooth L1 where it is large, as if the learning rate were.

    Loss:   Huber's / min(threshold, 1)
    """

    threshold: tuple[float, ...]

    _threshold = "threshold"

    def _unit(self, threshold: Tensor) -> Tensor:
        return threshold.clamp(max=1)


@dataclass(frozen=True)
class Quantile(LocationHead):
    """The pinball loss of one or several quantile levels; levels vary fastest in raw.

    Domain: real numbers
    Link:   raw = quantiles; predicted sorted, so that they never cross: sorting only brings them
            nearer to the truth (Chernozhukov, Fernandez-Val, Galichon 2010, doi:10.3982/ECTA7880)
    Loss:   sum over outputs of (q - [target < raw]) * (target - raw); reported as their mean
    """

    quantile: float | tuple[float, ...] = option(
        0.5,
        "a number in (0, 1), or an increasing list of them",
        lambda value, head: (
            are_numbers(value, TINY, 1.0) and bool(np.all(np.diff(np.atleast_1d(value)) > 0))
        ),
    )

    @property
    def levels(self) -> tuple[float, ...]:
        """The quantile levels, increasing."""
        return self.quantile if isinstance(self.quantile, tuple) else (self.quantile,)

    @property
    def n_outputs(self) -> int:
        """One per target and level."""
        return self.n_targets * len(self.levels)

    def encode(self, y: np.ndarray) -> np.ndarray:
        """Return y, its columns repeated once per level, (n_samples, n_outputs)."""
        return np.repeat(y, len(self.levels), axis=1)

    def decode(self, target: Tensor) -> Tensor:
        return target[..., :: len(self.levels)]

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        error = raw - target
        return torch.maximum(-self._q(raw) * error, (1 - self._q(raw)) * error).sum(-1)

    def residual(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return 1 - q where raw is above the target, else -q."""
        return (raw > target).to(raw.dtype).sub_(self._q(raw))

    def loss_unit(self, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
        """Return the deviation."""
        return self.standardization(mean, deviation)[1]

    def _q(self, raw: Tensor) -> Tensor:
        """Return the level of every output, (n_outputs,)."""
        return constant(self.levels * self.n_targets, raw)

    def inverse_link(self, raw: Tensor) -> Tensor:
        """Return the quantiles (..., n_outputs), sorted within every target."""
        if len(self.levels) == 1:
            return raw
        return raw.unflatten(-1, (self.n_targets, -1)).sort(-1).values.flatten(-2)

    def raw_affine(self, mean: np.ndarray, deviation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and scale, repeated once per level."""
        center, scale = self.standardization(mean, deviation)
        return np.repeat(center, len(self.levels)), np.repeat(scale, len(self.levels))

    def as_prediction(self, values: np.ndarray) -> np.ndarray:
        """Return (n_samples[, n_targets][, n_levels]): n_levels only for a list of levels."""
        if not isinstance(self.quantile, tuple):
            return super().as_prediction(values)
        if self.n_targets == 1:
            return values
        return values.reshape(len(values), self.n_targets, -1)

    def score(self, raw: Tensor, target: Tensor, weight: Tensor | None) -> float:
        """Return D^2, the explained share of the pinball loss, averaged over levels."""
        y, quantiles = self.decode(target), self.inverse_link(raw)
        arrays = [None if v is None else v.detach().cpu().numpy() for v in (y, quantiles, weight)]
        return self.score_prediction(*arrays)  # type: ignore[arg-type]

    def score_prediction(
        self, y: np.ndarray, prediction: np.ndarray, sample_weight: np.ndarray | None = None
    ) -> float:
        y = np.reshape(y, (len(y), self.n_targets))
        prediction = np.reshape(prediction, (len(y), self.n_targets, -1))
        scores = [
            d2_pinball_score(y, prediction[:, :, i], alpha=level, sample_weight=sample_weight)
            for i, level in enumerate(self.levels)
        ]
        return float(np.mean(scores))


@dataclass(frozen=True)
class Deviance:
    """Tweedie's deviance of a power as a measure of spread, in squared units of y.

    It is mean^power times the deviance, which is (y - mean)^2 where y is near its mean. Deviances
    are Bregman divergences, so that about any centre is that about the mean plus the mean's own.
    """

    power: float

    def distance(self, y: np.ndarray, center: np.ndarray) -> np.ndarray:
        """Return how far each y is from the centre, which is no centre unless it is positive."""
        is_center = center > 0
        t = y / np.where(is_center, center, 1.0)
        return np.where(is_center, center**2 * self._unit_deviance(t), 0.0)

    def about(self, spread: np.ndarray, mean: np.ndarray, center: np.ndarray) -> np.ndarray:
        """Return the mean distance from a centre, given that from the mean."""
        ratio = np.where((mean > 0) & (center > 0), center / np.where(mean > 0, mean, 1.0), 0.0)
        known = np.where(ratio > 0, ratio, 1.0) ** self.power * spread
        return np.where(ratio > 0, known, 0.0) + self.distance(mean, center)

    def _unit_deviance(self, t: np.ndarray) -> np.ndarray:
        """Return the deviance of t from 1; precise where t is near 1."""
        a, b = 1 - self.power, 2 - self.power
        inside = np.where(t > 0, t, 1.0)
        z = -np.log(inside)
        parts = [np.expm1(c * z) / c if c else z for c in (a, b)]
        deviance = 2 * inside**b * (parts[1] - parts[0])
        if self.power >= 2:  # y is positive
            return deviance
        outside = 2 / b - 2 * t / (a or 1.0) + (t**2 if self.power == 0 else 0.0)
        return np.where(t > 0, deviance, outside)


class PositiveHead(RegressionHead):
    """Half the Tweedie deviance of some power: y around a positive mean, with a log link.

    Exponents are kept in [-60, 60], where float32 is at home; beyond, the loss goes on along its
    tangent: finite, with the gradient of the border.

    Deviances are homogeneous: y divided by a number has its means divided by it, which is an
    offset of raw. So y is "standardised" by its mean, and a network that starts near raw = 0
    starts near the mean. The unit of raw is then y's deviation over its mean (at most 1), and the
    loss is divided by the null deviance: both are of the size that they have for squared errors.
    """

    out_activation = "exp"
    equivariant = True
    #: the deviance's power: the variance of y grows as mean^power
    power: float

    def check_target(self, y: np.ndarray, name: str = "y") -> None:
        """Raise a ValueError for y < 0 (power > 0), and y = 0 (power >= 2)."""
        super().check_target(y, name)
        is_valid = y > 0 if self.power >= 2 else y >= 0
        if self.power > 0 and not is_valid.all():
            rule = "positive" if self.power >= 2 else "non-negative"
            raise ValueError(
                f"{name} must be {rule} for the {type(self).__name__} loss; "
                f"got {name} in [{y.min():g}, {y.max():g}]."
            )

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return half the deviance, (..., n_samples)."""
        return self.losses(raw, target).sum(-1)

    def losses(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return half the deviance of every entry, (..., n_samples, n_targets)."""
        inner = self._within_limits(raw)
        tangent = self._slope(inner.detach().clone(), target) * (raw - inner)
        return self._half_deviance(inner, target) + tangent

    def residual(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return the derivative of half the deviance."""
        return self._slope(self._within_limits(raw), target)

    def _within_limits(self, raw: Tensor) -> Tensor:
        limit = MAX_EXPONENT / max(1.0, abs(1 - self.power), abs(2 - self.power))
        return raw.clamp(-limit, limit)

    @abstractmethod
    def _half_deviance(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return half the deviance of every entry."""

    @abstractmethod
    def _slope(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return its derivative in raw, which is a temporary."""

    def inverse_link(self, raw: Tensor) -> Tensor:
        """Return exp(raw), the means; positive and finite.

        Here raw is in y's own unit, so the limit is that of the numbers, not that of the loss.
        """
        limit = math.log(torch.finfo(raw.dtype).max) - 1
        return raw.clamp(-limit, limit).exp_()

    def standardization(
        self, mean: np.ndarray, deviation: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (0, mean); where the mean is not positive, (0, 1)."""
        return np.zeros_like(mean), np.where(mean > 0, mean, 1.0)

    @property
    def measure(self) -> Deviance:
        """Spread is measured by the deviance."""
        return Deviance(self.power)

    def standardized(self, mean: np.ndarray, deviation: np.ndarray) -> RegressionHead:
        """Return the head of y over its mean."""
        return StandardizedDeviance(self.n_targets, self, tuple(_spread(mean, deviation).tolist()))

    def raw_affine(self, mean: np.ndarray, deviation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (log(mean), unit): a factor of y is an offset of raw."""
        scale = self.standardization(mean, deviation)[1]
        return np.log(scale), np.minimum(_spread(mean, deviation), 1.0)

    def loss_unit(self, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
        """Return the null deviance."""
        scale = self.standardization(mean, deviation)[1]
        return scale ** (2 - self.power) * _spread(mean, deviation) ** 2

    def _completed(self, old: Spread, new: Spread) -> Spread:
        """Return the old mean and deviation; a mean that is not positive is none known yet."""
        mean = np.where(old[0] > 0, old[0], new[0])
        is_known = (old[0] > 0) & (old[1] > 0)
        return mean, np.where(is_known, old[1], mean * _spread(*new))


def _spread(mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Return the deviation of a positive y over its mean; 1 if there is none."""
    is_known = (mean > 0) & (deviation > 0)
    return np.where(is_known, deviation, 1.0) / np.where(is_known, mean, 1.0)


@dataclass(frozen=True)
class StandardizedDeviance(RegressionHead):
    """What a positive head is where y is divided by its mean.

    Without it the loss of counts near 10,000 would be a thousandth of a squared error's, and so
    small a part of the raw outputs would tell them apart. The spread rides along in the target, (y,
    spread), so that the folds of a cross-validation train in one stack.

    Parameters
    ----------
    plain : PositiveHead
    spread : tuple of float
        Root of the null deviance of each target, over its mean.

    Loss:   sum over outputs of plain(unit * raw, target) / spread^2, unit = min(spread, 1)
    """

    plain: PositiveHead
    spread: tuple[float, ...]

    @property
    def stack_key(self) -> Hashable:
        """All but the spread, which the loss takes from the target."""
        return type(self), self.plain

    def encode(self, y: np.ndarray) -> np.ndarray:
        """Return (y, spread), (n_samples, 2 * n_targets)."""
        return np.hstack([y, np.broadcast_to(np.asarray(self.spread, dtype=y.dtype), y.shape)])

    def decode(self, target: Tensor) -> Tensor:
        return target[..., : self.n_targets]

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        y, spread = target.tensor_split(2, -1)
        return (self.plain.losses(raw * spread.clamp(max=1), y) / spread.square()).sum(-1)

    def residual(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return the plain residual, in the units of raw and of the loss."""
        y, spread = target.tensor_split(2, -1)
        unit = spread.clamp(max=1)
        return self.plain.residual(raw * unit, y).mul_(unit / spread.square())

    def inverse_link(self, raw: Tensor) -> Tensor:
        """Return the means, over the mean of y."""
        return self.plain.inverse_link(raw * constant(self.spread, raw).clamp(max=1))

    def score(self, raw: Tensor, target: Tensor, weight: Tensor | None) -> float:
        """Return R^2, with the unit of raw that the target says."""
        y, spread = target.tensor_split(2, -1)
        return self.plain.score(raw * spread.clamp(max=1), y, weight)


class Poisson(PositiveHead):
    """Half the Poisson deviance.

    Domain: target >= 0
    Link:   raw = log(mean)
    Loss:   sum over outputs of target * (log(target) - raw) - target + exp(raw)
    """

    power = 1.0

    def _half_deviance(self, raw: Tensor, target: Tensor) -> Tensor:
        z = raw - target.clamp(min=TINY).log()
        near = z.clamp(-1, 1)  # in float32 the other form cancels where raw is right
        return torch.where(
            z.abs() < 1, target * (near.expm1() - near), raw.exp() - target - target * z
        )

    def _slope(self, raw: Tensor, target: Tensor) -> Tensor:
        return raw.exp_().sub_(target)


class Gamma(PositiveHead):
    """Half the gamma deviance.

    Domain: target > 0
    Link:   raw = log(mean)
    Loss:   sum over outputs of exp(z) - z - 1, z = log(target) - raw
    """

    power = 2.0

    def _half_deviance(self, raw: Tensor, target: Tensor) -> Tensor:
        z = target.log() - raw
        return z.expm1() - z

    def _slope(self, raw: Tensor, target: Tensor) -> Tensor:
        return raw.neg_().exp_().mul_(target).neg_().add_(1)


@dataclass(frozen=True)
class Tweedie(PositiveHead):
    """Half the Tweedie deviance of a power; 0 is squared error, 1 Poisson, 2 gamma.

    Domain: real (power <= 0), target >= 0 (power in (0, 2)) or target > 0 (power >= 2)
    Link:   raw = log(mean)
    Loss:   sum over outputs of max(target, 0)^(2 - power) / ((1 - power) (2 - power))
            - target * mean^(1 - power) / (1 - power) + mean^(2 - power) / (2 - power)
    """

    power: float = option(1.5, "a finite number", lambda value, head: is_number(value))

    def _half_deviance(self, raw: Tensor, target: Tensor) -> Tensor:
        if self.power in LIMITS_OF_TWEEDIE:
            return LIMITS_OF_TWEEDIE[self.power](self.n_targets)._half_deviance(raw, target)
        a, b = 1 - self.power, 2 - self.power
        z = raw - target.clamp(min=TINY).log()
        near = z.clamp(-1, 1)  # in float32 the other form cancels where raw is right
        best = (target.clamp(min=0) if self.power else target) ** b
        return torch.where(
            z.abs() < 1,
            best * ((b * near).expm1() / b - (a * near).expm1() / a),
            best / (a * b) - target * (a * raw).exp() / a + (b * raw).exp() / b,
        )

    def _slope(self, raw: Tensor, target: Tensor) -> Tensor:
        factor = (raw * (1 - self.power)).exp_()
        return factor.mul_(raw.exp_().sub_(target))


#: power -> what Tweedie's formula tends to there
LIMITS_OF_TWEEDIE: dict[float, type[PositiveHead]] = {1: Poisson, 2: Gamma}


@dataclass(frozen=True)
class Gaussian(LocationHead):
    """Log-likelihood of a normal distribution whose variance is learnt, as nn.GaussianNLLLoss.

    Domain: real numbers
    Link:   raw = (means, v), variance = softplus(v) + eps in standardised units
    Loss:   sum over targets of (log(variance) + (mean - target)^2 / variance) / 2, plus
            log(2 pi) / 2 if full; reported as the mean over targets
    """

    eps: float = option(1e-6, "a number > 0", lambda value, head: is_positive(value))
    full: bool = option(False, "True or False", lambda value, head: isinstance(value, bool))

    @property
    def n_outputs(self) -> int:
        """A mean and a variance per target."""
        return 2 * self.n_targets

    @property
    def loss_scale(self) -> float:
        """Report the mean over targets."""
        return 1 / self.n_targets

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        mean, v = raw.tensor_split(2, -1)
        variance = F.softplus(v) + self.eps
        loss = 0.5 * (variance.log() + (mean - target).square() / variance).sum(-1)
        return loss + 0.5 * self.n_targets * math.log(2 * math.pi) if self.full else loss

    def residual(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return e / variance and sigmoid(v) (1 - e^2 / variance) / (2 variance), e the error."""
        mean, v = raw.tensor_split(2, -1)
        precision = F.softplus(v).add_(self.eps).reciprocal_()
        error = mean - target
        scaled = error * precision
        slope = scaled.mul(error).neg_().add_(1).mul_(precision).mul_(torch.sigmoid(v)).mul_(0.5)
        return torch.cat([scaled, slope], -1)

    def inverse_link(self, raw: Tensor) -> Tensor:
        """Return the means."""
        return raw[..., : self.n_targets]

    def deviation(self, raw: Tensor, scale: Any = 1.0) -> Tensor:
        """Return the standard deviation (..., n_targets), times the scale of y."""
        deviation = (F.softplus(raw[..., self.n_targets :]) + self.eps).sqrt()
        return deviation * torch.as_tensor(scale, dtype=raw.dtype, device=raw.device)

    def raw_affine(self, mean: np.ndarray, deviation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and scale for the means, 0 and 1 for v."""
        center, scale = self.standardization(mean, deviation)
        return np.append(center, np.zeros_like(mean)), np.append(scale, np.ones_like(mean))

    def change_of_unit(self, old: Spread, new: Spread) -> ChangeOfUnit:
        """Return the change, exact for the means.

        The variance is multiplied by a factor; its log is added to v, which is nearly the same as
        long as v is not large: softplus(v) is near exp(v).
        """
        change = super().change_of_unit(old, new)
        change.offset[self.n_targets :] += 2 * np.log(change.gain[: self.n_targets])
        return change
