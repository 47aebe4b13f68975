"""A drop-in among scikit-learn's tools: pipelines, searches, ensembles, calibration, routing."""

import copy

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
import skorch.callbacks as cbs
from networks import Classifier, Regressor, mlp
from scipy.stats import loguniform
from sklearn import datasets
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.ensemble import (
    AdaBoostClassifier,
    AdaBoostRegressor,
    BaggingClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_selection import SelectKBest
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    StratifiedKFold,
    cross_validate,
    learning_curve,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from torchsk import TorchClassifier, TorchRegressor


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
        (AdaBoostClassifier, TorchClassifier((2,), max_iter=4), 0.9),
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


def test_sample_weight_is_routed(iris):
    X, y = iris
    weight = np.where(y == 0, 1e-3, 1.0)
    with sklearn.config_context(enable_metadata_routing=True):
        model = Classifier(max_iter=5).set_fit_request(sample_weight=True)
        model.set_score_request(sample_weight=True)
        search = GridSearchCV(model, {"alpha": [1e-4]}, cv=3).fit(X, y, sample_weight=weight)
    expected = Classifier(max_iter=5, alpha=1e-4).fit(X, y, weight)
    np.testing.assert_array_equal(search.best_estimator_.coefs_[0], expected.coefs_[0])


@pytest.mark.parametrize("backend", ["sequential", "torchsk"])
def test_grid_search_over_module_params(iris, backend):
    X, y = iris
    pipe = make_pipeline(
        StandardScaler(),
        TorchClassifier(module=mlp, max_iter=40, random_state=0, skorch_callbacks=[cbs.EpochTimer]),
    )
    grid = {"torchclassifier__module_params": [{"width": 1}, {"width": 12}]}
    with joblib.parallel_config(backend):
        search = GridSearchCV(pipe, grid, cv=3).fit(X, y)
    assert search.best_params_ == {"torchclassifier__module_params": {"width": 12}}
    assert search.best_score_ > 0.9


def test_entries_of_module_params_are_set_in_a_new_dict(iris):
    given = {"width": 2}
    net = TorchClassifier(module=mlp, module_params=given, max_iter=2, random_state=0)
    other = clone(net)
    kept = other.module_params
    changed = copy.copy(net).set_params(module__width=8)
    assert other.set_params(module__width=8, max_iter=3) is other
    assert net.module_params is given
    assert given == kept == {"width": 2}
    assert other.module_params == changed.module_params == {"width": 8}
    assert other.max_iter == 3
    assert other.fit(*iris).module_[0].out_features == 8
    empty = TorchClassifier(module=mlp).set_params(module__width=8)
    assert empty.module_params == {"width": 8}
    both = clone(net).set_params(module__width=8, module_params={"width": 4, "n_outputs": 3})
    assert both.module_params == {"width": 8, "n_outputs": 3}
    named = TorchRegressor().set_params(module__width=8, module=mlp)
    assert (named.module, named.module_params) == (mlp, {"width": 8})
    assert clone(other).module_params == {"width": 8}
    assert "module_params={'width': 8}" in repr(other)
    for deep in (True, False):  # what get_params gives is what __init__ takes
        params = other.get_params(deep=deep)
        assert params["module_params"] == {"width": 8}
        assert repr(TorchClassifier(**params)) == repr(other)


def test_entries_of_loss_params_are_set_in_a_new_dict(diabetes):
    given = {"delta": 1.0}
    net = TorchRegressor(loss="huber", loss_params=given, max_iter=2, random_state=0)
    other = clone(net).set_params(loss__delta=2.0)
    assert net.loss_params is given
    assert (given, other.loss_params) == ({"delta": 1.0}, {"delta": 2.0})
    named = TorchRegressor().set_params(loss__quantile=0.9, loss="quantile")
    assert named.loss_params == {"quantile": 0.9}
    search = GridSearchCV(net, {"loss__delta": [0.1, 10.0]}, cv=2).fit(*diabetes)
    assert search.best_estimator_.loss_params == {"delta": search.best_params_["loss__delta"]}
    with pytest.raises(ValueError, match=r"^loss_params must have no keys but \['delta'\]"):
        clone(net).set_params(loss__width=1).fit(*diabetes)


@pytest.mark.parametrize("module", [None, mlp(4, 3)], ids=["built-in", "instance"])
def test_entries_need_a_module_that_takes_them(module):
    net = TorchClassifier(module=module)
    with pytest.raises(ValueError, match=r"^module must be .* module__width .*_params; got"):
        net.set_params(max_iter=3, module__width=8)
    assert (net.module_params, net.max_iter) == (None, 50)
    with pytest.raises(ValueError, match="Invalid parameter 'modul' for estimator"):
        net.set_params(modul__width=8)
    with pytest.raises(TypeError, match="unexpected keyword argument 'module__width'"):
        TorchClassifier(module=mlp, module__width=8)


@pytest.mark.parametrize("backend", ["sequential", "torchsk"])
def test_grid_search_over_entries_of_module_params(iris, backend):
    given = {"width": 3}
    net = TorchClassifier(module=mlp, module_params=given, max_iter=10, random_state=0)
    pipe = make_pipeline(StandardScaler(), net)
    entry = "torchclassifier__module__width"
    grid = {entry: [1, 12]}
    whole = {"torchclassifier__module_params": [{"width": 1}, {"width": 12}]}
    with joblib.parallel_config(backend):
        searches = [GridSearchCV(pipe, params, cv=3).fit(*iris) for params in (grid, whole)]
    search, expected = searches
    assert search.best_params_ == {entry: 12}
    assert search.cv_results_[f"param_{entry}"].tolist() == [1, 12]
    scores = [s.cv_results_["mean_test_score"] for s in searches]
    np.testing.assert_array_equal(*scores)
    best = search.best_estimator_[-1]
    assert (best.module_params, best.module_[0].out_features) == ({"width": 12}, 12)
    np.testing.assert_array_equal(search.predict(iris[0]), expected.predict(iris[0]))
    assert net.module_params is given
    assert given == {"width": 3}
