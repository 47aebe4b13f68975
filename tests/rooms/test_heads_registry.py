"""make_head: names, classes and instances of losses, their parameters, a user's own loss."""

import math
import pickle

import numpy as np
import pytest
import torch
from losses import (
    N_TARGETS,
    LogCosh,
    draw_raw,
    draw_y,
    every_case,
    log_cosh,
    mean_log_cosh,
    problem,
)
from sklearn.base import clone
from torch import nn
from torch.nn import functional as F

from torchsk._heads import (
    ALIASES,
    LOSSES,
    TORCH_LOSSES,
    Binomial,
    ClassificationHead,
    Multinomial,
    make_head,
)

# -- the names of losses and of their parameters --


@pytest.mark.parametrize("torch_class", TORCH_LOSSES, ids=lambda c: c.__name__)
def test_torch_classes_name_rows(torch_class):
    row = TORCH_LOSSES[torch_class]
    kinds = [kind for kind in LOSSES[row.name] if kind in row.problems]
    assert kinds
    for kind, n_targets in N_TARGETS.items():
        if kind in kinds:
            by_name = make_head(row.name, None, kind, n_targets)
            assert make_head(torch_class, None, kind, n_targets) == by_name
            assert make_head(torch_class(), None, kind, n_targets) == by_name
            assert make_head(clone(torch_class(), safe=False), None, kind, n_targets) == by_name
        else:
            with pytest.raises(ValueError, match=f"loss must be one of .* for {kind} problems"):
                make_head(torch_class, None, kind, n_targets)


def test_options_come_from_instances_classes_and_names():
    for loss, params in [
        (nn.CrossEntropyLoss(label_smoothing=0.1, weight=torch.tensor([1.0, 2.0, 3.0])), None),
        (nn.CrossEntropyLoss, {"label_smoothing": 0.1, "weight": np.array([1, 2, 3])}),
        (nn.CrossEntropyLoss(label_smoothing=0.5), {"label_smoothing": 0.1, "weight": [1, 2, 3]}),
        ("cross_entropy", {"label_smoothing": np.float64(0.1), "weight": (1.0, 2.0, 3.0)}),
    ]:
        head = make_head(loss, params, "multiclass", 3)
        assert head == Multinomial(3, label_smoothing=0.1, weight=(1.0, 2.0, 3.0))
    assert make_head(nn.HuberLoss(delta=2.0), None, "regression", 1).delta == 2
    assert make_head("log_loss", {"pos_weight": torch.tensor([2.0])}, "binary", 1) == Binomial(
        1, pos_weight=(2.0,)
    )


@pytest.mark.parametrize("alias", ALIASES)
def test_aliases(alias):
    for kind in LOSSES[ALIASES[alias]]:
        assert make_head(alias, None, kind, 2) == make_head(ALIASES[alias], None, kind, 2)


@pytest.mark.parametrize("loss, kind, option", [
    (nn.MSELoss(reduction="sum"), "regression", "reduction"),
    (nn.L1Loss(reduction="none"), "regression", "reduction"),
    (nn.CrossEntropyLoss(ignore_index=0), "multiclass", "ignore_index"),
    (nn.BCELoss(weight=torch.ones(5)), "binary", "weight"),
    (nn.BCEWithLogitsLoss(weight=torch.ones(5)), "binary", "weight"),
    (nn.PoissonNLLLoss(log_input=False), "regression", "log_input"),
    (nn.PoissonNLLLoss(full=True), "regression", "full"),
])  # fmt: skip
def test_options_that_cannot_be_honoured_are_refused_by_name(loss, kind, option):
    with pytest.raises(ValueError, match=rf"^{option} must be .*; got {option}="):
        make_head(loss, None, kind, N_TARGETS[kind])


@pytest.mark.parametrize("loss, kind, params", [
    ("log_loss", "binary", {"label_smoothing": 1.0}),
    ("log_loss", "multiclass", {"label_smoothing": -0.1}),
    ("log_loss", "multilabel", {"pos_weight": [1.0, 2.0]}),
    ("log_loss", "binary", {"pos_weight": -1.0}),
    ("cross_entropy", "multiclass", {"weight": [1.0, 2.0]}),
    ("cross_entropy", "multiclass", {"weight": 3.0}),
    ("hinge", "multiclass", {"p": 3}),
    ("hinge", "multiclass", {"margin": 0}),
    ("focal", "binary", {"gamma": -1}),
    ("focal", "binary", {"gamma": "2"}),
    ("huber", "regression", {"delta": 0.0}),
    ("huber", "regression", {"delta": math.nan}),
    ("huber", "regression", {"delta": [1.0, 2.0, 3.0]}),
    ("smooth_l1", "regression", {"beta": -1}),
    ("quantile", "regression", {"quantile": 1.0}),
    ("quantile", "regression", {"quantile": [0.5, 0.1]}),
    ("quantile", "regression", {"quantile": []}),
    ("quantile", "regression", {"quantile": True}),
    ("tweedie", "regression", {"power": math.inf}),
    ("tweedie", "regression", {"power": "1.5"}),
    ("gaussian", "regression", {"eps": 0}),
    ("gaussian", "regression", {"full": 1}),
])  # fmt: skip
def test_parameters_out_of_range(loss, kind, params):
    (name,) = params
    with pytest.raises(ValueError, match=rf"^{name} must be .*; got {name}="):
        make_head(loss, params, kind, N_TARGETS[kind])


@every_case
def test_unknown_parameters(case):
    with pytest.raises(ValueError, match=r"^loss_params must .*; got loss_params={'nonsense': 1}"):
        make_head(case[0], {"nonsense": 1}, case[1], 3)


@pytest.mark.parametrize("loss", ["nonsense", "log_loss", None, 3, ["huber"], nn.NLLLoss])
def test_unknown_losses(loss):
    with pytest.raises(ValueError, match=r"^loss must be one of \['absolute_error', .*got loss="):
        make_head(loss, None, "regression", 1)


@pytest.mark.parametrize("params", [3, [("delta", 1.0)], "delta"])
def test_loss_params_must_be_a_dict(params):
    with pytest.raises(ValueError, match="^loss_params must be a dict or None; got loss_params="):
        make_head("huber", params, "regression", 1)


# -- the user's own loss --


CUSTOM = [
    (log_cosh, None),
    (log_cosh, {"sharpness": 1.0}),
    (mean_log_cosh, None),
    (LogCosh, {"sharpness": 1.0}),
    (LogCosh(), None),
]


@pytest.mark.parametrize("loss, params", CUSTOM)
def test_own_losses_are_what_they_return(loss, params):
    head = make_head(loss, params, "regression", 2)
    _, raw, target, _ = problem(("squared_error", "regression", None), n_samples=20)
    each = log_cosh(raw, target).sum(1)
    assert head.per_sample == (loss is not mean_log_cosh)
    assert head.out_activation == "identity"
    assert not head.equivariant
    if not head.per_sample:
        each = each.mean().expand(20)
    torch.testing.assert_close(head.loss(raw, target), each)
    # each sample's share of the gradient of the mean, times n_samples
    expected = torch.tanh(raw - target)
    torch.testing.assert_close(head.residual(raw, target), expected)
    raws, targets = torch.stack([raw, -raw]), torch.stack([target, target.flip(0)])
    for method in (head.loss, head.residual):
        expected = torch.stack([method(r, t) for r, t in zip(raws, targets)])
        torch.testing.assert_close(method(raws, targets), expected)
    with torch.inference_mode():
        head.residual(raw * 1, target * 1)
    if not isinstance(loss, nn.Module):  # a clone of an instance is another loss
        assert head == make_head(loss, params, "regression", 2)
        assert hash(head) == hash(make_head(loss, params, "regression", 2))
        assert pickle.loads(pickle.dumps(head)) == head


def test_residual_may_be_changed_in_place():
    head = make_head(lambda raw, target: (raw - target).sum(1), None, "regression", 2)
    residual = head.residual(torch.randn(5, 2), torch.ones(5, 2))
    assert torch.equal(residual.mul_(3.0), torch.full((5, 2), 3.0))


@pytest.mark.parametrize("kind, function, same", [
    ("binary", F.cross_entropy, "cross_entropy"),
    ("multiclass", F.cross_entropy, "cross_entropy"),
    ("multiclass", F.multi_margin_loss, "hinge"),
    ("multilabel", F.multilabel_soft_margin_loss, None),
    ("regression", F.l1_loss, None),
])  # fmt: skip
def test_torch_functions_are_losses(kind, function, same):
    head = make_head(function, {"reduction": "none"}, kind, N_TARGETS[kind])
    mean = make_head(function, None, kind, N_TARGETS[kind])
    assert head.per_sample
    assert not mean.per_sample
    case = (same, kind, None)
    y, raw = draw_y(case, 12), draw_raw(case, head, 12)
    target = torch.from_numpy(head.encode(y))
    target = target if target.dtype == torch.int64 else target.double()
    if same is not None:
        known = make_head(same, None, kind, N_TARGETS[kind])
        torch.testing.assert_close(head.loss(raw, target), known.loss(raw, target))
        torch.testing.assert_close(mean.residual(raw, target), known.residual(raw, target))
    if isinstance(head, ClassificationHead):
        proba, decision = head.inverse_link(raw), head.decision(raw)
        assert proba.shape == decision.shape == (12, N_TARGETS[kind])
        assert 0 <= head.score(raw, target, None) <= 1
    shape = target.squeeze(1) if target.dtype == torch.int64 else target
    assert float(mean.loss(raw, target)[0]) == pytest.approx(float(function(raw, shape)))


@pytest.mark.parametrize("loss", [
    lambda raw, target: 0.0,
    lambda raw, target: torch.zeros(()),
    lambda raw, target: (raw.detach() - target).square().mean(),
    lambda raw, target: (raw - target).square()[:1].expand(2, -1),
    lambda raw, target: (raw - target).square().mean(0),
])  # fmt: skip
def test_useless_losses_are_refused_before_training(loss):
    with pytest.raises(
        ValueError, match=r"^loss must return a tensor .*; got loss\(raw, target\)="
    ):
        make_head(loss, None, "regression", 2)


def test_a_loss_that_would_have_to_be_trained_is_refused():
    class Learnt(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, raw, target):
            return (self.scale * (raw - target)).square().mean()

    with pytest.raises(ValueError, match=r"^loss must have no trainable parameters .*'scale'"):
        make_head(Learnt(), None, "regression", 1)
    assert not make_head(Learnt().requires_grad_(False), None, "regression", 1).per_sample


def test_the_users_loss_object_is_left_alone():
    loss = nn.HuberLoss(delta=2.0)
    own = LogCosh()
    states = pickle.dumps(loss), pickle.dumps(own)
    for each in (loss, own):
        head = make_head(each, None, "regression", 2)
        raw = torch.randn(5, 2)
        head.residual(raw, torch.from_numpy(head.encode(np.ones((5, 2), np.float32))))
    assert (pickle.dumps(loss), pickle.dumps(own)) == states
