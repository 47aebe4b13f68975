"""Long runs and large data: nothing grows, nothing stays behind, all that is parallel ends.

The full sizes, 10 million rows and 2 GB, are those of `TORCHSK_EXAMPLES=1 pytest -m slow`.
"""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV

from torchsk import TorchClassifier

psutil = pytest.importorskip("psutil")

MB = 2**20
LARGE = [
    pytest.mark.slow,
    pytest.mark.skipif("TORCHSK_EXAMPLES" not in os.environ, reason="TORCHSK_EXAMPLES is not set"),
]


def run(script, *arguments, timeout=500, **kwargs):
    """Run Python code in a process of its own and return what it prints last, from JSON."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
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

    doings = {"fits": (fits, 100), "modules": (modules, 100), "failures": (failures, 200),
              "predictions": (predictions, 20000), "partial_fit": (goes_on, 300),
              "searches": (searches, 20)}
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
        assert found["growth"] < 5 * MB, name
        assert found["threads"] <= 0, name
        assert found["files"] <= 0, name
        # partial_fit keeps one number more of each epoch, and no object
        assert found["objects"] < 1, name


# -- large data ------------------------------------------------------------------------------------

ROWS = """
    import json, resource, sys, warnings
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
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    proba = net.predict_proba(many)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    starts = range(0, n, max(1000, n // 20000 * 1000))
    same = all(np.array_equal(proba[s : s + 1000], few[: n - s]) for s in starts)
    print(json.dumps({"growth": after - before, "out": proba.nbytes, "same": bool(same)}))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no getrusage")
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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts shared pages")
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
    assert report["growth"] < size + min(500 * MB, 100 * MB + size // 4)
    assert report["score"] > 0.5


# -- Ctrl-C ----------------------------------------------------------------------------------------

INTERRUPTED = """
    import signal, json, os, sys, threading, time, warnings
    import joblib, numpy as np, psutil, torch
    from sklearn.model_selection import GridSearchCV
    import torchsk
    from torchsk import TorchClassifier, TorchRegressor

    what = sys.argv[1]
    rng = np.random.RandomState(0)
    X, y = rng.normal(size=(300, 5)), np.arange(300) % 2
    endless = {"max_iter": 10**9, "n_iter_no_change": np.inf, "tol": 0.0, "random_state": 0}

    def linear(n_features, n_outputs):
        return torch.nn.Linear(n_features, n_outputs)

    nets = {
        "sgd": TorchClassifier((5,), **endless),
        "early stopping": TorchClassifier((5,), early_stopping=True, **endless),
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

    if what == "module":
        TorchClassifier(module=linear, max_iter=1).fit(X, y)  # torch imports a lot at first

    def ready():
        time.sleep(0.5)
        print("ready", flush=True)

    threading.Thread(target=ready, daemon=True).start()
    report = {}
    if what in nets:
        net = nets[what].fit(X, y if what != "lbfgs" else X[:, 0] + rng.normal(size=300))
        report = {"n_iter": net.n_iter_, "finite": bool(np.isfinite(net.predict(X)).all())}
        if what != "lbfgs":
            net.partial_fit(X, y)
    else:
        backend, n_jobs = {"plain": ("sequential", 1), "torchsk": ("torchsk", 1),
                           "torchsk processes": ("torchsk", 2), "loky": ("loky", 2),
                           "threading": ("threading", 2)}[what]
        search = GridSearchCV(nets["sgd"], {"alpha": [1e-4, 1e-3]}, cv=2)
        try:
            with joblib.parallel_config(backend, n_jobs=n_jobs):
                search.fit(X, y)
        except KeyboardInterrupt:
            report = {"ended": True}
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    report["told"] = sum("interrupted by user" in message for message in told)
    me = psutil.Process()
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


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to a child")
@pytest.mark.parametrize(
    "what",
    ["sgd", "module", "lbfgs", "plain", "torchsk", "torchsk processes", "loky"],
)
def test_ctrl_c(what):
    code = textwrap.dedent(INTERRUPTED)
    process = subprocess.Popen(
        [sys.executable, "-c", code, what], text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(1.5 if what in ("loky", "torchsk processes") else 0.2)
        for _ in range(5 if what == "plain" else 1):  # four fits and a refit
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of its processes
            time.sleep(0.3)
        out, err = process.communicate(timeout=60)
        assert out, err
        report = json.loads(out.splitlines()[-1])
        if what in ("sgd", "early stopping", "module", "lbfgs"):
            assert report["told"] == 1, (report, err)
            assert report["n_iter"] > 0
            assert report["finite"]
        elif what == "plain":
            # as with MLPClassifier: each ends a fit with a warning, and the search goes on
            assert report.get("ended") or report["told"] >= 5, (report, err)
        else:
            assert report["ended"], (report, err)
        assert report["threads"] == []
        assert report["busy processes"] == 0
        assert process.returncode == 0
        assert not _left_of_group(process.pid)
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.communicate()


# -- in parallel -----------------------------------------------------------------------------------


def search(backend, n_jobs):
    X, y = load_iris(return_X_y=True)
    net = TorchClassifier((6,), max_iter=6, batch_size=32, random_state=0)
    grid = {"alpha": [1e-4, 1e-3], "learning_rate_init": [0.02, 0.05]}
    with joblib.parallel_config(backend, n_jobs=n_jobs):
        return GridSearchCV(net, grid, cv=3).fit(X, y)


@pytest.mark.parametrize(
    ("backend", "n_jobs"), [("loky", 2), ("threading", 2), ("torchsk", 1), ("torchsk", 2)]
)
def test_backends_agree(backend, n_jobs):
    plain, other = search("sequential", 1), search(backend, n_jobs)
    np.testing.assert_allclose(
        other.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"], atol=0.011
    )
    for ours, theirs in zip(other.best_estimator_.coefs_, plain.best_estimator_.coefs_):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


# -- on other machines -----------------------------------------------------------------------------


def page_blocks(page):
    """Return the python blocks of a page of docs."""
    blocks, inside = [], None
    for line in page.read_text().splitlines():
        if line.strip() == ".. code-block:: python":
            inside = []
            blocks.append(inside)
        elif inside is not None and (not line.strip() or line.startswith("   ")):
            inside.append(line)
        else:
            inside = None
    return [textwrap.dedent("\n".join(block)) for block in blocks]


COMPARED = """
assert len(client.scheduler_info()["workers"]) == 2
plain = GridSearchCV(TorchClassifier((30,), max_iter=20, random_state=0), grid, cv=3).fit(X, y)
scores = dict(zip(map(str, plain.cv_results_["params"]), plain.cv_results_["mean_test_score"]))
alone = [scores[str(params)] for params in search.cv_results_["params"]]
stacked = [abs(scores[str(params)] - score) for params, score in results]
print(json.dumps({
    "dask": abs(search.cv_results_["mean_test_score"] - alone).max(),
    "stacked": max(stacked), "n": len(stacked), "score": net.score(X, y),
}), flush=True)
"""


def test_the_page_about_dask(tmp_path):
    pytest.importorskip("distributed")
    *blocks, close = page_blocks(Path(__file__).parents[2] / "docs" / "distributed.rst")
    body = textwrap.indent("\n".join([*blocks, COMPARED, close]), "    ")
    script = tmp_path / "page.py"
    script.write_text(f"import json\n\nif __name__ == '__main__':\n{body}\n")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script], capture_output=True, text=True, timeout=300,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])
    assert report["n"] == 6
    assert report["dask"] == 0.0  # the same weights
    assert report["stacked"] < 0.005  # the same within rounding
    assert report["score"] > 0.95
