"""The table of docs/export.rst: what predictions are, in terms of the outputs of `module_`."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine

from torchsk import TorchClassifier, TorchRegressor

X, CLASSES = load_wine(return_X_y=True)
TARGETS = {
    "two classes": (CLASSES > 0).astype(int),
    "classes": CLASSES,
    "labels": np.stack([CLASSES > 0, CLASSES > 1], axis=1).astype(int),
}
PROBABILITY = {
    ("two classes", "log_loss"): torch.sigmoid,
    ("two classes", "bce"): torch.sigmoid,
    ("two classes", "focal"): torch.sigmoid,
    ("two classes", "cross_entropy"): lambda raw: raw.softmax(dim=1)[:, 1:],
    ("two classes", "nll"): lambda raw: raw.softmax(dim=1)[:, 1:],
    ("classes", "log_loss"): lambda raw: raw.softmax(dim=1),
    ("classes", "cross_entropy"): lambda raw: raw.softmax(dim=1),
    ("classes", "nll"): lambda raw: raw.softmax(dim=1),
    ("classes", "focal"): lambda raw: raw.softmax(dim=1),
    ("labels", "log_loss"): torch.sigmoid,
    ("labels", "bce"): torch.sigmoid,
    ("labels", "focal"): torch.sigmoid,
}
PREDICTION = {
    "squared_error": lambda raw: raw,
    "absolute_error": lambda raw: raw,
    "huber": lambda raw: raw,
    "smooth_l1": lambda raw: raw,
    "quantile": lambda raw: raw.sort(dim=1).values,
    "poisson": torch.exp,
    "gamma": torch.exp,
    "tweedie": torch.exp,
    "gaussian": lambda raw: raw[:, :1],
}


def raw_outputs(net):
    """Return what the exported module makes of X."""
    return net.module_(torch.tensor(X, dtype=torch.float32)).detach()


@pytest.mark.parametrize("target, loss", PROBABILITY)
def test_probabilities_follow_from_the_logits(target, loss):
    net = TorchClassifier(loss=loss, max_iter=10, random_state=0).fit(X, TARGETS[target])
    probability = net.predict_proba(X)[:, 1:] if target == "two classes" else net.predict_proba(X)
    ours = PROBABILITY[target, loss](raw_outputs(net))
    np.testing.assert_allclose(ours, probability, atol=1e-5)


def test_the_sign_or_the_largest_output_decides_with_hinge():
    answers = {
        "two classes": lambda raw: (raw[:, 0] > 0).int(),
        "classes": lambda raw: raw.argmax(dim=1),
        "labels": lambda raw: (raw > 0).int(),
    }
    for target, answer in answers.items():
        net = TorchClassifier(loss="hinge", max_iter=10, random_state=0).fit(X, TARGETS[target])
        np.testing.assert_array_equal(answer(raw_outputs(net)), net.predict(X))


@pytest.mark.parametrize("loss", PREDICTION)
def test_predictions_follow_from_the_outputs(loss):
    params = {"quantile": [0.4, 0.5, 0.6]} if loss == "quantile" else None
    y = np.abs(np.random.RandomState(0).normal(size=len(X))) * 5 + 1
    net = TorchRegressor(loss=loss, loss_params=params, max_iter=10, random_state=0).fit(X, y)
    prediction = PREDICTION[loss](raw_outputs(net)).squeeze(1)
    np.testing.assert_allclose(prediction, net.predict(X), rtol=1e-4, atol=1e-5)
