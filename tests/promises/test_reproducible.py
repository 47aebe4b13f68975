"""The same seed on the same machine gives the same network, bit by bit, wherever it is trained."""

import copy
import hashlib
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from joblib import Parallel, delayed
from networks import Classifier, Net, mlp
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.model_selection import GridSearchCV, cross_validate
from torch import nn

from torchsk import TorchClassifier, TorchRegressor
from torchsk._runtime import seeded_torch

SETTINGS = {
    "plain": {},
    "batches": {"batch_size": 32, "solver": "adam"},
    "dropout": {"dropout": 0.3, "hidden_layer_sizes": (8, 8), "batch_size": 32},
    "stopping": {"early_stopping": True, "solver": "adamw"},
    "lbfgs": {"solver": "lbfgs"},
    "init": {"init": "orthogonal", "solver": "rmsprop"},
    "wide": {"hidden_layer_sizes": (1200,), "batch_size": 90, "max_iter": 2},
    "optimizer": {"solver": torch.optim.NAdam, "dropout": 0.2},
}
CLASSIFIERS = {
    name: TorchClassifier(
        **{"hidden_layer_sizes": (8,), "max_iter": 8, "random_state": 0, **params}
    )
    for name, params in SETTINGS.items()
}
REGRESSORS = {
    name: TorchRegressor(**{"hidden_layer_sizes": (8,), "max_iter": 8, "random_state": 0, **params})
    for name, params in SETTINGS.items()
}
NETS = {"classifier": CLASSIFIERS, "regressor": REGRESSORS}
IN_A_PROCESS = """
import sys
sys.path[:0] = sys.argv[1:]
import torch
torch.set_num_threads(1)
from test_reproducible import fingerprints
print(*fingerprints())
"""


def data(kind):
    return {"classifier": load_iris, "regressor": load_diabetes}[kind](return_X_y=True)


def fit(kind, name):
    """Return all weights and predictions of a network that is trained here."""
    X, y = data(kind)
    net = clone(NETS[kind][name]).fit(X, y)
    return bits(net, X)


def bits(net, X):
    predictions = net.predict_proba(X) if hasattr(net, "classes_") else net.predict(X)
    parts = [*net.coefs_, *net.intercepts_, predictions, getattr(net, "loss_curve_", [net.loss_])]
    return hashlib.sha256(
        b"".join(np.ascontiguousarray(part).tobytes() for part in parts)
    ).hexdigest()


ALL = [(kind, name) for kind in NETS for name in SETTINGS]


def fingerprints():
    return [fit(kind, name) for kind, name in ALL]


@pytest.fixture(scope="module")
def expected():
    return fingerprints()


def test_again(expected):
    assert fingerprints() == expected
    assert len(set(expected)) == len(ALL)


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_refitted_cloned_and_unpickled(kind, name, expected):
    X, y = data(kind)
    first = expected[ALL.index((kind, name))]
    net = clone(NETS[kind][name])
    for _ in range(2):
        assert bits(net.fit(X, y), X) == first  # fitted again
    for twin in (clone(net), copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert bits(twin.fit(X, y), X) == first
    torch.manual_seed(1), np.random.seed(1)  # noqa: NPY002
    assert bits(clone(net).fit(X, y), X) == first  # the global generators are not looked at


def test_the_global_generator_of_numpy_is_the_default(iris):
    # as everywhere in scikit-learn: random_state=None draws from it
    def weights():
        np.random.seed(5)  # noqa: NPY002
        return TorchClassifier((4,), dropout=0.5, max_iter=2).fit(*iris).coefs_[0]

    np.testing.assert_array_equal(weights(), weights())


@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing", "sequential"])
def test_in_workers(backend, expected):
    with joblib.parallel_config(backend, n_jobs=2):
        assert Parallel()(delayed(fit)(kind, name) for kind, name in ALL) == expected


def test_in_another_process(expected):
    here = Path(__file__).parent
    out = subprocess.run(
        [sys.executable, "-c", IN_A_PROCESS, here, here.parent],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    assert out.stdout.split() == expected


def test_containers_and_memory_layouts(iris):
    X, y = iris
    net = TorchClassifier((8,), batch_size=20, max_iter=3, random_state=0)
    first = bits(clone(net).fit(X, y), X)
    fortran, strided = np.asfortranarray(X), np.repeat(X, 2, axis=1)[:, ::2]
    for form in (fortran, strided, X.tolist(), torch.from_numpy(X.copy())):
        assert bits(clone(net).fit(form, y), X) == first


def test_threads_of_torch_do_not_matter_to_small_networks(expected):
    # up to 2**25 multiply-adds per step everything runs on one core
    before = torch.get_num_threads()
    small = [i for i, (_, name) in enumerate(ALL) if name != "optimizer"]
    try:
        torch.set_num_threads(2)
        found = fingerprints()
    finally:
        torch.set_num_threads(before)
    assert [found[i] for i in small] == [expected[i] for i in small]


# -- in a stack ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_in_a_stack_within_rounding(kind, name):
    X, y = data(kind)
    net = clone(NETS[kind][name]).set_params(max_iter=4)
    with joblib.parallel_config("torchsk"):
        stacked = cross_validate(net, X, y, cv=3, return_estimator=True)["estimator"]
    alone = cross_validate(net, X, y, cv=3, return_estimator=True)["estimator"]
    for a, b in zip(stacked, alone):
        assert a.n_iter_ == b.n_iter_
        for ours, theirs in zip([*a.coefs_, *a.intercepts_], [*b.coefs_, *b.intercepts_]):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-3 * abs(theirs).max())


def test_a_stacked_search_is_repeatable(iris):
    X, y = iris
    grid = {"alpha": [1e-4, 1e-3], "learning_rate_init": [0.02, 0.05]}

    def search():
        net = TorchClassifier((6,), dropout=0.2, max_iter=5, random_state=0)
        with joblib.parallel_config("torchsk"):
            found = GridSearchCV(net, grid, cv=3).fit(X, y)
        return bits(found.best_estimator_, X), found.cv_results_["mean_test_score"].tolist()

    assert search() == search()


def test_sparse_rows_are_repeatable(iris):
    X, y = iris
    net = TorchClassifier((8,), batch_size=20, max_iter=3, random_state=0)
    assert bits(clone(net).fit(sp.csr_array(X), y), X) == bits(
        clone(net).fit(sp.csc_array(X), y), X
    )


# -- in the workers that there are -----------------------------------------------------------------


def _in_a_fork(target):
    """Return what target(connection) sends from a forked process."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=target, args=[theirs], daemon=True)
    child.start()
    try:
        assert ours.poll(60), "the child hangs"
        result = ours.recv()
        child.join(10)
        assert child.exitcode == 0
        return result
    finally:
        child.kill()


def _fit_in_child(connection):
    connection.send(fit("classifier", "batches"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_fork_after_a_fit_does_not_hang(n_threads, expected):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(n_threads)
        fit("classifier", "wide")
        if n_threads > 1:
            torch.rand(400, 400) @ torch.rand(400, 400)  # starts torch's threads
        assert _in_a_fork(_fit_in_child) == expected[ALL.index(("classifier", "batches"))]
    finally:
        torch.set_num_threads(before)


def _draw_in_child(connection):
    with seeded_torch(0):
        connection.send(torch.rand(()).item())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_while_torch_is_seeded_does_not_hang():
    inside, done = threading.Event(), threading.Event()

    def hold():
        with seeded_torch(0):
            inside.set()
            done.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    inside.wait()
    try:
        _in_a_fork(_draw_in_child)
    finally:
        done.set()
        holder.join()


def test_two_searches_at_once_in_threads(iris):
    X, y = iris

    def search(seed):
        net = TorchClassifier((5,), max_iter=5, random_state=seed)
        with joblib.parallel_config("torchsk"):
            return (
                GridSearchCV(net, {"alpha": [1e-4, 1e-2]}, cv=3)
                .fit(X, y)
                .cv_results_["mean_test_score"]
            )

    alone = [search(seed).tolist() for seed in range(2)]
    with ThreadPoolExecutor(2) as pool:
        together = [scores.tolist() for scores in pool.map(search, range(2))]
    assert together == alone


class Dropped(nn.Module):
    def __init__(self, n_features, n_outputs):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(n_features, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, n_outputs)
        )

    def forward(self, X):
        return self.layers(X)


def fit_module(seed):
    X, y = data("classifier")
    return TorchClassifier(module=Dropped, max_iter=4, random_state=seed).fit(X, y).predict_proba(X)


@pytest.mark.parametrize("backend", ["loky", "threading", "torchsk"])
def test_modules_in_workers(backend):
    alone = [fit_module(seed) for seed in range(3)]
    with joblib.parallel_config(backend, n_jobs=2 if backend != "torchsk" else 1):
        found = Parallel()(delayed(fit_module)(seed) for seed in range(3))
    for a, b in zip(alone, found):
        np.testing.assert_array_equal(a, b)


# -- one seed, another seed, a stream of them ------------------------------------------------------


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
        module=lambda n, k: nn.Sequential(Watch(0.5), nn.Linear(n, k)),
        batch_size=64,
        random_state=0,
    )
    reg.partial_fit(X, y).partial_fit(X, y)
    assert not torch.equal(*seen)
