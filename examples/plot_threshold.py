"""
A threshold that pays, probabilities that hold
==============================================

``predict`` says yes from a probability of one half. Where a miss costs more than a false alarm,
that is the wrong place: ``TunedThresholdClassifierCV`` finds a better one. And where probabilities
themselves are needed, ``CalibratedClassifierCV`` puts right what class weights have shifted.
"""

# %%
# A miss costs ten false alarms
# -----------------------------
# One row in ten is positive. Everything is done on three data sets, made alike with other seeds.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV, CalibrationDisplay
from sklearn.datasets import make_classification
from sklearn.metrics import brier_score_loss, confusion_matrix, make_scorer
from sklearn.model_selection import (
    FixedThresholdClassifier,
    TunedThresholdClassifierCV,
    train_test_split,
)

from torchsk import TorchClassifier


def gain(y_true, y_pred):
    """Return minus the cost of the errors per row."""
    _, false_alarms, misses, _ = confusion_matrix(y_true, y_pred).ravel()
    return -(false_alarms + 10 * misses) / len(y_true)


SETTINGS = {"n_features": 10, "n_informative": 5, "weights": [0.9], "flip_y": 0, "class_sep": 0.5}
data_sets = []
for seed in range(3):
    X, y = make_classification(5000, random_state=seed, **SETTINGS)
    data_sets.append(train_test_split(X, y, test_size=0.5, stratify=y, random_state=0))


def print_row(name, values):
    """Print the mean, the lowest and the highest of some numbers."""
    print(f"{name:28}{np.mean(values):.3f}  ({min(values):.3f} to {max(values):.3f})")


# %%
# Five ways to decide
# -------------------
# A threshold is found in cross-validation on the training rows, or computed: if the probabilities
# are right, a yes pays from 1 / (1 + 10) on, and ``FixedThresholdClassifier`` sets such a number.
net = TorchClassifier(random_state=0)
balanced = TorchClassifier(class_weight="balanced", random_state=0)
classifiers = {
    "threshold 0.5": net,
    "tuned threshold": TunedThresholdClassifierCV(
        net, scoring=make_scorer(gain), cv=3, random_state=0
    ),
    "threshold 1/11": FixedThresholdClassifier(net, threshold=1 / 11),
    "balanced": balanced,
    "balanced, calibrated": CalibratedClassifierCV(balanced, cv=3),
}
costs, brier = {}, {}
targets = np.concatenate([y_test for *_, y_test in data_sets])
probabilities = {}
for name, classifier in classifiers.items():
    fitted = [clone(classifier).fit(X_train, y_train) for X_train, _, y_train, _ in data_sets]
    tests = [(X_test, y_test) for _, X_test, _, y_test in data_sets]
    costs[name] = [-gain(y, one.predict(X)) for one, (X, y) in zip(fitted, tests)]
    probability = [one.predict_proba(X)[:, 1] for one, (X, _) in zip(fitted, tests)]
    brier[name] = [brier_score_loss(y, p) for (_, y), p in zip(tests, probability)]
    probabilities[name] = np.concatenate(probability)

# %%
# The threshold
# -------------
# Costs per test row: the mean of the data sets, the lowest and the highest. On each of them either
# threshold costs much less than one half.
for name in ["threshold 0.5", "tuned threshold", "threshold 1/11"]:
    print_row(name, costs[name])

# %%
# Probabilities
# -------------
# A threshold needs no class weights. With them the network takes positives for as frequent as
# negatives, and says so: its probabilities are far too high. ``CalibratedClassifierCV`` learns to
# translate them back, in cross-validation. Without weights there is little to translate. The Brier
# score is the mean squared error of the probabilities: 0 is perfect.
calibrations = {"no weights": "threshold 0.5", "balanced": "balanced"}
calibrations["balanced, calibrated"] = "balanced, calibrated"
for label, name in calibrations.items():
    print_row(label, brier[name])

# %%
# The test rows of all data sets together, in six bins of the probability:
figure, ax = plt.subplots(figsize=(6.5, 5.5), layout="constrained")
for (label, name), marker in zip(calibrations.items(), "os^"):
    CalibrationDisplay.from_predictions(
        targets, probabilities[name], n_bins=6, name=label, marker=marker, ax=ax
    )
ax.set_xlabel("predicted probability", fontsize=14)
ax.set_ylabel("share of positives", fontsize=14)
ax.legend(fontsize=12)
plt.show()
