"""A hundred fits: the same GridSearchCV over torchsk's stacks and over MLPClassifier.

20 candidates x 5 folds in a Pipeline with StandardScaler. MLPClassifier runs on two loky workers,
torchsk in this process, on one core, and on two workers. All are warm: each search runs once
before it is timed. With --growth, instead, how the time grows with the number of candidates; the
longest search then runs over torchsk only, since over MLPClassifier it takes ten minutes.
"""

import sys
import warnings

import joblib
import numpy as np
import torch
from _harness import draw_seconds, interleave, machine, parse_arguments, print_table, save
from sklearn.datasets import load_breast_cancer, load_digits, make_classification
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from torchsk import TorchClassifier

# name: (data, hidden_layer_sizes, batch_size)
CASES = {
    "breast_cancer (15) batch 32": (load_breast_cancer, (15,), 32),
    "synthetic 2000x20 (100) batch 32": (None, (100,), 32),
    "digits (64) batch 32": (load_digits, (64,), 32),
    "breast_cancer (100) batch 200": (load_breast_cancer, (100,), 200),
}
N_PROCESSES = 2


def load(loader):
    """Return X in float32 and y."""
    if loader is None:
        X, y = make_classification(2000, 20, n_informative=10, random_state=0)
    else:
        X, y = loader(return_X_y=True)
    return X.astype(np.float32), y


def make_search(classifier, n_candidates, n_jobs=None):
    """Return a grid search over alpha and learning rate, n_candidates in all."""
    n_rates = 4 if n_candidates >= 20 else 2
    grid = {
        "net__alpha": np.logspace(-6, -1, n_candidates // n_rates),
        "net__learning_rate_init": np.logspace(-3, -2, n_rates),
    }
    pipeline = Pipeline([("scale", StandardScaler()), ("net", classifier)])
    return GridSearchCV(pipeline, grid, cv=5, refit=False, n_jobs=n_jobs)


def searches(name, n_candidates, device):
    """Return the competitors: name -> function without arguments, and their results."""
    loader, hidden, batch_size = CASES[name]
    X, y = load(loader)
    common = {
        "hidden_layer_sizes": hidden,
        "batch_size": batch_size,
        "solver": "adam",
        "learning_rate": "constant",
        "max_iter": 50,
        "random_state": 0,
    }
    ours = TorchClassifier(**common, dropout=0.0, scoring=None, standardize=False, device=device)
    scores = {}

    def sklearn_search():
        search = make_search(MLPClassifier(**common), n_candidates, N_PROCESSES).fit(X, y)
        scores["scikit-learn"] = search.cv_results_["mean_test_score"]

    def torchsk_search(n_jobs, max_models=None):
        with joblib.parallel_config("torchsk", n_jobs=n_jobs, max_models=max_models):
            search = make_search(ours, n_candidates).fit(X, y)
        scores["torchsk"] = search.cv_results_["mean_test_score"]

    return {
        "torchsk, 1 process": lambda: torchsk_search(1),
        f"torchsk, {N_PROCESSES} processes": lambda: torchsk_search(N_PROCESSES),
        f"scikit-learn, {N_PROCESSES} processes": sklearn_search,
    }, scores


def describe(result):
    """Return a search in words, on two lines."""
    _, hidden, batch_size = CASES[result["case"]]
    data, n_fits = result["case"].split(" (")[0], 5 * result["n_candidates"]
    return f"{data}: {n_fits} fits,\n{hidden[0]} hidden units, batches of {batch_size}"


def main():
    """Measure, print, save."""
    warnings.simplefilter("ignore")
    growth = "--growth" in sys.argv
    if growth:
        sys.argv.remove("--growth")
    arguments = parse_arguments(__doc__.splitlines()[0], n_runs=3)
    before = machine()
    print(before)
    plan = [(name, 20) for name in CASES if arguments.only in name]
    if growth:
        plan = [(plan[0][0], n_candidates) for n_candidates in (10, 100, 1000)]
    results, rows = [], []
    for name, n_candidates in plan:
        functions, scores = searches(name, n_candidates, arguments.device)
        many = n_candidates > 100
        if many:
            functions.popitem()
        seconds = interleave(functions, 1 if many else arguments.runs, warm_up=not many)
        theirs = scores.get("scikit-learn", np.nan)
        difference = float(np.abs(scores["torchsk"] - theirs).max())
        results.append(
            {
                "case": name,
                "n_candidates": n_candidates,
                "seconds": seconds,
                "largest difference of a mean score": difference,
            }
        )
        one, two, theirs = (*seconds.values(), np.nan)[:3]
        rows.append(
            [f"{name}, {n_candidates * 5} fits", *(f"{t:.2f}" for t in (one, two, theirs)),
             f"{theirs / one:.1f}", f"{theirs / two:.1f}", f"{difference:.3f}"]
        )  # fmt: skip
        print(rows[-1], flush=True)
    columns = ["search", *(f"{c} [s]" for c in results[0]["seconds"])]
    columns += ["ratio, 1", "ratio, 2", "score diff"]
    print_table(columns, rows)
    name = "grid_search_growth" if growth else "grid_search"
    save(name, results, arguments.out, before)
    labels = [describe(result) for result in results]
    draw_seconds(results, labels, 4.5, arguments.out / f"{name}.png")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
