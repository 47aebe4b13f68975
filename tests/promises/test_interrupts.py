"""Ctrl-C keeps what is trained so far, or ends a search and all that works for it."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import skorch.callbacks as cbs
from torch import nn

from torchsk import TorchClassifier

psutil = pytest.importorskip("psutil")

INTERRUPTED = """
    import signal, json, os, sys, threading, time, warnings
    import joblib, numpy as np, psutil, torch
    from sklearn.base import clone
    from sklearn.model_selection import GridSearchCV
    import torchsk
    from torchsk import TorchClassifier, TorchRegressor

    rng = np.random.RandomState(0)
    X, y = rng.normal(size=(300, 5)), np.arange(300) % 2
    endless = {"max_iter": 10**9, "n_iter_no_change": np.inf, "tol": 0.0, "random_state": 0}

    def linear(n_features, n_outputs):
        return torch.nn.Linear(n_features, n_outputs)

    nets = {
        "sgd": TorchClassifier((5,), **endless),
        "module": TorchClassifier(module=linear, **endless),
        # a tolerance and a loss without a minimum: it never ends
        "lbfgs": TorchRegressor(
            "gaussian", (50, 50), solver="lbfgs", max_fun=10**9, alpha=0.0, activation="tanh",
            **(endless | {"tol": 0.0}),
        ),
    }
    told = []
    warnings.simplefilter("always")
    warnings.showwarning = lambda message, *args, **kwargs: told.append(str(message))

    TorchClassifier(module=linear, max_iter=1).fit(X, y)  # torch imports a lot at first

    def ready():
        time.sleep(0.5)
        print("ready", flush=True)

    def stream_into(name):
        net = clone(nets[name]).set_params(batch_size=1)
        while True:  # each takes some seconds
            net.partial_fit(np.tile(X, (200, 1)), np.tile(y, 200), classes=[0, 1])

    def search_over(name):
        target = X[:, 0] + rng.normal(size=300) if name == "lbfgs" else y
        GridSearchCV(nets[name], {"alpha": [1e-4]}, cv=3, refit=False).fit(X, target)

    def fit(what):
        if what.startswith(("search ", "stream ")):
            around, name = what.split()
            try:
                {"search": search_over, "stream": stream_into}[around](name)
            except KeyboardInterrupt:
                return {"ended": True}
            return {"ended": False}
        if what in nets:
            net = nets[what].fit(X, y if what != "lbfgs" else X[:, 0] + rng.normal(size=300))
            report = {"n_iter": net.n_iter_, "finite": bool(np.isfinite(net.predict(X)).all())}
            if what != "lbfgs":
                net.partial_fit(X, y)
            return report
        backend, n_jobs = {"torchsk": ("torchsk", 1), "torchsk processes": ("torchsk", 2),
                           "loky": ("loky", 2)}[what]
        search = GridSearchCV(nets["sgd"], {"alpha": [1e-4, 1e-3]}, cv=2)
        try:
            with joblib.parallel_config(backend, n_jobs=n_jobs):
                search.fit(X, y)
        except KeyboardInterrupt:
            left = [t.name for t in threading.enumerate() if t.name.startswith("torchsk")]
            return {"ended": True, "threads then": left}
        return {}

    me = psutil.Process()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin:
        told.clear()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        threading.Thread(target=ready, daemon=True).start()
        report = fit(line.strip())
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        report["told"] = sum("interrupted by user" in message for message in told)
        for _ in range(100):
            left = [t.name for t in threading.enumerate() if t.name.startswith("torchsk")]
            others = [p for p in me.children(recursive=True) if p.status() != "zombie"]
            busy = [p for p in others if p.cpu_percent(0.05) > 20]
            if not left and not busy:
                break
            time.sleep(0.05)
        report["threads"], report["busy processes"] = left, len(busy)
        print(json.dumps(report), flush=True)
"""


def _left_of_group(group):
    """Return the processes of a process group that are there after some seconds."""
    for _ in range(50):
        left = []
        for process in psutil.process_iter():
            try:
                if os.getpgid(process.pid) == group and process.status() != "zombie":
                    left.append(process.cmdline())
            except (ProcessLookupError, psutil.NoSuchProcess):
                continue
        if not left:
            break
        time.sleep(0.2)
    return left


@pytest.fixture(scope="module")
def fitting_process():
    """A process that fits what it reads from its input, and is interrupted; one for all tests."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(INTERRUPTED)], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
        process.stdin.close()
        assert process.wait(60) == 0
        assert not _left_of_group(process.pid)
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
        process.stdout.close()


signals = pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to a child")


def _interrupt(process, what, *pauses):
    """Have a process do something, interrupt it after each pause; return what it reports."""
    print(what, file=process.stdin, flush=True)
    assert process.stdout.readline() == "ready\n"
    for pause in pauses:
        time.sleep(pause)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of its processes
    report = json.loads(process.stdout.readline())
    assert report["threads"] == []
    assert report["busy processes"] == 0
    return report


@signals
@pytest.mark.usefixtures("no_deadlock")
@pytest.mark.parametrize("what", ["sgd", "module", "lbfgs"])
def test_ctrl_c_ends_a_fit(what, fitting_process):
    time.sleep(2)  # else it might be a second one
    report = _interrupt(fitting_process, what, 0.2)
    assert report["told"] == 1, report
    assert report["n_iter"] > 0
    assert report["finite"]


@signals
@pytest.mark.usefixtures("no_deadlock")
@pytest.mark.parametrize("what", ["torchsk", "torchsk processes", "loky"])
def test_ctrl_c_ends_a_search_that_trains_in_stacks_or_processes(what, fitting_process):
    report = _interrupt(fitting_process, what, 0.2 if what == "torchsk" else 1.5)
    assert report["ended"], report
    if what == "torchsk":
        assert report["threads then"] == []  # nothing is left to end later


@signals
@pytest.mark.usefixtures("no_deadlock")
@pytest.mark.parametrize("net", ["sgd", "lbfgs"])
def test_one_ctrl_c_ends_one_fit_of_a_plain_search_and_a_second_the_search(net, fitting_process):
    # as with MLPClassifier: each of the first two ends a fit with a warning, and the search goes on
    report = _interrupt(fitting_process, f"search {net}", 2.1, 2.3, 0.5)
    assert report["told"] == 2
    assert report["ended"]


@signals
@pytest.mark.usefixtures("no_deadlock")
@pytest.mark.parametrize("net", ["module"])
def test_a_second_ctrl_c_ends_a_loop_of_partial_fits(net, fitting_process):
    report = _interrupt(fitting_process, f"stream {net}", 2.1, 0.5)
    assert report["told"] == 1
    assert report["ended"]


def test_ctrl_c_keeps_the_model(iris, forget_ctrl_c):
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
        forget_ctrl_c()
        clf = TorchClassifier(**change, max_iter=50, batch_size=150, random_state=0)
        with pytest.warns(UserWarning, match="Training interrupted by user"):
            clf.fit(*iris)
        assert clf.n_iter_ == n_recorded
        assert clf.predict(iris[0]).shape == (150,)
