"""Periodic embeddings: the formula, which columns pass through, and that nothing else changes.

The derivatives are compared with autograd's in test_mlp.py, the lanes in test_lanes.py.
"""

import copy
from functools import partial

import joblib
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from networks import mlp
from sklearn.model_selection import KFold, cross_validate

from torchsk import TorchClassifier, TorchRegressor, to_sklearn
from torchsk._embedding import ColumnValues, Embedding, EmbeddingLayer
from torchsk._mlp import Network, NetworkSpec, draw_weights
from torchsk._models import narrowing_of
from torchsk._solvers import SOLVERS, UPDATE_RULES

SMALL = {
    "hidden_layer_sizes": (8,),
    "numerical_embedding": "periodic",
    "max_iter": 10,
    "random_state": 0,
}
Classifier, Regressor = partial(TorchClassifier, **SMALL), partial(TorchRegressor, **SMALL)


@pytest.fixture(scope="module")
def table():
    """Four columns, of which the second and the last have two values and one; and a wave."""
    rng = np.random.RandomState(0)
    X = np.column_stack(
        [rng.normal(size=300), rng.randint(2, size=300), rng.uniform(size=300), np.ones(300)]
    )
    return X, np.sin(3 * X[:, 0]) + X[:, 1]


def numbers_of(net):
    """What the embedding of a fitted network has learnt: [f, b, W, c]."""
    model = net._fitted.model
    return model.spec.embedding.split(model.spec.tail(model.flat))


# -- the formula --


@pytest.mark.parametrize("columns", [None, (0, 2)])
def test_inputs_are_the_columns_and_what_is_made_of_each(columns):
    rng = np.random.RandomState(0)
    spec = Embedding(3, columns)
    tail, X = rng.normal(size=spec.n_params), rng.normal(size=(5, 3))
    inputs, _ = EmbeddingLayer(spec, torch.from_numpy(tail)).forward(torch.from_numpy(X.T.copy()))
    expected = [X]
    for number, (f, b, W, c) in zip(
        range(3) if columns is None else columns, zip(*spec.split(tail))
    ):
        waves = np.cos(2 * np.pi * np.outer(X[:, number], f) + b)
        expected.append(waves @ W.T + c)
    assert inputs.shape == (spec.width, 5)
    np.testing.assert_allclose(inputs.T, np.hstack(expected), rtol=1e-10)


def test_what_is_drawn():
    spec = Embedding(500)
    f, b, W, c = spec.split(spec.draw(np.random.RandomState(0)))
    assert f.shape == b.shape == (500, 16)
    assert W.shape == (500, 3, 16)
    assert c.shape == (500, 3)
    assert f.std() == pytest.approx(0.1, rel=0.05)
    assert abs(f.mean()) < 0.01
    for part, bound in ((b, np.pi), (W, 0.25), (c, 0.25)):
        assert abs(part).max() == pytest.approx(bound, rel=0.01)
        assert part.std() == pytest.approx(bound / np.sqrt(3), rel=0.05)


def test_it_is_drawn_after_the_others():
    wide = NetworkSpec((12, 5, 2), ("relu",), (0.0,))
    embedded = NetworkSpec((12, 5, 2), ("relu",), (0.0,), Embedding(3))
    for init in ("glorot_uniform", "kaiming_normal"):
        plain = draw_weights(wide, init, np.random.RandomState(0))
        both = draw_weights(embedded, init, np.random.RandomState(0))
        np.testing.assert_array_equal(both[: wide.n_params], plain)
        assert both[wide.n_params :].all()


# -- columns that pass through --


@pytest.mark.parametrize(
    "values, passes, passes_in_a_stream",
    [
        ([0, 1, 1], True, True), ([-3.5, 7, -3.5], True, True), ([2, 2, 2], True, False),
        ([0, 1, 2], False, False), ([2, 1, 0], False, False), ([1, 0, 2], False, False),
    ],
)  # fmt: skip
def test_which_columns_pass(values, passes, passes_in_a_stream):
    X = np.array([values, [1, 2, 3]], dtype=float).T
    assert ColumnValues.of(X).are_numeric.tolist() == [not passes, True]
    in_a_stream = ColumnValues.of(X, goes_on=True).are_numeric.tolist()
    assert in_a_stream == [not passes_in_a_stream, True]


@pytest.mark.parametrize("later", [2.0, 0.5, -1.0])
def test_a_third_value_shows_later(later):
    values = ColumnValues.of(np.array([[0.0], [1.0]]))
    values = values.with_rows(np.array([[1.0], [1.0]]))
    assert not values.are_numeric
    values = values.with_rows(np.array([[later]]))
    assert values.are_numeric
    assert values.with_rows(np.array([[later]])).are_numeric  # and stays


@pytest.mark.parametrize("solver", SOLVERS)
def test_no_solver_moves_the_numbers_of_a_column_that_passes(solver, table):
    net = Regressor(solver=solver, alpha=0.01).fit(*table)
    assert net._fitted.model.values.are_numeric.tolist() == [True, False, True, False]
    for part in numbers_of(net):
        assert not part[[1, 3]].any()
        assert part[[0, 2]].all()
    behind = net.coefs_[0][4:].reshape(4, 3, -1)
    assert not behind[[1, 3]].any()
    assert behind[[0, 2]].any(axis=(1, 2)).all()


def test_what_passes_may_be_left_out(table):
    X, y = table
    model = Regressor().fit(X, y)._fitted.model
    narrowing = narrowing_of([model])
    assert narrowing.spec.layer_sizes == (4 + 2 * 3, 8, 1)
    flat = narrowing.take(model.flat)
    np.testing.assert_array_equal(narrowing.put(flat), model.flat)
    whole, narrow = (
        Network(spec, torch.from_numpy(weights).double()).predict(torch.from_numpy(X))
        for spec, weights in ((model.spec, model.flat), (narrowing.spec, flat))
    )
    torch.testing.assert_close(whole, narrow)


def test_a_table_of_nothing_to_embed_trains_as_one_without_embedding(table):
    X, y = table
    X = X[:, [1, 3]]
    for solver in ("sgd", "lbfgs"):
        embedded = Regressor(solver=solver).fit(X, y)
        plain = Regressor(solver=solver, numerical_embedding=None).fit(X, y)
        np.testing.assert_array_equal(embedded.predict(X), plain.predict(X))
        assert embedded.coefs_[0].shape == (8, 8)
        assert not embedded.coefs_[0][2:].any()


def test_rows_of_weight_zero_show_no_values(table):
    X, y = table
    odd, weight = X.copy(), np.ones(len(X))
    odd[7, 1], weight[7] = 0.5, 0
    rest = np.arange(len(X)) != 7
    with_zero, without = Regressor().fit(odd, y, weight), Regressor().fit(odd[rest], y[rest])
    np.testing.assert_array_equal(with_zero.predict(X), without.predict(X))


def test_folds_with_other_columns_stack(table):
    X, y = table
    X = X.copy()
    X[0, 1] = 0.5  # a third value, which one fold lacks
    stacks = []
    for solver in ("sgd", "adam"):
        net, folds = Regressor(solver=solver), KFold(3)
        alone = cross_validate(net, X, y, cv=folds, return_estimator=True)
        with joblib.parallel_config("torchsk"):
            together = cross_validate(net, X, y, cv=folds, return_estimator=True)
        for one, other in zip(alone["estimator"], together["estimator"]):
            np.testing.assert_allclose(one.predict(X), other.predict(X), rtol=1e-3, atol=1e-3)
            stacks.append(one._fitted.model.values.are_numeric[1])
            assert one._fitted.model.spec == alone["estimator"][0]._fitted.model.spec
    assert stacks == [False, True, True] * 2


# -- the rate --


@pytest.mark.parametrize("columns", [[0, 2], [0, 1, 2]], ids=["numeric", "mixed"])
def test_it_is_trained_at_a_tenth_of_the_rate(table, columns):
    """As a torch optimizer does that has two groups of parameters."""
    X, y = table[0][:, columns], table[1]
    steady = {"learning_rate": "constant", "learning_rate_init": 0.05, "max_grad_norm": 1.0}
    ours = Regressor(batch_size=100, **steady).fit(X, y)
    theirs = Regressor(solver=torch.optim.SGD, batch_size=100, **steady).fit(X, y)
    assert [group["lr"] for group in theirs.net_.optimizer_.param_groups] == [0.05, 0.05 * 0.1]
    for one, other in zip(numbers_of(ours), numbers_of(theirs)):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    moved = Regressor(batch_size=100, max_iter=1, **steady | {"learning_rate_init": 1e-9})
    start = numbers_of(moved.fit(X, y))
    assert all(abs(one - other).max() > 1e-4 for one, other in zip(numbers_of(ours), start))


@pytest.mark.parametrize("n_models", [1, 2])
@pytest.mark.parametrize("solver", UPDATE_RULES)
def test_a_rate_per_weight_is_several_rules_side_by_side(solver, n_models):
    rng, (first, rest) = np.random.RandomState(0), (slice(0, 3), slice(3, 8))
    weights, gradient = torch.from_numpy(rng.normal(size=(2, n_models, 8))).float()
    names = UPDATE_RULES[solver].hyper_parameters
    options = {name: [0.9 if name != "epsilon" else 1e-8] * n_models for name in names}
    factors = torch.tensor([1.0] * 3 + [0.1] * 5)
    rate = torch.full((n_models, 1), 0.3) if n_models > 1 else torch.tensor(0.3)

    def stepped(part, rate):
        flat, slope = weights[:, part].clone(), gradient[:, part].clone()
        rule = UPDATE_RULES[solver](options, True, flat)
        moments = [torch.zeros_like(flat) for _ in range(rule.n_moments)]
        for _ in range(3):
            rule.step_(flat, slope.clone(), moments, rate)
        return flat

    both = stepped(slice(None), rate * factors)
    torch.testing.assert_close(both[:, first], stepped(first, rate))
    torch.testing.assert_close(both[:, rest], stepped(rest, 0.1 * rate))


# -- streams --


@pytest.mark.parametrize("lane", [{}, {"skorch_callbacks": []}], ids=["stack", "skorch"])
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_a_column_is_embedded_from_its_third_value_on(table, solver, lane):
    X, y = table
    net = Regressor(solver=solver, batch_size=50, **lane)
    for _ in range(3):
        net.partial_fit(X[:150], y[:150])
    assert net._fitted.model.values.are_numeric.tolist() == [True, False, True, True]
    later = X[150:].copy()
    later[:, 1] = np.linspace(-1, 1, 150)
    before = net.predict(X)
    still = copy.deepcopy(net).set_params(learning_rate_init=1e-9, momentum=0, beta_1=0)
    still.partial_fit(later, y[150:])
    assert still._fitted.model.values.are_numeric.all()
    np.testing.assert_allclose(still.predict(X), before, atol=2e-3)  # nothing jumps
    for _ in range(5):
        net.partial_fit(later, y[150:])
    assert net.coefs_[0][4:].reshape(4, 3, -1)[1].any()


def test_a_stream_that_begins_with_one_row_embeds_every_column(table):
    X, y = table
    net = Regressor().partial_fit(X[:1], y[:1])
    assert net._fitted.model.values.are_numeric.all()
    assert np.isfinite(net.partial_fit(X, y).predict(X)).all()


# -- what it is good for, and what becomes of it --


def test_it_learns_waves(table):
    X, y = table
    plain = TorchRegressor(random_state=0).fit(X, y).score(X, y)
    net = TorchRegressor(numerical_embedding="periodic", random_state=0).fit(X, y)
    assert net.score(X, y) > 0.95 > 0.9 > plain


@pytest.mark.parametrize("far", [0.0, 1e4])
@pytest.mark.parametrize("standardize", [True, False])
def test_the_exported_module_takes_raw_columns(table, far, standardize):
    X, y = table
    X = X + far * standardize
    net = Regressor(standardize=standardize).fit(X, y)
    raw = net.module_(torch.tensor(X, dtype=torch.float32)).detach().numpy().ravel()
    np.testing.assert_allclose(raw, net.predict(X), atol=1e-4 if far == 0 else 0.1)
    inputs = net.module_.double()[0](torch.from_numpy(X)).detach().numpy()
    kept = np.hstack([np.arange(4), 4 + np.arange(3), 4 + np.arange(6, 9)])
    hidden = np.maximum(inputs @ net.coefs_[0][kept] + net.intercepts_[0], 0)
    raw = hidden @ net.coefs_[1] + net.intercepts_[1]
    np.testing.assert_allclose(raw.ravel(), net.predict(X), atol=1e-4 if far == 0 else 0.1)


WAYS_OUT = {
    "torch.export": lambda net, X: torch.export.export(net, (X,)).module(),
    "script": lambda net, X: torch.jit.script(net),
    "trace": torch.jit.trace,
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("way", WAYS_OUT)
def test_the_module_leaves_torchsk(way, table):
    X = torch.tensor(table[0], dtype=torch.float32)
    net = Regressor().fit(*table).module_
    torch.testing.assert_close(WAYS_OUT[way](net, X)(X), net(X))


def test_float64_rows_give_float64_predictions(table):
    X, y = table
    net = Regressor().fit(1e6 + 1e-4 * X, y)
    assert net.predict(1e6 + 1e-4 * X).dtype == np.float64
    np.testing.assert_allclose(
        net.predict(1e6 + 1e-4 * X), Regressor().fit(X, y).predict(X), atol=1e-3
    )
    assert net.predict((1e6 + 1e-4 * X).astype(np.float32)).dtype == np.float32


def test_sparse_rows_are_predicted_as_dense_ones(table):
    X, y = table
    net = Regressor().fit(X, y)
    np.testing.assert_allclose(net.predict(sp.csr_array(X)), net.predict(X), rtol=1e-12)


REFUSED = {
    "sparse": (lambda net, X, y: net.fit(sp.csr_array(X), y), "X is sparse.*X.toarray"),
    "sparse stream": (lambda net, X, y: net.partial_fit(sp.csr_array(X), y), "X is sparse"),
    "sparse X_val": (
        lambda net, X, y: net.fit(X, y, X_val=sp.csr_array(X), y_val=y), "X is sparse",
    ),
    "module": (lambda net, X, y: net.set_params(module=mlp).fit(X, y), "with module.*in the mod"),
    "images": (lambda net, X, y: net.fit(X.reshape(-1, 2, 2), y), "X must have two axes"),
    "images for a module": (
        lambda net, X, y: net.set_params(module=mlp).fit(X.reshape(-1, 2, 2), y), "with module",
    ),
    "another kind": (
        lambda net, X, y: net.set_params(numerical_embedding="linear").fit(X, y), "'periodic'",
    ),
    "a change": (
        lambda net, X, y: net.fit(X, y).set_params(numerical_embedding=None).partial_fit(X, y),
        "must be what it was at the first fit to train on; got numerical_embedding=None",
    ),
    "to scikit-learn": (lambda net, X, y: to_sklearn(net), "which has no such layer"),
    "to scikit-learn, fitted": (
        lambda net, X, y: to_sklearn(net.fit(X, y).set_params(numerical_embedding=None)),
        "which has no such layer",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case, table):
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        call(Regressor(), *table)


def test_early_stopping_warm_start_and_weights(iris):
    X, y = iris
    net = Classifier(early_stopping=True, warm_start=True, max_iter=30)
    weight = np.random.RandomState(0).uniform(size=len(y))
    first = net.fit(X, y, weight).predict_proba(X)
    flat = net._fitted.model.flat
    net.set_params(max_iter=1, learning_rate_init=1e-6).fit(X, y, weight)
    np.testing.assert_allclose(net._fitted.model.flat, flat, atol=1e-4)
    np.testing.assert_allclose(net.predict_proba(X), first, atol=1e-3)
