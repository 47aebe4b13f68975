"""
A target in the millions, unscaled
==================================

Prices around three million, as they are. ``StandardScaler`` in a pipeline scales the features and
leaves the target alone; ``MLPRegressor`` then does not get anywhere near it. ``TorchRegressor``
scales both by itself.
"""

# %%
# Made prices
# -----------
# Friedman's function of five features, five more that say nothing, and noise: prices from one to
# five million.
import warnings

import matplotlib.pyplot as plt
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import make_friedman1
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from torchsk import TorchRegressor

warnings.simplefilter("ignore", ConvergenceWarning)  # MLPRegressor's, at 200 epochs

X, y = make_friedman1(1000, noise=1.0, random_state=0)
y = 1e6 + 1.4e5 * y
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
print(f"prices: mean {y.mean():.2e}, standard deviation {y.std():.1e}")

# %%
# R2 on held-out rows
# -------------------
# Every parameter is the default. 1 is perfect, 0 is the mean price for everybody, and below zero is
# worse than that. What helps MLPRegressor is to scale the target too, with
# ``TransformedTargetRegressor`` around the pipeline.
mlp = make_pipeline(StandardScaler(), MLPRegressor(random_state=0))
models = {
    "MLPRegressor": mlp,
    "MLPRegressor, target scaled": TransformedTargetRegressor(mlp, transformer=StandardScaler()),
    "TorchRegressor": TorchRegressor(random_state=0),
}
scores = {name: model.fit(X_train, y_train).score(X_test, y_test) for name, model in models.items()}
for name, score in scores.items():
    print(f"{name:28}R2 {score:.2f}")

# %%
# After 200 epochs the MLP still predicts prices close to zero: at its rate of 0.001 the weights of
# the output cannot grow to millions in that time.
figure, axes = plt.subplots(1, 2, figsize=(10, 4.8), layout="constrained", sharey=True)
for ax, name in zip(axes, ["MLPRegressor", "TorchRegressor"]):
    ax.scatter(models[name].predict(X_test) / 1e6, y_test / 1e6, alpha=0.5)
    ax.plot([0, 5], [0, 5], color="black", linestyle="--")
    ax.set_title(f"{name}: R2 {scores[name]:.2f}", fontsize=15)
    ax.set_xlabel("predicted (millions)", fontsize=14)
axes[0].set_ylabel("price (millions)", fontsize=14)
plt.show()
