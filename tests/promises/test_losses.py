"""Every loss learns, alone and in a stack, and can be searched."""

import pickle

import joblib
import numpy as np
import pytest
import torch
from losses import DEFAULTS, N_TARGETS, LogCosh, case_id, draw_problem, log_cosh, mean_log_cosh
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from torch import nn
from torch.nn import functional as F

from torchsk import TorchClassifier, TorchRegressor
from torchsk._heads import make_head

FITS = DEFAULTS + [
    ("quantile", "regression", {"quantile": [0.1, 0.5, 0.9]}),
    ("tweedie", "regression", {"power": 3}),
    (nn.CrossEntropyLoss(label_smoothing=0.1), "multiclass", None),
    (nn.BCEWithLogitsLoss(pos_weight=torch.tensor(2.0)), "binary", None),
    (nn.HuberLoss(delta=0.5), "regression", None),
    (log_cosh, "regression", {"sharpness": 2.0}),
    (mean_log_cosh, "regression", None),
    (LogCosh(), "regression", None),
    (F.cross_entropy, "binary", None),
    (F.multilabel_soft_margin_loss, "multilabel", None),
]


def best_constant_loss(head, target):
    """Return the mean loss of the best raw that is the same for all samples."""
    raw = torch.zeros(1, head.n_outputs, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([raw], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        loss = head.loss(raw.expand(len(target), -1), target).mean()
        loss.backward()
        optimizer.step()
    return loss.item()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("case", FITS, ids=case_id)
def test_a_fit_beats_the_best_constant(case):
    loss, kind, params = case
    model = TorchRegressor if kind == "regression" else TorchClassifier
    X, y = draw_problem(kind, positive=loss in ("poisson", "gamma", "tweedie"))
    net = clone(model(loss=loss, loss_params=params, hidden_layer_sizes=(16,), max_iter=60))
    net.set_params(random_state=0).fit(X, y)
    head = make_head(loss, params, kind, N_TARGETS[kind]).on_logits
    codes = net.classes_.searchsorted(y) if kind in ("binary", "multiclass") else y
    target = torch.from_numpy(head.encode(codes))
    target = target if target.dtype == torch.int64 else target.double()
    with torch.no_grad():
        raw = net.module_(torch.from_numpy(X)).double()
    assert raw.shape == (200, head.n_outputs)
    constant = best_constant_loss(head, target)
    assert float(head.loss(raw, target).mean()) < constant - 0.1 * abs(constant)
    assert net.out_activation_ == head.out_activation
    assert net.score(X, y) > (0 if kind == "regression" else 0.5)
    assert pickle.loads(pickle.dumps(net)).predict(X).shape == net.predict(X).shape


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_losses_and_their_parameters_can_be_searched():
    X, y = draw_problem("regression", positive=False)
    grid = [
        {"loss": ["huber"], "loss_params": [{"delta": 0.1}, {"delta": 1.0}]},
        {"loss": [nn.L1Loss, nn.SmoothL1Loss(beta=0.5), log_cosh]},
    ]
    net = TorchRegressor(hidden_layer_sizes=(8,), max_iter=5, random_state=0)
    search = GridSearchCV(net, grid, cv=2, error_score="raise").fit(X, y)
    assert len(set(search.cv_results_["mean_test_score"])) == 5


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("case", FITS, ids=case_id)
def test_every_loss_trains_in_a_stack_as_alone(case):
    loss, kind, params = case
    model = TorchRegressor if kind == "regression" else TorchClassifier
    X, y = draw_problem(kind, positive=loss in ("poisson", "gamma", "tweedie"))
    net = model(loss=loss, loss_params=params, hidden_layer_sizes=(8,), max_iter=5, random_state=0)
    net.set_params(learning_rate="constant")  # at a peak rounding errors grow
    alone = cross_val_score(net, X, y, cv=3)
    with joblib.parallel_config("torchsk"):
        np.testing.assert_allclose(cross_val_score(net, X, y, cv=3), alone, atol=1e-5)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_loss_of_whole_batches_refuses_weights():
    X, y = draw_problem("regression", positive=False)
    net = TorchRegressor(loss=mean_log_cosh, max_iter=2, random_state=0).fit(X, y)
    with pytest.raises(ValueError, match="sample_weight and class_weight must be None"):
        net.fit(X, y, sample_weight=np.ones(200))
    # twice the rows are not merged into weights
    net.fit(np.repeat(X[:50], 2, axis=0), np.repeat(y[:50], 2, axis=0))
