"""Products of matrices: the same by every kernel, chosen by the processor alone."""

import ast
import math
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from simulated_precision import is_here, reduced_products
from sklearn.datasets import make_classification
from sklearn.model_selection import cross_validate

import torchsk
from torchsk import TorchClassifier, _matmul


@pytest.fixture(params=["MKL", "oneDNN"])
def kernel(request, monkeypatch):
    """Every product by one kernel."""
    if request.param == "oneDNN" and not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(_matmul, "_ONEDNN_SIZE", 0 if request.param == "oneDNN" else math.inf)
    seen, onednn = [], _matmul._onednn
    monkeypatch.setattr(_matmul, "_onednn", lambda *args: seen.append(1) or onednn(*args))
    yield request.param
    assert bool(seen) == (request.param == "oneDNN")


def _numbers(*shape):
    return torch.from_numpy(np.random.RandomState(0).normal(size=shape).astype(np.float32))


def _close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_both_kernels_multiply(kernel):
    a, b, rows, column = _numbers(5, 7), _numbers(7, 3), _numbers(3), _numbers(5, 1)
    _close(_matmul.affine(a, b, rows), a @ b + rows)
    _close(_matmul.affine(a, b, column), a @ b + column)
    _close(_matmul.product(a, b), a @ b)
    out = torch.empty(5, 4)
    _matmul.outer_into(out, a, _numbers(4, 7))
    _close(out, a @ _numbers(4, 7).mT)
    parts = torch.empty(6, 5, 2)[:, :, 1:]  # no dense tensor
    _matmul.outer_into(parts, _numbers(30, 7), _numbers(1, 7))
    _close(parts.reshape(30, 1), _numbers(30, 7) @ _numbers(1, 7).mT)


@pytest.mark.parametrize("shape", [(5, 7), (1, 1), (3, 5, 7), (200, 300), (2, 600)])
def test_sums_are_those_of_torch(shape):
    a, parts, ones = _numbers(*shape), torch.empty(*shape[:-1], 3), {}
    expected = a.double().sum(-1, keepdim=True).float()
    for i in range(2):
        _matmul.sum_into(parts[..., i : i + 1], a, ones)
        torch.testing.assert_close(parts[..., i : i + 1], expected, rtol=1e-5, atol=1e-4)
    assert list(ones) == ([shape[1]] if shape in [(5, 7), (1, 1)] else [])


@pytest.mark.parametrize(
    ("name", "instructions", "size"),
    [
        ("AMD EPYC 9654", "AVX512", 2**21),
        ("AMD EPYC", "AVX2", math.inf),
        ("Intel(R) Xeon(R) Platinum 8481C", "AVX512", math.inf),
        ("Intel Xeon", "AVX512_VNNI", math.inf),
        ("", "DEFAULT", math.inf),
    ],
)
def test_the_processor_decides(monkeypatch, name, instructions, size):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": name}, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: instructions)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert _matmul._onednn_size() == size
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert _matmul._onednn_size() == math.inf


def test_reduced_precision_is_left_to_torch(monkeypatch):
    """oneDNN's own function may not round, and has no `out`."""
    monkeypatch.setattr(_matmul, "_ONEDNN_SIZE", 0)
    assert _matmul.prefers_onednn(_numbers(2, 2), 1)
    with reduced_products():
        assert _matmul.is_reduced()
        assert not _matmul.prefers_onednn(_numbers(2, 2), 1)
    assert not _matmul.is_reduced()


def test_no_other_room_multiplies_in_training():
    """What is set for products then holds for all of them: forward, backward, prediction.

    Those of an nn.Module are torch's own anyway.
    """
    products = {"mm", "addmm", "bmm", "baddbmm", "matmul", "einsum", "mv", "addmv"}
    rooms = ("_mlp.py", "_embedding.py", "_models.py", "_training/stack.py", "_activations.py")
    for room in rooms:
        tree = ast.parse((Path(torchsk.__file__).parent / room).read_text())
        modules = [
            node
            for node in tree.body
            if isinstance(node, ast.ClassDef) and "nn.Module" in map(ast.unparse, node.bases)
        ]
        tree.body = [node for node in tree.body if node not in modules]
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert not (node.value.id == "torch" and node.attr in products), room


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_alone_is_stacked_to_half_a_percent_in_bfloat16(solver):
    """A stack rounds products that are too small to be rounded alone: docs/devices.rst says so."""
    X, y = make_classification(400, 20, n_informative=10, random_state=0)
    net = TorchClassifier((64,), solver=solver, batch_size=40, max_iter=20, random_state=0)

    def fits():
        return cross_validate(net, X, y, return_estimator=True)["estimator"]

    exact = fits()
    with reduced_products() as counter:
        alone, n_alone = fits(), counter.n_rounded
        with joblib.parallel_config("torchsk"):
            stacked = fits()
    if not is_here():
        assert n_alone and counter.n_rounded > n_alone
    assert abs(alone[0].coefs_[0] - exact[0].coefs_[0]).max() > 1e-5 or is_here()
    losses = [[net.loss_ for net in nets] for nets in (exact, alone, stacked)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=5e-3)
    np.testing.assert_allclose(losses[2], losses[1], rtol=5e-3)
    proba = [[net.predict_proba(X) for net in nets] for nets in (alone, stacked)]
    assert np.abs(np.subtract(*proba)).mean() < 0.01
