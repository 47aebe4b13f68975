"""The built-in network: its own backward against torch autograd, its draws against scikit-learn."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import Classifier
from sklearn.neural_network import MLPClassifier
from torch import nn

from torchsk._activations import ACTIVATIONS, make_activation
from torchsk._embedding import Embedding, PeriodicEmbedding
from torchsk._heads import LOSSES, make_head
from torchsk._mlp import (
    INITS,
    Network,
    NetworkSpec,
    Reexpression,
    draw_weights,
    make_module,
    pack,
)

N_SAMPLES, N_FEATURES, HIDDEN = 7, 3, (5, 4)
N_TARGETS = {"binary": 1, "multiclass": 3, "multilabel": 3, "regression": 2}
HEADS = {
    f"{loss}-{kind}": make_head(loss, None, kind, N_TARGETS[kind]).on_logits
    for loss, kinds in LOSSES.items()
    for kind in kinds
}
#: of all columns, and of two of the three
EMBEDDINGS = [Embedding(N_FEATURES), Embedding(N_FEATURES, (0, 2))]
HEADS["callable-regression"] = make_head(
    lambda raw, target: (raw - target).abs().pow(1.5), None, "regression", 2
)


class Wave(nn.Module):
    """A user's own activation."""

    def forward(self, z):
        return torch.sin(z) + 0.1 * z


def _spec(activation, n_outputs=2, dropout=0.0, embedding=None):
    n_hidden, n_inputs = len(HIDDEN), N_FEATURES if embedding is None else embedding.width
    sizes = n_inputs, *HIDDEN, n_outputs
    return NetworkSpec(sizes, (activation,) * n_hidden, (dropout,) * n_hidden, embedding)


def _draw(rng, *shape):
    return torch.from_numpy(rng.normal(size=shape))


def _draw_target(head, kind, rng, lead):
    """Encoded y (*lead, n_samples, n_columns) in the head's domain."""
    n = int(np.prod(lead, dtype=int)) * N_SAMPLES
    y = {
        "binary": rng.randint(2, size=n),
        "multiclass": rng.randint(3, size=n),
        "multilabel": rng.randint(2, size=(n, 3)),
        "regression": rng.uniform(0.5, 2, size=(n, 2)),
    }[kind]
    target = torch.from_numpy(head.encode(y))
    target = target if target.dtype == torch.int64 else target.double()
    return target.reshape(*lead, N_SAMPLES, -1)


def _oracle(spec, flat, X, masks):
    """Raw outputs of one network in plain torch, differentiable in flat."""
    coefs, intercepts = spec.split(flat)
    if spec.embedding is not None:
        module = PeriodicEmbedding(spec.embedding, np.zeros(spec.embedding.n_params))
        X = torch.func.functional_call(module, {"numbers": spec.tail(flat)}, X)
    for activation, coef, intercept, mask in zip(spec.activations, coefs, intercepts, masks):
        X = make_activation(activation).module()(X @ coef + intercept) * mask
    return X @ coefs[-1] + intercepts[-1]


one_or_many = pytest.mark.parametrize("n_models", [None, 3], ids=["one", "stack"])


@one_or_many
@pytest.mark.parametrize("activation", [*ACTIVATIONS, Wave])
def test_backward_is_autograd_for_every_head(activation, n_models):
    _check_backward(activation, n_models)


@one_or_many
@pytest.mark.parametrize("embedding", EMBEDDINGS, ids=["all", "some"])
def test_backward_of_an_embedding_is_autograd_for_every_head(embedding, n_models):
    _check_backward("tanh", n_models, embedding)


def _check_backward(activation, n_models, embedding=None):
    rng = np.random.RandomState(0)
    lead = () if n_models is None else (n_models,)
    for name, head in HEADS.items():
        spec = _spec(activation, head.n_outputs, 0.4, embedding)
        # below raw = 20, where torch's softplus becomes the identity
        flat = 0.5 * _draw(rng, *lead, spec.n_params)
        X = _draw(rng, *lead, N_SAMPLES, N_FEATURES)
        target = _draw_target(head, name.split("-")[1], rng, lead)
        weight = torch.from_numpy(rng.uniform(size=(*lead, N_SAMPLES)))
        masks = [
            torch.from_numpy(rng.binomial(1, 0.6, size=(*lead, width, N_SAMPLES)) / 0.6)
            for width in HIDDEN
        ]

        raw = torch.empty(*lead, head.n_outputs, N_SAMPLES, dtype=torch.float64).mT
        gradient = torch.full_like(flat, torch.nan)
        with torch.no_grad():
            network = Network(spec, flat)
            tape = network.forward(X.mT, masks, raw.mT)
            delta = head.residual(raw, target) * weight.unsqueeze(-1)
            network.backward(delta.mT, tape, Network(spec, gradient))

        for i in range(n_models or 1):
            one = i if n_models else ...
            leaf = flat[one].clone().requires_grad_()
            oracle = _oracle(spec, leaf, X[one], [mask[one].mT for mask in masks])
            (head.loss(oracle, target[one]) * weight[one]).sum().backward()
            np.testing.assert_allclose(raw[one], oracle.detach(), rtol=1e-10, err_msg=name)
            np.testing.assert_allclose(
                gradient[one], leaf.grad, rtol=1e-7, atol=1e-10, err_msg=name
            )


@pytest.mark.parametrize("groups", [[5], [2, 3], [1, 3, 1]])
@pytest.mark.parametrize("hidden", [(), (5, 4)], ids=["linear", "deep"])
def test_models_that_share_their_rows_compute_what_each_does_alone(hidden, groups):
    rng = np.random.RandomState(6)
    spec = NetworkSpec((N_FEATURES, *hidden, 2), ("tanh",) * len(hidden), (0.0,) * len(hidden))
    no_masks = [None] * len(hidden)
    flat, delta = _draw(rng, 5, spec.n_params), _draw(rng, 5, 2, N_SAMPLES)
    X = _draw(rng, len(groups), N_FEATURES, N_SAMPLES)
    out, gradient = torch.empty_like(delta), torch.empty_like(flat)
    network = Network(spec, flat, groups)
    network.backward(
        delta.clone(), network.forward(X, no_masks, out), Network(spec, gradient, groups)
    )
    for i, group in enumerate(np.repeat(np.arange(len(groups)), groups)):
        expected, part = torch.empty_like(delta[i]), torch.empty_like(flat[i])
        alone = Network(spec, flat[i])
        tape = alone.forward(X[group], no_masks, expected)
        alone.backward(delta[i].clone(), tape, Network(spec, part))
        torch.testing.assert_close(out[i], expected)
        torch.testing.assert_close(gradient[i], part)


@pytest.mark.parametrize("activation", [*ACTIVATIONS, Wave])
def test_no_hidden_layer_and_no_dropout(activation):
    rng = np.random.RandomState(1)
    linear = NetworkSpec((N_FEATURES, 2), (), ())
    assert Network(linear, torch.zeros(linear.n_params)).predict(torch.ones(4, 3)).shape == (4, 2)
    spec, X = _spec(activation), _draw(rng, N_SAMPLES, N_FEATURES)
    flat = _draw(rng, spec.n_params)
    raw = torch.empty(2, N_SAMPLES, dtype=torch.float64).mT
    Network(spec, flat).forward(X.clone().mT, [None, None], raw.mT)
    np.testing.assert_allclose(Network(spec, flat).predict(X), raw, rtol=1e-12)


@pytest.mark.parametrize("embedding", [None, *EMBEDDINGS], ids=["none", "all", "some"])
@pytest.mark.parametrize("activation", [*ACTIVATIONS, Wave])
def test_module_computes_what_the_network_predicts(activation, embedding):
    rng = np.random.RandomState(2)
    spec = _spec(activation, dropout=0.5, embedding=embedding)
    flat, X = rng.normal(size=spec.n_params), _draw(rng, N_SAMPLES, N_FEATURES).float()
    module = make_module(spec, *spec.split(flat), spec.tail(flat))
    expected = Network(spec, torch.from_numpy(flat).float()).predict(X.clone())
    # two ways to round angles of some turns
    tolerance = {} if embedding is None else {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(module(X).detach(), expected, **tolerance)
    assert not module.training  # dropout sleeps
    assert sum(isinstance(layer, nn.Dropout) for layer in module) == len(HIDDEN)


def test_split_and_pack_are_inverse():
    spec = _spec("relu")
    flat = np.arange(float(spec.n_params))
    coefs, intercepts = spec.split(flat)
    assert [coef.shape for coef in coefs] == [(3, 5), (5, 4), (4, 2)]
    assert [intercept.shape for intercept in intercepts] == [(5,), (4,), (2,)]
    assert sum(coef.size for coef in coefs) == spec.n_coefs
    np.testing.assert_array_equal(pack(coefs, intercepts), flat)
    stacked, _ = spec.split(torch.zeros(6, spec.n_params))
    assert stacked[0].shape == (6, 3, 5)
    coefs[0][0, 0] = -1  # views: an in-place update of the weights is seen
    assert flat[0] == -1


@pytest.mark.parametrize("activation", ["relu", "logistic", "tanh"])
def test_glorot_uniform_are_scikit_learns_draws(activation):
    spec = _spec(activation)
    mlp = MLPClassifier(activation=activation)
    mlp._random_state = np.random.RandomState(3)
    layers = [
        mlp._init_coef(fan_in, fan_out, np.float64)
        for fan_in, fan_out in zip(spec.layer_sizes, spec.layer_sizes[1:])
    ]
    np.testing.assert_array_equal(
        draw_weights(spec, "glorot_uniform", np.random.RandomState(3)), pack(*zip(*layers))
    )


@pytest.mark.parametrize("name", INITS)
def test_inits_of_torch(name):
    spec = _spec("relu")
    flat = draw_weights(spec, name, np.random.RandomState(4))
    coefs, intercepts = spec.split(flat)
    assert not np.concatenate(intercepts).any()
    weight = torch.empty(HIDDEN[0], N_FEATURES)  # nn.Linear's layout
    fill_ = getattr(nn.init, name + "_")
    try:
        seed = np.random.RandomState(4).randint(2**31 - 1)
        fill_(weight, generator=torch.Generator().manual_seed(int(seed)))
    except TypeError:  # draws nothing
        fill_(weight)
    np.testing.assert_array_equal(coefs[0].T, weight.numpy())
    np.testing.assert_array_equal(flat, draw_weights(spec, name, np.random.RandomState(4)))


def test_init_may_be_a_callable():
    spec = _spec("relu")
    before = torch.random.get_rng_state()
    shapes = []

    def fill_(weight):
        shapes.append(tuple(weight.shape))
        weight.copy_(torch.randn_like(weight))

    flat = draw_weights(spec, fill_, np.random.RandomState(5))
    assert shapes == [(5, 3), (4, 5), (2, 4)]
    np.testing.assert_array_equal(flat, draw_weights(spec, fill_, np.random.RandomState(5)))
    assert (flat != draw_weights(spec, fill_, np.random.RandomState(6))).any()
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    "init", ["kaiming_normal", "orthogonal", "xavier_uniform", nn.init.normal_]
)
def test_inits_learn(init, wine):
    model = Classifier(init=init).fit(*wine)
    assert model.score(*wine) > 0.95
    assert abs(model.coefs_[0] - Classifier().fit(*wine).coefs_[0]).max() > 0.01


def test_dropout_acts_in_training_only(wine):
    X, y = wine
    plain, dropped = Classifier().fit(X, y), Classifier(dropout=[0.5]).fit(X, y)
    assert dropped.loss_ > plain.loss_
    np.testing.assert_array_equal(dropped.predict_proba(X), dropped.predict_proba(X))
    assert dropped.score(X, y) > 0.95


# -- other units --


@pytest.fixture(params=[(), HIDDEN], ids=["linear", "deep"])
def hidden(request):
    return request.param


@pytest.fixture(params=[None, EMBEDDINGS[0]], ids=["plain", "embedded"])
def change(request, hidden):
    """Inputs and raw outputs of a network are told in other units."""
    rng, embedding = np.random.RandomState(0), request.param
    n_inputs = N_FEATURES if embedding is None else embedding.width
    spec = NetworkSpec((n_inputs, *hidden, 2), ("tanh",) * len(hidden), (), embedding)
    factor, gain = rng.uniform(0.5, 2, N_FEATURES), rng.uniform(0.5, 2, 2)
    return Reexpression(spec, factor, rng.normal(size=N_FEATURES), gain, rng.normal(size=2), 1.0)


def _vector(change, seed):
    return np.random.RandomState(seed).normal(size=change.spec.n_params)


def test_reexpressed_weights_compute_the_same(change):
    new, flat = _draw(np.random.RandomState(1), N_SAMPLES, N_FEATURES), _vector(change, 2)
    old = new * torch.from_numpy(change.factor) + torch.from_numpy(change.shift)
    before = Network(change.spec, torch.from_numpy(flat)).predict(old)
    after = Network(change.spec, torch.from_numpy(change.weights(flat))).predict(new)
    expected = before * torch.from_numpy(change.gain) + torch.from_numpy(change.offset)
    torch.testing.assert_close(after, expected)


def test_reexpressed_steps_and_gradients(change):
    """A step is a difference of weights; a gradient says the same of a step in any unit."""
    flat, step, gradient = (_vector(change, seed) for seed in (1, 2, 3))
    moved = change.weights(flat + step) - change.weights(flat)
    np.testing.assert_allclose(change.steps(step), moved, rtol=1e-9)
    assert change.gradients(gradient) @ change.steps(step) == pytest.approx(gradient @ step)
    # the loss of both targets in another unit as well: 4 and 9, on average 6
    other = replace(change, loss=np.array([4.0, 9.0]))
    np.testing.assert_allclose(other.gradients(gradient), 6 * change.gradients(gradient))


def test_reexpressed_squares_are_means_over_independent_gradients(change):
    rng = np.random.RandomState(0)
    gradients = rng.normal(size=(4000, change.spec.n_params)) * rng.uniform(
        0.5, 2, change.spec.n_params
    )
    expected = np.mean([change.gradients(gradient) ** 2 for gradient in gradients], axis=0)
    squares = change.squares((gradients**2).mean(0))
    np.testing.assert_allclose(squares, expected, rtol=0.15)
    still = replace(change, shift=np.zeros(N_FEATURES), loss=3.0)
    expected = still.gradients(gradients[0]) ** 2
    np.testing.assert_allclose(still.squares(gradients[0] ** 2), expected)
