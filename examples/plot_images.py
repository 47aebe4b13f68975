"""
Classify images with a small convolutional network
==================================================

scikit-learn's networks take tables: an image has to be flattened, and which pixels are neighbours
is forgotten. With ``module=`` images keep their shape. Here both read the same handwritten digits.
"""

# %%
# Images, not rows
# ----------------
# 1797 digits of 8 x 8 pixels. A convolution of torch wants the axis of channels second, so X has
# four axes: (n_samples, channels, height, width). The dtype is free: these are bytes, as in a file
# of images, and reach the module in batches of float32.
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold, cross_validate
from torch import nn

from torchsk import TorchClassifier

# sphinx_gallery_thumbnail_number = 2

torch.set_num_threads(1)  # a second thread does not pay for layers as small as these

digits = load_digits()
X, y = digits.images[:, None].astype(np.uint8), digits.target
print(X.shape, X.dtype)

# %%
# The module
# ----------
# Two convolutions with batch normalisation, dropout, then one linear layer. A function that names
# ``input_shape`` or ``n_outputs`` is told them when it is called; ``input_shape`` is
# ``X.shape[1:]``.


def convolutional(input_shape, n_outputs, n_filters=8):
    """Return the network for images of this shape."""
    channels, height, width = input_shape
    return nn.Sequential(
        nn.Conv2d(channels, n_filters, kernel_size=3, padding=1),
        nn.BatchNorm2d(n_filters),
        nn.ReLU(),
        nn.Conv2d(n_filters, 2 * n_filters, kernel_size=3, padding=1),
        nn.BatchNorm2d(2 * n_filters),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Linear(2 * n_filters * (height // 2) * (width // 2), n_outputs),
    )


# %%
# Next to the built-in network
# ----------------------------
# Five folds, so that every digit is in one test set; a single lucky split would prove nothing. The
# built-in network gets the same images, flattened.
splits = StratifiedKFold(n_splits=5, shuffle=True, random_state=0)
runs = {
    "built-in, flattened": cross_validate(
        TorchClassifier(random_state=0), X.reshape(len(X), -1), y, cv=splits
    ),
    "convolutional": cross_validate(
        TorchClassifier(module=convolutional, max_iter=8, random_state=0),
        X,
        y,
        cv=splits,
        return_estimator=True,
        return_indices=True,
    ),
}
scores = {name: run["test_score"] for name, run in runs.items()}
for name, accuracies in scores.items():
    seconds = runs[name]["fit_time"].mean()
    print(f"{name:20} {accuracies.mean():.3f} +- {accuracies.std():.3f}, {seconds:.1f} s a fit")

# %%
# On average the convolutional network makes fewer errors, and it pays for that in time.
figure, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
for (name, accuracies), marker in zip(scores.items(), "os"):
    ax.plot(range(1, 6), accuracies, marker, label=f"{name}: mean {accuracies.mean():.3f}")
ax.set(xlabel="fold", ylabel="test accuracy", xticks=range(1, 6))
ax.legend()
plt.show()

# %%
# What it still misreads
# ----------------------
# Digits that the five networks got wrong in their own test set.
wrong = [
    (image[0], truth, answer)
    for net, test in zip(
        runs["convolutional"]["estimator"], runs["convolutional"]["indices"]["test"]
    )
    for image, truth, answer in zip(X[test], y[test], net.predict(X[test]))
    if answer != truth
]
figure, axes = plt.subplots(2, 8, figsize=(8, 2.8), layout="constrained")
for ax, (image, truth, answer) in zip(axes.flat, wrong):
    ax.imshow(image, cmap="gray_r")
    ax.set_title(f"{truth} read as {answer}", fontsize=8)
for ax in axes.flat:
    ax.axis("off")
plt.show()
