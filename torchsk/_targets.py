"""What y means: labels of classes or numbers, how they are encoded and decoded."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.model_selection import train_test_split
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

    def split(
        self, y: np.ndarray, fraction: float, rng: np.random.RandomState
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (training rows, held-out rows) of encoded y, as scikit-learn's MLP splits."""
        train, held_out = train_test_split(np.arange(len(y)), random_state=rng, test_size=fraction)
        return train, held_out

    def is_constant(self, y: np.ndarray) -> bool:
        """Return whether a score of encoded y could not tell good predictions from bad ones."""
        return False

    def class_weights(
        self, data: Data, held_out: Data | None, class_weight: Any, incremental: bool
    ) -> tuple[Data, Data | None]:
        """Return both with class weights, those of the data, multiplied into sample weights."""
        return data, held_out


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
        if y.dtype.kind not in "biuf":
            raise ValueError(
                f"y must hold numbers (labels are for TorchClassifier); got y of dtype {y.dtype}."
            )
        return y.reshape(len(y), -1).astype(np.float64)

    def decode(self, y: np.ndarray) -> np.ndarray:
        """Return y (n_samples,) if it is one column."""
        return y[:, 0] if y.shape[1] == 1 else y

    def is_constant(self, y: np.ndarray) -> bool:
        """Return whether a column is one number, of which R2 and its kin explain nothing."""
        return bool((y == y[0]).all(axis=0).any())


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
                f"`y` has {classes}."
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

    def split(
        self, y: np.ndarray, fraction: float, rng: np.random.RandomState
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (training rows, held-out rows) of encoded y.

        As scikit-learn's MLP does, draw for draw, which stratifies binary problems only; but where
        that would leave a class without training or held-out rows, or is not possible, stratified
        as far as the rows of each class allow. Fewer than two held-out rows are an error: there
        binary problems keep scikit-learn's words.
        """
        if self.problem == "multilabel":
            return super().split(y, fraction, rng)
        counts = np.bincount(y, minlength=len(self.classes))
        n_held_out = math.ceil(fraction * len(y))
        can = n_held_out < 2 or _can_stratify(counts[counts > 0], n_held_out, len(y))
        if self.problem == "binary" and not can:
            return _stratified(y, counts, n_held_out, rng)
        state = rng.get_state()
        train, held_out = train_test_split(
            np.arange(len(y)),
            random_state=rng,
            test_size=fraction,
            # as scikit-learn names the classes where it can not
            stratify=y.astype(bool).reshape(-1, 1) if self.problem == "binary" else None,
        )
        seen = set(np.unique(y).tolist())
        if all(set(np.unique(y[part]).tolist()) == seen for part in (train, held_out)):
            return train, held_out
        rng.set_state(state)
        return _stratified(y, counts, n_held_out, rng)

    def class_weights(
        self, data: Data, held_out: Data | None, class_weight: Any, incremental: bool
    ) -> tuple[Data, Data | None]:
        """Return both with class weights, those of the data, multiplied into sample weights."""
        if class_weight is None:
            return data, held_out
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
        weights_of = self._multilabel_weights if self.problem == "multilabel" else self._weights
        own, others = weights_of(data, None if held_out is None else held_out.y, class_weight)
        if held_out is not None:
            held_out = replace(held_out, weight=others)
        if data.weight is not None:  # "balanced" is infinite for a class without weight
            own = np.multiply(own, data.weight, out=np.zeros(len(own)), where=data.weight > 0)
        return replace(data, weight=own), held_out

    def _weights(self, data: Data, others: np.ndarray | None, class_weight: Any) -> tuple[Any, Any]:
        """Return the weights of the data's rows, and those of other class codes."""
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            weight = compute_class_weight(
                class_weight,
                classes=self.classes,
                y=self.classes[data.y],
                sample_weight=data.weight,
            )
        # a class that the data lack has no weight
        held_out = None if others is None else np.where(np.isfinite(weight), weight, 0.0)[others]
        return weight[data.y], held_out

    def _multilabel_weights(
        self, data: Data, others: np.ndarray | None, class_weight: Any
    ) -> tuple[Any, Any]:
        """Return the same for indicators: the product of the weights of their labels."""
        if isinstance(class_weight, dict):
            class_weight = [class_weight] * data.y.shape[1]
        if others is None:
            return compute_sample_weight(class_weight, data.y), None
        n_rows = len(data)
        both = np.vstack([data.y, others])
        indices = np.arange(n_rows) if isinstance(class_weight, str) else None
        weight = compute_sample_weight(class_weight, both, indices=indices)
        return weight[:n_rows], weight[n_rows:]


def _as_labels(y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return (labels (n_samples,) or indicators (n_samples, n_labels), their classes), or raise."""
    if y.ndim == 1 and y.dtype.kind in "biu":
        classes = np.unique(y)
        if 2 * len(classes) <= len(y):  # of more, scikit-learn warns
            return y, classes
    try:
        check_classification_targets(y)
    except ValueError as error:
        if y.dtype == object:
            error.args = (
                f"{error} y is an array of objects: use y.astype(bool), .astype(int) or so.",
            )
        raise
    except TypeError:
        kinds = " and ".join(sorted({type(label).__name__ for label in y.flat}))
        raise TypeError(
            f"y must hold labels of one kind, all strings or all numbers; got {kinds}."
        ) from None
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


def _can_stratify(counts: np.ndarray, n_held_out: int, n_rows: int) -> bool:
    """Return whether train_test_split can stratify by classes with these counts."""
    n_smallest_part = min(n_held_out, n_rows - n_held_out)
    return bool(counts.min() >= 2 and n_smallest_part >= len(counts))


def _stratified(
    y: np.ndarray, counts: np.ndarray, n_held_out: int, rng: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Return (training rows, held-out rows): shares of every class, which keeps a row to train on.

    Where there are more classes than held-out rows, the largest have one. Where no class can spare
    a row, the split is as it comes.
    """
    exact = counts * n_held_out / len(y)
    most = np.maximum(counts - 1, 0)
    shares = np.minimum(np.maximum(np.floor(exact), 1), most).astype(int)
    # rows that are too few or too many go to, or come from, the classes that are furthest off
    while (missing := n_held_out - shares.sum()) != 0:
        step = 1 if missing > 0 else -1
        can = shares < most if step > 0 else shares > 0
        if not can.any():
            break
        off = np.where(can, step * (exact - shares), -np.inf)
        if step < 0:  # a class loses its only held-out row last, the smallest classes first
            off = np.where(can, shares - exact + (shares > 1) * len(y) - counts / len(y), -np.inf)
        shares[off.argmax()] += step
    order = rng.permutation(len(y))
    if shares.sum() < 2:  # nothing that every class could spare
        return order[n_held_out:], order[:n_held_out]
    chosen = [order[y[order] == code][:share] for code, share in enumerate(shares)]
    held_out = rng.permutation(np.concatenate(chosen))
    train = order[~np.isin(order, held_out)]
    return train, held_out
