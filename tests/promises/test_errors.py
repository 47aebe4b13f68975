"""Errors name the argument, and a fit that fails loses nothing."""

import pickle
import re
import traceback

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import skorch.callbacks as cbs
import torch
from networks import Classifier, Regressor, mlp
from scipy.optimize import OptimizeResult
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from torch import nn

from torchsk import TorchClassifier, TorchRegressor, _runtime
from torchsk._inputs import held_out_names
from torchsk._solvers import SOLVERS
from torchsk._training import lbfgs

FEATURES = ["a", "b", "c", "d"]


def _with(array, value):
    array = np.array(array, dtype=float)
    array.flat[3] = value
    return array


BAD_DATA = {
    "X_val alone": ({"X_val": np.ones((3, 4))}, r"^X_val and y_val must be given together"),
    "y_val alone": ({"y_val": np.ones(3)}, r"^X_val and y_val must be given together"),
    "X_val of other width": (
        {"X_val": np.ones((3, 5)), "y_val": np.ones(3)},
        r"^X_val has 5 features, but .* is expecting 4",
    ),
    "X_val of other length": (
        {"X_val": np.ones((3, 4)), "y_val": np.ones(2)},
        "^X_val and y_val: .* inconsistent",
    ),
    "NaN in X_val": (
        {"X_val": np.full((3, 4), np.nan), "y_val": np.ones(3)},
        r"^Input X_val contains NaN",
    ),
    "NaN in y_val": (
        {"X_val": np.ones((3, 4)), "y_val": np.full(3, np.nan)},
        r"^Input y_val contains NaN",
    ),
    "strings in X_val": (
        {"X_val": [list("abcd")], "y_val": [1]},
        r"^X_val (and y_val )?must hold numbers; could not convert .*: encode strings first",
    ),
    "X_val of one axis": ({"X_val": np.ones(4), "y_val": [1]}, r"^X_val and y_val: Expected 2D"),
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


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, pd.NaT], ids=str)
@pytest.mark.parametrize("container", [np.array, pd.Series, list], ids=lambda c: c.__name__)
def test_missing_labels(missing, container, iris):
    X, y = iris
    labels = np.array(["a", "b"], dtype=object)[(y > 0).astype(int)]
    labels[[7, 20]] = missing
    message = r"^Input {} contains NaN or None: 2 of 150 values, first in row 7\. Leave such rows"
    for estimator in (Classifier(), Regressor()):
        with pytest.raises(ValueError, match=message.format("y")):
            estimator.fit(X, container(labels))
    with pytest.raises(ValueError, match=message.format("y_val")):
        Classifier().fit(X, y, X_val=X, y_val=container(labels))


def test_labels_of_several_kinds_and_labels_for_a_regressor(iris):
    X, y = iris
    mixed = np.array(["a", 1], dtype=object)[(y > 0).astype(int)]
    with pytest.raises(TypeError, match=r"^y must hold labels of one kind, .*; got int and str\."):
        Classifier().fit(X, mixed)
    words = np.array(["a", "b"], dtype=object)[(y > 0).astype(int)]
    with pytest.raises(ValueError, match=r"^y must hold numbers; .*: labels are for TorchCl"):
        Regressor().fit(X, words)
    with pytest.raises(ValueError, match=r"^X must hold numbers; .* OneHotEncoder"):
        Regressor().fit(np.c_[words, words], y)


@pytest.mark.parametrize("scoring", ["f1", "precision", "average_precision"])
def test_a_scorer_that_asks_for_the_label_1(scoring, iris):
    X, y = iris[0][:100], np.array(["no", "yes"])[iris[1][:100]]
    stops = {"early_stopping": True, "max_iter": 2, "random_state": 0}
    with pytest.raises(ValueError, match=r"^scoring must .*, which says: ") as caught:
        TorchClassifier(scoring=scoring, **stops).fit(X, y)
    message = str(caught.value)
    way = re.search(r"Give sklearn\.metrics\.(make_scorer\(.*?'no'\)) or pos_lab", message)[1]
    assert "pos_label='yes', whichever class you look for" in message
    assert (f"'{scoring}_macro'" in message) == (scoring != "average_precision")
    assert "_samples" not in message
    TorchClassifier(scoring=eval(way, vars(sklearn.metrics)), **stops).fit(X, y)


def test_a_scorer_of_one_class_for_several_labels():
    X, y = np.eye(4)[np.arange(40) % 4], (np.eye(4, dtype=int) | np.eye(4, dtype=int)[::-1])
    with pytest.raises(ValueError, match=r"'f1_macro'; or 'f1_micro'; or 'f1_samples'"):
        Classifier(early_stopping=True, scoring="f1").fit(X, y[np.arange(40) % 4])


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
    frame = pd.DataFrame(X, columns=FEATURES)
    model = Classifier(max_iter=2).fit(frame, y)
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        model.predict(X)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[FEATURES[::-1]])
    with pytest.raises(ValueError, match="^X_val and y_val: The feature names should match"):
        model.fit(frame, y, X_val=frame[FEATURES[::-1]], y_val=y)


def test_labels_and_columns_named_X_or_y_keep_their_names(iris):
    X, y = iris
    labels = np.array(["X", "n", "y"])
    with pytest.raises(ValueError, match=r"^`y_val` has classes .* \['X' 'n' 'y'\]\. `y_val`"):
        Classifier().fit(X, labels[y], X_val=X[:2], y_val=["y", "q"])
    frame = pd.DataFrame(X, columns=["X", "y", "c", "d"])
    with pytest.raises(ValueError, match=r"unseen at fit time:\n- y_\n.*now missing:\n- y\n"):
        Classifier().fit(frame, y, X_val=frame.rename(columns={"y": "y_"}), y_val=y)
    with pytest.raises(ValueError, match="^y_val: Unknown label type: continuous"):
        Classifier().fit(X, y, X_val=X, y_val=X[:, 0])
    with pytest.raises(TypeError, match="^X_val must be") as caught, held_out_names("y_val"):
        raise TypeError("X must be")
    assert type(caught.value) is TypeError


# -- what the last line says -----------------------------------------------------------------------


def _last_line(error):
    return traceback.format_exception_only(error)[-1]


def test_a_method_that_is_not_there_says_why(breast_cancer, iris):
    for X, y in (breast_cancer, iris):
        hinge = TorchClassifier(loss="hinge", max_iter=2, random_state=0).fit(X, y)
        for method in ("predict_proba", "predict_log_proba"):
            assert not hasattr(hinge, method)
            with pytest.raises(AttributeError) as caught:
                getattr(hinge, method)
            words = rf"has no attribute '{method}': loss='hinge' gives margins.* decision_function"
            assert re.search(words, _last_line(caught.value))
    for estimator in (TorchClassifier(solver="lbfgs"), TorchRegressor(solver="lbfgs")):
        with pytest.raises(AttributeError) as caught:
            estimator.partial_fit(*iris)
        assert re.search("'partial_fit': solver='lbfgs' has no epochs", _last_line(caught.value))
    assert TorchClassifier.predict_proba.__doc__.startswith("Predict class probabilities")


@pytest.mark.parametrize(
    ("kind", "is_built", "words"),
    [
        ("cuda", False, r" was built without CUDA: install a build .*pytorch\.org"),
        ("cuda:1", False, r" was built without CUDA: install a build .*pytorch\.org"),
        ("cuda", True, " has CUDA, but finds no such device"),
        ("mps", False, r" was built without MPS \(macOS only\)"),
    ],
)
def test_why_a_device_is_not_there(kind, is_built, words, iris, monkeypatch):
    monkeypatch.setattr(_runtime, "available_devices", lambda: ["cpu"])
    name, _ = _runtime.BUILDS[kind.partition(":")[0]]
    monkeypatch.setitem(_runtime.BUILDS, kind.partition(":")[0], (name, lambda: is_built))
    with pytest.raises(ValueError, match=rf"got device='{kind}'\. This torch \(2.*\){words}"):
        TorchClassifier(device=kind).fit(*iris)


def test_a_scorer_that_does_not_fit_y_is_named(iris, diabetes):
    stops = {"early_stopping": True, "max_iter": 2, "random_state": 0}
    with pytest.raises(ValueError, match=r"^scoring must .*; got scoring='roc_auc', which says: "):
        TorchClassifier(scoring="roc_auc", **stops).fit(*iris)
    with pytest.raises(ValueError, match=r"^scoring must .*; got scoring='accuracy', which says: "):
        TorchRegressor(scoring="accuracy", **stops).fit(*diabetes)
    with pytest.raises(ValueError, match=r"got scoring='neg_log_loss', .*: predict_proba"):
        TorchClassifier(loss="hinge", scoring="neg_log_loss", **stops).fit(*iris)

    def own(estimator, X, y):
        raise ValueError("mine")

    with pytest.raises(ValueError, match="^mine$"):
        TorchClassifier(scoring=own, **stops).fit(*iris)


def test_strings_say_what_to_do(iris):
    X, y = iris
    frame = pd.DataFrame(X, columns=FEATURES).assign(b="blue")
    with pytest.raises(ValueError, match=r"^X must hold numbers; .* 'blue': .*OneHotEncoder"):
        Classifier().fit(frame, y)
    with pytest.raises(ValueError, match=r"^y must hold numbers \(labels are for TorchClassifier"):
        Regressor().fit(X, y.astype(str))


# -- hints about binary problems, for binary problems ----------------------------------------------


def _linear(n_outputs, *end):
    return lambda n_features: nn.Sequential(nn.Linear(n_features, n_outputs), *end)


def test_the_hint_of_another_number_of_outputs_is_for_binary_problems(iris, breast_cancer):
    X, y = iris
    labels = np.eye(3, dtype=int)[y]
    for target in (y, labels):
        with pytest.raises(ValueError, match=r"\(n_samples, 3\).*shape \(\d+, 1\)\.$"):
            TorchClassifier(module=_linear(1)).fit(X, target)
    with pytest.raises(ValueError, match=r"two outputs, one per class, .*loss='cross_entropy'"):
        TorchClassifier(module=_linear(2)).fit(*breast_cancer)
    with pytest.raises(ValueError, match=r"one output goes with loss='log_loss'"):
        TorchClassifier(module=_linear(1), loss="cross_entropy").fit(*breast_cancer)


@pytest.mark.parametrize(
    ("end", "n_outputs", "loss", "hint"),
    [
        (nn.Sigmoid(), 1, "log_loss", "sigmoid.*loss='bce'"),
        (nn.Softmax(1), 2, "cross_entropy", "softmax.*loss='nll'"),
        (nn.Softmax(1), 3, "log_loss", "softmax.*loss='nll'"),
    ],
)
def test_outputs_like_probabilities(end, n_outputs, loss, hint, iris):
    X, y = iris
    net = TorchClassifier(module=_linear(n_outputs, end), loss=loss, max_iter=2, random_state=0)
    with pytest.warns(UserWarning, match=f"this loss takes logits. If it ends in a {hint}") as told:
        net.fit(X, y if n_outputs == 3 else y == 1)
    assert ("bce" in str(told[0].message)) == (n_outputs == 1)
    repaired = loss if n_outputs == 1 else "nll"
    ending = nn.Identity() if n_outputs == 1 else nn.LogSoftmax(1)
    net.set_params(module=_linear(n_outputs, ending), loss=repaired)
    net.fit(X, y if n_outputs == 3 else y == 1)


# -- every ConvergenceWarning says what to try -----------------------------------------------------


NOT_DONE = {
    **{name: {"solver": name} for name in SOLVERS if name != "lbfgs"},
    "torch": {"solver": torch.optim.Adam},
    "skorch": {"module": mlp},
    "early stopping": {"early_stopping": True, "solver": "adam"},
}


@pytest.mark.parametrize("case", NOT_DONE)
def test_a_run_that_is_not_done_says_what_to_try(case, diabetes):
    net = TorchRegressor(learning_rate="constant", max_iter=3, random_state=0, **NOT_DONE[case])
    with pytest.warns(ConvergenceWarning, match="Raise max_iter or learning_rate_init, or use"):
        net.fit(*diabetes)


def test_lbfgs_says_what_to_try(diabetes, monkeypatch):
    net = TorchRegressor(solver="lbfgs", max_fun=3, random_state=0)
    with pytest.warns(ConvergenceWarning, match=r"Increase max_iter=50 or max_fun=3, or scale"):
        net.fit(*diabetes)

    def lost(objective, flat, **kwargs):
        return OptimizeResult(x=flat, fun=1.0, nit=3, status=2, message="ABNORMAL")

    monkeypatch.setattr(lbfgs, "minimize_lbfgs", lost)
    with pytest.warns(ConvergenceWarning, match=r"raise tol=0\.0001 or alpha, or scale"):
        net.fit(*diabetes)

    def diverged(objective, flat, **kwargs):
        return OptimizeResult(x=np.nan * flat, fun=np.nan, nit=3, status=0)

    monkeypatch.setattr(lbfgs, "minimize_lbfgs", diverged)
    with pytest.raises(
        ValueError, match=r"^Training diverged: .*\. Raise alpha, or scale the data"
    ):
        net.fit(*diabetes)


# -- a fit that fails ------------------------------------------------------------------------------


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
    frame = pd.DataFrame(X, columns=FEATURES)
    model = estimator_class(max_iter=5, standardize=failure != "diverged").fit(frame, y)
    before, attributes = model.predict(frame), set(vars(model))
    with pytest.raises((ValueError, RuntimeError)):
        FAILURES[failure](model, X, y)
    assert set(vars(model)) == attributes
    assert model.feature_names_in_.tolist() == FEATURES
    np.testing.assert_array_equal(model.predict(frame), before)


def test_a_failed_refit_leaves_the_model(iris):
    X, y = iris
    clf = TorchClassifier(module=mlp, max_iter=5, random_state=0).fit(X, y)
    before, net = clf.predict_proba(X), clf.net_

    class Fail(cbs.Callback):
        def on_batch_end(self, net, **kwargs):
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        clf.set_params(skorch_callbacks=[Fail]).partial_fit(X, y)
    assert clf.net_ is net
    np.testing.assert_array_equal(clf.predict_proba(X), before)


def test_a_partial_fit_that_fails_leaves_the_optimizer_alone(iris):
    X, y = iris
    net = TorchClassifier(module=mlp, solver="adam", batch_size=50, random_state=0)
    net.partial_fit(X, y, classes=[0, 1, 2])
    control = pickle.loads(pickle.dumps(net))

    class Fails(cbs.Callback):
        n_batches = 0

        def on_batch_end(self, net, **kwargs):
            self.n_batches += 1
            if self.n_batches == 2:
                raise RuntimeError("third batch")

    with pytest.raises(RuntimeError, match="third batch"):
        net.set_params(skorch_callbacks=[Fails]).partial_fit(X, y)
    net.set_params(skorch_callbacks=None).partial_fit(X, y)
    control.partial_fit(X, y)
    np.testing.assert_array_equal(net.predict_proba(X), control.predict_proba(X))


WRONG_ROWS = {
    "no channels": ((8, 8), nn.Conv2d(1, 2, 3), RuntimeError, r" For images .* X\[:, None\]\.$"),
    "no channels, by torch's own check": ((8, 8), nn.BatchNorm2d(1), ValueError, r"X\[:, None\]"),
    "features": ((30,), nn.Linear(10, 1), RuntimeError, r"of the rows of X\.$"),
}


@pytest.mark.parametrize("case", WRONG_ROWS)
def test_a_module_that_cannot_take_the_rows(case):
    shape, layer, kind, way = WRONG_ROWS[case]
    X, y = np.ones((20, *shape)), np.arange(20) % 2
    module = nn.Sequential(layer, nn.Flatten(), nn.Linear(1, 1))
    with pytest.raises(kind, match=re.escape(f"given 20 rows of the shape {shape}") + f".*{way}"):
        TorchClassifier(module=module, batch_size=20, max_iter=1).fit(X, y)
