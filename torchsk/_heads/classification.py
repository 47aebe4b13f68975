"""Losses of classes and labels."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from torchsk._heads.base import ClassesHead, Head, LabelsHead, _Margins
from torchsk._heads.tools import (
    TINY,
    add_at_,
    are_numbers,
    as_codes,
    constant,
    gather,
    is_number,
    is_positive,
    log_softmax,
    option,
    softmax,
)

_SMOOTHING = ("a number in [0, 1)", lambda value, head: is_number(value) and 0 <= value < 1)
_WEIGHT = (
    "None or one number >= 0 per class, in the order of classes_",
    lambda value, head: (
        value is None or (are_numbers(value, 0.0) and np.shape(value) == (head.n_outputs,))
    ),
)


@dataclass(frozen=True)
class Binomial(LabelsHead):
    """Log loss of independent yes/no labels: binary and multilabel classification.

    Domain: target in {0, 1}; with label_smoothing s it is moved to s / 2 and 1 - s / 2
    Link:   raw = log(p / (1 - p))
    Loss:   sum over labels of log(1 + exp(raw)) - target * raw;
            with pos_weight, target * log(p) is multiplied by it, as nn.BCEWithLogitsLoss does
            (a target of two classes is 1 where it is classes_[1])
    """

    probability_hint = "If it ends in a sigmoid, leave that out or name loss='bce'."

    label_smoothing: float = option(0.0, *_SMOOTHING)
    pos_weight: float | tuple[float, ...] | None = option(
        None,
        "None, a number >= 0, or one per label",
        lambda value, head: (
            value is None or (are_numbers(value, 0.0) and np.size(value) in (1, head.n_targets))
        ),
    )

    @property
    def shape_hint(self) -> str:
        """What goes with a module that has two outputs, in binary problems."""
        if self.n_targets > 1:
            return ""
        return (
            " A module with two outputs, one per class, goes with loss='cross_entropy' (logits) or "
            "'nll' (log-probabilities)."
        )

    def encode(self, y: np.ndarray) -> np.ndarray:
        """Return y as (smoothed) floats 0 and 1, (n_samples, n_labels)."""
        target = super().encode(y)
        return target + self.label_smoothing * (0.5 - target) if self.label_smoothing else target

    def are_probabilities(self, raw: Tensor) -> bool:
        """Return whether all lie in [0, 1]: trained logits of many rows hardly ever do."""
        return bool(((raw >= 0) & (raw <= 1)).all())

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        if self.pos_weight is None:
            return (F.softplus(raw) - target * raw).sum(-1)
        positive = target * constant(self.pos_weight, raw)
        return (positive * F.softplus(-raw) + (1 - target) * F.softplus(raw)).sum(-1)

    def residual(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return p - target, or with pos_weight w: (1 - target) p - w target (1 - p)."""
        p = torch.sigmoid(raw)
        if self.pos_weight is None:
            return p.sub_(target)
        positive = target * constant(self.pos_weight, raw)
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

    are_probabilities = Head.are_probabilities

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        return super().loss(self.decision(raw), target)

    # The network's own layers need autograd anyway; Binomial's closed form is for logits.
    residual = Head.residual

    def inverse_link(self, raw: Tensor) -> Tensor:
        return raw

    def decision(self, raw: Tensor) -> Tensor:
        """Return the logits of raw, at most 87 in size."""
        return raw.clamp(min=TINY).log() - (1 - raw).clamp(min=TINY).log()


@dataclass(frozen=True)
class Multinomial(ClassesHead):
    """Log loss of one class out of several, with a softmax; per-class weights as torch's.

    Domain: target in {0, ..., n_classes - 1}
    Link:   raw = log(p) up to a constant per sample
    Loss:   -sum over k of q_k log(p_k) with q = (1 - s) onehot(target) + s / n_classes, times
            weight_k; s = label_smoothing. Averaged over samples, not over weights as torch does
    """

    probability_hint = (
        "If it ends in a softmax, leave that out, or end it in a log_softmax and name loss='nll'."
    )

    label_smoothing: float = option(0.0, *_SMOOTHING)
    weight: tuple[float, ...] | None = option(None, *_WEIGHT)

    @property
    def shape_hint(self) -> str:
        """What goes with a module that has one output, in binary problems."""
        if self.n_targets > 1:
            return ""
        return (
            " A module with one output goes with loss='log_loss' (logits) or 'bce' (probabilities)."
        )

    def are_probabilities(self, raw: Tensor) -> bool:
        """Return whether all are positive and every row sums to 1."""
        return bool(((raw >= 0).all(-1) & ((raw.sum(-1) - 1).abs() < 1e-4)).all())

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        if self._is_plain:
            return -gather(log_softmax(raw), target).squeeze(-1)
        q = self._expected(raw, target)
        return -(q * log_softmax(raw)).sum(-1)

    def residual(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return p - onehot(target), in general sum(q) p - q."""
        p = softmax(raw)
        if self._is_plain:
            return add_at_(p, target, -1.0)
        q = self._expected(raw, target)
        return p.mul_(q.sum(-1, keepdim=True)).sub_(q)

    @property
    def _is_plain(self) -> bool:
        return self.weight is None and not self.label_smoothing

    def _expected(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return q, the (smoothed, weighted) distribution of the target, in raw's shape."""
        q = torch.full_like(raw, self.label_smoothing / self.n_outputs)
        add_at_(q, target, 1 - self.label_smoothing)
        return q if self.weight is None else q.mul_(constant(self.weight, raw))


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

    are_probabilities = Head.are_probabilities

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        if self._is_plain:
            return -gather(raw, target).squeeze(-1)
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

    p: int = option(1, "1 or 2", lambda value, head: is_number(value) and value in (1, 2))
    margin: float = option(1.0, "a number > 0", lambda value, head: is_positive(value))
    weight: tuple[float, ...] | None = option(None, *_WEIGHT)

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        return (self._excess(raw, target) ** self.p * self._factor(raw, target)).sum(-1)

    def residual(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return p * excess^(p - 1) for the other classes, minus their sum for the target."""
        excess = self._excess(raw, target)
        slope = excess.gt_(0) if self.p == 1 else excess.mul_(2)
        slope = slope.mul_(self._factor(raw, target))
        return add_at_(slope, target, slope.sum(-1, keepdim=True).neg_())

    def _excess(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return by how much each class violates the margin, 0 for the target; raw's shape."""
        excess = torch.relu(raw - gather(raw, target) + self.margin)
        return excess.scatter(-1, as_codes(raw, target), 0.0)

    def _factor(self, raw: Tensor, target: Tensor) -> float | Tensor:
        if self.weight is None:
            return 1 / self.n_outputs
        return constant(self.weight, raw)[target] / self.n_outputs


_GAMMA = ("a number >= 0", lambda value, head: is_number(value) and value >= 0)


@dataclass(frozen=True)
class FocalBinomial(LabelsHead):
    """Focal loss of yes/no labels (Lin et al. 2017, arXiv:1708.02002, equation 4).

    Domain: target in {0, 1}
    Link:   raw = log(p / (1 - p))
    Loss:   sum over labels of -(1 - p_t)^gamma log(p_t), p_t = the probability of the target
    """

    gamma: float = option(2.0, *_GAMMA)

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

    gamma: float = option(2.0, *_GAMMA)

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        total = torch.logsumexp(raw, -1)
        log_p = gather(raw, target).squeeze(-1) - total
        others = raw.scatter(-1, as_codes(raw, target), -math.inf)  # log(1 - p) without cancelling
        return -log_p * (self.gamma * (torch.logsumexp(others, -1) - total)).exp()
