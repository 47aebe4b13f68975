"""A device against the CPU cores of the same machine: single fits and large searches.

`--device cuda` names the device. Each fit is compared with the same fit on one thread and on all
threads of the CPU, and with MLPClassifier on all; searches with one worker process per core. "one
by one" launches each operation by itself, as if CUDA had no graphs. With `--rehearse` everything
is small, to try the script where there is no GPU.
"""

import os
import sys
import warnings
from collections.abc import Callable

import joblib
import numpy as np
import torch
from _harness import interleave, machine, parse_arguments, print_table, save
from sklearn.datasets import load_breast_cancer, load_digits, make_classification
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier

from torchsk import TorchClassifier
from torchsk._training import graphs

#: (rows, columns, hidden layers, batch, epochs)
FITS = {
    "569x30 (15) batch 32": (569, 30, (15,), 32, 100),
    "8000x64 (100) batch 200": (8000, 64, (100,), 200, 25),
    "8000x100 (512, 512) batch 256": (8000, 100, (512, 512), 256, 5),
    "20000x100 (1024, 1024) batch 1024": (20_000, 100, (1024, 1024), 1024, 5),
}
#: (data set, hidden layers, batch, epochs, candidates)
SEARCHES = {
    "1000 fits of breast_cancer (15) batch 32": (load_breast_cancer, (15,), 32, 20, 200),
    "250 fits of digits (256, 256) batch 128": (load_digits, (256, 256), 128, 20, 50),
}
SMALL_FITS = {"100x10 (8) batch 50": (100, 10, (8,), 50, 4)}
SMALL_SEARCHES = {"10 fits of breast_cancer (8) batch 50": (load_breast_cancer, (8,), 50, 2, 2)}
N_CORES = os.cpu_count() or 1


def rows(n_samples: int, n_features: int) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 data of ten classes."""
    X, y = make_classification(
        n_samples, n_features, n_informative=8, n_redundant=0, n_classes=10, random_state=0
    )
    return X.astype(np.float32), y


def settings(hidden: tuple[int, ...], batch_size: int, epochs: int) -> dict[str, object]:
    """Return the parameters that give both sides the same work."""
    return {
        "hidden_layer_sizes": hidden, "batch_size": batch_size, "max_iter": epochs,
        "solver": "adam", "alpha": 0.0001, "learning_rate": "constant",
        "n_iter_no_change": epochs + 1, "random_state": 0,
    }  # fmt: skip


def ours(common: dict, device: str) -> TorchClassifier:
    """Return torchsk with the work of MLPClassifier."""
    return TorchClassifier(
        **common, dropout=0.0, scoring=None, standardize=False, max_grad_norm=None, device=device
    )


def with_threads(n_threads: int, function: Callable[[], object]) -> Callable[[], None]:
    """Return a function that runs with so many of torch's threads."""

    def run() -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(n_threads)
        try:
            function()
        finally:
            torch.set_num_threads(before)

    return run


def one_by_one(function: Callable[[], object]) -> Callable[[], None]:
    """Return a function that records nothing."""

    def run() -> None:
        recorders = dict(graphs.RECORDERS)
        graphs.RECORDERS.clear()
        try:
            function()
        finally:
            graphs.RECORDERS.update(recorders)

    return run


def fits(case: tuple, device: str) -> dict[str, Callable[[], object]]:
    """Return the competitors of one fit."""
    n_samples, n_features, *rest = case
    X, y = rows(n_samples, n_features)
    common = settings(*rest)
    here, there = ours(common, "cpu"), ours(common, device)
    return {
        device: lambda: there.fit(X, y),
        f"{device}, one by one": one_by_one(lambda: there.fit(X, y)),
        "CPU, 1 thread": with_threads(1, lambda: here.fit(X, y)),
        "CPU, all threads": with_threads(N_CORES, lambda: here.fit(X, y)),
        "MLPClassifier": lambda: MLPClassifier(**common).fit(X, y),
    }


def searches(case: tuple, device: str) -> dict[str, Callable[[], object]]:
    """Return the search over stacks on the device, and on one worker per core of the CPU."""
    load, *rest, n_candidates = case
    X, y = load(return_X_y=True)
    X = ((X - X.mean(0)) / np.maximum(X.std(0), 1e-6)).astype(np.float32)
    grid = {"alpha": np.logspace(-6, -1, n_candidates)}

    def search(where: str, n_jobs: int) -> None:
        with joblib.parallel_config("torchsk", n_jobs=n_jobs):
            GridSearchCV(ours(settings(*rest), where), grid, cv=5, refit=False).fit(X, y)

    return {
        device: lambda: search(device, 1),
        f"{device}, one by one": one_by_one(lambda: search(device, 1)),
        f"CPU, {N_CORES} processes": lambda: search("cpu", N_CORES),
    }


def measure(
    name: str, make: Callable[[], dict[str, Callable[[], object]]], n_runs: int
) -> dict[str, float | str]:
    """Print and return median seconds by competitor; what fails lets the others run."""
    try:
        seconds = interleave(make(), n_runs)
    except Exception as error:
        print(f"{name} failed: {error!r}", flush=True)
        return {"error": repr(error)}
    print_table(["milliseconds", *seconds], [[name, *(f"{s * 1e3:.1f}" for s in seconds.values())]])
    return dict(seconds)


def main() -> None:
    """Measure, print, save."""
    warnings.simplefilter("ignore")
    rehearse = "--rehearse" in sys.argv
    if rehearse:
        sys.argv.remove("--rehearse")
        sys.path.append(os.path.join(os.path.dirname(__file__), "..", "tests"))
        import simulated_device

        if simulated_device.NAME in " ".join(sys.argv):
            simulated_device.install()
    arguments = parse_arguments(__doc__.splitlines()[0], n_runs=1)
    before = machine()
    device = arguments.device
    if device == "cpu":
        print("Nothing to compare: name a --device.")
        return
    if device == "cuda":
        before["device"] = torch.cuda.get_device_name()
    print(before)
    results: dict[str, dict[str, float | str]] = {}
    for name, case in (SMALL_FITS if rehearse else FITS).items():
        results[name] = measure(name, lambda c=case: fits(c, device), arguments.runs)
    for name, case in (SMALL_SEARCHES if rehearse else SEARCHES).items():
        results[name] = measure(name, lambda c=case: searches(c, device), 1)
    save("devices", results, arguments.out, before)
    if any("error" in seconds for seconds in results.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
