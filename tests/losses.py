"""Every loss with its problems: a row of LOSSES, y in its domain, raw outputs of a network."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from torchsk._heads import LOSSES, make_head

N_TARGETS = {"binary": 1, "multiclass": 4, "multilabel": 3, "regression": 2}
DEFAULTS = [(name, kind, None) for name, heads in LOSSES.items() for kind in heads]
VARIANTS = [
    ("log_loss", "binary", {"label_smoothing": 0.2, "pos_weight": 3.0}),
    ("log_loss", "multilabel", {"pos_weight": [1.0, 2.0, 0.5]}),
    ("log_loss", "multiclass", {"label_smoothing": 0.2}),
    ("cross_entropy", "binary", {"weight": [1.0, 3.0]}),
    ("cross_entropy", "multiclass", {"weight": [1.0, 3.0, 0.0, 2.0], "label_smoothing": 0.2}),
    ("nll", "multiclass", {"weight": [1.0, 3.0, 0.5, 2.0]}),
    ("hinge", "multiclass", {"p": 2, "margin": 0.5, "weight": [1.0, 3.0, 0.5, 2.0]}),
    ("focal", "binary", {"gamma": 0.5}),
    ("focal", "multiclass", {"gamma": 0.5}),
    ("huber", "regression", {"delta": [0.5, 2.0]}),
    ("smooth_l1", "regression", {"beta": 0.3}),
    ("quantile", "regression", {"quantile": [0.1, 0.5, 0.9]}),
    ("tweedie", "regression", {"power": 0}),
    ("tweedie", "regression", {"power": 1}),
    ("tweedie", "regression", {"power": 2}),
    ("tweedie", "regression", {"power": 3}),
    ("tweedie", "regression", {"power": -1}),
    ("gaussian", "regression", {"full": True, "eps": 1e-3}),
]
CASES = DEFAULTS + VARIANTS
REGRESSION = [case for case in CASES if case[1] == "regression"]
CLASSIFICATION = [case for case in CASES if case[1] != "regression"]


def case_id(case):
    """A name that is the same in every process: no address of a function."""
    return "-".join(getattr(part, "__name__", str(part)) for part in case if part is not None)


every_case = pytest.mark.parametrize("case", CASES, ids=case_id)
every_classifier = pytest.mark.parametrize("case", CLASSIFICATION, ids=case_id)
every_regressor = pytest.mark.parametrize("case", REGRESSION, ids=case_id)


def head_of(case, n_targets=None):
    name, kind, params = case
    return make_head(name, params, kind, n_targets or N_TARGETS[kind])


def draw_y(case, n_samples, n_targets=None, seed=0):
    """Return y inside the domain of every loss: codes, indicators or positive numbers."""
    rng, kind = np.random.default_rng(seed), case[1]
    n_targets = n_targets or N_TARGETS[kind]
    if kind == "regression":
        return rng.gamma(2.0, size=(n_samples, n_targets))
    shape = (n_samples, n_targets) if kind == "multilabel" else n_samples
    return rng.integers(0, n_targets if kind == "multiclass" else 2, size=shape)


def draw_raw(case, head, n_samples, lead=(), seed=0, scale=1.5):
    """Return raw that a network, or the module that the loss expects, could have returned."""
    generator = torch.Generator().manual_seed(seed)
    raw = scale * torch.randn(
        *lead, n_samples, head.n_outputs, generator=generator, dtype=torch.float64
    )
    if case[0] == "bce":
        return torch.sigmoid(raw)
    return torch.log_softmax(raw, -1) if case[0] == "nll" else raw


def problem(case, n_samples=40, n_targets=None):
    """Return (head, raw, target, y), float64."""
    head = head_of(case, n_targets)
    y = draw_y(case, n_samples, n_targets)
    target = torch.from_numpy(head.encode(y))
    target = target if target.dtype == torch.int64 else target.double()
    return head, draw_raw(case, head, n_samples), target, y


def log_cosh(raw, target, sharpness=1.0):
    """Return one number per sample and output."""
    error = sharpness * (raw - target)
    return F.softplus(2 * error) - error - math.log(2)


def mean_log_cosh(raw, target):
    return log_cosh(raw, target).sum(1).mean()


class LogCosh(nn.Module):
    def __init__(self, sharpness=1.0):
        super().__init__()
        self.register_buffer("sharpness", torch.tensor(sharpness, dtype=torch.float64))

    def forward(self, raw, target):
        return log_cosh(raw, target, self.sharpness).sum(1)


def draw_problem(kind, positive):
    """Return X and a learnable y; numbers are standardised, or positive."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3)).astype(np.float32)
    signal = X + 0.5 * X[:, [1, 2, 0]] ** 2
    if positive:
        return X, rng.gamma(3.0, np.exp(signal[:, :2]) / 3)
    y = signal + 0.5 * rng.normal(size=signal.shape)
    y = (y - y.mean(0)) / y.std(0)
    return X, {
        "binary": np.array(["no", "yes"])[(y[:, 0] > 0).astype(int)],
        "multiclass": np.array(list("abcd"))[np.digitize(y[:, 0], [-0.5, 0.2, 0.8])],
        "multilabel": (y > 0).astype(int),
        "regression": y[:, :2],
    }[kind]
