"""What callbacks cost: a stacked search of 300 small fits, bare and with scikit-learn's callbacks.

One bar for the whole search (max_propagation_depth=0), a callback on every network that does
nothing, and a bar for each fit, which is the default of scikit-learn's ProgressBar; the same bars
over scikit-learn's LogisticRegression, without torchsk. rich draws them for a terminal of 50 lines,
into memory. Seconds of the process, on all its threads; needs rich.
"""

import io
import time
import warnings
from contextlib import nullcontext

import joblib
import numpy as np
import rich
import torch
from _harness import machine, parse_arguments, print_table, save
from sklearn.callback import ProgressBar
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from torchsk import TorchClassifier


class Nothing:
    """A callback that does nothing."""

    def setup(self, estimator, context):
        """Do nothing."""

    teardown = on_fit_task_begin = on_fit_task_end = setup


def search(on_search=None, on_network=None, of_sklearn=False):
    """Return the seconds of one search with a callback on it, or on its networks."""
    X, y = load_breast_cancer(return_X_y=True)
    if of_sklearn:
        model, grid = LogisticRegression(), {"logisticregression__C": np.logspace(-4, 1, 60)}
        context = nullcontext()
    else:
        model = TorchClassifier((15,), max_iter=30, random_state=0)
        grid = {"torchclassifier__alpha": np.logspace(-4, 1, 60)}
        context = joblib.parallel_config("torchsk")
    if on_network is not None:
        model.set_callbacks(on_network)
    grid_search = GridSearchCV(make_pipeline(StandardScaler(), model), grid, cv=5, refit=False)
    if on_search is not None:
        grid_search.set_callbacks(on_search)
    start = time.process_time()
    with context:
        grid_search.fit(X, y)
    return time.process_time() - start


# name: (function, the one without a callback)
LISTENERS = {
    "none": (lambda: search(), "none"),
    "one bar for the search": (lambda: search(ProgressBar(max_propagation_depth=0)), "none"),
    "nothing, on every network": (lambda: search(on_network=Nothing()), "none"),
    "a bar for each fit": (lambda: search(ProgressBar()), "none"),
    "LogisticRegression": (lambda: search(of_sklearn=True), "LogisticRegression"),
    "LogisticRegression, a bar for each fit": (
        lambda: search(ProgressBar(), of_sklearn=True), "LogisticRegression"
    ),
}  # fmt: skip


def main():
    """Measure, print, save."""
    warnings.simplefilter("ignore")
    arguments = parse_arguments(__doc__.splitlines()[0], n_runs=3)
    torch.set_num_threads(1)
    rich.reconfigure(file=io.StringIO(), force_terminal=True, width=100, height=50)
    before = machine()
    print(before)
    search()
    bare = {bare for _, bare in LISTENERS.values()}
    seconds = {name: [] for name in LISTENERS if arguments.only in name or name in bare}
    for _ in range(arguments.runs):
        for name in seconds:
            seconds[name].append(LISTENERS[name][0]())
    results = {name: float(np.median(values)) for name, values in seconds.items()}
    rows = [
        [name, f"{s:.2f}", f"{s / results[LISTENERS[name][1]]:.2f}"] for name, s in results.items()
    ]
    print_table(["callback", "CPU seconds", "times without"], rows)
    save("listeners", results, arguments.out, before)


if __name__ == "__main__":
    main()
