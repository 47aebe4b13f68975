"""Small estimators and modules that many tests train."""

import threading
from functools import partial

import pytest
import torch
from torch import nn

from torchsk import TorchClassifier, TorchRegressor

SECONDS_BEFORE_DEADLOCK = 60
SMALL = {"hidden_layer_sizes": (16,), "max_iter": 100, "random_state": 0}
Classifier = partial(TorchClassifier, **SMALL)
Regressor = partial(TorchRegressor, **SMALL)


def mlp(n_features, n_outputs, width=8):
    """The smallest module worth training."""
    return nn.Sequential(nn.Linear(n_features, width), nn.Tanh(), nn.Linear(width, n_outputs))


class Small(nn.Sequential):
    """The same as a class."""

    def __init__(self, n_features, n_outputs):
        super().__init__(*mlp(n_features, n_outputs))


class Net(nn.Module):
    """A module with everything that misbehaves: batch norm, dropout, a state that is no weight."""

    def __init__(self, n_features, n_outputs, width=8, dropout=0.2):
        super().__init__()
        self.norm = nn.BatchNorm1d(n_features)
        self.hidden = nn.Linear(n_features, width)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, n_outputs)
        self.rows_seen = []

    def forward(self, X):
        if self.training:
            self.rows_seen.append(len(X))
        return self.output(self.dropout(torch.relu(self.hidden(self.norm(X)))))


failed_fits = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.FitFailedWarning",
    "ignore:One or more of the test scores:UserWarning",
    "ignore:Scoring failed:UserWarning",
)


def threads_of_torchsk():
    """Return the names of the threads of the joblib backend."""
    return [t.name for t in threading.enumerate() if t.name.startswith("torchsk")]
