"""Classes of torch.optim as solvers, and of its schedulers."""

import functools

import numpy as np
import pytest
import torch
from networks import mlp
from torch import nn

from torchsk import TorchClassifier
from torchsk._optimizers import check_solver, class_of, make_options
from torchsk._parameters import Settings


def test_lbfgs_says_what_to_use(iris):
    for change in ({"module": mlp}, {"skorch_callbacks": []}):
        with pytest.raises(ValueError, match=r"solver must be one of.*torch\.optim\.LBFGS"):
            TorchClassifier(solver="lbfgs", **change).fit(*iris)
    clf = TorchClassifier(
        module=mlp, max_iter=10, random_state=0, learning_rate_init=1,
        solver=functools.partial(torch.optim.LBFGS, line_search_fn="strong_wolfe"),
    )  # fmt: skip
    assert clf.fit(*iris).score(*iris) > 0.95


def test_options_of_an_optimizer_class():
    values = {"momentum": 0.8, "beta_1": 0.7, "beta_2": 0.6, "epsilon": 1e-5}

    def options(solver):
        check_solver(solver)
        estimator = TorchClassifier(solver=solver, **values)
        settings = Settings.of(estimator, 10, 4, early_stopping=False, incremental=False)
        return make_options(settings)[1]

    assert options(torch.optim.SGD) == {"momentum": 0.8, "nesterov": True}
    assert options(torch.optim.Adam) == {"betas": (0.7, 0.6), "eps": 1e-5}
    assert options(torch.optim.Adafactor) == {}
    assert options(functools.partial(torch.optim.Adam, eps=1e-3)) == {"betas": (0.7, 0.6)}
    with pytest.raises(ValueError, match="solver must be one of"):
        options(nn.Linear)
    assert class_of(functools.partial(nn.Linear)) is nn.Linear
    assert class_of(len) is None


@pytest.mark.parametrize(
    "solver",
    [
        getattr(torch.optim, name)
        for name in ("SGD", "AdamW", "RMSprop", "NAdam", "Adadelta", "Adafactor", "Rprop")
    ],
)
def test_any_optimizer_trains(iris, solver):
    clf = TorchClassifier((8,), solver=solver, max_iter=20, random_state=0, alpha=0.1).fit(*iris)
    assert clf.loss_curve_[-1] < clf.loss_curve_[0]
    assert clf.coefs_[0].shape == (4, 8)
    assert clf.partial_fit(*iris).n_iter_ == 1


def test_scheduler_class(iris):
    step = functools.partial(torch.optim.lr_scheduler.StepLR, step_size=3, gamma=0.5)
    clf = TorchClassifier((4,), learning_rate=step, learning_rate_init=0.2, max_iter=7)
    rates = clf.fit(*iris).net_.history[:, "event_lr"]
    np.testing.assert_allclose(rates, [0.2] * 3 + [0.1] * 3 + [0.05])
    clf.partial_fit(*iris).partial_fit(*iris).partial_fit(*iris)
    np.testing.assert_allclose(clf.net_.history[-3:, "event_lr"], [0.05, 0.05, 0.025])
    plateau = functools.partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=0)
    clf = TorchClassifier(
        (4,), learning_rate=plateau, learning_rate_init=2.0, max_iter=40, early_stopping=True,
        random_state=0,
    ).fit(*iris)  # fmt: skip
    assert clf.net_.optimizer_.param_groups[0]["lr"] < 2
    with pytest.raises(ValueError, match="learning_rate must be a name"):
        TorchClassifier(learning_rate=nn.Linear).fit(*iris)
