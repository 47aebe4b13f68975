"""X and y as they are given, checked as scikit-learn does; for a module X has any shape."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.base import is_classifier
from sklearn.utils.validation import validate_data

from torchsk._data import CHUNK_SIZE, as_floats, as_numpy, as_table, chunks, row_size

#: dtypes in which the built-in network takes X; what has another becomes float64
FLOATS = (np.float64, np.float32)
#: those in which a module does: its rows are cast as they are taken
NUMBERS = (
    *FLOATS, np.float16, np.bool_, np.uint8, np.uint16, np.uint32, np.uint64,
    np.int8, np.int16, np.int32, np.int64,
)  # fmt: skip

#: held-out numbers are far off that lie so many standard deviations from the mean: by Chebyshev's
#: inequality 1 in 100 at most, whatever the distribution
FAR = 10
#: and so are spreads that are apart by this factor; among n rows by `UNSURE` / n times it more, for
#: those of few rows are by chance
APART, UNSURE = 4, 60
#: rows to look at, at most; with fewer than `FEWEST` a spread, or where most rows lie, says little
MANY, FEWEST = 1000, 10
#: what to do about it
WAYS = {
    "X": "What transforms X must transform X_val, too: in a pipeline, transform_input=['X_val'] "
    'does (the guide shows it, under "Validation rows of your own, in a pipeline").',
    "y": "What transforms y must transform y_val, too.",
}

#: what to do with strings, in X and in a regressor's y
STRINGS = "encode strings first, columns of X with a OneHotEncoder or OrdinalEncoder in a pipeline"
LABELS = "labels are for TorchClassifier"

#: X and y as words of a message, not as labels ('y') and names of columns (- y)
X_OR_Y = re.compile(r"(?<![\w'\"])(?<!- )[Xy](?![\w'\"])")


def check_inputs(
    estimator: Any, X: Any, *y: Any, has_module: bool, shape: tuple[int, ...] | None = None
) -> Any:
    """Return X (n_samples, *shape), or (X, y) if there is y, as scikit-learn checks them.

    Parameters
    ----------
    estimator : TorchClassifier or TorchRegressor
        It gets `n_features_in_` where no shape is given, or is asked for it.
    X : array-like, tensor or sparse matrix
        A list of rows may hold arrays or tensors.
    y : array-like
    has_module : bool
        Whether X is for a module, which takes any number of axes, and numbers of any dtype.
    shape : tuple of int, optional
        The shape that a row must have.
    """
    if _needs_no_check(estimator, X, y, shape):
        if shape is None:
            estimator.n_features_in_ = X.shape[1]
        return (X, *y) if y else X
    X = as_table(X)
    if has_module and isinstance(X, list | tuple):
        X = np.asarray([as_numpy(row) for row in X])
    _check_axes(X, has_module, shape)
    _check_missing(*y)
    try:
        checked = validate_data(
            estimator,
            X,
            *map(as_numpy, y),
            accept_sparse=["csr", "csc"],
            dtype=NUMBERS if has_module else FLOATS,
            allow_nd=has_module,
            reset=shape is None,
            **({"multi_output": True, "y_numeric": not is_classifier(estimator)} if y else {}),
        )
    except ValueError as error:
        if "convert string to float" in str(error):
            is_y = bool(y) and not is_classifier(estimator) and _holds_strings(y[0])
            what, way = ("y", LABELS) if is_y else ("X", STRINGS)
            error.args = (f"{what} must hold numbers; {error}: {way}.",)
        raise
    if has_module:
        return checked
    return (as_floats(checked[0]), checked[1]) if y else as_floats(checked)


def _needs_no_check(estimator: Any, X: Any, y: tuple, shape: tuple[int, ...] | None) -> bool:
    """Return whether all is as scikit-learn would return it, whose checks take longer than a row.

    These are arrays of finite numbers, and there are no names of columns to compare or to forget.
    """
    return (
        type(X) is np.ndarray
        and X.ndim == 2
        and X.dtype in FLOATS
        and X.size > 0
        and (shape is None or X.shape[1:] == shape)
        and not hasattr(estimator, "feature_names_in_")
        and _is_finite(X)
        and all(_is_plain(one, len(X)) for one in y)
    )


def _is_plain(y: Any, n_rows: int) -> bool:
    """Return whether y holds one finite number per row."""
    is_array = type(y) is np.ndarray and y.ndim == 1 and len(y) == n_rows
    return is_array and (y.dtype.kind in "biu" or (y.dtype in FLOATS and _is_finite(y)))


def _is_finite(array: np.ndarray) -> bool:
    """Return whether all numbers are finite."""
    if array.size <= CHUNK_SIZE:  # in one go, for single rows
        return bool(np.isfinite(array).all())
    return all(np.isfinite(array[rows]).all() for rows in chunks(len(array), row_size(array)))


@contextmanager
def held_out_names(names: str) -> Iterator[None]:
    """Have errors about X and y speak of X_val and y_val; those that name neither begin so."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if len(error.args) == 1:
            message = X_OR_Y.sub(r"\g<0>_val", str(error))
            is_named = "X_val" in message or "y_val" in message
            error.args = (message if is_named else f"{names}: {message}",)
        raise


def warn_of_other_scale(rows: Any, held_out: Any, name: str) -> None:
    """Warn if most held-out rows lie where hardly a row can, or are spread as rows hardly are.

    The first in a quarter of the features, for of raw ones next to scaled ones not all are far off:
    some have small units. The second in more than half of them.
    """
    if issparse(rows) or issparse(held_out):
        return  # most entries are zeros, on any scale
    sample, others = _sample(rows), _sample(held_out)
    if min(len(sample), len(others)) < FEWEST or sample.shape[1] != others.shape[1]:
        return
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        how = _lie_far_off(sample, others, name) or _are_spread(sample, others, name)
    if how:
        warnings.warn(f"{name}_val seems to be on another scale than {name}: {how}. {WAYS[name]}")


def _lie_far_off(sample: np.ndarray, others: np.ndarray, name: str) -> str:
    """Return where others lie, (n_rows, n_features), if that is far from a sample; else ""."""
    mean, deviation = sample.mean(axis=0), sample.std(axis=0)
    varies = _varies(sample, deviation)
    far = np.median(abs(others - mean), axis=0)[varies] > FAR * deviation[varies]
    if not (far.any() and far.mean() >= 0.25):
        return ""
    return (
        f"in {far.sum()} of {len(far)} columns most of its rows lie more than {FAR} standard "
        f"deviations of {name} from the mean of {name}"
    )


def _are_spread(sample: np.ndarray, others: np.ndarray, name: str) -> str:
    """Return how others are spread, (n_rows, n_features), if that is unlike a sample; else "".

    Both by the quartiles, which heavy tails leave alone, and by the deviation, which is not next to
    zero where half the values are equal.
    """
    spread, other = _spreads(sample), _spreads(others)
    varies = (_varies(sample, spread) & _varies(others, other)).all(axis=0)
    ratios = other / spread
    factor = APART * (1 + UNSURE / min(len(sample), len(others)))
    wider = ratios.min(axis=0)[varies] > factor
    narrower = ratios.max(axis=0)[varies] < 1 / factor
    for is_other, words in ((wider, "more"), (narrower, "less")):
        if is_other.any() and is_other.mean() > 0.5:
            return (
                f"in {is_other.sum()} of {len(is_other)} columns its values spread {words} than "
                f"those of {name}, by a factor of {factor:.0f} and above"
            )
    return ""


def _spreads(rows: np.ndarray) -> np.ndarray:
    """Return the distances between the quartiles, and the deviations: (2, n_features)."""
    low, high = np.quantile(rows, [0.25, 0.75], axis=0)
    return np.stack([high - low, rows.std(axis=0)])


def _varies(rows: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Return which columns of rows vary by more than rounding: (..., n_features)."""
    return spread > 10 * np.finfo(np.float64).eps * abs(rows.mean(axis=0))


def _sample(rows: Any) -> np.ndarray:
    """Return rows from all over, float64 (n_rows, n_features), few enough to look at."""
    n_rows = max(1, min(MANY, CHUNK_SIZE // max(1, row_size(rows))))
    some = np.asarray(rows[:: -(-rows.shape[0] // n_rows)])
    return some.reshape(len(some), -1).astype(np.float64)


def check_ids(X: Any, name: str = "X") -> None:
    """Raise unless X holds integers, where a module takes ids."""
    if X.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must hold integers, for the module takes ids: at the first fit it refused a "
            f"float32 row and took an int64 one; got {name} of dtype {X.dtype}. Give "
            f"{name}.astype(int)."
        )


def _check_missing(*y: Any) -> None:
    """Raise if an array of objects holds None, NaN, NaT or NA, of which sorting says nothing."""
    for given in y:
        values = np.asarray(as_numpy(given))
        if values.dtype.kind == "U" and isinstance(given, list | tuple):  # NaN would be "nan"
            values = np.asarray(given, dtype=object)
        if values.dtype != object or values.ndim == 0:
            continue
        # each is equal to itself, but for NaN and NaT; of NA that is not known
        missing = [i for i, v in enumerate(values.flat) if v is None or str(v == v) != "True"]
        if missing:
            row = missing[0] // (values.size // len(values))
            raise ValueError(
                f"Input y contains NaN or None: {len(missing)} of {values.size} values, first in "
                f"row {row}. Leave such rows out."
            )


def _holds_strings(y: Any) -> bool:
    """Return whether y is what cannot be converted to numbers."""
    try:
        np.asarray(y, dtype=np.float64)
    except ValueError:
        return True
    return False


def _check_axes(X: Any, has_module: bool, shape: tuple[int, ...] | None) -> None:
    """Raise if X has more than two axes where it must not, or rows of another shape.

    Tables are left to scikit-learn, which has words of its own for them.
    """
    given = tuple(getattr(X, "shape", ()))
    if len(given) <= 2 and (shape is None or len(shape) <= 1 or len(given) < 2):
        return
    if issparse(X) and len(given) > 2:
        raise ValueError(
            f"X must be an array where it has more than two axes; got a sparse X of shape {given}: "
            "flatten X, or give X.toarray()."
        )
    if shape is not None and given[1:] != shape:
        wanted = ", ".join(map(str, ("n_samples", *shape)))
        way = "reshape X" if has_module else "flatten X, or give a module"
        raise ValueError(
            f"X must have the shape ({wanted}), as at the first fit; got the shape {given}: {way}."
        )
    if not has_module:
        raise ValueError(
            "X must have two axes, (n_samples, n_features), for the built-in network; got the "
            f"shape {given}: flatten X, X.reshape(len(X), -1), or give a module."
        )
