"""What "auto" becomes: rules that fall, grow and step as they should."""

import numpy as np
import pytest
from torch import nn

from torchsk import TorchClassifier, _defaults
from torchsk._activations import ACTIVATIONS
from torchsk._parameters import Settings

SIZES = [1, 5, 31, 32, 33, 100, 320, 321, 1000, 5000, 54_000, 10**6]


@pytest.mark.parametrize("n", SIZES)
def test_batches_hold_32_to_about_200_rows(n):
    largest = -(-n // _defaults.n_batches(n))
    assert largest <= 230
    assert largest >= min(n, 22)


def test_batches_step_coarsely():
    numbers = np.array([_defaults.n_batches(n) for n in range(1, 20_000)])
    assert (np.diff(numbers) >= 0).all()
    assert len(set(numbers.tolist())) < 40
    # round numbers of rows, and their folds, are no places where the number steps
    for n in range(100, 20_000, 100):
        assert _defaults.n_batches(n) == _defaults.n_batches(n + 1)
        assert _defaults.n_batches(4 * n // 5) == _defaults.n_batches(4 * n // 5 + 1)


@pytest.mark.parametrize("n_rows", [7, 40, 320, 321, 326, 1003])
def test_even_batches_differ_by_a_row(n_rows):
    sizes = _settings(n_rows).cut(n_rows)
    assert sizes.sum() == n_rows
    assert sizes.max() - sizes.min() <= 1
    assert sizes[0] == sizes.max() == _settings(n_rows).batch_size


def test_a_number_of_rows_cuts_as_scikit_learn_does():
    settings = _settings(103, batch_size=25)
    assert settings.cut(103).tolist() == [25, 25, 25, 25, 3]
    assert _settings(10, batch_size=25).cut(10).tolist() == [10]


def test_the_penalty_falls_as_one_over_n():
    for is_classifier in (True, False):
        rates = [_defaults.penalty(n, 10, is_classifier) for n in SIZES]
        assert (np.diff(rates) <= 0).all()
        assert max(rates) == _defaults.LARGEST_PENALTY
    assert _defaults.penalty(1000, 10, True) == pytest.approx(10**0.5 / 1000)
    assert _defaults.penalty(2000, 10, True) == pytest.approx(10**0.5 / 2000)
    assert _defaults.penalty(8000, 10, True) == pytest.approx(10**0.5 / 16_000)
    twice = _defaults.penalty(2000, 10, True, is_embedded=True)
    assert twice == pytest.approx(2 * 10**0.5 / 2000)
    assert _defaults.penalty(100, 10, True, is_embedded=True) == _defaults.LARGEST_PENALTY
    assert _defaults.penalty(500, 40, True) == pytest.approx(2 * _defaults.penalty(500, 10, True))


def test_sigmoids_are_penalised_less():
    """Their slope is at most a quarter: with the penalty of tanh, such layers die."""
    full = _settings(100).penalty
    sigmoids = ["logistic", "hardsigmoid", nn.Sigmoid]
    for activation in ACTIVATIONS.keys() - {"logistic", "hardsigmoid"}:
        assert _settings(100, activation=activation).penalty == full
    for activation in sigmoids:
        assert _settings(100, activation=activation).penalty == full / 4
    mixed = _settings(100, activation=["relu", *sigmoids], hidden_layer_sizes=(9, 8, 7, 6))
    assert mixed.penalty == full / 4**3


def test_tiny_layers_and_few_rows_drop_nothing():
    for width in (2, 4, 5, 15):
        assert _defaults.dropout(2000, 20, width) == 0
    assert _defaults.dropout(900, 20, 100) == 0
    assert _defaults.dropout(2000, 20, 100) == 0.1
    assert _defaults.dropout(54_000, 9, 100) == 0


def _settings(n_rows, **params):
    return Settings.of(TorchClassifier(**params), n_rows, 10)
