"""What goes in may be anything: it is fitted, or refused with words that help.

`TORCHSK_EXAMPLES=20000 pytest -m slow -k more_of_anything` tries more than the usual run does.
"""

import os
import re
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from torchsk import TorchClassifier, TorchRegressor

N_EXAMPLES = int(os.environ.get("TORCHSK_EXAMPLES", "0"))


# -- whatever comes --------------------------------------------------------------------------------


COLUMNS = {
    "normal": lambda rng, n: rng.normal(size=n),
    "small integers": lambda rng, n: rng.randint(0, 3, n).astype(float),
    "constant": lambda rng, n: np.full(n, rng.choice([0.1, 1.0, -7.0, 1e9])),
    "zero": lambda rng, n: np.zeros(n),
    "far away": lambda rng, n: 1e9 + rng.normal(size=n),
    "one outlier": lambda rng, n: np.append(rng.normal(size=n - 1), 1e12) if n else np.zeros(0),
    "1e30": lambda rng, n: 1e30 * rng.normal(size=n),
    "1e150": lambda rng, n: 1e150 * rng.normal(size=n),
    "1e300": lambda rng, n: 1e300 * rng.normal(size=n),
    "largest": lambda rng, n: rng.choice([-1.7e308, 1.7e308], n),
    "1e-30": lambda rng, n: 1e-30 * rng.normal(size=n),
    "1e-300": lambda rng, n: 1e-300 * rng.normal(size=n),
    "subnormal": lambda rng, n: 5e-324 * rng.randint(0, 3, n),
}
SPOILED = {"NaN": np.nan, "inf": np.inf, "-inf": -np.inf, "float32 max": 3.4e38, "max": 1.7e308}
DTYPES = ["f8", "f8", "f8", "f4", "f4", "f2", "i8", "i1", "u1", "?", "O", "c16", "U8", "M8[s]"]
FORMS = [
    "C",
    "F",
    "strided",
    "read-only",
    "list",
    "1-D",
    "3-D",
    "csr",
    "csc",
    "coo",
    "bsr",
    "torch",
]
CLASSIFIER_LOSSES = ["log_loss", "cross_entropy", "bce", "nll", "hinge", "focal"]
REGRESSOR_LOSSES = {
    "squared_error": None, "absolute_error": None, "huber": {"delta": 0.5}, "smooth_l1": None,
    "quantile": {"quantile": [0.1, 0.9]}, "poisson": None, "gamma": None,
    "tweedie": {"power": 1.5}, "gaussian": None,
}  # fmt: skip


def matrix(draw, rng, n_rows, n_columns, plain):
    """X in any dtype and form; mostly harmless if plain."""
    kinds = ["normal", "small integers"] if plain else list(COLUMNS)
    kinds = draw(st.lists(st.sampled_from(kinds), min_size=n_columns, max_size=n_columns))
    X = np.column_stack([COLUMNS[kind](rng, n_rows) for kind in kinds] or [np.zeros((n_rows, 0))])
    if not plain and X.size and draw(st.booleans()):
        X[:, rng.randint(n_columns)] = X[:, 0]
    if not plain and X.size and draw(st.integers(0, 4)) == 0:
        X.flat[rng.randint(X.size)] = SPOILED[draw(st.sampled_from(list(SPOILED)))]
    dtype = "f8" if plain else draw(st.sampled_from(DTYPES))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        X = X.astype(dtype)
    form = "C" if plain else draw(st.sampled_from(FORMS))
    if form == "1-D":
        return X.ravel()
    if form == "3-D":
        return X[None]
    if form == "F":
        return np.asfortranarray(X)
    if form == "strided":
        return np.repeat(np.repeat(X, 2, axis=0), 3, axis=1)[::2, ::3]
    if form == "read-only":
        X.flags.writeable = False
    if form == "list":
        return X.tolist()
    if form in ("csr", "csc", "coo", "bsr") and X.dtype.kind in "fiub" and X.dtype != np.float16:
        return sp.coo_array(X).asformat(form)
    if form == "torch" and X.dtype.kind in "fiub":
        return torch.from_numpy(X)
    return X


def target(draw, rng, n_rows, is_classifier):
    numbers = ["normal", "small integers", *COLUMNS] if not is_classifier else []
    labels = ["two", "three", "one class", "each its own", "strings", "bool", "objects"]
    odd = ["matrix", "indicators", "column", "NaN", "inf", "too short", "None", "mixed", "3-D"]
    kind = draw(st.sampled_from([*numbers, *(labels * (3 if is_classifier else 1)), *odd]))
    if kind in COLUMNS:
        return np.abs(COLUMNS[kind](rng, n_rows)) * draw(st.sampled_from([1.0, 1.0, -1.0]))
    return {
        "two": lambda: np.arange(n_rows) % 2,
        "three": lambda: 5 - np.arange(n_rows) % 3,
        "one class": lambda: np.full(n_rows, 3),
        "each its own": lambda: np.arange(n_rows),
        "strings": lambda: np.array(["no", "yes"])[np.arange(n_rows) % 2],
        "bool": lambda: np.arange(n_rows) % 2 == 0,
        "objects": lambda: np.array(["a", "b", "c"], dtype=object)[np.arange(n_rows) % 3],
        "matrix": lambda: rng.normal(size=(n_rows, 2)),
        "indicators": lambda: rng.randint(0, 2, (n_rows, 3)),
        "column": lambda: np.arange(n_rows)[:, None] % 2,
        "NaN": lambda: np.where(np.arange(n_rows) % 2, np.nan, 1.0),
        "inf": lambda: np.where(np.arange(n_rows) % 2, np.inf, 1.0),
        "too short": lambda: np.arange(n_rows - 1) % 2,
        "None": lambda: None,
        "mixed": lambda: np.array([1, "a", None, 2.5] * n_rows, dtype=object)[:n_rows],
        "3-D": lambda: np.ones((n_rows, 1, 2)),
    }[kind]()


def weights(draw, rng, n_rows):
    kind = draw(
        st.sampled_from(
            ["none"] * 4
            + ["ones", "random", "some zero", "zero", "negative", "1e300", "1e-300", "subnormal"]
            + ["NaN", "too long", "2-D", "strings", "number", "1e30 and 1e-30", "largest"]
        )
    )
    return {
        "none": lambda: None,
        "ones": lambda: np.ones(n_rows),
        "random": lambda: rng.rand(n_rows),
        "some zero": lambda: rng.randint(0, 2, n_rows),
        "zero": lambda: np.zeros(n_rows),
        "negative": lambda: rng.normal(size=n_rows),
        "1e300": lambda: np.full(n_rows, 1e300),
        "1e-300": lambda: np.full(n_rows, 1e-300),
        "subnormal": lambda: np.full(n_rows, 5e-324),
        "NaN": lambda: np.full(n_rows, np.nan),
        "too long": lambda: np.ones(n_rows + 1),
        "2-D": lambda: np.ones((n_rows, 1)),
        "strings": lambda: np.full(n_rows, "w"),
        "number": lambda: 2.0,
        "1e30 and 1e-30": lambda: rng.choice([1e30, 1e-30], n_rows),
        "largest": lambda: np.full(n_rows, 1.7e308),
    }[kind]()


@st.composite
def estimators(draw, is_classifier):
    loss = draw(st.sampled_from(CLASSIFIER_LOSSES if is_classifier else list(REGRESSOR_LOSSES)))
    params = {
        "hidden_layer_sizes": draw(st.sampled_from([(3,), (), (2, 2)])),
        "activation": draw(st.sampled_from(["relu", "tanh", "identity", "softplus", "mish"])),
        "solver": draw(st.sampled_from(["sgd", "adam", "adamw", "rmsprop", "adagrad", "lbfgs"])),
        "standardize": draw(st.sampled_from(["auto", "auto", False])),
        "numerical_embedding": draw(st.sampled_from([None, None, "periodic"])),
        "batch_size": draw(st.sampled_from(["auto", 1, 4])),
        "learning_rate_init": draw(st.sampled_from(["auto", 1.0, 1e7])),
        "learning_rate": draw(st.sampled_from(["constant", "cosine"])),
        "max_grad_norm": draw(st.sampled_from(["auto", None])),
        "alpha": draw(st.sampled_from([1e-4, 0, 1e10])),
        "early_stopping": draw(st.sampled_from([False, False, True])),
        "validation_fraction": draw(st.sampled_from([0.1, 0.4])),
        "scoring": draw(st.sampled_from([None, None, "loss"])),
        "dropout": draw(st.sampled_from([0.0, 0.0, 0.5])),
        "max_iter": draw(st.integers(1, 3)),
        "random_state": 0,
    }
    if is_classifier:
        return TorchClassifier(
            loss=loss, class_weight=draw(st.sampled_from([None, None, "balanced"])), **params
        )
    return TorchRegressor(loss=loss, loss_params=REGRESSOR_LOSSES[loss], **params)


@st.composite
def cases(draw):
    """(estimator, X, y, sample weights, other rows to predict)."""
    rng = np.random.RandomState(draw(st.integers(0, 2**32 - 1)))
    is_classifier = draw(st.booleans())
    n_rows = draw(st.sampled_from([0, 1, 2, 3, 8, 8, 8, 20, 20, 20, 40, 40]))
    n_columns = draw(st.sampled_from([0, 1, 1, 2, 2, 3, 3, 3, 5, 5]))
    plain = draw(st.booleans())  # so that what follows the data is reached as well
    X = matrix(draw, rng, n_rows, n_columns, plain)
    y = target(draw, rng, n_rows, is_classifier)
    other = matrix(draw, rng, draw(st.integers(1, 3)), n_columns, draw(st.booleans()))
    estimator = draw(estimators(is_classifier))
    return estimator, X, y, weights(draw, rng, n_rows), other, draw(st.booleans())


#: an error names what is wrong: an argument, or what scikit-learn calls it
NAMED = re.compile(
    r"\b(X|y|X_val|y_val|sample_weight|sample_weights|Sample weights|classes|class_weight|loss|"
    r"batch_size|learning_rate_init|solver|validation_fraction|delta|beta)\b"
    r"|label type|validation set|test_size|train_size|train set|sample\(s\)|feature\(s\)"
    r"|least populated class|array of dim|2D array|1D array|dim(ension)? [0-9]|bytes/strings"
    r"|Input contains|Complex data|string to float|float\(\)|inconsistent numbers"
    r"|input (array|variables)|[Uu]nsupported data type|target data|'<' not supported|single class"
)


def refusal(error):
    """Raise unless the error is one that a user can do something with."""
    assert isinstance(error, ValueError | TypeError), repr(error)
    assert NAMED.search(str(error)), repr(error)


def quietly(call, *args, **kwargs):
    """Return what it returns; no warning of numpy then, which would be a number gone wrong."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        result = call(*args, **kwargs)
    numbers = [str(warning) for warning in told if issubclass(warning.category, RuntimeWarning)]
    assert numbers == []
    return result


def check(case):
    """Return whether the fit succeeded; then its predictions are finite and of the right shape."""
    estimator, X, y, weight, other, incremental = case
    try:
        if incremental and estimator.solver != "lbfgs":
            classes = {} if isinstance(estimator, TorchRegressor) else {"classes": np.unique(y)}
            quietly(estimator.partial_fit, X, y, sample_weight=weight, **classes)
            quietly(estimator.partial_fit, X, y, sample_weight=weight)
        else:
            quietly(estimator.fit, X, y, sample_weight=weight)
    except Exception as error:
        refusal(error)
        assert not hasattr(estimator, "n_iter_") or incremental
        return False
    for rows in (X, other):
        try:
            quietly(estimator.predict, rows)
        except Exception as error:
            refusal(error)
            assert rows is not X or "X must give outputs" in str(error)
        else:
            n_rows = rows.shape[0] if hasattr(rows, "shape") else len(rows)
            quietly(check_predictions, estimator, rows, n_rows, y)
    return True


def check_predictions(estimator, X, n_rows, y):
    prediction = estimator.predict(X)
    n_targets = np.shape(y)[1:] if np.shape(y)[1:] != (1,) else ()
    n_levels = (2,) if estimator.loss == "quantile" else ()
    assert prediction.shape == (n_rows, *n_targets, *n_levels)
    if isinstance(estimator, TorchRegressor):
        assert np.isfinite(prediction).all()
        if estimator.loss == "gaussian":
            assert np.isfinite(estimator.predict(X, return_std=True)[1]).all()
        return
    assert np.isin(prediction, estimator.classes_ if not n_targets else [0, 1]).all()
    assert np.isfinite(estimator.decision_function(X)).all()
    if estimator.loss != "hinge":
        proba = estimator.predict_proba(X)
        assert proba.shape == (n_rows, *(n_targets or [len(estimator.classes_)]))
        assert ((proba >= 0) & (proba <= 1)).all()
        assert n_targets or np.allclose(proba.sum(1), 1, atol=1e-5)
        assert not np.isnan(estimator.predict_log_proba(X)).any()


OPTIONS = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}


def check_many(**how):
    fitted = []

    @settings(**how, database=None, **OPTIONS)
    @given(cases())
    def check_one(case):
        fitted.append(check(case))

    check_one()
    assert 0.1 < np.mean(fitted) < 0.9  # what is tried is neither all harmless nor all hopeless


def test_anything_is_fitted_or_refused():
    check_many(max_examples=500, derandomize=True)


@pytest.mark.slow
@pytest.mark.skipif(N_EXAMPLES == 0, reason="TORCHSK_EXAMPLES is not set")
def test_more_of_anything():
    check_many(max_examples=N_EXAMPLES)


# -- more than a few -------------------------------------------------------------------------------


def test_a_thousand_classes():
    y = np.arange(3000) % 1000
    X = np.column_stack([y, y % 7, np.ones(3000)]).astype(float)
    net = TorchClassifier((5,), max_iter=2, random_state=0).fit(X, y)
    check_predictions(net, X, 3000, y)
    assert net.predict_proba(X).shape == (3000, 1000)
    early = clone(net).set_params(early_stopping=True).fit(X, y)
    check_predictions(early, X[:5], 5, y)


@pytest.mark.parametrize("as_sparse", [False, True])
def test_ten_thousand_features(as_sparse):
    rng = np.random.RandomState(0)
    X = (rng.rand(30, 10_000) < 0.01) * rng.normal(size=(30, 10_000))
    y = np.arange(30) % 2
    X = sp.csr_array(X) if as_sparse else X
    for net in (TorchClassifier, TorchRegressor):
        net = net(hidden_layer_sizes=(5,), max_iter=3, random_state=0).fit(X, y)
        check_predictions(net, X, 30, y)


def test_entries_of_a_sparse_matrix_that_are_stored_in_parts():
    rng = np.random.RandomState(0)
    X = rng.normal(size=(20, 3))
    row, column = np.indices(X.shape).reshape(2, -1)
    parts = rng.normal(size=X.size)
    for form in ("csr", "csc"):
        index = column if form == "csr" else row
        order = np.arange(X.size) if form == "csr" else np.argsort(column, kind="stable")
        pointer = np.arange(0, 2 * X.size + 1, 2 * X.size // X.shape[form == "csc"])
        values = np.stack([X.ravel() - parts, parts], 1)[order].ravel()
        indices = np.repeat(index[order], 2)
        make = sp.csr_array if form == "csr" else sp.csc_array
        doubled = make((values, indices, pointer), shape=X.shape)
        np.testing.assert_allclose(doubled.toarray(), X, atol=1e-12)
        net = TorchRegressor(hidden_layer_sizes=(3,), max_iter=3, random_state=0)
        ours = clone(net).fit(doubled, X[:, 0]).predict(doubled)
        expected = clone(net).fit(make(X), X[:, 0]).predict(make(X))
        np.testing.assert_allclose(ours, expected, rtol=1e-5)
        assert len(doubled.data) == 2 * X.size  # the caller's matrix is as it was
