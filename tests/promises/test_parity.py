"""The same parameters give the same weights as MLPClassifier and MLPRegressor.

scikit-learn is the oracle throughout: every test fits both, on the same float32 rows unless it says
otherwise, and compares weights, curves and the number of epochs.
"""

import inspect
import itertools
import re
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.datasets import make_classification, make_multilabel_classification, make_regression
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor

from torchsk import TorchClassifier, TorchRegressor

# chunks smaller than a batch: both warn
pytestmark = pytest.mark.filterwarnings("ignore:Got `batch_size` less than 1:UserWarning")

ATOL = 1e-3
N_ROWS = 110
AS_SKLEARN = {"dropout": 0, "standardize": False, "max_grad_norm": None, "scoring": None}
PAIRS = {MLPClassifier: TorchClassifier, MLPRegressor: TorchRegressor}


def _classes(n_classes):
    return make_classification(
        N_ROWS, 6, n_informative=4, n_redundant=0, n_classes=n_classes, random_state=n_classes
    )


def _numbers(n_targets):
    X, y = make_regression(N_ROWS, 6, n_targets=n_targets, noise=10.0, random_state=n_targets)
    return X, y / 100


def _labels(n_labels):
    # scaled: scikit-learn clips probabilities in the loss that it reports, at 1e-7 in float32
    X, y = make_multilabel_classification(N_ROWS, 6, n_classes=n_labels, random_state=0)
    return X / X.std(), y


def _counts():
    X, y = _numbers(1)
    return X, np.random.default_rng(0).poisson(np.exp(y - y.mean()))


#: name -> (scikit-learn's class, X, y)
PROBLEMS = {
    "binary": (MLPClassifier, *_classes(2)),
    "multiclass": (MLPClassifier, *_classes(3)),
    "multilabel": (MLPClassifier, *_labels(4)),
    "regression": (MLPRegressor, *_numbers(1)),
    "multioutput": (MLPRegressor, *_numbers(3)),
}
PROBLEMS = {name: (cls, X.astype(np.float32), y) for name, (cls, X, y) in PROBLEMS.items()}
# some zeros, never a whole batch of them: scikit-learn divides by the sum
WEIGHT = np.where(np.arange(N_ROWS) % 9 == 4, 0.0, 0.5 + np.arange(N_ROWS) % 4)
STOPPING = {"early_stopping": True, "validation_fraction": 0.2, "n_iter_no_change": 3}


@pytest.fixture(scope="module")
def largest():
    """Largest difference seen per quantity; printed at the end with pytest -s."""
    seen = {}
    yield seen
    print("\nlargest differences:", {name: f"{value:.1e}" for name, value in seen.items()})


def make_both(cls, **params):
    """Return scikit-learn's estimator and ours, with the same parameters."""
    params = {"hidden_layer_sizes": (8,), "random_state": 3, "batch_size": 32} | params
    theirs = cls(**params)
    same = theirs.get_params()
    if same["batch_size"] == "auto":
        same["batch_size"] = 200
    return theirs, PAIRS[cls](**same, **AS_SKLEARN)


def both(problem, method="fit", times=1, weight=None, **params):
    """Fit both estimators, several times over if asked."""
    cls, X, y = PROBLEMS[problem]
    estimators = make_both(cls, **params)
    for estimator in estimators:
        for _ in range(times):
            classes = classes_of(problem) if method == "partial_fit" else {}
            getattr(estimator, method)(X, y, sample_weight=weight, **classes)
    return (*estimators, X)


def classes_of(problem):
    """Return the keyword that partial_fit of a classifier needs."""
    cls, _, y = PROBLEMS[problem]
    if cls is not MLPClassifier:
        return {}
    return {"classes": np.unique(y) if y.ndim == 1 else np.arange(y.shape[1])}


def assert_same(theirs, ours, largest=None, atol=ATOL):
    """Compare weights, curves and counters."""
    pairs = {
        "coefs_": (theirs.coefs_, ours.coefs_),
        "intercepts_": (theirs.intercepts_, ours.intercepts_),
    }
    for name in ("loss_curve_", "validation_scores_"):
        if getattr(theirs, name, None) is not None:
            pairs[name] = ([getattr(theirs, name)], [getattr(ours, name)])
    for name, (expected, found) in pairs.items():
        assert len(expected) == len(found)
        for want, got in zip(expected, found):
            want, got = np.asarray(want), np.asarray(got)
            np.testing.assert_allclose(got, want, rtol=0, atol=atol, err_msg=name)
            if largest is not None and want.size:
                largest[name] = max(largest.get(name, 0.0), float(np.abs(want - got).max()))
    for name in ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for name in ("loss_", "best_loss_", "best_validation_score_"):
        if getattr(theirs, name, None) is None:
            assert getattr(ours, name, None) is None, name
        else:
            assert getattr(ours, name) == pytest.approx(getattr(theirs, name), abs=atol), name


# -- the grid --------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("stopping", [{}, STOPPING], ids=["all_epochs", "early_stopping"])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_grid(solver, activation, problem, weight, stopping, depth, largest):
    theirs, ours, X = both(
        problem,
        weight=weight,
        solver=solver,
        activation=activation,
        hidden_layer_sizes=(8, 5)[:depth],
        learning_rate_init=0.01,
        max_iter=12,
        **stopping,
    )
    assert_same(theirs, ours, largest)
    np.testing.assert_allclose(
        ours.predict(X).astype(float), theirs.predict(X).astype(float), atol=ATOL
    )


# -- schedules, momentum, batches ------------------------------------------------------------------

SOLVER_PARAMS = {
    "invscaling": {"learning_rate": "invscaling", "power_t": 0.3},
    "invscaling_early_stopping": {"learning_rate": "invscaling", **STOPPING},
    "adaptive": {"learning_rate": "adaptive", "tol": 0.02, "n_iter_no_change": 1, "max_iter": 60},
    "adaptive_to_the_bottom": {
        "learning_rate": "adaptive", "tol": 0.1, "n_iter_no_change": 1, "max_iter": 90
    },
    "adaptive_early_stopping": {
        "learning_rate": "adaptive", "max_iter": 60, **STOPPING, "n_iter_no_change": 1
    },
    "adam_ignores_schedules": {"solver": "adam", "learning_rate": "invscaling"},
    "adam_is_not_adaptive": {
        "solver": "adam", "learning_rate": "adaptive", "tol": 0.1, "n_iter_no_change": 1
    },
    "no_momentum": {"momentum": 0},
    "full_momentum": {"momentum": 1, "learning_rate_init": 0.001},
    "plain_momentum": {"nesterovs_momentum": False},
    "betas": {"solver": "adam", "beta_1": 0.7, "beta_2": 0.9, "epsilon": 1e-3},
    "beta_zero": {"solver": "adam", "beta_1": 0.0, "beta_2": 0.0, "epsilon": 1e-2},
    "unshuffled": {"shuffle": False},
    "odd_batches": {"batch_size": 37},
    "small_batches": {"batch_size": 4, "max_iter": 3},
    "auto_batch": {"batch_size": "auto"},
    "penalty": {"alpha": 3.0},
    "no_penalty": {"alpha": 0.0},
    "plateau": {"tol": 0.05, "n_iter_no_change": 3, "max_iter": 60},
    "never_stop": {"tol": 10.0, "n_iter_no_change": np.inf},
    "stop_at_once": {"tol": 10.0, "n_iter_no_change": 1},
    "small_validation_set": {**STOPPING, "validation_fraction": 0.05, "max_iter": 40},
}  # fmt: skip
# these end before max_iter: the number of epochs means something
STOPS = ("adaptive_to_the_bottom", "adaptive_early_stopping", "plateau", "stop_at_once")


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("problem", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("name", SOLVER_PARAMS)
def test_solver_parameters(name, problem, weight, largest):
    params = {"solver": "sgd", "learning_rate_init": 0.02, "max_iter": 12} | SOLVER_PARAMS[name]
    theirs, ours, _ = both(problem, weight=weight, activation="tanh", **params)
    if name in STOPS and problem == "multiclass":
        assert theirs.n_iter_ < params["max_iter"]
    assert_same(theirs, ours, largest)


@pytest.mark.parametrize("stopping", [{}, STOPPING], ids=["training_loss", "early_stopping"])
@pytest.mark.parametrize("problem", ["binary", "regression"])
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_full_batch_with_zero_weights_and_duplicates(solver, problem, stopping, largest):
    cls, X, y = PROBLEMS[problem]
    rows = np.r_[np.arange(60), np.arange(40)]
    estimators = make_both(
        cls, solver=solver, learning_rate_init=0.02, max_iter=30, batch_size="auto", **stopping
    )
    for estimator in estimators:
        estimator.fit(X[rows], y[rows], sample_weight=WEIGHT[:100])
    assert_same(*estimators, largest)


@pytest.mark.parametrize("batch_size", ["auto", 170, 500])
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_larger_layers(solver, batch_size, digits, largest):
    """Wide enough for the kernels that large products take."""
    X, y = digits
    estimators = make_both(
        MLPClassifier,
        solver=solver,
        hidden_layer_sizes=(300, 120),
        learning_rate_init=0.003,
        batch_size=batch_size,
        max_iter=6,
    )
    for estimator in estimators:
        estimator.fit((X / 16).astype(np.float32), y)
    assert_same(*estimators, largest)


def test_a_batch_without_weight_has_no_gradient():
    """scikit-learn divides by zero here."""
    _, X, y = PROBLEMS["binary"]
    weight = np.r_[np.zeros(20), np.ones(N_ROWS - 20)]
    params = {"solver": "sgd", "momentum": 0, "shuffle": False, "batch_size": 10, "max_iter": 5}
    theirs, ours = make_both(MLPClassifier, **params)
    theirs.fit(X[20:], y[20:])
    ours.fit(X, y, sample_weight=weight)
    assert_coefs_close(theirs, ours)


def test_equal_validation_scores_are_equal(largest):
    """Weights such as 0.1, 1.1 and 2.1 sum to the same on different rows: that is no progress."""
    cls, X, y = PROBLEMS["multiclass"]
    weight = np.random.default_rng(0).integers(0, 3, N_ROWS) + 0.1
    params = {"solver": "adam", "activation": "tanh", "learning_rate_init": 0.05, "tol": 0.0}
    estimators = make_both(cls, **params, max_iter=60, early_stopping=True, n_iter_no_change=20)
    for estimator in estimators:
        estimator.fit(X, y, sample_weight=weight)
    assert_same(*estimators, largest)
    np.testing.assert_allclose(*(e.validation_scores_ for e in estimators), rtol=1e-14)


# -- more than one call ----------------------------------------------------------------------------


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_called_again(method, solver, problem, largest):
    theirs, ours, _ = both(
        problem,
        method,
        times=4,
        weight=WEIGHT,
        solver=solver,
        learning_rate_init=0.01,
        max_iter=4,
        warm_start=method == "fit",
    )
    assert_same(theirs, ours, largest)


def test_warm_start_after_changing_parameters(largest):
    cls, X, y = PROBLEMS["multiclass"]
    estimators = make_both(cls, solver="sgd", warm_start=True, max_iter=5)
    for estimator in estimators:
        estimator.fit(X, y)
        estimator.set_params(max_iter=9, learning_rate_init=0.05, batch_size=20).fit(X, y)
        estimator.set_params(alpha=1.0, learning_rate="invscaling", momentum=0.5).fit(X, y)
    assert_same(*estimators, largest)
    assert estimators[1].n_iter_ == 9
    assert len(estimators[1].loss_curve_) == 23


def test_warm_start_that_has_converged_goes_on_counting(largest):
    # scikit-learn keeps the count of epochs without improvement: each refit stops after one epoch
    theirs, ours, _ = both(
        "binary", times=3, solver="sgd", warm_start=True, max_iter=50, tol=0.5, n_iter_no_change=3
    )
    assert ours.n_iter_ == 1
    assert_same(theirs, ours, largest)


def test_fit_without_warm_start_starts_afresh(largest):
    once = both("binary", solver="adam", max_iter=6)[1]
    twice = both("binary", times=2, solver="adam", max_iter=6)[1]
    assert_same(once, twice, largest, atol=0)


@pytest.mark.parametrize("learning_rate", ["constant", "invscaling", "adaptive"])
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_fit_then_partial_fit(solver, learning_rate, largest):
    cls, X, y = PROBLEMS["multiclass"]
    estimators = make_both(
        cls, solver=solver, learning_rate=learning_rate, max_iter=5, n_iter_no_change=1, tol=0.1
    )
    for estimator in estimators:
        estimator.fit(X, y)
        for _ in range(3):
            estimator.partial_fit(X[:70], y[:70])
    assert_same(*estimators, largest)


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_partial_fit_on_chunks(problem, solver, largest):
    cls, X, y = PROBLEMS[problem]
    estimators = make_both(cls, solver=solver, learning_rate_init=0.01)
    for estimator in estimators:
        for rows in np.array_split(np.arange(N_ROWS), [20, 65, 80]) * 2:
            estimator.partial_fit(
                X[rows], y[rows], sample_weight=WEIGHT[rows], **classes_of(problem)
            )
    assert_same(*estimators, largest)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_generator_is_advanced_as_by_scikit_learn(method, largest):
    """With a RandomState, the second call goes on where scikit-learn's first one stopped."""
    cls, X, y = PROBLEMS["multiclass"]
    estimators = make_both(cls, solver="adam", max_iter=3, batch_size=64)
    classes = classes_of("multiclass") if method == "partial_fit" else {}
    for estimator in estimators:
        estimator.set_params(random_state=np.random.RandomState(0))
        for n_rows in (50, N_ROWS, 40, N_ROWS):
            getattr(estimator, method)(X[:n_rows], y[:n_rows], **classes)
    assert_same(*estimators, largest)


# -- poisson, lbfgs, other dtypes, sparse ----------------------------------------------------------


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("stopping", [{}, STOPPING], ids=["all_epochs", "early_stopping"])
@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_poisson(solver, depth, stopping, weight, largest):
    X, y = _counts()
    X = X.astype(np.float32)
    estimators = make_both(
        MLPRegressor,
        loss="poisson",
        solver=solver,
        hidden_layer_sizes=(8, 5)[:depth],
        activation="tanh",
        learning_rate_init=0.01,
        max_iter=12,
        **stopping,
    )
    for estimator in estimators:
        estimator.fit(X, y, sample_weight=weight)
    assert_same(*estimators, largest)
    theirs, ours = (estimator.predict(X) for estimator in estimators)
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)


LBFGS = {
    "max_iter": {"max_iter": 7},
    "max_fun": {"max_fun": 12},
    "converged": {"tol": 0.03},
}


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("problem", ["binary", "multiclass", "multilabel", "regression", "poisson"])
@pytest.mark.parametrize("name", LBFGS)
def test_lbfgs(name, problem, weight):
    """On float64 rows: scikit-learn's computes in the dtype of X, ours in float64."""
    loss = {"loss": "poisson"} if problem == "poisson" else {}
    cls, X, y = (MLPRegressor, *_counts()) if loss else PROBLEMS[problem]
    estimators = make_both(
        cls, solver="lbfgs", activation="tanh", early_stopping=True, **loss, **LBFGS[name]
    )
    messages = []
    for estimator in estimators:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            estimator.fit(X.astype(np.float64), y, sample_weight=weight)
        messages.append([str(warning.message).split("\n")[0] for warning in caught])
        assert {warning.category for warning in caught} <= {ConvergenceWarning}
    assert messages[1] == messages[0]
    assert bool(messages[1]) == (name != "converged")
    assert_same(*estimators, atol=1e-6)
    assert not {"loss_curve_", "best_loss_", "validation_scores_"} & set(vars(estimators[1]))


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_predictions(problem, dtype):
    """Methods and dtypes of the results, float64 inputs included."""
    cls, X, y = PROBLEMS[problem]
    X = X.astype(dtype)
    theirs, ours = (
        estimator.fit(X, y)
        for estimator in make_both(cls, solver="adam", learning_rate_init=0.01, max_iter=20)
    )
    for a, b in ((theirs.predict(X), ours.predict(X)), (theirs.coefs_[0], ours.coefs_[0])):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        np.testing.assert_allclose(b, a, atol=ATOL)
    assert ours.score(X, y) == pytest.approx(theirs.score(X, y), abs=ATOL)
    if cls is MLPClassifier:
        np.testing.assert_array_equal(ours.classes_, theirs.classes_)
        for method in ("predict_proba", "predict_log_proba"):
            a, b = getattr(theirs, method)(X), getattr(ours, method)(X)
            assert a.shape == b.shape
            assert b.dtype == dtype
            np.testing.assert_allclose(b, a, atol=ATOL)


SPARSE = [
    lambda X, container=container, dtype=dtype: _with_index(container(X), dtype)
    for container, dtype in itertools.product(
        [sp.csr_matrix, sp.csc_matrix, sp.csr_array, sp.csc_array], [np.int32, np.int64]
    )
]


def _with_index(matrix, dtype):
    matrix.indices, matrix.indptr = matrix.indices.astype(dtype), matrix.indptr.astype(dtype)
    return matrix


@pytest.mark.parametrize("as_sparse", SPARSE)
@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_sparse(solver, as_sparse, largest):
    cls, X, y = PROBLEMS["multiclass"]
    X = np.where(abs(X) > 0.7, X, 0).astype(np.float64 if solver == "lbfgs" else np.float32)
    stopping = {} if solver == "lbfgs" else STOPPING
    theirs, ours = make_both(cls, solver=solver, activation="tanh", max_iter=10, **stopping)
    theirs.fit(X, y, sample_weight=WEIGHT)
    ours.fit(as_sparse(X), y, sample_weight=WEIGHT)
    assert_same(theirs, ours, largest)
    np.testing.assert_allclose(ours.predict_proba(as_sparse(X)), theirs.predict_proba(X), atol=ATOL)


# -- what scikit-learn's MLP does not do the same --------------------------------------------------


def test_lbfgs_with_several_outputs_ends_lower():
    """scikit-learn pairs the gradient of the sum over outputs with the loss of their mean.

    Ours takes the sum for both, so the paths differ; loss_ is in scikit-learn's unit.
    """
    cls, X, y = PROBLEMS["multioutput"]
    theirs, ours = make_both(cls, solver="lbfgs", activation="tanh", alpha=0.1, max_iter=500)
    theirs.fit(X.astype(np.float64), y)
    ours.fit(X.astype(np.float64), y)
    penalty = 0.05 * sum(np.square(coef).sum() for coef in ours.coefs_) / N_ROWS
    mean = np.square(ours.predict(X.astype(np.float64)) - y).mean() / 2
    assert ours.loss_ == pytest.approx(mean + penalty)
    assert ours.loss_ < 1.05 * theirs.loss_


def test_first_hidden_layer_of_a_logistic_network_decides_the_bound():
    ours = TorchClassifier((4, 3), ["logistic", "relu"], max_iter=1, learning_rate_init=1e-12)
    _, X, y = PROBLEMS["binary"]
    ours.set_params(random_state=3, standardize=False).fit(X, y)
    theirs = MLPClassifier((4, 3), "logistic", max_iter=1, learning_rate_init=1e-12, random_state=3)
    assert_coefs_close(theirs.fit(X, y), ours)


def assert_coefs_close(theirs, ours, atol=ATOL):
    for want, got in zip(theirs.coefs_ + theirs.intercepts_, ours.coefs_ + ours.intercepts_):
        np.testing.assert_allclose(got, want, rtol=0, atol=atol)


@pytest.mark.parametrize("problem", ["multiclass", "multilabel", "regression"])
def test_partial_fit_trains_on_after_early_stopping(problem):
    cls, X, y = PROBLEMS[problem]
    ours = make_both(cls, solver="adam", max_iter=8, **STOPPING)[1]
    ours.fit(X, y)
    n_epochs, n_scores = len(ours.loss_curve_), len(ours.validation_scores_)
    ours.partial_fit(X[:40], y[:40])
    assert len(ours.loss_curve_) == n_epochs + 1
    assert len(ours.validation_scores_) == n_scores
    assert ours.n_iter_ == 1
    fresh = make_both(cls, solver="adam", **STOPPING)[1]
    plain = make_both(cls, solver="adam")[1]
    for estimator in (fresh, plain):
        for _ in range(2):
            estimator.partial_fit(X, y, **classes_of(problem))
    assert_same(plain, fresh, atol=0)


def test_early_stopping_keeps_the_best_of_both_fits():
    """scikit-learn's second warm fit forgets the first one's best; ours keeps it."""
    cls, X, y = PROBLEMS["regression"]
    ours = make_both(cls, solver="sgd", learning_rate_init=0.02, warm_start=True, **STOPPING)[1]
    held_out = {"X_val": X[80:], "y_val": y[80:]}
    ours.fit(X[:80], y[:80], **held_out)
    best, score = [coef.copy() for coef in ours.coefs_], ours.best_validation_score_
    ours.set_params(max_iter=2, learning_rate_init=1.0).fit(X[:80], y[:80], **held_out)
    assert ours.best_validation_score_ == score
    for before, after in zip(best, ours.coefs_):
        np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("name", ["learning_rate_init", "momentum", "batch_size", "alpha"])
def test_partial_fit_follows_changed_parameters(name):
    """scikit-learn's optimizer keeps the learning rate and momentum of the first call."""
    cls, X, y = PROBLEMS["multiclass"]
    value = {"learning_rate_init": 0.2, "momentum": 0.2, "batch_size": 10, "alpha": 5.0}[name]
    theirs, ours = make_both(cls, solver="sgd", learning_rate_init=0.01)
    for estimator in (theirs, ours):
        estimator.partial_fit(X, y, **classes_of("multiclass")).set_params(**{name: value})
    of_optimizer = {"learning_rate_init": "learning_rate", "momentum": "momentum"}
    if name in of_optimizer:
        setattr(theirs._optimizer, of_optimizer[name], value)
    for estimator in (theirs, ours):
        estimator.partial_fit(X, y).partial_fit(X, y)
    assert_same(theirs, ours)


# -- the rest of the parameters --------------------------------------------------------------------


OTHER_DEFAULTS = {"solver", "alpha", "learning_rate", "learning_rate_init", "max_iter"}


@pytest.mark.parametrize(("theirs", "ours"), PAIRS.items())
def test_signature(theirs, ours):
    """The same names in the same order, then our own by keyword only; five defaults differ."""
    expected, found = (inspect.signature(cls).parameters for cls in (theirs, ours))
    assert list(found)[: len(expected)] == list(expected)
    for name, parameter in found.items():
        if name in expected:
            assert parameter.kind == expected[name].kind
            different = parameter.default != expected[name].default
            assert different == (name in OTHER_DEFAULTS)
        else:
            assert parameter.kind == parameter.KEYWORD_ONLY


def test_sparse_targets():
    """Labels may be sparse (they are predicted dense), numbers may not."""
    cls, X, y = PROBLEMS["multilabel"]
    dense, ours = (make_both(cls, max_iter=3)[1] for _ in range(2))
    assert_same(dense.fit(X, y), ours.fit(X, sp.csr_array(y)), atol=0)
    np.testing.assert_array_equal(ours.predict(X), dense.predict(X))
    with pytest.raises(TypeError, match="y must be dense"):
        TorchRegressor(max_iter=1).fit(X, sp.csr_array(y))


INVALID = {
    "hidden_layer_sizes": [0, (3, 0), (2, -1)], "activation": ["sine"], "solver": ["newton"],
    "alpha": [-1e-9], "batch_size": [0, "all"], "learning_rate": ["slow"],
    "learning_rate_init": [0.0, "slow"], "power_t": [-0.1], "max_iter": [0], "shuffle": [2],
    "random_state": [-1], "tol": [-1e-9], "verbose": [-1], "warm_start": [2],
    "momentum": [-0.1, 1.1], "nesterovs_momentum": [2], "early_stopping": [2],
    "validation_fraction": [-0.1, 1.0], "beta_1": [-0.1, 1.0], "beta_2": [-0.1, 1.0],
    "epsilon": [0.0], "n_iter_no_change": [0, -np.inf], "max_fun": [0],
}  # fmt: skip


@pytest.mark.parametrize("name", INVALID)
def test_invalid_values_are_those_of_scikit_learn(name):
    _, X, y = PROBLEMS["binary"]
    for value in INVALID[name]:
        for estimator in make_both(MLPClassifier, **{name: value}):
            with pytest.raises(ValueError, match=name):
                estimator.fit(X, y)


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("class_weight", ["balanced", {0: 0.5, 1: 3.0}], ids=["balanced", "dict"])
@pytest.mark.parametrize("problem", ["binary", "multiclass", "multilabel"])
def test_class_weight_multiplies_the_sample_weights(problem, class_weight, weight):
    cls, X, y = PROBLEMS[problem]
    if problem != "multilabel":  # make the classes uneven
        X, y = X[y != 0], y[y != 0] - (problem == "binary")
        X, y = np.r_[X, -X[:20]], np.r_[y, np.full(20, y.max() + (problem == "binary"))]
        y = np.unique(y, return_inverse=True)[1]
    weight = None if weight is None else np.resize(WEIGHT, len(y))
    theirs, ours = make_both(cls, solver="adam", max_iter=5)
    total = _class_weights(y, class_weight, weight)
    theirs.fit(X, y, sample_weight=total)
    ours.set_params(class_weight=class_weight).fit(X, y, sample_weight=weight)
    assert_same(theirs, ours)


def _class_weights(y, class_weight, weight):
    """Return total weights by hand; those of several labels are multiplied."""
    weight = np.ones(len(y)) if weight is None else weight
    total = weight.copy()
    for column in y.T if y.ndim == 2 else [y]:
        classes = np.unique(column)
        counted = np.ones(len(y)) if y.ndim == 2 else weight
        for label in classes:
            rows = column == label
            balanced = counted.sum() / (len(classes) * counted[rows].sum())
            total[rows] *= balanced if class_weight == "balanced" else class_weight.get(label, 1.0)
    return total


VERBOSE = {
    "plateau": {"solver": "sgd", "tol": 0.05, "n_iter_no_change": 2, "max_iter": 60},
    "adaptive": {
        "solver": "sgd", "learning_rate": "adaptive", "tol": 0.1, "n_iter_no_change": 1,
        "max_iter": 90,
    },
    "early_stopping": {"solver": "adam", "max_iter": 60, **STOPPING},
}  # fmt: skip


@pytest.mark.parametrize("name", VERBOSE)
def test_verbose_says_what_scikit_learn_says(name, capsys):
    cls, X, y = PROBLEMS["multiclass"]
    lines = []
    for estimator in make_both(cls, learning_rate_init=0.02, verbose=True, **VERBOSE[name]):
        estimator.fit(X, y)
        lines.append(capsys.readouterr().out.splitlines())
    theirs, ours = lines
    ours = [line for line in ours if not line.startswith("Validation loss")]
    number = re.compile(r"\d+\.\d+")
    for want, got in zip(theirs, ours, strict=True):
        assert number.sub("#", got) == number.sub("#", want)
        assert [float(n) for n in number.findall(got)] == pytest.approx(
            [float(n) for n in number.findall(want)], abs=1e-4
        )


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_max_iter_is_announced_as_by_scikit_learn(solver):
    cls, X, y = PROBLEMS["multiclass"]
    words = []
    for estimator in make_both(cls, solver=solver, max_iter=2):
        with pytest.warns(ConvergenceWarning) as caught:
            estimator.fit(X, y)
        words.append(str(caught[0].message).split("\n")[0])
    assert words[1].startswith(words[0])


def test_lbfgs_warm_start_goes_on():
    cls, X, y = PROBLEMS["binary"]
    estimators = make_both(cls, solver="lbfgs", activation="tanh", warm_start=True, max_iter=5)
    for estimator in estimators:
        estimator.fit(X.astype(np.float64), y).fit(X.astype(np.float64), y)
    assert_same(*estimators, atol=1e-6)
