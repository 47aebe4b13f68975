"""X and y that need no check by scikit-learn are told from those that do."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from networks import Classifier, Regressor

from torchsk import _inputs

X, Y = np.arange(12.0).reshape(4, 3), np.arange(4)


def _with(value, dtype=np.float64):
    array = X.astype(dtype)
    array[2, 1] = value
    return array


GIVEN = {
    "float64": (X, Y),
    "float32": (X.astype(np.float32), Y.astype(np.int8)),
    "targets of numbers": (X, Y / 3),
    "bools": (X, Y > 2),
    "Fortran order": (np.asfortranarray(X), Y),
    "large numbers, whose sum is not finite": (_with(3e38, np.float32) * 1.1, Y),
    "NaN": (_with(np.nan), Y),
    "inf": (_with(-np.inf), Y),
    "NaN in y": (X, np.array([0, 1, np.nan, 2])),
    "other bytes": (X.astype(">f8"), Y),
    "float16": (X.astype(np.float16), Y),
    "integers": (X.astype(int), Y),
    "one axis": (X[0], Y),
    "no rows": (X[:0], Y[:0]),
    "no columns": (X[:, :0], Y),
    "too few targets": (X, Y[:3]),
    "two columns of targets": (X, np.stack([Y, Y], axis=1)),
    "strings": (X, np.array(list("abab"))),
    "lists": (X.tolist(), Y.tolist()),
    "frame": (pd.DataFrame(X, columns=list("abc")), pd.Series(Y)),
    "sparse": (sp.csr_array(X), Y),
}


def outcome(estimator, X, *y, **options):
    """What checking does: (what it returns or raises, attributes)."""
    try:
        checked = _inputs.check_inputs(estimator, X, *y, has_module=False, **options)
    except (TypeError, ValueError) as error:
        return str(error), {}
    parts = checked if y else (checked,)
    arrays = [part.toarray() if sp.issparse(part) else part for part in parts]
    given = vars(estimator)
    names = [n for n in ("n_features_in_", "feature_names_in_") if n in given]
    return [(a.dtype, a.tolist()) for a in arrays], {n: np.array(given[n]).tolist() for n in names}


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.parametrize("before", [None, X, pd.DataFrame(X, columns=list("abc"))])
@pytest.mark.parametrize("estimator", [Classifier, Regressor])
@pytest.mark.parametrize("given", GIVEN)
def test_what_needs_no_check_is_as_after_one(given, estimator, before, monkeypatch):
    both = []
    for always in (False, True):
        if always:
            monkeypatch.setattr(_inputs, "_needs_no_check", lambda *args: False)
        net = estimator(max_iter=1)
        if before is not None:
            net.fit(before, Y)
        both.append([outcome(net, *GIVEN[given]), outcome(net, GIVEN[given][0], shape=(3,))])
    assert both[0] == both[1]


def test_arrays_of_numbers_are_passed_on(monkeypatch):
    monkeypatch.setattr(_inputs, "validate_data", None)
    net = Classifier()
    for given in ("float64", "float32", "targets of numbers", "bools", "Fortran order"):
        checked = _inputs.check_inputs(net, *GIVEN[given], has_module=False)
        assert all(a is b for a, b in zip(checked, GIVEN[given], strict=True))
    assert net.n_features_in_ == 3


@pytest.mark.parametrize("shape", [(6, 2), (1, 12), (12,)])
@pytest.mark.parametrize("place", [0, 5, 11, None])
def test_large_arrays_are_looked_at_in_parts(shape, place, monkeypatch):
    monkeypatch.setattr(_inputs, "CHUNK_SIZE", 4)
    array = np.zeros(12)
    if place is not None:
        array[place] = np.inf
    assert _inputs._is_finite(array.reshape(shape)) == (place is None)
