"""What goes in may be anything: it is fitted, or refused with words that help.

`TORCHSK_EXAMPLES=20000 pytest -m slow -k more_of_anything` tries more than the usual run does.
"""

import os
import re
import warnings

import joblib
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from torch import nn

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


@settings(max_examples=1500, derandomize=True, database=None, **OPTIONS)
@given(cases())
def test_anything_is_fitted_or_refused(case):
    check(case)


@pytest.mark.slow
@pytest.mark.skipif(N_EXAMPLES == 0, reason="TORCHSK_EXAMPLES is not set")
@settings(max_examples=max(1, N_EXAMPLES), database=None, **OPTIONS)
@given(cases())
def test_more_of_anything(case):
    check(case)


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


def test_words_that_name_the_argument(iris):
    X, y = iris
    net = TorchClassifier((3,), max_iter=2, random_state=0)
    for class_weight in ({0: -1, 1: 1, 2: 1}, {0: np.nan}, {0: np.inf}, dict.fromkeys(range(3), 0)):
        with pytest.raises(ValueError, match=r"^sample_weight, times class_weight, must be >= 0"):
            clone(net).set_params(class_weight=class_weight).fit(X, y)
    for weight in (np.full(150, 1.7e308), np.full(150, 1e-300)):
        with pytest.raises(ValueError, match=r"^sample_weight, .* sum that float32 can divide by"):
            clone(net).fit(X, y, weight)
    net.fit(X, y)
    with pytest.raises(ValueError, match=r"^X must give outputs within the range of float64"):
        net.set_params(activation="identity").fit(X, y).predict(np.full((1, 4), 1.7e308))
    large = TorchRegressor(hidden_layer_sizes=(), max_iter=2, random_state=0)
    with pytest.raises(ValueError, match=r"^y must be within the range of float32.*X as float64"):
        large.fit(X.astype(np.float32), X[:, 0] * 1e100)
    assert np.isfinite(large.fit(X, X[:, 0] * 1e100).predict(X)).all()


def test_a_class_without_weight_may_be_balanced(iris):
    X, y = iris
    net = TorchClassifier((5,), class_weight="balanced", max_iter=50, random_state=0)
    net.fit(X, y, np.where(y == 0, 0.0, 1.0))
    assert set(net.predict(X[y > 0])) == {1, 2}


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


def test_a_score_that_is_not_a_number_is_called_so(iris):
    def scorer(net, X, y):
        return np.nan

    with pytest.raises(ValueError, match="The validation score was not finite in epoch 1"):
        TorchClassifier(early_stopping=True, scoring=scorer, random_state=0).fit(*iris)


# -- numbers ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plane():
    """200 x 3 standard normal rows and a linear target of unit spread."""
    rng = np.random.RandomState(0)
    X = rng.normal(size=(200, 3))
    return X, X @ [0.6, -0.6, 0.5]


UNITS = {
    "far features": (lambda X: X + 1e9, lambda y: y),
    "tiny features": (lambda X: X * 1e-30, lambda y: y),
    "huge features": (lambda X: X * 1e30, lambda y: y),
    "features of all sizes": (lambda X: X * [1e-30, 1.0, 1e30] + [0, 1e9, 0], lambda y: y),
    "far target": (lambda X: X, lambda y: 1e6 + 1e-4 * y),
    "tiny target": (lambda X: X, lambda y: 1e-30 * y),
    "huge target": (lambda X: X, lambda y: 1e30 * y),
    "largest that can be squared": (lambda X: X * 1e150, lambda y: 1e150 * y),
    "smallest that can be squared": (lambda X: X * 1e-150, lambda y: 1e-150 * y),
}


@pytest.mark.parametrize("solver", ["sgd", "lbfgs"])
@pytest.mark.parametrize("unit", UNITS)
def test_units_do_not_matter(unit, solver, plane):
    X, y = plane
    change_X, change_y = UNITS[unit]
    for loss in ("squared_error", "absolute_error", "quantile", "gaussian"):
        if (loss, solver) == ("gaussian", "lbfgs"):
            continue  # its minimum is a deviation of 0
        net = TorchRegressor(
            loss, (), solver=solver, max_iter=60, learning_rate="cosine", random_state=0
        )
        net.fit(change_X(X), change_y(y))
        plain = clone(net).fit(X, y)
        assert plain.score(X, y) > (0.9 if loss != "quantile" else 0.7)
        got, expected = net.predict(change_X(X)), change_y(plain.predict(X))
        spread = np.ptp(change_y(y))
        assert abs(got - expected).max() < 1e-3 * spread
        assert got.dtype == np.float64


def test_labels_of_far_features(plane):
    X, y = plane
    net = TorchClassifier((), random_state=0).fit(1e9 + X, y > 0)
    assert net.score(1e9 + X, y > 0) > 0.97


# -- divergence ------------------------------------------------------------------------------------

WILD = {"learning_rate_init": 1e7, "max_grad_norm": None, "standardize": False}
NO_WAY = r"Training diverged.*epoch \d+.*learning_rate_init.*max_grad_norm.*standardize"


def linear(n_features, n_outputs):
    return nn.Sequential(nn.Linear(n_features, 4), nn.Linear(4, n_outputs))


LANES = {"built-in": {"activation": "identity"}, "module": {"module": linear}}
SCORERS = [None, "loss", "r2"]


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("solver", ["sgd", "adam", "rmsprop"])
def test_divergence_alone(lane, solver, diabetes):
    X, y = diabetes
    net = TorchRegressor(random_state=0, solver=solver, max_iter=200, **WILD, **LANES[lane])
    net.set_params(learning_rate_init=1e30)
    with pytest.raises(ValueError, match=NO_WAY):
        net.fit(X, 1e3 * y)
    assert not hasattr(net, "n_iter_")
    good = TorchRegressor(random_state=0, max_iter=5, **LANES[lane]).fit(X, y)
    before, state = good.predict(X), set(vars(good))
    for method in (good.fit, good.partial_fit):
        good.set_params(**{**WILD, "learning_rate_init": 1e30, "solver": solver})
        try:
            for _ in range(20):
                method(X, 1e3 * y)
                before = good.predict(X)
        except ValueError as error:
            assert re.search(NO_WAY, str(error))
        else:
            raise AssertionError("did not diverge")
        assert set(vars(good)) == state
        np.testing.assert_array_equal(good.predict(X), before)


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("scoring", SCORERS)
def test_divergence_keeps_the_best(lane, scoring, diabetes):
    X, y = diabetes

    def wild_later(epoch):
        return 1.0 if epoch < 3 else 1e20

    net = TorchRegressor(
        learning_rate=wild_later, learning_rate_init=1e-3, max_grad_norm=None, early_stopping=True,
        scoring=scoring, random_state=0, **LANES[lane],
    )  # fmt: skip
    with pytest.warns(ConvergenceWarning, match=NO_WAY + ".*The best weights so far were kept"):
        net.fit(X, y)
    assert 3 <= net.n_iter_ < 10
    short = clone(net).set_params(learning_rate="constant", max_iter=3).fit(X, y)
    np.testing.assert_array_equal(net.predict(X), short.predict(X))
    net.set_params(learning_rate="constant").partial_fit(X, y)
    assert np.isfinite(net.predict(X)).all()


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("solver", ["sgd", "adam", "rmsprop", "adagrad"])
def test_no_model_that_predicts_nan(lane, early_stopping, solver, diabetes, iris):
    for estimator, (X, y) in ((TorchRegressor, diabetes), (TorchClassifier, iris)):
        for scale in (1.0, 1e6, 1e18):
            net = estimator(
                solver=solver, early_stopping=early_stopping, random_state=0, max_iter=8, **WILD
            )
            try:
                net.set_params(**LANES[lane]).fit(scale * X, y)
            except ValueError as error:
                assert re.search(NO_WAY, str(error))
                assert not hasattr(net, "n_iter_")
            else:
                assert np.isfinite(net.predict(scale * X)).all()
                assert np.isfinite(net.loss_curve_[:-1]).all()


def test_divergence_at_once_with_early_stopping(diabetes):
    X, y = diabetes
    net = TorchRegressor(early_stopping=True, activation="identity", random_state=0, **WILD)
    with pytest.raises(ValueError, match=NO_WAY):
        net.set_params(learning_rate_init=1e30).fit(X, y)


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("backend", ["sequential", "torchsk"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_divergence_in_a_search(lane, backend, early_stopping, diabetes):
    X, y = diabetes
    net = TorchRegressor(
        early_stopping=early_stopping, random_state=0, max_iter=15, **WILD, **LANES[lane]
    )
    net.set_params(standardize=True)
    search = GridSearchCV(net, {"learning_rate_init": [0.01, 1e30, 0.02]}, cv=3, error_score=np.nan)
    with joblib.parallel_config(backend), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        search.fit(X, y)
    scores = search.cv_results_["mean_test_score"]
    assert np.isfinite(scores[[0, 2]]).all()
    assert np.isnan(scores[1])
    alone = clone(net).set_params(learning_rate_init=0.02, early_stopping=early_stopping).fit(X, y)
    assert np.isfinite(alone.predict(X)).all()
    assert np.isfinite(search.predict(X)).all()


def test_a_search_in_which_all_diverge_says_why(diabetes):
    net = TorchRegressor(activation="identity", random_state=0, **WILD)
    search = GridSearchCV(net, {"learning_rate_init": [1e30, 1e31]}, cv=2)
    with joblib.parallel_config("torchsk"), pytest.raises(ValueError, match="Training diverged"):
        search.fit(*diabetes)
