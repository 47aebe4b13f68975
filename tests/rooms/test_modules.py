"""What a module may be, how it is called, and what its output means."""

import numpy as np
import pytest
import skorch.callbacks as cbs
import torch
from networks import mlp
from sklearn.base import clone
from sklearn.datasets import make_multilabel_classification
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from torchsk import TorchClassifier, TorchRegressor
from torchsk._modules import build_module


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


def test_how_a_module_is_called():
    class Alone(nn.Linear):
        def __init__(self, width=7, depth=2):
            super().__init__(width, depth)

    class OnlyFeatures(nn.Linear):
        def __init__(self, n_features, width=7):
            super().__init__(n_features, width)

    def shape(module, params=None):
        return build_module(module, params, (4,), 3).weight.shape

    assert shape(lambda n_in, n_out: nn.Linear(n_in, n_out)) == (3, 4)
    assert shape(lambda n_outputs, n_features: nn.Linear(n_features, n_outputs)) == (3, 4)
    assert shape(Alone) == (2, 7)
    assert shape(Alone, {"width": 5}) == (2, 5)
    assert shape(OnlyFeatures, {"width": 5}) == (5, 4)
    assert shape(nn.Linear, {"bias": False}) == (3, 4)
    instance = nn.Linear(2, 2)
    assert build_module(instance, None, (4,), 3) is not instance
    with pytest.raises(ValueError, match="module_params must be None"):
        build_module(instance, {"bias": True}, (4,), 3)
    with pytest.raises(TypeError, match="must return an nn.Module"):
        build_module(lambda n_in, n_out: 3, None, (4,), 3)


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
        reg.set_params(batch_size=200).fit(X, np.column_stack([y, y]))


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
    net.fit(X, X[:, 0]).predict(X)
    assert max(n_seen) == 20


@pytest.mark.parametrize("loss", ["log_loss", "cross_entropy", "bce", "nll", nn.BCELoss])
def test_the_loss_says_what_the_output_means(breast_cancer, loss):
    X, y = breast_cancer
    X = StandardScaler().fit_transform(X)[:, :5]
    last = {"bce": nn.Sigmoid(), nn.BCELoss: nn.Sigmoid(), "nll": nn.LogSoftmax(1)}

    def linear(n_features, n_outputs):
        layer = nn.Linear(n_features, n_outputs)
        return nn.Sequential(layer, last[loss]) if loss in last else layer

    clf = TorchClassifier(
        module=linear, loss=loss, max_iter=300, alpha=1.0, batch_size=len(y), random_state=0, tol=0,
        learning_rate="constant",
    ).fit(X, y)  # fmt: skip
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
    multi = TorchClassifier(module=mlp, random_state=0, standardize=True, max_iter=200)
    multi.fit(rows, labels)
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
