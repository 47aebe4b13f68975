"""Every row of LOSSES goes through every property; sklearn._loss, torch and autograd judge."""

import math
import pickle

import joblib
import numpy as np
import pytest
import torch
from losses import (
    N_TARGETS,
    REGRESSION,
    case_id,
    draw_raw,
    draw_y,
    every_case,
    every_classifier,
    every_regressor,
    head_of,
    problem,
)
from scipy.special import log_expit, log_softmax, xlogy
from sklearn._loss import loss as sk_losses
from sklearn.base import clone
from sklearn.metrics import accuracy_score, d2_pinball_score, mean_tweedie_deviance, r2_score
from sklearn.model_selection import GridSearchCV
from torch import nn
from torch.nn import functional as F

from torchsk import TorchRegressor
from torchsk._heads import (
    LOSSES,
    TORCH_LOSSES,
    ClassificationHead,
    Head,
    Multinomial,
    RegressionHead,
    make_head,
)
from torchsk._standardizer import Moments


def autograd(head, raw, target):
    leaf = raw.clone().requires_grad_()
    head.loss(leaf, target).sum().backward()
    return leaf.grad


# -- value, gradient and link against scikit-learn --


BINOMIAL, MULTINOMIAL = sk_losses.HalfBinomialLoss(), sk_losses.HalfMultinomialLoss(n_classes=4)
SKLEARN = [
    (("log_loss", "binary", None), BINOMIAL),
    (("cross_entropy", "binary", None), BINOMIAL),
    (("focal", "binary", {"gamma": 0}), BINOMIAL),
    (("log_loss", "multiclass", None), MULTINOMIAL),
    (("cross_entropy", "multiclass", None), MULTINOMIAL),
    (("focal", "multiclass", {"gamma": 0}), MULTINOMIAL),
    (("squared_error", "regression", None), sk_losses.HalfSquaredError()),
    (("absolute_error", "regression", None), sk_losses.AbsoluteError()),
    (("huber", "regression", {"delta": 0.7}), sk_losses.HuberLoss(delta=0.7)),
    (("quantile", "regression", {"quantile": 0.2}), sk_losses.PinballLoss(quantile=0.2)),
    (("poisson", "regression", None), sk_losses.HalfPoissonLoss()),
    (("gamma", "regression", None), sk_losses.HalfGammaLoss()),
    *[
        (("tweedie", "regression", {"power": power}), sk_losses.HalfTweedieLoss(power=power))
        for power in (-1, 0, 0.5, 1, 1.5, 2, 3)
    ],
]


@pytest.mark.parametrize(
    "case, oracle", SKLEARN, ids=lambda v: case_id(v) if type(v) is tuple else ""
)
def test_sklearn_is_the_oracle(case, oracle):
    head, raw, target, y = problem(case, n_targets=4 if case[1] == "multiclass" else 1)
    y = y.ravel().astype(float)
    # cross_entropy has two outputs in a binary problem
    two_outputs = case[:2] == ("cross_entropy", "binary")
    sk_raw = np.ascontiguousarray(raw[:, 1] - raw[:, 0] if two_outputs else raw.squeeze(1))
    value, gradient = oracle.loss_gradient(y, sk_raw)
    value = value + oracle.constant_to_optimal_zero(y)
    gradient = np.c_[-gradient, gradient] if two_outputs else gradient.reshape(raw.shape)
    np.testing.assert_allclose(head.loss(raw, target), value, atol=1e-8)
    np.testing.assert_allclose(head.residual(raw, target), gradient, atol=1e-8)
    expected = oracle.link.inverse(sk_raw).reshape(40, -1)
    np.testing.assert_allclose(head.inverse_link(raw), expected, rtol=1e-7)


@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
def test_reported_loss_is_that_of_sklearns_mlp(loss):
    from sklearn.neural_network._base import LOSS_FUNCTIONS

    head, raw, target, y = problem((loss, "regression", None))
    expected = LOSS_FUNCTIONS[loss](y, head.inverse_link(raw).numpy())
    assert float(head.loss(raw, target).mean()) * head.loss_scale == pytest.approx(expected)


# -- value and gradient against torch --


TORCH_CASES = [
    (nn.BCEWithLogitsLoss(), "binary"),
    (nn.BCEWithLogitsLoss(), "multilabel"),
    (nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2.0, 0.5])), "multilabel"),
    (nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0)), "binary"),
    (nn.CrossEntropyLoss(), "binary"),
    (nn.CrossEntropyLoss(label_smoothing=0.1), "multiclass"),
    (
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0, 0.5]), label_smoothing=0.1),
        "multiclass",
    ),
    (nn.BCELoss(), "binary"),
    (nn.BCELoss(), "multilabel"),
    (nn.NLLLoss(), "binary"),
    (nn.NLLLoss(weight=torch.tensor([1.0, 2.0, 3.0, 0.5])), "multiclass"),
    (nn.MultiMarginLoss(), "multiclass"),
    (
        nn.MultiMarginLoss(p=2, margin=0.7, weight=torch.tensor([1.0, 2.0, 3.0, 0.5])),
        "multiclass",
    ),
    (nn.MSELoss(), "regression"),
    (nn.L1Loss(), "regression"),
    (nn.HuberLoss(delta=0.5), "regression"),
    (nn.SmoothL1Loss(beta=0.5), "regression"),
    (nn.PoissonNLLLoss(), "regression"),
    (nn.GaussianNLLLoss(eps=1e-3, full=True), "regression"),
]


@pytest.mark.parametrize("loss, kind", TORCH_CASES, ids=str)
def test_torch_is_the_oracle(loss, kind):
    name = TORCH_LOSSES[type(loss)].name
    case = (name, kind, None)
    head = make_head(loss, None, kind, N_TARGETS[kind])
    y, raw = draw_y(case, 40), draw_raw(case, head, 40)
    target = torch.from_numpy(head.encode(y))
    each = clone(loss, safe=False).double()
    each.reduction = "none"
    leaf = raw.clone().requires_grad_()
    if name == "gaussian":
        mean, v = leaf.tensor_split(2, 1)
        value = each(mean, torch.from_numpy(y), F.softplus(v) + head.eps).sum(1)
    elif target.dtype == torch.int64:
        value = each(leaf, target.squeeze(1))
    else:
        numbers = target.double() if kind != "regression" else torch.from_numpy(y)
        value = each(leaf, numbers).sum(1)
    value.sum().backward()
    # squared_error is half of torch's; poisson has the constant of the deviance
    factor = 0.5 if name == "squared_error" else 1.0
    constant = (xlogy(y, y) - y).sum(1) if name == "poisson" else 0.0
    result = head.loss(raw, target).numpy()
    np.testing.assert_allclose(result, factor * value.detach().numpy() + constant, atol=1e-6)
    np.testing.assert_allclose(head.residual(raw, target), factor * leaf.grad, atol=1e-6)


@pytest.mark.parametrize("n_classes", [3, 15, 16, 40])
def test_softmax_of_few_and_of_many_classes(n_classes):
    head = make_head("log_loss", None, "multiclass", n_classes)
    raw = 1e3 * torch.randn(2, 50, n_classes)
    expected = torch.softmax(raw, -1)
    torch.testing.assert_close(head.inverse_link(raw), expected)
    residual = head.residual(raw, torch.zeros(50, 1, dtype=torch.int64))
    torch.testing.assert_close(residual[..., 1:], expected[..., 1:])


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("kind", LOSSES["focal"])
def test_focal_follows_its_formula(gamma, kind):
    head, raw, target, _ = problem(("focal", kind, {"gamma": gamma}))
    if kind == "multiclass":
        p = torch.softmax(raw, 1).gather(1, target)
    else:
        p = torch.where(target > 0.5, torch.sigmoid(raw), torch.sigmoid(-raw))
    expected = (-((1 - p) ** gamma) * p.log()).sum(1)
    torch.testing.assert_close(head.loss(raw, target), expected)


def test_label_smoothing_means_the_same_with_one_output_as_with_two():
    y = draw_y(("log_loss", "binary"), 30)
    one, two = (
        make_head(name, {"label_smoothing": 0.3}, "binary", 1)
        for name in ("log_loss", "cross_entropy")
    )
    raw = draw_raw(("log_loss",), one, 30)
    torch.testing.assert_close(
        one.loss(raw, torch.from_numpy(one.encode(y)).double()),
        two.loss(torch.cat([-raw / 2, raw / 2], 1), torch.from_numpy(two.encode(y))),
        atol=1e-6,
        rtol=1e-6,
    )


# -- properties of every head --


@every_case
def test_residual_is_the_gradient(case):
    head, raw, target, _ = problem(case)
    before = raw.clone(), target.clone()
    residual = head.residual(raw, target)
    assert residual.shape == raw.shape
    assert not residual.requires_grad
    assert torch.equal(raw, before[0])
    assert torch.equal(target, before[1])
    torch.testing.assert_close(residual, autograd(head, raw, target), rtol=1e-6, atol=1e-9)
    step = 1e-6
    for j in range(head.n_outputs):
        move = torch.zeros_like(raw)
        move[:, j] = step
        slope = head.loss(raw + move, target) - head.loss(raw - move, target)
        torch.testing.assert_close(residual[:, j], slope / (2 * step), rtol=1e-4, atol=1e-5)


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_extreme_raw_stays_finite(case, dtype, size):
    head, raw, target, _ = problem(case, n_samples=20)
    if case[0] == "bce":
        raw = torch.full_like(raw, float(size > 0))
    elif case[0] == "nll":
        raw = torch.log_softmax(raw * size, -1)
    else:
        raw = torch.cat([raw * size, torch.full_like(raw, size)])
        target = torch.cat([target, target])
    raw = raw.to(dtype)
    target = target if target.dtype == torch.int64 else target.to(dtype)
    assert head.loss(raw, target).isfinite().all()
    residual = head.residual(raw, target)
    assert residual.isfinite().all()
    torch.testing.assert_close(residual, autograd(head, raw, target), rtol=1e-3, atol=1e-3)
    if isinstance(head, ClassificationHead):
        assert head.decision(raw).isfinite().all()
    if getattr(head, "has_proba", True):
        assert head.inverse_link(raw).isfinite().all()


@every_case
def test_a_stack_of_models_is_a_loop(case):
    head, raw, target, _ = problem(case, n_samples=20)
    raws = torch.stack([raw, raw.flip(0), raw.roll(3, 0)])
    targets = torch.stack([target, target, target.roll(5, 0)])
    for method in (head.loss, head.residual):
        expected = torch.stack([method(r, t) for r, t in zip(raws, targets)])
        torch.testing.assert_close(method(raws, targets), expected)
        shared = torch.stack([method(r, target) for r in raws])
        torch.testing.assert_close(method(raws, target), shared)
    if getattr(head, "has_proba", True):
        expected = torch.stack([head.inverse_link(r) for r in raws])
        torch.testing.assert_close(head.inverse_link(raws), expected)


@every_case
def test_heads_are_values(case):
    head, again = head_of(case), head_of(case)
    assert head == again
    assert hash(head) == hash(again)
    assert pickle.loads(pickle.dumps(head)) == head
    assert case[2] or head != head_of(case, n_targets=7)
    assert not any(isinstance(value, torch.Tensor | list) for value in vars(head).values())
    assert len(pickle.dumps(head)) < 500
    with pytest.raises(AttributeError):
        head.n_targets = 3


@every_case
def test_shapes_and_dtypes(case):
    head, raw, target, y = problem(case, n_samples=10)
    assert raw.shape == (10, head.n_outputs)
    assert target.ndim == 2
    assert head.loss(raw, target).shape == (10,)
    assert head.on_logits.on_logits == head.on_logits
    assert head.per_sample
    head.check_target(y)
    head.check_raw(raw)
    with pytest.raises(ValueError, match=r"module must return a tensor \(n_samples, "):
        head.check_raw(raw[:, :1].expand(10, head.n_outputs + 1))
    with pytest.raises(ValueError, match="module must return a tensor"):
        head.check_raw(raw[:, 0])
    raw32 = raw.float()
    target32 = target if target.dtype == torch.int64 else target.float()
    assert head.loss(raw32, target32).dtype == torch.float32
    assert head.residual(raw32, target32).dtype == torch.float32


@every_case
def test_residual_works_in_every_autograd_mode(case):
    head, raw, target, _ = problem(case, n_samples=10)
    expected = head.residual(raw, target)
    with torch.no_grad():
        assert torch.equal(head.residual(raw, target), expected)
    with torch.inference_mode():
        assert torch.equal(head.residual(raw * 1, target * 1), expected)
        assert torch.equal(head.residual(raw, target), expected)


@pytest.mark.device
@every_case
def test_an_accelerator_computes_the_same(case):
    head, raw, target, _ = problem(case)
    raw = raw.float()
    target = target if target.dtype == torch.int64 else target.float()
    device = torch.accelerator.current_accelerator()
    for method in (head.loss, head.residual):
        there = method(raw.to(device), target.to(device))
        torch.testing.assert_close(there.cpu(), method(raw, target), rtol=1e-4, atol=1e-5)
    score = head.score(raw.to(device), target.to(device), torch.ones(40, device=device))
    assert score == pytest.approx(head.score(raw, target, None), rel=1e-4)


# -- classification --


@every_classifier
def test_decision_probability_and_prediction_agree(case):
    head, raw, _, _ = problem(case)
    assert isinstance(head, ClassificationHead)
    decision, codes = head.decision(raw), head.predict_codes(raw)
    assert decision.shape == (40, N_TARGETS[case[1]])
    assert codes.dtype == torch.int64
    if case[1] == "multiclass":
        assert torch.equal(codes, decision.argmax(1))
    else:
        assert torch.equal(codes.view(decision.shape), (decision > 0).long())
    assert codes.shape == ((40, 3) if case[1] == "multilabel" else (40,))
    if not head.has_proba:
        with pytest.raises(AttributeError, match="no probabilities"):
            head.inverse_link(raw)
        return
    proba = head.inverse_link(raw)
    assert proba.shape == decision.shape
    if case[1] == "multiclass":
        torch.testing.assert_close(proba, torch.softmax(decision, 1))
        torch.testing.assert_close(proba.sum(1), torch.ones(40, dtype=torch.float64))
    else:
        torch.testing.assert_close(proba, torch.sigmoid(decision))


@every_classifier
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_probabilities_are_those_of_the_logits(case, dtype):
    head = head_of(case)
    raw = draw_raw(case, head, 40, scale=300.0).to(dtype)  # many probabilities are 0 in float32
    if not head.has_proba:
        with pytest.raises(AttributeError, match="no probabilities"):
            head.log_proba(raw)
        return
    log_proba, decision = head.log_proba(raw).numpy(), head.decision(raw).numpy()
    expected = {
        "binary": lambda: log_expit(np.hstack([-decision, decision])),
        "multilabel": lambda: log_expit(decision),
        "multiclass": lambda: log_softmax(decision, axis=1),
    }[case[1]]()
    assert np.isfinite(log_proba).all()
    assert log_proba.dtype == decision.dtype
    rtol = 1e-6 if dtype == torch.float32 else 1e-14
    np.testing.assert_allclose(log_proba, expected, rtol=rtol, atol=1e-37)  # of subnormals less
    stacked = torch.stack([raw, raw.flip(0)])
    assert torch.equal(head.log_proba(stacked)[0], torch.from_numpy(log_proba))


@every_classifier
@pytest.mark.parametrize("weighted", [False, True])
def test_accuracy_is_sklearns(case, weighted):
    head, raw, target, y = problem(case)
    weight = np.random.default_rng(1).random(40) if weighted else None
    expected = accuracy_score(y, head.predict_codes(raw).numpy(), sample_weight=weight)
    score = head.score(raw, target, None if weight is None else torch.from_numpy(weight))
    assert score == pytest.approx(expected)


@pytest.mark.parametrize("kind", LOSSES["bce"])
def test_bce_is_log_loss_after_the_sigmoid(kind):
    case = ("log_loss", kind, None)
    head = make_head("bce", None, kind, N_TARGETS[kind])
    logits, raw, target, _ = problem(case)
    assert head.on_logits == logits
    p = torch.sigmoid(raw)
    torch.testing.assert_close(head.loss(p, target), logits.loss(raw, target))
    torch.testing.assert_close(head.decision(p), raw)
    assert torch.equal(head.inverse_link(p), p)
    assert head.out_activation == logits.out_activation == "logistic"
    with pytest.raises(ValueError, match="module must return probabilities"):
        head.check_raw(raw)
    clipped = head.loss(torch.tensor([[1.0] * head.n_outputs]), torch.zeros(1, head.n_outputs))
    assert 80 * head.n_outputs < float(clipped) < 100 * head.n_outputs


@pytest.mark.parametrize("kind", LOSSES["nll"])
def test_nll_is_cross_entropy_after_the_log_softmax(kind):
    head = make_head("nll", {"weight": None}, kind, N_TARGETS[kind])
    logits, raw, target, _ = problem(("cross_entropy", kind, None))
    assert head.on_logits == logits == Multinomial(N_TARGETS[kind])
    log_p = torch.log_softmax(raw, 1)
    torch.testing.assert_close(head.loss(log_p, target), logits.loss(raw, target))
    torch.testing.assert_close(head.inverse_link(log_p), logits.inverse_link(raw))
    torch.testing.assert_close(head.inverse_link(log_p)[:, -1], log_p.exp()[:, -1])
    with pytest.raises(ValueError, match="module must return log-probabilities"):
        head.check_raw(raw)


# -- regression --


@every_regressor
@pytest.mark.parametrize("weighted", [False, True])
def test_score_is_sklearns(case, weighted):
    head, raw, target, y = problem(case)
    weight = np.random.default_rng(1).random(40) if weighted else None
    prediction = head.as_prediction(head.inverse_link(raw).numpy())
    score = head.score(raw, target, None if weight is None else torch.from_numpy(weight))
    assert head.score_prediction(y, prediction, weight) == pytest.approx(score)
    assert torch.equal(head.decode(target), torch.from_numpy(y))
    if case[0] == "quantile":
        levels = np.reshape(prediction, (40, 2, -1))
        expected = np.mean(
            [
                d2_pinball_score(y, levels[:, :, i], alpha=level, sample_weight=weight)
                for i, level in enumerate(head.levels)
            ]
        )
    else:
        expected = r2_score(y, prediction, sample_weight=weight)
    assert score == pytest.approx(expected)


@every_regressor
def test_training_on_standardised_targets_is_the_same_problem(case):
    # loss of y against raw in y's unit = constant + factor * loss in standardised units
    if np.ndim(next(iter((case[2] or {}).values()), 0)) and case[0] == "huber":
        case = ("huber", "regression", {"delta": [0.5]})
    head = head_of(case, n_targets=1)
    y, raw = 7 * draw_y(case, 50, 1), draw_raw(case, head, 50, scale=0.5)
    spread = y.mean(0), y.std(0)
    center, scale = head.standardization(*spread)
    offset, factor = head.raw_affine(*spread)
    assert offset.shape == factor.shape == (head.n_outputs,)
    inner = head.standardized(*spread)
    # or the folds of a search could not be stacked
    assert inner.stack_key == head.standardized(spread[0], 2 * spread[1]).stack_key
    raw_of_y = raw * torch.from_numpy(factor) + torch.from_numpy(offset)
    inside = inner.loss(raw, torch.from_numpy(inner.encode((y - center) / scale))).numpy()
    outside = head.loss(raw_of_y, torch.from_numpy(head.encode(y))).numpy()
    if case[0] == "gaussian":
        outside = outside + np.log(scale)  # the variance in y's unit
        variance = F.softplus(raw[:, 1]) + head.eps
        deviation = head.deviation(raw_of_y, scale)[:, 0]
        torch.testing.assert_close(deviation, scale[0] * variance.sqrt())
        normal = torch.distributions.Normal(raw_of_y[:, 0], deviation)
        constant = 0.0 if head.full else 0.5 * math.log(2 * math.pi)
        np.testing.assert_allclose(
            -normal.log_prob(torch.from_numpy(y[:, 0])), inside + np.log(scale) + constant
        )
        return
    ratio = scale[0] ** {
        "squared_error": 2, "huber": 2, "poisson": 1, "gamma": 0,
    }.get(case[0], 2 - getattr(head, "power", 1))  # fmt: skip
    if case[0] == "huber":
        ratio = ratio * min(1, np.ravel(head.delta)[0] / scale[0])
    elif case[0] == "smooth_l1":
        ratio = ratio / max(1, head.beta / scale[0])
    elif head.out_activation == "exp":
        ratio = ratio * (spread[1][0] / spread[0][0]) ** 2
    np.testing.assert_allclose(outside, ratio * inside, rtol=1e-6, atol=1e-9)
    assert head.loss_unit(*spread) == pytest.approx(ratio)


@every_regressor
def test_raw_may_be_said_in_another_unit(case):
    """Two targets that are standardised anew: predictions stay, and losses change as it says."""
    head = head_of(case)
    y, raw = 7 * draw_y(case, 50), draw_raw(case, head, 50, scale=0.5)
    old, new = (y.mean(0), y.std(0)), (1.3 * y.mean(0), y.std(0) * [0.9, 1.2])
    change = head.change_of_unit(old, new)
    new_raw = raw * torch.from_numpy(change.gain) + torch.from_numpy(change.offset)
    in_y = [
        r * torch.from_numpy(factor) + torch.from_numpy(offset)
        for r, (offset, factor) in ((raw, head.raw_affine(*old)), (new_raw, head.raw_affine(*new)))
    ]
    torch.testing.assert_close(*map(head.inverse_link, in_y))
    if case[0] == "gaussian":
        deviations = [head.deviation(r, s[1]) for r, s in zip(in_y, (old, new))]
        torch.testing.assert_close(*deviations, rtol=0.15, atol=0)  # softplus is not quite exp


@every_regressor
def test_raw_stays_where_no_spread_was_known(case):
    head = head_of(case)
    nothing = np.zeros(2)
    change = head.change_of_unit((nothing, nothing), (np.array([2.0, 7.0]), np.array([0.5, 3.0])))
    np.testing.assert_allclose(change.gain, 1)
    np.testing.assert_allclose(change.loss, 1)
    if head.out_activation == "exp":  # the mean is the unit, and it was not known
        np.testing.assert_allclose(change.offset, 0)


POSITIVE = [case for case in REGRESSION if head_of(case).out_activation == "exp"]


def _deviance(y, center, power):
    """Mean deviance from a constant in squared units of y, by scikit-learn."""
    return mean_tweedie_deviance(y, np.full(len(y), center), power=power) * center**power


@pytest.mark.parametrize("case", POSITIVE, ids=case_id)
def test_spread_of_positive_targets_is_their_deviance(case):
    head, y = head_of(case, 1), draw_y(case, 60, 1)
    if head.power < 2:
        y[:5] = 0
    if head.power <= 0:
        y[55:] *= -0.1
    for unit in (1.0, 1e-20, 1e20):
        moments = Moments.of(unit * y[:7], measure=head.measure)
        assert moments.variance == pytest.approx(
            unit**2 * _deviance(y[:7, 0], y[:7].mean(), head.power)
        )
        for rows in (slice(7, 8), slice(8, 60)):
            moments = moments.with_rows(unit * y[rows], measure=head.measure)
        assert moments.mean == pytest.approx(unit * y.mean())
        expected = unit**2 * _deviance(y[:, 0], y.mean(), head.power)
        assert moments.variance == pytest.approx(expected)
    # near the mean it is the variance, and a constant has none
    near = 1e4 + 1e-4 * y
    deviation = Moments.of(near, measure=head.measure).deviation
    assert deviation == pytest.approx(near.std(), rel=1e-4)
    assert Moments.of(np.full((9, 1), 0.1), measure=head.measure).deviation == 0


def test_spread_of_counts_that_were_all_zero():
    measure, y = make_head("poisson", None, "regression", 1).measure, np.array([[3.0], [1.0]])
    moments = Moments.of(np.zeros((4, 1)), measure=measure)
    assert moments.deviation == 0
    moments = moments.with_rows(y, measure=measure)
    all_rows = np.append(np.zeros(4), y)
    assert moments.variance == pytest.approx(_deviance(all_rows, all_rows.mean(), 1))


@pytest.mark.parametrize("case", POSITIVE, ids=case_id)
def test_standardised_deviance(case):
    """At the constant prediction the loss is a half, as that of a squared error; units cancel."""
    head = head_of(case, 1)
    for y in (draw_y(case, 80, 1), 1e4 * (1 + 1e-3 * draw_y(case, 80, 1))):
        moments = Moments.of(y, measure=head.measure)
        spread = moments.mean, moments.deviation
        inner, (center, scale) = head.standardized(*spread), head.standardization(*spread)
        target = torch.from_numpy(inner.encode((y - center) / scale))
        torch.testing.assert_close(inner.decode(target), torch.from_numpy(y / y.mean()))
        raw = torch.zeros(80, 1, dtype=torch.float64)
        assert float(inner.loss(raw, target).mean()) == pytest.approx(0.5, rel=1e-6)
        raw = draw_raw(case, head, 80, scale=0.3)
        in_float32 = inner.loss(raw.float(), target.float())
        torch.testing.assert_close(
            in_float32.double(), inner.loss(raw, target), rtol=3e-3, atol=0.01
        )
        leaf = raw.requires_grad_()
        (slope,) = torch.autograd.grad(inner.loss(leaf, target).sum(), leaf)
        torch.testing.assert_close(inner.residual(raw.detach(), target), slope)
        offset, factor = map(torch.from_numpy, head.raw_affine(*spread))
        in_y = raw.detach() * factor + offset
        expected = head.score(in_y, torch.from_numpy(y), None)
        assert inner.score(raw.detach(), target, None) == pytest.approx(expected)
        means = inner.inverse_link(raw.detach()) * y.mean()
        torch.testing.assert_close(means, head.inverse_link(in_y))


def test_poisson_starts_at_the_mean_when_targets_are_large():
    head = make_head("poisson", None, "regression", 1)
    y = np.random.default_rng(0).poisson(1e4, size=(100, 1)).astype(float)
    offset, factor = head.raw_affine(y.mean(0), y.std(0))
    assert np.exp(0 * factor + offset) == pytest.approx(1e4, rel=0.01)
    assert head.standardization(np.zeros(1), np.ones(1)) == (0, 1)


@pytest.mark.parametrize("n_targets, quantile, shape", [
    (1, 0.3, (6,)),
    (2, 0.3, (6, 2)),
    (1, [0.3], (6, 1)),
    (1, [0.1, 0.5, 0.9], (6, 3)),
    (2, [0.1, 0.5, 0.9], (6, 2, 3)),
])  # fmt: skip
def test_quantiles_have_their_axis_and_never_cross(n_targets, quantile, shape):
    head = make_head("quantile", {"quantile": quantile}, "regression", n_targets)
    raw = draw_raw(("quantile",), head, 6)
    prediction = head.as_prediction(head.inverse_link(raw).numpy())
    assert prediction.shape == shape
    if np.ndim(quantile):
        assert (np.diff(prediction, axis=-1) >= 0).all()
        # every target keeps its own quantiles
        own = raw.numpy().reshape(6, n_targets, -1)
        np.testing.assert_array_equal(np.sort(own), prediction.reshape(own.shape))


def test_every_target_has_its_levels():
    head, raw, target, y = problem(("quantile", "regression", {"quantile": [0.1, 0.5, 0.9]}))
    center, scale = np.array([1.0, 2.0]), np.array([3.0, 4.0])
    offset, factor = head.raw_affine(center, scale)
    expected = 0.0
    for j in range(2):
        own = head_of(("quantile", "regression", {"quantile": [0.1, 0.5, 0.9]}), 1)
        columns = slice(3 * j, 3 * j + 3)
        own_target = torch.from_numpy(own.encode(y[:, [j]]))
        expected = expected + own.loss(raw[:, columns], own_target)
        np.testing.assert_array_equal(offset[columns], center[j])
        np.testing.assert_array_equal(factor[columns], scale[j])
    torch.testing.assert_close(head.loss(raw, target), expected)


def test_gaussian_scales_means_only():
    head = make_head("gaussian", None, "regression", 2)
    offset, factor = head.raw_affine(np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    np.testing.assert_array_equal(offset, [1, 2, 0, 0])
    np.testing.assert_array_equal(factor, [3, 4, 1, 1])
    raw = torch.zeros(1, 4, dtype=torch.float64)
    expected = np.array([[3.0, 4.0]]) * math.sqrt(math.log(2) + head.eps)
    np.testing.assert_allclose(head.deviation(raw, np.array([3.0, 4.0])), expected)


def test_only_gaussian_has_a_deviation():
    head, raw, _, _ = problem(("squared_error", "regression", None))
    with pytest.raises(ValueError, match="return_std must be False"):
        head.deviation(raw)


@pytest.mark.parametrize("loss, params, y, rule", [
    ("poisson", None, [[1.0], [-1.0]], "non-negative"),
    ("gamma", None, [[1.0], [0.0]], "positive"),
    ("tweedie", {"power": 1.5}, [[1.0], [-0.1]], "non-negative"),
    ("tweedie", {"power": 3}, [[1.0], [0.0]], "positive"),
])  # fmt: skip
def test_y_outside_the_domain(loss, params, y, rule):
    head = make_head(loss, params, "regression", 1)
    with pytest.raises(ValueError, match=f"^y must be {rule} for the .*got y in "):
        head.check_target(np.array(y))


@pytest.mark.parametrize("loss, params, y", [
    ("poisson", None, 0.0), ("tweedie", {"power": 0}, -1.0), ("tweedie", {"power": 1.5}, 0.0)
])  # fmt: skip
def test_y_on_the_edge_of_the_domain(loss, params, y):
    head = make_head(loss, params, "regression", 1)
    head.check_target(np.array([[y], [1.0]]))
    raw, target = torch.tensor([[0.5], [-200.0]]), torch.tensor([[y], [y]])
    assert head.loss(raw, target).isfinite().all()
    assert head.residual(raw, target).isfinite().all()


def test_registry_is_complete():
    assert all(issubclass(head, Head) for heads in LOSSES.values() for head in heads.values())
    for heads in LOSSES.values():
        for kind, head in heads.items():
            base = RegressionHead if kind == "regression" else ClassificationHead
            assert issubclass(head, base)
            lines = head.__doc__
            assert all(word in lines for word in ("Domain:", "Link:", "Loss:"))


# -- who may be stacked --


@pytest.mark.parametrize("loss, name", [("huber", "delta"), ("smooth_l1", "beta")])
def test_heads_with_other_thresholds_are_not_equal(loss, name):
    one, nine = (make_head(loss, {name: value}, "regression", 1) for value in (1.0, 9.0))
    assert one != nine
    assert one.stack_key == nine.stack_key
    spread = np.array([0.0]), np.array([2.0])
    assert one.standardized(*spread) != nine.standardized(*spread)
    assert one.stack_key != make_head(loss, None, "regression", 2).stack_key


def test_folds_whose_counts_differ_train_in_one_stack(diabetes):
    X, y = diabetes
    net = TorchRegressor("poisson", 4, max_iter=5, random_state=0)
    alone = GridSearchCV(net, {"alpha": [0.1, 1.0]}, cv=3).fit(X, y)
    with joblib.parallel_config("torchsk"):
        stacked = GridSearchCV(net, {"alpha": [0.1, 1.0]}, cv=3).fit(X, y)
    np.testing.assert_allclose(
        stacked.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"], rtol=1e-4
    )


def test_folds_whose_thresholds_differ_train_in_one_stack(diabetes):
    X, y = diabetes
    net = TorchRegressor("huber", 4, max_iter=3, loss_params={"delta": 20.0}, random_state=0)
    alone = GridSearchCV(net, {"alpha": [0.1, 1.0]}, cv=3).fit(X, y)
    with joblib.parallel_config("torchsk"):
        stacked = GridSearchCV(net, {"alpha": [0.1, 1.0]}, cv=3).fit(X, y)
    np.testing.assert_allclose(
        stacked.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"], rtol=1e-4
    )


@pytest.mark.parametrize("weight", [torch.tensor([1.0, 2.0]), np.array([1.0, 2.0])], ids=type)
def test_own_losses_with_arrays_as_parameters_are_stacked(weight, diabetes):
    def loss(raw, target, weight):
        return ((raw - target).square() * torch.as_tensor(weight, dtype=raw.dtype)).sum(1)

    heads = [make_head(loss, {"weight": w}, "regression", 2) for w in (weight, weight * 1)]
    assert heads[0] == heads[1]
    assert hash(heads[0]) == hash(heads[1])
    assert heads[0] != make_head(loss, {"weight": weight * 2}, "regression", 2)
    X, y = diabetes
    net = TorchRegressor(loss, 4, max_iter=2, loss_params={"weight": weight}, random_state=0)
    with joblib.parallel_config("torchsk"):
        search = GridSearchCV(net, {"alpha": [0.1, 1.0]}, cv=2, error_score="raise")
        search.fit(X, np.column_stack([y, -y]))
