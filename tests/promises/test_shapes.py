"""A module takes X of any shape: images, sequences and token ids go the way of tables."""

import copy
import os
import pickle
import random
import subprocess
import sys

import joblib
import numpy as np
import pytest
import torch
from networks import mlp
from sklearn.base import clone
from sklearn.callback import ScoringMonitor
from sklearn.model_selection import GridSearchCV, cross_val_score
from skorch.callbacks import EpochScoring
from torch import nn

from torchsk import LossCurveDisplay, TorchClassifier, TorchRegressor, compare

SETTINGS = {"max_iter": 3, "batch_size": 32, "random_state": 0}


def convolution(n_outputs, channels=2):
    return nn.Sequential(
        nn.Conv2d(1, channels, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36 * channels, n_outputs)
    )


def of_rows(n_outputs, channels=2):
    """The same for flattened images."""
    return nn.Sequential(nn.Unflatten(1, (1, 8, 8)), *convolution(n_outputs, channels))


class Tokens(nn.Module):
    """The mean of embeddings; it notes the dtypes that it has seen in training."""

    def __init__(self, n_outputs, n_words=50):
        super().__init__()
        self.words = nn.Embedding(n_words, 8)
        self.output = nn.Linear(8, n_outputs)
        self.seen = set()

    def forward(self, X):
        if self.training:
            self.seen.add(X.dtype)
        return self.output(self.words(X).mean(1))


class Watched(nn.Conv2d):
    """A convolution that notes what it has seen."""

    def __init__(self, n_outputs):
        super().__init__(1, n_outputs, 8)
        self.seen = []

    def forward(self, X):
        self.seen.append((X.dtype, tuple(X.shape[1:]), X.is_contiguous()))
        return super().forward(X).flatten(1)


@pytest.fixture(scope="module")
def images(digits):
    """(500 x 1 x 8 x 8, ten classes)."""
    X, y = digits
    return X.reshape(-1, 1, 8, 8), y


@pytest.fixture(scope="module")
def tokens():
    """(ids 300 x 20, two classes: which of two words is there)."""
    rng = np.random.RandomState(0)
    X, y = rng.randint(2, 50, (300, 20)), rng.randint(0, 2, 300)
    X[np.arange(300), rng.randint(0, 20, 300)] = y
    return X, y


# -- the way of tables -----------------------------------------------------------------------------


def own_score(net, X, y):
    return net.score(X, y)


WAYS = {
    "plain": {},
    "early stopping": {"early_stopping": True},
    "a scorer": {"early_stopping": True, "scoring": own_score},
    "skorch": {"skorch_callbacks": [EpochScoring("neg_mean_squared_error", use_caching=False)]},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("estimator", [TorchClassifier, TorchRegressor])
def test_images_are_fitted_as_flattened_ones(images, estimator, way):
    X, y = images
    weight = np.random.RandomState(0).rand(400)
    fitted = []
    for module, shape in ((convolution, X.shape[1:]), (of_rows, (64,))):
        rows = X.reshape(-1, *shape) / 16
        net = estimator(module=module, **SETTINGS, **WAYS[way])
        net.fit(rows[:400], y[:400], weight, X_val=rows[400:], y_val=y[400:])
        fitted.append((net, rows))
        assert net.n_features_in_ == shape[0]
    for name in ("loss_curve_", "validation_loss_curve_", "validation_scores_"):
        assert getattr(fitted[0][0], name) == getattr(fitted[1][0], name)
    for net, rows in fitted:
        net.partial_fit(rows[:100], y[:100])
        net.set_params(warm_start=True, max_iter=1).fit(rows[:300], y[:300])
    (net, rows), (other, flat) = fitted
    for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
        if hasattr(net, method):
            np.testing.assert_array_equal(getattr(net, method)(rows), getattr(other, method)(flat))
    raw = net.module_(torch.tensor(rows[:20], dtype=torch.float32))
    assert torch.equal(raw, other.module_(torch.tensor(flat[:20], dtype=torch.float32)))
    assert net.score(rows, y) == other.score(flat, y)
    again = pickle.loads(pickle.dumps(net))
    np.testing.assert_array_equal(again.predict(rows), net.predict(rows))
    with pytest.raises(ValueError, match=r"X must have the shape \(n_samples, 1, 8, 8\)"):
        again.partial_fit(flat, y)


def test_a_search_over_images_is_one_over_rows(images):
    X, y = images
    grid = {"module_params": [{"channels": 1}, {"channels": 3}]}
    scores = []
    for module, rows in ((convolution, X), (of_rows, X.reshape(500, 64))):
        search = GridSearchCV(TorchClassifier(module=module, **SETTINGS), grid, cv=2)
        scores.append(clone(search).fit(rows, y).cv_results_["mean_test_score"])
        with joblib.parallel_config("torchsk"):
            scores.append(search.fit(rows, y).cv_results_["mean_test_score"])
        scores.append(
            [
                cross_val_score(
                    clone(search.estimator).set_params(module_params=params), rows, y, cv=2
                )
                for params in grid["module_params"]
            ]
        )
        scores[-1] = np.mean(scores[-1], axis=1)
    for others in scores[1:]:
        np.testing.assert_array_equal(scores[0], others)


def test_a_weight_counts_images(images):
    X, y = images
    weight = np.random.RandomState(0).randint(0, 3, 60)
    net = TorchClassifier(module=convolution, max_iter=3, random_state=0)
    weighted = clone(net).fit(X[:60], y[:60], weight)
    repeated = net.fit(np.repeat(X[:60], weight, 0), np.repeat(y[:60], weight))
    np.testing.assert_array_equal(weighted.predict_proba(X), repeated.predict_proba(X))
    assert weighted.batch_size_ == repeated.batch_size_ <= (weight > 0).sum()


def test_labels_displays_comparisons_and_callbacks(images):
    X, y = images
    labels = np.eye(10, dtype=int)[y]
    net = TorchClassifier(module=convolution, **SETTINGS).fit(X, labels)
    assert net.predict_proba(X).shape == net.predict(X).shape == (500, 10)
    LossCurveDisplay.from_estimator(net)
    settings = {"module": convolution, **SETTINGS}
    nets = {"one": TorchClassifier(**settings), "same": TorchClassifier(**settings)}
    scores = compare(nets, X, y, cv=2).to_frame()["mean_test_score"]
    assert scores.nunique() == 1
    monitor = ScoringMonitor(scoring="accuracy")
    watched = TorchClassifier(**settings).set_callbacks(monitor).fit(X, y)
    logged = [row for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    assert len(logged) == 3
    assert logged[-1]["accuracy"] == watched.score(X, y)


# -- what the module sees --------------------------------------------------------------------------


AS_GIVEN = {
    **{dtype: lambda X, dtype=dtype: X.astype(dtype) for dtype in
       ("uint8", "int64", "uint16", "float16", "float32", "float64", ">f4", ">i2", "object")},
    "tensor": torch.from_numpy,
    "uint8 tensor": lambda X: torch.from_numpy(X).to(torch.uint8),
    "tensor with gradient": lambda X: torch.from_numpy(X).float().requires_grad_(),
    "channels last": lambda X: np.ascontiguousarray(X.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    "backwards": lambda X: np.ascontiguousarray(X[:, :, ::-1])[:, :, ::-1],
    "read only": lambda X: X,
    "list of arrays": lambda X: list(X.astype(np.uint8)),
    "list of tensors": lambda X: list(torch.from_numpy(X).float().requires_grad_()),
    "nested lists": lambda X: X.tolist(),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize("given", AS_GIVEN)
def test_images_of_any_kind_are_the_same_float32(images, given):
    X, y = images
    model = TorchClassifier(module=Watched, learning_rate_init=1e-4, **SETTINGS)
    expected = clone(model).fit(X, y)
    rows = AS_GIVEN[given](X)
    net = model.fit(rows, torch.from_numpy(y.copy()))
    np.testing.assert_allclose(net.predict_proba(rows), expected.predict_proba(X), atol=1e-6)
    assert net.score(rows, torch.from_numpy(y.copy())) == expected.score(X, y)
    assert set(net.net_.module_.seen) == {(torch.float32, (1, 8, 8), True)}
    dtype = np.float32 if given in ("float32", "tensor with gradient", "list of tensors") else float
    assert net.predict_proba(rows).dtype == dtype


def test_boolean_images_and_few_rows(images):
    X, y = images
    net = TorchClassifier(module=Watched, random_state=0, batch_size=200, max_iter=3)
    dark = net.fit(X[:7] > 8, y[:7])
    light = clone(net).fit((X[:7] > 8).astype(float), y[:7])
    np.testing.assert_array_equal(dark.predict_proba(X > 8), light.predict_proba(X > 8))
    np.testing.assert_array_equal(dark.predict(X[:1] > 8), dark.predict(X > 8)[:1])


def test_integers_are_float32_unless_a_module_takes_ids_only(images, tokens):
    X, y = images
    words, is_there = tokens
    for module, rows, target in (
        (Watched, X.astype(np.uint8), y), (nn.Linear, words, is_there), (mlp, words, is_there),
    ):  # fmt: skip
        net = TorchClassifier(module=module, **SETTINGS).fit(rows, target)
        other = TorchClassifier(module=module, **SETTINGS).fit(rows.astype(np.float32), target)
        np.testing.assert_array_equal(net.predict_proba(rows), other.predict_proba(rows))


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8"])
def test_ids_are_looked_up(tokens, dtype):
    X, y = tokens
    X = X.astype(dtype)
    net = TorchClassifier(
        module=Tokens, solver="adam", learning_rate_init=0.1, max_iter=20, random_state=0,
        early_stopping=True, scoring="accuracy", skorch_callbacks=[EpochScoring("accuracy")],
    ).fit(X, y)  # fmt: skip
    assert net.score(X, y) > 0.95
    assert net.net_.module_.seen == {torch.int64}
    np.testing.assert_array_equal(net.net_.predict(X), net.predict(X))
    net = pickle.loads(pickle.dumps(net))
    net.partial_fit(X, y).set_params(warm_start=True).fit(X, y)
    assert net.net_.module_.seen == {torch.int64}
    assert net.predict(X.tolist()).dtype == y.dtype
    with joblib.parallel_config("torchsk"):
        scores = cross_val_score(net, X, y, cv=2)
    np.testing.assert_array_equal(scores, cross_val_score(net, X, y, cv=2))
    held_out = {"X_val": X * 1.0, "y_val": y}
    for call in (
        lambda: net.predict(X * 1.0),
        lambda: net.partial_fit(X * 1.0, y),
        lambda: clone(net).fit(X, y, **held_out),
    ):
        with pytest.raises(ValueError, match="must hold integers, for the module takes ids"):
            call()


def test_ids_in_a_file_and_in_a_frame(tokens, tmp_path):
    pd = pytest.importorskip("pandas")
    X, y = tokens
    np.save(tmp_path / "X.npy", X)
    expected = TorchClassifier(module=Tokens, **SETTINGS).fit(X, y).predict_proba(X)
    for rows in (np.load(tmp_path / "X.npy", mmap_mode="r"), pd.DataFrame(X), torch.from_numpy(X)):
        net = TorchClassifier(module=Tokens, **SETTINGS).fit(rows, y)
        np.testing.assert_array_equal(net.predict_proba(rows), expected)


def test_images_in_a_file_are_read_batch_by_batch(images, tmp_path, monkeypatch):
    from torchsk import _fitting

    X, y = images
    np.save(tmp_path / "X.npy", X.astype(np.uint8))
    rows = np.load(tmp_path / "X.npy", mmap_mode="r")
    monkeypatch.setattr(_fitting, "as_rows", None)  # what would copy them
    net = TorchClassifier(module=convolution, early_stopping=True, **SETTINGS).fit(rows, y)
    monkeypatch.undo()
    other = TorchClassifier(module=convolution, early_stopping=True, **SETTINGS).fit(X, y)
    np.testing.assert_array_equal(net.predict_proba(rows), other.predict_proba(X))


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "int8", "float16", "bool", ">f4"])
def test_files_of_any_dtype(images, tmp_path, dtype):
    X, y = images
    np.save(tmp_path / "X.npy", X.astype(dtype))
    rows = np.load(tmp_path / "X.npy", mmap_mode="r")
    model = TorchClassifier(module=convolution, learning_rate_init=1e-4, **SETTINGS)
    expected = clone(model).fit(X.astype(dtype).astype(float), y).predict_proba(X.astype(dtype))
    np.testing.assert_array_equal(model.fit(rows, y).predict_proba(rows), expected)


@pytest.mark.device
def test_images_and_ids_on_a_device(images, tokens, device):
    for module, (X, y) in ((convolution, images), (Tokens, tokens)):
        rows, labels = torch.tensor(X, device=device), torch.tensor(y, device=device)
        model = TorchClassifier(module=module, learning_rate_init=1e-3, **SETTINGS)
        there = clone(model).set_params(device=device).fit(rows, labels)
        assert there.device_ == device
        expected = model.fit(X, y).predict_proba(X)
        np.testing.assert_allclose(there.predict_proba(rows), expected, atol=1e-4)
        weight = torch.ones(len(X), device=device)
        assert there.score(rows, labels, weight) == pytest.approx(model.score(X, y), abs=0.01)
        there.partial_fit(rows, labels, weight, classes=labels.unique())
    reg = TorchRegressor(max_iter=5).fit(rows, labels, weight)
    assert reg.score(rows, labels, weight) == reg.score(X, y)


def test_an_id_beyond_the_table_is_an_error_of_its_own(tokens):
    with pytest.raises(IndexError, match="out of range"):
        TorchClassifier(module=Tokens, module_params={"n_words": 3}).fit(*tokens)


def test_asking_a_module_leaves_nothing_behind(tokens):
    X, y = tokens

    class Careless(nn.Module):
        """Takes ids only, draws at random whenever it is asked, and counts its calls."""

        def __init__(self, n_outputs):
            super().__init__()
            self.words = nn.Embedding(50, 4)
            self.norm = nn.BatchNorm1d(20)
            self.output = nn.Linear(80, n_outputs)
            self.register_buffer("n_calls", torch.zeros(()))
            self.rng = np.random.RandomState(0)

        def forward(self, X):
            self.n_calls += 1
            torch.rand(1), np.random.rand(), random.random(), self.rng.rand()  # noqa: NPY002
            return self.output(self.norm(self.words(X)).flatten(1))

    from torchsk._modules import takes_ids

    module, takes_both = Careless(1), nn.Sequential(nn.BatchNorm1d(20), nn.Linear(20, 1))
    before = copy.deepcopy(module.state_dict())

    def states():
        return (
            torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes(),  # noqa: NPY002
            random.getstate(), module.rng.get_state()[2],
        )  # fmt: skip

    drawn, was_training = states(), module.training
    assert takes_ids(module, X)
    assert not takes_ids(takes_both, X)
    assert takes_both[0].num_batches_tracked == 0
    assert states() == drawn
    assert module.training == was_training
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name
    TorchClassifier(module=module, **SETTINGS).fit(X, y)
    assert module.n_calls == 0


# -- what cannot be --------------------------------------------------------------------------------


def with_value(X, value):
    X = X.copy()
    X[3, 0, 2, 2] = value
    return X


SHAPE = r"must have the shape \(n_samples, 1, 8, 8\), as at the first fit; got the shape "
REFUSED = {
    "no module": ({"module": None}, lambda X: X, r"flatten X, .*, or give a module"),
    "standardize": ({"standardize": True}, lambda X: X, "flatten X, scale it before"),
    "nan": ({}, lambda X: with_value(X, np.nan), "X contains NaN"),
    "inf": ({}, lambda X: with_value(X, np.inf), "X contains infinity"),
    "huge": ({}, lambda X: with_value(X, 1e300), "about 3e38.; scale it[.]"),
    "one axis": ({}, lambda X: X[:, 0, 0, 0], "Expected 2D array, got 1D array"),
    "ragged": ({}, lambda X: [*X[:-1], X[0, :, :4]], "inhomogeneous shape"),
    "positions": (
        {"module": lambda n_in, n_out: nn.Linear(n_in, n_out)}, lambda X: X,
        "module must take input_shape .* there is no n_features: or flatten X",
    ),
    "n_features": (
        {"module": lambda n_features, n_outputs: nn.Linear(n_features, n_outputs)}, lambda X: X,
        "module must take input_shape .* there is no n_features: or flatten X",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_fitted(images, case):
    settings, change, message = REFUSED[case]
    X, y = images
    for estimator in (TorchClassifier, TorchRegressor):
        with pytest.raises(ValueError, match=message):
            estimator(**{"module": convolution, "max_iter": 1, **settings}).fit(change(X), y)


def test_sparse_images(images):
    sparse = pytest.importorskip("scipy.sparse")
    X, y = images
    for module in (convolution, None):
        with pytest.raises(ValueError, match=r"flatten X, or give X\.toarray\(\)"):
            TorchClassifier(module=module).fit(sparse.coo_array(X), y)


def test_rows_of_another_shape(images):
    X, y = images
    net = TorchClassifier(module=convolution, **SETTINGS).fit(X, y)
    before = net.predict_proba(X)
    for rows in (X[:, 0], X[:, :, :4], np.repeat(X, 3, axis=1), X.reshape(500, 64)):
        with pytest.raises(ValueError, match=SHAPE):
            net.predict(rows)
        with pytest.raises(ValueError, match=SHAPE):
            net.score(list(rows), y)
        with pytest.raises(ValueError, match=SHAPE):
            net.partial_fit(torch.from_numpy(rows.copy()), y)
        with pytest.raises(ValueError, match=SHAPE):
            copy.copy(net).set_params(warm_start=True).fit(rows, y)
        with pytest.raises(ValueError, match=f"^X_val {SHAPE}"):
            clone(net).fit(X, y, X_val=rows, y_val=y)
    with pytest.raises(ValueError, match="X contains NaN"):
        net.predict(with_value(X, np.nan))
    np.testing.assert_array_equal(net.predict_proba(X), before)
    flat = TorchClassifier(max_iter=1).fit(X.reshape(500, 64), y)
    with pytest.raises(ValueError, match=r"\(n_samples, 64\).*flatten X, or give a module"):
        flat.predict(X)


def test_how_a_callable_learns_the_shape(images):
    X, y = images

    def named(input_shape, n_outputs, depth=1):
        shapes.append(input_shape)
        return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(input_shape)), n_outputs))

    shapes = []
    TorchClassifier(module=named, **SETTINGS).fit(X, y)
    TorchClassifier(module=named, **SETTINGS).fit(X.reshape(500, 64), y)
    assert shapes == [(1, 8, 8), (64,)]

    def counted(n_features, n_outputs):
        return nn.Sequential(nn.Flatten(), nn.Linear(n_features, n_outputs))

    TorchClassifier(module=counted, module_params={"n_features": 64}, **SETTINGS).fit(X, y)


def test_recurrent_modules(images):
    rng = np.random.RandomState(0)
    X = rng.normal(size=(300, 12, 3))
    y = X[:, :, 0].cumsum(1)[:, -1]

    class Recurrent(nn.Module):
        def __init__(self, input_shape, n_outputs, is_whole=True):
            super().__init__()
            self.lstm = nn.LSTM(input_shape[1], 8, batch_first=True)
            self.output, self.is_whole = nn.Linear(8, n_outputs), is_whole

        def forward(self, X):
            states, last = self.lstm(X)
            output = self.output(states[:, -1])
            return output if self.is_whole else (output, last)

    net = TorchRegressor(module=Recurrent, solver="adam", learning_rate_init=0.05, random_state=0)
    assert net.fit(X, y).score(X, y) > 0.9
    for module in (lambda n_outputs: Recurrent((12, 3), n_outputs, False), nn.LSTM(3, 1)):
        with pytest.raises(TypeError, match="must return a tensor; got tuple. Of nn.LSTM's"):
            TorchRegressor(module=module).fit(X, y)


# -- elsewhere -------------------------------------------------------------------------------------


ELSEWHERE = """
import pickle, sys
import numpy as np
with open(sys.argv[1], "rb") as file:
    net, X, expected = pickle.load(file)
np.testing.assert_array_equal(net.predict(X), expected)
for wrong in (X * 1.0, X[:, :3]):
    try:
        net.predict(wrong)
    except ValueError as error:
        print(str(error)[:26])
"""


def test_the_shape_and_the_ids_are_saved(tokens, tmp_path):
    X, y = tokens
    X = X.reshape(-1, 20, 1)
    net = TorchClassifier(
        module=nn.Sequential(nn.Embedding(50, 4), nn.Flatten(), nn.Linear(80, 1)), **SETTINGS
    ).fit(X, y)
    with (tmp_path / "net.pkl").open("wb") as file:
        pickle.dump((net, X, net.predict(X)), file)
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(tmp_path / "net.pkl")],
        capture_output=True, text=True, env=os.environ,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["X must hold integers, for ", "X must have the shape (n_s"]
