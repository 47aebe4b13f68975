"""
Side by side with scikit-learn
==============================

scikit-learn's MLP and torchsk's estimator in the same pipeline, on three data sets that ship with
scikit-learn: one cross-validation with default parameters, and one small grid search.

Both sides get the same conditions: the features pass a ``StandardScaler``, the folds are the
same, ``random_state`` is 0, one thread computes (so that a busy machine disturbs the times less),
and every other parameter is the estimator's own default. The defaults differ: the MLPs train by
Adam with rate 0.001, for at most 200 epochs; torchsk trains by SGD, for 50 epochs in which the
rate rises and falls, with smaller batches and a stronger penalty where rows are few.

The target of ``diabetes`` runs from 25 to 346, and MLPRegressor does not get there in 200 epochs.
TorchRegressor would scale the target by itself; here ``TransformedTargetRegressor`` does it for
both. (At 200 epochs MLPRegressor still warns that its training loss is falling. With more
epochs its training goes on, but its score on new data gets worse.)

Run as a script, this writes its figure to ``compare_with_sklearn.png``.
"""

# %%
# The two sides
# -------------
import sys
import warnings
from time import perf_counter

import matplotlib.pyplot as plt
import pandas as pd
from sklearn.base import is_regressor
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from torchsk import LossCurveDisplay, TorchClassifier, TorchRegressor, compare

warnings.simplefilter("ignore", ConvergenceWarning)
threadpool_limits(1)

CLASSIFIERS = [MLPClassifier(random_state=0), TorchClassifier(random_state=0)]
REGRESSORS = [MLPRegressor(random_state=0), TorchRegressor(random_state=0)]
DATA_SETS = {
    "breast_cancer": (load_breast_cancer, CLASSIFIERS),
    "digits": (load_digits, CLASSIFIERS),
    "diabetes": (load_diabetes, REGRESSORS),
}


def make_sides(networks):
    """Return {name: (estimator, grid)} of the networks in the same pipeline."""
    sides = {}
    for network in networks:
        estimator = Pipeline([("scale", StandardScaler()), ("net", network)])
        grid = {
            "net__hidden_layer_sizes": [(50,), (100,)],
            "net__alpha": [network.alpha, 0.1],  # its default, and one value that is the same
        }
        if is_regressor(network):
            estimator = TransformedTargetRegressor(estimator, transformer=StandardScaler())
            grid = {f"regressor__{name}": values for name, values in grid.items()}
        sides[type(network).__name__] = estimator, grid
    return sides


# %%
# Cross-validation and grid search
# --------------------------------
# ``compare`` gives every estimator the same five folds. The search is scikit-learn's own, with
# three folds for each of its four candidates and a last fit on all of the data. Its penalties are
# the default of each side (0.0001, and "auto") and 0.1. Scores are accuracies, R2 for
# ``diabetes``; a fit time is the mean of the five fits.
rows, comparisons, fitted = [], {}, {}
for data_set, (load, networks) in DATA_SETS.items():
    X, y = load(return_X_y=True)
    sides = make_sides(networks)
    comparison = compare({name: estimator for name, (estimator, _) in sides.items()}, X, y, cv=5)
    comparisons[data_set], fitted[data_set] = comparison, {}
    for name, (estimator, grid) in sides.items():
        results = comparison.cv_results[name]
        start = perf_counter()
        search = GridSearchCV(estimator, grid, cv=3).fit(X, y)
        search_time = perf_counter() - start
        fitted[data_set][name] = search
        best = {key.split("__")[-1]: value for key, value in search.best_params_.items()}
        rows.append(
            {
                "data set": data_set,
                "model": name,
                "score": f"{results['test_score'].mean():.3f} ± {results['test_score'].std():.3f}",
                "fit time (s)": f"{results['fit_time'].mean():.2f}",
                "search score": f"{search.best_score_:.3f}",
                "search time (s)": f"{search_time:.1f}",
                "best parameters": f"{best['hidden_layer_sizes']}, alpha {best['alpha']}",
            }
        )

print(pd.DataFrame(rows).to_string(index=False))

# %%
# Loss curves and scores
# ----------------------
# Above, the training loss of the search's best model on all of the data, epoch by epoch; a curve
# ends where its estimator stopped. It includes the penalty, which is larger with torchsk: a higher
# curve is not a worse model. Below, the scores on the five folds.
figure, axes = plt.subplots(2, 3, figsize=(14, 7), layout="constrained", height_ratios=[2, 1])
for (curve_ax, score_ax), data_set in zip(axes.T, DATA_SETS, strict=True):
    LossCurveDisplay.from_estimator(fitted[data_set], ax=curve_ax, log_scale=True)
    comparisons[data_set].plot(ax=score_ax)
    curve_ax.set_title(data_set)

if "sphinx_gallery" not in sys.modules:
    figure.savefig("compare_with_sklearn.png", dpi=120)
    print("The figure is in compare_with_sklearn.png")
