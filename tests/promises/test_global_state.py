"""A fit borrows nothing that it does not give back, and two at once do not meet."""

import contextlib
import random
import signal
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import torch
from networks import Classifier, mlp
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from torch import nn

from torchsk import TorchClassifier, TorchRegressor
from torchsk._runtime import one_thread


def global_state():
    """All that a fit could leave changed, comparable by ==."""
    return {
        "torch random state": torch.random.get_rng_state().tolist(),
        "numpy random state": [np.asarray(part).tolist() for part in np.random.get_state()],  # noqa: NPY002
        "python random state": random.getstate(),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "threads of torch": torch.get_num_threads(),
        "autograd": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "anomaly detection": torch.is_anomaly_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "tf32": (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "flush denormal": float(torch.tensor(1e-40) + 0),
        "numpy errors": np.geterr(),
        "numpy print": {k: str(v) for k, v in np.get_printoptions().items()},
        "torch print": torch.tensor([1 / 3]).__repr__(),
        "warning filters": list(warnings.filters),
        "warning hook": warnings.showwarning,
        "ctrl-c": signal.getsignal(signal.SIGINT),
        "streams": (sys.stdout, sys.stderr),
        "excepthook": (sys.excepthook, threading.excepthook),
    }


def module(n_features, n_outputs):
    return nn.Sequential(nn.Linear(n_features, 4), nn.Dropout(0.5), nn.Linear(4, n_outputs))


def fail(*_):
    raise RuntimeError("on purpose")


KINDS = {
    "plain": {},
    "dropout": {"dropout": 0.3},
    "init of torch": {"init": nn.init.normal_, "early_stopping": True},
    "activation of torch": {"activation": nn.RReLU, "loss": "focal"},
    "lbfgs": {"solver": "lbfgs"},
    "module": {"module": module},
    "optimizer of torch": {"solver": torch.optim.Adadelta},
}
ERRORS = {
    "error in init": {"init": fail},
    "error in a scorer": {"scoring": fail, "early_stopping": True},
    "error in a schedule": {"learning_rate": fail},
    "error in a module": {"module": fail},
    "error in a loss": {"loss": fail},
    "error in a callback": {"skorch_callbacks": [fail]},
    "divergence": {"learning_rate_init": 1e30, "max_grad_norm": None, "activation": "identity"},
    "divergence of a module": {
        "module": module, "learning_rate_init": 1e30, "max_grad_norm": None,
    },
}  # fmt: skip


@pytest.fixture
def unusual_state():
    """A state in which a reset to some default would be seen."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.manual_seed(123), np.random.seed(124), random.seed(125)  # noqa: NPY002
    torch.rand(3), np.random.normal(), random.gauss(0, 1)  # noqa: NPY002
    nn.utils.skip_init(nn.Linear, 1, 1)  # imports sympy, which adds a warning filter, once
    torch.set_num_threads(2)
    torch.set_float32_matmul_precision("medium")
    try:
        with warnings.catch_warnings(), np.errstate(under="warn", over="raise"):
            warnings.filterwarnings("ignore", message="nobody says this")
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


@contextlib.contextmanager
def _nothing():
    yield


MODES = {
    "as usual": _nothing,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "float64": lambda: _default_dtype(torch.float64),
}


@contextlib.contextmanager
def _default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_changed(kind, mode, iris, unusual_state):
    X, y = iris
    net = TorchClassifier((4,), max_iter=2, random_state=0, **KINDS[kind])
    with MODES[mode]():
        before = global_state()
        net.fit(X, y)
        assert global_state() == before
        net.predict_proba(X), net.coefs_ if "module" not in KINDS[kind] else None, net.module_
        assert global_state() == before
        if net.solver != "lbfgs":
            net.partial_fit(X, y)
            assert global_state() == before


@pytest.mark.parametrize("kind", ERRORS)
def test_nothing_is_left_changed_by_an_error(kind, iris, unusual_state):
    X, y = iris
    net = TorchClassifier((4,), max_iter=2, random_state=0, **ERRORS[kind])
    before = global_state()
    with pytest.raises((ValueError, RuntimeError)):
        net.fit(X * 1e6, y)
    assert global_state() == before
    with contextlib.suppress(ValueError, RuntimeError):  # one epoch may not see the fault
        net.partial_fit(X * 1e6, y, classes=[0, 1, 2])
    assert global_state() == before


@pytest.mark.parametrize("kind", [*KINDS, *ERRORS])
@pytest.mark.parametrize("backend", ["torchsk", "threading"])
def test_a_search_leaves_nothing_changed(backend, kind, iris, unusual_state):
    X, y = iris
    net = TorchClassifier((4,), max_iter=2, random_state=0, **(KINDS | ERRORS)[kind])
    before, threads = global_state(), threading.active_count()
    with joblib.parallel_config(backend), contextlib.suppress(ValueError, RuntimeError):
        GridSearchCV(net, {"alpha": [1e-4, 1e-3]}, cv=2, error_score=np.nan).fit(X, y)
    after = global_state()
    if backend == "threading" and sys.version_info < (3, 14):
        for state in (before, after):  # scikit-learn sets them in its threads, not torchsk
            del state["warning filters"], state["warning hook"]
    assert after == before
    assert threading.active_count() == threads


def test_the_regressor_leaves_nothing_changed(diabetes, unusual_state):
    before = global_state()
    net = TorchRegressor("gaussian", (4,), max_iter=2, random_state=0).fit(*diabetes)
    net.predict(diabetes[0], return_std=True)
    assert global_state() == before


# -- two at once -----------------------------------------------------------------------------------


ALONE = {
    "plain": TorchClassifier((8,), max_iter=20, random_state=0),
    "batches": TorchClassifier((8,), batch_size=7, solver="adam", max_iter=10, random_state=1),
    "dropout": TorchClassifier((8, 8), dropout=0.4, max_iter=20, random_state=2),
    "stopping": TorchClassifier((8,), early_stopping=True, max_iter=20, random_state=3),
    "init": TorchClassifier((8,), init=nn.init.normal_, dropout=0.2, max_iter=20, random_state=4),
    "lbfgs": TorchClassifier((8,), solver="lbfgs", max_iter=20, random_state=5),
    "autograd": TorchClassifier((8,), activation=nn.CELU, loss="focal", max_iter=9, random_state=6),
    "wide": TorchClassifier((600,), batch_size=150, max_iter=3, random_state=7),
}


def test_fits_in_two_threads_are_what_they_are_alone(iris):
    X, y = iris

    def weights(net):
        net = TorchClassifier(**net.get_params()).fit(X, y)
        return [*net.coefs_, *net.intercepts_, net.predict_proba(X)]

    nets = [*ALONE.values()] * 2
    alone = [weights(net) for net in nets]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(weights, nets))
    for one, other in zip(alone, together):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_each_thread_gets_its_number_of_threads_back(unusual_state):
    # in torch each Python thread has its own; what the other does must not matter
    assert torch.get_num_threads() == 2
    found = {}

    def other(name, started, leave):
        torch.rand(10).sum()
        with one_thread():
            started.set()
            leave.wait(10)
            found[f"{name} inside"] = torch.get_num_threads()
        found[name] = torch.get_num_threads()

    events = [(threading.Event(), threading.Event()) for _ in range(2)]
    others = [threading.Thread(target=other, args=[i, *pair]) for i, pair in enumerate(events)]
    others[0].start()
    events[0][0].wait(10)
    with one_thread():
        others[1].start()  # takes over the 1 of this thread at its first operation
        events[1][0].wait(10)
        with one_thread():
            pass
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    for (_, leave), thread in zip(events, others):
        leave.set()
        thread.join()
    assert found == {"0 inside": 1, "1 inside": 1, 0: 2, 1: 2}
    assert torch.get_num_threads() == 2
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 2


@pytest.mark.parametrize(
    "params",
    [
        {"batch_size": 30},
        {"solver": "lbfgs"},
        {"early_stopping": True, "dropout": 0.2},
        {"init": "kaiming_normal"},
        {"loss": nn.functional.cross_entropy},
        {"solver": torch.optim.Adam},
    ],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_default_device_does_not_matter(params, iris):
    X, y = iris
    net = TorchClassifier((4,), max_iter=2, random_state=0, **params)
    expected = net.fit(X, y).predict_proba(X)
    with torch.device("meta"):
        np.testing.assert_array_equal(net.fit(X, y).predict_proba(X), expected)


# -- what a user's code finds ----------------------------------------------------------------------


def differentiate(*_args, **_kwargs):
    """Use autograd, as a user's code may; return the derivative, a number."""
    assert not torch.is_inference_mode_enabled()
    x = torch.full((), 3.0, requires_grad=True)
    with torch.enable_grad():
        (x**2).backward()
    return float(x.grad)


class Differentiates(nn.Module):
    def forward(self, z):
        differentiate()
        assert not z.is_inference()
        return z.tanh()


def loss_that_differentiates(raw, target):
    differentiate()
    assert not raw.is_inference() and not target.is_inference()
    return nn.functional.cross_entropy(raw, target.squeeze(-1), reduction="none")


class CallbackThatDifferentiates:
    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        differentiate()

    def on_fit_task_end(self, estimator, context, *, X=None, fitted_estimator=None):
        if X is not None:
            differentiate()
            module = fitted_estimator.module_  # trained here without further ado
            module(torch.from_numpy(X.astype(np.float32))).sum().backward()
            assert all(parameter.grad is not None for parameter in module.parameters())


def score_that_trains(estimator, X, y):
    differentiate()
    assert torch.is_grad_enabled()
    return TorchClassifier((2,), max_iter=1).fit(X, y).score(X, y)


USERS = {
    "scorer": {"scoring": score_that_trains, "early_stopping": True},
    "schedule": {"learning_rate": lambda epoch: differentiate() / 6},
    "activation": {"activation": Differentiates},
    "loss": {"loss": loss_that_differentiates},
    "callback": {},
}


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("user", USERS)
def test_a_users_code_may_use_autograd(user, solver, stacked, iris):
    net = TorchClassifier((4,), max_iter=3, solver=solver, random_state=0, **USERS[user])
    if user == "callback":
        net.set_callbacks(CallbackThatDifferentiates())
    if stacked:
        search = GridSearchCV(net, {"alpha": [0.0, 1.0]}, cv=2, error_score="raise")
        with joblib.parallel_config("torchsk"):
            search.fit(*iris)
    else:
        net.fit(*iris)


# -- what others have set does not matter ----------------------------------------------------------


@pytest.mark.parametrize("params", [{"dropout": 0.3}, {"solver": "lbfgs"}, {"activation": nn.CELU}])
def test_global_state_does_not_matter(params, iris):
    X, y = iris
    estimator = Classifier(max_iter=10, early_stopping=True, **params)
    expected = clone(estimator).fit(X, y).predict_proba(X)
    torch.set_default_dtype(torch.float64)
    try:
        result = clone(estimator).fit(X, y).predict_proba(X)
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_array_equal(result, expected)
    for mode in (torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu")):
        with mode():
            result = clone(estimator).fit(X, y).predict_proba(X)
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(("kind", "params"), [
    (np.asarray, {"solver": "lbfgs"}), (np.asarray, {"numerical_embedding": "periodic"}),
    (csr_array, {"solver": "adam"}), (csr_array, {"solver": "lbfgs"}),
], ids=["dense", "embedded", "sparse", "sparse-lbfgs"])  # fmt: skip
def test_autocast_does_not_round_the_built_in_network(kind, params, iris):
    X, y = iris[0].astype(np.float32), iris[1]
    rows = kind(np.hstack([X, np.zeros((len(X), 600), np.float32)]))
    estimator = Classifier(max_iter=3, standardize=False, **params)
    expected = clone(estimator).fit(rows, y).predict_proba(rows)
    with torch.autocast("cpu"):
        np.testing.assert_array_equal(estimator.fit(rows, y).predict_proba(rows), expected)


def test_default_dtype_of_the_user_is_not_that_of_training(iris):
    torch.set_default_dtype(torch.float64)
    try:
        clf = TorchClassifier(module=mlp, max_iter=2).fit(*iris)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert clf.module_[0].weight.dtype == torch.float32
