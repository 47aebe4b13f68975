"""
A grid search whose fits train together
=======================================

A grid search fits many small networks. Inside ``joblib.parallel_config("torchsk")`` they train side
by side, and the search gives the same scores. Nothing else in the code changes.
"""

# %%
# The same search, twice
# ----------------------
# Four penalties and three rates for 8 x 8 images of digits, three folds each: 36 fits.
from time import perf_counter

import joblib
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV

from torchsk import TorchClassifier

X, y = load_digits(return_X_y=True)
GRID = {"alpha": [0.01, 0.1, 1.0, 3.0], "learning_rate_init": [0.05, 0.1, 0.2]}


# %%
# A callback writes down whose epoch has just ended. It is here to show what happens; a search does
# not need it.
class EpochEnds:
    """Append the fit that an epoch belongs to, whenever one ends."""

    def __init__(self, ended):
        self.ended = ended

    def setup(self, estimator, context):
        """Do nothing before a fit."""

    def teardown(self, estimator, context):
        """Do nothing after a fit."""

    def on_fit_task_begin(self, estimator, context):
        """Do nothing before an epoch."""

    def on_fit_task_end(self, estimator, context):
        """Write the fit down."""
        if context.task_name == "epoch":
            self.ended.append(context.parent)


def search(ended):
    """Return the fitted search, and how long it took."""
    net = TorchClassifier(max_iter=20, random_state=0).set_callbacks(EpochEnds(ended))
    start = perf_counter()
    return GridSearchCV(net, GRID, cv=3, refit=False).fit(X, y), perf_counter() - start


ended = {"one by one": [], "together": []}
alone, seconds_alone = search(ended["one by one"])
with joblib.parallel_config("torchsk"):
    stacked, seconds_stacked = search(ended["together"])

# %%
# The same scores
# ---------------
# Each fit draws the weights and the batches that it draws alone. Sums are taken in another order,
# so the weights agree to float32 rounding, and a test row may fall on the other side.
score_gap = np.abs(alone.cv_results_["mean_test_score"] - stacked.cv_results_["mean_test_score"])
print(f"best alone:    {alone.best_params_}, accuracy {alone.best_score_:.3f}")
print(f"best together: {stacked.best_params_}, accuracy {stacked.best_score_:.3f}")
print(f"largest difference of a mean score: {score_gap.max():.4f}")
print(f"this search, on this machine: {seconds_alone:.1f} s and {seconds_stacked:.1f} s")

# %%
# Side by side
# ------------
# Which fit ends an epoch, in the order in which epochs end. One by one, a fit ends all of its
# epochs before the next one begins. Together, every fit of the stack ends its first epoch before
# any ends its second. (A stack is as large as the processor's cache allows; the other fits make a
# second one.)
together = {}
figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained", sharey=True)
for ax, (name, fits) in zip(axes, ended.items()):
    numbers = {fit: number for number, fit in enumerate(dict.fromkeys(fits), start=1)}
    order = [numbers[fit] for fit in fits]
    together[name] = order.index(1, 1)  # epochs from the first fit's first to its second
    ax.scatter(range(1, len(order) + 1), order, s=6)
    ax.set_title(f"{name}: {together[name]} in training at once", fontsize=15)
    ax.set_xlabel("epochs ended", fontsize=14)
axes[0].set_ylabel("fit", fontsize=14)
plt.show()
