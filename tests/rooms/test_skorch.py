"""The second lane: modules, optimizers and callbacks, against torch and the first lane."""

import copy
import functools
import os
import pickle
import signal
import threading
import time

import joblib
import numpy as np
import pytest
import scipy.sparse as sp
import skorch.callbacks as cbs
import torch
from sklearn.base import clone
from sklearn.callback import ScoringMonitor
from sklearn.datasets import make_multilabel_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

from torchsk import TorchClassifier, TorchRegressor, _training
from torchsk._modules import build_module
from torchsk._optimizers import class_of, optimizer_options


def mlp(n_features, n_outputs, width=8):
    """The smallest module worth training."""
    return nn.Sequential(nn.Linear(n_features, width), nn.Tanh(), nn.Linear(width, n_outputs))


class Small(nn.Sequential):
    """The same as a class."""

    def __init__(self, n_features, n_outputs):
        super().__init__(*mlp(n_features, n_outputs))


class Net(nn.Module):
    """A module with everything that misbehaves: batch norm, dropout, a state that is no weight."""

    def __init__(self, n_features, n_outputs, width=8, dropout=0.2):
        super().__init__()
        self.norm = nn.BatchNorm1d(n_features)
        self.hidden = nn.Linear(n_features, width)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, n_outputs)
        self.rows_seen = []

    def forward(self, X):
        if self.training:
            self.rows_seen.append(len(X))
        return self.output(self.dropout(torch.relu(self.hidden(self.norm(X)))))


class Images(nn.Module):
    """A convolution over the columns seen as an 8 x 8 image; takes no sizes."""

    def __init__(self, channels=4):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, channels, 3, stride=2), nn.ReLU(),
            nn.Flatten(), nn.Linear(9 * channels, 10),
        )  # fmt: skip

    def forward(self, X):
        return self.layers(X / 16)


class Words(nn.Module):
    """An embedding of an integer column, beside a number."""

    def __init__(self, n_outputs, n_words):
        super().__init__()
        self.words = nn.Embedding(n_words, 4)
        self.output = nn.Linear(5, n_outputs)

    def forward(self, X):
        return self.output(torch.cat([self.words(X[:, 0].long()), X[:, 1:]], 1))


class Sequences(nn.Module):
    """A recurrent network over the columns as time steps; returns one dimension."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(1, 8, batch_first=True)
        self.output = nn.Linear(8, 1)

    def forward(self, X):
        return self.output(self.gru(X.unsqueeze(2))[0][:, -1]).squeeze(1)


def same(a, b, atol=1e-5):
    """Assert that two fitted estimators have the same weights and curves."""
    for ours, theirs in zip([*a.coefs_, *a.intercepts_], [*b.coefs_, *b.intercepts_]):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=atol)
    assert (a.n_iter_, a.t_) == (b.n_iter_, b.t_)
    for name in ("loss_curve_", "validation_loss_curve_", "validation_scores_"):
        if getattr(a, name) is not None:
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-4, atol=1e-6)


def weights(module):
    return {name: value.cpu().numpy() for name, value in module.state_dict().items()}


# -- the lanes agree -------------------------------------------------------------------------------

OPTIONS = {
    "plain": {},
    "batches": {"batch_size": 32, "learning_rate": "invscaling", "nesterovs_momentum": False},
    "penalty": {"alpha": 3.0, "batch_size": 50, "max_grad_norm": None},
    "clipped": {"max_grad_norm": 0.05, "batch_size": 32, "learning_rate": "cosine"},
    "early": {"early_stopping": True, "n_iter_no_change": 2, "batch_size": 32},
    "adaptive": {"learning_rate": "adaptive", "tol": 0.05, "n_iter_no_change": 1},
    "in order": {"shuffle": False, "batch_size": 64, "activation": "logistic"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_lanes_give_the_same_classifier(iris, solver, options):
    X, y = iris
    weight = np.random.RandomState(0).randint(0, 3, len(y)).astype(float)
    est = TorchClassifier((8,), solver=solver, max_iter=25, random_state=3, **options)
    fast = clone(est).fit(X, y, weight)
    slow = clone(est).set_params(skorch_callbacks=[]).fit(X, y, weight)
    same(fast, slow)
    np.testing.assert_allclose(fast.predict_proba(X), slow.predict_proba(X), atol=1e-5)


@pytest.mark.parametrize("solver", ["adamw", "rmsprop", "adagrad"])
def test_lanes_give_the_same_regressor(diabetes, solver):
    X, y = diabetes
    Y = np.column_stack([y, y**0.5])
    est = TorchRegressor("huber", (6, 5), solver=solver, alpha=0.1, max_iter=15, random_state=0)
    fast = clone(est).fit(X, Y, X_val=X[:50], y_val=Y[:50])
    slow = clone(est).set_params(skorch_callbacks=[]).fit(X, Y, X_val=X[:50], y_val=Y[:50])
    same(fast, slow, atol=1e-3)  # y is in hundreds


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_lanes_agree_in_partial_fit_and_warm_start(iris, solver):
    X, y = iris
    est = TorchClassifier((5,), solver=solver, batch_size=40, random_state=0, max_iter=5)
    for method in ("partial_fit", "fit"):
        fast = clone(est).set_params(warm_start=True)
        slow = clone(fast).set_params(skorch_callbacks=[])
        for _ in range(3):
            for model in (fast, slow):
                args = (None, [0, 1, 2]) if method == "partial_fit" else ()
                getattr(model, method)(X, y, *args)
        same(fast, slow)
        assert len(slow.loss_curve_) == (3 if method == "partial_fit" else 15)


def test_an_mlp_may_change_lanes(iris):
    X, y = iris
    clf = TorchClassifier((5,), random_state=0, max_iter=20).fit(X, y)
    with pytest.raises(AttributeError):
        clf.net_  # noqa: B018
    clf.set_params(skorch_callbacks=[]).partial_fit(X, y)
    assert len(clf.net_.history) == 1
    clf.set_params(skorch_callbacks=None, solver="adam").partial_fit(X, y)
    assert not hasattr(clf, "net_")
    assert len(clf.loss_curve_) == 22


# -- a module is trained as torch would ------------------------------------------------------------


def torch_loop(module, X, y, weight, optimizer, loss, epochs, batch_size, rng, alpha=0.0):
    """Train a copy of a module in a plain loop, the batches those of scikit-learn's MLP."""
    X, y, weight = (torch.tensor(a) for a in (np.float32(X), y, np.float32(weight)))
    module = copy.deepcopy(module).train()
    optimizer, order = optimizer(module.parameters()), np.arange(len(X))
    for _ in range(epochs):
        permutation = np.arange(len(X))
        rng.shuffle(permutation)
        order = order[permutation]
        for start in range(0, len(X), batch_size):
            rows = torch.from_numpy(order[start : start + batch_size])
            w = weight[rows]
            value = (loss(module(X[rows]), y[rows]) * w).sum() / w.sum()
            coefs = [p for p in module.parameters() if p.ndim > 1]
            value = value + 0.5 * alpha * sum((p**2).sum() for p in coefs) / w.sum()
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    return module.eval()


def test_a_module_is_trained_as_in_a_plain_loop(digits):
    X, y = digits
    weight = np.random.RandomState(1).uniform(0.5, 2, len(y))
    torch.manual_seed(0)
    module = Images()
    before = copy.deepcopy(weights(module))
    clf = TorchClassifier(
        module=module, solver=torch.optim.Adam, learning_rate_init=0.01, batch_size=100,
        alpha=0.5, max_iter=3, random_state=0, loss="cross_entropy",
    ).fit(X, y, weight)  # fmt: skip
    rng = np.random.RandomState(0)
    rng.randint(2**31 - 1)  # the seed of the module
    theirs = torch_loop(
        module, X, y, weight, lambda p: torch.optim.Adam(p, 0.01),
        nn.CrossEntropyLoss(reduction="none"), 3, 100, rng, alpha=0.5,
    )  # fmt: skip
    for name, value in weights(theirs).items():
        np.testing.assert_allclose(weights(clf.module_)[name], value, atol=1e-5)
        np.testing.assert_array_equal(weights(module)[name], before[name])
    raw = theirs(torch.from_numpy(np.float32(X))).detach()
    np.testing.assert_allclose(clf.predict_proba(X), raw.softmax(1), atol=1e-5)
    assert type(clf.net_.optimizer_) is torch.optim.Adam


@pytest.mark.parametrize("loss", ["log_loss", "cross_entropy", "bce", "nll", nn.BCELoss])
def test_the_loss_says_what_the_output_means(breast_cancer, loss):
    X, y = breast_cancer
    X = StandardScaler().fit_transform(X)[:, :5]
    last = {"bce": nn.Sigmoid(), nn.BCELoss: nn.Sigmoid(), "nll": nn.LogSoftmax(1)}

    def linear(n_features, n_outputs):
        layer = nn.Linear(n_features, n_outputs)
        return nn.Sequential(layer, last[loss]) if loss in last else layer

    clf = TorchClassifier(
        module=linear, loss=loss, max_iter=300, alpha=1.0, batch_size=len(y), random_state=0, tol=0
    ).fit(X, y)
    proba = clf.predict_proba(X)
    # two outputs that share a penalty are as one output with half of it
    C = 2.0 if loss in ("cross_entropy", "nll") else 1.0
    theirs = LogisticRegression(C=C).fit(X, y).predict_proba(X)
    np.testing.assert_allclose(proba, theirs, atol=0.03)
    np.testing.assert_array_equal(clf.predict(X), proba.argmax(1))
    np.testing.assert_array_equal(clf.decision_function(X) > 0, proba[:, 1] > 0.5)
    if loss != "log_loss":
        missing = clone(clf).set_params(module=lambda n_in, n_out: nn.Linear(n_in, 3))
        with pytest.raises(ValueError, match=r"module must return a tensor.*got the shape"):
            missing.fit(X, y)


def test_a_module_without_its_last_layer_is_told_so(iris):
    X, y = iris
    with pytest.raises(ValueError, match="log-probabilities"):
        TorchClassifier(module=mlp, loss="nll").fit(X, y)
    with pytest.raises(ValueError, match=r"probabilities in \[0, 1\]"):
        TorchClassifier(module=mlp, loss="bce").fit(X, y == 1)


def test_multilabel_hinge_and_strings(iris):
    X, y = iris
    rows, labels = make_multilabel_classification(100, 5, n_classes=3, random_state=0)
    multi = TorchClassifier(module=mlp, random_state=0, standardize=True).fit(rows, labels)
    assert multi.predict_proba(rows).shape == (100, 3)
    assert multi.score(rows, labels) > 0.55
    names = np.array(["a", "b", "c"])[y]
    hinge = TorchClassifier(
        module=mlp, loss="hinge", random_state=0, skorch_callbacks=[cbs.EpochScoring("accuracy",
        on_train=True)],
    ).fit(X, names)  # fmt: skip
    assert not hasattr(hinge, "predict_proba")
    assert hinge.score(X, names) > 0.95
    assert hinge.net_.history[-1, "accuracy"] > 0.95


# -- what a module may be --------------------------------------------------------------------------


def test_how_a_module_is_called():
    class Alone(nn.Linear):
        def __init__(self, width=7, depth=2):
            super().__init__(width, depth)

    class OnlyFeatures(nn.Linear):
        def __init__(self, n_features, width=7):
            super().__init__(n_features, width)

    def shape(module, params=None):
        return build_module(module, params, 4, 3).weight.shape

    assert shape(lambda n_in, n_out: nn.Linear(n_in, n_out)) == (3, 4)
    assert shape(lambda n_outputs, n_features: nn.Linear(n_features, n_outputs)) == (3, 4)
    assert shape(Alone) == (2, 7)
    assert shape(Alone, {"width": 5}) == (2, 5)
    assert shape(OnlyFeatures, {"width": 5}) == (5, 4)
    assert shape(nn.Linear, {"bias": False}) == (3, 4)
    instance = nn.Linear(2, 2)
    assert build_module(instance, None, 4, 3) is not instance
    with pytest.raises(ValueError, match="module_params must be None"):
        build_module(instance, {"bias": True}, 4, 3)
    with pytest.raises(TypeError, match="must return an nn.Module"):
        build_module(lambda n_in, n_out: 3, None, 4, 3)


def test_embedding_of_an_integer_column():
    rng = np.random.RandomState(0)
    word, number = rng.randint(0, 6, 400), rng.normal(size=400)
    y = np.array([3.0, -1.0, 4.0, 0.0, -5.0, 9.0])[word] + number
    reg = TorchRegressor(
        module=Words, module_params={"n_words": 6}, solver="adam", learning_rate_init=0.05,
        random_state=0, alpha=0,
    ).fit(np.column_stack([word, number]), y)  # fmt: skip
    assert reg.score(np.column_stack([word, number]), y) > 0.99


def test_a_recurrent_module_may_return_one_dimension():
    X = np.random.RandomState(0).normal(size=(200, 6))
    y = X.cumsum(1)[:, -1]
    reg = TorchRegressor(module=Sequences, solver="adam", learning_rate_init=0.02, random_state=0)
    assert reg.fit(X, y).score(X, y) > 0.95
    with pytest.raises(ValueError, match=r"got the shape \(200,\)"):
        reg.fit(X, np.column_stack([y, y]))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (lambda n, k: nn.Sequential(nn.Linear(n, k), nn.Flatten(0)), "for 10 rows"),
        (lambda n, k: nn.GRU(n, k), "must return a tensor; got tuple"),
    ],
)
def test_output_of_the_wrong_kind(module, message):
    X, Y = np.zeros((10, 2)), np.arange(20.0).reshape(10, 2)
    with pytest.raises((ValueError, TypeError), match=message):
        TorchRegressor(module=module).fit(X, Y)


def test_batch_norm_never_sees_a_single_row(iris):
    X, y = iris  # 150 = 149 + 1 = 3 * 50
    clf = TorchClassifier(module=Net, batch_size=149, max_iter=1, random_state=0).fit(X, y)
    assert clf.net_.module_.rows_seen == [150]
    clf = TorchClassifier(module=Net, batch_size=50, max_iter=1, random_state=0)
    assert clf.fit(X[:101], y[:101] > 0).net_.module_.rows_seen == [50, 51]


def test_standardize_with_a_module(diabetes):
    X, y = diabetes
    reg = TorchRegressor(module=mlp, standardize=True, random_state=0, max_iter=50).fit(X, y)
    raw = reg.module_(torch.from_numpy(np.float32(X))).detach().numpy()
    np.testing.assert_allclose(raw[:, 0], reg.predict(X), rtol=1e-4)
    off = TorchRegressor(module=mlp, random_state=0, max_iter=5).fit(X, y / 100)
    raw = off.module_(torch.from_numpy(np.float32(X))).detach().numpy()
    np.testing.assert_allclose(raw[:, 0], off.predict(X), rtol=1e-4)
    one_by_one = np.concatenate([off.predict(X[i : i + 1]) for i in range(20)])
    np.testing.assert_allclose(one_by_one, off.predict(X)[:20], rtol=1e-7)
    assert off.predict(X).dtype == np.float64
    assert off.predict(np.float32(X)).dtype == np.float32
    off.module_.weight = None  # a copy
    assert not hasattr(off, "coefs_")
    assert not hasattr(off, "n_layers_")


def test_sparse_rows(iris):
    X, y = iris
    dense = TorchClassifier(module=mlp, random_state=0, max_iter=5, batch_size=40).fit(X, y)
    sparse = clone(dense).fit(sp.csr_array(X), y)
    np.testing.assert_allclose(dense.predict_proba(X), sparse.predict_proba(X), atol=1e-6)
    np.testing.assert_allclose(sparse.predict_proba(sp.csr_array(X)), sparse.predict_proba(X))


SMALL = {"module": Small, "max_iter": 100, "solver": "adam", "learning_rate_init": 0.01}


@parametrize_with_checks([TorchClassifier(**SMALL), TorchRegressor(**SMALL, standardize=True)])
def test_check_estimator(estimator, check):
    check(estimator)


# -- parameters keep their meaning -----------------------------------------------------------------


def test_lbfgs_says_what_to_use(iris):
    for change in ({"module": mlp}, {"skorch_callbacks": []}):
        with pytest.raises(ValueError, match=r"solver must be one of.*torch\.optim\.LBFGS"):
            TorchClassifier(solver="lbfgs", **change).fit(*iris)
    clf = TorchClassifier(
        module=mlp, max_iter=10, random_state=0, learning_rate_init=1,
        solver=functools.partial(torch.optim.LBFGS, line_search_fn="strong_wolfe"),
    )  # fmt: skip
    assert clf.fit(*iris).score(*iris) > 0.95


def test_options_of_an_optimizer_class():
    values = {"momentum": 0.8, "beta_1": 0.7, "beta_2": 0.6, "epsilon": 1e-5}

    def options(solver):
        return optimizer_options(solver, values, True, 0.1)[1]

    assert options(torch.optim.SGD) == {"momentum": 0.8, "nesterov": True}
    assert options(torch.optim.Adam) == {"betas": (0.7, 0.6), "eps": 1e-5}
    assert options(torch.optim.Adafactor) == {}
    assert options(functools.partial(torch.optim.Adam, eps=1e-3)) == {"betas": (0.7, 0.6)}
    with pytest.raises(ValueError, match="solver must be one of"):
        options(nn.Linear)
    assert class_of(functools.partial(nn.Linear)) is nn.Linear
    assert class_of(len) is None


@pytest.mark.parametrize(
    "solver",
    [
        getattr(torch.optim, name)
        for name in ("SGD", "AdamW", "RMSprop", "NAdam", "Adadelta", "Adafactor", "Rprop")
    ],
)
def test_any_optimizer_trains(iris, solver):
    clf = TorchClassifier((8,), solver=solver, max_iter=20, random_state=0, alpha=0.1).fit(*iris)
    assert clf.loss_curve_[-1] < clf.loss_curve_[0]
    assert clf.coefs_[0].shape == (4, 8)
    assert clf.partial_fit(*iris).n_iter_ == 1


def test_scheduler_class(iris):
    step = functools.partial(torch.optim.lr_scheduler.StepLR, step_size=3, gamma=0.5)
    clf = TorchClassifier((4,), learning_rate=step, learning_rate_init=0.2, max_iter=7)
    rates = clf.fit(*iris).net_.history[:, "event_lr"]
    np.testing.assert_allclose(rates, [0.2] * 3 + [0.1] * 3 + [0.05])
    clf.partial_fit(*iris).partial_fit(*iris).partial_fit(*iris)
    np.testing.assert_allclose(clf.net_.history[-3:, "event_lr"], [0.05, 0.05, 0.025])
    plateau = functools.partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=0)
    clf = TorchClassifier(
        (4,), learning_rate=plateau, learning_rate_init=2.0, max_iter=40, early_stopping=True,
        random_state=0,
    ).fit(*iris)  # fmt: skip
    assert clf.net_.optimizer_.param_groups[0]["lr"] < 2
    with pytest.raises(ValueError, match="learning_rate must be a name"):
        TorchClassifier(learning_rate=nn.Linear).fit(*iris)


def test_rates_by_name_and_callable(iris):
    rates = []

    class Watch(cbs.Callback):
        def on_epoch_begin(self, net, **kwargs):
            rates.append(net.optimizer_.param_groups[0]["lr"])

    est = TorchClassifier(module=mlp, max_iter=4, learning_rate_init=0.1, skorch_callbacks=[Watch])
    clone(est).set_params(learning_rate=lambda epoch: 0.5**epoch).fit(*iris)
    np.testing.assert_allclose(rates, [0.1, 0.05, 0.025, 0.0125])
    # a callback's rate stays where the schedule is constant
    rates.clear()
    step = cbs.LRScheduler("StepLR", step_size=1, gamma=0.5)
    clone(est).set_params(skorch_callbacks=[step, Watch]).fit(*iris)
    np.testing.assert_allclose(rates, [0.1, 0.05, 0.025, 0.0125])


def test_early_stopping_keeps_the_best(wine):
    X, y = wine
    clf = TorchClassifier(
        module=Net, early_stopping=True, scoring="neg_log_loss", n_iter_no_change=5, random_state=0,
        learning_rate_init=0.3, max_iter=60, validation_fraction=0.3,
    ).fit(X, y)  # fmt: skip
    rng = np.random.RandomState(0)
    rng.randint(2**31 - 1)
    _, X_val, _, y_val = train_test_split(X, y, random_state=rng, test_size=0.3)
    best = max(clf.validation_scores_)
    assert clf.best_validation_score_ == best
    assert -log_loss(y_val, clf.predict_proba(X_val)) == pytest.approx(best, rel=1e-5)
    assert clf.n_iter_ < 60
    recorded = clone(clf).set_params(early_stopping=False, max_iter=5, scoring=None)
    recorded.fit(X, y, X_val=X_val, y_val=y_val)
    assert recorded.validation_scores_[-1] == pytest.approx(recorded.score(X_val, y_val))


def test_class_weight_and_the_weight_zero(iris):
    X, y = iris
    keep = y != 2
    est = TorchClassifier(module=mlp, max_iter=30, random_state=0)
    balanced = clone(est).set_params(class_weight={0: 0.0, 1: 1.0, 2: 1.0}, batch_size=150)
    assert (balanced.fit(X, y).predict(X[y == 0]) > 0).all()
    zero = clone(est).fit(X, y, keep.astype(float))
    assert (zero.predict(X[~keep]) < 2).all()
    batch_without = clone(est).set_params(batch_size=50, shuffle=False)
    assert np.isfinite(batch_without.fit(X, y, keep.astype(float)).loss_)


@pytest.mark.parametrize("module", [mlp, Net])
def test_random_state(iris, module):
    X, y = iris
    est = TorchClassifier(module=module, max_iter=4, random_state=5, batch_size=40)
    state = torch.get_rng_state(), pickle.dumps(np.random.mtrand._rand)
    first, second = clone(est).fit(X, y), clone(est).fit(X, y)
    other = clone(est).set_params(random_state=6).fit(X, y)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert pickle.dumps(np.random.mtrand._rand) == state[1]
    np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))
    assert not np.allclose(first.predict_proba(X), other.predict_proba(X))
    with torch.no_grad():
        np.testing.assert_array_equal(clone(est).fit(X, y).predict_proba(X), first.predict_proba(X))
    results = {}
    threads = [
        threading.Thread(target=lambda i=i: results.update({i: clone(est).fit(X, y)}))
        for i in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for fitted in results.values():
        np.testing.assert_array_equal(fitted.predict_proba(X), first.predict_proba(X))


def test_dropout_differs_between_calls_of_partial_fit():
    X, y = np.ones((64, 3)), np.zeros(64)
    seen = []

    class Watch(nn.Dropout):
        def forward(self, X):
            out = super().forward(X)
            if self.training:
                seen.append(out.detach().clone())
            return out

    reg = TorchRegressor(
        module=lambda n, k: nn.Sequential(Watch(0.5), nn.Linear(n, k)), random_state=0
    )
    reg.partial_fit(X, y).partial_fit(X, y)
    assert not torch.equal(*seen)


def test_warm_start_and_partial_fit_train_on(iris):
    X, y = iris
    warm = TorchClassifier(module=mlp, warm_start=True, max_iter=5, random_state=0).fit(X, y)
    loss, net = warm.loss_, warm.net_
    before = copy.deepcopy(weights(net.module_))
    warm.fit(X, y)
    assert warm.loss_ < loss
    assert len(warm.loss_curve_) == 10
    for name, value in weights(net.module_).items():  # the first net is left alone
        np.testing.assert_array_equal(value, before[name])
    with pytest.raises(ValueError, match="number of outputs|same classes"):
        warm.fit(X[:100], y[:100])
    with pytest.raises(ValueError, match="hidden_layer_sizes"):
        warm.set_params(module=None).fit(X, y)
    parts = TorchClassifier(module=Net, solver="adam", random_state=0, learning_rate_init=0.05)
    for _ in range(30):
        parts.partial_fit(X, y, classes=[0, 1, 2])
    assert parts.score(X, y) > 0.9
    assert parts.net_.optimizer_.state_dict()["state"][2]["n_steps"] == 30
    assert parts.n_iter_ == 1


def test_partial_fit_goes_on_after_pickling(iris):
    X, y = iris
    clf = TorchClassifier(module=mlp, solver="adam", random_state=0, batch_size=40)
    clf.partial_fit(X, y, classes=[0, 1, 2])
    loaded = pickle.loads(pickle.dumps(clf))
    for model in (clf, loaded):
        model.partial_fit(X, y)
    np.testing.assert_array_equal(clf.predict_proba(X), loaded.predict_proba(X))
    assert clf.loss_curve_ == loaded.loss_curve_


def test_divergence(diabetes):
    X, y = diabetes
    wild = TorchRegressor(
        module=mlp, learning_rate_init=1e6, max_grad_norm=None, random_state=0, max_iter=50
    )
    with pytest.raises(ValueError, match="Training diverged.*learning_rate_init"):
        wild.fit(X, y)

    class Break(cbs.Callback):
        def on_epoch_begin(self, net, **kwargs):
            if len(net.history) == 4:
                torch.nn.init.constant_(net.module_[0].weight, torch.nan)

    with pytest.raises(ValueError, match="Training diverged"):
        TorchClassifier(
            module=lambda n, k: nn.Sequential(nn.Linear(n, k), nn.Sigmoid()), loss="bce",
            skorch_callbacks=[Break], max_iter=9,
        ).fit(X, y > 100)  # fmt: skip

    kept = TorchRegressor(
        module=mlp, early_stopping=True, random_state=0, skorch_callbacks=[Break], max_iter=9
    )
    with pytest.warns(UserWarning, match="best weights so far were kept"):
        kept.fit(X, y)
    assert kept.n_iter_ == 4
    assert np.isfinite(kept.predict(X)).all()


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


def test_ctrl_c_keeps_the_model(iris):
    class Interrupted(cbs.Callback):
        def on_epoch_end(self, net, **kwargs):
            if len(net.history) == 3:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(1)

    class Slow(nn.Sequential):
        def forward(self, X):
            if self.training and self[0].n_batches == 3:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(1)
            self[0].n_batches += self.training
            return super().forward(X)

    linear = nn.Linear(4, 3)
    linear.n_batches = 0
    in_module, in_callback = {"module": Slow(linear)}, {"skorch_callbacks": [Interrupted]}
    for change, n_recorded in ((in_module, 3), (in_callback, 2)):
        clf = TorchClassifier(**change, max_iter=50, random_state=0)
        with pytest.warns(UserWarning, match="Training interrupted by user"):
            clf.fit(*iris)
        assert clf.n_iter_ == n_recorded
        assert clf.predict(iris[0]).shape == (150,)


def test_a_cancelled_search_stops_its_fits(iris, monkeypatch):
    from torchsk import _stacking

    epochs = []

    class Count(cbs.Callback):
        def on_epoch_begin(self, net, **kwargs):
            epochs.append(1)

    def train_job(job):
        return _training.train([job], should_stop=lambda: len(epochs) == 3)[0]

    monkeypatch.setattr(_stacking, "train_job", train_job)
    with pytest.raises(_training.TrainingCancelled):
        TorchClassifier(module=mlp, skorch_callbacks=[Count]).fit(*iris)
    assert len(epochs) == 3


def test_silent_by_default(iris, capsys):
    TorchClassifier(module=mlp, max_iter=3).fit(*iris).predict(iris[0])
    assert capsys.readouterr() == ("", "")
    TorchClassifier(module=mlp, max_iter=3, verbose=True, early_stopping=True).fit(*iris)
    out = capsys.readouterr().out
    assert "Iteration 3, loss = " in out
    assert "Validation score: " in out


def test_default_dtype_of_the_user_is_not_that_of_training(iris):
    torch.set_default_dtype(torch.float64)
    try:
        clf = TorchClassifier(module=mlp, max_iter=2).fit(*iris)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert clf.module_[0].weight.dtype == torch.float32


# -- skorch's callbacks ----------------------------------------------------------------------------


def test_callbacks_of_the_built_in_network(breast_cancer, tmp_path):
    X, y = breast_cancer
    checkpoint = cbs.Checkpoint(dirname=tmp_path, f_pickle="net.pkl")
    given = [
        checkpoint,
        ("auc", cbs.EpochScoring("roc_auc", lower_is_better=False, name="auc")),
        cbs.EpochScoring("accuracy", name="acc", on_train=True, use_caching=False),
        cbs.ProgressBar,
        cbs.LRScheduler("ExponentialLR", gamma=0.9),
        cbs.Freezer("2.*"),
    ]
    before = [dict(vars(cb)) for cb in given if isinstance(cb, cbs.Callback)]
    clf = TorchClassifier(
        (8,), early_stopping=True, max_iter=5, random_state=0, skorch_callbacks=given
    ).fit(X, y)
    assert [dict(vars(cb)) for cb in given if isinstance(cb, cbs.Callback)] == before
    history = clf.net_.history
    np.testing.assert_allclose(history[:, "train_loss"], clf.loss_curve_)
    np.testing.assert_allclose(history[:, "valid_loss"], clf.validation_loss_curve_)
    np.testing.assert_allclose(history[:, "valid_score"], clf.validation_scores_)
    assert history[-1, "auc"] > 0.95
    rng = np.random.RandomState(0)
    start = TorchClassifier((8,), max_iter=1, learning_rate_init=1e-9, random_state=0).fit(X, y)
    np.testing.assert_allclose(clf.coefs_[1], start.coefs_[1], atol=1e-6)  # frozen
    train, val = train_test_split(
        np.arange(len(y)), random_state=_after_draws(rng, 30, 8, 1), test_size=0.1, stratify=y
    )
    saved = copy.deepcopy(clf.net_)
    saved.initialize()
    saved.load_params(checkpoint=cbs.Checkpoint(dirname=tmp_path, f_pickle="net.pkl"))
    best = int(np.argmin(clf.validation_loss_curve_))
    Z = np.float32(clf._model.x_scaler.transform(X))
    assert saved.predict_proba(Z).shape == (len(y), 2)
    assert len(val) == 57
    p = saved.predict_proba(Z[val])
    assert log_loss(y[val], p) == pytest.approx(clf.validation_loss_curve_[best], rel=1e-4)
    last = clf.predict_proba(X[val])[:, 1]
    kept = int(np.argmax(clf.validation_scores_))
    assert roc_auc_score(y[val], last) == pytest.approx(history[kept, "auc"])


def _after_draws(rng, *sizes):
    """Return rng after it has drawn the weights of a network."""
    for fan_in, fan_out in zip(sizes, sizes[1:]):
        rng.uniform(size=fan_in * fan_out + fan_out)
    return rng


def test_tensorboard(iris, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from torch.utils.tensorboard import SummaryWriter

    clf = TorchClassifier(
        module=mlp, max_iter=6, random_state=0, early_stopping=True,
        skorch_callbacks=[
            lambda: cbs.TensorBoard(SummaryWriter(tmp_path), close_after_train=False)
        ],
    )  # fmt: skip
    fitted = clone(clf).fit(*iris)
    curves = accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert {"Loss/train_loss", "Loss/valid_loss", "Loss/valid_score"} <= set(
        curves.Tags()["scalars"]
    )
    read = [event.value for event in curves.Scalars("Loss/train_loss")]
    np.testing.assert_allclose(read, fitted.loss_curve_, rtol=1e-6)
    net = pickle.loads(pickle.dumps(fitted.net_))  # the writer stays behind
    assert [name for name, _ in net.callbacks_] == ["epoch_timer"]


def test_early_stopping_of_skorch(iris):
    stop = cbs.EarlyStopping(monitor="train_loss", patience=2, threshold=0.5)
    later = cbs.EpochScoring("accuracy", on_train=True)
    clf = TorchClassifier((8,), max_iter=50, random_state=0, skorch_callbacks=[stop, later])
    clf.fit(*iris)
    assert 2 < clf.n_iter_ < 50
    assert len(clf.loss_curve_) == clf.n_iter_ == len(clf.net_.history)
    for callback in (cbs.EarlyStopping, cbs.Checkpoint(dirname="never")):
        with pytest.raises(ValueError, match="unless rows are held out"):
            clf.set_params(skorch_callbacks=[callback]).fit(*iris)
    os.rmdir("never")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_callbacks_that_are_none(iris):
    with pytest.raises(TypeError, match="skorch_callbacks must hold"):
        TorchClassifier(skorch_callbacks=[3]).fit(*iris)


def test_regression_scores_in_the_history(friedman1):
    X, y = friedman1
    scores = [cbs.EpochScoring(name, on_train=True) for name in ("r2", "neg_mean_absolute_error")]
    reg = TorchRegressor(max_iter=3, random_state=0, skorch_callbacks=scores)
    history = reg.fit(X, y).net_.history
    assert {"r2", "neg_mean_absolute_error"} <= set(history[-1])
    batch_scoring = cbs.BatchScoring("r2", on_train=True, name="batch_r2")
    reg.set_params(skorch_callbacks=[batch_scoring], batch_size=50).fit(X, y)
    assert "batch_r2" in reg.net_.history[-1]


def test_the_history_does_not_keep_batches(iris):
    clf = TorchClassifier(module=mlp, batch_size=10, max_iter=6, random_state=0).fit(*iris)
    assert [len(row["batches"]) for row in clf.net_.history] == [0] * 5 + [15]
    clf.partial_fit(*iris)
    assert len(pickle.dumps(clf.net_.history)) < 4000


def test_scikit_learns_callbacks(iris):
    monitor = ScoringMonitor(scoring="accuracy")
    clf = TorchClassifier(module=mlp, max_iter=4, random_state=0).set_callbacks(monitor).fit(*iris)
    epochs = [row for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    assert len(epochs) == 4
    assert epochs[-1]["accuracy"] == clf.score(*iris)
    assert len({row["accuracy"] for row in epochs}) > 1  # the weights of each epoch


# -- cloned, saved, searched -----------------------------------------------------------------------


@pytest.mark.parametrize("how", ["pickle", "joblib", "deepcopy"])
def test_copies_of_a_fitted_estimator(iris, how, tmp_path):
    X, y = iris
    steps = [cbs.EpochScoring("accuracy", on_train=True), cbs.LRScheduler("StepLR", step_size=2)]
    clf = TorchClassifier(module=Net, max_iter=3, random_state=0, skorch_callbacks=steps).fit(X, y)
    if how == "joblib":
        joblib.dump(clf, tmp_path / "clf")
        twin = joblib.load(tmp_path / "clf")
    else:
        twin = copy.deepcopy(clf) if how == "deepcopy" else pickle.loads(pickle.dumps(clf))
    np.testing.assert_array_equal(twin.predict_proba(X), clf.predict_proba(X))
    assert twin._model.holder is twin.net_  # one module, not two
    assert twin.net_.history == clf.net_.history
    assert twin.net_.module is twin.net_.module_
    twin.partial_fit(X, y)
    assert len(twin.net_.history) == 4
    assert len(clf.net_.history) == 3


def test_a_model_of_another_device_comes_to_the_cpu(iris):
    X, y = iris
    clf = TorchClassifier(module=mlp, max_iter=3, random_state=0).fit(X, y)
    before = clf.predict_proba(X)
    absent = next(d for d in ("cuda", "mps") if not getattr(torch.backends, d).is_built())
    clf.net_.device = absent  # as if it had been trained there
    clf._model = type(clf._model)(**{**vars(clf._model), "device": absent})
    loaded = pickle.loads(pickle.dumps(clf))
    assert loaded.net_.device == "cpu"
    np.testing.assert_array_equal(loaded.predict_proba(X), before)
    loaded.partial_fit(X, y)


def test_weights_are_saved_once(iris):
    clf = TorchClassifier(
        module=mlp, module_params={"width": 20_000}, max_iter=1, momentum=0,
        learning_rate=functools.partial(torch.optim.lr_scheduler.StepLR, step_size=2),
    ).fit(*iris)  # fmt: skip
    assert len(pickle.dumps(clf)) < 20_000 * 8 * 4 * 2 + 20_000  # weights and moments


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


# -- more data than memory -------------------------------------------------------------------------


def test_a_memory_map_is_read_batch_by_batch(tmp_path, monkeypatch):
    from torchsk import _tensors

    rng = np.random.RandomState(0)
    rows = rng.normal(size=(3000, 20)).astype(np.float32)
    y = (rows[:, 0] > rows[:, 1]).astype(int)
    mapped = np.memmap(tmp_path / "X", np.float32, "w+", shape=rows.shape)
    mapped[:] = rows
    mapped = np.memmap(tmp_path / "X", np.float32, "r", shape=rows.shape)
    longest = []
    take = _tensors.MappedRows.take

    def watched(self, index, out=None):
        longest.append(len(index))
        return take(self, index, out)

    monkeypatch.setattr(_tensors.MappedRows, "take", watched)
    for standardize in (False, True):
        clf = TorchClassifier(
            module=mlp, batch_size=250, max_iter=5, random_state=0, standardize=standardize,
            solver="adam", learning_rate_init=0.01,
        )  # fmt: skip
        in_memory = clone(clf).fit(rows, y)
        assert not longest
        on_disk = clone(clf).fit(mapped, y, X_val=mapped[:100], y_val=y[:100])
        assert set(longest) == {250, 100}
        longest.clear()
        np.testing.assert_allclose(on_disk.predict_proba(rows), in_memory.predict_proba(rows))
        assert on_disk.score(mapped, y) > 0.9
    clf.set_params(early_stopping=True)
    in_memory, on_disk = clone(clf).fit(rows, y), clone(clf).fit(mapped, y)
    assert max(longest) < len(rows) / 2
    np.testing.assert_allclose(on_disk.predict_proba(rows), in_memory.predict_proba(rows))


def test_rows_of_a_split_are_read_forwards(monkeypatch):
    from torchsk._tensors import MappedRows, RowsOf

    X, seen = np.arange(40.0).reshape(20, 2), []

    class Watched(np.ndarray):
        def __getitem__(self, rows):
            seen.append(rows)
            return np.asarray(self)[rows]

    index = np.random.RandomState(0).permutation(20)[:15]
    rows = MappedRows(RowsOf(X.view(Watched), index), None, torch.device("cpu"), torch.float64)
    order = torch.tensor([3, 14, 0, 7])
    np.testing.assert_array_equal(rows.take(order), X[index][order])
    assert (np.diff(seen[-1]) > 0).all()


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


def test_a_module_must_have_parameters(iris):
    for module in (nn.ReLU(), nn.ReLU):
        with pytest.raises(ValueError, match="module must have parameters to train; got ReLU"):
            TorchClassifier(module=module).fit(*iris)


def test_a_module_sees_few_wide_rows_at_a_time(monkeypatch):
    from torchsk import _models

    monkeypatch.setattr(_models, "CHUNK_SIZE", 1000)
    n_seen = []

    class Watched(nn.Linear):
        def forward(self, X):
            n_seen.append(len(X))
            return super().forward(X)

    X = np.random.RandomState(0).normal(size=(60, 50))
    net = TorchRegressor(module=Watched(50, 1), batch_size=20, max_iter=1, random_state=0)
    with pytest.warns(ConvergenceWarning):
        net.fit(X, X[:, 0]).predict(X)
    assert max(n_seen) == 20


def test_a_data_loader_and_partial_fit():
    rng = np.random.RandomState(0)
    X = torch.from_numpy(np.float32(rng.normal(size=(600, 4))))
    y = (X @ torch.tensor([1.0, -2, 0, 1])).sin()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, y), batch_size=100)
    reg = TorchRegressor(module=mlp, module_params={"width": 30}, solver="adam", random_state=0)
    reg.set_params(learning_rate_init=0.02)
    for _ in range(60):
        for rows, targets in loader:
            reg.partial_fit(rows, targets)
    assert reg.score(X, y.numpy()) > 0.8
    assert len(reg.net_.history) == 360


@pytest.mark.parametrize(
    ("last", "loss", "warns"),
    [
        (nn.Sigmoid(), "log_loss", True),
        (nn.Sigmoid(), "bce", False),
        (nn.Identity(), "log_loss", False),
    ],
)
def test_probabilities_where_logits_are_wanted(iris, last, loss, warns, recwarn):
    X, y = iris
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1), last)
    TorchClassifier(module=module, loss=loss, max_iter=5, random_state=0).fit(X, y == 0)
    assert any("takes logits" in str(warning.message) for warning in recwarn) == warns


def test_the_wrong_number_of_outputs_says_which_loss_goes_with_it(iris):
    X, y = iris
    with pytest.raises(ValueError, match="cross_entropy"):
        TorchClassifier(module=nn.Linear(4, 2)).fit(X, y == 0)
    with pytest.raises(ValueError, match="'bce'"):
        TorchClassifier(module=nn.Linear(4, 1), loss="cross_entropy").fit(X, y == 0)
