"""from_sklearn and to_sklearn: same parameters, same predictions, both ways and inside others."""

import copy
import pickle

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn import config_context
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import make_classification, make_multilabel_classification, make_regression
from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted
from torch import nn

from torchsk import TorchClassifier, TorchRegressor, from_sklearn, to_sklearn
from torchsk._parameters import resolve_learning_rate

N_ROWS = 90
PAIRS = {MLPClassifier: TorchClassifier, MLPRegressor: TorchRegressor}
CURVES = ("loss_curve_", "validation_scores_", "best_loss_", "best_validation_score_")
ATTRIBUTES = ("n_iter_", "t_", "loss_", "n_layers_", "n_outputs_", "out_activation_", *CURVES)


def _problems():
    classes = {"n_features": 5, "n_informative": 4, "n_redundant": 0, "random_state": 0}
    X, y = make_classification(N_ROWS, n_classes=2, **classes)
    yield "binary", MLPClassifier, X, np.array(["no", "yes"])[y]
    X, y = make_classification(N_ROWS, n_classes=3, **classes)
    yield "multiclass", MLPClassifier, X, y + 5
    X, y = make_multilabel_classification(N_ROWS, 5, n_classes=3, random_state=0)
    yield "multilabel", MLPClassifier, X, y
    X, y = make_multilabel_classification(N_ROWS, 5, n_classes=2, random_state=0)
    yield "two labels", MLPClassifier, X, y
    X, y = make_regression(N_ROWS, 5, noise=5.0, random_state=0)
    yield "regression", MLPRegressor, X, y
    X, y = make_regression(N_ROWS, 5, n_targets=2, noise=5.0, random_state=0)
    yield "multioutput", MLPRegressor, X, y
    yield "poisson", MLPRegressor, X, np.random.default_rng(0).poisson(np.exp(y[:, 0] / 200))


#: name -> (scikit-learn's class, X, y); X far from zero mean and unit variance
PROBLEMS = {name: (cls, 3 + 20 * X, y) for name, cls, X, y in _problems()}
every_problem = pytest.mark.parametrize("problem", PROBLEMS)


def _params(problem):
    loss = {"loss": "poisson"} if problem == "poisson" else {}
    return {"hidden_layer_sizes": (7, 4), "max_iter": 15, "random_state": 0, **loss}


def theirs_fitted(problem, dtype=np.float64, **params):
    cls, X, y = PROBLEMS[problem]
    X = StandardScaler().fit_transform(X).astype(dtype)
    return cls(**_params(problem) | params).fit(X, y), X, y


def ours_fitted(problem, dtype=np.float64, **params):
    cls, X, y = PROBLEMS[problem]
    X = X.astype(dtype)
    return PAIRS[cls](**_params(problem) | params).fit(X, y), X, y


def assert_same_predictions(one, other, X, rtol=1e-7):
    np.testing.assert_allclose(
        *(_numbers(est.predict(X)) for est in (one, other)), rtol=rtol, atol=1e-9
    )
    for method in ("predict_proba", "predict_log_proba"):
        if hasattr(one, method):
            np.testing.assert_allclose(
                getattr(other, method)(X), getattr(one, method)(X), rtol=rtol, atol=1e-7
            )


def _numbers(y):
    return np.unique(y, return_inverse=True)[1] if y.dtype.kind == "U" else y


# -- from scikit-learn -----------------------------------------------------------------------------


@every_problem
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_from_sklearn_fitted(problem, dtype, solver, early_stopping):
    mlp, X, y = theirs_fitted(problem, dtype, solver=solver, early_stopping=early_stopping)
    before = pickle.dumps(mlp)
    net = from_sklearn(mlp)
    assert pickle.dumps(mlp) == before
    assert type(net) is PAIRS[type(mlp)]
    known = mlp.get_params() | {"batch_size": 200}  # what "auto" is there
    assert known.items() <= net.get_params().items()
    assert (net.standardize, net.max_grad_norm, net.dropout, net.scoring) == (False, None, 0, None)
    assert net.alpha_ == mlp.alpha
    assert net.learning_rate_init_ == mlp.learning_rate_init
    assert net.dropout_ == [0, 0]
    if solver != "lbfgs":
        assert net.batch_size_ == min(200, mlp.t_ // mlp.n_iter_)
    for name in ATTRIBUTES:
        assert hasattr(net, name) == hasattr(mlp, name), name
        assert getattr(net, name, None) == getattr(mlp, name, None), name
    for ours, theirs in zip(net.coefs_ + net.intercepts_, mlp.coefs_ + mlp.intercepts_):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    if dtype == np.float32:
        # scikit-learn's lbfgs leaves float64 weights; we compute in the dtype of X
        assert_same_predictions(mlp, net, X.astype(np.float64))
        X = X.astype(np.float64)
    assert_same_predictions(mlp, net, X)
    assert net.score(X, y) == pytest.approx(mlp.score(X, y))
    if hasattr(mlp, "classes_"):
        np.testing.assert_array_equal(net.classes_, mlp.classes_)


@every_problem
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_converted_models_train_on_as_the_original_would(problem, solver):
    mlp, X, y = theirs_fitted(problem, np.float32, solver=solver, learning_rate_init=0.01)
    net = from_sklearn(mlp)
    for _ in range(3):
        mlp.partial_fit(X, y)
        net.partial_fit(X, y)
    for ours, theirs in zip(net.coefs_ + net.intercepts_, mlp.coefs_ + mlp.intercepts_):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    np.testing.assert_allclose(net.loss_curve_, mlp.loss_curve_, rtol=1e-4)
    assert net.t_ == mlp.t_
    for estimator in (mlp, net):
        estimator.set_params(warm_start=True, max_iter=3).fit(X, y)
    np.testing.assert_allclose(net.loss_curve_, mlp.loss_curve_, rtol=1e-4)


@pytest.mark.parametrize("schedule", ["invscaling", "adaptive"])
def test_schedules_go_on(schedule):
    mlp, X, y = theirs_fitted(
        "multiclass", solver="sgd", learning_rate=schedule, tol=0.1, n_iter_no_change=2
    )
    net = from_sklearn(mlp)
    for _ in range(2):
        mlp.partial_fit(X, y)
        net.partial_fit(X, y)
    np.testing.assert_allclose(net.coefs_[0], mlp.coefs_[0], atol=1e-4)


@every_problem
def test_from_sklearn_unfitted_trains_the_same(problem):
    mlp, X, y = theirs_fitted(problem, np.float32)
    net = from_sklearn(clone(mlp))
    with pytest.raises(NotFittedError):
        net.predict(X)
    net.fit(X, y)
    for ours, theirs in zip(net.coefs_, mlp.coefs_):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_from_sklearn_copies_its_parameters():
    state = np.random.RandomState(0)
    net = from_sklearn(MLPClassifier(hidden_layer_sizes=[3, 4], random_state=state))
    assert net.hidden_layer_sizes == [3, 4]
    assert net.random_state is not state
    assert from_sklearn(MLPRegressor(loss="poisson")).loss == "poisson"


# -- to scikit-learn -------------------------------------------------------------------------------


@every_problem
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"solver": "adam", "activation": "tanh", "standardize": False},
        {"solver": "adamw", "activation": "logistic", "dropout": 0.2, "hidden_layer_sizes": (6,)},
        {"early_stopping": True, "learning_rate": "cosine", "activation": ["relu", "relu"]},
        {"hidden_layer_sizes": (), "solver": "lbfgs", "activation": "gelu"},
    ],
    ids=["defaults", "adam", "dropout", "early_stopping", "linear"],
)
def test_to_sklearn_fitted(problem, dtype, params):
    net, X, y = ours_fitted(problem, dtype, **params)
    mlp = to_sklearn(net)
    assert PAIRS[type(mlp)] is type(net)
    assert_same_predictions(net, mlp, X, rtol=2e-3 if dtype == np.float32 else 1e-6)
    assert mlp.score(X, y) == pytest.approx(net.score(X, y), abs=1e-4)
    for name in ATTRIBUTES:
        assert hasattr(mlp, name) == hasattr(net, name), name
        assert getattr(mlp, name, None) == getattr(net, name, None), name
    # the rate that goes with the constant schedule, which these become
    assert mlp.learning_rate == "constant"
    assert mlp.learning_rate_init == resolve_learning_rate(net, incremental=True)
    assert (mlp.alpha, mlp.batch_size) == (net.alpha_, net.batch_size_)
    assert_same_predictions(mlp, pickle.loads(pickle.dumps(mlp)), X)
    assert mlp.predict(X).shape == net.predict(X).shape
    clone(mlp).set_params(max_iter=2, solver="adam").fit(X, y)
    if "learning_rate" not in params and net.solver != "lbfgs":
        before = mlp.coefs_[0].copy()
        mlp.partial_fit(X, y)
        assert not np.array_equal(mlp.coefs_[0], before)
        assert len(mlp.loss_curve_) == len(net.loss_curve_) + 1


def test_to_sklearn_folds_large_offsets_in_float64():
    """float32 inputs at 10000 +- 1: folded in float32 the weights would lose every digit."""
    rng = np.random.default_rng(0)
    X = (10_000 + rng.normal(size=(200, 3))).astype(np.float32)
    y = 1e4 + X[:, 0] - 2 * X[:, 1]
    net = TorchRegressor(hidden_layer_sizes=20, random_state=0).fit(X, y)
    mlp = to_sklearn(net)
    assert {coef.dtype for coef in mlp.coefs_} == {np.dtype(np.float64)}
    np.testing.assert_allclose(mlp.predict(X), net.predict(X), atol=5e-3)


def test_to_sklearn_of_a_sparse_fit():
    _, X, y = PROBLEMS["multiclass"]
    X = sp.csr_array(np.where(abs(X) > 10, X, 0))
    net = TorchClassifier((7,), max_iter=5, random_state=0).fit(X, y)
    assert_same_predictions(net, to_sklearn(net), X, rtol=1e-6)


@every_problem
def test_round_trip(problem):
    net, X, _ = ours_fitted(problem, solver="adam")
    again = from_sklearn(to_sklearn(net))
    assert_same_predictions(net, again, X, rtol=1e-6)
    assert again.loss_curve_ == net.loss_curve_
    mlp, X, _ = theirs_fitted(problem)
    again = to_sklearn(from_sklearn(mlp))
    assert_same_predictions(mlp, again, X, rtol=1e-9)
    assert again.get_params() == mlp.get_params()


def test_200_rows_are_what_auto_is_there():
    """With the number, the MLP would warn of fewer rows than that."""
    assert from_sklearn(MLPClassifier()).batch_size == 200
    for batch_size, expected in (("auto", "auto"), (200, "auto"), (50, 50)):
        assert to_sklearn(TorchClassifier(batch_size=batch_size)).batch_size == expected


def test_from_sklearn_of_a_run_without_iterations():
    X, y = np.random.RandomState(0).normal(size=(5, 2)), np.zeros(5)
    mlp = MLPRegressor(solver="lbfgs", alpha=0.0, warm_start=True, random_state=0).fit(X, y)
    assert mlp.fit(X, y).n_iter_ == 0
    assert_same_predictions(mlp, from_sklearn(mlp), X)


def test_to_sklearn_unfitted():
    net = TorchClassifier((4,), solver="rmsprop", learning_rate="onecycle", dropout=0.5)
    mlp = to_sklearn(net)
    assert (mlp.solver, mlp.learning_rate) == ("adam", "constant")
    assert mlp.hidden_layer_sizes == (4,)
    assert (mlp.learning_rate_init, mlp.alpha, mlp.batch_size) == (0.001, 0.0001, "auto")
    with pytest.raises(NotFittedError):
        mlp.predict([[0.0]])
    assert to_sklearn(TorchRegressor(loss="poisson")).loss == "poisson"
    assert to_sklearn(TorchRegressor(loss=nn.MSELoss)).loss == "squared_error"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"activation": "gelu"}, "activation must be one of"),
        ({"activation": ["relu", "tanh"]}, "activation must be one of"),
        ({"activation": nn.GELU}, "activation must be one of"),
        ({"loss": "absolute_error"}, "loss must be 'squared_error' or 'poisson'"),
        ({"loss": "quantile", "loss_params": {"quantile": [0.1, 0.9]}}, "loss must be"),
        ({"loss": "gaussian"}, "loss must be"),
    ],
)
def test_to_sklearn_has_no_such_model(params, message):
    reg = TorchRegressor(hidden_layer_sizes=(3, 3), max_iter=2, **params)
    with pytest.raises(ValueError, match=message):
        to_sklearn(reg)
    _, X, y = PROBLEMS["regression"]
    with pytest.raises(ValueError, match=message):
        to_sklearn(reg.fit(X, y))


def test_to_sklearn_of_a_module_or_another_classification_loss():
    with pytest.raises(ValueError, match="module must be None"):
        to_sklearn(TorchClassifier(module=nn.Linear))
    _, X, y = PROBLEMS["binary"]
    net = TorchClassifier(module=nn.Linear, max_iter=1).fit(X, y)
    with pytest.raises(ValueError, match="module must be None"):
        to_sklearn(net.set_params(module=None))
    for loss in ("hinge", "cross_entropy"):  # two softmax outputs are not one sigmoid
        net = TorchClassifier((3,), loss=loss, max_iter=2).fit(X, y)
        with pytest.raises(ValueError, match="loss must be 'log_loss'"):
            to_sklearn(net)
    _, X, y = PROBLEMS["multiclass"]
    net = TorchClassifier((3,), loss="cross_entropy", max_iter=2).fit(X, y)
    assert_same_predictions(net, to_sklearn(net), X, rtol=1e-6)


def test_parameters_set_after_the_fit_do_not_change_the_model():
    net, X, _ = ours_fitted("regression")
    net.set_params(activation="gelu", loss="gaussian")
    mlp = to_sklearn(net)
    assert (mlp.activation, mlp.loss) == ("relu", "squared_error")
    np.testing.assert_allclose(mlp.predict(X), net.predict(X))


# -- inside other estimators -----------------------------------------------------------------------

CLF = MLPClassifier((6,), max_iter=5, random_state=0)
HOLDERS = {
    "pipeline": make_pipeline(StandardScaler(), CLF),
    "search": GridSearchCV(CLF, {"alpha": [0.1, 1.0]}, cv=2),
    "search_of_pipeline": GridSearchCV(
        make_pipeline(StandardScaler(), CLF),
        {"mlpclassifier__alpha": [0.1], "standardscaler": [None, StandardScaler()]},
        cv=2,
    ),
    "search_among_estimators": GridSearchCV(
        make_pipeline(StandardScaler(), CLF),
        {"mlpclassifier": [CLF, LogisticRegression(), MLPClassifier((3,), max_iter=2)]},
        cv=2,
    ),
    "bagging": BaggingClassifier(CLF, n_estimators=2, random_state=0),
    "voting": VotingClassifier([("mlp", CLF), ("line", LogisticRegression())], voting="soft"),
    "stacking": StackingClassifier([("mlp", CLF)], cv=2),
}


@pytest.mark.parametrize("name", HOLDERS)
def test_holders_stay_fitted(name):
    _, X, y = PROBLEMS["multiclass"]
    holder = clone(HOLDERS[name]).fit(X, y)
    expected = holder.predict(X), holder.predict_proba(X)
    net = from_sklearn(holder)
    assert type(net) is type(holder)
    assert b"TorchClassifier" in pickle.dumps(net)
    assert b"MLPClassifier" not in pickle.dumps(net)
    np.testing.assert_array_equal(net.predict(X), expected[0])
    np.testing.assert_allclose(net.predict_proba(X), expected[1], atol=1e-6)
    mlp = to_sklearn(net)
    assert b"torchsk" not in pickle.dumps(mlp)
    np.testing.assert_allclose(mlp.predict_proba(X), expected[1], atol=1e-6)
    np.testing.assert_array_equal(holder.predict_proba(X), expected[1])
    clone(net).fit(X, y)


@pytest.mark.parametrize("name", HOLDERS)
def test_holders_stay_unfitted(name):
    _, X, y = PROBLEMS["multiclass"]
    net = from_sklearn(clone(HOLDERS[name]))
    assert b"MLPClassifier" not in pickle.dumps(net)
    with pytest.raises(NotFittedError):
        check_is_fitted(net)
    check_is_fitted(net.fit(X, y))


def test_pipeline_is_copied_and_shares_nothing():
    _, X, y = PROBLEMS["multiclass"]
    pipeline = clone(HOLDERS["pipeline"]).fit(X, y)
    before = copy.deepcopy(pipeline)
    net = from_sklearn(pipeline)
    assert net[0] is not pipeline[0]
    np.testing.assert_array_equal(net[0].mean_, pipeline[0].mean_)
    net.fit(-X, y)
    np.testing.assert_array_equal(pipeline.predict_proba(X), before.predict_proba(X))


def test_best_estimator_is_the_fitted_one():
    _, X, y = PROBLEMS["multiclass"]
    search = clone(HOLDERS["search"]).fit(X, y)
    net = from_sklearn(search)
    assert isinstance(net.estimator, TorchClassifier)
    assert isinstance(net.best_estimator_, TorchClassifier)
    assert net.best_params_ == search.best_params_
    np.testing.assert_array_equal(net.best_estimator_.coefs_[0], search.best_estimator_.coefs_[0])


def test_target_transformer():
    _, X, y = PROBLEMS["regression"]
    reg = TransformedTargetRegressor(MLPRegressor(max_iter=3), transformer=StandardScaler())
    net = from_sklearn(reg.fit(X, y))
    np.testing.assert_allclose(net.predict(X), reg.predict(X))
    assert isinstance(net.regressor_, TorchRegressor)


def test_feature_names_go_along():
    pd = pytest.importorskip("pandas")
    _, X, y = PROBLEMS["multiclass"]
    frame = pd.DataFrame(X, columns=list("abcde"))
    mlp = clone(CLF).fit(frame, y)
    net = from_sklearn(mlp)
    np.testing.assert_array_equal(net.predict(frame), mlp.predict(frame))
    assert list(to_sklearn(net).feature_names_in_) == list("abcde")


def test_metadata_requests_go_along():
    with config_context(enable_metadata_routing=True):
        _, X, y = PROBLEMS["binary"]
        mlp = clone(CLF).set_fit_request(sample_weight=True).set_score_request(sample_weight="w")
        net = from_sklearn(mlp)
        for estimator in (net, to_sklearn(net)):
            requests = estimator.get_metadata_routing()
            assert requests.fit.requests["sample_weight"] is True
            assert requests.score.requests["sample_weight"] == "w"
        make_pipeline(net).fit(X, y, sample_weight=np.ones(len(y)))


@pytest.mark.parametrize("convert", [from_sklearn, to_sklearn])
@pytest.mark.parametrize("other", [LogisticRegression(), "mlp", None])
def test_nothing_to_convert(convert, other):
    with pytest.raises(TypeError, match="estimator must be or hold a"):
        convert(other)
