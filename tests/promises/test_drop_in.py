"""TorchClassifier and TorchRegressor as users meet them: data, tools, errors, what is kept."""

import copy
import io
import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
import sklearn
import torch
from scipy.stats import loguniform
from sklearn import datasets
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.ensemble import (
    AdaBoostClassifier,
    AdaBoostRegressor,
    BaggingClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_selection import SelectKBest
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, brier_score_loss, get_scorer, log_loss
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    KFold,
    RandomizedSearchCV,
    StratifiedKFold,
    cross_val_score,
    cross_validate,
    learning_curve,
    train_test_split,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.class_weight import compute_sample_weight
from torch import nn

from torchsk import TorchClassifier, TorchRegressor
from torchsk._mlp import ACTIVATIONS

SMALL = {"hidden_layer_sizes": (16,), "max_iter": 100, "random_state": 0}
Classifier = partial(TorchClassifier, **SMALL)
Regressor = partial(TorchRegressor, **SMALL)


@pytest.fixture(scope="module")
def clf(iris):
    """A fitted classifier: do not change."""
    return Classifier().fit(*iris)


@pytest.fixture(scope="module")
def reg(diabetes):
    """A fitted regressor: do not change."""
    return Regressor().fit(*diabetes)


# -- accuracy that is promised ---------------------------------------------------------------------

FLOORS = {
    "breast_cancer": (datasets.load_breast_cancer, TorchClassifier, 0.97),
    "digits": (datasets.load_digits, TorchClassifier, 0.965),
    "wine": (datasets.load_wine, TorchClassifier, 0.965),
    "iris": (datasets.load_iris, TorchClassifier, 0.94),
    "diabetes": (datasets.load_diabetes, TorchRegressor, 0.40),
    "friedman1": (
        lambda return_X_y: datasets.make_friedman1(2000, noise=1, random_state=0),
        TorchRegressor,
        0.93,
    ),
}


@pytest.mark.parametrize("name", FLOORS)
def test_defaults_in_five_fold_cross_validation(name):
    load, estimator_class, floor = FLOORS[name]
    X, y = load(return_X_y=True)
    splitter = StratifiedKFold if estimator_class is TorchClassifier else KFold
    scores = cross_val_score(
        make_pipeline(StandardScaler(), estimator_class(random_state=0)),
        X,
        y,
        cv=splitter(5, shuffle=True, random_state=0),
    )
    assert scores.mean() >= floor


def test_logistic_regression_of_one_neuron():
    """A neuron with a sigmoid, bce, 1000 full-batch epochs of plain sgd: 0.96 train, 0.94 test."""
    X, y = datasets.make_regression(200, 1, noise=20, random_state=0)
    y = np.round(1 / (1 + np.exp(-y)))
    neuron = TorchClassifier(
        (),
        loss="bce",
        learning_rate_init=0.02,
        momentum=0.5,
        nesterovs_momentum=False,
        batch_size=150,
        max_iter=1000,
        n_iter_no_change=1000,
        alpha=0,
        standardize=False,
        random_state=0,
    )
    result = cross_validate(
        neuron, X, y, cv=StratifiedKFold(4, shuffle=True, random_state=0), return_train_score=True
    )
    assert result["train_score"].mean() >= 0.95
    assert result["test_score"].mean() >= 0.94


def test_breast_cancer_with_15_hidden_nodes(breast_cancer):
    """455 rows to train, 114 to test: 0.96 test accuracy, 8 of 569 wrong."""
    X, y = breast_cancer
    scores, n_wrong = [], []
    for seed in range(5):
        X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=114, random_state=seed)
        network = TorchClassifier((15,), loss="bce", random_state=0).fit(X_train, y_train)
        scores.append(network.score(X_test, y_test))
        n_wrong.append((network.predict(X) != y).sum())
    assert np.mean(scores) >= 0.96
    assert np.mean(n_wrong) <= 8


# -- among scikit-learn's tools --------------------------------------------------------------------


def test_in_a_pipeline(wine):
    X, y = wine
    pipe = make_pipeline(StandardScaler(), SelectKBest(k=8), Classifier()).fit(X, y)
    assert pipe[-1].n_features_in_ == 8
    assert pipe.score(X, y) > 0.97
    assert pipe[:-1].transform(X).shape == (178, 8)


def test_behind_a_column_transformer():
    rng = np.random.RandomState(0)
    frame = pd.DataFrame({"size": rng.normal(size=300), "kind": rng.choice(list("abc"), size=300)})
    y = frame["size"] * frame["kind"].map({"a": 1, "b": -1, "c": 0})
    columns = ColumnTransformer([("kind", OneHotEncoder(), ["kind"])], remainder="passthrough")
    pipe = make_pipeline(columns, Regressor(max_iter=200)).fit(frame[:200], y[:200])
    assert pipe.score(frame[200:], y[200:]) > 0.97


def test_grid_search_finds_the_network_that_bends():
    X, y = datasets.make_circles(200, noise=0.1, factor=0.4, random_state=0)
    grid = {"hidden_layer_sizes": [(), (16,)], "alpha": [1e-4, 30.0]}
    search = GridSearchCV(Classifier(), grid, cv=3).fit(X, y)
    assert search.best_params_ == {"hidden_layer_sizes": (16,), "alpha": 1e-4}
    assert search.best_score_ > 0.95
    assert search.score(X, y) == accuracy_score(y, search.best_estimator_.predict(X))


def test_randomized_search_finds_a_rate(iris):
    search = RandomizedSearchCV(
        Classifier(max_iter=30),
        {"learning_rate_init": loguniform(1e-6, 1.0)},
        n_iter=10,
        cv=3,
        random_state=0,
    ).fit(*iris)
    assert search.best_params_["learning_rate_init"] > 1e-3
    assert search.best_score_ > 0.9 > min(search.cv_results_["mean_test_score"])


def test_halving_search_with_epochs_as_the_resource(iris):
    search = HalvingGridSearchCV(
        Classifier(),
        {"learning_rate_init": [1e-6, 1e-5, 1e-4, 0.05]},
        resource="max_iter",
        min_resources=10,
        max_resources=40,
        factor=2,
        cv=3,
    ).fit(*iris)
    assert search.best_params_["learning_rate_init"] == 0.05
    assert search.n_resources_ == [10, 20, 40]
    assert search.best_estimator_.max_iter == 40


def test_cross_validate_scores_what_its_estimators_predict(wine):
    X, y = wine
    cv = StratifiedKFold(3)
    result = cross_validate(
        Classifier(),
        X,
        y,
        cv=cv,
        scoring=["accuracy", "neg_log_loss"],
        return_estimator=True,
        error_score="raise",
    )
    for estimator, accuracy, loss, (_, test) in zip(
        result["estimator"], result["test_accuracy"], result["test_neg_log_loss"], cv.split(X, y)
    ):
        assert accuracy == estimator.score(X[test], y[test]) > 0.9
        assert loss == pytest.approx(-log_loss(y[test], estimator.predict_proba(X[test])))


def test_learning_curve_rises(digits):
    sizes, _, test = learning_curve(
        Classifier(max_iter=20), *digits, train_sizes=[0.1, 0.4, 1.0], cv=3
    )
    assert sizes.tolist() == [33, 133, 333]
    assert test[2].mean() > test[0].mean() + 0.1


def test_bagging(wine):
    X, y = wine
    bag = BaggingClassifier(Classifier(), n_estimators=4, random_state=0).fit(X, y)
    assert bag.score(X, y) > 0.97
    assert abs(bag.estimators_[0].coefs_[0] - bag.estimators_[1].coefs_[0]).max() > 0.1


@pytest.mark.parametrize(
    ("booster", "weak", "level"),
    [
        (AdaBoostClassifier, TorchClassifier((2,), max_iter=40), 0.9),
        (AdaBoostRegressor, TorchRegressor(hidden_layer_sizes=(2,), max_iter=10), 0.3),
    ],
)
def test_boosting(booster, weak, level, wine, diabetes):
    X, y = wine if booster is AdaBoostClassifier else diabetes
    boosted = booster(weak, n_estimators=8, random_state=0).fit(X, y)
    assert len(boosted.estimators_) > 1
    assert boosted.score(X, y) > max(level, boosted.estimators_[0].score(X, y))


def test_voting_averages_probabilities(iris):
    X, y = iris
    members = [("one", Classifier()), ("two", Classifier(random_state=1))]
    vote = VotingClassifier(members, voting="soft").fit(X, y)
    expected = np.mean([member.predict_proba(X) for member in vote.estimators_], axis=0)
    np.testing.assert_allclose(vote.predict_proba(X), expected)
    assert vote.score(X, y) > 0.95


def test_stacking(iris):
    X, y = iris
    stack = StackingClassifier([("mlp", Classifier())], LogisticRegression(), cv=3).fit(X, y)
    np.testing.assert_array_equal(stack.transform(X), stack.estimators_[0].predict_proba(X))
    assert stack.score(X, y) > 0.95


def test_calibration_gives_margins_probabilities(breast_cancer):
    X, y = breast_cancer
    margins = Classifier(loss="hinge")
    calibrated = CalibratedClassifierCV(margins, cv=3).fit(X[:400], y[:400])
    probability = calibrated.predict_proba(X[400:])[:, 1]
    assert brier_score_loss(y[400:], probability) < 0.05
    assert not hasattr(margins.fit(X[:400], y[:400]), "predict_proba")


def test_transformed_target(diabetes):
    X, y = diabetes
    inner = Regressor()
    outer = TransformedTargetRegressor(inner, func=np.log, inverse_func=np.exp).fit(X, y)
    expected = np.exp(clone(inner).fit(X, np.log(y)).predict(X))
    np.testing.assert_allclose(outer.predict(X), expected)


def test_one_against_the_rest(iris):
    X, y = iris
    rest = OneVsRestClassifier(Classifier()).fit(X, y)
    alone = Classifier().fit(X, y == 2)
    np.testing.assert_array_equal(rest.estimators_[2].coefs_[0], alone.coefs_[0])
    assert rest.score(X, y) > 0.95


def test_one_regressor_per_target(diabetes):
    X, y = diabetes
    several = MultiOutputRegressor(Regressor()).fit(X, np.column_stack([y, -2 * y]))
    np.testing.assert_allclose(several.predict(X)[:, 0], Regressor().fit(X, y).predict(X))


def test_permutation_importance_knows_the_noise(friedman1):
    X, y = friedman1
    network = TorchRegressor(random_state=0).fit(X, y)
    importance = permutation_importance(network, X, y, n_repeats=3, random_state=0)
    assert set(np.argsort(importance.importances_mean)[-3:]) == {0, 1, 3}


# -- data of every kind ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole_iris(iris):
    """Iris rounded to small whole numbers, which every dtype holds, and its probabilities."""
    X, y = np.round(iris[0]), iris[1]
    return X, y, Classifier().fit(X, y).predict_proba(X)


def _memmap(X, tmp_path):
    data = np.memmap(tmp_path / "X", dtype=X.dtype, mode="w+", shape=X.shape)
    data[:] = X
    data.flush()
    return np.memmap(tmp_path / "X", dtype=X.dtype, mode="r", shape=X.shape)


def _read_only(X, tmp_path):
    X = X.copy()
    X.flags.writeable = False
    return X


NAMES = ["a", "b", "c", "d"]
CONTAINERS = {
    **{
        dtype: lambda X, _, dtype=dtype: X.astype(dtype)
        for dtype in (
            *("float16", "float32", "float64", "longdouble", "int8", "uint8", "int16", "uint16"),
            *("int32", "uint32", "int64", "uint64", "object", ">f8", ">i4"),
        )
    },
    "list": lambda X, _: X.tolist(),
    "pandas": lambda X, _: pd.DataFrame(X, columns=NAMES),
    "pandas of mixed dtypes": lambda X, _: pd.DataFrame(X, columns=NAMES).astype(
        {"a": "int8", "b": "float32", "c": "Int64", "d": "Float32"}
    ),
    "polars": lambda X, _: pl.DataFrame(X, schema=NAMES),
    "memmap": _memmap,
    "read-only": _read_only,
    "Fortran order": lambda X, _: np.asfortranarray(X),
    "strided": lambda X, _: np.repeat(X, 2, axis=1)[:, ::2],
    "reversed": lambda X, _: X[::-1].copy()[::-1],
    "torch.float32": lambda X, _: torch.from_numpy(X).float(),
    "torch.int64": lambda X, _: torch.from_numpy(X).long(),
    "torch with gradient": lambda X, _: torch.from_numpy(X).requires_grad_(),
}


@pytest.mark.filterwarnings("ignore:X does not have valid feature names:UserWarning")
@pytest.mark.parametrize("container", CONTAINERS)
def test_containers_of_X(container, whole_iris, tmp_path):
    X, y, expected = whole_iris
    data = CONTAINERS[container](X, tmp_path)
    model = Classifier().fit(data, y)
    np.testing.assert_allclose(model.predict_proba(data), expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(model.predict_proba(X), expected, rtol=1e-3, atol=1e-4)
    named = container in ("pandas", "pandas of mixed dtypes", "polars")
    assert list(getattr(model, "feature_names_in_", [])) == (NAMES if named else [])


@pytest.mark.parametrize("make", [sp.csr_array, sp.csc_array, sp.coo_array, sp.csr_matrix])
def test_sparse_is_dense(make, whole_iris):
    X, y, _ = whole_iris
    dense = Classifier(standardize=False, max_iter=10).fit(X, y)
    sparse = Classifier(standardize=False, max_iter=10).fit(make(X), y)
    np.testing.assert_allclose(sparse.predict_proba(make(X)), dense.predict_proba(X), atol=1e-4)
    scaled = Classifier().fit(make(X), y)  # scaled, not centred
    np.testing.assert_allclose(scaled.predict_proba(X), scaled.predict_proba(make(X)))
    assert scaled.score(X, y) > 0.9


TARGETS = {
    "list": list,
    "column": lambda y: y.reshape(-1, 1),
    "pandas": lambda y: pd.Series(y, index=y[::-1]),
    "polars": pl.Series,
    "torch": torch.tensor,
    "int8": lambda y: y.astype(np.int8),
    "float64": lambda y: y.astype(float),
    "strings": lambda y: np.array(["x", "yy", "z"])[y],
    "strings as objects": lambda y: np.array(["x", "yy", "z"], dtype=object)[y],
    "pandas strings": lambda y: pd.Series(np.array(["x", "yy", "z"])[y]),
    "categories": lambda y: pd.Series(np.array(["x", "yy", "z"])[y]).astype("category"),
    "negative": lambda y: -10 * (2 - y),
    "bools": lambda y: y > 0,
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.DataConversionWarning")
@pytest.mark.parametrize("target", TARGETS)
def test_containers_of_classes(target, iris):
    X, y = iris[0], TARGETS[target](iris[1])
    model = Classifier().fit(X, y)
    flat = np.ravel(np.asarray(y))
    np.testing.assert_array_equal(model.classes_, np.unique(flat))
    assert model.predict(X).dtype == model.classes_.dtype
    assert np.mean(model.predict(X) == flat) > 0.95
    assert model.score(X, flat) > 0.95
    assert model.decision_function(X).shape == ((150,) if target == "bools" else (150, 3))
    proba = model.predict_proba(X)
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(model.predict_log_proba(X), np.log(proba))


@pytest.mark.parametrize("target", ["list", "pandas", "polars", "torch", "int8", "float64"])
def test_containers_of_numbers(target, iris):
    X, y = iris
    expected = Regressor().fit(X, y).predict(X)
    assert expected.shape == (150,)
    np.testing.assert_allclose(Regressor().fit(X, TARGETS[target](y)).predict(X), expected)


def test_targets_of_two_dimensions(diabetes):
    X, y = diabetes
    assert Regressor().fit(X, y.reshape(-1, 1)).predict(X).shape == (442,)
    two = Regressor().fit(X, np.column_stack([y, -1e4 * y])).predict(X)
    assert two.shape == (442, 2)
    assert np.corrcoef(two[:, 0], -two[:, 1])[0, 1] > 0.9


@pytest.mark.parametrize("loss", ["log_loss", "cross_entropy"])
def test_one_class_alone_is_certain(loss, iris):
    X, y = iris
    model = Classifier(loss=loss).fit(X[:50], y[:50] + 7)
    np.testing.assert_array_equal(model.predict(X), np.full(150, 7))
    np.testing.assert_array_equal(model.predict_proba(X), np.ones((150, 1)))


def test_multilabel():
    X, Y = datasets.make_multilabel_classification(200, n_classes=4, random_state=0)
    model = Classifier(max_iter=100).fit(X, Y)
    assert model.predict(X).shape == model.predict_proba(X).shape == Y.shape
    np.testing.assert_array_equal(model.predict(X), model.decision_function(X) > 0)
    assert np.mean(model.predict(X) == Y) > 0.9
    assert model.classes_.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_predictions_have_the_dtype_of_X(dtype, clf, reg, iris, diabetes):
    X, Z = iris[0].astype(dtype), diabetes[0].astype(dtype)
    for output in (clf.predict_proba(X), clf.decision_function(X), reg.predict(Z)):
        assert output.dtype == dtype
    assert clf.fit(*iris) is clf  # refit below changes nothing
    model = Classifier(max_iter=2).fit(X, iris[1])
    assert {array.dtype for array in (*model.coefs_, *model.intercepts_)} == {np.dtype(dtype)}


def test_a_large_target_with_a_tiny_spread_survives(diabetes):
    X, y = diabetes
    shifted = Regressor().fit(X, 1e6 + 1e-4 * y)
    np.testing.assert_allclose(
        (shifted.predict(X) - 1e6) / 1e-4, Regressor().fit(X, y).predict(X), atol=0.02
    )


def test_one_row_alone_is_the_row_among_all(clf, reg, iris, diabetes):
    for predict, X in [
        (clf.predict_proba, iris[0]),
        (clf.decision_function, iris[0]),
        (reg.predict, diabetes[0]),
    ]:
        whole = predict(X)
        alone = np.concatenate([predict(X[i : i + 1]) for i in range(len(X))])
        np.testing.assert_allclose(alone, whole, rtol=1e-12, atol=1e-12)


def test_inputs_are_not_changed(iris):
    X, y = iris[0].copy(), iris[1].copy()
    weight = np.ones(150)
    Classifier(standardize=False, max_iter=3).fit(X, y, weight).predict(X)
    np.testing.assert_array_equal(X, iris[0])
    np.testing.assert_array_equal(y, iris[1])
    np.testing.assert_array_equal(weight, 1)


# -- held-out rows ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def halves(breast_cancer):
    """X, y, X_val, y_val."""
    X, X_val, y, y_val = train_test_split(*breast_cancer, test_size=0.4, random_state=0)
    return X, y, X_val, y_val


def test_validation_rows_are_recorded(halves):
    X, y, X_val, y_val = halves
    plain = Classifier().fit(X, y)
    model = Classifier().fit(X, y, X_val=pd.DataFrame(X_val), y_val=y_val.tolist())
    np.testing.assert_array_equal(model.coefs_[0], plain.coefs_[0])  # only recorded
    assert len(model.validation_loss_curve_) == model.n_iter_ == len(model.loss_curve_)
    assert model.validation_scores_[-1] == pytest.approx(model.score(X_val, y_val))
    loss = log_loss(y_val, model.predict_proba(X_val))
    assert model.validation_loss_curve_[-1] == pytest.approx(loss, rel=1e-4)
    assert model.best_validation_score_ is None
    assert plain.validation_loss_curve_ is plain.validation_scores_ is None


def _count_certain(estimator, X, y):
    """A scorer: how many rows get their class with a probability above 0.99."""
    return float((estimator.predict_proba(X)[np.arange(len(y)), y] > 0.99).sum())


SCORINGS = {
    "score": (None, lambda model, X, y: model.score(X, y)),
    "loss": ("loss", lambda model, X, y: -log_loss(y, model.predict_proba(X))),
    "name": ("roc_auc", get_scorer("roc_auc")),
    "callable": (_count_certain, _count_certain),
}


@pytest.mark.parametrize("scoring", SCORINGS)
def test_early_stopping_keeps_the_best_weights(scoring, halves):
    X, y, X_val, y_val = halves
    scoring, score = SCORINGS[scoring]
    model = Classifier(
        early_stopping=True, scoring=scoring, max_iter=100, alpha=0, n_iter_no_change=3
    ).fit(X, y, X_val=X_val, y_val=y_val)
    assert model.n_iter_ < 100
    assert len(set(model.validation_scores_)) > 1
    assert model.best_validation_score_ == max(model.validation_scores_)
    assert score(model, X_val, y_val) == pytest.approx(model.best_validation_score_, rel=1e-4)
    assert model.best_loss_ is None
    assert len(model.validation_scores_) == len(model.validation_loss_curve_) == model.n_iter_


def test_early_stopping_of_a_regressor(friedman1):
    X, y = friedman1
    model = Regressor(early_stopping=True, max_iter=300).fit(X, y)
    _, held_out = train_test_split(np.arange(200), test_size=0.1, random_state=_after_the_draws())
    assert model.score(X[held_out], y[held_out]) == pytest.approx(
        model.best_validation_score_, rel=1e-4
    )
    assert model.validation_loss_curve_[-1] < model.validation_loss_curve_[0]


def _after_the_draws():
    """random_state=0 after the weights of 10-16-1 are drawn."""
    rng = np.random.RandomState(0)
    rng.uniform(size=10 * 16 + 16 + 16 + 1)
    return rng


def test_validation_rows_pass_through_a_pipeline(halves):
    X, y, X_val, y_val = halves
    with sklearn.config_context(enable_metadata_routing=True):
        pipe = Pipeline(
            [
                ("scale", StandardScaler()),
                ("mlp", Classifier(max_iter=5).set_fit_request(X_val=True, y_val=True)),
            ],
            transform_input=["X_val"],
        )
        pipe.fit(X, y, X_val=X_val, y_val=y_val)
    scaler = StandardScaler().fit(X)
    by_hand = Classifier(max_iter=5).fit(
        scaler.transform(X), y, X_val=scaler.transform(X_val), y_val=y_val
    )
    assert pipe[-1].validation_loss_curve_ == by_hand.validation_loss_curve_


def test_scorers_weigh_the_held_out_rows(halves):
    X, y, *_ = halves
    weight = np.where(y == 0, 3.0, 1.0)
    models = []
    for enabled in (True, False):
        with sklearn.config_context(enable_metadata_routing=enabled):
            model = Classifier(early_stopping=True, scoring="accuracy", max_iter=5)
            models.append(model.fit(X, y, weight))
    plain = Classifier(early_stopping=True, max_iter=5).fit(X, y, weight)
    for model in models:
        np.testing.assert_allclose(model.validation_scores_, plain.validation_scores_)


def test_sample_weight_is_routed(iris):
    X, y = iris
    weight = np.where(y == 0, 1e-3, 1.0)
    with sklearn.config_context(enable_metadata_routing=True):
        model = Classifier(max_iter=5).set_fit_request(sample_weight=True)
        model.set_score_request(sample_weight=True)
        search = GridSearchCV(model, {"alpha": [1e-4]}, cv=3).fit(X, y, sample_weight=weight)
    expected = Classifier(max_iter=5).fit(X, y, weight)
    np.testing.assert_array_equal(search.best_estimator_.coefs_[0], expected.coefs_[0])


# -- weights, in the sense of samples and classes --------------------------------------------------


def test_zero_weight_is_absence(wine):
    X, y = wine
    weight = (np.arange(178) % 3 > 0).astype(float)
    kept = weight > 0
    np.testing.assert_array_equal(
        Classifier().fit(X, y, weight).coefs_[0], Classifier().fit(X[kept], y[kept]).coefs_[0]
    )


def test_whole_weights_are_repeats(diabetes):
    X, y = diabetes[0][:60], diabetes[1][:60]
    weight = np.arange(60) % 4
    repeated = Regressor().fit(np.repeat(X, weight, axis=0), np.repeat(y, weight))
    np.testing.assert_array_equal(repeated.predict(X), Regressor().fit(X, y, weight).predict(X))


def test_weights_matter_in_mini_batches_too(breast_cancer):
    X, y = breast_cancer
    weight = np.where(y == 0, 0.05, 1.0)
    plain, weighted = (Classifier().fit(X, y, w).predict_proba(X)[:, 1] for w in (None, weight))
    assert weighted.mean() > plain.mean()
    scaled = Classifier().fit(X, y, np.ones(569)).predict_proba(X)[:, 1]
    np.testing.assert_allclose(scaled, plain, atol=1e-4)


@pytest.mark.parametrize("class_weight", ["balanced", {0: 1.0, 1: 5.0}])
def test_class_weight_is_sample_weight(class_weight, breast_cancer):
    X, y = breast_cancer
    by_class = Classifier(class_weight=class_weight).fit(X, y)
    by_sample = Classifier().fit(X, y, compute_sample_weight(class_weight, y))
    np.testing.assert_allclose(by_class.predict_proba(X), by_sample.predict_proba(X), atol=1e-5)


def test_class_weight_of_labels():
    X, Y = datasets.make_multilabel_classification(150, n_classes=3, random_state=0)
    for class_weight in ({0: 1, 1: 9}, [{0: 1, 1: 9}] * 3):
        heavy = Classifier(class_weight=class_weight).fit(X, Y).predict_proba(X)
        by_sample = Classifier().fit(X, Y, compute_sample_weight([{0: 1, 1: 9}] * 3, Y))
        np.testing.assert_allclose(heavy, by_sample.predict_proba(X), atol=1e-5)


# -- standardisation and what is kept --------------------------------------------------------------


def test_standardised_inputs_have_no_unit(diabetes):
    X, y = diabetes
    unit, offset = np.logspace(-6, 6, 10), np.linspace(-1e3, 1e3, 10)
    moved = X * unit + offset
    np.testing.assert_allclose(
        Regressor().fit(moved, y).predict(moved), Regressor().fit(X, y).predict(X), rtol=1e-3
    )


def test_standardised_targets_have_no_unit(diabetes):
    X, y = diabetes
    expected = Regressor().fit(X, y).predict(X)
    moved = Regressor().fit(X, 1e6 * y - 5e8).predict(X)
    np.testing.assert_allclose((moved + 5e8) / 1e6, expected, rtol=1e-3)


def test_standardize_is_a_standard_scaler_in_front(wine):
    X, y = wine
    Z = StandardScaler().fit_transform(X)
    inside = Classifier().fit(X, y).predict_proba(X)
    outside = Classifier(standardize=False).fit(Z, y).predict_proba(Z)
    np.testing.assert_allclose(inside, outside, atol=1e-4)
    raw = Classifier(standardize=False).fit(X, y)
    assert raw.score(X, y) < Classifier().fit(X, y).score(X, y)


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_coefs_predict_by_hand(standardize, dtype, wine, diabetes):
    for model, (X, y), output in [
        (Classifier(activation="tanh"), wine, "decision_function"),
        (Regressor(activation="tanh"), diabetes, "predict"),
    ]:
        X = X.astype(dtype)
        model.set_params(standardize=standardize, hidden_layer_sizes=(8, 4)).fit(X, y)
        layer = X.astype(np.float64)
        for coef, intercept in zip(model.coefs_[:-1], model.intercepts_[:-1]):
            layer = np.tanh(layer @ coef + intercept)
        by_hand = layer @ model.coefs_[-1] + model.intercepts_[-1]
        given = getattr(model, output)(X)
        tol = 1e-8 if dtype == np.float64 else 1e-3
        np.testing.assert_allclose(given, by_hand.reshape(given.shape), rtol=tol, atol=tol)


@pytest.mark.parametrize("activation", ["relu", ["gelu", "tanh"], nn.Hardswish])
def test_module_gives_raw_outputs(activation, iris, diabetes):
    sizes = {"hidden_layer_sizes": (8, 6), "activation": activation, "dropout": 0.1}
    for model, (X, y), output in [
        (Classifier(), iris, "decision_function"),
        (Regressor(), diabetes, "predict"),
    ]:
        module = model.set_params(**sizes).fit(X, y).module_
        assert isinstance(module, nn.Module)
        with torch.no_grad():
            raw = module(torch.tensor(X, dtype=torch.float32)).numpy()
        given = getattr(model, output)(X)
        np.testing.assert_allclose(raw.reshape(given.shape), given, rtol=1e-3, atol=1e-4)
        with torch.no_grad():  # an export: nobody's weights are shared
            next(module.parameters()).zero_()
        np.testing.assert_array_equal(getattr(model, output)(X), given)


def test_fitted_attributes(clf, reg):
    for model, n_features, n_outputs, activation in [
        (clf, 4, 3, "softmax"),
        (reg, 10, 1, "identity"),
    ]:
        assert [coef.shape for coef in model.coefs_] == [(n_features, 16), (16, n_outputs)]
        assert [b.shape for b in model.intercepts_] == [(16,), (n_outputs,)]
        assert (model.n_layers_, model.n_outputs_) == (3, n_outputs)
        assert model.out_activation_ == activation
        assert model.device_ == "cpu"
        assert model.loss_ == model.loss_curve_[-1]
        assert model.best_loss_ == min(model.loss_curve_)
        assert model.n_iter_ == len(model.loss_curve_) <= 100
        assert model.t_ == model.n_iter_ * (150 if n_features == 4 else 442)


def test_unfitted_has_no_fitted_attributes():
    for name in ("coefs_", "intercepts_", "module_", "loss_", "classes_"):
        assert not hasattr(Classifier(), name)
    with pytest.raises(sklearn.exceptions.NotFittedError):
        Regressor().predict([[0.0]])


def test_same_random_state_same_model(wine):
    X, y = wine
    first, again, other = (
        Classifier(random_state=seed, dropout=0.2).fit(X, y) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.coefs_[0], again.coefs_[0])
    assert abs(first.coefs_[0] - other.coefs_[0]).max() > 0.01
    stream = np.random.RandomState(0)
    from_stream = Classifier(random_state=stream, dropout=0.2)
    np.testing.assert_array_equal(from_stream.fit(X, y).coefs_[0], first.coefs_[0])
    assert abs(from_stream.fit(X, y).coefs_[0] - first.coefs_[0]).max() > 0.01


def test_copies_predict_alike(clf, iris):
    X, _ = iris
    for twin in (pickle.loads(pickle.dumps(clf)), copy.deepcopy(clf)):
        np.testing.assert_array_equal(twin.predict_proba(X), clf.predict_proba(X))
        assert twin.loss_curve_ == clf.loss_curve_
    assert not hasattr(clone(clf), "coefs_")


def test_skops_keeps_the_model(clf, iris):
    skops = pytest.importorskip("skops.io")
    data = skops.dumps(clf)
    unknown = skops.get_untrusted_types(data=data)
    assert all(name.startswith("torchsk.") for name in unknown)
    twin = skops.loads(data, trusted=unknown)
    np.testing.assert_array_equal(twin.predict_proba(iris[0]), clf.predict_proba(iris[0]))


def test_fits_in_threads_do_not_meet(wine):
    X, y = wine

    def fit(seed):
        return Classifier(random_state=seed, dropout=0.2, init=nn.init.normal_).fit(X, y).coefs_[0]

    with ThreadPoolExecutor(4) as pool:
        for seed, coef in enumerate(pool.map(fit, range(4))):
            np.testing.assert_array_equal(coef, fit(seed))


class _Modules(pickle.Unpickler):
    """Notes the packages that a pickle needs."""

    def find_class(self, module, name):
        self.found.add(module.split(".")[0])
        return super().find_class(module, name)


def test_state_holds_no_tensor(clf, reg, halves):
    X, y, X_val, y_val = halves
    stopped = Classifier(early_stopping=True, scoring="roc_auc", dropout=0.1, max_iter=3)
    stopped.fit(X, y, X_val=X_val, y_val=y_val)
    for model in (clf, reg, stopped):
        reader = _Modules(io.BytesIO(pickle.dumps(model)))
        reader.found = set()
        reader.load()
        assert reader.found <= {"torchsk", "numpy", "builtins", "copyreg", "_codecs"}


def test_predicting_leaves_the_model_alone(clf, iris):
    before = pickle.dumps(clf)
    clf.predict(iris[0]), clf.predict_proba(iris[0]), clf.coefs_, clf.module_
    assert pickle.dumps(clf) == before


# -- networks of every kind ------------------------------------------------------------------------


@pytest.mark.parametrize("activation", [*ACTIVATIONS, nn.Hardswish, ["relu", nn.CELU]])
def test_activations_learn(activation, wine):
    model = Classifier(hidden_layer_sizes=(16, 8), activation=activation, max_iter=300).fit(*wine)
    assert model.score(*wine) > 0.95


@pytest.mark.parametrize(
    "init", ["kaiming_normal", "orthogonal", "xavier_uniform", nn.init.normal_]
)
def test_inits_learn(init, wine):
    model = Classifier(init=init).fit(*wine)
    assert model.score(*wine) > 0.95
    assert abs(model.coefs_[0] - Classifier().fit(*wine).coefs_[0]).max() > 0.01


def test_hidden_layer_sizes_of_any_form(iris):
    X, y = iris
    expected = Classifier(max_iter=3, hidden_layer_sizes=(5,)).fit(X, y).predict_proba(X)
    for sizes in (5, [5], np.array([5]), (np.int64(5),)):
        model = Classifier(max_iter=3, hidden_layer_sizes=sizes).fit(X, y)
        np.testing.assert_array_equal(model.predict_proba(X), expected)
    linear = Classifier(hidden_layer_sizes=()).fit(X, y)
    assert len(linear.coefs_) == 1
    assert linear.score(X, y) > 0.9


def test_dropout_acts_in_training_only(wine):
    X, y = wine
    plain, dropped = Classifier().fit(X, y), Classifier(dropout=[0.5]).fit(X, y)
    assert dropped.loss_ > plain.loss_
    np.testing.assert_array_equal(dropped.predict_proba(X), dropped.predict_proba(X))
    assert dropped.score(X, y) > 0.95


def test_no_overflow_in_large_inputs(iris):
    X, y = iris
    model = Classifier().fit(X * 1e30, y)
    assert model.score(X * 1e30, y) > 0.95
    assert Classifier().fit(X * 1e-30, y).score(X * 1e-30, y) > 0.95


# -- training on -----------------------------------------------------------------------------------


def test_partial_fit_learns_from_a_stream(digits):
    X, y = digits
    model = Classifier()
    for epoch in range(15):
        for start in range(0, 400, 100):
            rows = slice(start, start + 100)
            classes = np.arange(10) if epoch == start == 0 else None
            assert model.partial_fit(X[rows], y[rows], classes=classes) is model
    assert model.score(X[400:], y[400:]) > 0.85
    assert model.t_ == 15 * 400
    assert len(model.loss_curve_) == 60


def test_partial_fit_of_a_regressor(friedman1):
    X, y = friedman1
    model = Regressor()
    for _ in range(60):
        model.partial_fit(X, y)
    assert model.score(X, y) > 0.8


def test_partial_fit_keeps_the_first_standardisation(iris):
    X, y = iris
    model = Classifier().partial_fit(X, y, classes=[0, 1, 2])
    scaler = model._model.x_scaler
    model.partial_fit(X * 100, y)
    assert model._model.x_scaler is scaler


def test_solver_may_change_between_calls(iris):
    X, y = iris
    model = Classifier()
    for solver in ("sgd", "adam", "adagrad", "sgd"):
        model.set_params(solver=solver).partial_fit(X, y, classes=[0, 1, 2])
    assert len(model.loss_curve_) == 4
    model.set_params(solver="lbfgs").fit(X, y)
    assert not hasattr(model, "loss_curve_")
    assert not hasattr(model, "best_loss_")
    assert model.set_params(solver="adam").partial_fit(X, y).score(X, y) > 0.97


def test_partial_fit_errors(iris):
    X, y = iris
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        Classifier().partial_fit(X, y)
    model = Classifier().partial_fit(X[:100], y[:100], classes=[0, 1])
    with pytest.raises(ValueError, match="`y` has classes not in `self.classes_`"):
        model.partial_fit(X, y)
    with pytest.raises(ValueError, match="is not the same as on last call"):
        model.partial_fit(X[:100], y[:100], classes=[0, 1, 2])
    with pytest.raises(ValueError, match="class_weight must be None or a dict in partial_fit"):
        Classifier(class_weight="balanced").partial_fit(X, y, classes=[0, 1, 2])
    assert not hasattr(Classifier(solver="lbfgs"), "partial_fit")


def test_warm_start_goes_on(iris):
    X, y = iris
    model = Classifier(max_iter=5, warm_start=True).fit(X, y)
    losses = [model.fit(X, y).loss_ for _ in range(4)]
    assert losses == sorted(losses, reverse=True)
    assert model.n_iter_ == 5
    assert len(model.loss_curve_) == 25
    with pytest.raises(ValueError, match="warm_start can only be used where `y` has the same"):
        model.fit(X[:100], y[:100])
    with pytest.raises(ValueError, match="hidden_layer_sizes"):
        model.set_params(hidden_layer_sizes=(7,)).fit(X, y)
    with pytest.raises(ValueError, match="X has 2 features"):
        model.set_params(hidden_layer_sizes=(16,)).fit(X[:, :2], y)
    assert model.n_features_in_ == 4


# -- bad input -------------------------------------------------------------------------------------


class InPlace(nn.Module):
    def forward(self, z):
        return z.relu_()


BAD_PARAMETERS = [
    ({"device": "cuda:63"}, r"^device must be one of \[.*'cpu'.*\]; got device='cuda:63'\.$"),
    ({"device": "gpu"}, r"^device must be one of \[.*\]; got device='gpu'\.$"),
    ({"hidden_layer_sizes": (5, 0)}, r"^hidden_layer_sizes must be .*; got .*=\(5, 0\)\.$"),
    ({"hidden_layer_sizes": [2.5]}, r"^hidden_layer_sizes must be .*; got .*=\[2\.5\]\.$"),
    ({"hidden_layer_sizes": "ab"}, r"hidden_layer_sizes.* must be"),
    ({"hidden_layer_sizes": [[2, 3]]}, r"^hidden_layer_sizes must be .*=\[\[2, 3\]\]\.$"),
    ({"dropout": [0.1, 0.2]}, r"^dropout must be .* \(1\); got dropout=\[0\.1, 0\.2\]\.$"),
    ({"dropout": [1.0]}, r"^dropout must be .*; got dropout=\[1\.0\]\.$"),
    ({"dropout": ["a"]}, r"^dropout must be .*; got dropout=\['a'\]\.$"),
    ({"dropout": 1.0}, r"The 'dropout' parameter of TorchClassifier must be"),
    ({"activation": ["relu"] * 2}, r"^activation must be .*; got activation=\['relu', 'relu'\]\.$"),
    ({"activation": ["step"]}, r"^activation must be one of .*; got activation='step'\.$"),
    ({"activation": "step"}, r"The 'activation' parameter of TorchClassifier must be"),
    ({"activation": nn.PReLU}, r"^activation must be .* without parameters .*; got .*PReLU'>\.$"),
    ({"activation": nn.Linear}, r"^activation must be .* without parameters .*; got .*Linear'>\.$"),
    ({"activation": nn.GLU}, r"^activation must .* keeps the shape .*; got .*GLU'>\.$"),
    ({"activation": InPlace}, r"^activation must be .* out of place; got .*InPlace'>\.$"),
    ({"activation": int}, r"^activation must be .*; got activation=<class 'int'>\.$"),
    ({"loss": "log"}, r"^loss must be one of .*'log_loss'.*; got loss='log'\.$"),
    ({"loss": "squared_error"}, r"^loss must be one of .*; got loss='squared_error'\.$"),
    ({"loss_params": {"power": 2}}, r"^loss_params must .*; got loss_params=\{'power': 2\}\.$"),
    ({"solver": "newton"}, r"The 'solver' parameter of TorchClassifier must be"),
    ({"init": "gauss"}, r"The 'init' parameter of TorchClassifier must be"),
    ({"max_grad_norm": 0.0}, r"The 'max_grad_norm' parameter of TorchClassifier must be"),
    ({"scoring": "beauty"}, r"The 'scoring' parameter of TorchClassifier must be"),
    ({"early_stopping": True, "validation_fraction": 0.001}, r"validation set is too small|class"),
]


@pytest.mark.parametrize(("params", "message"), BAD_PARAMETERS, ids=lambda p: str(p)[:40])
def test_bad_parameters(params, message, iris):
    with pytest.raises(ValueError, match=message):
        Classifier(**{**params}).fit(*iris)


def _with(array, value):
    array = np.array(array, dtype=float)
    array.flat[3] = value
    return array


BAD_DATA = {
    "X_val alone": ({"X_val": np.ones((3, 4))}, r"^X_val and y_val must be given together"),
    "y_val alone": ({"y_val": np.ones(3)}, r"^X_val and y_val must be given together"),
    "X_val of other width": (
        {"X_val": np.ones((3, 5)), "y_val": np.ones(3)},
        r"X has 5 features, but .* is expecting 4",
    ),
    "X_val of other length": ({"X_val": np.ones((3, 4)), "y_val": np.ones(2)}, "inconsistent"),
    "NaN in X_val": (
        {"X_val": np.full((3, 4), np.nan), "y_val": np.ones(3)},
        r"contains NaN",
    ),
    "zero weights": ({"sample_weight": np.zeros(150)}, r"at least one non-zero number"),
    "negative weights": ({"sample_weight": _with(np.ones(150), -1)}, r"[Nn]egative"),
    "NaN weights": ({"sample_weight": _with(np.ones(150), np.nan)}, r"contains NaN"),
    "few weights": ({"sample_weight": np.ones(149)}, r"sample_weight.shape"),
}


@pytest.mark.parametrize("estimator", [Classifier(), Regressor()], ids=str)
@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_fit_parameters(case, estimator, iris):
    kwargs, message = BAD_DATA[case]
    with pytest.raises(ValueError, match=message):
        clone(estimator).fit(*iris, **kwargs)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(value, iris):
    X, y = iris
    for estimator in (Classifier(), Regressor()):
        with pytest.raises(ValueError, match="Input X contains"):
            estimator.fit(_with(X, value), y)
        with pytest.raises(ValueError, match="Input y contains"):
            estimator.fit(X, _with(y, value))


def test_bad_targets(iris):
    X, y = iris
    with pytest.raises(ValueError, match="Unknown label type"):
        Classifier().fit(X, y + 0.5 * X[:, 0])
    with pytest.raises(ValueError, match=r"^`y` has classes not in"):
        Classifier().fit(X[:100], y[:100], X_val=X, y_val=y)
    with pytest.raises(ValueError, match="y must be 1-D, or a binary matrix"):
        Classifier().fit(X, np.column_stack([y, y]))
    with pytest.raises(ValueError, match=r"^y must be non-negative for the Poisson loss"):
        Regressor(loss="poisson").fit(X, y - 1)
    with pytest.raises(ValueError, match=r"^y must hold numbers; got y of the type datetime64"):
        Regressor().fit(X, y.astype("datetime64[D]"))
    with pytest.raises(ValueError, match=r"^y must have 3 columns; got 2\.$"):
        labels = np.eye(3, dtype=int)[y]
        Classifier().partial_fit(X, labels, classes=range(3)).partial_fit(X, labels[:, :2])


def test_bad_held_out_targets(iris):
    X, y = iris
    one, two, labels = X[:, 0], X[:, :2], np.eye(3, dtype=int)[y]
    for model, target, held_out in [
        (Regressor(), two, one),
        (Regressor(), one, two),
        (Regressor(), two, X[:, :3]),
        (Classifier(), labels, labels[:, :2]),
    ]:
        n_columns, n_held_out = (t.reshape(150, -1).shape[1] for t in (target, held_out))
        message = f"^y_val must have {n_columns} columns; got {n_held_out}"
        with pytest.raises(ValueError, match=message):
            model.fit(X, target, X_val=X, y_val=held_out)
    with pytest.raises(ValueError, match=r"^y_val must be positive for the Gamma loss; got y_val"):
        Regressor(loss="gamma").fit(X, one, X_val=X, y_val=-one)
    with pytest.raises(ValueError, match="X has 2 features") as caught:
        Regressor().fit(X, one, X_val=two, y_val=one)
    assert caught.value.__notes__ == ["X and y are X_val and y_val here."]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_a_score_without_meaning_is_recorded_or_an_error(breast_cancer):
    X, y = breast_cancer
    one_class = {"X_val": X[y == 1][:20], "y_val": y[y == 1][:20]}
    net = Classifier(scoring="roc_auc", max_iter=2)
    with pytest.warns(ConvergenceWarning):
        assert np.isnan(net.fit(X, y, **one_class).validation_scores_).tolist() == [True, True]
    with pytest.raises(ValueError, match="score was not finite in epoch 1, though the loss was"):
        net.set_params(early_stopping=True).fit(X, y, **one_class)


def test_what_a_solver_makes_no_use_of_is_said(iris):
    with pytest.warns(UserWarning, match="solver='lbfgs' makes no use of dropout"):
        Classifier(solver="lbfgs", dropout=0.5).fit(*iris)
    with pytest.warns(UserWarning, match="solver='lbfgs' makes no use of X_val and y_val"):
        Classifier(solver="lbfgs").fit(*iris, X_val=iris[0], y_val=iris[1])


@pytest.mark.parametrize("loss", ["huber", "smooth_l1"])
@pytest.mark.parametrize("unit", [1e-4, 1.0, 1e4])
def test_thresholds_learn_in_every_unit(loss, unit, diabetes):
    X, y = diabetes
    net = TorchRegressor(loss=loss, random_state=0).fit(X, unit * y)
    assert net.score(X, unit * y) > 0.5


@pytest.mark.parametrize("standardize", [True, False])
def test_rows_may_lie_backwards(standardize, iris):
    X, y = iris
    net = Classifier(standardize=standardize).fit(X[::-1], y[::-1])
    for view in (X[::-1], X[:, ::-1], X[::2], X.T.copy().T):
        expected = net.predict_proba(view.copy())
        np.testing.assert_allclose(net.predict_proba(view), expected, rtol=1e-12)


def test_weights_cannot_be_written_to(clf):
    for array in (*clf.coefs_, *clf.intercepts_):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_bad_rows_to_predict(value, dtype, clf, reg, iris, diabetes):
    for predict, X in [
        (clf.predict, iris[0]),
        (clf.predict_proba, iris[0]),
        (reg.predict, diabetes[0]),
    ]:
        with pytest.raises(ValueError, match="Input X contains"):
            predict(_with(X, value).astype(dtype))
        with pytest.raises(ValueError, match=f"X has 3 features, but .* expecting {X.shape[1]}"):
            predict(X[:, :3].astype(dtype))
        with pytest.raises(ValueError, match="Expected 2D array, got 1D array"):
            predict(X[0].astype(dtype))
        with pytest.raises(ValueError, match=r"Found array with 0 sample\(s\)"):
            predict(X[:0].astype(dtype))


def test_feature_names_are_checked(iris):
    X, y = iris
    frame = pd.DataFrame(X, columns=NAMES)
    model = Classifier(max_iter=2).fit(frame, y)
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        model.predict(X)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[NAMES[::-1]])
    with pytest.raises(ValueError, match="feature names should match"):
        model.fit(frame, y, X_val=frame[NAMES[::-1]], y_val=y)


def test_small_classes_in_early_stopping(iris):
    X, y = iris
    with pytest.raises(ValueError, match="least populated class"):
        Classifier(early_stopping=True).fit(X[:51], y[:51])


def test_weights_that_vanish_in_the_validation_rows(iris):
    X, y = iris
    weight = np.zeros(150)
    weight[0] = 1
    with pytest.raises(ValueError, match="sample_weight must not be all zero in the"):
        Classifier(early_stopping=True).fit(X, y, weight)


def test_divergence_is_an_error_that_says_what_to_try(diabetes):
    model = Regressor(learning_rate_init=1e20, max_grad_norm=None)
    with pytest.raises(ValueError, match=r"learning_rate_init.*max_grad_norm.*standardize"):
        model.fit(*diabetes)
    assert not hasattr(model, "coefs_")


def _diverge(model, X, y):
    model.set_params(learning_rate_init=1e30, max_grad_norm=None, activation="identity").fit(X, y)


def _raise(tensor):
    raise RuntimeError("init failed")


FAILURES = {
    "NaN": lambda model, X, y: model.fit(_with(X, np.nan), y),
    "other columns": lambda model, X, y: model.fit(
        pd.DataFrame(X[:, :2]).add_prefix("f"), _with(y, np.nan)
    ),
    "weights": lambda model, X, y: model.fit(X[:, :2], y == 1, np.zeros(len(y))),
    "device": lambda model, X, y: model.set_params(device="nowhere").fit(X[:, :2], y == 1),
    "init": lambda model, X, y: model.set_params(init=_raise).fit(X[:, :2], y == 1),
    "diverged": lambda model, X, y: _diverge(model, 1e3 * X[:, :2], y),
    "validation": lambda model, X, y: model.fit(X[:, :2], y == 1, X_val=X, y_val=y),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("estimator_class", [Classifier, Regressor])
def test_a_failed_refit_loses_nothing(failure, estimator_class, iris):
    X, y = iris
    frame = pd.DataFrame(X, columns=NAMES)
    model = estimator_class(max_iter=5, standardize=failure != "diverged").fit(frame, y)
    before, attributes = model.predict(frame), set(vars(model))
    with pytest.raises((ValueError, RuntimeError)):
        FAILURES[failure](model, X, y)
    assert set(vars(model)) == attributes
    assert model.feature_names_in_.tolist() == NAMES
    np.testing.assert_array_equal(model.predict(frame), before)


# -- global state ----------------------------------------------------------------------------------


def _global_state():
    return (
        torch.random.get_rng_state().tolist(),
        [np.asarray(part).tolist() for part in np.random.get_state()],  # noqa: NPY002
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        np.geterr(),
    )


@pytest.mark.parametrize(
    "params",
    [
        {"dropout": 0.3},
        {"init": nn.init.normal_, "early_stopping": True},
        {"solver": "lbfgs"},
        {"activation": nn.RReLU, "loss": "focal"},
        {"init": _raise},
        {"learning_rate_init": 1e30, "max_grad_norm": None, "activation": "identity"},
    ],
    ids=str,
)
def test_global_state_is_left_alone(params, iris):
    X, y = iris
    before = _global_state()
    try:
        Classifier(max_iter=3, **params).fit(X, y).predict(X)
    except (ValueError, RuntimeError):
        pass
    assert _global_state() == before


@pytest.mark.parametrize("params", [{"dropout": 0.3}, {"solver": "lbfgs"}, {"activation": nn.CELU}])
def test_global_state_does_not_matter(params, iris):
    X, y = iris
    estimator = Classifier(max_iter=10, early_stopping=True, **params)
    expected = clone(estimator).fit(X, y).predict_proba(X)
    torch.set_default_dtype(torch.float64)
    try:
        result = clone(estimator).fit(X, y).predict_proba(X)
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_array_equal(result, expected)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            result = clone(estimator).fit(X, y).predict_proba(X)
        np.testing.assert_array_equal(result, expected)


# -- callbacks of scikit-learn ---------------------------------------------------------------------


def test_scoring_monitor_scores_every_epoch(iris):
    X, y = iris
    monitor = ScoringMonitor(scoring="accuracy")
    model = Classifier(max_iter=7).set_callbacks(monitor).fit(X, y)
    rows = monitor.get_logs().data
    epochs = [row for row in rows if row["task_name"] == "epoch"]
    assert len(epochs) == 7
    assert epochs[-1]["accuracy"] == rows[-1]["accuracy"] == model.score(X, y)
    assert epochs[0]["accuracy"] < epochs[-1]["accuracy"]  # the weights of that epoch
    plain = Classifier(max_iter=7).fit(X, y)
    np.testing.assert_array_equal(model.coefs_[0], plain.coefs_[0])
    assert not [name for name in vars(model) if "callback_" in name and "ctx" in name]


def test_scoring_monitor_weighs_and_sees_raw_data(breast_cancer):
    X, y = breast_cancer
    weight = np.where(y == 0, 5.0, 1.0)
    labels = np.array(["no", "yes"])[y]
    monitor = ScoringMonitor(scoring="accuracy")
    model = Classifier(max_iter=3).set_callbacks(monitor).fit(X, labels, weight)
    assert monitor.get_logs().data[-1]["accuracy"] == model.score(X, labels, weight)


def test_scoring_monitor_in_a_search_over_pipelines(iris):
    X, y = iris
    monitor = ScoringMonitor(scoring="accuracy")
    pipe = make_pipeline(StandardScaler(), Classifier(max_iter=3).set_callbacks(monitor))
    GridSearchCV(pipe, {"torchclassifier__alpha": [1e-4, 1.0]}, cv=2).fit(X, y)
    rows = monitor.get_logs().data
    assert sum(row["task_name"] == "epoch" for row in rows) == (4 + 1) * 3


@pytest.mark.parametrize("where", ["alone", "pipeline", "search"])
def test_progress_bar(where, iris, capsys):
    pytest.importorskip("rich")
    model = {
        "alone": Classifier(max_iter=3),
        "pipeline": make_pipeline(StandardScaler(), Classifier(max_iter=3)),
        "search": GridSearchCV(Classifier(max_iter=3), {"alpha": [1e-4, 1.0]}, cv=2),
    }[where]
    model.set_callbacks(ProgressBar(max_propagation_depth=None)).fit(*iris)
    assert "TorchClassifier" in capsys.readouterr().out
    assert model.score(*iris) > 0.5


class Stop:
    """Ends the fit after some epochs."""

    def __init__(self, n_epochs):
        self.n_epochs = n_epochs
        self.seen = []

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        self.seen.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, fitted_estimator=None):
        self.seen.append((context.task_name, fitted_estimator.predict_proba(X[:2]).shape))
        return context.task_name == "epoch" and len(self.seen) == self.n_epochs


def test_a_callback_stops_the_fit(iris):
    stop = Stop(3)
    model = Classifier().set_callbacks(stop).fit(*iris)
    assert model.n_iter_ == len(model.loss_curve_) == 3
    assert [event[0] for event in stop.seen[:-1]] == ["epoch"] * 3 + ["fit"]
    assert stop.seen[-1] == "teardown"


def test_callbacks_are_torn_down_after_an_error(iris):
    stop = Stop(3)
    model = Classifier(learning_rate_init=1e30, max_grad_norm=None, activation="identity")
    with pytest.raises(ValueError, match="diverged"):
        model.set_callbacks(stop).fit(*iris)
    assert stop.seen[-1] == "teardown"


def test_early_stopping_needs_a_fraction():
    X, y = datasets.load_iris(return_X_y=True)
    with pytest.raises(ValueError, match=r"validation_fraction must be in \(0, 1\)"):
        TorchClassifier(early_stopping=True, validation_fraction=0).fit(X, y)
