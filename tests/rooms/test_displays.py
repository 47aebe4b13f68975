import pickle
import sys

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from torchsk import TorchClassifier, TorchRegressor
from torchsk._displays import ComparisonDisplay, LossCurveDisplay, unwrap

plt = pytest.importorskip("matplotlib.pyplot")
plt.switch_backend("Agg")

X, y = load_iris(return_X_y=True)
X, y = X[::2], y[::2]


class Recorded(BaseEstimator):
    """Stand-in with the curves it is given."""

    def __init__(self, loss=(3.0, 2.0, 1.0), validation_loss=None, scores=None):
        self.loss = loss
        self.validation_loss = validation_loss
        self.scores = scores

    def fit(self, X, y=None):
        self.loss_curve_ = self.loss
        self.validation_loss_curve_ = self.validation_loss
        self.validation_scores_ = self.scores
        return self


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def mlp():
    return MLPClassifier((4,), max_iter=8, early_stopping=True, random_state=0).fit(X, y)


def recorded(**curves):
    return Recorded(**curves).fit(X)


def legend_texts(display):
    texts = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    return [text for text in texts if text.strip()]


def test_draws_what_the_estimator_recorded(mlp):
    display = LossCurveDisplay.from_estimator(mlp)
    lines = display.lines_["MLPClassifier"]
    assert sorted(lines) == ["loss_curve_", "validation_scores_"]
    np.testing.assert_array_equal(lines["loss_curve_"].get_ydata(), mlp.loss_curve_)
    np.testing.assert_array_equal(lines["validation_scores_"].get_ydata(), mlp.validation_scores_)
    np.testing.assert_array_equal(lines["loss_curve_"].get_xdata(), 1 + np.arange(mlp.n_iter_))
    assert lines["loss_curve_"].axes is display.ax_
    assert lines["validation_scores_"].axes is display.score_ax_
    assert display.figure_ is display.ax_.figure
    labels = [a.get_ylabel() for a in (display.ax_, display.score_ax_)]
    assert labels == ["loss", "validation score"]
    assert legend_texts(display) == [
        "MLPClassifier", "training loss", "validation score", "best epoch"
    ]  # fmt: skip


def test_without_scores_there_is_one_y_axis():
    regressor = MLPRegressor(hidden_layer_sizes=(4,), max_iter=3, random_state=0).fit(X, y)
    display = LossCurveDisplay.from_estimator(regressor, name="mine")
    assert display.score_ax_ is None
    assert sorted(display.lines_["mine"]) == ["loss_curve_"]
    assert len(display.figure_.axes) == 1


@pytest.mark.parametrize(
    "curves, best, value",
    [
        ({}, 3, 1.0),
        ({"validation_loss": [2.0, 1.5, 1.7]}, 2, 1.5),
        ({"validation_loss": [2.0, 1.5, 1.7], "scores": [0.8, 0.7, 0.8]}, 1, 0.8),
        ({"scores": [np.nan, 0.7, 0.8]}, 3, 0.8),
    ],
)
def test_best_epoch_is_marked(curves, best, value):
    display = LossCurveDisplay.from_estimator(recorded(**curves))
    assert display.best_epochs_ == {"Recorded": best}
    marker = display.best_markers_["Recorded"]
    assert (marker.get_xdata()[0], marker.get_ydata()[0]) == (best, value)


@pytest.mark.parametrize("scoring", ["loss", None])
def test_the_star_is_on_the_epoch_that_early_stopping_keeps(scoring, breast_cancer):
    net = TorchClassifier((8,), early_stopping=True, scoring=scoring, random_state=0)
    net.fit(*breast_cancer)
    best = LossCurveDisplay.from_estimator(net).best_epochs_["TorchClassifier"]
    assert net.best_validation_score_ == net.validation_scores_[best - 1]
    if scoring == "loss":
        assert best - 1 == int(np.argmin(net.validation_loss_curve_))


@pytest.mark.parametrize("scoring", ["loss", None, "neg_mean_squared_error"])
def test_a_score_that_is_the_loss_is_not_drawn_again(scoring, diabetes):
    net = TorchRegressor(hidden_layer_sizes=(8,), scoring=scoring, early_stopping=True)
    net.set_params(random_state=0).fit(*diabetes)
    display = LossCurveDisplay.from_estimator(net)
    assert sorted(display.lines_["TorchRegressor"]) == ["loss_curve_", "validation_loss_curve_"]
    assert display.score_ax_ is None
    assert len(display.figure_.axes) == 1
    assert "validation score" not in legend_texts(display)
    best = display.best_epochs_["TorchRegressor"]
    assert net.best_validation_score_ == net.validation_scores_[best - 1]
    mlp = MLPRegressor(early_stopping=True, max_iter=3).fit(*diabetes)
    both = LossCurveDisplay.from_estimator({"ours": net, "its": mlp})  # to be compared
    assert all("validation_scores_" in lines for lines in both.lines_.values())


@pytest.mark.parametrize(
    ("scores", "is_drawn"),
    [
        ([0.1, 0.6, 0.4], False),  # 1.1 - loss / 2
        ([0.1, 0.6, np.nan], True),
        ([0.1, 0.6, 0.2], True),
        ([0.1, 0.4, 0.6], True),
        ([0.5, 0.5, 0.5], True),
        ([0.4, -0.1, 0.1], True),
    ],
)
def test_other_scores_are_drawn(scores, is_drawn):
    display = LossCurveDisplay.from_estimator(
        recorded(validation_loss=[2.0, 1.0, 1.4], scores=scores)
    )
    assert ("validation_scores_" in display.lines_["Recorded"]) == is_drawn


def test_no_epoch_is_best_when_all_are_nan():
    display = LossCurveDisplay.from_estimator(recorded(scores=[np.nan] * 3))
    assert display.best_epochs_ == display.best_markers_ == {}


def test_log_scale():
    display = LossCurveDisplay.from_estimator(recorded(scores=[0.1, 0.2, 0.3]), log_scale=True)
    assert (display.ax_.get_yscale(), display.score_ax_.get_yscale()) == ("log", "linear")
    with pytest.raises(ValueError, match="log_scale must be False .* got log_scale=True"):
        LossCurveDisplay.from_estimator(recorded(loss=[1.0, -1.0]), log_scale=True)


def test_several_estimators_have_a_colour_each():
    named = {"a": recorded(validation_loss=[3.0, 2.0, 2.5]), "b": recorded(scores=[0.1, 0.2, 0.3])}
    display = LossCurveDisplay.from_estimator(named)
    colors = [{line.get_color() for line in display.lines_[name].values()} for name in "ab"]
    assert [len(c) for c in colors] == [1, 1]
    assert colors[0] != colors[1]
    assert legend_texts(display) == [
        "a", "b", "training loss", "validation loss", "validation score", "best epoch"
    ]  # fmt: skip


@pytest.mark.parametrize("layout", [None, "constrained"])
def test_same_axes_again_adds_curves_and_shares_the_score_axis(layout):
    _, axes = plt.subplots(1, 2, sharex=True, layout=layout)
    displays = []
    for name, scores in {"a": None, "b": [0.1, 0.3, 0.2], "c": [0.2, 0.1, 0.2]}.items():
        estimator = recorded(scores=scores)
        displays.append(LossCurveDisplay.from_estimator(estimator, ax=axes[0], name=name))
        displays[-1].figure_.canvas.draw()
    first, second, third = displays
    assert first.score_ax_ is None
    other = LossCurveDisplay.from_estimator(recorded(scores=[0.1]), ax=axes[1])
    assert first.ax_ is second.ax_ is axes[0]
    assert second.score_ax_ is third.score_ax_ is not other.score_ax_
    assert legend_texts(third) == [
        "a", "b", "c", "training loss", "validation score", "best epoch"
    ]  # fmt: skip


def test_line_kw_reaches_the_lines():
    display = LossCurveDisplay.from_estimator(recorded(), line_kw={"color": "red", "lw": 3})
    line = display.lines_["Recorded"]["loss_curve_"]
    assert (line.get_color(), line.get_linewidth()) == ("red", 3)


def test_looks_inside_pipelines_searches_and_target_transformers():
    mlp = MLPRegressor(hidden_layer_sizes=(3,), max_iter=2, random_state=0)
    search = GridSearchCV(make_pipeline(StandardScaler(), mlp), {"mlpregressor__alpha": [1]}, cv=2)
    fitted = make_pipeline(StandardScaler(), TransformedTargetRegressor(search)).fit(X, y)
    *_, final = unwrap(fitted)
    assert final is fitted[-1].regressor_.best_estimator_[-1]
    display = LossCurveDisplay.from_estimator(fitted)
    np.testing.assert_array_equal(
        display.lines_["MLPRegressor"]["loss_curve_"].get_ydata(), final.loss_curve_
    )


@pytest.mark.parametrize(
    "estimator",
    [
        MLPClassifier(),
        make_pipeline(StandardScaler(), MLPClassifier()),
        GridSearchCV(MLPClassifier(), {"alpha": [1]}),
        {"a": MLPClassifier()},
    ],
)
def test_unfitted_estimator(estimator):
    with pytest.raises(NotFittedError):
        LossCurveDisplay.from_estimator(estimator)


@pytest.mark.parametrize(
    "estimator, kwargs, error, message",
    [
        ({}, {}, ValueError, r"estimator must be .* got estimator=\{\}"),
        ({1: Recorded()}, {}, TypeError, "names in estimator must be str; got name=1"),
        ({"a": Recorded}, {}, TypeError, "must be an estimator instance; got"),
        ({"a": Recorded()}, {"name": "b"}, ValueError, "name must be None .* got name='b'"),
    ],
)
def test_bad_input(estimator, kwargs, error, message):
    with pytest.raises(error, match=message):
        LossCurveDisplay.from_estimator(estimator, **kwargs)


@pytest.mark.parametrize(
    "estimator",
    [
        MLPRegressor(hidden_layer_sizes=(2,), solver="lbfgs", max_iter=2),
        LogisticRegression(max_iter=500),
        Recorded(loss=()),
    ],
)
def test_estimators_without_a_loss_curve(estimator):
    message = r"(?s)must have a loss_curve_, .* 'lbfgs', .*; got .*whose {} has none"
    with pytest.raises(ValueError, match=message.format(type(estimator).__name__)):
        LossCurveDisplay.from_estimator(make_pipeline(StandardScaler(), estimator).fit(X, y))


def test_display_holds_data_only(mlp):
    display = LossCurveDisplay(curves={"a": {"loss_curve_": np.array([2.0, 1.0])}})
    assert vars(display) == {"curves": display.curves}
    again = pickle.loads(pickle.dumps(display)).plot()
    assert isinstance(again, LossCurveDisplay)


@pytest.mark.parametrize("display", [LossCurveDisplay, ComparisonDisplay])
def test_missing_matplotlib(display, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    data = {LossCurveDisplay: {"curves": {}}}
    scores = dict.fromkeys(["test_scores", "fit_times", "score_times"], {})
    with pytest.raises(ImportError, match=r"needs matplotlib; .*torchsk\[plot\]"):
        display(**data.get(display, scores)).plot()


def comparison_display(n_estimators, n_folds):
    names = [f"a_rather_long_snake_case_name_of_an_estimator_{i}" for i in range(n_estimators)]
    values = np.random.RandomState(0).uniform(0.1, 1, (n_estimators, n_folds))
    table = dict(zip(names, values, strict=True))
    return ComparisonDisplay(
        test_scores=table, fit_times=table, score_times=table, score_name="accuracy"
    )


@pytest.mark.parametrize("n_estimators, n_folds", [(1, 1), (2, 5), (6, 10)])
def test_comparison_draws_each_fold_and_the_means(n_estimators, n_folds):
    display = comparison_display(n_estimators, n_folds).plot()
    (points,) = display.ax_.collections
    values = np.array(list(display.test_scores.values()))
    np.testing.assert_array_equal(points.get_offsets()[:, 0], values.ravel())
    means = display.ax_.lines[0]
    np.testing.assert_allclose(means.get_xdata(), values.mean(axis=1))
    np.testing.assert_array_equal(means.get_ydata(), np.arange(n_estimators))
    labels = [label.get_text() for label in display.ax_.get_yticklabels()]
    assert [label.replace("\n", "") for label in labels] == list(display.test_scores)
    assert max(len(line) for label in labels for line in label.split("\n")) <= 28
    assert display.ax_.yaxis_inverted()
    assert display.ax_.get_xlabel() == "test accuracy"
    assert display.time_ax_.get_xlabel() == "time per fold (s)"
    assert len(display.time_ax_.collections) == 2


def test_comparison_draws_on_given_axes():
    _, ax = plt.subplots()
    display = comparison_display(2, 3).plot(ax)
    assert (display.ax_, display.time_ax_, display.figure_) == (ax, None, ax.figure)
    _, axes = plt.subplots(2)
    display = comparison_display(2, 3).plot(axes)
    assert [display.ax_, display.time_ax_] == list(axes)
    assert all(a.yaxis_inverted() for a in axes)


def test_comparison_draws_a_failed_fold():
    display = comparison_display(2, 3)
    next(iter(display.test_scores.values()))[1] = np.nan
    display.plot().figure_.canvas.draw()
