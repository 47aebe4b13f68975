"""Long runs and large data: nothing grows, nothing stays behind, all that is parallel ends.

The full sizes, 10 million rows and 2 GB, are those of `TORCHSK_EXAMPLES=1 pytest -m slow`.
"""

import gc
import json
import os
import subprocess
import sys
import textwrap

import joblib
import numpy as np
import pytest
import torch
from sklearn.model_selection import cross_validate

from torchsk import TorchClassifier
from torchsk._rows import DenseRows, Examples

psutil = pytest.importorskip("psutil")

MB = 2**20
LARGE = [
    pytest.mark.slow,
    pytest.mark.skipif("TORCHSK_EXAMPLES" not in os.environ, reason="TORCHSK_EXAMPLES is not set"),
]


# getrusage would not do: its peak begins with that of the process that has started this one
MEMORY = """
    def memory(name):  # bytes: now (VmRSS) or at most so far (VmHWM)
        lines = open("/proc/self/status").read().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))
"""
on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def run(script, *arguments, timeout=500, **kwargs):
    """Run Python code in a process of its own and return what it prints last, from JSON."""
    script = textwrap.dedent(MEMORY) + textwrap.dedent(script)
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True, text=True, timeout=timeout, **kwargs,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


# -- many fits, many predictions -------------------------------------------------------------------


MANY = """
    import gc, json, sys, threading, warnings
    import joblib, numpy as np, psutil, torch
    from sklearn.datasets import load_iris
    from sklearn.model_selection import GridSearchCV
    from torchsk import TorchClassifier, TorchRegressor

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    X, y = load_iris(return_X_y=True)
    process = psutil.Process()

    def linear(n_features, n_outputs):
        return torch.nn.Linear(n_features, n_outputs)

    def fits(n):
        for i in range(n):
            TorchClassifier((20,), max_iter=5, random_state=i, early_stopping=i % 2 > 0).fit(X, y)
            TorchRegressor(hidden_layer_sizes=(20,), max_iter=5, solver="adam").fit(X, y)

    def modules(n):
        for i in range(n):
            TorchClassifier(module=linear, max_iter=3, random_state=i).fit(X, y)

    def failures(n):
        for i in range(n):
            try:
                TorchClassifier(learning_rate_init=1e30, max_grad_norm=None).fit(X, y, -X[:, 0])
            except ValueError:
                pass

    net = TorchClassifier((20,), max_iter=5).fit(X, y)
    row = X[:1].copy()

    def predictions(n):
        for i in range(n):
            net.predict_proba(row)

    def goes_on(n):
        for i in range(n):
            net.partial_fit(X, y)

    def searches(n):
        for i in range(n):
            with joblib.parallel_config("torchsk"):
                small = TorchClassifier((4,), max_iter=3)
                GridSearchCV(small, {"alpha": [1e-4, 1e-3]}, cv=3).fit(X, y)

    doings = {"fits": (fits, 50), "modules": (modules, 40), "failures": (failures, 100),
              "predictions": (predictions, 10000), "partial_fit": (goes_on, 150),
              "searches": (searches, 10)}
    report = {}
    for name, (doing, n) in doings.items():
        doing(max(5, n // 4))
        gc.collect()
        before, threads = process.memory_info().rss, process.num_threads()
        files, objects = process.num_fds(), len(gc.get_objects())
        doing(n)
        gc.collect()
        report[name] = {
            "growth": process.memory_info().rss - before,
            "threads": process.num_threads() - threads,
            "files": process.num_fds() - files,
            "objects": (len(gc.get_objects()) - objects) / n,
        }
    print(json.dumps(report))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="counts file descriptors")
def test_nothing_grows():
    report = run(MANY)
    print(report)
    for name, found in report.items():
        assert found["growth"] < 4 * MB, name
        assert found["threads"] <= 0, name
        assert found["files"] <= 0, name
        # partial_fit keeps one number more of each epoch, and no object
        assert found["objects"] < 1, name


# -- large data ------------------------------------------------------------------------------------


ROWS = """
    import json, sys, warnings
    import numpy as np, torch
    from torchsk import TorchClassifier

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    n = int(sys.argv[1])
    rng = np.random.RandomState(0)
    X = rng.normal(size=(1000, 20)).astype(np.float32)
    net = TorchClassifier((32,), max_iter=3, random_state=0).fit(X, X[:, 0] > 0)
    many = np.zeros((n, 20), dtype=np.float32)
    for start in range(0, n, 1000):
        many[start : start + 1000] = X[: n - start]
    few = net.predict_proba(X)
    net.predict_proba(many[:100_000])
    before = memory("VmRSS")
    proba = net.predict_proba(many)
    after = memory("VmHWM")
    starts = range(0, n, max(1000, n // 20000 * 1000))
    same = all(np.allclose(proba[s : s + 1000], few[: n - s], rtol=1e-6) for s in starts)
    print(json.dumps({"growth": after - before, "out": proba.nbytes, "same": bool(same)}))
"""


@on_linux
@pytest.mark.parametrize("n_rows", [500_000, pytest.param(10_000_000, marks=LARGE)])
def test_predict_works_in_chunks(n_rows):
    report = run(ROWS, n_rows)
    print(report)
    assert report["same"]
    # the answer, its parts before they are joined, and the few numbers per row between raw
    # output and answer: not the inputs in float64, nor the hidden layer
    assert report["growth"] < 5 * report["out"] + 60 * MB


MAPPED = """
    import json, os, sys, threading, warnings
    import numpy as np, psutil, torch
    from torchsk import TorchRegressor

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    path, n = sys.argv[1], int(sys.argv[2])
    X = np.memmap(path, dtype=np.float32, mode="r", shape=(n, 50))
    y = np.zeros(n, dtype=np.float32)
    for start in range(0, n, 100_000):
        y[start : start + 100_000] = X[start : start + 100_000, 0]
    net = TorchRegressor(hidden_layer_sizes=(8,), batch_size=5000, max_iter=1, random_state=0)
    net.fit(X[:20_000], y[:20_000])
    process, peak, done = psutil.Process(), 0, False

    def anonymous():  # pages of the file can be dropped at any time: they are not ours
        info = process.memory_info()
        return info.rss - getattr(info, "shared", 0)

    def watch():
        global peak
        while not done:
            peak = max(peak, anonymous())
            wait.wait(0.005)

    wait = threading.Event()
    before = anonymous()
    watcher = threading.Thread(target=watch)
    watcher.start()
    net.fit(X, y)
    done = True
    watcher.join()
    print(json.dumps({"growth": peak - before, "score": net.score(X[:1000], y[:1000])}))
"""


@on_linux
@pytest.mark.parametrize("size", [200 * MB, pytest.param(2000 * MB, marks=LARGE)])
def test_a_memory_map_is_held_once_in_float32(size, tmp_path):
    if psutil.disk_usage(tmp_path).free < 3 * size or psutil.virtual_memory().available < 3 * size:
        pytest.skip("no room")
    n_rows, path = size // 200, tmp_path / "X.bin"
    rng = np.random.RandomState(0)
    try:
        with path.open("wb") as file:
            part = rng.normal(size=(n_rows // 20, 50)).astype(np.float32)
            for _ in range(20):
                part.tofile(file)
        report = run(MAPPED, path, n_rows // 20 * 20)
    finally:
        path.unlink(missing_ok=True)
    print(report)
    # beside the rows in float32: what is looked at at a time, and the targets and their order
    assert report["growth"] < size + 40 * MB + size // 5
    assert report["score"] > 0.5


IMAGES = """
    import json, sys, warnings
    import numpy as np, torch
    from torch import nn
    from torchsk import TorchClassifier

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    def small(n_outputs):
        convolution = nn.Conv2d(1, 4, 3, stride=2)
        return nn.Sequential(nn.Flatten(0, 0), convolution, nn.Flatten(), nn.LazyLinear(n_outputs))

    n = int(sys.argv[1])
    rng = np.random.RandomState(0)
    y = rng.randint(0, 10, n)
    X = rng.randint(0, 256, (n, 1, 28, 28), dtype=np.uint8)
    net = TorchClassifier(module=small, max_iter=1, batch_size=200, learning_rate_init=1e-4)
    net.fit(X[:4000], y[:4000]).predict_proba(X[:4000])
    start = memory("VmHWM")
    net.predict_proba(X)
    predicted = memory("VmHWM")
    net.fit(X, y)
    fitted = memory("VmHWM")
    print(json.dumps({"predict": predicted - start, "fit": fitted - start, "copy": 4 * X.size}))
"""


@on_linux
@pytest.mark.parametrize("n_rows", [20_000, pytest.param(60_000, marks=LARGE)])
def test_images_are_held_once_in_float32(n_rows):
    report = run(IMAGES, n_rows)
    print(report)
    assert report["fit"] < 1.2 * report["copy"]
    # ten probabilities in float64, a few times, and a chunk
    assert report["predict"] < 0.1 * report["copy"] + 20 * MB


LBFGS = """
    import json, sys, warnings
    import numpy as np, torch
    from torchsk import TorchRegressor

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    X = np.random.RandomState(0).normal(size=(int(sys.argv[1]), 2))
    net = TorchRegressor(hidden_layer_sizes=500, solver="lbfgs", max_iter=2, random_state=0)
    net.fit(X[:1000], X[:1000, 0])
    before = memory("VmRSS")
    net.fit(X, X[:, 0])
    print(json.dumps(memory("VmHWM") - before))
"""


@on_linux
@pytest.mark.parametrize("n_rows", [150_000])
def test_the_memory_of_lbfgs_is_bounded_by_the_widest_layer(n_rows):
    assert run(LBFGS, n_rows) < 160 * MB


SPARSE = """
    import json, sys, warnings
    import numpy as np, scipy.sparse as sp, torch
    from torchsk import TorchClassifier

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    n, d = 2000, 100_000
    index = np.random.RandomState(0).randint(d, size=(n, 10))
    X = sp.csr_array((np.ones(index.size), index.ravel(), np.arange(0, index.size + 1, 10)), (n, d))
    y = index[:, 0] % 2

    nets = [
        TorchClassifier((5,), max_iter=2, early_stopping=True, batch_size=200),
        TorchClassifier((5,), solver="lbfgs", max_iter=2),
    ]
    for net in nets:
        net.fit(X[:50, :50], y[:50]).predict(X[:50, :50])
    before, growth = memory("VmRSS"), []
    for net in nets:
        net.fit(X, y).predict(X)
        growth.append(memory("VmHWM") - before)
    print(json.dumps(growth))
"""


@on_linux
def test_the_memory_of_sparse_rows_is_bounded_by_entries_and_weights():
    by_steps, by_lbfgs = run(SPARSE)
    # the weights fill 2 MB in float32, a dense batch would fill 80 MB, all rows 800 MB
    assert by_steps < 60 * MB
    # 20 vectors of float64 tell the curvature
    assert by_lbfgs < 180 * MB


# -- nothing holds the rows ------------------------------------------------------------------------


KEPT = DenseRows | Examples


def _linear(n_features, n_outputs):
    return torch.nn.Linear(n_features, n_outputs)


def _fit_alone(net, X, y):
    net.fit(X, y)


def _fit_in_stack(net, X, y):
    with joblib.parallel_config("torchsk"):
        cross_validate(net, X, y, cv=2)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fit", [_fit_alone, _fit_in_stack])
@pytest.mark.parametrize(
    "params",
    [
        {}, {"early_stopping": True}, {"solver": "lbfgs"}, {"solver": "adam"}, {"module": _linear},
        {"module": _linear, "early_stopping": True},
        {"scoring": "accuracy", "early_stopping": True},
    ],
    ids=lambda params: "-".join(params) or "default",
)  # fmt: skip
def test_the_rows_of_a_fit_go_when_it_ends(params, fit, iris):
    """No object of a fit holds itself: many fits in a row hold the rows of one."""
    net = TorchClassifier((4,), max_iter=3, random_state=0, **params)
    left = None
    for _ in range(2):  # what is imported on use, and kept, comes with the first
        gc.collect()
        gc.disable()
        try:
            fit(net, *iris)
            left = [type(o).__name__ for o in gc.get_objects() if isinstance(o, KEPT)]
        finally:
            gc.enable()
    assert left == []
