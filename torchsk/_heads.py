"""A loss and everything that follows from it: output layer, target encoding, link, score.

A network ends in `raw` outputs. A *head* knows what they mean. Estimators and trainer only ask
the head; no other file looks at the name of a loss. A new loss is one class and one row of
`LOSSES`.

Shapes: `raw` is (..., n_samples, n_outputs) and `target` is (..., n_samples, n_columns); leading
axes (a stack of models) broadcast. `loss` reduces the last axis only.
"""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from numbers import Real
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from sklearn.metrics import d2_pinball_score, r2_score
from torch import Tensor, nn
from torch.nn import functional as F

#: a normal float32 just above 0, and the exponent up to which exp is at home in float32
_TINY, _MAX_EXPONENT = 1.2e-38, 60.0


def _option(default: Any, rule: str, is_valid: Callable[[Any, Any], bool], **kwargs: Any) -> Any:
    """Declare a parameter of a loss: what it must be, and `is_valid(value, head)`."""
    return field(default=default, metadata={"rule": rule, "is_valid": is_valid}, **kwargs)


@dataclass(frozen=True)
class Head(ABC):
    """What a loss implies for the end of a network.

    Heads hold numbers and tuples, no tensors. Two fits can be stacked if their heads are equal.

    Parameters
    ----------
    n_targets : int
        Number of classes (multiclass), of labels (multilabel), 1 (binary), or of columns of y
        (regression).
    """

    n_targets: int

    #: name of the output activation, as in scikit-learn's ``out_activation_``
    out_activation: ClassVar[str] = "identity"
    #: whether fitting standardised targets gives the same model as fitting the targets
    equivariant: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the loss's parameters and store them as plain numbers and tuples."""
        for option in fields(self):
            if "rule" in option.metadata:
                value = _as_plain(getattr(self, option.name))
                if not option.metadata["is_valid"](value, self):
                    raise ValueError(
                        f"{option.name} must be {option.metadata['rule']}; "
                        f"got {option.name}={value!r}."
                    )
                object.__setattr__(self, option.name, value)

    @property
    def n_outputs(self) -> int:
        """Number of raw outputs that the network must have."""
        return self.n_targets

    @property
    def on_logits(self) -> "Head":
        """The head that trains the built-in MLP, whose last layer is linear."""
        return self

    @property
    def loss_scale(self) -> float:
        """Factor between the optimised loss and the reported one."""
        return 1.0

    @property
    def per_sample(self) -> bool:
        """Whether samples can be weighed (not if the loss is one number for a whole batch)."""
        return True

    def check_target(self, y: np.ndarray) -> None:  # noqa: B027  (most losses accept every y)
        """Raise a ValueError when y (n_samples, n_targets) is outside the loss's domain."""

    def check_raw(self, raw: Tensor) -> None:
        """Raise a ValueError when the output of a user's module cannot be this head's raw."""
        if raw.ndim != 2 or raw.shape[1] != self.n_outputs:
            raise ValueError(
                f"module must return a tensor (n_samples, {self.n_outputs}) for this loss and y; "
                f"got the shape {tuple(raw.shape)}."
            )

    @abstractmethod
    def encode(self, y: np.ndarray) -> np.ndarray:
        """Turn y (codes, indicator matrix or numbers) into the target (n_samples, n_columns)."""

    @abstractmethod
    def decode(self, target: Tensor) -> Tensor:
        """Return y from the target; the inverse of encode."""

    @abstractmethod
    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return the loss of every sample (..., n_samples)."""

    def residual(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return d loss / d raw in a new tensor of raw's shape, by autograd on raw alone."""
        with torch.inference_mode(False), torch.enable_grad():
            leaf = raw.clone() if raw.is_inference() else raw.detach()
            target = target.clone() if target.is_inference() else target
            (gradient,) = torch.autograd.grad(self.loss(leaf.requires_grad_(), target).sum(), leaf)
        return gradient.contiguous()  # autograd may return one number, expanded

    def standardization(self, mean: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the (center, scale) to standardise y by, given its mean and its deviation."""
        return mean, scale

    def standardized(self, scale: np.ndarray) -> "Head":
        """Return the head for targets divided by scale (n_targets,); only if equivariant."""
        return self

    def raw_affine(self, mean: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (offset, factor), each (n_outputs,), that bring raw back to y's own unit."""
        return mean, scale

    @abstractmethod
    def inverse_link(self, raw: Tensor) -> Tensor:
        """Return the mean, or the probabilities, that raw stands for."""

    @abstractmethod
    def score(self, raw: Tensor, target: Tensor, weight: Tensor | None) -> float:
        """Return the estimator's default score of raw (n_samples, n_outputs)."""


class ClassificationHead(Head):
    """A head whose predictions are classes.

    `decision` and `inverse_link` have one column per class (multiclass) or per label
    (multilabel); a binary problem has the single column of its positive class.
    """

    #: whether raw stands for probabilities; if not, inverse_link raises
    has_proba: ClassVar[bool] = True

    @abstractmethod
    def decision(self, raw: Tensor) -> Tensor:
        """Return logits or margins (> 0: positive, in binary and multilabel problems)."""

    @abstractmethod
    def predict_codes(self, raw: Tensor) -> Tensor:
        """Return class codes (..., n_samples), or label indicators if multilabel; int64."""

    def score(self, raw: Tensor, target: Tensor, weight: Tensor | None) -> float:
        """Return the accuracy (of the whole row in multilabel problems)."""
        # by numpy, as accuracy_score: equal scores must be equal to the last bit
        correct = self._is_correct(raw, target).cpu().numpy()
        return float(np.average(correct, weights=None if weight is None else weight.cpu().numpy()))

    @abstractmethod
    def _is_correct(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return whether each sample is classified correctly, bool (..., n_samples)."""


class LabelsHead(ClassificationHead):
    """A classification head with one output per yes/no label (one for binary problems)."""

    out_activation = "logistic"

    def encode(self, y: np.ndarray) -> np.ndarray:
        """Return y as floats 0 and 1, (n_samples, n_labels)."""
        return y.reshape(len(y), -1).astype(np.float32)

    def decode(self, target: Tensor) -> Tensor:
        """Return 0 and 1: (n_samples,) if there is one label, else (n_samples, n_labels)."""
        labels = (target > 0.5).to(torch.int64)
        return labels.squeeze(-1) if self.n_targets == 1 else labels

    def inverse_link(self, raw: Tensor) -> Tensor:
        """Return the probabilities of the positive class, per label."""
        return torch.sigmoid(raw)

    def decision(self, raw: Tensor) -> Tensor:
        """Return raw: the logits, or margins, of the labels."""
        return raw

    def predict_codes(self, raw: Tensor) -> Tensor:
        """Return 0 or 1: (..., n_samples) if there is one label, else (..., n_labels)."""
        labels = (self.decision(raw) > 0).to(torch.int64)
        return labels.squeeze(-1) if self.n_targets == 1 else labels

    def _is_correct(self, raw: Tensor, target: Tensor) -> Tensor:
        return ((self.decision(raw) > 0) == (target > 0.5)).all(-1)


class ClassesHead(ClassificationHead):
    """A classification head with one output per class (two for binary problems)."""

    out_activation = "softmax"

    @property
    def n_outputs(self) -> int:
        """One per class; two for a binary problem."""
        return max(2, self.n_targets)

    def encode(self, y: np.ndarray) -> np.ndarray:
        """Return the class codes, int64 (n_samples, 1)."""
        return y.reshape(-1, 1).astype(np.int64)

    def decode(self, target: Tensor) -> Tensor:
        """Return the class codes (n_samples,)."""
        return target.squeeze(-1)

    def inverse_link(self, raw: Tensor) -> Tensor:
        """Return the probabilities of the classes; rows sum to 1."""
        if self.n_targets == 1:
            return torch.sigmoid(self.decision(raw))
        return _softmax(raw).contiguous()

    def decision(self, raw: Tensor) -> Tensor:
        """Return raw, or in binary problems the lead of the positive class."""
        return raw if self.n_targets > 1 else raw[..., 1:] - raw[..., :1]

    def predict_codes(self, raw: Tensor) -> Tensor:
        """Return the code of the largest output, (..., n_samples)."""
        return raw.argmax(-1)

    def _is_correct(self, raw: Tensor, target: Tensor) -> Tensor:
        return raw.argmax(-1) == target.squeeze(-1)


class _Margins(ClassificationHead):
    """What heads without probabilities share."""

    out_activation = "identity"
    has_proba = False

    def inverse_link(self, raw: Tensor) -> Tensor:
        """Raise: a margin stands for no probability."""
        raise AttributeError("The hinge loss has no probabilities.")


class RegressionHead(Head):
    """A head whose predictions are numbers."""

    def encode(self, y: np.ndarray) -> np.ndarray:
        """Return the target of y (n_samples, n_targets), y being already standardised."""
        return y

    def decode(self, target: Tensor) -> Tensor:
        """Return y (..., n_targets) from the target; the inverse of encode."""
        return target

    def inverse_link(self, raw: Tensor) -> Tensor:
        """Return the predicted numbers, (..., n_samples, n_targets)."""
        return raw

    def as_prediction(self, values: np.ndarray) -> np.ndarray:
        """Return values (n_samples, n_columns) in the shape that `predict` returns."""
        return values[:, 0] if values.shape[1] == 1 else values

    def deviation(self, raw: Tensor, scale: Any = 1.0) -> Tensor:
        """Return the standard deviation (..., n_targets) of y, scale being that of raw_affine."""
        raise ValueError(
            "return_std must be False unless loss='gaussian', the loss that learns a deviation; "
            "got return_std=True."
        )

    def score(self, raw: Tensor, target: Tensor, weight: Tensor | None) -> float:
        """Return R^2, averaged over the columns of y (R^2 does not see y's centre and scale)."""
        y = self.decode(target).to(torch.float64)
        residual = _average((y - self.inverse_link(raw).to(torch.float64)) ** 2, weight)
        total = _average((y - _average(y, weight)) ** 2, weight)
        r2 = torch.where(total > 0, 1 - residual / total, (residual == 0).to(torch.float64))
        return float(r2.mean())

    def score_prediction(
        self, y: np.ndarray, prediction: np.ndarray, sample_weight: np.ndarray | None = None
    ) -> float:
        """Return what score returns, from y and the array that `predict` returned."""
        return float(r2_score(y, prediction, sample_weight=sample_weight))


# --------------------------------------------------------------------------------------
# Classification
# --------------------------------------------------------------------------------------

_SMOOTHING = ("a number in [0, 1)", lambda value, head: _is_number(value) and 0 <= value < 1)
_WEIGHT = (
    "None or one number >= 0 per class, in the order of classes_",
    lambda value, head: (
        value is None or (_are_numbers(value, 0.0) and np.shape(value) == (head.n_outputs,))
    ),
)


@dataclass(frozen=True)
class Binomial(LabelsHead):
    """Log loss of independent yes/no labels: binary and multilabel classification.

    Domain: target in {0, 1}; with label_smoothing s it is moved to s / 2 and 1 - s / 2
    Link:   raw = log(p / (1 - p))
    Loss:   sum over labels of log(1 + exp(raw)) - target * raw;
            with pos_weight, target * log(p) is multiplied by it, as nn.BCEWithLogitsLoss does
    """

    label_smoothing: float = _option(0.0, *_SMOOTHING)
    pos_weight: float | tuple[float, ...] | None = _option(
        None,
        "None, a number >= 0, or one per label",
        lambda value, head: (
            value is None or (_are_numbers(value, 0.0) and np.size(value) in (1, head.n_targets))
        ),
    )

    def encode(self, y: np.ndarray) -> np.ndarray:
        """Return y as (smoothed) floats 0 and 1, (n_samples, n_labels)."""
        target = super().encode(y)
        return target + self.label_smoothing * (0.5 - target) if self.label_smoothing else target

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        if self.pos_weight is None:
            return (F.softplus(raw) - target * raw).sum(-1)
        positive = target * _constant(self.pos_weight, raw)
        return (positive * F.softplus(-raw) + (1 - target) * F.softplus(raw)).sum(-1)

    def residual(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return p - target, or with pos_weight w: (1 - target) p - w target (1 - p)."""
        p = torch.sigmoid(raw)
        if self.pos_weight is None:
            return p.sub_(target)
        positive = target * _constant(self.pos_weight, raw)
        return p.mul_(positive + (1 - target)).sub_(positive)


class BinaryCrossEntropy(Binomial):
    """Log loss of yes/no labels where the network itself returns the probabilities.

    Domain: target in {0, 1}
    Link:   raw = p; log(p) and log(1 - p) are clipped at -87, as nn.BCELoss clips at -100
    Loss:   sum over labels of -target * log(raw) - (1 - target) * log(1 - raw)
    """

    @property
    def on_logits(self) -> Head:
        """The log loss: the built-in MLP has the sigmoid added."""
        return Binomial(
            self.n_targets, label_smoothing=self.label_smoothing, pos_weight=self.pos_weight
        )

    def check_raw(self, raw: Tensor) -> None:
        """Raise a ValueError when raw is not made of probabilities."""
        super().check_raw(raw)
        if not bool(((raw >= 0) & (raw <= 1)).all()):
            raise ValueError(
                "module must return probabilities in [0, 1] for this loss (end it in a sigmoid, "
                "or name loss='log_loss'); got values in "
                f"[{float(raw.min()):.3g}, {float(raw.max()):.3g}]."
            )

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        return super().loss(self.decision(raw), target)

    # The network's own layers need autograd anyway; Binomial's closed form is for logits.
    residual = Head.residual

    def inverse_link(self, raw: Tensor) -> Tensor:
        return raw

    def decision(self, raw: Tensor) -> Tensor:
        """Return the logits of raw, at most 87 in size."""
        return raw.clamp(min=_TINY).log() - (1 - raw).clamp(min=_TINY).log()


@dataclass(frozen=True)
class Multinomial(ClassesHead):
    """Log loss of one class out of several, with a softmax; per-class weights as torch's.

    Domain: target in {0, ..., n_classes - 1}
    Link:   raw = log(p) up to a constant per sample
    Loss:   -sum over k of q_k log(p_k) with q = (1 - s) onehot(target) + s / n_classes, times
            weight_k; s = label_smoothing. Averaged over samples, not over weights as torch does
    """

    label_smoothing: float = _option(0.0, *_SMOOTHING)
    weight: tuple[float, ...] | None = _option(None, *_WEIGHT)

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        if self._is_plain:
            return torch.logsumexp(raw, -1) - _gather(raw, target).squeeze(-1)
        q = self._expected(raw, target)
        return -(q * torch.log_softmax(raw, -1)).sum(-1)

    def residual(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return p - onehot(target), in general sum(q) p - q."""
        p = _softmax(raw)
        if self._is_plain:
            return _add_at_(p, target, -1.0)
        q = self._expected(raw, target)
        return p.mul_(q.sum(-1, keepdim=True)).sub_(q)

    @property
    def _is_plain(self) -> bool:
        return self.weight is None and not self.label_smoothing

    def _expected(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return q, the (smoothed, weighted) distribution of the target, in raw's shape."""
        q = torch.full_like(raw, self.label_smoothing / self.n_outputs)
        _add_at_(q, target, 1 - self.label_smoothing)
        return q if self.weight is None else q.mul_(_constant(self.weight, raw))


class NegativeLogLikelihood(Multinomial):
    """Log loss where the network itself returns the logarithms of the probabilities.

    Domain: target in {0, ..., n_classes - 1}
    Link:   raw = log(p)
    Loss:   -weight[target] * raw[target]
    """

    out_activation = "log_softmax"

    @property
    def on_logits(self) -> Head:
        """The log loss: the built-in MLP has the log_softmax added."""
        return Multinomial(self.n_targets, label_smoothing=self.label_smoothing, weight=self.weight)

    def check_raw(self, raw: Tensor) -> None:
        """Raise a ValueError when raw is not made of logarithms of probabilities."""
        super().check_raw(raw)
        total = torch.logsumexp(raw.detach(), -1).exp()
        if not bool(((total - 1).abs() < 1e-3).all()):
            raise ValueError(
                "module must return log-probabilities for this loss (end it in a log_softmax, "
                "or name loss='cross_entropy'); got a row whose probabilities sum to "
                f"{float(total[(total - 1).abs().argmax()]):.3g}."
            )

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        if self._is_plain:
            return -_gather(raw, target).squeeze(-1)
        return -(self._expected(raw, target) * raw).sum(-1)

    def residual(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return -q."""
        return self._expected(raw, target).neg_()


class Hinge(_Margins, LabelsHead):
    """Hinge loss of yes/no labels: binary and multilabel classification, no probabilities.

    Domain: target in {-1, 1}
    Link:   raw = margin
    Loss:   sum over labels of max(0, 1 - target * raw)
    """

    def encode(self, y: np.ndarray) -> np.ndarray:
        """Return -1 and 1, (n_samples, n_labels)."""
        return 2 * super().encode(y) - 1

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        return torch.relu(1 - target * raw).sum(-1)

    def residual(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return -target where the margin is below 1."""
        return (raw * target).lt_(1).mul_(target).neg_()


@dataclass(frozen=True)
class MultiMargin(_Margins, ClassesHead):
    """Hinge loss of one class out of several, as nn.MultiMarginLoss; no probabilities.

    Domain: target in {0, ..., n_classes - 1}
    Link:   raw = margins
    Loss:   weight[target] / n_classes
            * sum over k != target of max(0, margin - raw[target] + raw[k])^p
    """

    p: int = _option(1, "1 or 2", lambda value, head: _is_number(value) and value in (1, 2))
    margin: float = _option(1.0, "a number > 0", lambda value, head: _is_positive(value))
    weight: tuple[float, ...] | None = _option(None, *_WEIGHT)

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        return (self._excess(raw, target) ** self.p * self._factor(raw, target)).sum(-1)

    def residual(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return p * excess^(p - 1) for the other classes, minus their sum for the target."""
        excess = self._excess(raw, target)
        slope = excess.gt_(0) if self.p == 1 else excess.mul_(2)
        slope = slope.mul_(self._factor(raw, target))
        return _add_at_(slope, target, slope.sum(-1, keepdim=True).neg_())

    def _excess(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return by how much each class violates the margin, 0 for the target; raw's shape."""
        excess = torch.relu(raw - _gather(raw, target) + self.margin)
        return excess.scatter(-1, _codes(raw, target), 0.0)

    def _factor(self, raw: Tensor, target: Tensor) -> float | Tensor:
        if self.weight is None:
            return 1 / self.n_outputs
        return _constant(self.weight, raw)[target] / self.n_outputs


_GAMMA = ("a number >= 0", lambda value, head: _is_number(value) and value >= 0)


@dataclass(frozen=True)
class FocalBinomial(LabelsHead):
    """Focal loss of yes/no labels (Lin et al. 2017, arXiv:1708.02002, equation 4).

    Domain: target in {0, 1}
    Link:   raw = log(p / (1 - p))
    Loss:   sum over labels of -(1 - p_t)^gamma log(p_t), p_t = the probability of the target
    """

    gamma: float = _option(2.0, *_GAMMA)

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        signed = (2 * target - 1) * raw
        return -(F.logsigmoid(signed) * (self.gamma * F.logsigmoid(-signed)).exp()).sum(-1)


@dataclass(frozen=True)
class FocalMultinomial(ClassesHead):
    """Focal loss of one class out of several (Lin et al. 2017, arXiv:1708.02002).

    Domain: target in {0, ..., n_classes - 1}
    Link:   raw = log(p) up to a constant per sample
    Loss:   -(1 - p[target])^gamma log(p[target])
    """

    gamma: float = _option(2.0, *_GAMMA)

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        total = torch.logsumexp(raw, -1)
        log_p = _gather(raw, target).squeeze(-1) - total
        others = raw.scatter(-1, _codes(raw, target), -math.inf)  # log(1 - p) without cancelling
        return -log_p * (self.gamma * (torch.logsumexp(others, -1) - total)).exp()


# --------------------------------------------------------------------------------------
# Regression
# --------------------------------------------------------------------------------------


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


_THRESHOLD = (
    "a number > 0, or one per target",
    lambda value, head: _are_numbers(value, _TINY) and np.size(value) in (1, head.n_targets),
)


class _Threshold(LocationHead):
    """An error that is quadratic up to a threshold and linear beyond it.

    The threshold is in y's own unit. It rides along in the target, (y, threshold), so that fits
    which standardise y by different scales (the folds of a cross-validation) have equal heads.
    """

    #: name of the threshold
    _threshold: ClassVar[str]

    def standardized(self, scale: np.ndarray) -> RegressionHead:
        """Return the head whose threshold is divided by scale."""
        threshold: Any = getattr(self, self._threshold) / scale
        return replace(self, **{self._threshold: threshold})

    def encode(self, y: np.ndarray) -> np.ndarray:
        """Return (y, threshold), (n_samples, 2 * n_targets)."""
        threshold = np.asarray(getattr(self, self._threshold), dtype=y.dtype)
        return np.hstack([y, np.broadcast_to(threshold, y.shape)])

    def decode(self, target: Tensor) -> Tensor:
        return target[..., : self.n_targets]

    def _error_and_threshold(self, raw: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return raw - target[..., : self.n_targets], target[..., self.n_targets :]


@dataclass(frozen=True)
class Huber(_Threshold):
    """Huber's loss, as nn.HuberLoss.

    Domain: real numbers
    Link:   raw = mean of the samples nearer than delta, in y's own unit
    Loss:   sum over outputs of e^2 / 2 if |e| <= delta else delta * (|e| - delta / 2),
            e = raw - target; reported as the mean over outputs
    """

    delta: float | tuple[float, ...] = _option(1.0, *_THRESHOLD, compare=False)

    _threshold = "delta"

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        error, delta = self._error_and_threshold(raw, target)
        size = error.abs()
        near = torch.minimum(size, delta)
        return (near * (size - 0.5 * near)).sum(-1)

    def residual(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return the error, clipped at -delta and delta."""
        error, delta = self._error_and_threshold(raw, target)
        return error.clamp_(-delta, delta)


@dataclass(frozen=True)
class SmoothL1(_Threshold):
    """Huber's loss divided by its threshold, as nn.SmoothL1Loss.

    Domain: real numbers
    Link:   raw = mean of the samples nearer than beta, in y's own unit
    Loss:   sum over outputs of e^2 / (2 beta) if |e| < beta else |e| - beta / 2,
            e = raw - target; reported as the mean over outputs
    """

    beta: float | tuple[float, ...] = _option(1.0, *_THRESHOLD, compare=False)

    _threshold = "beta"

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        error, beta = self._error_and_threshold(raw, target)
        size = error.abs()
        near = torch.minimum(size, beta)
        return (near / beta * (size - 0.5 * near)).sum(-1)

    def residual(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return error / beta, clipped at -1 and 1."""
        error, beta = self._error_and_threshold(raw, target)
        return error.div_(beta).clamp_(-1, 1)


@dataclass(frozen=True)
class Quantile(LocationHead):
    """The pinball loss of one or several quantile levels; levels vary fastest in raw.

    Domain: real numbers
    Link:   raw = quantiles; predicted sorted, so that they never cross: sorting only brings them
            nearer to the truth (Chernozhukov, Fernandez-Val, Galichon 2010, doi:10.3982/ECTA7880)
    Loss:   sum over outputs of (q - [target < raw]) * (target - raw); reported as their mean
    """

    quantile: float | tuple[float, ...] = _option(
        0.5,
        "a number in (0, 1), or an increasing list of them",
        lambda value, head: (
            _are_numbers(value, _TINY, 1.0) and bool(np.all(np.diff(np.atleast_1d(value)) > 0))
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

    def _q(self, raw: Tensor) -> Tensor:
        """Return the level of every output, (n_outputs,)."""
        return _constant(self.levels * self.n_targets, raw)

    def inverse_link(self, raw: Tensor) -> Tensor:
        """Return the quantiles (..., n_outputs), sorted within every target."""
        if len(self.levels) == 1:
            return raw
        return raw.unflatten(-1, (self.n_targets, -1)).sort(-1).values.flatten(-2)

    def raw_affine(self, mean: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and scale, repeated once per level."""
        return np.repeat(mean, len(self.levels)), np.repeat(scale, len(self.levels))

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


class PositiveHead(RegressionHead):
    """Half the Tweedie deviance of some power: y around a positive mean, with a log link.

    Exponents are kept in [-60, 60], where float32 is at home; beyond, the loss goes on along its
    tangent: finite, with the gradient of the border.

    Deviances are homogeneous: y divided by a number has its means divided by it, which is an
    offset of raw. So y is "standardised" by its mean, and a network that starts near raw = 0
    starts near the mean.
    """

    out_activation = "exp"
    equivariant = True
    #: the deviance's power: the variance of y grows as mean^power
    power: float

    def check_target(self, y: np.ndarray) -> None:
        """Raise a ValueError for y < 0 (power > 0), and y = 0 (power >= 2)."""
        is_valid = y > 0 if self.power >= 2 else y >= 0
        if self.power > 0 and not is_valid.all():
            rule = "positive" if self.power >= 2 else "non-negative"
            raise ValueError(
                f"y must be {rule} for the {type(self).__name__} loss; "
                f"got y in [{y.min():g}, {y.max():g}]."
            )

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return half the deviance, (..., n_samples)."""
        inner = self._within_limits(raw)
        tangent = self._slope(inner.detach().clone(), target) * (raw - inner)
        return (self._half_deviance(inner, target) + tangent).sum(-1)

    def residual(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return the derivative of half the deviance."""
        return self._slope(self._within_limits(raw), target)

    def _within_limits(self, raw: Tensor) -> Tensor:
        limit = _MAX_EXPONENT / max(1.0, abs(1 - self.power), abs(2 - self.power))
        return raw.clamp(-limit, limit)

    @abstractmethod
    def _half_deviance(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return half the deviance of every entry."""

    @abstractmethod
    def _slope(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return its derivative in raw, which is a temporary."""

    def inverse_link(self, raw: Tensor) -> Tensor:
        """Return exp(raw), the means; positive and finite."""
        return raw.clamp(-_MAX_EXPONENT, _MAX_EXPONENT).exp_()

    def standardization(self, mean: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (0, mean); where the mean is not positive, (0, 1)."""
        return np.zeros_like(mean), np.where(mean > 0, mean, 1.0)

    def raw_affine(self, mean: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (log(scale), 1): a factor of y is an offset of raw."""
        return np.log(scale), np.ones_like(scale)


class Poisson(PositiveHead):
    """Half the Poisson deviance.

    Domain: target >= 0
    Link:   raw = log(mean)
    Loss:   sum over outputs of target * (log(target) - raw) - target + exp(raw)
    """

    power = 1.0

    def _half_deviance(self, raw: Tensor, target: Tensor) -> Tensor:
        return target * (target.clamp(min=_TINY).log() - raw) - target + raw.exp()

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

    power: float = _option(1.5, "a finite number", lambda value, head: _is_number(value))

    def _half_deviance(self, raw: Tensor, target: Tensor) -> Tensor:
        if self.power in LIMITS_OF_TWEEDIE:
            return LIMITS_OF_TWEEDIE[self.power](self.n_targets)._half_deviance(raw, target)
        a, b = 1 - self.power, 2 - self.power
        best = (target.clamp(min=0) if self.power else target) ** b / (a * b)
        return best - target * (a * raw).exp() / a + (b * raw).exp() / b

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

    eps: float = _option(1e-6, "a number > 0", lambda value, head: _is_positive(value))
    full: bool = _option(False, "True or False", lambda value, head: isinstance(value, bool))

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

    def raw_affine(self, mean: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and scale for the means, 0 and 1 for v."""
        return np.append(mean, np.zeros_like(mean)), np.append(scale, np.ones_like(scale))


# --------------------------------------------------------------------------------------
# The user's own loss
# --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Custom(Head):
    """A loss(raw, target) of the user's, called with one batch at a time.

    `function` is a class, built with `params`, or a callable that takes them as keywords.

    It returns one number per sample, one per sample and output (they are summed), or one number:
    the mean of the batch. Then that number stands for every sample of the batch, so that mean and
    gradient are the user's own, but samples cannot be weighed (`per_sample` is False).
    """

    function: Callable[..., Any] = field(hash=False)
    params: tuple[tuple[str, Any], ...] = field(default=(), hash=False)
    call: Callable[..., Any] = field(init=False, compare=False, repr=False)
    is_scalar: bool = field(init=False)

    def __post_init__(self) -> None:
        """Call the loss once, to see whether it can be used and what it returns."""
        is_class = isinstance(self.function, type)
        call = self.function(**dict(self.params)) if is_class else self.function
        object.__setattr__(self, "call", call)
        if isinstance(call, nn.Module):
            trainable = [n for n, p in call.named_parameters() if p.requires_grad]
            if trainable:
                raise ValueError(
                    "loss must have no trainable parameters (freeze them: requires_grad_(False)); "
                    f"got loss with the parameters {trainable}."
                )
        n_samples = self.n_outputs + 2
        target = torch.from_numpy(self.encode(np.ones((n_samples, self._n_columns))))
        with torch.inference_mode(False), torch.enable_grad():
            raw = torch.zeros(n_samples, self.n_outputs, requires_grad=True)
            value = self._call(raw, target if target.dtype == torch.int64 else target.float())
        if not (
            isinstance(value, Tensor)
            and value.requires_grad
            and (value.numel() == 1 or value.shape[:1] == (n_samples,))
        ):
            got = value.shape if isinstance(value, Tensor) else value
            raise ValueError(
                "loss must return a tensor that depends on raw by torch operations, with one "
                f"number, or one per sample (here {n_samples}); got loss(raw, target)={got!r}."
            )
        object.__setattr__(self, "is_scalar", value.numel() == 1)

    @property
    def _n_columns(self) -> int:
        """Number of columns of y."""
        return self.n_targets

    @property
    def per_sample(self) -> bool:
        """Whether the loss returns one number per sample."""
        return not self.is_scalar

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        if raw.ndim > 2:
            target = target.expand(*raw.shape[:-2], *target.shape[-2:])
            return torch.stack([self.loss(r, t) for r, t in zip(raw, target, strict=True)])
        value = self._call(raw, target)
        if self.is_scalar:
            return value.reshape(1).expand(len(raw))
        return value.reshape(len(raw), -1).sum(-1)

    def _call(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return what the user's loss returns for (n_samples, n_outputs)."""
        call = self.call
        if isinstance(call, nn.Module) and any(b.device != raw.device for b in call.buffers()):
            call = deepcopy(call).to(raw.device)
        is_class = isinstance(self.function, type)
        value: Tensor = call(raw, target, **({} if is_class else dict(self.params)))
        return value


class CustomLabels(_Custom, LabelsHead):
    """The user's own loss of yes/no labels: multilabel classification.

    Domain: target in {0, 1}, (n_samples, n_labels)
    Link:   raw = log(p / (1 - p))
    Loss:   the user's
    """


class CustomClasses(_Custom, ClassesHead):
    """The user's own loss of one class out of two or more.

    Domain: target in {0, ..., n_classes - 1}, (n_samples,)
    Link:   raw = log(p) up to a constant per sample
    Loss:   the user's
    """

    @property
    def _n_columns(self) -> int:
        return 1

    def _call(self, raw: Tensor, target: Tensor) -> Tensor:
        return super()._call(raw, target.squeeze(-1))


class CustomNumbers(_Custom, RegressionHead):
    """The user's own loss of numbers.

    Domain: real numbers, (n_samples, n_targets)
    Link:   raw = prediction
    Loss:   the user's
    """


# --------------------------------------------------------------------------------------
# The registry
# --------------------------------------------------------------------------------------

#: loss -> kind of problem -> head
LOSSES: dict[str, dict[str, type[Head]]] = {
    "log_loss": {"binary": Binomial, "multilabel": Binomial, "multiclass": Multinomial},
    "cross_entropy": {"binary": Multinomial, "multiclass": Multinomial},
    "bce": {"binary": BinaryCrossEntropy, "multilabel": BinaryCrossEntropy},
    "nll": {"binary": NegativeLogLikelihood, "multiclass": NegativeLogLikelihood},
    "hinge": {"binary": Hinge, "multilabel": Hinge, "multiclass": MultiMargin},
    "focal": {"binary": FocalBinomial, "multilabel": FocalBinomial, "multiclass": FocalMultinomial},
    "squared_error": {"regression": SquaredError},
    "absolute_error": {"regression": AbsoluteError},
    "huber": {"regression": Huber},
    "smooth_l1": {"regression": SmoothL1},
    "quantile": {"regression": Quantile},
    "poisson": {"regression": Poisson},
    "gamma": {"regression": Gamma},
    "tweedie": {"regression": Tweedie},
    "gaussian": {"regression": Gaussian},
}

#: kind of problem -> head of a loss that is no row of LOSSES
CUSTOM_LOSSES: dict[str, type[_Custom]] = {
    "binary": CustomClasses,
    "multiclass": CustomClasses,
    "multilabel": CustomLabels,
    "regression": CustomNumbers,
}

#: other names of the rows of LOSSES
ALIASES: dict[str, str] = {
    "mse": "squared_error",
    "mae": "absolute_error",
    "pinball": "quantile",
}


class TorchLoss(NamedTuple):
    """The row of LOSSES that a torch loss stands for."""

    name: str
    #: options of the torch loss that are parameters of the head; the others must be left alone
    options: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ("binary", "multiclass", "multilabel", "regression")


#: torch loss -> what it stands for
TORCH_LOSSES: dict[type, TorchLoss] = {
    nn.BCEWithLogitsLoss: TorchLoss("log_loss", ("pos_weight",), ("binary", "multilabel")),
    nn.CrossEntropyLoss: TorchLoss("cross_entropy", ("weight", "label_smoothing")),
    nn.BCELoss: TorchLoss("bce"),
    nn.NLLLoss: TorchLoss("nll", ("weight",)),
    nn.MultiMarginLoss: TorchLoss("hinge", ("p", "margin", "weight"), ("multiclass",)),
    nn.MSELoss: TorchLoss("squared_error"),
    nn.L1Loss: TorchLoss("absolute_error"),
    nn.HuberLoss: TorchLoss("huber", ("delta",)),
    nn.SmoothL1Loss: TorchLoss("smooth_l1", ("beta",)),
    nn.PoissonNLLLoss: TorchLoss("poisson"),
    nn.GaussianNLLLoss: TorchLoss("gaussian", ("eps", "full")),
}


def make_head(loss: Any, loss_params: dict | None, kind: str, n_targets: int) -> Head:
    """Return the head of a loss for one kind of problem.

    Parameters
    ----------
    loss : str, type, nn.Module or callable
        A row of `LOSSES` or `ALIASES`, a torch loss of `TORCH_LOSSES` (class or instance), or the
        user's own ``loss(raw, target)``.
    loss_params : dict or None
        Parameters of the loss, by name.
    kind : {"binary", "multiclass", "multilabel", "regression"}
        Kind of problem.
    n_targets : int
        As in `Head`.

    Returns
    -------
    head : Head
        The head.

    Raises
    ------
    ValueError
        If there is no such loss for this kind of problem, or a parameter is unknown or out of
        range.
    """
    if not (loss_params is None or isinstance(loss_params, dict)):
        raise ValueError(f"loss_params must be a dict or None; got loss_params={loss_params!r}.")
    params = dict(loss_params or {})
    torch_loss = TORCH_LOSSES.get(loss if isinstance(loss, type) else type(loss))
    if torch_loss is None and callable(loss):
        return CUSTOM_LOSSES[kind](n_targets, loss, tuple(params.items()))

    name = torch_loss.name if torch_loss is not None else str(loss)
    name = ALIASES.get(name, name)
    heads = LOSSES.get(name, {})
    if kind not in heads or (torch_loss is not None and kind not in torch_loss.kinds):
        names = sorted(name for name, heads in LOSSES.items() if kind in heads)
        raise ValueError(
            f"loss must be one of {names}, a torch loss that stands for one of them, or a "
            f"callable loss(raw, target), for {kind} problems; got loss={loss!r}."
        )
    if isinstance(loss, nn.Module) and torch_loss is not None:
        params = _options_of(loss, torch_loss) | params
    known = [option.name for option in fields(heads[kind]) if "rule" in option.metadata]
    if not set(params) <= set(known):
        raise ValueError(
            f"loss_params must have no other keys than {known} for loss={name!r} in {kind} "
            f"problems; got loss_params={params!r}."
        )
    return heads[kind](n_targets, **params)


def _options_of(loss: nn.Module, torch_loss: TorchLoss) -> dict[str, Any]:
    """Return the parameters of the head that stand for the options of a torch loss."""
    params = {}
    for name, parameter in inspect.signature(type(loss)).parameters.items():
        value = getattr(loss, name, parameter.default)  # size_average, reduce: in `reduction`
        if name in torch_loss.options:
            params[name] = value
        elif not (value is parameter.default or value == parameter.default):
            raise ValueError(
                f"{name} must be {parameter.default!r} in loss=nn.{type(loss).__name__}(...); "
                f"got {name}={value!r}."
            )
    return params


# --------------------------------------------------------------------------------------
# Small tools
# --------------------------------------------------------------------------------------


def _as_plain(value: Any) -> Any:
    """Return arrays, tensors and lists as tuples, and their scalars as numbers."""
    if isinstance(value, Tensor | np.ndarray | np.generic):
        value = value.tolist()
    return tuple(value) if isinstance(value, list) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _are_numbers(value: Any, low: float, high: float = math.inf) -> bool:
    """Return whether value is a number in [low, high), or a tuple of them."""
    values = value if isinstance(value, tuple) else (value,)
    return len(values) > 0 and all(_is_number(v) and low <= v < high for v in values)


@lru_cache(maxsize=256)
def _cached_tensor(value: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(value, dtype=dtype, device=device)


def _constant(value: float | tuple[float, ...], like: Tensor) -> Tensor:
    """Return a number or a tuple as a tensor of another's type, on its device; do not change it."""
    return _cached_tensor(value, like.dtype, like.device)


def _codes(raw: Tensor, target: Tensor) -> Tensor:
    """Return class codes (..., n_samples, 1) with raw's leading axes."""
    return target.expand(*raw.shape[:-1], 1)


def _softmax(raw: Tensor) -> Tensor:
    """Return the softmax over the last axis, in a new tensor.

    torch's kernel is slow where that axis is shorter than a vector register; over the axis before
    it, it is fast at any length.
    """
    if raw.shape[-1] < 16:
        return torch.softmax(raw.mT.contiguous(), -2).mT
    return torch.softmax(raw, -1)


def _gather(raw: Tensor, target: Tensor) -> Tensor:
    """Return raw of the target's class, (..., n_samples, 1)."""
    return raw.gather(-1, _codes(raw, target))


def _add_at_(raw: Tensor, target: Tensor, value: float | Tensor) -> Tensor:
    """Add value, a number or (..., n_samples, 1), to raw at the target's class, in place."""
    codes = _codes(raw, target)
    if isinstance(value, Tensor):
        return raw.scatter_add_(-1, codes, value)
    return raw.scatter_(-1, codes, value, reduce="add")


def _average(values: Tensor, weight: Tensor | None) -> Tensor:
    """Return the (weighted) mean over the samples, the first axis."""
    if weight is None:
        return values.mean(0)
    weight = weight.to(values.dtype)
    return torch.tensordot(weight, values, dims=1) / weight.sum()
