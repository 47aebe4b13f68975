"""Update rules against torch.optim and scikit-learn, schedules against both and formulas."""

import math

import numpy as np
import pytest
import torch
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer

from torchsk._solvers import (
    FULL_BATCH_SOLVERS,
    SCHEDULES,
    SOLVERS,
    UPDATE_RULES,
    as_column,
    make_schedule,
    minimize_lbfgs,
)

N_MODELS, N_PARAMS, N_STEPS = 3, 5, 12
#: three models that differ in everything
HYPER_PARAMETERS = {
    "momentum": [0.9, 0.5, 0.0],
    "beta_1": [0.9, 0.8, 0.5],
    "beta_2": [0.999, 0.9, 0.99],
    "epsilon": [1e-15, 1e-14, 1e-13],  # so small that it does not matter where it is added
}
RATES = np.array([0.1, 0.01, 0.03])
# torch's Adagrad and RMSprop add epsilon where ours do, so there it may be large
LARGE_EPSILON = {**HYPER_PARAMETERS, "epsilon": [1e-3, 1e-2, 1e-8]}


def _draw():
    rng = np.random.RandomState(0)
    return (
        torch.from_numpy(rng.normal(size=(N_MODELS, N_PARAMS))),
        torch.from_numpy(rng.normal(size=(N_STEPS, N_MODELS, N_PARAMS))),
    )


def _run(name, hyper_parameters, rates, weights, gradients, nesterov=True):
    """Update copies of weights (n_models, n_params), in epochs of three steps."""
    n_models = len(weights)
    rule = UPDATE_RULES[name](hyper_parameters, nesterov, weights)
    weights = weights.clone()
    moments = torch.zeros(rule.n_moments, *weights.shape, dtype=weights.dtype)
    for start in range(0, len(gradients), 3):
        steps = rule.rates(rates, np.full(n_models, start), 3)
        assert steps.shape == (3, n_models)
        for step, gradient in zip(steps, gradients[start : start + 3]):
            rule.step_(weights, gradient.clone(), moments, torch.tensor(step).unsqueeze(1))
    return weights


def _run_torch(make, weights, gradients):
    """One torch optimizer per model, made by make(i, parameters)."""
    weights = weights.clone()
    for i in range(len(weights)):
        leaf = weights[i].clone().requires_grad_()
        optimizer = make(i, [leaf])
        for gradient in gradients:
            leaf.grad = gradient[i].clone()
            optimizer.step()
        weights[i] = leaf.detach()
    return weights


H = HYPER_PARAMETERS
TORCH = {
    "sgd": lambda i, p: torch.optim.SGD(
        p, float(RATES[i]), momentum=H["momentum"][i], nesterov=H["momentum"][i] > 0
    ),
    "adam": lambda i, p: torch.optim.Adam(
        p, float(RATES[i]), betas=(H["beta_1"][i], H["beta_2"][i]), eps=H["epsilon"][i]
    ),
    "adamw": lambda i, p: torch.optim.AdamW(
        p,
        float(RATES[i]),
        betas=(H["beta_1"][i], H["beta_2"][i]),
        eps=H["epsilon"][i],
        weight_decay=0,  # the trainer's business
    ),
    "rmsprop": lambda i, p: torch.optim.RMSprop(
        p, float(RATES[i]), alpha=H["beta_2"][i], eps=LARGE_EPSILON["epsilon"][i]
    ),
    "adagrad": lambda i, p: torch.optim.Adagrad(
        p, float(RATES[i]), eps=LARGE_EPSILON["epsilon"][i]
    ),
}


@pytest.mark.parametrize("name", UPDATE_RULES)
def test_a_stack_steps_as_torch_optim_does_for_each_model(name):
    weights, gradients = _draw()
    hyper_parameters = LARGE_EPSILON if name in ("rmsprop", "adagrad") else H
    result = _run(name, hyper_parameters, RATES, weights, gradients)
    torch.testing.assert_close(
        result, _run_torch(TORCH[name], weights, gradients), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("name", UPDATE_RULES)
def test_columns_are_a_loop_over_models(name, nesterov):
    weights, gradients = _draw()
    together = _run(name, LARGE_EPSILON, RATES, weights, gradients, nesterov)
    for i in range(N_MODELS):
        alone = _run(
            name,
            {key: values[i : i + 1] for key, values in LARGE_EPSILON.items()},
            RATES[i : i + 1],
            weights[i : i + 1],
            gradients[:, i : i + 1],
            nesterov,
        )
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", UPDATE_RULES)
def test_rates_may_change_from_step_to_step(name):
    """A rate of zero stands still."""
    weights, gradients = _draw()
    same = _run(name, {**LARGE_EPSILON, "momentum": [0.0] * 3}, 0 * RATES, weights, gradients)
    assert torch.equal(same, weights)


@pytest.mark.parametrize("nesterov", [True, False])
def test_sgd_is_scikit_learns(nesterov):
    """Also when the rate changes, where torch's differs."""
    weights, gradients = _draw()
    rates = [0.1, 0.02, 0.5]
    oracle = [weights[0].numpy().copy()]
    optimizer = SGDOptimizer(oracle, rates[0], "constant", 0.9, nesterov)
    rule = UPDATE_RULES["sgd"]({"momentum": [0.9]}, nesterov, weights[:1])
    result, moments = weights[:1].clone(), torch.zeros(1, 1, N_PARAMS, dtype=torch.float64)
    for rate, gradient in zip(rates, gradients):
        optimizer.learning_rate = rate
        optimizer.update_params(oracle, [gradient[0].numpy()])
        rule.step_(result, gradient[:1].clone(), moments, torch.tensor(rate, dtype=torch.float64))
    np.testing.assert_allclose(result[0], oracle[0], rtol=1e-12)


def test_adam_is_scikit_learns():
    """Its epsilon is large here: where it is added matters."""
    weights, gradients = _draw()
    oracle = [weights[0].numpy().copy()]
    optimizer = AdamOptimizer(oracle, 0.1, 0.8, 0.99, epsilon=0.1)
    hyper_parameters = {"beta_1": [0.8], "beta_2": [0.99], "epsilon": [0.1]}
    for gradient in gradients:
        optimizer.update_params(oracle, [gradient[0].numpy()])
    result = _run("adam", hyper_parameters, np.array([0.1]), weights[:1], gradients[:, :1])
    np.testing.assert_allclose(result[0], oracle[0], rtol=1e-12)


def test_as_column():
    like = torch.zeros(3, 2)
    assert as_column([0.5, 0.5, 0.5], like) == 0.5
    assert as_column([0.5, 0.5, 0.5], like).shape == ()
    column = as_column([0.5, 0.1, 0.5], like)
    assert column.shape == (3, 1)
    assert column.dtype == like.dtype


def test_every_solver_has_a_default_rate():
    assert set(SOLVERS) == {*UPDATE_RULES, *FULL_BATCH_SOLVERS}
    for rule in UPDATE_RULES.values():
        assert set(rule.default_rate) == {"classifier", "regressor"}
    assert UPDATE_RULES["sgd"].default_rate == {"classifier": 0.05, "regressor": 0.02}
    assert UPDATE_RULES["sgd"].default_max_grad_norm == 1.0


# -- schedules --


def _schedule(name, solver="sgd", rate=0.1, power_t=0.5, max_iter=10):
    return make_schedule(name, rate, solver=solver, power_t=power_t, max_iter=max_iter)


def _rates(schedule, n_epochs, n_samples=50):
    """The rate of each epoch."""
    rates = []
    for epoch in range(1, n_epochs + 1):
        rates.append(schedule.rate)
        schedule.after_epoch(epoch * n_samples)
    return rates


@pytest.mark.parametrize("name", ["constant", "invscaling", "adaptive"])
def test_scikit_learns_schedules(name):
    schedule = _schedule(name, power_t=0.3)
    oracle = SGDOptimizer([], 0.1, name, power_t=0.3)
    for epoch in range(1, 40):
        assert schedule.rate == pytest.approx(oracle.learning_rate, rel=1e-12)
        schedule.after_epoch(50 * epoch)
        oracle.iteration_ends(50 * epoch)
        if epoch % 3 == 0:
            assert (schedule.after_plateau() is None) == oracle.trigger_stopping("", False)
    assert name != "adaptive" or schedule.rate <= 1e-6


@pytest.mark.parametrize("name", ["invscaling", "adaptive"])
def test_scikit_learns_schedules_act_with_sgd_only(name):
    schedule = _schedule(name, solver="adam")
    assert _rates(schedule, 3) == [0.1] * 3
    assert schedule.after_plateau() is None


@pytest.mark.parametrize("solver", UPDATE_RULES)
def test_cosine_is_torchs(solver):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)
    oracle = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    expected = []
    for _ in range(10):
        expected += oracle.get_last_lr()
        optimizer.step()
        oracle.step()
    assert _rates(_schedule("cosine", solver), 10) == pytest.approx(expected)
    beyond = _schedule("cosine", solver, max_iter=2)
    assert _rates(beyond, 4)[2:] == pytest.approx([0, 0])  # as partial_fit may go


@pytest.mark.parametrize("solver", UPDATE_RULES)
def test_onecycle_rises_and_falls(solver):
    rates = np.array(_rates(_schedule("onecycle", solver, max_iter=101), 110))
    assert rates[0] == pytest.approx(0.1 / 25)
    assert rates.argmax() == 30
    assert rates[30] == pytest.approx(0.1)
    assert (np.diff(rates[:31]) > 0).all()
    assert (np.diff(rates[30:101]) < 0).all()
    assert rates[100:] == pytest.approx([0.1 / 250_000] * 10)
    assert _rates(_schedule("onecycle", solver, max_iter=1), 1) == pytest.approx([0.1 / 25])


def test_a_callable_gives_the_factor():
    seen = []

    def factor(epoch):
        seen.append(epoch)
        return 0.5**epoch

    assert _rates(_schedule(factor, solver="adam"), 3) == [0.1, 0.05, 0.025]
    assert seen == [0, 1, 2, 3]


@pytest.mark.parametrize("n_samples_seen", [None, 150])
@pytest.mark.parametrize("name", SCHEDULES)
def test_resume_goes_on(name, n_samples_seen):
    whole, resumed = _schedule(name), _schedule(name)
    expected = _rates(whole, 6)
    first = _schedule(name)
    _rates(first, 3)
    resumed.resume(first.epoch, first.rate, n_samples_seen)
    for epoch in range(3, 6):
        assert resumed.rate == expected[epoch]
        resumed.after_epoch((epoch + 1) * 50)


# -- lbfgs --


def _quadratic(n=8):
    rng = np.random.RandomState(0)
    A = rng.normal(size=(n, n))
    A = A @ A.T + np.eye(n)
    b = rng.normal(size=n)
    return (lambda x: (0.5 * x @ A @ x - b @ x, A @ x - b)), np.linalg.solve(A, b)


def test_lbfgs_solves_a_quadratic():
    objective, solution = _quadratic()
    latest = []
    result = minimize_lbfgs(
        objective, np.zeros(8), max_iter=100, max_fun=1000, tol=1e-9, callback=latest.append
    )
    assert result.status == 0
    np.testing.assert_allclose(result.x, solution, rtol=1e-3)
    assert len(latest) == result.nit


@pytest.mark.parametrize("limit", ["max_iter", "max_fun"])
def test_lbfgs_stops_at_its_limits(limit):
    objective, _ = _quadratic()
    limits = {"max_iter": 100, "max_fun": 1000, limit: 3}
    result = minimize_lbfgs(objective, np.zeros(8), tol=1e-12, **limits)
    assert result.status == 1
    assert math.isfinite(result.fun)
