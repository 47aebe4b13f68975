"""A device against the CPU cores of the same machine: single fits, a large search, CUDA graphs.

`--device cuda` names the device. Each fit is compared with the same fit on one thread and on all
threads of the CPU, and with MLPClassifier on all; the search of 1000 fits with one worker process
per core. "graph" replays the steps of an epoch as one CUDA graph: its gain is what launching them
one by one costs. With `--rehearse` everything is small, to try the script where there is no GPU.
"""

import os
import sys
import warnings
from collections.abc import Callable

import joblib
import numpy as np
import torch
from _harness import interleave, machine, parse_arguments, print_table, save
from sklearn.datasets import load_breast_cancer, make_classification
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier

from torchsk import TorchClassifier, _stacking
from torchsk._training.stack import _Stack

#: (rows, columns, hidden layers, batch, epochs)
FITS = {
    "569x30 (15) batch 32": (569, 30, (15,), 32, 20),
    "8000x64 (100) batch 200": (8000, 64, (100,), 200, 5),
    "8000x100 (512, 512) batch 256": (8000, 100, (512, 512), 256, 2),
    "20000x100 (1024, 1024) batch 1024": (20_000, 100, (1024, 1024), 1024, 2),
}
REHEARSAL = {"100x10 (8) batch 50": (100, 10, (8,), 50, 1)}
#: candidates and epochs
SEARCH, SMALL_SEARCH = (200, 20), (2, 2)
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


def fits(case: tuple, device: str) -> dict[str, Callable[[], object]]:
    """Return the competitors of one case."""
    n_samples, n_features, *rest = case
    X, y = rows(n_samples, n_features)
    common = settings(*rest)
    here, there = ours(common, "cpu"), ours(common, device)
    return {
        device: lambda: there.fit(X, y),
        "CPU, 1 thread": with_threads(1, lambda: here.fit(X, y)),
        "CPU, all threads": with_threads(N_CORES, lambda: here.fit(X, y)),
        "MLPClassifier": lambda: MLPClassifier(**common).fit(X, y),
    }


def searches(n_candidates: int, epochs: int, device: str) -> dict[str, Callable[[], object]]:
    """Return the search over stacks on the device, and on one worker per core of the CPU."""
    X, y = load_breast_cancer(return_X_y=True)
    X = ((X - X.mean(0)) / X.std(0)).astype(np.float32)
    common = settings((15,), 32, epochs)
    grid = {"alpha": np.logspace(-6, -1, n_candidates)}

    def search(where: str, n_jobs: int) -> None:
        with joblib.parallel_config("torchsk", n_jobs=n_jobs):
            GridSearchCV(ours(common, where), grid, cv=5, refit=False).fit(X, y)

    return {
        device: lambda: search(device, 1),
        f"CPU, {N_CORES} processes": lambda: search("cpu", N_CORES),
    }


class _Handed(Exception):
    """Carries a job out of fit."""


def job_of(net: TorchClassifier, X: np.ndarray, y: np.ndarray) -> object:
    """Return the training job of a fit."""
    train_job = _stacking.train_job

    def hand_over(job):
        raise _Handed(job)

    _stacking.train_job = hand_over
    try:
        net.fit(X, y)
    except _Handed as handed:
        return handed.args[0]
    finally:
        _stacking.train_job = train_job
    raise AssertionError("fit trained without a job")


def epochs(case: tuple, device: str) -> dict[str, Callable[[], object]]:
    """Return the steps of one epoch, one by one and as a CUDA graph."""
    n_samples, n_features, *rest = case
    X, y = rows(n_samples, n_features)
    stack = _Stack([job_of(ours(settings(*rest), device), X, y)])
    block = next(stack._blocks())
    rate = torch.full((1,), 1e-3, device=device)

    @torch.no_grad()
    def steps() -> None:
        for batch in block.batches:
            stack._step(batch, stack.no_masks, rate)

    if device != "cuda":
        return {"steps": steps}
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            steps()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        steps()

    def synchronised(function: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            function()
            torch.cuda.synchronize()

        return run

    return {"steps": synchronised(steps), "graph": synchronised(graph.replay)}


def measure(
    kind: str, make: Callable[[], dict[str, Callable[[], object]]], n_runs: int
) -> dict[str, float | str]:
    """Return median seconds by competitor; what fails says so and lets the others run."""
    try:
        return dict(interleave(make(), n_runs))
    except Exception as error:
        print(f"{kind} failed: {error!r}", flush=True)
        return {"error": repr(error)}


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
    arguments = parse_arguments(__doc__.splitlines()[0], n_runs=3)
    before = machine()
    device = arguments.device
    if device == "cpu":
        print("Nothing to compare: name a --device.")
        return
    if device == "cuda":
        before["device"] = torch.cuda.get_device_name()
    print(before)
    cases = REHEARSAL if rehearse else FITS
    n_candidates, n_epochs = SMALL_SEARCH if rehearse else SEARCH
    results: dict[str, dict[str, float | str]] = {}
    for name, case in cases.items():
        results[f"fit {name}"] = measure(name, lambda c=case: fits(c, device), arguments.runs)
        results[f"epoch {name}"] = measure(name, lambda c=case: epochs(c, device), arguments.runs)
    name = f"search of {5 * n_candidates} fits, breast_cancer (15) batch 32"
    results[name] = measure(name, lambda: searches(n_candidates, n_epochs, device), 1)
    for name, seconds in results.items():
        cells = [f"{s * 1e3:.1f}" if isinstance(s, float) else s for s in seconds.values()]
        print_table(["milliseconds", *seconds], [[name, *cells]])
    save("devices", results, arguments.out, before)
    if any("error" in seconds for seconds in results.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
