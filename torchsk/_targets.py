"""What y means: labels of classes or numbers, how they are encoded and decoded."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.utils import column_or_1d
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target

from torchsk._data import Data


class Targets(ABC):
    """What an estimator has learnt from y alone."""

    #: "binary", "multiclass", "multilabel" or "regression"
    problem: str

    @property
    @abstractmethod
    def n_targets(self) -> int:
        """Number of classes (multiclass), of labels (multilabel), 1 (binary), or columns of y."""

    @abstractmethod
    def encode(self, y: Any, complete: bool = False) -> np.ndarray:
        """Return y as the heads take it, or raise; `complete` y must have every known class."""

    @abstractmethod
    def decode(self, y: np.ndarray) -> np.ndarray:
        """Return encoded y as the user gave it."""

    def stratify(self, y: np.ndarray) -> np.ndarray | None:
        """Return what a split of encoded y is stratified by."""
        return None

    def weigh(self, data: Data, class_weight: Any, incremental: bool) -> Data:
        """Return the data with class weights multiplied into the sample weights."""
        return data


@dataclass(frozen=True)
class Numbers(Targets):
    """Targets of a regressor; encoded, they are float64 (n_samples, n_targets)."""

    n_columns: int

    problem = "regression"

    @classmethod
    def learn(cls, y: Any) -> tuple["Numbers", np.ndarray]:
        """Return what y (n_samples,) or (n_samples, n_targets) is, and y encoded."""
        targets = cls(1 if y.ndim == 1 else y.shape[1])
        return targets, targets.encode(y)

    @property
    def n_targets(self) -> int:
        """Number of columns of y."""
        return self.n_columns

    def encode(self, y: Any, complete: bool = False) -> np.ndarray:
        """Return y in columns."""
        if hasattr(y, "toarray"):
            raise TypeError("y must be dense, not sparse: use y.toarray().")
        if y.dtype.kind in "mM":
            raise ValueError(f"y must hold numbers; got y of the type {y.dtype}.")
        return y.reshape(len(y), -1).astype(np.float64)

    def decode(self, y: np.ndarray) -> np.ndarray:
        """Return y (n_samples,) if it is one column."""
        return y[:, 0] if y.shape[1] == 1 else y


@dataclass(frozen=True, eq=False)
class Labels(Targets):
    """Targets of a classifier; encoded, they are class codes or label indicators.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
        The class labels, sorted; ``arange(n_labels)`` in multilabel problems.
    problem : {"binary", "multiclass", "multilabel"}
    """

    classes: np.ndarray
    problem: str

    @classmethod
    def learn(cls, y: Any, classes: np.ndarray | None = None) -> tuple["Labels", np.ndarray]:
        """Return what labels y holds, and y encoded; all classes may be known beforehand."""
        y, seen = _as_labels(y)
        classes = seen if classes is None else classes
        targets = cls(classes, _problem(y, classes))
        return targets, targets._encode(y, seen)

    @property
    def n_targets(self) -> int:
        """Number of classes or labels; 1 in binary problems."""
        return 1 if self.problem == "binary" else len(self.classes)

    def encode(self, y: Any, complete: bool = False) -> np.ndarray:
        """Return class codes (n_samples,) or indicators (n_samples, n_labels), int64."""
        return self._encode(*_as_labels(y), complete)

    def _encode(self, y: np.ndarray, classes: np.ndarray, complete: bool = False) -> np.ndarray:
        seen, known = set(classes.tolist()), set(self.classes.tolist())
        if complete and seen != known:
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous "
                f"call to fit. Previously got {self.classes}, `y` has {classes}"
            )
        if not seen <= known:
            raise ValueError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes}. "
                f"'y' has {classes}."
            )
        problem = _problem(y, self.classes)
        if problem != self.problem:
            raise ValueError(
                f"y must be {self.problem} as in the first call; got {problem} labels."
            )
        return y.astype(np.int64) if y.ndim == 2 else np.searchsorted(self.classes, y)

    def decode(self, y: np.ndarray) -> np.ndarray:
        """Return the labels of class codes; indicators are their own labels."""
        return y if y.ndim == 2 else self.classes[y]

    def predict(self, decision: np.ndarray) -> np.ndarray:
        """Return the labels of decision values (n_samples, 1 or n_classes)."""
        if self.problem == "multiclass":
            return self.decode(decision.argmax(axis=1))
        positive = (decision > 0).astype(int)
        if self.problem == "multilabel":
            return positive
        return self.decode(np.minimum(positive[:, 0], len(self.classes) - 1))

    def stratify(self, y: np.ndarray) -> np.ndarray | None:
        """Return the class codes, as scikit-learn's MLP does: where there is one output."""
        return y.astype(bool).reshape(-1, 1) if self.problem == "binary" else None

    def weigh(self, data: Data, class_weight: Any, incremental: bool) -> Data:
        """Return the data with class weights multiplied into the sample weights."""
        if class_weight is None:
            return data
        if incremental and isinstance(class_weight, str):
            raise ValueError(
                "class_weight must be None or a dict in partial_fit, which sees a part of the data "
                "only; got class_weight='balanced'."
            )
        if isinstance(class_weight, list) and self.problem != "multilabel":
            raise ValueError(
                "class_weight must be a dict or 'balanced' where y is not multilabel; got "
                f"class_weight={class_weight!r}."
            )
        if self.problem == "multilabel":
            is_dict = isinstance(class_weight, dict)
            per_label = [class_weight] * data.y.shape[1] if is_dict else class_weight
            weight = compute_sample_weight(per_label, data.y)
        else:
            with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
                weight = compute_class_weight(
                    class_weight,
                    classes=self.classes,
                    y=self.classes[data.y],
                    sample_weight=data.weight,
                )[data.y]
        if data.weight is not None:  # "balanced" is infinite for a class without weight
            weight = np.multiply(
                weight, data.weight, out=np.zeros(len(weight)), where=data.weight > 0
            )
        return replace(data, weight=weight)


def _as_labels(y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return (labels (n_samples,) or indicators (n_samples, n_labels), their classes), or raise."""
    check_classification_targets(y)
    y = y.toarray() if hasattr(y, "toarray") else y
    if y.ndim == 2 and y.shape[1] == 1:
        y = column_or_1d(y, warn=True)
    if y.ndim == 2 and type_of_target(y) != "multilabel-indicator":
        raise ValueError(
            "y must be 1-D, or a binary matrix in multilabel problems; got a matrix of type "
            f"{type_of_target(y)!r}."
        )
    return y, np.unique(y) if y.ndim == 1 else np.arange(y.shape[1])


def _problem(y: np.ndarray, classes: np.ndarray) -> str:
    """Return the kind of problem that labels with these classes pose."""
    if y.ndim == 2:
        return "multilabel"
    return "multiclass" if len(classes) > 2 else "binary"
