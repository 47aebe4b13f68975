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
# One row in ten is positive.
import matplotlib.pyplot as plt
from sklearn.calibration import CalibratedClassifierCV, CalibrationDisplay
from sklearn.datasets import make_classification
from sklearn.metrics import brier_score_loss, confusion_matrix, make_scorer
from sklearn.model_selection import TunedThresholdClassifierCV, train_test_split

from torchsk import TorchClassifier

X, y = make_classification(
    5000, n_features=10, n_informative=5, weights=[0.9], flip_y=0, class_sep=0.5, random_state=0
)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.5, stratify=y, random_state=0)


def gain(y_true, y_pred):
    """Return minus the cost of the errors per row."""
    _, false_alarms, misses, _ = confusion_matrix(y_true, y_pred).ravel()
    return -(false_alarms + 10 * misses) / len(y_true)


# %%
# The threshold
# -------------
# Found in cross-validation on the training rows, then measured on the test rows. Its network is
# fitted again on all training rows and is the same as the one without.
net = TorchClassifier(random_state=0).fit(X_train, y_train)
tuned = TunedThresholdClassifierCV(
    TorchClassifier(random_state=0), scoring=make_scorer(gain), cv=3, random_state=0
).fit(X_train, y_train)
costs = {
    "threshold 0.5": -gain(y_test, net.predict(X_test)),
    f"threshold {tuned.best_threshold_:.2f}": -gain(y_test, tuned.predict(X_test)),
}
for name, cost in costs.items():
    print(f"{name:16}cost per row {cost:.3f}")

# %%
# Probabilities
# -------------
# A threshold needs no class weights. With them the network takes positives for as frequent as
# negatives, and says so: its probabilities are far too high. ``CalibratedClassifierCV`` learns to
# translate them back, in cross-validation. Without weights there is little to translate.
balanced = TorchClassifier(class_weight="balanced", random_state=0)
classifiers = {
    "no weights": net,
    "balanced": balanced.fit(X_train, y_train),
    "balanced, calibrated": CalibratedClassifierCV(balanced, cv=3).fit(X_train, y_train),
}
brier = {
    name: brier_score_loss(y_test, classifier.predict_proba(X_test)[:, 1])
    for name, classifier in classifiers.items()
}
for name, score in brier.items():
    print(f"{name:22}Brier score {score:.4f} (0 is perfect)")

figure, ax = plt.subplots(figsize=(6.5, 5.5), layout="constrained")
for (name, classifier), marker in zip(classifiers.items(), "os^"):
    CalibrationDisplay.from_estimator(
        classifier, X_test, y_test, n_bins=6, name=name, marker=marker, ax=ax
    )
ax.set_xlabel("predicted probability", fontsize=14)
ax.set_ylabel("share of positives", fontsize=14)
ax.legend(fontsize=12)
plt.show()
