"""
The gradients agree with autograd, in every dtype
=================================================

torchsk computes the gradients of its networks by formula, without automatic differentiation. This
page checks them against torch's autograd, through the public interface alone. Then it feeds the
same numbers in every dtype.
"""

# %%
# One step is one gradient
# ------------------------
# ``partial_fit`` makes one epoch, and where one batch holds all rows, an epoch is one step. With
# rate 1 and all else switched off, the weights before minus the weights after are the gradient.
# ``module_`` is the same network in plain torch, for autograd to differentiate.
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_diabetes, load_iris
from torch import nn

from torchsk import TorchClassifier, TorchRegressor

PLAIN = {"momentum": 0, "alpha": 0, "dropout": 0, "max_grad_norm": None, "standardize": False}


def gradient_gap(net, X, y, torch_loss):
    """Return the largest difference from autograd, relative to the largest gradient."""
    net.set_params(learning_rate_init=1.0, batch_size=len(X), random_state=0, **PLAIN)
    net.partial_fit(X, y, **({"classes": np.unique(y)} if hasattr(net, "predict_proba") else {}))
    before, module = [*net.coefs_, *net.intercepts_], net.module_.double()
    net.partial_fit(X, y)
    after = [*net.coefs_, *net.intercepts_]

    torch_loss(module(torch.from_numpy(X)).squeeze(1), torch.from_numpy(y)).backward()
    linear = [layer for layer in module if isinstance(layer, nn.Linear)]
    gradients = [layer.weight.grad.numpy().T for layer in linear]
    gradients += [layer.bias.grad.numpy() for layer in linear]
    gaps = [np.abs(old - new - g).max() for old, new, g in zip(before, after, gradients)]
    return max(gaps) / max(np.abs(g).max() for g in gradients)


# %%
# Every activation, five losses
# -----------------------------
# Beside each loss of torchsk stands what it is in torch. float32 has about seven digits, and no
# gradient differs by more than rounding.
ACTIVATIONS = ["identity", "logistic", "tanh", "hardtanh", "hardsigmoid"]
ACTIVATIONS += ["relu", "relu6", "leaky_relu", "elu", "selu"]
ACTIVATIONS += ["gelu", "silu", "mish", "softplus", "softsign"]

iris, species = load_iris(return_X_y=True)
iris = (iris - iris.mean(axis=0)) / iris.std(axis=0)
diabetes, progression = load_diabetes(return_X_y=True)
diabetes, progression = diabetes / diabetes.std(), progression / progression.std()


def half_squared_error(raw, target):
    """Return scikit-learn's squared error."""
    return 0.5 * nn.functional.mse_loss(raw, target)


CASES = {
    "log_loss, two classes": (TorchClassifier, iris, 1.0 * (species > 0), nn.BCEWithLogitsLoss()),
    "log_loss, three classes": (TorchClassifier, iris, species, nn.CrossEntropyLoss()),
    "squared_error": (TorchRegressor, diabetes, progression, half_squared_error),
    "huber": (TorchRegressor, diabetes, progression, nn.HuberLoss()),
    "poisson": (TorchRegressor, diabetes, progression, nn.PoissonNLLLoss()),
}
gaps = {
    name: [
        gradient_gap(
            estimator(name.split(",")[0], (8, 5), activation)
            if estimator is TorchRegressor
            else estimator((8, 5), activation, loss=name.split(",")[0]),
            X,
            y,
            torch_loss,
        )
        for activation in ACTIVATIONS
    ]
    for name, (estimator, X, y, torch_loss) in CASES.items()
}
largest_gap = max(map(max, gaps.values()))
print(f"largest difference, relative to the gradient: {largest_gap:.1e}")

figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
for (name, values), marker in zip(gaps.items(), "os^vD"):
    ax.plot(ACTIVATIONS, values, marker, markersize=5, label=name)
ax.axhline(np.finfo(np.float32).eps, color="0.6", linestyle=":", label="one float32 rounding")
ax.set(yscale="log", ylim=(1e-9, 1e-3), ylabel="relative difference")
ax.tick_params("x", rotation=45)
ax.legend(ncols=2)
plt.show()

# %%
# Any numeric dtype
# -----------------
# Layers of torch refuse a float64 array, and its losses an integer target. The estimators convert:
# whatever numeric dtype comes in, training runs in float32, and predictions come back in float64,
# or in float32 for float32 X.
X, y = load_iris(return_X_y=True)
X = np.round(10 * X)  # whole numbers, to be the same in every dtype

predictions = {}
for dtype in ["float64", "float32", "float16", "int64", "int32", "int8", "uint8"]:
    for y_dtype in ["float64", "float32", "int64", "uint8"]:
        net = TorchRegressor(hidden_layer_sizes=(5,), random_state=0)
        net.fit(X.astype(dtype), y.astype(y_dtype))
        predictions[dtype, y_dtype] = net.predict(X.astype(dtype))
    print(f"{dtype:8} -> {predictions[dtype, 'int64'].dtype}")

reference = predictions["float64", "float64"]
dtype_gap = max(np.abs(values - reference).max() for values in predictions.values())
print(f"largest difference between the predictions: {dtype_gap:.1e}")
