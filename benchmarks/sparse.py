"""Sparse X: an epoch, a prediction and the memory of both, torchsk against MLPClassifier.

Times are MLPClassifier's divided by torchsk's, one thread. An epoch is the difference between a
long and a short fit. Memory is what a fit and a prediction take beside X, in a fresh process.
"""

import multiprocessing
import warnings
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import scipy.sparse as sp
import torch
from _harness import interleave, kilobytes, machine, parse_arguments, print_table, save
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from torchsk import TorchClassifier

# the same work for both sides, whatever their defaults are
SAME = {"alpha": 0.0001, "learning_rate": "constant", "batch_size": 200}
OURS = {"dropout": 0.0, "scoring": None, "standardize": False, "max_grad_norm": None}
SOLVERS = {"adam": 0.001, "sgd": 0.01}
# name: (n_samples, n_features, entries per row, units of the hidden layer)
CASES = {
    "5000x30000, 80 entries a row (50)": (5000, 30000, 80, 50),
    "5000x100000, 80 entries a row (50)": (5000, 100_000, 80, 50),
    "5000x1000, 20 entries a row (100)": (5000, 1000, 20, 100),
    "2000x200, 8 entries a row (100)": (2000, 200, 8, 100),
}
SHORT, LONG = 1, 3


def draw(name):
    """Return (X, y): positive entries in random columns, and which half of them weighs more."""
    n, d, k, _ = CASES[name]
    rng = np.random.default_rng(0)
    columns, pointer = rng.integers(d, size=n * k), np.arange(0, n * k + 1, k)
    X = sp.csr_matrix((rng.random(n * k), columns, pointer), shape=(n, d))
    X.sum_duplicates()
    sums = [np.asarray(half.sum(axis=1)).ravel() for half in (X[:, : d // 2], X[:, d // 2 :])]
    return X, (sums[0] > sums[1]).astype(int)


def measure(name, n_runs):
    """Return (what, seconds per competitor) for epochs and predictions of a case."""
    X, y = draw(name)
    hidden = {"hidden_layer_sizes": CASES[name][3], "random_state": 0, "n_iter_no_change": 100}
    pairs = {
        solver: (
            TorchClassifier(**hidden, **SAME, **OURS, solver=solver, learning_rate_init=rate),
            MLPClassifier(**hidden, **SAME, solver=solver, learning_rate_init=rate),
        )
        for solver, rate in SOLVERS.items()
    }
    pairs["defaults"] = TorchClassifier(**hidden), MLPClassifier(**hidden)
    for what, pair in pairs.items():
        fits = {
            (side, n): lambda net=net, n=n: net.set_params(max_iter=n).fit(X, y)
            for side, net in zip(("torchsk", "scikit-learn"), pair)
            for n in (SHORT, LONG)
        }
        seconds = interleave(fits, n_runs)
        yield (
            f"epoch, {what}",
            {
                side: (seconds[side, LONG] - seconds[side, SHORT]) / (LONG - SHORT)
                for side in ("torchsk", "scikit-learn")
            },
        )
    ours, theirs = pairs["defaults"]
    for dtype in (np.float64, np.float32):
        rows = X.astype(dtype)
        ours.fit(rows, y)
        theirs.fit(rows, y)
        functions = {
            "torchsk": lambda rows=rows: ours.predict(rows),
            "scikit-learn": lambda rows=rows: theirs.predict(rows),
        }
        yield f"predict, {np.dtype(dtype).name}", interleave(functions, 5 * n_runs)


def peak(name, side):
    """Return the bytes that a fit and a prediction take at most beside X."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    X, y = draw(name)
    make = TorchClassifier if side == "torchsk" else MLPClassifier
    net = make(hidden_layer_sizes=CASES[name][3], max_iter=2)
    net.fit(X[:50, :50], y[:50]).predict(X[:50, :50])
    before = kilobytes("VmRSS")
    net.fit(X, y).predict(X)
    return 1024 * (kilobytes("VmHWM") - before)


def main():
    """Measure, print and save."""
    arguments = parse_arguments(__doc__.splitlines()[0], n_runs=3)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    before, results, rows = machine(), {}, []
    print(before)
    context = multiprocessing.get_context("spawn")
    with threadpool_limits(1):
        for name in (name for name in CASES if arguments.only in name):
            results[name] = dict(measure(name, arguments.runs))
            for what, seconds in results[name].items():
                ratio = seconds["scikit-learn"] / seconds["torchsk"]
                rows.append([name, what, f"{1e3 * seconds['torchsk']:.1f}", f"{ratio:.2f}"])
            memory = {}
            for side in ("torchsk", "scikit-learn"):
                with ProcessPoolExecutor(1, mp_context=context) as pool:
                    memory[side] = pool.submit(peak, name, side).result()
            results[name]["bytes"] = memory
            values = [f"{memory[side] / 2**20:.0f}" for side in ("torchsk", "scikit-learn")]
            rows.append([name, "memory in MB: ours, theirs", *values])
    print_table(["case", "what", "torchsk, ms", "scikit-learn / torchsk"], rows)
    save("sparse", results, arguments.out, before)


if __name__ == "__main__":
    main()
