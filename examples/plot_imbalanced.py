"""
Rare classes: what class_weight changes
=======================================

Five rows in a hundred are positive. A network that answers "negative" to all is right 95 times in
a hundred, and useless. ``class_weight="balanced"`` lets every class count the same: more of the
rare rows are found, and more of the others are taken for one.
"""

# %%
# Five in a hundred, three times
# ------------------------------
# Data sets of 6000 made rows, alike but for the seed that they are made with, each split so that
# both parts have their share of positives.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_classification
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    precision_score,
    recall_score,
)
from sklearn.model_selection import train_test_split

from torchsk import TorchClassifier

METRICS = {
    "accuracy": accuracy_score,
    "balanced accuracy": balanced_accuracy_score,
    "recall": recall_score,
    "precision": precision_score,
}
SETTINGS = {"n_features": 10, "n_informative": 5, "weights": [0.95], "flip_y": 0, "class_sep": 0.7}

# %%
# With and without weights
# ------------------------
# ``"balanced"`` multiplies the loss of a row by n_samples / (n_classes * rows of its class), as
# everywhere in scikit-learn. A dict such as ``{0: 1, 1: 10}`` sets the weights by hand.
scores = {
    name: {metric: np.zeros(3) for metric in [*METRICS, "average precision"]}
    for name in ["no weights", "balanced"]
}
for seed in range(3):
    X, y = make_classification(6000, random_state=seed, **SETTINGS)
    X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)
    for name, class_weight in zip(scores, [None, "balanced"]):
        net = TorchClassifier(class_weight=class_weight, random_state=0).fit(X_train, y_train)
        for metric, score in METRICS.items():
            scores[name][metric][seed] = score(y_test, net.predict(X_test))
        probability = net.predict_proba(X_test)[:, 1]
        scores[name]["average precision"][seed] = average_precision_score(y_test, probability)

print(f"{'':19}no weights   balanced   change")
for metric, plain in scores["no weights"].items():
    balanced = scores["balanced"][metric]
    change = f"{(balanced - plain).min():+.2f} to {(balanced - plain).max():+.2f}"
    print(f"{metric:19}{plain.mean():10.3f} {balanced.mean():10.3f}   {change}")

# %%
# The price
# ---------
# The table has the means over the three data sets, and the smallest and the largest change. On each
# of them weights find more of the positives (recall), and take more negatives for one (precision,
# accuracy). How well the rows are ranked, whatever the threshold, is the average
# precision: it hardly falls, and may rise. To choose by yourself how many positives are found, see
# :ref:`sphx_glr_auto_examples_plot_threshold.py`. Bars are means, lines reach from the lowest to
# the highest of the three.
figure, ax = plt.subplots(figsize=(6.5, 4.5), layout="constrained")
for offset, (name, values) in zip([-0.2, 0.2], scores.items()):
    means = np.array([one.mean() for one in values.values()])
    ends = [means - [one.min() for one in values.values()]]
    ends += [[one.max() for one in values.values()] - means]
    positions = np.arange(len(means)) + offset
    ax.barh(positions, means, height=0.38, xerr=ends, error_kw={"capsize": 4}, label=name)
ax.set_yticks(range(len(means)), list(values))
ax.invert_yaxis()
ax.set(xlim=(0, 1), xlabel="mean of three data sets")
figure.legend(loc="outside upper center", ncols=2)
plt.show()
