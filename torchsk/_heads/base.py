"""What a head is: the bases of all losses, by what they predict."""

from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from sklearn.metrics import r2_score
from torch import Tensor
from torch.nn import functional as F

from torchsk._heads.tools import as_plain, average, log_softmax, softmax

#: mean and deviation (n_targets,) of y, the root of its mean squared distance from the mean as
#: `Head.measure` has it; a deviation of 0 stands for none known yet
Spread = tuple[np.ndarray, np.ndarray]


class ChangeOfUnit(NamedTuple):
    """What becomes of raw outputs and losses when y is standardised anew.

    ``gain * raw + offset``, each (n_outputs,), means in the new unit what raw means in the old one.
    Each target's part of the loss is multiplied by `loss` (n_targets,).
    """

    gain: np.ndarray
    offset: np.ndarray
    loss: np.ndarray


@dataclass(frozen=True)
class Head(ABC):
    """What a loss implies for the end of a network.

    Heads hold numbers and tuples, no tensors.

    Parameters
    ----------
    n_targets : int
        Number of classes (multiclass), of labels (multilabel), 1 (binary), or of columns of y
        (regression).
    """

    n_targets: int

    #: name of the output activation, as in scikit-learn's ``out_activation_``
    out_activation: ClassVar[str] = "identity"
    #: whether the loss is a user's own code
    calls_user: ClassVar[bool] = False
    #: whether fitting standardised targets gives the same model as fitting the targets
    equivariant: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the loss's parameters and store them as plain numbers and tuples."""
        for option in fields(self):
            if "rule" in option.metadata:
                value = as_plain(getattr(self, option.name))
                if not option.metadata["is_valid"](value, self):
                    raise ValueError(
                        f"{option.name} must be {option.metadata['rule']}; "
                        f"got {option.name}={value!r}."
                    )
                object.__setattr__(self, option.name, value)

    @property
    def shape_hint(self) -> str:
        """What to say of a module's output of another shape."""
        return ""

    #: what to say of raw that looks like probabilities where this head takes logits
    probability_hint: ClassVar[str] = ""

    @property
    def n_outputs(self) -> int:
        """Number of raw outputs that the network must have."""
        return self.n_targets

    @property
    def on_logits(self) -> "Head":
        """The head that trains the built-in MLP, whose last layer is linear."""
        return self

    @property
    def stack_key(self) -> Hashable:
        """What two heads must share for either to train the other's network: all that is theirs."""
        return self

    @property
    def loss_scale(self) -> float:
        """Factor between the optimised loss and the reported one."""
        return 1.0

    @property
    def per_sample(self) -> bool:
        """Whether samples can be weighed (not if the loss is one number for a whole batch)."""
        return True

    def check_target(self, y: np.ndarray, name: str = "y") -> None:
        """Raise a ValueError when y (n_samples, n_targets) is outside the loss's domain."""
        if y.ndim == 2 and y.shape[1] != self.n_targets:
            raise ValueError(f"{name} must have {self.n_targets} columns; got {y.shape[1]}.")

    def check_raw(self, raw: Tensor) -> None:
        """Raise a ValueError when the output of a user's module cannot be this head's raw."""
        if raw.ndim != 2 or raw.shape[1] != self.n_outputs:
            raise ValueError(
                f"module must return a tensor (n_samples, {self.n_outputs}) for this loss and y; "
                f"got the shape {tuple(raw.shape)}.{self.shape_hint}"
            )

    def are_probabilities(self, raw: Tensor) -> bool:
        """Return whether raw looks like probabilities where this head takes logits."""
        return False

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

    def standardization(
        self, mean: np.ndarray, deviation: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the (center, scale) to standardise y by; a deviation is 0 if none is known."""
        return mean, np.where(deviation > 0, deviation, 1.0)

    #: how the spread of y is measured, if not by squared differences: `distance`, `about`
    measure: ClassVar[Any] = None

    def standardized(self, mean: np.ndarray, deviation: np.ndarray) -> "Head":
        """Return the head for standardised targets; only if equivariant."""
        return self

    def raw_affine(self, mean: np.ndarray, deviation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (offset, factor), each (n_outputs,), that bring raw back to y's own unit."""
        return self.standardization(mean, deviation)

    def loss_unit(self, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
        """Return the loss in y's own unit over that in standardised units, (n_targets,)."""
        return np.ones_like(mean)

    def change_of_unit(self, old: Spread, new: Spread) -> ChangeOfUnit:
        """Return what becomes of raw outputs when the mean and the deviation of y do."""
        old = self._completed(old, new)
        offset, factor = self.raw_affine(*old)
        new_offset, new_factor = self.raw_affine(*new)
        gain, offset = factor / new_factor, (offset - new_offset) / new_factor
        return ChangeOfUnit(gain, offset, self.loss_unit(*old) / self.loss_unit(*new))

    def _completed(self, old: Spread, new: Spread) -> Spread:
        """Return the old mean and deviation, with the new ones for what was not known yet."""
        return old[0], np.where(old[1] > 0, old[1], new[1])

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

    def log_proba(self, raw: Tensor) -> Tensor:
        """Return the logarithms of the probabilities of both classes, or of all classes or labels.

        They are taken from the logits: a probability that is 0 in raw's dtype has a logarithm too.
        """
        decision = self.decision(raw)
        if self.n_targets == 1:
            return F.logsigmoid(torch.cat([-decision, decision], -1))
        return self._log_link(decision)

    @abstractmethod
    def _log_link(self, decision: Tensor) -> Tensor:
        """Return the logarithm of the inverse link, where there are several classes or labels."""

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

    def _log_link(self, decision: Tensor) -> Tensor:
        return F.logsigmoid(decision)

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
        return softmax(raw).contiguous()

    def decision(self, raw: Tensor) -> Tensor:
        """Return raw, or in binary problems the lead of the positive class."""
        return raw if self.n_targets > 1 else raw[..., 1:] - raw[..., :1]

    def _log_link(self, decision: Tensor) -> Tensor:
        return log_softmax(decision).contiguous()

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

    log_proba = inverse_link


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
        residual = average((y - self.inverse_link(raw).to(torch.float64)) ** 2, weight)
        total = average((y - average(y, weight)) ** 2, weight)
        r2 = torch.where(total > 0, 1 - residual / total, (residual == 0).to(torch.float64))
        return float(r2.mean())

    def score_prediction(
        self, y: np.ndarray, prediction: np.ndarray, sample_weight: np.ndarray | None = None
    ) -> float:
        """Return what score returns, from y and the array that `predict` returned."""
        return float(r2_score(y, prediction, sample_weight=sample_weight))
