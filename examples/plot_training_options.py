"""
Change how it trains: one parameter each
========================================

How weights are drawn, how many rows make a step, how the rate changes, who watches, and where it
all runs: each is one parameter of the estimator or one callback. The data are 8 x 8 images of
digits.
"""

# %%
import tempfile
import warnings
from functools import partial

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR

from torchsk import LossCurveDisplay, TorchClassifier

warnings.simplefilter("ignore", ConvergenceWarning)  # the number of epochs is given

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
scores = {}


def fit_all(group, networks):
    """Fit networks by name, print their test accuracies and return them."""
    for name, net in networks.items():
        scores[group, name] = net.fit(X_train, y_train).score(X_test, y_test)
        print(f"{name:24}{scores[group, name]:.3f}")
    return networks


def draw_losses(networks):
    """Draw the training loss of each network."""
    figure, ax = plt.subplots(figsize=(6, 4.5), layout="constrained")
    LossCurveDisplay.from_estimator(networks, ax=ax, log_scale=True)
    plt.show()


BASE = {"hidden_layer_sizes": (50, 30), "max_iter": 20, "random_state": 0}

# %%
# How weights are drawn
# ---------------------
# ``init`` is scikit-learn's rule, the name of a function of ``torch.nn.init``, or a function that
# fills a tensor in place. (The function below draws weights that are far too small: for a third of
# the epochs the network learns nothing.)


def small(weight):
    """Draw from a narrow normal distribution."""
    nn.init.normal_(weight, std=0.01)


by_init = fit_all(
    "init",
    {
        "glorot_uniform": TorchClassifier(**BASE),
        "kaiming_normal": TorchClassifier(init="kaiming_normal", **BASE),
        "orthogonal": TorchClassifier(init="orthogonal", **BASE),
        "a function": TorchClassifier(init=small, **BASE),
    },
)
draw_losses(by_init)

# %%
# Mini-batches
# ------------
# ``batch_size`` rows make a step; there is no data set or loader to write. Small batches make more
# steps per epoch; with all rows in one batch, 20 epochs are 20 steps.
by_batch = fit_all(
    "batch",
    {
        f"batches of {size}": TorchClassifier(batch_size=size, **BASE)
        for size in [32, 200, len(X_train)]
    },
)
draw_losses(by_batch)

# %%
# The rate, epoch by epoch
# ------------------------
# ``learning_rate`` is the name of a schedule ("onecycle" if nothing is said), a function of the
# epoch, or a scheduler class of torch, with its options bound by ``partial`` (the network is then
# trained by skorch).


def halved_every_five(epoch):
    """Return the factor of the rate."""
    return 0.5 ** (epoch // 5)


by_schedule = fit_all(
    "schedule",
    {
        "onecycle": TorchClassifier(**BASE),
        "cosine": TorchClassifier(learning_rate="cosine", **BASE),
        "constant": TorchClassifier(learning_rate="constant", **BASE),
        "a function": TorchClassifier(learning_rate=halved_every_five, **BASE),
        "ExponentialLR": TorchClassifier(learning_rate=partial(ExponentialLR, gamma=0.9), **BASE),
    },
)
draw_losses(by_schedule)

# %%
# A network as nn.Sequential
# --------------------------
# ``module`` is any ``nn.Module``. An instance is copied and never trained in place.
layers = nn.Sequential(
    nn.Linear(64, 50),
    nn.BatchNorm1d(50),
    nn.ReLU(),
    nn.Dropout(0.1),
    nn.Linear(50, 10),
)
sequential = TorchClassifier(
    module=layers, loss=nn.CrossEntropyLoss, standardize=True, max_iter=20, random_state=0
)
by_module = fit_all("module", {"nn.Sequential": sequential})

# %%
# Watched in TensorBoard
# ----------------------
# skorch's callbacks are one parameter. This one writes the losses for ``tensorboard --logdir``;
# here the file is read back.
from skorch.callbacks import TensorBoard
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

with tempfile.TemporaryDirectory() as folder:
    with SummaryWriter(folder) as writer:
        watched = TorchClassifier(skorch_callbacks=[TensorBoard(writer)], **BASE)
        watched.fit(X_train, y_train, X_val=X_test, y_val=y_test)
    events = EventAccumulator(folder).Reload()
    logged = {tag: [e.value for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
for tag, values in logged.items():
    print(f"{tag:18}{len(values)} epochs, the last {values[-1]:.4f}")

# %%
# On a GPU
# --------
# ``device="cuda"`` moves the network and its data, in ``fit`` and in ``predict``; nothing else
# changes. ``"auto"`` takes the first accelerator, else the CPU, and ``device_`` says which it was.
moved = TorchClassifier(device="auto", **BASE).fit(X_train, y_train)
scores["device", "auto"] = moved.score(X_test, y_test)
print(f"trained on {moved.device_}: test accuracy {scores['device', 'auto']:.3f}")
