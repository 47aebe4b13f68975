"""The record of a run, against what scikit-learn's MLP keeps."""

import math

import numpy as np
import pytest
from sklearn.neural_network import MLPClassifier

from torchsk._training.progress import Progress, is_diverged, why_not_finite


def _scikit_learns_count(values, tol, early_stopping):
    """Its count of epochs without improvement after each value, and its best value."""
    mlp = MLPClassifier(tol=tol)
    mlp.coefs_ = mlp.intercepts_ = []
    mlp.best_loss_, mlp.best_validation_score_ = np.inf, -np.inf
    mlp._no_improvement_count, mlp.loss_curve_, mlp.validation_scores_ = 0, [], []
    counts = []
    for value in values:
        mlp.loss_curve_.append(value)
        mlp._score = lambda *args, value=value, **kwargs: value
        mlp._update_no_improvement_count(early_stopping, None, None, None)
        counts.append(mlp._no_improvement_count)
    return counts, mlp.best_validation_score_ if early_stopping else mlp.best_loss_


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("tol", [0.0, 0.1])
def test_counts_as_scikit_learn(early_stopping, tol):
    values = np.round(np.random.RandomState(0).normal(size=40), 1).tolist()
    expected, best = _scikit_learns_count(values, tol, early_stopping)
    progress, counts, is_best = Progress(early_stopping), [], []
    for value in values:
        validation = (9.0, value) if early_stopping else None
        is_best.append(progress.record(9.0 if early_stopping else value, validation, tol))
        counts.append(progress.n_no_improvement)
    assert counts == expected
    assert (progress.best_score if early_stopping else progress.best_loss) == best
    assert values[max(i for i, new in enumerate(is_best) if new)] == best
    assert progress.n_epochs == len(values)


def test_without_early_stopping_validation_is_only_recorded():
    progress = Progress(early_stopping=False)
    for loss, score in [(1.0, 0.9), (0.5, 0.1), (0.4, 0.1)]:
        assert progress.record(loss, (2 * loss, score), tol=0.0)
    assert progress.validation_loss_curve == [2.0, 1.0, 0.8]
    assert progress.validation_scores == [0.9, 0.1, 0.1]
    assert progress.n_no_improvement == 0
    assert progress.best_loss == 0.4


@pytest.mark.parametrize(
    ("early_stopping", "watched"), [(False, "Training loss"), (True, "Validation score")]
)
def test_plateau_says_what_did_not_improve(early_stopping, watched):
    progress = Progress(early_stopping)
    for _ in range(4):
        assert progress.plateau(0.1, 2) is None
        progress.record(1.0, (1.0, 0.5), 0.1)
    words = progress.plateau(0.1, 2)
    assert words == f"{watched} did not improve more than tol=0.100000 for 2 consecutive epochs."
    assert progress.plateau(0.1, math.inf) is None


def test_a_copy_is_independent():
    progress = Progress(early_stopping=True)
    progress.record(1.0, (1.0, 0.5), 0.0)
    copy = progress.copy()
    copy.record(0.5, (0.5, 0.6), 0.0)
    assert progress.loss_curve == [1.0]
    assert progress.validation_scores == [0.5]
    assert progress.validation_loss_curve == [1.0]
    assert (progress.n_epochs, copy.n_epochs) == (1, 2)


NAN = math.nan


@pytest.mark.parametrize(
    ("loss", "validation", "early_stopping", "words"),
    [
        (1.0, None, False, None),
        (1.0, (math.inf, 0.5), True, None),  # the score decides
        (1.0, (1.0, NAN), False, None),  # it is recorded only
        (NAN, None, False, "Training diverged"),
        (math.inf, (1.0, 0.5), True, "Training diverged"),
        (NAN, (NAN, NAN), True, "Training diverged"),
        (1.0, (NAN, NAN), True, "Training diverged"),
        (1.0, (1.0, NAN), True, "The validation score was not finite in epoch 7, though"),
    ],
)
def test_what_is_not_finite(loss, validation, early_stopping, words):
    progress = Progress(early_stopping)
    progress.record(loss, validation, 0.0)
    assert is_diverged(progress) is (words is not None)
    if words is not None:
        assert why_not_finite(progress, 7, "Try less.").startswith(words)


def test_an_earlier_run_may_have_kept_scores_only():
    progress = Progress(early_stopping=True, validation_scores=[0.1, 0.2])
    progress.record(1.0, (1.0, 0.5), 0.0)
    assert progress.validation_scores == [0.1, 0.2, 0.5]
    assert progress.validation_loss_curve == [1.0]


def test_minus_infinity_is_no_best_loss():
    progress = Progress(early_stopping=False)
    assert progress.record(1.0, None, 0.0)
    assert not progress.record(-np.inf, None, 0.0)
    assert progress.best_loss == 1.0
