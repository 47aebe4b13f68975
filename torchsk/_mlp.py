"""The built-in multi-layer perceptron on weight tensors: init, forward, backward, export.

The weights of a network are one flat vector, coefs first, then intercepts, then the numbers of an
embedding of the inputs, if there is one; a stack of networks is
a matrix with one such vector per row. `Network` looks at either through views, so the same code
runs one network with 2-D operations and n_models networks with batched ones. A coef is stored
(fan_out, fan_in), torch's layout, in which the products of narrow layers are fastest, and seen
(fan_in, fan_out), scikit-learn's.

In training samples are columns: inputs, activations, masks and deltas are (..., width, n_samples),
and so is the `out` that raw outputs are written to. `Network.predict` alone has samples as rows.
"""

import inspect
import itertools
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from torchsk._activations import ActivationName, ActivationRuns, make_activation
from torchsk._dropout import Dropout, Masks
from torchsk._embedding import RATE_FACTOR, Embedding, EmbeddingLayer, PeriodicEmbedding
from torchsk._matmul import affine, outer_into, product, sum_into
from torchsk._runtime import seeded_torch


@dataclass(frozen=True)
class NetworkSpec:
    """The shape of a multi-layer perceptron.

    Parameters
    ----------
    layer_sizes : tuple of int
        (n_inputs, *hidden_layer_sizes, n_outputs); an embedding makes more inputs than features.
    activations : tuple of str or nn.Module class
        One per hidden layer; for a stack each may be the runs of its models (`of_stack`).
    dropout : tuple of float
        Probability in [0, 1) of dropping a unit, after each hidden activation.
    embedding : Embedding or None
        What makes the inputs of the first layer of the features.
    """

    layer_sizes: tuple[int, ...]
    activations: tuple[ActivationName | ActivationRuns, ...]
    dropout: tuple[float, ...]
    embedding: Embedding | None = None

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self.layer_sizes[0] if self.embedding is None else self.embedding.n_features

    @classmethod
    def of_stack(cls, specs: Sequence["NetworkSpec"]) -> "NetworkSpec":
        """Return the shape of a stack of networks whose specs differ in their activations only."""
        if len(specs) == 1:
            return specs[0]
        layers = [
            tuple((name, len(list(run))) for name, run in itertools.groupby(names))
            for names in zip(*(spec.activations for spec in specs))
        ]
        activations = tuple(runs[0][0] if len(runs) == 1 else runs for runs in layers)
        return replace(specs[0], activations=activations)

    @property
    def n_coefs(self) -> int:
        """Number of coefficients; they are the head of the flat vector."""
        return sum(fan_in * fan_out for fan_in, fan_out in pairwise(self.layer_sizes))

    @property
    def n_params(self) -> int:
        """Length of the flat vector of weights."""
        return self.n_dense + (0 if self.embedding is None else self.embedding.n_params)

    @property
    def n_dense(self) -> int:
        """Number of coefficients and intercepts; the numbers of an embedding come behind."""
        return self.n_coefs + sum(self.layer_sizes[1:])

    @property
    def row_sizes(self) -> list[int]:
        """Numbers that a row fills in each layer behind the features."""
        embedded = [] if self.embedding is None else [self.embedding.n_cosines, self.layer_sizes[0]]
        return [*embedded, *self.layer_sizes[1:]]

    @property
    def dropped(self) -> list[int]:
        """Widths of the layers that drop units."""
        return [width for width, p in zip(self.layer_sizes[1:], self.dropout) if p]

    def split(self, flat: Any) -> tuple[list[Any], list[Any]]:
        """Return views (coefs, intercepts) of flat weights (..., n_params), array or tensor."""
        shapes = [(fan_out, fan_in) for fan_in, fan_out in pairwise(self.layer_sizes)]
        sizes = [*(fan_out * fan_in for fan_out, fan_in in shapes), *self.layer_sizes[1:]]
        flat = flat if self.embedding is None else flat[..., : self.n_dense]
        if isinstance(flat, Tensor):
            parts = list(flat.split(sizes, dim=-1))
        else:
            parts = np.split(flat, np.cumsum(sizes)[:-1], axis=-1)
        lead = flat.shape[:-1]
        coefs = [part.reshape(*lead, *shape).mT for part, shape in zip(parts, shapes)]
        return coefs, parts[len(shapes) :]

    def tail(self, flat: Any) -> Any:
        """Return a view of the numbers of the embedding in flat weights."""
        return flat[..., self.n_dense :]

    def rate_factors(self, like: Tensor) -> Tensor | None:
        """Return the share of the learning rate at which each weight is trained, if they differ."""
        if self.embedding is None:
            return None
        factors = like.new_ones(self.n_params)
        self.tail(factors).fill_(RATE_FACTOR)
        return factors

    def narrowed(self, columns: np.ndarray | None) -> "Narrowing":
        """Return how a network that embeds some columns (n_features,) only lies in this one.

        Columns are None for all of them, as where there is no embedding.
        """
        if self.embedding is None or columns is None or columns.all():
            return Narrowing(self, self, None)
        embedding, inputs, numbers = self.embedding.narrowed(columns.nonzero()[0])
        sizes = embedding.width, *self.layer_sizes[1:]
        spec = replace(self, layer_sizes=sizes, embedding=embedding if columns.any() else None)
        places = np.arange(self.n_params)
        first = self.split(places)[0][0][inputs]
        rest = places[self.layer_sizes[0] * self.layer_sizes[1] : self.n_dense]
        return Narrowing(self, spec, np.hstack([first.T.ravel(), rest, self.n_dense + numbers]))


@dataclass(frozen=True)
class Narrowing:
    """A network without the columns that it does not embed, all of whose numbers are zero.

    Parameters
    ----------
    whole, spec : NetworkSpec
        With them, and without.
    places : ndarray of shape (spec.n_params,), or None
        Where its weights are in those of the whole; None where it is the whole.
    """

    whole: NetworkSpec
    spec: NetworkSpec
    places: np.ndarray | None

    def take(self, flat: np.ndarray) -> np.ndarray:
        """Return its weights (..., spec.n_params) of those of the whole."""
        return flat if self.places is None else flat.take(self.places, axis=-1)  # in C order

    def put(self, flat: np.ndarray) -> np.ndarray:
        """Return the weights of the whole, (..., whole.n_params)."""
        if self.places is None:
            return flat
        whole = np.zeros((*flat.shape[:-1], self.whole.n_params), flat.dtype)
        whole[..., self.places] = flat
        return whole


def pack(coefs: Sequence[np.ndarray], intercepts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the flat weights (n_params,)."""
    return np.concatenate([np.ravel(layer.T) for layer in (*coefs, *intercepts)])


@dataclass(frozen=True)
class Reexpression:
    """What a change of scalers does to flat weights: the same function by other weights.

    The inputs that the weights are for were ``factor * new + shift``; the raw outputs become
    ``gain * raw + offset``. Vectors are (n_params,); each method returns a new one, in float64.

    Parameters
    ----------
    spec : NetworkSpec
    factor, shift : ndarray of shape (n_features,)
    gain, offset : ndarray of shape (n_outputs,), or float
    loss : ndarray of shape (n_targets,), or float
        What the loss is multiplied by. Several targets count as if theirs had changed alike.
    """

    spec: NetworkSpec
    factor: np.ndarray
    shift: np.ndarray
    gain: np.ndarray | float
    offset: np.ndarray | float
    loss: np.ndarray | float

    def weights(self, flat: np.ndarray) -> np.ndarray:
        """Return the weights that compute the same."""
        flat = self.steps(flat)
        self.spec.split(flat)[1][-1] += self.offset
        return flat

    def steps(self, flat: np.ndarray) -> np.ndarray:
        """Return a step of the weights, such as a velocity: the linear part."""
        flat, (first, intercept), last, waves = self._copy(flat)
        intercept += first @ self.shift
        first *= self.factor
        for f, b, factor, shift in waves:
            b += f * shift
            f *= factor
        for part in last:
            part *= self.gain
        return flat

    def gradients(self, flat: np.ndarray) -> np.ndarray:
        """Return a gradient by the weights, by the chain rule."""
        flat, (first, intercept), last, waves = self._copy(flat)
        first -= np.outer(intercept, self.shift)
        first /= self.factor
        for f, b, factor, shift in waves:
            f -= b * shift
            f /= factor
        for part in last:
            part /= self.gain
        flat *= self._loss
        return flat

    def squares(self, flat: np.ndarray) -> np.ndarray:
        """Return squared gradients, as if those of a coef and an intercept were uncorrelated."""
        flat, (first, intercept), last, waves = self._copy(flat)
        first += np.outer(intercept, self.shift**2)
        first /= self.factor**2
        for f, b, factor, shift in waves:
            f += b * shift**2
            f /= factor**2
        for part in last:
            part /= np.square(self.gain)
        flat *= self._loss**2
        return flat

    @property
    def _loss(self) -> float:
        return float(np.exp(np.log(self.loss).mean()))

    def _copy(self, flat: np.ndarray) -> tuple[np.ndarray, tuple, tuple, list[tuple]]:
        """Return a copy, and views of it on (coef, intercept) of the first and the last layer.

        The first coef is (fan_out, n_features), as it is stored, and the last one (fan_in,
        fan_out). The list has what an embedding brings: frequencies and phases, with factor and
        shift of their angles.
        """
        flat, spec = flat.astype(np.float64), self.spec
        coefs, intercepts = spec.split(flat)
        first = coefs[0][: spec.n_features].T
        waves = []
        if spec.embedding is not None:
            frequencies, phases, *_ = spec.embedding.split(spec.tail(flat))
            factor, shift = np.broadcast_arrays(self.factor, self.shift)
            waves = [(frequencies, phases, factor[:, None], 2 * np.pi * shift[:, None])]
        return flat, (first, intercepts[0]), (coefs[-1], intercepts[-1]), waves


def _seeded(fill_: Callable[..., Any]) -> Callable[[int], Callable[[Tensor], Any]]:
    """Return seed -> in-place filler with a generator of its own, if it draws at all."""
    draws = "generator" in inspect.signature(fill_).parameters
    return lambda seed: (
        partial(fill_, generator=torch.Generator().manual_seed(seed)) if draws else fill_
    )


#: name -> seed -> in-place filler: the functions of torch.nn.init that need a tensor only
INITS: dict[str, Callable[[int], Callable[[Tensor], Any]]] = {
    name.removesuffix("_"): _seeded(fill_)
    for name, fill_ in vars(nn.init).items()
    if name.endswith("_")
    and name != "dirac_"  # for convolutions only
    and not name.startswith("_")
    and sum(p.default is p.empty for p in inspect.signature(fill_).parameters.values()) == 1
}


def draw_weights(
    spec: NetworkSpec, init: Any, rng: np.random.RandomState, activation: Any = None
) -> np.ndarray:
    """Return initial flat weights, float64 (n_params,).

    "glorot_uniform" is scikit-learn's rule with scikit-learn's draws: weights and intercepts from
    U(-b, b), b = sqrt(6 / (fan_in + fan_out)), 2 instead of 6 for a logistic network (Glorot &
    Bengio 2010); `activation` says so where there is no hidden layer. Other rules are functions of
    torch.nn.init, seeded from rng; their intercepts start at zero. The numbers of an embedding are
    drawn last.
    """
    dense = _draw_dense(spec, init, rng, activation)
    return dense if spec.embedding is None else np.hstack([dense, spec.embedding.draw(rng)])


def _draw_dense(
    spec: NetworkSpec, init: Any, rng: np.random.RandomState, activation: Any
) -> np.ndarray:
    """Return initial coefs and intercepts, float64 (n_dense,)."""
    if init == "glorot_uniform":
        first = spec.activations[0] if spec.activations else activation
        factor = 2.0 if first == "logistic" else 6.0
        coefs, intercepts = [], []
        for fan_in, fan_out in pairwise(spec.layer_sizes):
            bound = np.sqrt(factor / (fan_in + fan_out))
            coefs.append(rng.uniform(-bound, bound, (fan_in, fan_out)))
            intercepts.append(rng.uniform(-bound, bound, fan_out))
        return pack(coefs, intercepts)
    seed = int(rng.randint(2**31 - 1))
    fill_ = INITS[init](seed) if isinstance(init, str) else init
    flat = np.zeros(spec.n_dense)
    with torch.no_grad(), seeded_torch(seed) if callable(init) else nullcontext():
        for coef in spec.split(flat)[0]:
            # nn.Linear's layout: fans are right
            weight = torch.zeros(coef.shape[1], coef.shape[0], dtype=torch.float32, device="cpu")
            fill_(weight)
            coef[...] = weight.numpy().T
    return flat


class Network:
    """A multi-layer perceptron, or a stack of them, looking at flat weights.

    Inside, samples are columns: a layer is W x + b, and what it returns lies (..., width,
    n_samples).

    Parameters
    ----------
    spec : NetworkSpec
    flat : Tensor of shape (n_params,) or (n_models, n_params)
        The weights; every method sees later in-place changes.
    groups : list of int, optional
        Numbers of neighbouring models that see the same rows: their first layer is one wide
        product. Without it every model of a stack sees rows of its own.
    """

    #: whether the inputs of a stack are always one table per group
    takes_tables: ClassVar[bool] = False

    def __init__(self, spec: NetworkSpec, flat: Tensor, groups: list[int] | None = None):
        self.row_sizes, self.groups = spec.row_sizes, groups
        self.activations = [make_activation(name) for name in spec.activations]
        coefs, intercepts = spec.split(flat)
        self.coefs: list[Tensor] = coefs
        # (..., fan_out, fan_in), contiguous
        self.weights: list[Tensor] = [coef.mT for coef in coefs]
        self.intercepts: list[Tensor] = [b.unsqueeze(-1) for b in intercepts]
        self._biases = intercepts
        #: what makes the inputs of the first layer, and of those the part that it adds
        self.embedding: EmbeddingLayer | None = None
        if spec.embedding is not None:
            self.embedding = EmbeddingLayer(spec.embedding, spec.tail(flat))
            self._behind = coefs[0][..., spec.n_features :, :]
        if groups is not None:
            self._first = self.weights[0].split(groups), self.intercepts[0].split(groups)
        self._memory: dict[tuple[str, int, int], Tensor] = {}
        self._ones: dict[int, Tensor] = {}

    @classmethod
    def arranged(cls, spec: NetworkSpec, flat: np.ndarray) -> np.ndarray:
        """Return flat weights (..., n_params) in the order in which this class wants them."""
        return flat

    @classmethod
    def restored(cls, spec: NetworkSpec, flat: np.ndarray) -> np.ndarray:
        """Return weights that were `arranged` in the usual order."""
        return flat

    def predict(self, X: Any) -> Tensor:
        """Return raw outputs (n_samples, n_outputs) of X (n_samples, n_features), of one network.

        Here samples are rows, which is faster for very many of them, and for one.
        """
        if self.embedding is not None:
            X = self.embedding.forward(X.mT)[0].mT
        for layer, activation in enumerate(self.activations):
            X = activation.forward_(self._affine(layer, X).mT).mT
        return self._affine(len(self.activations), X)

    def _affine(self, layer: int, X: Any) -> Tensor:
        """Return X W + b, samples as rows."""
        return affine(X, self.coefs[layer], self._biases[layer])

    def forward(self, X: Any, masks: Sequence[Tensor | None], out: Tensor) -> list[tuple]:
        """Write raw outputs (..., n_outputs, n_samples) to `out`; return what `backward` needs.

        X is (..., n_features, n_samples), one per group in a stack with groups. Masks (..., width,
        n_samples) multiply the hidden activations: dropout. The result holds, per layer, (input,
        saved for the derivative of the activation or embedding before it, mask).
        """
        saved: Any = None
        if self.embedding is not None:
            X, saved = self.embedding.forward(X)
        tape: list[tuple] = [(X, saved, None)]
        for layer, (activation, mask) in enumerate(zip(self.activations, masks)):
            z = self._layer(layer, X, self._use_again("z", layer, X))
            X = activation.forward_(z)
            saved = z if activation.saves_input else X
            if mask is not None:
                X = X * mask
            tape.append((X, saved, mask))
        raw = self._layer(len(self.activations), X, out)
        if raw is not out:
            out.copy_(raw)
        return tape

    def backward(self, delta: Tensor, tape: list[tuple], gradient: "Network") -> None:
        """Write d loss / d weights into `gradient`, given delta = d loss / d raw."""
        for layer in range(len(tape) - 1, -1, -1):
            X, saved, mask = tape[layer]
            self._outer(layer, delta, X, gradient)
            sum_into(gradient.intercepts[layer], delta, self._ones)
            if layer:
                delta = product(
                    self.coefs[layer], delta, self._use_again("delta", layer - 1, delta)
                )
                if mask is not None:
                    delta.mul_(mask)
                delta = self.activations[layer - 1].backward_(delta, saved)
            elif self.embedding is not None:
                self.embedding.backward(product(self._behind, delta), saved, gradient.embedding)

    def _layer(self, layer: int, X: Any, out: Tensor | None = None) -> Tensor:
        """Return W X + b, in `out` where that is faster."""
        if layer or self.groups is None:
            return affine(self.weights[layer], X, self.intercepts[layer], out)
        assert out is not None
        for wide, rows, weight, bias in zip(self._wide(out), X, *self._first):
            z = affine(weight.reshape(-1, weight.shape[2]), rows, bias.reshape(-1, 1), wide)
            if len(X) == 1:
                return z.view(out.shape)
            if z is not wide:
                wide.copy_(z)
        return out

    def _wide(self, columns: Tensor) -> list[Tensor]:
        """Return views (n_models * width, n_samples), one per group, of a layer's columns."""
        assert self.groups is not None
        return [part.view(-1, part.shape[2]) for part in columns.split(self.groups)]

    def _use_again(self, name: str, layer: int, like: Any) -> Tensor | None:
        """Return the memory (n_models, width, n_samples) of a hidden layer, kept for every step.

        One network needs little of it, and gets new memory faster than it looks up the old.
        """
        weight = self.weights[layer]
        if weight.ndim == 2:
            return None
        key = name, layer, like.shape[-1]
        if key not in self._memory:
            self._memory[key] = like.new_empty(*weight.shape[:2], like.shape[-1])
        return self._memory[key]

    def _outer(self, layer: int, delta: Tensor, X: Any, gradient: "Network") -> None:
        """Write delta X^T, (..., fan_out, fan_in), to the gradient of a layer's weights."""
        if layer or self.groups is None:
            outer_into(gradient.weights[layer], delta, X)
            return
        for wide, rows, out in zip(self._wide(delta), X, gradient._first[0]):
            outer_into(out, wide, rows)


def make_module(
    spec: NetworkSpec,
    coefs: Sequence[np.ndarray],
    intercepts: Sequence[np.ndarray],
    tail: np.ndarray | None = None,
    masks: Masks | None = None,
) -> nn.Sequential:
    """Return the network as a plain nn.Sequential in float32, weights copied.

    The tail are the numbers of an embedding. With `masks` units are dropped as those of a stack.
    """
    n_dropped = itertools.count()
    layers: list[nn.Module] = []
    if spec.embedding is not None:
        assert tail is not None
        layers.append(PeriodicEmbedding(spec.embedding, tail))
    for i, (coef, intercept) in enumerate(zip(coefs, intercepts)):
        linear = nn.utils.skip_init(nn.Linear, *coef.shape, dtype=torch.float32)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(np.ascontiguousarray(coef.T)))
            linear.bias.copy_(torch.from_numpy(np.array(intercept)))
        layers.append(linear)
        if i < len(spec.activations):
            layers.append(make_activation(spec.activations[i]).module())
            if spec.dropout[i]:
                p = spec.dropout[i]
                layers.append(
                    nn.Dropout(p) if masks is None else Dropout(p, masks, next(n_dropped))
                )
    return nn.Sequential(*layers).eval()
