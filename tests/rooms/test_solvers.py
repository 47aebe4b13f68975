"""Update rules against torch.optim and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer

from torchsk._solvers import SOLVERS, UPDATE_RULES, as_column

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
    assert set(SOLVERS) == {*UPDATE_RULES, "lbfgs"}
    for rule in UPDATE_RULES.values():
        assert set(rule.default_rate) == {"classifier", "regressor"}
    assert UPDATE_RULES["sgd"].default_rate == {"classifier": 0.05, "regressor": 0.02}
    assert UPDATE_RULES["sgd"].default_max_grad_norm == 1.0


class _Doubled:
    """A change of units that doubles all weights: steps double with them, gradients halve."""

    def steps(self, flat):
        return 2 * flat

    def gradients(self, flat):
        return flat / 2

    def squares(self, flat):
        return flat / 4


@pytest.mark.parametrize("name", UPDATE_RULES)
def test_moments_follow_the_weights(name):
    """As if all gradients before had been those of the weights that are doubled now."""
    weights, gradients = _draw()
    values = {key: np.array(value[:1]) for key, value in LARGE_EPSILON.items()}
    rule = UPDATE_RULES[name](values, True, weights[:1])
    moments = torch.zeros(2, rule.n_moments, 1, N_PARAMS, dtype=weights.dtype)
    rate = torch.tensor(0.1, dtype=weights.dtype)
    for gradient in gradients[:, :1]:
        for i, factor in enumerate((1, 2)):
            # a rate is in weights per gradient, so that of the velocity's steps is not invariant
            step = 4 * rate if factor == 2 and name == "sgd" else rate
            rule.step_(weights[:1].clone(), gradient / factor, moments[i], step)
    before, after = (m.squeeze(1).numpy() for m in moments)
    np.testing.assert_allclose(rule.reexpress(before, _Doubled()), after, rtol=1e-6)
