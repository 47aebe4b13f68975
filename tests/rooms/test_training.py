"""The one training loop: a stack of jobs gives every job what it gets alone."""

import copy
import math
from dataclasses import replace
from itertools import groupby

import numpy as np
import pytest
import scipy.sparse as sp
import simulated_graph
import torch

from torchsk import TorchClassifier, TorchRegressor, _solvers, _stacking
from torchsk._mlp import Network
from torchsk._schedules import SCHEDULES
from torchsk._solvers import UPDATE_RULES
from torchsk._training import STACK_PARAMETERS, TrainingCancelled, TrainingResult, graphs, stack

N_FEATURES = 6


def train(jobs, should_stop=None):
    return jobs[0].lane.train(jobs, should_stop)


def stack_key(job):
    return job.lane.stack_key(job)


class Handed(Exception):
    """Carries a job out of fit."""


@pytest.fixture
def job_of(monkeypatch):
    """The job that an estimator would train: job_of(estimator, X, y, ...)."""

    def hand_over(job):
        raise Handed(job)

    def job_of(estimator, X, y, partial=False, **kwargs):
        with monkeypatch.context() as patch, pytest.raises(Handed) as info:
            patch.setattr(_stacking, "train_job", hand_over)
            (estimator.partial_fit if partial else estimator.fit)(X, y, **kwargs)
        return info.value.args[0]

    return job_of


def _data(n_samples, seed, kind):
    """Rows of a noisy rule; every seed another draw."""
    rng = np.random.RandomState(seed)
    X = rng.normal(size=(n_samples, N_FEATURES)) * [1, 5, 1, 0.1, 1, 1]
    raw = np.stack([X[:, 0] + X[:, 1] / 5, X[:, 2] * X[:, 4], np.sin(X[:, 5])], axis=1)
    raw += 0.3 * rng.normal(size=raw.shape)
    y = {
        "binary": (raw[:, 0] > 0).astype(int),
        "multiclass": raw.argmax(axis=1),
        "multilabel": (raw > 0).astype(int),
        "regression": raw[:, 0] * 10 + 3,
        "multioutput": raw,
        "counts": np.floor(np.exp(raw[:, 0])),
    }[kind]
    return X, y


def _weights(n_samples, seed):
    weight = np.random.RandomState(seed).uniform(size=n_samples)
    weight[::5] = 0
    return weight


#: five fits of one stack: other rates, penalties, seeds and row counts
RATES = [0.05, 0.02, 0.05, 0.1, 0.03]
ALPHAS = [1e-4, 0.1, 1.0, 0.01, 1e-4]
N_SAMPLES = [100, 103, 97, 100, 104]
BASE = {
    "hidden_layer_sizes": (8, 5),
    "batch_size": 32,
    "max_iter": 12,
    "tol": 0.0,
    "learning_rate": "constant",
}


def _jobs(
    job_of,
    kind="multiclass",
    weights=(),
    n_samples=N_SAMPLES,
    validate=False,
    vary=None,
    folds=range(5),
    **params,
):
    """Five jobs; vary maps a parameter to its five values. Jobs of one fold share data and seed."""
    estimator_class = (
        TorchClassifier if kind in ("binary", "multiclass", "multilabel") else TorchRegressor
    )
    jobs, first_of = [], {}
    for i, fold in enumerate(folds):
        n = n_samples[fold]
        X, y = _data(n, fold, kind)
        own = {"learning_rate_init": RATES[i], "alpha": ALPHAS[i], "random_state": fold}
        own |= {name: values[i] for name, values in (vary or {}).items()}
        fit_params = {"sample_weight": _weights(n, fold)} if fold in weights else {}
        if validate:
            fit_params |= dict(zip(("X_val", "y_val"), _data(30 + fold, 10 + fold, kind)))
        job = job_of(estimator_class(**{**BASE, **own, **params}), X, y, **fit_params)
        first = first_of.setdefault(fold, job)
        jobs.append(replace(job, rows=first.rows))
    return jobs


def _alone(jobs):
    return [train([copy.deepcopy(job)])[0] for job in jobs]


def assert_same(results, expected, tol=1e-4):
    assert len(results) == len(expected)
    for result, other in zip(results, expected):
        assert isinstance(other, TrainingResult), other
        assert isinstance(result, TrainingResult), result
        assert result.n_iter == other.n_iter
        np.testing.assert_allclose(result.model.flat, other.model.flat, rtol=tol, atol=tol)
        np.testing.assert_allclose(result.loss, other.loss, rtol=tol, atol=tol)
        for name in ("loss_curve", "validation_loss_curve", "validation_scores"):
            curve, other_curve = (getattr(r.progress, name) for r in (result, other))
            assert (curve is None) == (other_curve is None), name
            if curve is not None:
                np.testing.assert_allclose(curve, other_curve, rtol=1e-3, atol=1e-4, err_msg=name)


#: name -> (activations of the five fits, other parameters)
MIXED = {
    "in-place": (["relu", "tanh", "logistic", "identity", "relu"], {}),
    "with-saved-inputs": (["tanh", "gelu", "relu", "gelu", torch.nn.CELU], {"weights": (1, 3)}),
    "in-one-layer": ([["relu", name] for name in ("tanh", "relu", "silu", "relu", "tanh")], {}),
    "dropout": (["tanh", "relu", "tanh", "tanh", "mish"], {"dropout": [0.5, 0.2]}),
    "early-stopping": (
        ["tanh", "relu", "elu", "tanh", "softplus"],
        {"early_stopping": True, "max_iter": 60, "solver": "adam", "n_iter_no_change": 2},
    ),
    "validation": (["relu", "tanh", "relu", "softsign", "relu"], {"validate": True}),
    "hinge": (["relu", "tanh", "tanh", "relu", "tanh"], {"loss": "hinge"}),
    "regression": (["relu", "tanh", "tanh", "relu", "tanh"], {"kind": "regression"}),
}
FLAT_RATES = {"learning_rate_init": [0.002, 0.001, 0.004, 0.002, 0.001]}
TOGETHER = {
    **{f"solver-{solver}": {"solver": solver, "vary": FLAT_RATES} for solver in UPDATE_RULES},
    **{f"schedule-{name}": {"learning_rate": name, "max_iter": 20} for name in SCHEDULES},
    "schedule-callable": {"learning_rate": lambda epoch: 0.9**epoch, "solver": "adam"},
    "sgd": {"vary": {"momentum": [0.9, 0.5, 0.0, 0.9, 0.8]}},
    "sgd-without-nesterov": {"nesterovs_momentum": False},
    "adam-with-other-moments": {
        "solver": "adam",
        "vary": {
            **FLAT_RATES,
            "beta_1": [0.9, 0.8, 0.9, 0.0, 0.5],
            "beta_2": [0.999, 0.99, 0.9, 0.999, 0.5],
            "epsilon": [1e-8, 1e-4, 1e-8, 1e-2, 1e-8],
        },
    },
    "clipping": {"vary": {"max_grad_norm": [0.1, None, 1.0, 0.01, 10.0]}},
    "clipping-at-extremes": {"vary": {"max_grad_norm": [1e-300, 1e-20, None, 1.0, 1e300]}},
    "no-clipping": {"max_grad_norm": None},
    "no-penalty": {"vary": {"alpha": [0.0] * 5}},
    "no-shuffle": {"shuffle": False},
    "dropout": {"dropout": [0.5, 0.2]},
    "dropout-in-one-layer": {"dropout": [0.0, 0.4]},
    "some-weights": {"weights": (1, 3)},
    "all-weights": {"weights": range(5), "solver": "adam"},
    "early-stopping": {
        "early_stopping": True,
        "validation_fraction": 0.3,
        "max_iter": 60,
        "vary": {"n_iter_no_change": [1, 2, 5, 3, 8], "tol": [1e-2, 0.0, 1e-3, 0.0, 1e-4]},
    },
    "early-stopping-with-weights": {
        "early_stopping": True,
        "validation_fraction": 0.3,
        "weights": (0, 2),
        "scoring": "loss",
    },
    "stopping": {"max_iter": 80, "n_iter_no_change": 2, "vary": {"tol": [1e-1, 1e-2, 0.05, 1, 0]}},
    "adaptive-plateaus": {"learning_rate": "adaptive", "n_iter_no_change": 1, "tol": 0.05},
    "validation": {"validate": True},
    "validation-scored": {"validate": True, "scoring": "neg_log_loss", "early_stopping": True},
    "full-batch": {"batch_size": 200, "n_samples": [60, 55, 63, 61, 48]},
    "full-batch-with-weights": {
        "batch_size": 200,
        "n_samples": [60, 55, 63, 61, 48],
        "weights": (0, 4),
    },
    "full-batch-early-stopping": {
        "batch_size": 200,
        "n_samples": [60, 55, 63, 61, 48],
        "early_stopping": True,
        "validation_fraction": 0.25,
    },
    "one-row-in-the-last-batch": {"n_samples": [97, 100, 98, 97, 128]},
    "equal-row-counts": {"n_samples": [96] * 5},
    "binary": {"kind": "binary"},
    "multilabel": {"kind": "multilabel", "loss": "bce"},
    "hinge": {"kind": "multiclass", "loss": "hinge"},
    "regression": {"kind": "regression"},
    "regression-of-two-targets": {"kind": "multioutput", "validate": True},
    "huber": {"kind": "multioutput", "loss": "huber"},
    "quantile": {"kind": "regression", "loss": "quantile"},
    "focal": {"loss": "focal"},
    "periodic": {"numerical_embedding": "periodic", "solver": "adam", "vary": FLAT_RATES},
    # few epochs: these two double a difference of rounding every other step
    "poisson": {"kind": "counts", "loss": "poisson", "max_iter": 6},
    "gaussian": {"kind": "regression", "loss": "gaussian", "max_iter": 6},
    "no-hidden-layer": {"hidden_layer_sizes": ()},
    "activations": {"activation": ["gelu", "tanh"]},
    **{
        f"activations-that-differ-{name}": {"vary": {"activation": activations}, **params}
        for name, (activations, params) in MIXED.items()
    },
    "partly-fitted-batch-size-auto": {"batch_size": "auto"},
    "auto": {
        "batch_size": "auto",
        "n_samples": [320, 407, 323, 405, 321],  # every fifth of those with weights is dropped
        "weights": (1, 3),
        "vary": {"alpha": ["auto", 0.1, "auto", "auto", 1.0]},
    },
    "auto-with-dropout": {
        "batch_size": "auto",
        "n_samples": [320, 326, 323, 325, 321],
        "alpha": "auto",
        "dropout": [0.5, 0.2],
        "learning_rate": "onecycle",
        "max_iter": 4,
    },
    "auto-of-a-decoupled-rule": {
        "batch_size": "auto",
        "solver": "adamw",
        "learning_rate": "onecycle",
        "vary": {**FLAT_RATES, "alpha": ["auto", 0.1, "auto", 0.01, 1.0]},
    },
}


@pytest.mark.parametrize("case", TOGETHER)
def test_together_as_alone(job_of, case):
    jobs = _jobs(job_of, **TOGETHER[case])
    assert len({stack_key(job) for job in jobs}) == 1
    expected = _alone(jobs)
    assert_same(train(copy.deepcopy(jobs)), expected)
    if case in ("early-stopping", "stopping"):
        assert len({result.n_iter for result in expected}) > 2  # not all at once


def _with_recordings(monkeypatch, jobs):
    """Train jobs with what repeats recorded; return the results, and how often that was done."""
    recorded = []

    def record(work, device):
        recorded.append(work)
        return simulated_graph.record(work, device)

    with monkeypatch.context() as patch:
        patch.setitem(graphs.RECORDERS, "cpu", record)
        return train(copy.deepcopy(jobs)), len(recorded)


@pytest.mark.parametrize("case", TOGETHER)
def test_recorded_as_not(job_of, monkeypatch, case):
    """The operations on the memory of the recording are those of every later epoch."""
    jobs = _jobs(job_of, **TOGETHER[case])
    calls_user = any(torch.nn.CELU in job.model.spec.activations for job in jobs)
    for part in (jobs, jobs[:1]):
        results, n_recorded = _with_recordings(monkeypatch, part)
        assert_same(results, train(copy.deepcopy(part)), tol=1e-6)
        assert (n_recorded > 0) != (calls_user and part is jobs)


def test_what_is_recorded(job_of, monkeypatch):
    """An epoch, after two like it; anew when a model has left; never what calls a user's code."""
    jobs = _jobs(job_of, n_samples=[100] * 5)
    assert _with_recordings(monkeypatch, jobs)[1] == 1
    leaving = _jobs(job_of, n_samples=[100] * 5, vary={"max_iter": [3, 5, 12, 12, 12]})
    assert _with_recordings(monkeypatch, leaving)[1] == 2  # the third epoch, and the eighth
    with monkeypatch.context() as patch:
        patch.setattr(graphs, "MAX_STEPS", 3)
        assert _with_recordings(monkeypatch, jobs)[1] == 2  # blocks of three steps and of one
    with monkeypatch.context() as patch:
        patch.setattr(stack, "BLOCK_SIZE", 2 * 32 * 5 * (N_FEATURES + 3))
        assert _with_recordings(monkeypatch, jobs)[1] == 2  # blocks of 32 + 32 and of 32 + 4 rows
        patch.setattr(stack, "BLOCK_SIZE", 2 * 32 * 5 * (N_FEATURES + 3 + 8 + 5))
        for dropout in (0.0, 0.3):  # three of 32 + 32, and the padded last ones
            uneven = _jobs(job_of, n_samples=[200, 203, 197, 200, 204], dropout=dropout)
            results, n_recorded = _with_recordings(monkeypatch, uneven)
            assert n_recorded == 2
            assert_same(results, train(copy.deepcopy(uneven)), tol=1e-6)
    jobs = _jobs(
        job_of,
        loss=lambda raw, target: torch.nn.functional.cross_entropy(
            raw, target.squeeze(-1), reduction="none"
        ),
    )
    assert _with_recordings(monkeypatch, jobs)[1] == 0


def test_what_cannot_be_recorded(job_of, monkeypatch):
    """Training goes on, and says so."""

    def fail(work, device):
        raise RuntimeError("operation not permitted when stream is capturing")

    jobs = _jobs(job_of)
    expected = train(copy.deepcopy(jobs))
    monkeypatch.setitem(graphs.RECORDERS, "cpu", fail)
    with pytest.warns(UserWarning, match="on cpu goes on .*: operation not permitted") as record:
        results = train(copy.deepcopy(jobs))
    assert len(record) == 1
    assert_same(results, expected, tol=0)


@pytest.fixture
def groups_seen(monkeypatch):
    """The groups of models that share their batches, of every network that is built."""
    # as if they were large
    monkeypatch.setattr(stack, "WIDE_SIZE", 0)
    monkeypatch.setattr(stack, "prefers_onednn", lambda *_: True)
    seen, init = [], Network.__init__

    def spy(self, spec, flat, groups=None):
        seen.append(groups)
        init(self, spec, flat, groups)

    monkeypatch.setattr(Network, "__init__", spy)
    return seen


def _copy(jobs):
    """Copy all but the data, which stay shared."""
    return [replace(copy.deepcopy(job), rows=job.rows) for job in jobs]


@pytest.mark.parametrize("case", TOGETHER)
def test_candidates_of_a_fold_share_their_batches(job_of, groups_seen, case):
    """And each gets what it gets alone, its generator's state included."""
    folds = [2, 0, 2, 0, 2]
    jobs, alone = _jobs(job_of, folds=folds, **TOGETHER[case]), []
    together = _copy(jobs)
    results = train(together)
    kinds = [job.model.spec.activations for job in jobs]
    places = sorted(range(5), key=lambda i: (kinds.index(kinds[i]), folds.index(folds[i])))
    sizes = [len(list(run)) for _, run in groupby(folds[i] for i in places)]
    wide = None if "numerical_embedding" in TOGETHER[case] else sizes  # each embeds its own
    assert groups_seen[:2] == [wide] * 2  # weights and gradients
    for job, other in zip(_copy(jobs), together):
        alone += train([job])
        assert groups_seen[-1] is None
        assert job.rng.randint(2**31) == other.rng.randint(2**31)
    assert_same(results, alone)


@pytest.mark.parametrize("kind", ["multiclass", "regression"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_candidate_that_diverges_ends_as_alone(job_of, groups_seen, kind, early_stopping):
    jobs = _jobs(
        job_of,
        kind,
        folds=[0] * 5,
        max_grad_norm=None,
        early_stopping=early_stopping,
        vary={
            "alpha": [0.0] * 5,
            "learning_rate_init": [0.01, 0.02, 1.0, 0.01, 0.03],
            "learning_rate": ["constant", "constant", lambda epoch: 1e-3 if epoch < 3 else 1e38]
            + ["constant"] * 2,
        },
    )
    alone = _alone(jobs)
    together = train(_copy(jobs))
    assert [5] in groups_seen
    failed, expected = together.pop(2), alone.pop(2)
    if early_stopping:
        assert failed.n_iter == expected.n_iter == 4
        assert str(failed.warning) == str(expected.warning)
    else:
        assert str(failed) == str(expected) and "4" in str(failed)
    assert_same(together, alone)


def test_other_seeds_other_rows_or_one_generator_share_nothing(job_of, groups_seen):
    n_samples = [96] * 5
    for params in (
        {"folds": [0] * 5, "vary": {"random_state": range(5)}},
        {"folds": range(5), "vary": {"random_state": [0] * 5}},
        {"folds": [0] * 5, "random_state": None},
        {"folds": [0] * 5, "random_state": np.random.RandomState(0)},
    ):
        train(_jobs(job_of, n_samples=n_samples, **params))
        assert groups_seen[0] is None
        groups_seen.clear()
    # but without an order, seeds do not matter
    train(
        _jobs(
            job_of,
            n_samples=n_samples,
            shuffle=False,
            folds=[0] * 5,
            vary={"random_state": range(5)},
        )
    )
    assert groups_seen[0] == [5]


def test_warm_moments_are_taken_over(job_of):
    """partial_fit goes on from the solver's state, also in a stack."""
    jobs = []
    for i in range(3):
        X, y = _data(100, i, "multiclass")
        estimator = TorchClassifier(**BASE, solver="adam", random_state=i)
        for _ in range(i + 1):
            estimator.partial_fit(X, y, classes=[0, 1, 2])
        jobs.append(job_of(estimator, X, y, partial=True))
        assert jobs[-1].state.n_steps == 4 * (i + 1)
    expected = _alone(jobs)
    assert_same(train(copy.deepcopy(jobs)), expected, tol=1e-5)
    cold = _alone([replace(job, state=None) for job in jobs])
    assert abs(cold[2].model.flat - expected[2].model.flat).max() > 1e-4


@pytest.mark.parametrize("solver", ["sgd", "adamw"])
def test_steps_are_torchs(job_of, solver):
    """Gradient, penalty, clipping and update of two full batches, by autograd and torch.optim."""
    X, y = _data(50, 0, "multiclass")
    estimator = TorchClassifier(**BASE, solver=solver, alpha=5.0, learning_rate_init=0.1)
    estimator.set_params(momentum=0.0, nesterovs_momentum=False, epsilon=1e-14, max_grad_norm=0.5)
    estimator.set_params(max_iter=2, batch_size=50, random_state=0)
    job = job_of(estimator, X, y)
    flat = torch.from_numpy(job.model.flat).float().requires_grad_()
    coefs, intercepts = job.model.spec.split(flat)
    if solver == "sgd":
        optimizer, coupled = torch.optim.SGD([flat], 0.1), 5.0
    else:  # decoupled: AdamW shrinks what it is told to, here all but the intercepts
        leaves = [flat[: job.model.spec.n_coefs], flat[job.model.spec.n_coefs :]]
        leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
        flat, coupled = None, 0.0
        groups = [
            {"params": leaves[:1], "weight_decay": 5.0},
            {"params": leaves[1:], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, 0.1, eps=1e-14)
    for _ in range(2):
        optimizer.zero_grad()
        current = torch.cat(leaves) if flat is None else flat
        coefs, intercepts = job.model.spec.split(current)
        raw = job.rows.X.part(slice(None))
        for coef, intercept in zip(coefs[:-1], intercepts[:-1]):
            raw = torch.relu(raw @ coef + intercept)
        raw = raw @ coefs[-1] + intercepts[-1]
        loss = torch.nn.functional.cross_entropy(raw, job.rows.target[:, 0])
        penalty = sum(coef.square().sum() for coef in coefs)
        (loss + 0.5 * coupled / 50 * penalty).backward()
        parameters = [flat] if flat is not None else leaves
        torch.nn.utils.clip_grad_norm_(parameters, 0.5)
        optimizer.step()
    expected = torch.cat(leaves) if flat is None else flat
    (result,) = train([copy.deepcopy(job)])
    np.testing.assert_allclose(result.model.flat, expected.detach(), rtol=1e-4, atol=2e-5)


@pytest.fixture
def stack_sizes(monkeypatch):
    """The number of models in each step of sgd."""
    sizes, step_ = [], _solvers.SGD.step_

    def counted_step_(self, weights, *args):
        sizes.append(weights.shape[0])
        return step_(self, weights, *args)

    monkeypatch.setattr(_solvers.SGD, "step_", counted_step_)
    return sizes


def test_models_that_stop_leave_the_stack(job_of, stack_sizes):
    jobs = _jobs(job_of, n_samples=[96] * 5, vary={"max_iter": [3, 1, 4, 1, 2]})
    train(jobs)
    n_batches = 3
    assert stack_sizes == [5] * n_batches + [3] * n_batches + [2] * n_batches + [1] * n_batches


def test_max_iter_is_each_jobs_own_and_warns(job_of):
    jobs = _jobs(job_of, n_samples=[96] * 5, vary={"max_iter": [3, 1, 4, 60, 2], "tol": [1] * 5})
    results = train(jobs)
    assert [result.n_iter for result in results] == [3, 1, 4, 12, 2]  # 1 + 10 + 1 epochs
    assert [result.warning is None for result in results] == [False] * 3 + [True, False]
    assert "Maximum iterations (4) reached" in str(results[2].warning)
    assert "adam" in str(results[2].warning)  # what to try


@pytest.mark.parametrize("n_samples", [[96] * 5, N_SAMPLES])
def test_a_job_that_diverges_fails_alone(job_of, n_samples):
    rates = [0.05, 0.02, 1e30, 0.1, 0.03]
    jobs = _jobs(
        job_of,
        n_samples=n_samples,
        max_grad_norm=None,
        kind="regression",
        vary={"learning_rate_init": [0.01 * r for r in rates]},
    )
    expected = [train([copy.deepcopy(job)])[0] for job in jobs]
    results = train(copy.deepcopy(jobs))
    for outcome in (results.pop(2), expected.pop(2)):
        assert isinstance(outcome, ValueError)
        for word in ("learning_rate_init", "max_grad_norm", "standardize"):
            assert word in str(outcome)
    assert_same(results, expected)


@pytest.mark.parametrize("scoring", ["loss", None])
def test_divergence_with_early_stopping_keeps_the_best(job_of, scoring):
    # the rate explodes in epoch 4
    jobs = _jobs(
        job_of,
        kind="regression",
        early_stopping=True,
        scoring=scoring,
        max_grad_norm=None,
        learning_rate=lambda epoch: 1.0 if epoch < 4 else 1e35,
        max_iter=30,
    )
    for result in [*_alone(jobs), *train(jobs)]:
        assert "The best weights so far were kept" in str(result.warning)
        assert np.isfinite(result.model.flat).all()
        assert result.n_iter == 5
        assert math.isfinite(result.progress.best_score)


@pytest.mark.parametrize("kind", ["regression", "multioutput"])
def test_a_loss_of_one_number_sees_one_batch_at_a_time(job_of, kind):
    n_seen = []

    def pairs(raw, target):
        n_seen.append(len(raw))
        return ((raw - target).unsqueeze(0) - (raw - target).unsqueeze(1)).square().mean()

    X, y = _data(100, 0, kind)
    job = job_of(TorchRegressor(**BASE, loss=pairs, random_state=0), X, y)
    n_seen.clear()
    (result,) = train([job])
    assert max(n_seen) == 32
    assert result.progress.loss_curve[-1] < result.progress.loss_curve[0]


def test_batches_that_weigh_next_to_nothing_change_nothing(job_of):
    X, y = _data(100, 0, "regression")
    weight = np.where(np.arange(100) < 50, 1.0, 1e-42)
    params = {**BASE, "shuffle": False, "batch_size": 50, "alpha": 0.0, "random_state": 0}
    light, without = (
        job_of(TorchRegressor(**params), X, y, sample_weight=w) for w in (weight, weight > 0.5)
    )
    assert_same(train([light]), train([without]), tol=1e-6)


def test_should_stop(job_of):
    calls = []

    def should_stop():
        calls.append(1)
        return len(calls) > 3

    with pytest.raises(TrainingCancelled):
        train(_jobs(job_of), should_stop)
    assert len(calls) == 4
    assert not issubclass(TrainingCancelled, Exception)  # no error_score may swallow it


@pytest.mark.parametrize("n_jobs", [1, 5])
@pytest.mark.parametrize("n_rows", [0.5, 70])
@pytest.mark.parametrize("weights", [(), (0,)])
def test_block_boundaries_do_not_matter(job_of, monkeypatch, n_jobs, n_rows, weights):
    jobs = _jobs(job_of, weights=weights, validate=True)[:n_jobs]
    expected = train(copy.deepcopy(jobs))
    monkeypatch.setattr(stack, "BLOCK_SIZE", int(n_rows * n_jobs * N_FEATURES))
    assert_same(train(jobs), expected, tol=1e-6)


@pytest.mark.parametrize("batch_size", [32, 200])
def test_sparse_rows_are_dense_rows(job_of, batch_size):
    dense, sparse = [], []
    for i in range(3):
        X, y = _data(100, i, "multiclass")
        X[np.abs(X) < 0.5] = 0
        estimator = TorchClassifier(
            **{**BASE, "batch_size": batch_size}, random_state=i, standardize=False
        )
        dense.append(job_of(estimator, X, y, X_val=X[:20], y_val=y[:20]))
        sparse.append(
            job_of(estimator, sp.csr_array(X), y, X_val=sp.csc_array(X[:20]), y_val=y[:20])
        )
    assert stack_key(dense[0]) != stack_key(sparse[0])
    expected = _alone(dense)
    assert_same(_alone(sparse), expected, tol=1e-4)
    assert_same(train(sparse), expected, tol=1e-4)


def test_shared_data_is_kept_once(job_of):
    """Jobs of one fold that share their tensors train as jobs with copies do."""
    jobs = _jobs(job_of, n_samples=[96] * 5, weights=(0,))
    first = jobs[0]
    shared = [replace(job, rows=first.rows) for job in jobs]
    copies = [copy.deepcopy(job) for job in shared]
    assert_same(train(shared), train(copies), tol=1e-6)


def test_a_row_of_weight_zero_moves_nothing(job_of):
    """Its values do not matter; it still takes its place in the batches."""
    X, y = _data(100, 0, "multiclass")
    weight = _weights(100, 0)
    other = X.copy()
    other[weight == 0] *= 7
    estimator = TorchClassifier(**BASE, random_state=0)
    results = _alone([job_of(estimator, data, y, sample_weight=weight) for data in (X, other)])
    assert_same(results[:1], results[1:], tol=1e-5)


def test_interrupt_keeps_what_is_trained(job_of, forget_ctrl_c):
    n_epochs = []

    def interrupt(model):
        n_epochs.append(1)
        if len(n_epochs) == 3:
            raise KeyboardInterrupt

    jobs = _jobs(job_of)
    forget_ctrl_c()
    (result,) = train([replace(jobs[0], on_epoch=interrupt)])
    assert "interrupted by user" in str(result.warning)
    assert result.n_iter == 3
    assert len(result.progress.loss_curve) == 3
    n_epochs.clear()
    with pytest.raises(KeyboardInterrupt):  # a search is to end
        train([replace(job, on_epoch=interrupt) for job in jobs[1:]])


@pytest.mark.parametrize("n_jobs", [1, 4])
def test_on_epoch_sees_each_epoch_and_may_stop(job_of, n_jobs):
    jobs, seen = _jobs(job_of)[:n_jobs], []

    def on_epoch(model):
        seen.append(model().flat)
        return len(seen) == 2

    jobs[0].on_epoch = on_epoch
    results = train(jobs)
    assert [result.n_iter for result in results] == [2, 12, 12, 12][:n_jobs]
    assert len(seen) == 2
    assert abs(seen[0] - seen[1]).max() > 0  # copies
    np.testing.assert_array_equal(results[0].model.flat, seen[1])
    assert results[0].warning is None


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_threads_and_grad_mode_are_left_alone(job_of, n_jobs):
    before = torch.get_num_threads(), torch.is_grad_enabled()
    train(_jobs(job_of)[:n_jobs])
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == before


# -- who may train with whom --


SEPARATE = {
    "hidden_layer_sizes": (8, 6),
    "numerical_embedding": "periodic",
    "dropout": 0.3,
    "solver": "adam",
    "nesterovs_momentum": False,
    "shuffle": False,
    "batch_size": 16,
    "loss": "hinge",
    "alpha": 0.0,
}
TOGETHER_ANYWAY = {
    "activation": "tanh",
    "learning_rate_init": 0.3,
    "alpha": 0.5,
    "momentum": 0.1,
    "random_state": 17,
    "max_iter": 3,
    "tol": 1e-2,
    "n_iter_no_change": 3,
    "learning_rate": "cosine",
    "max_grad_norm": None,
    "standardize": False,
    "init": "kaiming_normal",
    "class_weight": "balanced",
}


def _key(job_of, n=100, sparse=False, kind="multiclass", **params):
    X, y = _data(n, 0, kind)
    return stack_key(
        job_of(TorchClassifier(**{**BASE, **params}), sp.csr_array(X) if sparse else X, y)
    )


def test_parameters_of_a_stack_are_known_by_name():
    """By those a search is cut into groups, before there are any jobs."""
    assert set(SEPARATE) - {"alpha"} <= STACK_PARAMETERS
    assert not STACK_PARAMETERS & set(TOGETHER_ANYWAY)
    assert set(TorchClassifier().get_params()) >= STACK_PARAMETERS


@pytest.mark.parametrize("name", SEPARATE)
def test_keys_that_differ(job_of, name):
    assert _key(job_of) != _key(job_of, **{name: SEPARATE[name]})


def test_data_that_differ(job_of):
    keys = [
        _key(job_of),
        _key(job_of, sparse=True),
        _key(job_of, kind="binary"),
        _key(job_of, n=200),  # another number of batches
        _key(job_of, n=40, batch_size=40),  # one batch
        _key(job_of, n=100, batch_size=100),  # more than twice as long
    ]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("name", TOGETHER_ANYWAY)
def test_keys_that_agree(job_of, name):
    assert _key(job_of) == _key(job_of, **{name: TOGETHER_ANYWAY[name]})
    assert _key(job_of) == _key(job_of, n=104)


def test_lbfgs_trains_alone(job_of):
    assert _key(job_of, solver="lbfgs") is None


def test_number_of_models(job_of):
    X, y = _data(100, 0, "multiclass")
    sizes = [(2,), (50,), (200, 200), (2000, 2000)]
    jobs = [job_of(TorchClassifier(width), X, y) for width in sizes]
    numbers = [job.lane.max_models(job) for job in jobs]
    assert numbers == sorted(numbers, reverse=True)
    assert 4 <= numbers[-1] < numbers[0]
    on_cuda = replace(jobs[-1], device=torch.device("cuda"))
    assert on_cuda.lane.max_models(on_cuda) > numbers[0]
