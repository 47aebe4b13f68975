"""scikit-learn's callbacks: progress bars, scores per epoch, stop requests; also in a stack."""

import re

import joblib
import numpy as np
import pytest
from networks import Classifier, mlp
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from torchsk import TorchClassifier, TorchRegressor

ALPHAS = [1e-4, 1e-2, 1.0]
N_FITS = 2 * len(ALPHAS) + 1  # two folds, and the refit
STACKED = [False, True]


class Recorder:
    """Writes down every hook: (begin or end, name of the task, alpha, epoch)."""

    def __init__(self, action=lambda estimator, context: None):
        self.action = action
        self.events = []

    def setup(self, estimator, context):
        self.events.append(("setup", "fit", estimator.alpha, None))

    def teardown(self, estimator, context):
        self.events.append(("teardown", "fit", estimator.alpha, None))

    def on_fit_task_begin(self, estimator, context):
        self.events.append(("begin", context.task_name, estimator.alpha, context.task_id))

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        if fitted_estimator is None:
            self.events.append(("empty", context.task_name, estimator.alpha, context.task_id))
            return None
        self.events.append(("end", context.task_name, estimator.alpha, context.task_id))
        return self.action(estimator, context)

    def epochs(self, alpha):
        """Return the epochs of the model with this alpha, in the order in which they ended."""
        ended = [event for event in self.events if event[:2] == ("end", "epoch")]
        return [epoch for *_, other, epoch in ended if other == alpha]


class CountingBar(ProgressBar):
    """A progress bar that counts the epochs it shows."""

    n_epochs = 0

    def on_fit_task_end(self, estimator, context):
        self.n_epochs += context.task_name == "epoch"
        super().on_fit_task_end(estimator, context)


def make_search(net, name="net", **params):
    """A search over the alpha of a network in a pipeline; two folds."""
    pipeline = Pipeline([("scale", StandardScaler()), (name, net)])
    return GridSearchCV(pipeline, {f"{name}__alpha": ALPHAS}, cv=2, **params)


def fit(estimator, X, y, stacked):
    """Fit, in a stack or not."""
    if not stacked:
        return estimator.fit(X, y)
    with joblib.parallel_config("torchsk"):
        return estimator.fit(X, y)


def linear(n_features, n_outputs):
    return nn.Linear(n_features, n_outputs)


LANES = {"built-in": {}, "module": {"module": linear}}
every_lane = pytest.mark.parametrize("lane", LANES)
in_both = pytest.mark.parametrize("stacked", STACKED, ids=["one by one", "stacked"])


# -- progress bars ---------------------------------------------------------------------------------


@every_lane
@in_both
def test_progress_bars_of_a_search_show_the_epochs(lane, stacked, iris, capsys, monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setenv("COLUMNS", "200")
    bar = CountingBar(max_propagation_depth=None)
    net = TorchClassifier((4,), max_iter=3, random_state=0, **LANES[lane])
    search = fit(make_search(net).set_callbacks(bar), *iris, stacked)
    assert bar.n_epochs == 3 * N_FITS
    lines = capsys.readouterr().out.splitlines()
    nets = [line for line in lines if "TorchClassifier - fit" in line]
    assert len(nets) == N_FITS
    assert all("100%" in line for line in lines if line.strip())
    plain = fit(make_search(net), *iris, stacked)
    np.testing.assert_array_equal(
        search.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"]
    )


def test_progress_bar_of_a_regressor_that_stops_early(diabetes, capsys):
    pytest.importorskip("rich")
    bar = CountingBar()
    net = TorchRegressor(early_stopping=True, n_iter_no_change=2, random_state=0)
    net.set_callbacks(bar).fit(*diabetes)
    assert net.n_iter_ < net.max_iter
    assert bar.n_epochs == net.n_iter_ + 1  # the one that was begun is closed empty
    assert re.search("TorchRegressor - fit .* 100%", capsys.readouterr().out)


# -- scores ----------------------------------------------------------------------------------------


@every_lane
@in_both
def test_scoring_monitor_in_a_search(lane, stacked, iris):
    monitor = ScoringMonitor(scoring="accuracy")
    net = TorchClassifier((4,), max_iter=3, random_state=0, **LANES[lane]).set_callbacks(monitor)
    search = fit(make_search(net, refit=False), *iris, stacked)
    rows = [row for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    assert len(rows) == 3 * (N_FITS - 1)
    scores = {}
    for row in rows:
        scores.setdefault(row["parent_task_id_path"], []).append(row["accuracy"])
    assert [len(curve) for curve in scores.values()] == [3] * (N_FITS - 1)
    plain = make_search(TorchClassifier((4,), max_iter=3, random_state=0, **LANES[lane]))
    plain.set_params(refit=False).fit(*iris)
    np.testing.assert_array_equal(
        search.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"]
    )


def test_scores_are_the_same_in_a_stack(iris):
    curves = []
    for stacked in STACKED:
        monitor = ScoringMonitor(scoring="neg_log_loss")
        net = TorchClassifier((4,), max_iter=4, random_state=0).set_callbacks(monitor)
        fit(make_search(net, refit=False), *iris, stacked)
        rows = monitor.get_logs().data
        curves.append({row["task_id_path"]: row["neg_log_loss"] for row in rows})
    one_by_one, stack = curves
    assert one_by_one.keys() == stack.keys()
    for path, loss in one_by_one.items():
        assert stack[path] == pytest.approx(loss, rel=1e-5)


def test_scoring_monitor_of_lbfgs(iris):
    monitor = ScoringMonitor(scoring="accuracy")
    net = TorchClassifier((4,), solver="lbfgs", max_iter=5, random_state=0).set_callbacks(monitor)
    net.fit(*iris)
    rows = [row for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    assert len(rows) == net.n_iter_ == 5
    assert rows[-1]["accuracy"] == net.score(*iris) > rows[0]["accuracy"]


# -- hooks -----------------------------------------------------------------------------------------


def test_hooks_come_per_model_and_epoch(iris):
    recorder = Recorder()
    net = TorchClassifier((4,), max_iter=3, random_state=0).set_callbacks(recorder)
    search = GridSearchCV(net, {"alpha": ALPHAS}, cv=[(np.arange(150), np.arange(150))])
    with joblib.parallel_config("torchsk"):
        search.set_params(refit=False).fit(*iris)
    for alpha in ALPHAS:
        assert recorder.epochs(alpha) == [0, 1, 2]
        mine = [(hook, task, epoch) for hook, task, other, epoch in recorder.events
                if other == alpha]  # fmt: skip
        assert mine[0][0] == "setup" and mine[-1][0] == "teardown"
        assert [event for event in mine if event[1] == "epoch"] == [
            (hook, "epoch", epoch) for epoch in range(3) for hook in ("begin", "end")
        ]
    # trained together: every model's first epoch ends before anybody's second
    ended = [epoch for hook, task, _, epoch in recorder.events if (hook, task) == ("end", "epoch")]
    assert ended == sorted(ended)


@pytest.mark.parametrize("change", [
    {"tol": 10.0, "n_iter_no_change": 2, "learning_rate": "constant"},
    {"early_stopping": True, "n_iter_no_change": 2},
    {"solver": "lbfgs"},
    {"module": linear, "tol": 10.0, "n_iter_no_change": 2, "learning_rate": "constant"},
], ids=["tol", "early_stopping", "lbfgs", "module"])  # fmt: skip
def test_every_epoch_that_begins_ends(change, iris):
    recorder = Recorder()
    net = TorchClassifier((4,), max_iter=500, random_state=0, **change).set_callbacks(recorder)
    net.fit(*iris)
    assert net.n_iter_ < 500
    assert recorder.epochs(net.alpha) == list(range(net.n_iter_))
    epochs = [(hook, epoch) for hook, task, _, epoch in recorder.events if task == "epoch"]
    assert epochs[::2] == [("begin", i) for i in range(net.n_iter_ + 1)]
    assert epochs[-1] == ("empty", net.n_iter_)
    assert recorder.events[-1][0] == "teardown"


# -- stop requests and errors ----------------------------------------------------------------------


def is_third_epoch_of_the_middle(estimator, context):
    return context.task_name == "epoch" and context.task_id == 2 and estimator.alpha == ALPHAS[1]


@pytest.mark.parametrize(
    "change", [{}, {"solver": "lbfgs"}, {"module": linear}], ids=["sgd", "lbfgs", "module"]
)
@in_both
def test_a_stop_request_stops_one_model(change, stacked, iris):
    recorder = Recorder(is_third_epoch_of_the_middle)
    change = {"learning_rate": "constant", "random_state": 0, **change}
    net = TorchClassifier((4,), max_iter=6, **change).set_callbacks(recorder)
    search = GridSearchCV(net, {"alpha": ALPHAS}, cv=[(np.arange(150), np.arange(150))])
    fit(search.set_params(refit=False), *iris, stacked)
    assert [len(recorder.epochs(alpha)) for alpha in ALPHAS] == [6, 3, 6]
    short = TorchClassifier((4,), max_iter=3, **change)
    expected = short.set_params(alpha=ALPHAS[1]).fit(*iris).score(*iris)
    assert search.cv_results_["mean_test_score"][1] == expected


def fail(estimator, context):
    if is_third_epoch_of_the_middle(estimator, context):
        raise RuntimeError("the callback is broken")


@pytest.mark.filterwarnings("ignore:One or more of the test scores are non-finite")
@every_lane
@in_both
def test_an_error_in_a_callback_fails_that_fit_only(lane, stacked, iris):
    recorder = Recorder(fail)
    net = TorchClassifier((4,), max_iter=4, random_state=0, **LANES[lane]).set_callbacks(recorder)
    with pytest.warns(FitFailedWarning, match="the callback is broken"):
        search = fit(make_search(net), *iris, stacked)
    failed = np.isnan(search.cv_results_["mean_test_score"])
    assert failed.tolist() == [False, True, False]
    ends = [event for event in recorder.events if event[0] == "teardown"]
    assert len(ends) == N_FITS  # also of the fits that failed
    assert search.score(*iris) > 0.5


# -- one estimator alone ---------------------------------------------------------------------------


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


def test_scikit_learns_callbacks(iris):
    monitor = ScoringMonitor(scoring="accuracy")
    clf = TorchClassifier(module=mlp, max_iter=4, random_state=0).set_callbacks(monitor).fit(*iris)
    epochs = [row for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    assert len(epochs) == 4
    assert epochs[-1]["accuracy"] == clf.score(*iris)
    assert len({row["accuracy"] for row in epochs}) > 1  # the weights of each epoch
