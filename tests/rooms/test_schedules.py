"""Schedules against scikit-learn, torch and formulas."""

import numpy as np
import pytest
import torch
from sklearn.neural_network._stochastic_optimizers import SGDOptimizer

from torchsk._schedules import SCHEDULES, make_schedule
from torchsk._solvers import UPDATE_RULES, is_scheduled


def _schedule(name, solver="sgd", rate=0.1, power_t=0.5, max_iter=10):
    return make_schedule(
        name, rate, power_t=power_t, max_iter=max_iter, scheduled=is_scheduled(solver)
    )


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
