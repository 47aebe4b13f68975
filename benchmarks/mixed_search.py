"""A search as people write it: widths, activations and batch sizes that differ, 60 x 5 fits.

The same RandomizedSearchCV over torchsk's stacks and over MLPClassifier, in a Pipeline with
StandardScaler. MLPClassifier runs on two loky workers, torchsk in this process, on one core, and
on two workers. All are warm: each search runs once before it is timed.
"""

import warnings
from functools import partial

import joblib
import numpy as np
import torch
from _harness import (
    draw_seconds,
    interleave,
    machine,
    parse_arguments,
    print_table,
    processor_seconds,
    save,
)
from scipy.stats import loguniform
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.model_selection import RandomizedSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from torchsk import TorchClassifier
from torchsk._training import lane_of

# name: (data, max_iter)
CASES = {"breast_cancer": (load_breast_cancer, 40), "digits": (load_digits, 15)}
N_CANDIDATES, N_PROCESSES = 60, 2
SPACE = {
    "net__hidden_layer_sizes": [(32,), (64,), (100,), (50, 50)],
    "net__activation": ["relu", "tanh"],
    "net__batch_size": [32, 64, 128],
    "net__alpha": loguniform(1e-6, 1e-1),
    "net__learning_rate_init": loguniform(1e-4, 1e-2),
}


def searches(name, device):
    """Return the competitors, name -> function without arguments, and their mean scores."""
    loader, max_iter = CASES[name]
    X, y = loader(return_X_y=True)
    X = X.astype(np.float32)
    common = {
        "solver": "adam", "learning_rate": "constant", "max_iter": max_iter, "random_state": 0,
    }  # fmt: skip
    ours = TorchClassifier(**common, dropout=0.0, scoring=None, standardize=False, device=device)
    scores = {}

    def search(side, classifier, n_jobs=None):
        pipeline = Pipeline([("scale", StandardScaler()), ("net", classifier)])
        search = RandomizedSearchCV(
            pipeline, SPACE, n_iter=N_CANDIDATES, cv=5, refit=False, random_state=0, n_jobs=n_jobs
        )
        scores[side] = search.fit(X, y).cv_results_["mean_test_score"]

    def torchsk_search(n_jobs):
        with joblib.parallel_config("torchsk", n_jobs=n_jobs):
            search("torchsk", ours)

    return {
        "torchsk, 1 process": lambda: torchsk_search(1),
        f"torchsk, {N_PROCESSES} processes": lambda: torchsk_search(N_PROCESSES),
        f"scikit-learn, {N_PROCESSES} processes": lambda: search(
            "scikit-learn", MLPClassifier(**common), N_PROCESSES
        ),
    }, scores


def stack_sizes(function):
    """Return how many networks each stack holds that a function trains in this process."""
    lane, sizes = type(lane_of("adam")), []
    train = lane.train

    def counted(self, jobs, should_stop=None):
        sizes.append(len(jobs))
        return train(self, jobs, should_stop)

    lane.train = counted
    try:
        function()
    finally:
        lane.train = train
    return sorted(sizes)


def main():
    """Measure, print, save."""
    warnings.simplefilter("ignore")
    arguments = parse_arguments(__doc__.splitlines()[0], n_runs=3)
    before = machine()
    print(before)
    results, rows = [], []
    for name in (name for name in CASES if arguments.only in name):
        functions, scores = searches(name, arguments.device)
        sizes = stack_sizes(functions["torchsk, 1 process"])
        cores = {}  # what all cores have done in the last run

        def measured(competitor, function, cores=cores):
            cores[competitor] = processor_seconds(function)

        timed = {c: partial(measured, c, function) for c, function in functions.items()}
        seconds = interleave(timed, arguments.runs)
        difference = float(np.abs(scores["torchsk"] - scores["scikit-learn"]).max())
        results.append(
            {
                "case": name,
                "seconds": seconds,
                "processor seconds": cores,
                "stack sizes": sizes,
                "largest difference of a mean score": difference,
            }
        )
        one, two, theirs = seconds.values()
        *_, our_cores, their_cores = cores.values()
        rows.append(
            [name, *(f"{t:.2f}" for t in (one, two, theirs)), f"{theirs / one:.1f}",
             f"{theirs / two:.1f}", f"{their_cores / our_cores:.1f}",
             f"{len(sizes)} of {sizes[0]}-{sizes[-1]}", f"{difference:.3f}"]
        )  # fmt: skip
        print(rows[-1], flush=True)
    columns = ["search", *(f"{c} [s]" for c in results[0]["seconds"])]
    columns += ["ratio, 1", "ratio, 2", "ratio, cpu", "stacks", "score diff"]
    print_table(columns, rows)
    save("mixed_search", results, arguments.out, before)
    labels = [f"{r['case']},\n{CASES[r['case']][1]} epochs" for r in results]
    draw_seconds(results, labels, 3, arguments.out / "mixed_search.png")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
