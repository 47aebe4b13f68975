"""The second lane: modules, optimizers and callbacks, against torch and the first lane."""

import copy
import os
import pickle

import numpy as np
import pytest
import scipy.sparse as sp
import skorch.callbacks as cbs
import torch
from networks import Net, mlp
from sklearn.base import clone
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import train_test_split
from torch import nn

from torchsk import TorchClassifier, TorchRegressor
from torchsk._training import TrainingCancelled


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


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


def weights(module):
    return {name: value.cpu().numpy() for name, value in module.state_dict().items()}


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
        alpha=0.5, max_iter=3, random_state=0, loss="cross_entropy", learning_rate="constant",
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


def test_batch_norm_never_sees_a_single_row(iris):
    X, y = iris  # 150 = 149 + 1 = 3 * 50
    clf = TorchClassifier(module=Net, batch_size=149, max_iter=1, random_state=0).fit(X, y)
    assert clf.net_.module_.rows_seen == [150]
    clf = TorchClassifier(module=Net, batch_size=50, max_iter=1, random_state=0)
    assert clf.fit(X[:101], y[:101] > 0).net_.module_.rows_seen == [50, 51]


def test_sparse_rows(iris):
    X, y = iris
    dense = TorchClassifier(module=mlp, random_state=0, max_iter=5, batch_size=40).fit(X, y)
    sparse = clone(dense).fit(sp.csr_array(X), y)
    np.testing.assert_allclose(dense.predict_proba(X), sparse.predict_proba(X), atol=1e-6)
    np.testing.assert_allclose(sparse.predict_proba(sp.csr_array(X)), sparse.predict_proba(X))


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
    constant = clone(est).set_params(learning_rate="constant")
    constant.set_params(skorch_callbacks=[step, Watch]).fit(*iris)
    np.testing.assert_allclose(rates, [0.1, 0.05, 0.025, 0.0125])


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
    parts = TorchClassifier(
        module=Net, solver="adam", random_state=0, learning_rate_init=0.05, batch_size=150
    )
    for _ in range(30):
        parts.partial_fit(X, y, classes=[0, 1, 2])
    assert parts.score(X, y) > 0.9
    assert parts.net_.optimizer_.state_dict()["state"][2]["n_steps"] == 30
    assert parts.n_iter_ == 1


def test_a_cancelled_search_stops_its_fits(iris, monkeypatch):
    from torchsk import _stacking

    epochs = []

    class Count(cbs.Callback):
        def on_epoch_begin(self, net, **kwargs):
            epochs.append(1)

    def train_job(job):
        return job.lane.train([job], should_stop=lambda: len(epochs) == 3)[0]

    monkeypatch.setattr(_stacking, "train_job", train_job)
    with pytest.raises(TrainingCancelled):
        TorchClassifier(module=mlp, skorch_callbacks=[Count]).fit(*iris)
    assert len(epochs) == 3


def test_silent_by_default(iris, capsys):
    TorchClassifier(module=mlp, max_iter=3).fit(*iris).predict(iris[0])
    assert capsys.readouterr() == ("", "")
    TorchClassifier(module=mlp, max_iter=3, verbose=True, early_stopping=True).fit(*iris)
    out = capsys.readouterr().out
    assert "Iteration 3, loss = " in out
    assert "Validation score: " in out


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
        (8,), early_stopping=True, max_iter=5, random_state=0, skorch_callbacks=given,
        learning_rate="constant",
    ).fit(X, y)  # fmt: skip
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
    Z = np.float32(clf._fitted.model.x_scaler.transform(X))
    assert saved.predict_proba(Z).shape == (len(y), 2)
    assert len(val) == 57
    p = saved.predict_proba(Z[val])
    assert log_loss(y[val], p) == pytest.approx(clf.validation_loss_curve_[best], rel=1e-4)
    last = clf.predict_proba(X[val])[:, 1]
    assert roc_auc_score(y[val], last) == pytest.approx(history[best, "auc"])


def _after_draws(rng, *sizes):
    """Return rng after it has drawn the weights of a network."""
    for fan_in, fan_out in zip(sizes, sizes[1:]):
        rng.uniform(size=fan_in * fan_out + fan_out)
    return rng


def test_tensorboard(iris, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(tmp_path)
    clf = TorchClassifier(
        module=mlp, max_iter=6, random_state=0, early_stopping=True,
        skorch_callbacks=[lambda: cbs.TensorBoard(writer, close_after_train=False)],
    )  # fmt: skip
    fitted = clone(clf).fit(*iris)
    writer.flush()  # its thread writes when it likes
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


@pytest.mark.parametrize("callback", [
    cbs.EarlyStopping(monitor="valid_acc"),
    cbs.Checkpoint(monitor="valid_acc_best"),
    cbs.LRScheduler("ReduceLROnPlateau", monitor="valid_acc"),
], ids=lambda callback: type(callback).__name__)  # fmt: skip
def test_a_callback_that_reads_what_is_not_recorded(callback, iris, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clf = TorchClassifier(
        (4,), max_iter=2, random_state=0, learning_rate="constant", skorch_callbacks=[callback]
    )
    with pytest.raises(ValueError, match="'valid_score' .*; got .*valid_acc"):
        clone(clf).set_params(early_stopping=True).fit(*iris)
    with pytest.raises(ValueError, match="unless rows are held out.*; got .*valid_acc"):
        clf.fit(*iris)


@pytest.mark.parametrize("callback", [
    cbs.LRScheduler("StepLR", step_size=5), cbs.LRScheduler, ("rate", cbs.LRScheduler),
    lambda: cbs.LRScheduler("StepLR", step_size=5),
], ids=["instance", "class", "pair", "function"])  # fmt: skip
@pytest.mark.parametrize("learning_rate", ["onecycle", "adaptive", lambda epoch: 1.0])
def test_a_scheduler_beside_a_schedule(learning_rate, callback, iris):
    """The schedule would overrule it."""
    clf = TorchClassifier(
        (4,), max_iter=2, random_state=0, learning_rate=learning_rate, skorch_callbacks=[callback]
    )
    with pytest.raises(ValueError, match=r"^learning_rate must be 'constant' where .*LRScheduler"):
        clf.fit(*iris)
    clf.set_params(learning_rate="onecycle").partial_fit(*iris, classes=[0, 1, 2])  # constant


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
