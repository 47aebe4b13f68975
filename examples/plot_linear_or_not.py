"""
When no straight line separates the classes
===========================================

Two data sets that no straight line separates: a ring around a disc, and two moons. A single
sigmoid neuron fails on the first and makes do on the second; two small hidden layers solve both.
"""

# %%
# Two networks
# ------------
# The linear one is 2 -> 1, the other 2 -> 4 -> 5 -> 1 with leaky relus. Both end in a sigmoid,
# because the loss is ``nn.BCELoss``, and both are trained by SGD with the default settings.
import matplotlib.pyplot as plt
from sklearn.base import clone
from sklearn.datasets import make_circles, make_moons
from sklearn.inspection import DecisionBoundaryDisplay
from sklearn.model_selection import train_test_split
from torch import nn

from torchsk import TorchClassifier

NETWORKS = {
    "linear": TorchClassifier(hidden_layer_sizes=(), loss=nn.BCELoss, random_state=0),
    "two hidden layers": TorchClassifier(
        hidden_layer_sizes=(4, 5),
        activation="leaky_relu",
        loss=nn.BCELoss,
        random_state=0,
    ),
}
DATA_SETS = {
    "ring": make_circles(400, noise=0.1, factor=0.4, random_state=0),
    "moons": make_moons(400, noise=0.2, random_state=0),
}

# %%
# Decision regions
# ----------------
# The shade is the predicted probability, the black line is where it is one half; the points are
# the test rows.
figure, axes = plt.subplots(2, 2, figsize=(9, 8), layout="constrained")
scores = {}
for row, (data_set, (X, y)) in zip(axes, DATA_SETS.items()):
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
    for ax, (name, network) in zip(row, NETWORKS.items()):
        net = clone(network).fit(X_train, y_train)
        scores[data_set, name] = net.score(X_test, y_test)
        for method, style in {
            "contourf": {"cmap": "RdBu", "levels": 20, "alpha": 0.5, "vmin": 0, "vmax": 1},
            "contour": {"colors": "black", "levels": [0.5], "linewidths": 1},
        }.items():
            DecisionBoundaryDisplay.from_estimator(
                net, X, response_method="predict_proba", plot_method=method, ax=ax, **style
            )
        ax.scatter(*X_test.T, c=y_test, cmap="RdBu", edgecolors="white", linewidths=0.6, s=36)
        ax.set(title=f"{data_set}, {name}\ntest accuracy {scores[data_set, name]:.2f}")
        ax.set(xticks=[], yticks=[])
plt.show()
