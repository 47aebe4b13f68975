"""Sixty fits on other people's workers: torchsk's stacks against joblib's own Dask backend.

A grid of 20 candidates on 3 folds of breast_cancer: hidden (15,), batches of 32, 50 epochs. Dask
has two processes of one thread each; every other engine has two processes, too. All are warm: each
search runs once before it is timed.
"""

import multiprocessing
import warnings
from concurrent.futures import ProcessPoolExecutor

import joblib
import numpy as np
import torch
from _harness import interleave, machine, parse_arguments, print_table, save
from distributed import Client
from joblib.externals.loky import get_reusable_executor
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import GridSearchCV

from torchsk import TorchClassifier

N_PROCESSES = 2
BASELINE = "joblib's dask"


def make_search():
    """Return a grid search of 60 fits."""
    net = TorchClassifier((15,), batch_size=32, random_state=0)
    grid = {"alpha": np.logspace(-3, 1, 5), "learning_rate_init": np.logspace(-2, -0.5, 4)}
    return GridSearchCV(net, grid, cv=3, refit=False)


def main():
    """Measure, print, save."""
    warnings.simplefilter("ignore")
    arguments = parse_arguments(__doc__.splitlines()[0], n_runs=5)
    before = machine()
    print(before)
    X, y = load_breast_cancer(return_X_y=True)
    scores = {}

    def search(name, backend, **params):
        def run():
            with joblib.parallel_config(backend, **params):
                scores[name] = make_search().fit(X, y).cv_results_["mean_test_score"]

        return run

    spawn = multiprocessing.get_context("spawn")
    with (
        Client(n_workers=N_PROCESSES, threads_per_worker=1, dashboard_address=None) as client,
        ProcessPoolExecutor(N_PROCESSES, mp_context=spawn) as pool,
    ):
        engines = {
            "Dask": client.get_executor(),
            "ProcessPoolExecutor, spawn": pool,
            "loky": get_reusable_executor(N_PROCESSES, timeout=300),
        }
        functions = {BASELINE: search(BASELINE, "dask", scatter=[X, y])}
        for name, executor in engines.items():
            functions[name] = search(name, "torchsk", executor=executor, n_jobs=N_PROCESSES)
        seconds = interleave(functions, arguments.runs)
    rows = [
        [name, f"{taken:.2f}", f"{seconds[BASELINE] / taken:.1f}",
         f"{np.abs(scores[name] - scores[BASELINE]).max():.3f}"]
        for name, taken in seconds.items()
    ]  # fmt: skip
    print_table(["60 fits", "[s]", "times faster", "score diff"], rows)
    save("engines", seconds, arguments.out, before)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
