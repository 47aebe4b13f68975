"""What every test file shares: one thread, no window, and small data sets loaded once."""

import math
import os
import signal
import time

import matplotlib
import numpy as np
import pytest
import simulated_device
import torch
from networks import SECONDS_BEFORE_DEADLOCK, Classifier, Regressor, threads_of_torchsk
from sklearn import datasets
from sklearn.model_selection import train_test_split

from torchsk._training import Run

matplotlib.use("Agg")
# A parent may ignore it, as shells do for what runs in the background; children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # more threads cost more than they give at these sizes
if os.environ.get("TORCHSK_DEVICE") == simulated_device.NAME:
    simulated_device.install()


def pytest_ignore_collect(collection_path, config):
    """Import no file without a test of devices where only those are asked for."""
    if config.option.markexpr == "device" and collection_path.suffix == ".py":
        return "mark.device" not in collection_path.read_text() or None
    return None


def pytest_collection_modifyitems(items):
    """Skip tests that need an accelerator where there is none."""
    if torch.accelerator.is_available():
        return
    skip = pytest.mark.skip(reason="no accelerator here")
    for item in items:
        if item.get_closest_marker("device"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def device():
    """The name of the first accelerator."""
    return torch.accelerator.current_accelerator().type


def _read_only(X, y):
    """(X, y) that no test can change for the others."""
    X, y = np.asarray(X), np.asarray(y)
    X.flags.writeable = y.flags.writeable = False
    return X, y


@pytest.fixture(scope="session")
def iris():
    """150 x 4, three classes."""
    return _read_only(*datasets.load_iris(return_X_y=True))


@pytest.fixture(scope="session")
def wine():
    """178 x 13, three classes, features of very different scales."""
    return _read_only(*datasets.load_wine(return_X_y=True))


@pytest.fixture(scope="session")
def breast_cancer():
    """569 x 30, two classes."""
    return _read_only(*datasets.load_breast_cancer(return_X_y=True))


@pytest.fixture(scope="session")
def digits():
    """The first 500 of the 1797 digits: 500 x 64, ten classes."""
    X, y = datasets.load_digits(return_X_y=True)
    return _read_only(X[:500], y[:500])


@pytest.fixture(scope="session")
def diabetes():
    """442 x 10, one target between 25 and 346."""
    return _read_only(*datasets.load_diabetes(return_X_y=True))


@pytest.fixture(scope="session")
def friedman1():
    """200 x 10, a smooth nonlinear target of the first five features."""
    return _read_only(*datasets.make_friedman1(200, noise=0.5, random_state=0))


@pytest.fixture(scope="session")
def clf(iris):
    """A fitted classifier: do not change."""
    return Classifier().fit(*iris)


@pytest.fixture(scope="session")
def reg(diabetes):
    """A fitted regressor: do not change."""
    return Regressor().fit(*diabetes)


@pytest.fixture(scope="session")
def halves(breast_cancer):
    """X, y, X_val, y_val."""
    X, X_val, y, y_val = train_test_split(*breast_cancer, test_size=0.4, random_state=0)
    return X, y, X_val, y_val


@pytest.fixture
def no_deadlock():
    """Interrupt a test that hangs, where the platform can."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def fail(signum, frame):
        raise TimeoutError("deadlock?")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(SECONDS_BEFORE_DEADLOCK)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def forget_ctrl_c(monkeypatch):
    """Function after which no Ctrl-C counts as the second of two."""
    return lambda: monkeypatch.setattr(Run, "_last_interrupt", -math.inf)


@pytest.fixture
def no_thread_left():
    """No test leaves one of the backend's threads behind."""
    yield
    deadline = time.monotonic() + 5
    while threads_of_torchsk() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not threads_of_torchsk()
