"""The table of activations: every row learns."""

import pytest
from networks import Classifier
from torch import nn

from torchsk._activations import ACTIVATIONS


@pytest.mark.parametrize("activation", [*ACTIVATIONS, nn.Hardswish, ["relu", nn.CELU]])
def test_activations_learn(activation, wine):
    model = Classifier(hidden_layer_sizes=(16, 8), activation=activation, max_iter=300).fit(*wine)
    assert model.score(*wine) > 0.95
