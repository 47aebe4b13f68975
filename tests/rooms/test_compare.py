import ast
import pickle
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import joblib
import numpy as np
import pytest
from scipy import stats
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.datasets import load_iris
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.exceptions import FitFailedWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold, ShuffleSplit, cross_validate
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from torchsk import _compare, _displays
from torchsk._compare import Comparison, compare, corrected_resampled_ttest, count_parameters

X, y = load_iris(return_X_y=True)
X, y = X[::2], y[::2]
MLP = MLPClassifier((5,), max_iter=4, random_state=0)
TREE = DecisionTreeClassifier(max_depth=2, random_state=0)
SCORING = ["accuracy", "neg_log_loss"]


class Recorder(ClassifierMixin, BaseEstimator):
    """Classifier that remembers in which rows and with which weights it was fitted."""

    seen = []

    def fit(self, X, y, sample_weight=None):
        self.classes_ = np.unique(y)
        self.seen.append((X[:, 0].tolist(), sample_weight))
        return self

    def predict(self, X):
        return np.full(len(X), self.classes_[0])


class FailsOn(DummyClassifier):
    """Classifier whose fit fails when the first row is in the training set."""

    def fit(self, X, y, sample_weight=None):
        if (X == FIRST).all(axis=1).any():
            raise RuntimeError("first row")
        return super().fit(X, y, sample_weight)


class Fails(DummyClassifier):
    """Classifier whose fit always fails."""

    def __init__(self, error=None):
        super().__init__()
        self.error = error

    def fit(self, X, y, sample_weight=None):
        raise self.error


FIRST = X[0]


@pytest.fixture(scope="module")
def comparison():
    return compare({"mlp": MLP, "<tree> & co": TREE}, X, y, scoring=SCORING)


def formula(a, b, n_train, n_test):
    """Nadeau and Bengio (2003), term by term: p value and interval of mean(b) - mean(a)."""
    d = [u - v for u, v in zip(b, a, strict=True)]
    k = len(d)
    mean = sum(d) / k
    variance = sum((x - mean) ** 2 for x in d) / (k - 1)
    error = ((1 / k + n_test / n_train) * variance) ** 0.5
    law = stats.t(k - 1)
    return 2 * (1 - law.cdf(abs(mean / error))), mean + error * np.array(law.interval(0.95))


def test_scores_are_those_of_cross_validate(comparison):
    for name, estimator in {"mlp": MLP, "<tree> & co": TREE}.items():
        expected = cross_validate(estimator, X, y, scoring=SCORING, cv=5)
        for metric in SCORING:
            scores = comparison.test_scores(metric)[name]
            np.testing.assert_allclose(scores, expected[f"test_{metric}"])
    assert comparison.names == ["mlp", "<tree> & co"]
    assert comparison.metrics == SCORING
    np.testing.assert_array_equal(
        comparison.test_scores()["mlp"], comparison.test_scores("accuracy")["mlp"]
    )


@pytest.mark.parametrize(
    "scoring, metrics",
    [
        (None, ["score"]),
        ("f1_macro", ["f1_macro"]),
        (lambda estimator, X, y: 0.5, ["score"]),
        ({"mine": "accuracy", "other": "f1_micro"}, ["mine", "other"]),
    ],
)
def test_scoring(scoring, metrics):
    assert compare({"a": TREE}, X, y, scoring=scoring).metrics == metrics


def test_all_estimators_see_the_same_folds():
    Recorder.seen.clear()
    splitter = ShuffleSplit(3, random_state=np.random.RandomState(0))
    compare({"a": Recorder(), "b": Recorder()}, X, y, cv=splitter)
    assert Recorder.seen[:3] == Recorder.seen[3:]
    folds = (
        fold for fold in [(np.arange(50), np.arange(50, 75)), (np.arange(40), np.arange(40, 75))]
    )
    assert len(compare({"a": TREE, "b": MLP}, X, y, cv=folds).test_scores()["b"]) == 2


def test_random_state_shuffles_int_folds():
    plain, a, b = (
        compare({"t": TREE}, X, y, cv=3, random_state=r).test_scores()["t"] for r in (None, 0, 0)
    )
    np.testing.assert_array_equal(a, b)
    assert (plain != a).any()
    with pytest.raises(ValueError, match="random_state must be None .* got random_state=0"):
        compare({"t": TREE}, X, y, cv=ShuffleSplit(2), random_state=0)


def test_groups_and_params():
    Recorder.seen.clear()
    groups, weights = np.arange(len(y)) % 3, np.arange(len(y)) + 1.0
    compare(
        {"a": Recorder()}, X, y, cv=GroupKFold(3), groups=groups, params={"sample_weight": weights}
    )
    trains = [{int(w - 1) % 3 for w in weight} for _, weight in Recorder.seen]
    assert sorted(map(sorted, trains)) == [[0, 1], [0, 2], [1, 2]]


def test_regression_folds_are_not_stratified():
    target = X[:, 0] + np.arange(len(X))
    scores = compare({"ridge": Ridge(), "mean": DummyRegressor()}, X, target).test_scores()
    np.testing.assert_allclose(scores["ridge"], cross_validate(Ridge(), X, target)["test_score"])


def test_runs_under_a_joblib_backend(comparison):
    with joblib.parallel_config("threading", n_jobs=2):
        scores = compare({"mlp": MLP}, X, y, scoring="accuracy").test_scores()["mlp"]
    np.testing.assert_allclose(scores, comparison.test_scores("accuracy")["mlp"])


def test_estimators_are_not_fitted_in_place():
    mlp = clone(MLP)
    compare({"mlp": mlp}, X, y, cv=2)
    assert not hasattr(mlp, "coefs_")


def test_verbose_prints_a_line_per_estimator(capsys):
    compare({"a": TREE, "b": TREE}, X, y, cv=2)
    assert capsys.readouterr().out == ""
    compare({"a": TREE, "b": TREE}, X, y, cv=2, verbose=True)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("[1/2] a: score ")
    assert second.startswith("[2/2] b: score ")


def test_differences_follow_the_formula(comparison):
    for metric in SCORING:
        scores = comparison.test_scores(metric)
        pvalue, interval = formula(scores["mlp"], scores["<tree> & co"], n_train=60, n_test=15)
        (found,) = comparison.differences(metric).values()
        np.testing.assert_allclose(found.pvalue, pvalue, atol=1e-12)
        np.testing.assert_allclose([found.low, found.high], interval)


def test_without_test_rows_it_is_the_paired_t_test():
    a, b = np.random.RandomState(0).normal(size=(2, 10))
    found = corrected_resampled_ttest(a - b, test_train_ratio=0)
    expected = stats.ttest_rel(a, b)
    np.testing.assert_allclose(found.pvalue, expected.pvalue)
    np.testing.assert_allclose([found.low, found.high], expected.confidence_interval())


def test_known_value_with_one_degree_of_freedom():
    # Two folds: t(1) is Cauchy's law, p = 1 - 2 arctan(t) / pi. Here t = 1, so p is 1/2.
    found = corrected_resampled_ttest(np.array([0.0, 2.0]), test_train_ratio=0)
    np.testing.assert_allclose([found.mean, found.pvalue], [1, 0.5])


@pytest.mark.parametrize(
    "differences, expected",
    [
        ([0.0, 0.0, 0.0], (0, 0, 0, 1)),
        ([0.5, 0.5, 0.5], (0.5, 0.5, 0.5, 0)),
        ([0.5, np.nan, 0.5], [np.nan] * 4),
        ([0.5], (0.5, np.nan, np.nan, np.nan)),
        ([0.0], (0, np.nan, np.nan, np.nan)),
    ],
)
def test_ttest_at_the_edges(differences, expected):
    found = corrected_resampled_ttest(np.array(differences), test_train_ratio=0.25)
    np.testing.assert_array_equal(found, expected)


def test_number_of_parameters_and_best_params():
    search = GridSearchCV(
        make_pipeline(StandardScaler(), MLP), {"mlpclassifier__alpha": [0.1]}, cv=2
    )
    found = compare({"search": search, "tree": TREE}, X, y, cv=2)
    assert found.n_parameters == {"search": [4 * 5 + 5 + 5 * 3 + 3] * 2, "tree": [None] * 2}
    assert found.best_params["search"] == [{"mlpclassifier__alpha": 0.1}] * 2
    assert found.best_params["tree"] == [None] * 2


def test_number_of_parameters_of_a_torch_module():
    torch = pytest.importorskip("torch")
    estimator = TREE.__class__()
    estimator.module_ = torch.nn.Linear(3, 2)
    assert count_parameters(estimator) == 8


def test_text_table(comparison):
    text = str(comparison)
    assert repr(comparison) == text
    accuracy, log_loss, caption = text.split("\n\n")
    assert accuracy.splitlines()[0].split()[:2] == ["estimator", "accuracy"]
    assert log_loss.splitlines()[0].split()[:2] == ["estimator", "neg_log_loss"]
    assert {len(line) for line in accuracy.splitlines()} == {len(accuracy.splitlines()[0])}
    scores = comparison.test_scores("accuracy")["mlp"]
    assert f"{scores.mean():.3f} ± {scores.std():.3f}" in accuracy
    assert " 43\n" in accuracy
    assert "5 folds; differences from 'mlp', corrected resampled t-test" in caption


def test_html_table_is_escaped_and_well_formed(comparison):
    html = comparison._repr_html_()
    assert "&lt;tree&gt; &amp; co" in html
    root = ET.fromstring(f"<div>{html}</div>")
    assert len(root.findall("table")) == 2
    rows = root.findall("table/tbody/tr")
    assert [row.find("th").text for row in rows] == ["mlp", "<tree> & co"] * 2


@pytest.mark.parametrize("scale", [1e-6, 1e5])
def test_table_shows_scores_of_any_size(scale):
    results = {"fit_time": np.ones(2), "score_time": np.ones(2)}
    results["test_score"] = -scale * np.array([1.231, 1.233])
    found = Comparison({"a": results}, {"a": [None]}, {"a": [None]}, test_train_ratio=1)
    assert {1e-6: "-0.00000123 ± 0.00000000", 1e5: "-123200 ± 100"}[scale] in str(found)


def test_to_frame(comparison):
    pytest.importorskip("pandas")
    frame = comparison.to_frame()
    assert list(frame.index) == comparison.names
    expected = comparison.test_scores("accuracy")["mlp"]
    found = frame.loc["mlp", [f"split{i}_test_accuracy" for i in range(5)]]
    np.testing.assert_array_equal(found.to_numpy(float), expected)
    assert frame.loc["mlp", "mean_test_accuracy"] == expected.mean()
    assert frame.loc["mlp", "n_parameters"] == 43
    (difference,) = comparison.differences("accuracy").values()
    assert frame["pvalue_accuracy"].isna().tolist() == [True, False]
    assert frame.loc["<tree> & co", "pvalue_accuracy"] == difference.pvalue
    assert {"mean_fit_time", "std_score_time", "difference_low_neg_log_loss"} <= set(frame)


def test_to_frame_without_pandas(comparison, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"to_frame needs pandas; .*torchsk\[plot\]"):
        comparison.to_frame()


def test_plot(comparison):
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("Agg")
    display = comparison.plot("neg_log_loss")
    assert display.ax_.get_xlabel() == "test neg_log_loss"
    assert list(display.test_scores) == comparison.names
    plt.close("all")


def test_unknown_metric(comparison):
    for method in (comparison.plot, comparison.differences, comparison.test_scores):
        with pytest.raises(ValueError, match="metric must be one of .* got metric='r2'"):
            method("r2")


def test_a_failed_fold_is_nan():
    with pytest.warns(FitFailedWarning):
        found = compare({"ok": DummyClassifier(), "fails": FailsOn(), "mlp": MLP}, X, y, cv=2)
    assert np.isnan(found.test_scores()["fails"]).tolist() == [False, True]
    assert np.isnan(found.differences()["fails"].pvalue)
    assert not np.isnan(found.differences()["mlp"].pvalue)
    assert "nan" in str(found)
    assert len(found._repr_html_()) > 0


def test_an_error_names_the_estimator():
    with pytest.raises(RuntimeError, match="first row") as caught:
        compare({"ok": TREE, "bad one": FailsOn()}, X, y, error_score="raise")
    assert str(caught.value).startswith("estimators['bad one'] failed: ")
    with pytest.raises(KeyError) as caught:
        compare({"ok": TREE, "bad one": Fails(KeyError(1, 2))}, X, y, error_score="raise")
    assert caught.value.args == (1, 2)
    assert "estimators['bad one']" in caught.value.__notes__[0]
    with pytest.raises(ValueError, match=r"^estimators\['bad one'\] failed: All the 2 fits failed"):
        compare({"bad one": Fails(RuntimeError("always"))}, X, y, cv=2)


@pytest.mark.parametrize(
    "estimators, error, message",
    [
        ({}, ValueError, r"estimators must be a dict of one .* got estimators=\{\}"),
        ([TREE], TypeError, r"estimators must be a dict .* got estimators=\["),
        ({1: TREE}, TypeError, "names in estimators must be str; got name=1"),
        ({"a": DummyClassifier}, TypeError, r"estimators\['a'\] must be an estimator instance"),
        ({"a": "tree"}, TypeError, r"got estimators\['a'\]='tree'"),
        ({"a": TREE, "b": Ridge()}, ValueError, "scoring must be given .* got scoring=None"),
    ],
)
def test_bad_estimators(estimators, error, message):
    with pytest.raises(error, match=message):
        compare(estimators, X, y)


def test_one_estimator_alone():
    found = compare({"a": LogisticRegression(max_iter=500)}, X, y, cv=2)
    assert found.differences() == {}
    assert "differences" not in str(found)
    assert pickle.loads(pickle.dumps(found)).names == ["a"]


@pytest.mark.parametrize("module", [_compare, _displays])
def test_matplotlib_and_pandas_are_imported_on_use(module):
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    text = "\n".join(map(ast.unparse, imports))
    assert "numpy" in text
    assert "matplotlib" not in text
    assert "pandas" not in text


@pytest.mark.filterwarnings("ignore")
def test_a_scorer_that_fails_on_every_fold_is_an_error():
    labels = np.array(["no", "yes"])[(y > 0).astype(int)]
    with pytest.raises(ValueError, match=r"'test_f1' of estimators\['tree'\]"):
        compare({"tree": TREE}, X, labels, scoring="f1", cv=2)
