"""Fits on an accelerator: the same as on the CPU, and nothing on the wrong device.

`make test` runs them on a simulated accelerator too: `TORCHSK_DEVICE=simulated pytest -m device`.
"""

import pickle
import runpy
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib
import numpy as np
import pytest
import simulated_device
import torch
from sklearn.base import clone
from sklearn.callback import ScoringMonitor
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import get_scorer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from torchsk import TorchClassifier, TorchRegressor, _runtime, to_sklearn
from torchsk._activations import ACTIVATIONS
from torchsk._heads.registry import LOSSES
from torchsk._runtime import available_devices, resolve_device
from torchsk._solvers import SOLVERS
from torchsk._training import lane_of

on_a_device = pytest.mark.device
pytestmark = pytest.mark.filterwarnings(
    f"ignore::{ConvergenceWarning.__module__}.ConvergenceWarning"
)
SHORT = {"hidden_layer_sizes": (8,), "batch_size": 32, "max_iter": 5, "random_state": 0}


@pytest.fixture(params=["float64", "float32 only"])
def any_device(request, device, monkeypatch):
    """The device, and the simulated one as if it had no float64."""
    if request.param == "float32 only":
        if device != simulated_device.NAME:
            pytest.skip("a real device is what it is")
        monkeypatch.setattr(_runtime, "FLOAT32_ONLY", {device})
        monkeypatch.setattr(simulated_device.SimulatedTensor, "has_float64", False)
    return device


def targets(kind, X):
    """Some y of a kind, of the rows of X."""
    return {
        "binary": X[:, 2] > 3,
        "multiclass": np.arange(len(X)) // 50,
        "multilabel": (X[:, 2:] > (3, 1)).astype(int),
        "regression": X[:, 2],
    }[kind]


def fit_on_both(model, device, *data, **kwargs):
    """Return the model, fitted on the CPU and on the device."""
    return [clone(model).set_params(device=name).fit(*data, **kwargs) for name in ("cpu", device)]


def assert_same(here, there, X, **tolerances):
    """Assert that both predict the same, and that the second has computed on its device."""
    assert here.device_ == "cpu" != there.device_
    tolerances = {"rtol": 1e-3, "atol": 1e-4} | tolerances
    for method in ("predict_proba", "decision_function", "predict"):
        if hasattr(here, method) and not (method == "predict" and hasattr(here, "classes_")):
            expected = getattr(here, method)(X)
            np.testing.assert_allclose(getattr(there, method)(X), expected, **tolerances)
    assert there.n_iter_ == here.n_iter_


# -- what the simulation refuses, so that the other tests can fail --


@on_a_device
def test_tensors_of_two_devices_do_not_mix(device):
    there = torch.ones(2, 3, device=device)
    with pytest.raises(RuntimeError, match="same device"):
        there + torch.ones(2, 3)
    with pytest.raises((RuntimeError, TypeError)):
        there.numpy()
    assert (there.cpu() + torch.ones(2, 3)).sum() == 12


# -- the built-in network --


@on_a_device
@pytest.mark.parametrize("solver", sorted(SOLVERS))
@pytest.mark.parametrize("batch_size", [32, 150])
def test_every_solver(solver, batch_size, any_device, iris):
    model = TorchClassifier(**SHORT | {"batch_size": batch_size}, solver=solver)
    if not lane_of(solver).has_epochs and any_device in _runtime.FLOAT32_ONLY:
        with pytest.raises(ValueError, match="device must be one that has float64 for solver"):
            model.set_params(device=any_device).fit(*iris)
        return
    assert_same(*fit_on_both(model, any_device, *iris), iris[0])


@on_a_device
@pytest.mark.parametrize("loss, kind", [(loss, kind) for loss in LOSSES for kind in LOSSES[loss]])
def test_every_loss(loss, kind, any_device, iris):
    X, y = iris[0], targets(kind, iris[0])
    model = (TorchRegressor if kind == "regression" else TorchClassifier)(loss=loss, **SHORT)
    weight = np.linspace(0.5, 2, len(X))
    for stops in (False, True):
        model.set_params(early_stopping=stops)
        here, there = fit_on_both(model, any_device, X, y, sample_weight=weight)
        assert_same(here, there, X)
        np.testing.assert_allclose(there.loss_curve_, here.loss_curve_, rtol=1e-3)
        if stops:
            found, expected = there.validation_scores_, here.validation_scores_
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@on_a_device
@pytest.mark.parametrize("activation", [*sorted(ACTIVATIONS), nn.CELU])
def test_every_activation(activation, any_device, iris):
    model = TorchClassifier(activation=activation, **SHORT)
    assert_same(*fit_on_both(model, any_device, *iris), iris[0])


@on_a_device
@pytest.mark.parametrize("columns", [[0, 1, 2, 3], [0, 1]], ids=["all", "some"])
@pytest.mark.parametrize("lane", [{}, {"skorch_callbacks": []}], ids=["stack", "skorch"])
def test_embedding(columns, lane, any_device, iris):
    X, y = np.where(np.isin(np.arange(4), columns), iris[0], iris[0] > 3), iris[1]
    model = TorchClassifier(numerical_embedding="periodic", **SHORT, **lane)
    here, there = fit_on_both(model, any_device, X, y)
    assert_same(here, there, X)
    for _ in range(2):
        assert_same(here.partial_fit(X, y), there.partial_fit(X, y), X)


@on_a_device
def test_dropout(any_device, iris):
    model = TorchClassifier(dropout=0.3, **SHORT | {"max_iter": 40}, device=any_device)
    first, second = (clone(model).fit(*iris) for _ in range(2))
    assert first.score(*iris) > 0.85
    np.testing.assert_allclose(second.loss_curve_, first.loss_curve_, rtol=1e-5)


@on_a_device
def test_sparse_rows(any_device, iris):
    from scipy.sparse import csr_array

    model = TorchClassifier(**SHORT)
    assert_same(*fit_on_both(model, any_device, csr_array(iris[0]), iris[1]), csr_array(iris[0]))


@on_a_device
def test_training_on(any_device, iris):
    X, y = iris
    models = fit_on_both(TorchClassifier(**SHORT, warm_start=True, solver="adam"), any_device, X, y)
    for model in models:
        model.fit(X, y).partial_fit(X, y).partial_fit(X, y)
    assert_same(*models, X)


@on_a_device
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_search_in_one_stack(n_jobs, any_device, breast_cancer):
    if n_jobs == 2 and any_device == simulated_device.NAME:
        pytest.skip("the worker processes have no such device")
    X, y = breast_cancer[0][::3], breast_cancer[1][::3]
    grid = {
        "torchclassifier__alpha": [1e-4, 0.1],
        "torchclassifier__learning_rate_init": [0.01, 0.1],
        "torchclassifier__early_stopping": [False, True],
    }
    searches = []
    for name in ("cpu", any_device):
        model = make_pipeline(StandardScaler(), TorchClassifier(**SHORT, device=name))
        with joblib.parallel_config("torchsk", n_jobs=n_jobs):
            searches.append(GridSearchCV(model, grid, cv=3, scoring="neg_log_loss").fit(X, y))
    here, there = (search.cv_results_["mean_test_score"] for search in searches)
    np.testing.assert_allclose(there, here, rtol=1e-3, atol=1e-4)


@on_a_device
def test_the_fitted_estimator_leaves_its_device(device, iris):
    X, y = iris
    here, there = fit_on_both(TorchClassifier(**SHORT), device, X, y)
    expected = here.predict_proba(X)
    twin = pickle.loads(pickle.dumps(there))
    for model in (twin, to_sklearn(there)):
        np.testing.assert_allclose(model.predict_proba(X), expected, rtol=1e-3, atol=1e-5)
    raw = there.module_(torch.from_numpy(X.astype(np.float32)))
    assert raw.device.type == "cpu"
    np.testing.assert_allclose(raw.detach().softmax(1), expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(there.coefs_[0], here.coefs_[0], rtol=1e-3, atol=1e-4)
    twin.set_params(device="cpu").partial_fit(X, y)
    assert twin.device_ == "cpu"


@on_a_device
def test_two_threads_at_once(any_device, iris):
    model = TorchClassifier(**SHORT | {"max_iter": 8}, device=any_device)
    alphas = [0.0, 0.1, 1.0, 10.0]
    models = [clone(model).set_params(alpha=alpha) for alpha in alphas]
    expected = [clone(model).fit(*iris).predict_proba(iris[0]) for model in models]
    with ThreadPoolExecutor(2) as threads:
        fitted = list(threads.map(lambda model: model.fit(*iris), models))
    for net, proba in zip(fitted, expected):
        np.testing.assert_allclose(net.predict_proba(iris[0]), proba, atol=1e-5)


@on_a_device
def test_callbacks_and_scorers(any_device, iris):
    monitors = []
    for name in ("cpu", any_device):
        monitor = ScoringMonitor(scoring=get_scorer("neg_log_loss"))
        model = TorchClassifier(
            **SHORT, device=name, early_stopping=True, scoring="neg_log_loss"
        ).set_callbacks(monitor)
        monitors.append(model.fit(*iris))
    here, there = monitors
    np.testing.assert_allclose(there.validation_scores_, here.validation_scores_, rtol=1e-3)


@on_a_device
def test_names(device, iris):
    assert available_devices()[:3] == ["cpu", device, f"{device}:0"]
    assert resolve_device("auto") == torch.device(device)
    fitted = TorchClassifier(**SHORT, device="auto").fit(*iris)
    assert fitted.device_ == device
    with pytest.raises(ValueError, match=rf"device must be one of .*'{device}'"):
        TorchClassifier(device=f"{device}:63").fit(*iris)


# -- skorch's lane --


class Small(nn.Module):
    def __init__(self, n_features, n_outputs):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(n_features, 8, bias=False),  # its gradient would be rounding alone
            nn.BatchNorm1d(8),
            nn.Tanh(),
            nn.Linear(8, n_outputs),
        )

    def forward(self, X):
        return self.layers(X)


@on_a_device
@pytest.mark.parametrize(
    "options",
    [
        {"module": Small},
        {"module": Small, "early_stopping": True, "solver": "adam"},
        {"module": Small, "solver": torch.optim.NAdam, "learning_rate": "cosine"},
        {"solver": torch.optim.Adam, "hidden_layer_sizes": (8, 4)},
    ],
)
def test_own_modules_and_optimizers(options, any_device, iris):
    model = TorchClassifier(**SHORT | options)
    here, there = fit_on_both(model, any_device, *iris, sample_weight=np.linspace(0.5, 2, 150))
    assert_same(here, there, iris[0])
    assert next(there.net_.module_.parameters()).device.type == any_device
    assert next(there.module_.parameters()).device.type == "cpu"
    assert_same(here.partial_fit(*iris), there.partial_fit(*iris), iris[0])
    if any_device != simulated_device.NAME:  # it has no storage that could be saved
        twin = pickle.loads(pickle.dumps(there))
        np.testing.assert_allclose(twin.predict_proba(iris[0]), there.predict_proba(iris[0]), 1e-4)


# -- nothing else is touched --


@on_a_device
@pytest.mark.parametrize("place", ["cpu", "there"])
def test_the_generators_of_torch_stay(place, device, iris):
    devices = torch.get_device_module(device)
    states = torch.get_rng_state(), devices.get_rng_state(device)
    name = "cpu" if place == "cpu" else device
    for options in ({"init": nn.init.normal_}, {"module": Small}, {"dropout": 0.2}):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            TorchClassifier(**SHORT | options, device=name).fit(*iris)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert torch.equal(devices.get_rng_state(device), states[1])


@on_a_device
def test_the_benchmark_of_devices_runs(device, monkeypatch, tmp_path, capsys):
    benchmarks = Path(__file__).parents[2] / "benchmarks"
    monkeypatch.setattr(sys, "path", [str(benchmarks), *sys.path])
    arguments = ["--rehearse", "--runs", "1", "--device", device, "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["devices.py", *arguments])
    monkeypatch.setattr(simulated_device, "install", lambda: None)  # it is
    runpy.run_path(str(benchmarks / "devices.py"), run_name="__main__")
    assert "10 fits of breast_cancer" in capsys.readouterr().out
    assert (tmp_path / "devices.json").exists()
