"""
Side by side with scikit-learn
==============================

What changes when a network of torchsk takes the place of scikit-learn's MLP: the score on rows that
were not trained on, the time of a fit, and the time of a search.

Each side is written as its users would write it. The MLP stands behind a ``StandardScaler``, and
for ``diabetes``, whose target runs from 25 to 346, in a ``TransformedTargetRegressor`` as well.
torchsk gets the raw data. The target of ``prices`` is near 3,000,000, and nobody scales it: the
MLP predicts far too little then, however many epochs it is given. Folds, ``random_state`` and grid
are the same, one thread of one process computes, and every other parameter is the estimator's own
default.

Run as a script, this writes its figure to ``compare_with_sklearn.png``.
"""

# %%
# Four data sets, two sides
# -------------------------
import sys
import warnings
from time import perf_counter

import joblib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, make_friedman1
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from torchsk import TorchClassifier, TorchRegressor, compare

warnings.simplefilter("ignore", ConvergenceWarning)  # of the MLP: 200 epochs are few for it
threadpool_limits(1)


def make_prices():
    """Return 1000 rows of made data whose target looks like prices, 2.8 million on average."""
    X, y = make_friedman1(1000, noise=1.0, random_state=0)
    return X, 200_000 * y


classifier = make_pipeline(StandardScaler(), MLPClassifier(random_state=0))
regressor = make_pipeline(StandardScaler(), MLPRegressor(random_state=0))
scaled_target = TransformedTargetRegressor(regressor, transformer=StandardScaler())
CASES = {
    "breast_cancer": (load_breast_cancer(return_X_y=True), classifier, TorchClassifier),
    "digits": (load_digits(return_X_y=True), classifier, TorchClassifier),
    "diabetes": (load_diabetes(return_X_y=True), scaled_target, TorchRegressor),
    "prices": (make_prices(), regressor, TorchRegressor),
}

# %%
# Cross-validation, and a search of 21 fits
# -----------------------------------------
# ``compare`` gives both sides the same five folds. The search tries seven penalties on three folds.
# torchsk's runs inside ``joblib.parallel_config("torchsk")``, where its fits train together. Scores
# are accuracies and, for the last two data sets, R2.
PENALTIES = np.logspace(-4, 2, 7)


def time_search(estimator, X, y):
    """Return the seconds that a search over the penalty takes."""
    (alpha,) = (name for name in estimator.get_params() if name.split("__")[-1] == "alpha")
    search = GridSearchCV(estimator, {alpha: PENALTIES}, cv=3, refit=False)
    start = perf_counter()
    search.fit(X, y)
    return perf_counter() - start


rows = {}
for data_set, ((X, y), mlp, torch_class) in CASES.items():
    net = torch_class(random_state=0)
    folds = 5 if torch_class is TorchClassifier else KFold(5, shuffle=True, random_state=0)
    results = compare({"MLP": mlp, "torchsk": net}, X, y, cv=folds).cv_results
    searches = {"MLP": time_search(mlp, X, y)}
    with joblib.parallel_config("torchsk"):
        searches["torchsk"] = time_search(net, X, y)
    rows[data_set] = {
        **{("score", side): results[side]["test_score"].mean() for side in results},
        **{("seconds a fit", side): results[side]["fit_time"].mean() for side in results},
        **{("seconds a search", side): seconds for side, seconds in searches.items()},
    }

table = pd.DataFrame.from_dict(rows, orient="index")
times = table["seconds a search"]
table["search", "is faster"] = [f"{ratio:.0f} times" for ratio in times["MLP"] / times["torchsk"]]
digits = {"score": "{:.3f}", "seconds a fit": "{:.2f}", "seconds a search": "{:.1f}"}
formatters = {column: digits[column[0]].format for column in table if column[0] in digits}
print(table.to_string(formatters=formatters))

# %%
# The same as a figure
# --------------------
# A bar that would leave the picture, the MLP's score for ``prices``, is cut off at zero.
figure, axes = plt.subplots(1, 3, figsize=(9.5, 4.5), layout="constrained", sharey=True)
for ax, title in zip(axes, ["score", "seconds a fit", "seconds a search"], strict=True):
    values = table[title]
    values.clip(lower=0).plot.barh(ax=ax, legend=False, width=0.75, color=["0.65", "tab:orange"])
    for bars, side in zip(ax.containers, values, strict=True):
        ax.bar_label(bars, [f"{value:.2g}" for value in values[side]], padding=3)
    ax.set(title=title, xlim=(0, 1.2 * values.max(axis=None)))
axes[0].set_title("score on new rows")
axes[0].invert_yaxis()
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)

if "sphinx_gallery" not in sys.modules:
    figure.savefig("compare_with_sklearn.png", dpi=120)
    print("The figure is in compare_with_sklearn.png")
