"""One fit: torchsk against MLPClassifier, skorch, a plain torch loop, and its own limit.

The same float32 data, epochs, batches and solver for all, one thread. "products" is the time that
the matrix products of the steps take alone: no implementation with these kernels can be faster.
"torchsk, medium" trains after torch.set_float32_matmul_precision("medium").
"""

import multiprocessing
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
import torch
from _harness import interleave, kilobytes, machine, parse_arguments, print_table, save
from sklearn.datasets import make_classification
from sklearn.neural_network import MLPClassifier
from skorch import NeuralNetClassifier
from threadpoolctl import threadpool_limits
from torch import nn

from torchsk import TorchClassifier, _matmul

# the same work for both sides, whatever their defaults are
PLAIN = {"alpha": 0.0001, "learning_rate": "constant"}
OURS = {"dropout": 0.0, "scoring": None}
# name: (n_samples, n_features, n_classes, hidden_layer_sizes, batch_size, epochs)
CASES = {
    "569x30 (15) batch 32": (569, 30, 2, (15,), 32, 30),
    "2000x20 (100) batch 200": (2000, 20, 2, (100,), 200, 30),
    "2000x20 (100) batch 32": (2000, 20, 2, (100,), 32, 8),
    "8000x64 10 classes (100) batch 200": (8000, 64, 10, (100,), 200, 6),
    "8000x64 10 classes (256, 256) batch 128": (8000, 64, 10, (256, 256), 128, 2),
    "8000x100 10 classes (512, 512) batch 256": (8000, 100, 10, (512, 512), 256, 1),
}
OPTIMIZERS = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.001),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9, nesterov=True),
}
SKORCH = {
    "adam": {"optimizer": torch.optim.Adam, "lr": 0.001},
    "sgd": {
        "optimizer": torch.optim.SGD,
        "lr": 0.01,
        "optimizer__momentum": 0.9,
        "optimizer__nesterov": True,
    },
}


def make_network(n_features, hidden_layer_sizes, n_classes):
    """Return the network in plain torch, one output per class."""
    sizes = [n_features, *hidden_layer_sizes]
    layers = [
        layer
        for i, o in zip(sizes, sizes[1:], strict=False)
        for layer in (nn.Linear(i, o), nn.ReLU())
    ]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], n_classes))


def plain_torch_fit(X, y, hidden_layer_sizes, n_classes, batch_size, epochs, solver):
    """Train with a hand-written loop, autograd and torch.optim."""
    torch.manual_seed(0)
    X, y = torch.from_numpy(X), torch.from_numpy(y)
    network = make_network(X.shape[1], hidden_layer_sizes, n_classes)
    optimizer, loss = OPTIMIZERS[solver](network.parameters()), nn.CrossEntropyLoss()
    for _ in range(epochs):
        for batch in torch.randperm(len(X)).split(batch_size):
            optimizer.zero_grad()
            loss(network(X[batch]), y[batch]).backward()
            optimizer.step()


def matrix_products(X, hidden_layer_sizes, n_outputs, batch_size, epochs):
    """Do the matrix products of all steps, by the kernels that torchsk takes, and nothing else."""
    sizes = [X.shape[1], *hidden_layer_sizes, n_outputs]
    torch.manual_seed(0)
    layers = [
        (
            torch.randn(batch_size, i),
            torch.randn(o, i),
            torch.randn(batch_size, o),
            torch.empty(o, i),
        )
        for i, o in zip(sizes, sizes[1:], strict=False)
    ]
    linear = torch.ops.mkldnn._linear_pointwise
    large = [
        i * o * batch_size >= _matmul._ONEDNN_SIZE for i, o in zip(sizes, sizes[1:], strict=False)
    ]
    for _ in range(epochs * -(-len(X) // batch_size)):
        for first, big, (x, weight, delta, gradient) in zip(
            (True, *[False] * len(layers)), large, layers, strict=False
        ):
            if big:
                linear(x, weight, None, "none", [], "")
                linear(delta.mT, x.mT, None, "none", [], "")
                if not first:
                    linear(delta, weight.mT, None, "none", [], "")
            else:
                torch.mm(x, weight.mT)
                torch.mm(delta.mT, x, out=gradient)
                if not first:
                    torch.mm(delta, weight)


def fits(name, solver, device):
    """Return the competitors for one case: name -> function without arguments."""
    n, d, n_classes, hidden, batch_size, epochs = CASES[name]
    X, y = make_classification(n, d, n_informative=min(d, 12), n_classes=n_classes, random_state=0)
    X, y = X.astype(np.float32), y.astype(np.int64)
    common = {
        "hidden_layer_sizes": hidden,
        "batch_size": batch_size,
        "max_iter": epochs,
        "solver": solver,
        "learning_rate_init": 0.001 if solver == "adam" else 0.01,
        "n_iter_no_change": epochs + 1,
        "random_state": 0,
        **PLAIN,
    }
    ours = TorchClassifier(**common, **OURS, standardize=False, max_grad_norm=None, device=device)
    theirs = MLPClassifier(**common)
    skorch = NeuralNetClassifier(
        make_network(d, hidden, n_classes),
        criterion=nn.CrossEntropyLoss,
        **SKORCH[solver],
        batch_size=batch_size,
        max_epochs=epochs,
        train_split=None,
        verbose=0,
    )

    def in_bfloat16():
        torch.set_float32_matmul_precision("medium")
        ours.fit(X, y)
        torch.set_float32_matmul_precision("highest")

    return {
        "torchsk": lambda: ours.fit(X, y),
        "torchsk, medium": in_bfloat16,
        "scikit-learn": lambda: theirs.fit(X, y),
        "skorch": lambda: skorch.fit(X, y),
        "plain torch": lambda: plain_torch_fit(X, y, hidden, n_classes, batch_size, epochs, solver),
        "products": lambda: matrix_products(
            X, hidden, 1 if n_classes == 2 else n_classes, batch_size, epochs
        ),
    }


def measure_predict(n_runs):
    """Return rows of (name, seconds of torchsk, seconds of scikit-learn, ratio)."""
    X, y = make_classification(2000, 20, random_state=0)
    rows = []
    for dtype in (np.float32, np.float64):
        X = X.astype(dtype)
        common = {"hidden_layer_sizes": (100,), "batch_size": 200, "max_iter": 5, "random_state": 0}
        common |= PLAIN
        ours = TorchClassifier(**common, **OURS).fit(X, y)
        theirs = MLPClassifier(**common).fit(X, y)
        for n_rows, repeats in ((1, 200), (1000, 50), (100_000, 1)):
            Z = np.tile(X, (max(1, n_rows // len(X)), 1))[:n_rows]
            seconds = interleave(
                {
                    "torchsk": lambda Z=Z, ours=ours: ours.predict_proba(Z),
                    "scikit-learn": lambda Z=Z, theirs=theirs: theirs.predict_proba(Z),
                },
                5 * n_runs,  # they are short
                repeats,
            )
            rows.append([f"predict {n_rows} rows, {np.dtype(dtype).name}", seconds])
    return rows


def measure_overhead(n_runs):
    """Return the seconds of a fit of 569x30 that are not spent in epochs, by competitor."""
    X, y = make_classification(569, 30, random_state=0)
    common = {"hidden_layer_sizes": (15,), "batch_size": 32, "n_iter_no_change": 100}
    common |= PLAIN | {"random_state": 0}

    makers = {
        "torchsk": partial(TorchClassifier, **common, **OURS),
        "scikit-learn": partial(MLPClassifier, **common),
    }
    fits = {(name, n): make(max_iter=n) for name, make in makers.items() for n in (1, 21)}
    functions = {key: partial(net.fit, X, y) for key, net in fits.items()}
    seconds = interleave(functions, n_runs, repeats=5)
    return {name: seconds[name, 1] - (seconds[name, 21] - seconds[name, 1]) / 20 for name in makers}


def _peak_memory(dtype, early_stopping, n=400_000, d=100):
    """Return the memory that a fit takes beside its data, as a multiple of these in float32."""
    X, rng = np.empty((n, d), dtype), np.random.default_rng(0)
    for rows in np.array_split(X, 40):
        rows[:] = rng.normal(size=rows.shape)
    y = (X[:, 0] > 0).astype(int)
    net = TorchClassifier(
        early_stopping=early_stopping, batch_size=200, max_iter=2, random_state=0, **PLAIN, **OURS
    )
    warnings.simplefilter("ignore")
    net.fit(X[:1000], y[:1000])
    before = kilobytes("VmRSS")
    net.fit(X, y)
    return (kilobytes("VmHWM") - before) * 1024 / (4 * X.size)


def measure_memory():
    """Return rows of (dtype, early stopping, peak), each measured in a process of its own."""
    rows = [(dtype, stops) for dtype in ("float32", "float64") for stops in (False, True)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
        peaks = list(pool.map(_peak_memory, *zip(*rows, strict=True)))
    return [[*row, peak] for row, peak in zip(rows, peaks, strict=True)]


def describe(name):
    """Return a case in words, on two lines."""
    n_samples, n_features, _, hidden, batch_size, _ = CASES[name]
    units = " + ".join(map(str, hidden))
    return f"{n_samples} rows, {n_features} columns,\n{units} hidden units, batches of {batch_size}"


def draw(results, path):
    """Save bars: how many times faster torchsk trains by Adam."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    peers = ("scikit-learn", "skorch", "plain torch")
    results = [result for result in results if result["solver"] == "adam"]
    figure, ax = plt.subplots(figsize=(9, 5.5), layout="constrained")
    for i, peer in enumerate(peers):
        ratios = [result["seconds"][peer] / result["seconds"]["torchsk"] for result in results]
        positions = [row + (i - 1) * 0.26 for row in range(len(results))]
        bars = ax.barh(positions, ratios, height=0.26, label=peer)
        ax.bar_label(bars, fmt="%.1f", padding=2)
    ax.set_yticks(range(len(results)), [describe(r["case"]) for r in results])
    ax.invert_yaxis()
    ax.margins(x=0.1)
    ax.axvline(1, color="0.3", linewidth=1)
    ax.set_xlabel("time of a fit by Adam, as a multiple of torchsk's")
    ax.legend()
    figure.savefig(path, dpi=110)


def main():
    """Measure, print, save."""
    warnings.simplefilter("ignore")
    arguments = parse_arguments(__doc__.splitlines()[0], n_runs=5)
    results = []
    with threadpool_limits(1):
        torch.set_num_threads(1)
        before = machine()
        print(before)
        for name in CASES:
            for solver in ("adam", "sgd"):
                if arguments.only in f"{name} {solver}":
                    seconds = interleave(fits(name, solver, arguments.device), arguments.runs)
                    results.append({"case": name, "solver": solver, "seconds": seconds})
                    ratios = {peer: f"{t / seconds['torchsk']:.2f}" for peer, t in seconds.items()}
                    print(f"{name} {solver}: {ratios}", flush=True)
        columns = [
            "fit",
            "torchsk ms",
            "torchsk, medium",
            "scikit-learn",
            "skorch",
            "plain torch",
            "products",
        ]
        rows = [
            [
                f"{result['case']}, {result['solver']}",
                f"{result['seconds']['torchsk'] * 1e3:.1f}",
                *(
                    f"{result['seconds'][p] / result['seconds']['torchsk']:.2f}"
                    for p in columns[2:]
                ),
            ]
            for result in results
        ]
        print("\nTime of a fit as a multiple of torchsk's:")
        print_table(columns, rows)
        predictions = measure_predict(arguments.runs) if not arguments.only else []
        for name, seconds in predictions:
            ratio = seconds["scikit-learn"] / seconds["torchsk"]
            print(f"{name}: torchsk {seconds['torchsk'] * 1e3:.3f} ms, scikit-learn {ratio:.2f} x")
        overhead = measure_overhead(3 * arguments.runs)
        each = ", ".join(f"{name} {s * 1e3:.2f} ms" for name, s in overhead.items())
        print(f"a fit of 569x30 without its epochs: {each}")
    on_linux = sys.platform == "linux"
    memory = measure_memory() if on_linux and not arguments.only else []
    for dtype, stops, peak in memory:
        stopping = ", early stopping" if stops else ""
        print(f"peak memory, {dtype}{stopping}: {peak:.2f} x the data in float32")
    contents = {
        "fits": results, "predictions": predictions, "overhead": overhead, "memory": memory,
    }  # fmt: skip
    save("single_fit", contents, arguments.out, before)
    draw(results, arguments.out / "single_fit.png")


if __name__ == "__main__":
    main()
