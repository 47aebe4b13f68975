"""
Choose an activation: each with its slope
=========================================

What a hidden neuron does with its input is one word: ``activation``. Here are all the words
torchsk knows, with the slope that backpropagation multiplies by.
"""

# %%
# The names
# ---------
# Besides these, ``activation`` takes a class of elementwise ``nn.Module`` without parameters, and
# a list gives each hidden layer its own.
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

from torchsk import TorchRegressor

NAMES = ["identity", "logistic", "tanh", "hardtanh", "hardsigmoid"]
NAMES += ["relu", "relu6", "leaky_relu", "elu", "selu"]
NAMES += ["gelu", "silu", "mish", "softplus", "softsign"]

# %%
# Drawn from fitted networks
# --------------------------
# ``module_`` is the fitted network in plain torch: a linear layer, the activation, a linear layer.
# torch's automatic differentiation gives the slope.
z = torch.linspace(-4, 4, 401, requires_grad=True)
x = np.linspace(-1, 1, 20)

curves = {}
for name in [*NAMES, nn.CELU]:
    net = TorchRegressor(hidden_layer_sizes=(1,), activation=name, random_state=0)
    net.partial_fit(x[:, None], x)
    values = net.module_[1](z)
    (slope,) = torch.autograd.grad(values.sum(), z)
    curves[name if isinstance(name, str) else f"nn.{name.__name__}"] = (
        values.detach().numpy(),
        slope.numpy(),
    )

figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
for color, name in enumerate(["relu", "gelu", "tanh", "logistic"]):
    values, slope = curves[name]
    ax.plot(z.detach(), values, color=f"C{color}", linewidth=2.5, label=name)
    ax.plot(z.detach(), slope, color=f"C{color}", linestyle="--")
ax.set(ylim=(-1.2, 2.2), xlabel="input (dashed: the slope)")
ax.legend(loc="upper left")
plt.show()

# %%
# And all of them:
figure, axes = plt.subplots(4, 4, figsize=(9, 9), layout="constrained", sharex=True, sharey=True)
for ax, (name, (values, slope)) in zip(axes.flat, curves.items(), strict=True):
    ax.axhline(0, color="0.85", zorder=0)
    ax.axvline(0, color="0.85", zorder=0)
    (value_line,) = ax.plot(z.detach(), values, label="activation")
    (slope_line,) = ax.plot(z.detach(), slope, linestyle="--", label="slope")
    ax.set(title=name, ylim=(-2, 4))
figure.legend(handles=[value_line, slope_line], loc="outside lower center", ncols=2)
plt.show()

# %%
# A slope near zero stops learning
# --------------------------------
# logistic and tanh are flat far from zero. Ten such layers multiply ten small slopes, and the first
# layer hardly moves; relu keeps a slope of 1 on one side. Below is how far one step of rate 1 moves
# the first layer's weights.
rng = np.random.RandomState(0)
X = rng.randn(200, 5)
y = X[:, 0]

moved = {}
for name in ["logistic", "tanh", "relu"]:
    net = TorchRegressor(
        hidden_layer_sizes=(20,) * 10,
        activation=name,
        learning_rate_init=1.0,
        batch_size=len(X),
        momentum=0,
        alpha=0,
        dropout=0,
        max_grad_norm=None,
        standardize=False,
        random_state=0,
    ).partial_fit(X, y)
    before = net.coefs_[0]
    moved[name] = np.linalg.norm(net.partial_fit(X, y).coefs_[0] - before)
    print(f"{name:10}{moved[name]:.1e}")
