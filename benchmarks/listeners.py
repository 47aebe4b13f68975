"""What callbacks cost: a stacked search of 300 small fits, bare and with scikit-learn's callbacks.

One bar for the whole search (max_propagation_depth=0), a callback on every network that does
nothing, and a bar for each fit, which is the default of scikit-learn's ProgressBar. rich draws them
for a terminal of 50 lines, into memory. Seconds of the process, on all its threads; needs rich.
"""

import io
import time
import warnings

import joblib
import numpy as np
import rich
import torch
from _harness import machine, parse_arguments, print_table, save
from sklearn.callback import ProgressBar
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from torchsk import TorchClassifier


class Nothing:
    """A callback that does nothing."""

    def setup(self, estimator, context):
        """Do nothing."""

    teardown = on_fit_task_begin = on_fit_task_end = setup


def search(on_search=None, on_network=None):
    """Return the seconds of one search with a callback on it, or on its networks."""
    X, y = load_breast_cancer(return_X_y=True)
    net = TorchClassifier((15,), max_iter=30, random_state=0)
    if on_network is not None:
        net.set_callbacks(on_network)
    grid = {"torchclassifier__alpha": np.logspace(-4, 1, 60)}
    grid_search = GridSearchCV(make_pipeline(StandardScaler(), net), grid, cv=5, refit=False)
    if on_search is not None:
        grid_search.set_callbacks(on_search)
    start = time.process_time()
    with joblib.parallel_config("torchsk"):
        grid_search.fit(X, y)
    return time.process_time() - start


LISTENERS = {
    "none": lambda: search(),
    "one bar for the search": lambda: search(ProgressBar(max_propagation_depth=0)),
    "nothing, on every network": lambda: search(on_network=Nothing()),
    "a bar for each fit": lambda: search(ProgressBar()),
}


def main():
    """Measure, print, save."""
    warnings.simplefilter("ignore")
    arguments = parse_arguments(__doc__.splitlines()[0], n_runs=3)
    torch.set_num_threads(1)
    rich.reconfigure(file=io.StringIO(), force_terminal=True, width=100, height=50)
    before = machine()
    print(before)
    search()
    seconds = {name: [] for name in LISTENERS if arguments.only in name or name == "none"}
    for _ in range(arguments.runs):
        for name in seconds:
            seconds[name].append(LISTENERS[name]())
    results = {name: float(np.median(values)) for name, values in seconds.items()}
    rows = [[name, f"{s:.2f}", f"{s / results['none']:.2f}"] for name, s in results.items()]
    print_table(["callback", "CPU seconds", "times none"], rows)
    save("listeners", results, arguments.out, before)


if __name__ == "__main__":
    main()
