"""A fitted network as plain numpy state: predictions, folded weights, export."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from torchsk import _models
from torchsk._heads import make_head
from torchsk._mlp import NetworkSpec
from torchsk._models import MLPModel
from torchsk._standardizer import Standardizer

N_FEATURES, N_TARGETS = 4, 2


@pytest.fixture(scope="module")
def X():
    """40 rows whose columns differ in centre and scale."""
    X = np.random.RandomState(0).normal(size=(40, N_FEATURES))
    return X * [1, 1e-3, 1e3, 5] + [0, 1, -2e3, 7]


def _model(X, y_scaled=True, sparse=False):
    rng = np.random.RandomState(1)
    spec = NetworkSpec((N_FEATURES, 6, N_TARGETS), ("tanh",), (0.0,))
    X = sp.csr_array(X) if sparse else X
    y_scaler = Standardizer(np.array([100.0, -3.0]), np.array([20.0, 0.1]))
    return MLPModel(
        spec=spec,
        flat=rng.normal(size=spec.n_params),
        head=make_head("squared_error", None, "regression", N_TARGETS),
        x_scaler=Standardizer.fit(X),
        y_scaler=y_scaler if y_scaled else None,
        dtype="float64",
        device="cpu",
    )


def _by_hand(model, X):
    coefs, intercepts = model.weights()
    return np.tanh(X @ coefs[0] + intercepts[0]) @ coefs[1] + intercepts[1]


@pytest.mark.parametrize("y_scaled", [True, False])
@pytest.mark.parametrize("sparse", [False, True])
def test_weights_are_for_raw_inputs_and_outputs(X, y_scaled, sparse):
    model = _model(X, y_scaled, sparse)
    raw = model.raw(sp.csr_array(X) if sparse else X).numpy()
    np.testing.assert_allclose(raw, _by_hand(model, X), rtol=1e-8)


def test_module_takes_raw_float32(X):
    model = _model(X)
    output = model.module()(torch.from_numpy(X).float()).detach().numpy()
    np.testing.assert_allclose(output, model.raw(X), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_raw_has_the_dtype_of_X(X, dtype):
    assert _model(X).raw(X.astype(dtype)).numpy().dtype == dtype


def test_any_part_of_the_rows_gives_the_same(X, monkeypatch):
    model = _model(X)
    whole = model.raw(X).numpy()
    np.testing.assert_allclose(model.raw(X[7:8]), whole[7:8], rtol=1e-12)
    monkeypatch.setattr(_models, "CHUNK_SIZE", 6 * 7)  # seven rows at a time
    np.testing.assert_allclose(model.raw(X), whole, rtol=1e-12)


@pytest.mark.parametrize("scaled", [True, False])
def test_X_is_not_changed(X, scaled):
    model = _model(X)
    model = replace(
        model,
        x_scaler=model.x_scaler if scaled else None,
        spec=replace(model.spec, activations=("relu",)),  # an activation that works in place
    )
    before = X.copy()
    model.raw(X)
    np.testing.assert_array_equal(X, before)


def test_a_device_that_is_not_here_falls_back_to_the_cpu(X):
    model = _model(X)
    elsewhere = replace(model, device="cuda:63")
    np.testing.assert_array_equal(elsewhere.raw(X), model.raw(X))
