"""The network on sparse rows computes what the network on dense ones does."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from torchsk._mlp import Network, NetworkSpec
from torchsk._rows import CompressedRows, DenseRows, SparseRows
from torchsk._sparse import SparseNetwork, network_class
from torchsk._standardizer import Standardizer

N_ROWS, N_FEATURES, N_OUTPUTS = 12, 30, 3
SPECS = [
    NetworkSpec((N_FEATURES, *hidden, N_OUTPUTS), ("tanh",) * len(hidden), (0.5,) * len(hidden))
    for hidden in ((), (7,), (7, 4))
]
every_spec = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: str(spec.layer_sizes))


def _draw(spec, *lead):
    rng = np.random.RandomState(0)
    matrices = [
        sp.random_array((N_ROWS, N_FEATURES), density=0.1, rng=rng, format="csr") for _ in range(2)
    ]
    masks = [
        torch.from_numpy(2.0 * rng.randint(2, size=(*lead, width, N_ROWS)))
        for width in spec.layer_sizes[1:-1]
    ]
    delta = torch.from_numpy(rng.normal(size=(*lead, N_OUTPUTS, N_ROWS)))
    return matrices, rng.normal(size=(*lead, spec.n_params)), masks, delta


@every_spec
@pytest.mark.parametrize("groups", [None, [2, 1]], ids=["one", "stack"])
def test_it_is_the_network_of_dense_rows(spec, groups):
    lead = () if groups is None else (3,)
    matrices, flat, masks, delta = _draw(spec, *lead)
    given = matrices[: len(groups or [1])]
    dense = torch.from_numpy(np.stack([matrix.toarray().T for matrix in given]))
    dense = dense[0] if groups is None else dense.repeat_interleave(torch.tensor(groups), 0)

    found = []
    for cls, X in ((Network, dense), (SparseNetwork, given)):
        weights = torch.from_numpy(cls.arranged(spec, flat))
        gradient, out = torch.full_like(weights, torch.nan), delta.new_empty(delta.shape)
        network = cls(spec, weights, groups if cls is SparseNetwork else None)
        into = cls(spec, gradient, groups if cls is SparseNetwork else None)
        tape = network.forward(X, masks, out)
        network.backward(delta.clone(), tape, into)
        found.append((out, cls.restored(spec, gradient.numpy())))
    for ours, theirs in zip(*found):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@every_spec
@pytest.mark.parametrize("format", ["csr", "csc"])
def test_predictions_with_the_scaler_folded_in(spec, format):
    (matrix, _), flat, *_ = _draw(spec)
    rng = np.random.RandomState(1)
    scaler = Standardizer(rng.normal(size=N_FEATURES), rng.uniform(0.1, 9, N_FEATURES))
    inputs = torch.from_numpy(scaler.transform(matrix.toarray()))
    expected = Network(spec, torch.from_numpy(flat)).predict(inputs)
    folded = np.empty_like(flat)
    SparseNetwork.arrange(spec, flat, folded, scaler)
    found = SparseNetwork(spec, torch.from_numpy(folded)).predict(matrix.asformat(format))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@every_spec
@pytest.mark.parametrize("lead", [(), (2,)], ids=["one", "stack"])
def test_the_order_of_the_weights_goes_there_and_back(spec, lead):
    _, flat, *_ = _draw(spec, *lead)
    arranged = SparseNetwork.arranged(spec, flat)
    assert not np.array_equal(arranged, flat)
    np.testing.assert_array_equal(SparseNetwork.restored(spec, arranged), flat)
    first, n = spec.split(flat)[0][0], N_FEATURES * spec.layer_sizes[1]
    np.testing.assert_array_equal(arranged[..., :n].reshape(first.shape), first)


def test_rows_choose_the_network():
    matrix = sp.csr_array((3, 4))
    rows = [
        DenseRows(torch.ones(3, 4)), CompressedRows(matrix, torch.device("cpu"), torch.float32),
        SparseRows(matrix),
    ]  # fmt: skip
    assert [network_class(X) for X in rows] == [Network, Network, SparseNetwork]
