"""
What hidden neurons and activations add
=======================================

A network with one neuron and no activation is a straight line. With several neurons and an
activation it bends; with several layers and no activation it is still a line.
"""

# %%
# One neuron
# ----------
# ``hidden_layer_sizes=()`` leaves the output neuron only: one weight, one intercept. The other
# parameters undo what torchsk adds to plain gradient descent (momentum, a schedule of the rate,
# penalty, clipping and scaling), and one batch holds all rows, so the 20 epochs are 20 steps.
# torchsk halves the squared error as scikit-learn does: a rate of 0.4 is one of 0.2 with
# ``nn.MSELoss`` in a loop of your own.
import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_regression
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import train_test_split

from torchsk import LossCurveDisplay, TorchRegressor

warnings.simplefilter("ignore", ConvergenceWarning)  # the number of epochs is given

X, y = make_regression(n_samples=100, n_features=1, noise=20, random_state=0)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.1, random_state=50)

PLAIN = {"momentum": 0, "alpha": 0, "max_grad_norm": None, "standardize": False}
neuron = TorchRegressor(
    hidden_layer_sizes=(),
    learning_rate="constant",
    learning_rate_init=0.4,
    batch_size=len(X_train),
    max_iter=20,
    random_state=0,
    **PLAIN,
).fit(X_train, y_train)
line = LinearRegression().fit(X_train, y_train)

for name, model in {"one neuron": neuron, "least squares": line}.items():
    train, test = model.score(X_train, y_train), model.score(X_test, y_test)
    print(f"{name:14}R2 {train:.4f} (training), {test:.4f} (test)")

# %%
# Twenty steps reach the least-squares line. (Ten test rows are few: with other splits the same
# line has a test R2 from 0.2 to 0.96.)
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
grid = np.linspace(X.min(), X.max(), 200).reshape(-1, 1)
left.scatter(X_train, y_train, s=14, label="training rows")
left.scatter(X_test, y_test, s=22, marker="s", color="C1", label="test rows")
left.plot(grid, neuron.predict(grid), color="black", label="one neuron")
left.set(xlabel="x", ylabel="y")
left.legend()
LossCurveDisplay.from_estimator(neuron, ax=right, name="one neuron")
plt.show()

# %%
# Several neurons
# ---------------
# Two features, three hidden neurons with a relu, one linear output: 2 -> 3 -> 1. The target is
# bent, so a line cannot follow it. With so few neurons the start decides how well the network
# does, as a relu that begins on its flat side stays there; the best of ten starts is kept.
rng = np.random.RandomState(0)
X_two = rng.uniform(-1, 1, (400, 2))
y_two = np.abs(X_two[:, 0] + X_two[:, 1]) + 0.05 * rng.randn(400)

starts = [
    TorchRegressor(hidden_layer_sizes=(3,), random_state=seed).fit(X_two, y_two)
    for seed in range(10)
]
several = min(starts, key=lambda net: net.loss_)
line_score = LinearRegression().fit(X_two, y_two).score(X_two, y_two)
print(f"R2 {several.score(X_two, y_two):.3f}; least squares {line_score:.3f}")
print("weights of the layers:", [coef.shape for coef in several.coefs_])

# %%
# Layers without an activation
# ----------------------------
# A linear layer on top of a linear layer is a linear layer: B(Ax) = (BA)x. The product of the
# weights of three such layers predicts what the network predicts.
stacked = TorchRegressor(hidden_layer_sizes=(8, 5), activation="identity", random_state=0)
stacked.fit(X_two, y_two)

A, B, C = stacked.coefs_
a, b, c = stacked.intercepts_
one_map = X_two @ (A @ B @ C) + ((a @ B + b) @ C + c)
collapse_gap = np.abs(one_map[:, 0] - stacked.predict(X_two)).max()
print(f"shape of the product: {(A @ B @ C).shape}, largest difference: {collapse_gap:.1e}")
