"""
Write your own module, loss and callback
========================================

A network of your own is an ``nn.Module``, a loss of your own a function. Here both are as small as
they can be: two parameters, fitted to 1000 points by gradient descent, every step recorded.
"""

# %%
# Two parameters
# --------------
# y is 2 x1 - x2, plus noise. The module has one parameter ``theta`` of two values that start at
# zero, and no intercept; the loss is the root of the mean squared error.
import warnings

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression
from skorch.callbacks import Callback
from torch import nn

from torchsk import TorchRegressor

warnings.simplefilter("ignore", ConvergenceWarning)  # the number of steps is given

rng = np.random.RandomState(0)
X = rng.rand(1000, 2)
y = X @ np.array([2, -1]) + rng.randn(1000)


class Theta(nn.Module):
    """y = x . theta."""

    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(2))

    def forward(self, X):
        """Return (n_samples, 1)."""
        return (X @ self.theta).unsqueeze(1)


def root_mean_squared_error(raw, target):
    """Return one number for the whole batch."""
    return (raw - target).square().mean().sqrt()


# %%
# A callback of skorch's sees the net before every epoch; this one writes the parameters down. The
# estimator copies what it is given, so the trace is a list outside.
class Trace(Callback):
    """Records the parameters before every step."""

    def __init__(self, into):
        self.into = into

    def on_epoch_begin(self, net, **kwargs):
        """Append a copy of all parameters."""
        parameters = [p.detach().flatten().clone() for p in net.module_.parameters()]
        self.into.append(torch.cat(parameters).numpy())


# %%
# Ten steps of plain gradient descent with rate 1
# -----------------------------------------------
PLAIN_DESCENT = {
    "learning_rate": "constant",
    "learning_rate_init": 1.0,
    "momentum": 0,
    "alpha": 0,
    "max_grad_norm": None,
    "batch_size": len(X),
    "tol": 0,
}
trace = []
net = TorchRegressor(
    module=Theta,
    loss=root_mean_squared_error,
    skorch_callbacks=[Trace(trace)],
    max_iter=10,
    **PLAIN_DESCENT,
).fit(X, y)
for step, (first, second) in enumerate(trace):
    print(f"step {step}: theta = ({first:5.2f}, {second:5.2f})")

# %%
# With an intercept
# -----------------
# ``nn.Linear`` is a class that takes the number of features and of outputs: it can be given as it
# is. Its weights start at random, and where they are after ten steps depends on the start. A
# hundred steps take them to least squares from anywhere.
linear_trace = []
linear = TorchRegressor(
    module=nn.Linear,
    loss=root_mean_squared_error,
    skorch_callbacks=[Trace(linear_trace)],
    max_iter=100,
    random_state=57,
    **PLAIN_DESCENT,
).fit(X, y)
for step in (0, 10, 99):
    first, second, intercept = linear_trace[step]
    print(f"step {step:2}: weights ({first:5.2f}, {second:5.2f}), intercept {intercept:5.2f}")
least_squares = LinearRegression().fit(X, y)
first, second = least_squares.coef_
print(f"least squares    ({first:5.2f}, {second:5.2f}), intercept {least_squares.intercept_:5.2f}")

# %%
# The first ten steps of both, over the loss as it is without intercept.
best = np.linalg.lstsq(X, y)[0]
a, b = np.meshgrid(np.linspace(-0.5, 2.4, 60), np.linspace(-1.4, 0.8, 60))
surface = np.sqrt(((a[..., None] * X[:, 0] + b[..., None] * X[:, 1] - y) ** 2).mean(axis=-1))

figure, ax = plt.subplots(figsize=(7, 5), layout="constrained")
lines = ax.contour(a, b, surface, levels=15, cmap="Greys_r", linewidths=0.8)
ax.clabel(lines, fontsize=7)
ax.plot(*np.array(trace).T, "o-", label="theta, no intercept")
ax.plot(*np.array(linear_trace)[:11, :2].T, "s-", label="nn.Linear")
ax.plot(*best, "*", color="black", markersize=13, label="least squares, no intercept")
ax.set(xlabel="first weight", ylabel="second weight")
ax.legend()
plt.show()
