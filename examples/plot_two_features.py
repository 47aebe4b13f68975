"""
Two features: why plain gradient descent is slow
================================================

Malignant or not, from the mean radius and texture of a tumour's cells alone: a logistic
regression, then a network with two hidden neurons, both trained by a great many small steps.
And a look at why so many.
"""

# %%
# Training, validation and test rows
# ----------------------------------
# 60% of the rows to train on, 20% to watch, 20% to test. The features stay in their own units.
import warnings
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer
from sklearn.exceptions import ConvergenceWarning
from sklearn.inspection import DecisionBoundaryDisplay
from sklearn.model_selection import train_test_split

from torchsk import LossCurveDisplay, TorchClassifier

# sphinx_gallery_thumbnail_number = 2

warnings.simplefilter("ignore", ConvergenceWarning)  # the number of steps is given

data = load_breast_cancer(as_frame=True)
X = data.data[["mean radius", "mean texture"]]
y = 1 - data.target  # 1 is malignant
X_train, X_rest, y_train, y_rest = train_test_split(X, y, test_size=0.4, random_state=0)
X_val, X_test, y_val, y_test = train_test_split(X_rest, y_rest, test_size=0.5, random_state=0)

rows = {}


def fit_and_note(name, net):
    """Fit, and note how long it took and how good it is."""
    start = perf_counter()
    net.fit(X_train, y_train, X_val=X_val, y_val=y_val)
    rows[name] = {
        "steps": net.n_iter_,
        "seconds": perf_counter() - start,
        "training loss": net.loss_curve_[-1],
        "validation loss": net.validation_loss_curve_[-1],
        "test error": 1 - net.score(X_test, y_test),
    }
    return net


# %%
# Logistic regression
# -------------------
# Gradient descent with rate 0.01 on all rows at once. ``early_stopping`` with ``scoring="loss"``
# ends it when the loss of the validation rows no longer falls by ``tol``. In the features' own
# units it does not come to that in 2000 steps, and 100,000 steps would end at a training loss of
# 0.297. Scaled to spread 1, it stops by itself.
PLAIN_DESCENT = {
    "loss": "bce",
    "learning_rate": "constant",
    "learning_rate_init": 0.01,
    "momentum": 0,
    "alpha": 0,
    "dropout": 0,
    "max_grad_norm": None,
    "batch_size": len(X_train),
    "random_state": 0,
}
STOP = {"early_stopping": True, "scoring": "loss", "tol": 1.5e-6, "n_iter_no_change": 1}

logistic = {
    "own units": TorchClassifier((), standardize=False, max_iter=2000, **PLAIN_DESCENT, **STOP),
    "scaled": TorchClassifier((), standardize=True, max_iter=100_000, **PLAIN_DESCENT, **STOP),
}
for name, net in logistic.items():
    fit_and_note(f"logistic, {name}", net)

# %%
# Two hidden neurons
# ------------------
# 2 -> 2 -> 1 with sigmoids, all weights drawn from a normal distribution (``init="normal"``), and
# no stopping rule: 2000 steps with rate 0.05. With 300,000 steps and rate 0.01 the training loss is
# 0.290 in own units and 0.266 scaled, with 10.5% and 8.8% of the test rows wrong.
FOREVER = {"learning_rate_init": 0.05, "tol": 0, "n_iter_no_change": np.inf, "max_iter": 2000}

hidden = {
    name: TorchClassifier(
        (2,), "logistic", init="normal", standardize=scale, **{**PLAIN_DESCENT, **FOREVER}
    )
    for name, scale in {"own units": False, "scaled": True}.items()
}
for name, net in hidden.items():
    fit_and_note(f"two hidden neurons, {name}", net)

# %%
# Radius and texture are around 14 and 19, and gradient descent is slow where inputs lie far from
# zero: weights and intercept have to move together. torchsk scales its inputs unless told
# otherwise, and with its other defaults (momentum, mini-batches, a rate that rises to 0.2 and comes
# down) a few hundred steps do what took thousands. Only the penalty, which training losses
# include, is left out.
for name, sizes in {"logistic": (), "two hidden neurons": (2,)}.items():
    net = TorchClassifier(sizes, "logistic", alpha=0, random_state=0)
    fit_and_note(f"{name}, defaults", net)
    rows[f"{name}, defaults"]["steps"] *= -(-len(X_train) // net.batch_size_)
table = pd.DataFrame(rows).T.astype({"steps": int})
print(table.to_string(float_format="%.3f"))

LOSS_CURVES = ["loss_curve_", "validation_loss_curve_"]
figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained", sharey=True)
for ax, (title, nets) in zip(
    axes, {"logistic regression": logistic, "two hidden neurons": hidden}.items()
):
    losses = {
        name: {curve: np.array(getattr(net, curve)) for curve in LOSS_CURVES}
        for name, net in nets.items()
    }
    LossCurveDisplay(curves=losses).plot(ax)
    ax.set(title=title, xscale="log", xlabel="step", ylim=(0.15, 0.85))
plt.show()

# %%
# The rule
# --------
# Where the scaled network says malignant, for every radius and texture from 5 to 35, with the rows
# it learnt from. Where no row is near, the rule is a guess.
corners = pd.DataFrame([[5, 5], [35, 35]], columns=X.columns)

figure, ax = plt.subplots(figsize=(7, 5.5), layout="constrained")
for method, style in {
    "contourf": {"levels": 20, "cmap": "RdBu_r", "alpha": 0.5, "vmin": 0, "vmax": 1},
    "contour": {"levels": [0.5], "colors": "black"},
}.items():
    rule = DecisionBoundaryDisplay.from_estimator(
        hidden["scaled"],
        corners,
        eps=0,
        grid_resolution=200,
        response_method="predict_proba",
        plot_method=method,
        ax=ax,
        **style,
    )
for label, marker, color in [("benign", "o", "tab:blue"), ("malignant", "^", "tab:red")]:
    points = X_train[y_train == (label == "malignant")]
    ax.scatter(*points.to_numpy().T, s=24, marker=marker, c=color, edgecolors="white", label=label)
ax.legend(loc="upper right")
plt.show()
