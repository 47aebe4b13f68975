"""
BCELoss, CrossEntropyLoss and NLLLoss agree
===========================================

torch has three losses for two classes, and each wants something else from the network: ``BCELoss``
a probability, ``CrossEntropyLoss`` one number per class, ``NLLLoss`` the logarithms of the
probabilities. All three mean the same, and torchsk picks the end of the network to fit.
"""

# %%
# The end follows from the loss
# -----------------------------
# The same data and three losses. ``out_activation_`` says what the network ends in, ``n_outputs_``
# how many outputs it has. Without hidden layer there is one best classifier, and L-BFGS finds it.
# (The penalty is twice as large where two outputs share what one output does alone.)
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from torch import nn

from torchsk import TorchClassifier

X, y = load_breast_cancer(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)

PENALTIES = {nn.BCELoss: 1.0, nn.CrossEntropyLoss: 2.0, nn.NLLLoss: 2.0}
rows, probabilities = [], {}
for loss, alpha in PENALTIES.items():
    net = TorchClassifier(
        hidden_layer_sizes=(),
        loss=loss,
        solver="lbfgs",
        alpha=alpha,
        tol=1e-8,
        max_iter=2000,
        random_state=0,
    ).fit(X_train, y_train)
    probabilities[loss.__name__] = net.predict_proba(X_test)[:, 1]
    rows.append(
        {
            "loss": loss.__name__,
            "ends in": net.out_activation_,
            "outputs": net.n_outputs_,
            "test accuracy": net.score(X_test, y_test),
        }
    )
print(pd.DataFrame(rows).to_string(index=False, float_format="%.4f"))

values = np.array(list(probabilities.values()))
largest_gap = np.ptp(values, axis=0).max()
print(f"largest difference between the probabilities: {largest_gap:.1e}")

# %%
# Your own module must end accordingly
# ------------------------------------
# A module of your own returns what its loss expects. Here one network has three endings: its
# output z becomes a probability, the two numbers (0, z), or the logarithms of their softmax.
# Started alike, all three are trained to the same classifier by gradient descent.


class Ending(nn.Module):
    """A network with one output z, and what the loss asks for made of it."""

    def __init__(self, n_features, ending):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(n_features, 15), nn.ReLU(), nn.Linear(15, 1))
        self.ending = ending

    def forward(self, X):
        """Return a probability (n, 1), or two columns."""
        z = self.body(X)
        return self.ending(z)


def as_two(z):
    """Return (0, z): the softmax of these is the sigmoid of z."""
    return torch.cat([torch.zeros_like(z), z], dim=1)


ENDINGS = {
    nn.BCELoss: torch.sigmoid,
    nn.CrossEntropyLoss: as_two,
    nn.NLLLoss: lambda z: as_two(z).log_softmax(dim=1),
}
own = {}
for loss, ending in ENDINGS.items():
    net = TorchClassifier(
        module=Ending,
        module_params={"n_features": X.shape[1], "ending": ending},
        loss=loss,
        standardize=True,
        max_iter=40,
        random_state=0,
    ).fit(X_train, y_train)
    own[loss.__name__] = net.predict_proba(X_test)[:, 1]
    print(f"{loss.__name__:18}test accuracy {net.score(X_test, y_test):.3f}")

own_gap = np.ptp(np.array(list(own.values())), axis=0).max()
print(f"largest difference between the probabilities: {own_gap:.1e}")

# %%
# The test rows, sorted by their probability under ``BCELoss``: the three curves are one.
figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
for ax, title, curves in zip(axes, ["built-in network", "own module"], [probabilities, own]):
    order = np.argsort(curves["BCELoss"])
    for (name, curve), marker, size in zip(curves.items(), "os.", [9, 6, 3]):
        ax.plot(curve[order], marker, markersize=size, label=name, markerfacecolor="none")
    ax.set(title=title, xlabel="test row, sorted")
axes[0].set(ylabel="probability of class 1")
axes[0].legend()
plt.show()
