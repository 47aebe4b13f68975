"""
Classify sequences, where the order matters
===========================================

A tone that rises and one that falls hold the same numbers, in opposite order. A network that slides
along the sequence hears the difference wherever the tone begins; one that sees a flat row must
learn it anew for every place.
"""

# %%
# Rising or falling
# -----------------
# 96 steps of noise, and in it, from a random step on and in a random phase, a tone of 24 steps. A
# falling tone is a rising one read backwards. X is (n_samples, steps, features), with one feature.
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

from torchsk import TorchClassifier

# sphinx_gallery_thumbnail_number = 2

torch.set_num_threads(1)  # a second thread does not pay for layers as small as these

STEPS, LENGTH = 96, 24
PHASES = 2 * np.pi * np.cumsum(np.linspace(0.05, 0.25, LENGTH))


def make_tones(n, seed, noise=0.5):
    """Return (n, STEPS, 1) sequences, and whether the tone in each rises."""
    rng = np.random.RandomState(seed)
    X, is_rising = noise * rng.normal(size=(n, STEPS, 1)), rng.randint(0, 2, n)
    for sequence, rises in zip(X[..., 0], is_rising):
        start = rng.randint(STEPS - LENGTH + 1)
        tone = np.sin(PHASES + rng.uniform(0, 2 * np.pi))
        sequence[start : start + LENGTH] += tone if rises else tone[::-1]
    return X, is_rising


X_test, y_test = make_tones(1000, seed=99)
tones, _ = make_tones(1000, seed=99, noise=0)

figure, axes = plt.subplots(2, 1, figsize=(7, 3.4), layout="constrained", sharex=True)
for ax, rises, name in zip(axes, (1, 0), ("rising", "falling")):
    ax.plot(X_test[y_test == rises][0], color="0.6", label="sequence")
    ax.plot(tones[y_test == rises][0], color="C3", label="the tone in it")
    ax.set_ylabel(name)
axes[0].legend(loc="upper left", fontsize=8)
axes[1].set_xlabel("step")
plt.show()

# %%
# The module
# ----------
# Two convolutions along time, and the largest response of each filter, wherever it is. Layers of
# torch differ in where they want the features: ``nn.Conv1d`` wants them before the steps,
# ``nn.GRU(batch_first=True)`` behind them.


class Convolutional(nn.Module):
    """Sequences (n_samples, steps, features) to raw outputs."""

    def __init__(self, input_shape, n_outputs, width=16):
        super().__init__()
        _, n_features = input_shape
        self.layers = nn.Sequential(
            nn.Conv1d(n_features, width, kernel_size=9, padding=4),
            nn.ReLU(),
            nn.Conv1d(width, width, kernel_size=9, padding=4),
            nn.ReLU(),
            nn.AdaptiveMaxPool1d(1),
            nn.Flatten(),
            nn.Linear(width, n_outputs),
        )

    def forward(self, X):
        """Return (n_samples, n_outputs)."""
        return self.layers(X.transpose(1, 2))


# %%
# Few sequences, and more
# -----------------------
# Each network learns from 100, 300 and 1000 sequences, twice each, from other sequences and
# other first weights.
SIZES, SEEDS = (100, 300, 1000), range(2)


def flat(X):
    """Return the sequences as rows of a table."""
    return X.reshape(len(X), -1)


convolutional = TorchClassifier(
    module=Convolutional, solver="adam", learning_rate_init=0.01, max_iter=12
)
scores = {"convolutional": [], "built-in, flattened": []}
for n in SIZES:
    of_convolutional, of_built_in = [], []
    for seed in SEEDS:
        X, y = make_tones(n, seed)
        convolutional.set_params(random_state=seed).fit(X, y)
        of_convolutional.append(convolutional.score(X_test, y_test))
        built_in = TorchClassifier(random_state=seed).fit(flat(X), y)
        of_built_in.append(built_in.score(flat(X_test), y_test))
    scores["convolutional"].append(np.mean(of_convolutional))
    scores["built-in, flattened"].append(np.mean(of_built_in))
for name, means in scores.items():
    print(f"{name:20}", *(f"{n:5}: {mean:.3f}" for n, mean in zip(SIZES, means)))

# %%
# It is a matter of data, not of ability: the built-in network has to meet the tone at every step.
# Larger, and with 5000 sequences, it comes closer.
X, y = make_tones(5000, seed=0)
large = TorchClassifier((200, 200), max_iter=20, random_state=0).fit(flat(X), y)
large_score = large.score(flat(X_test), y_test)
print(f"two layers of 200, 5000 sequences: {large_score:.3f}")

figure, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
for (name, means), marker in zip(scores.items(), "so"):
    ax.plot(SIZES, means, f"{marker}-", label=name)
ax.plot(5000, large_score, "o", mfc="none", color="C1", label="two layers of 200, flattened")
ax.axhline(0.5, color="0.6", linestyle=":", label="chance")
ax.set(xscale="log", xlabel="sequences to learn from", ylabel="test accuracy", ylim=(0.45, 1.02))
ax.legend(fontsize=8)
plt.show()

# %%
# The order is what it heard
# --------------------------
# Read backwards, a rising tone falls: the answers turn round. With the steps in a random order
# nothing is left to hear.
mixed = np.random.default_rng(0).permuted(X_test, axis=1)
accuracies = {
    "as they are": convolutional.score(X_test, y_test),
    "backwards": convolutional.score(X_test[:, ::-1], y_test),
    "in random order": convolutional.score(mixed, y_test),
}
for order, accuracy in accuracies.items():
    print(f"{order:16} {accuracy:.3f}")
