"""Models: from validated X to raw outputs, in plain numpy state; what a fit leaves."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from torchsk._data import chunks
from torchsk._dropout import Masks
from torchsk._embedding import RATE_FACTOR, ColumnValues, PeriodicEmbedding
from torchsk._heads import Head
from torchsk._mlp import Narrowing, Network, NetworkSpec, Reexpression, make_module, pack
from torchsk._runtime import available_devices, threads_for, without_autocast
from torchsk._sparse import SparseNetwork
from torchsk._standardizer import Standardizer

DTYPES = {"float32": torch.float32, "float64": torch.float64}
# numbers per layer and chunk when predicting: stays in the cache of a core
CHUNK_SIZE = 400_000
# predicting passes over zeros up to this share of entries
MAX_DENSITY = 1 / 4
# raw outputs within so little of each other are one answer: to all, the same
ALIKE = 0.01


def output_dtype(X: Any) -> str:
    """Return the name of the dtype in which predictions for X are returned."""
    return "float32" if X.dtype == np.float32 else "float64"


@dataclass(frozen=True)
class Model(ABC):
    """A network with its head and its scalers: all that prediction needs, trained or not.

    Parameters
    ----------
    head : Head
        The head in the unit of the user's y.
    x_scaler, y_scaler : Standardizer or None
    dtype : str
        dtype of its predictions for X of the dtype that it is fitted to.
    device : str
        Where predictions are computed, if it is there.
    """

    head: Head
    x_scaler: Standardizer | None
    y_scaler: Standardizer | None
    dtype: str
    device: str

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """Shape of a row of X."""

    @property
    def takes_ids(self) -> bool:
        """Whether rows are int64."""
        return False

    @property
    @abstractmethod
    def n_layers(self) -> int | None:
        """Number of layers, input and output included, where it is known."""

    @abstractmethod
    def trainable(self) -> nn.Module:
        """Return a copy of the network, for standardised inputs and targets, for torch to train."""

    @abstractmethod
    def trained_by(self, net: Any) -> Self:
        """Return the model with what a net has made of `trainable`: its `module_`."""

    @abstractmethod
    def module(self) -> nn.Module:
        """Return a plain nn.Module: raw float32 features in, raw outputs out."""

    @abstractmethod
    def weights(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return (coefs, intercepts) for raw inputs and outputs."""

    @property
    def dropout(self) -> tuple[float, ...] | None:
        """Probability of dropping a unit, per hidden layer, where it is known."""
        return None

    def with_dropout(self, rule: Callable[[int], float]) -> Self:
        """Return the model whose layers drop units as a rule of their width says."""
        return self

    @property
    def embeds(self) -> bool:
        """Whether columns of the inputs are embedded."""
        return False

    @property
    def rate_factors(self) -> dict[str, float]:
        """Shares of the learning rate, by patterns of names of the parameters of `trainable`."""
        return {}

    @property
    @abstractmethod
    def mixes_rows(self) -> bool:
        """Whether a row's output in training depends on chance or on other rows of its batch.

        It does with dropout and with batch normalisation.
        """

    @property
    @abstractmethod
    def widest(self) -> int:
        """Numbers that a row fills in the widest layer behind the inputs, as far as it is known."""

    @property
    def n_multiply_adds(self) -> float:
        """Multiply-adds per row, as far as they are known."""
        return math.inf

    @abstractmethod
    def _predictor(
        self, dtype: np.dtype, device: torch.device
    ) -> tuple[Callable[[Tensor], Tensor], np.dtype]:
        """Return (standardised inputs -> raw outputs, dtype of these inputs)."""

    def _sparse_predictor(self, dtype: np.dtype) -> Callable[[Any], Tensor] | None:
        """Return sparse rows, not standardised -> raw outputs, if there is such a way."""
        return None

    #: whether it is a user's, whose X may have any number of axes and any dtype
    has_module: ClassVar[bool] = False
    #: whether `rescaled` can re-express the network for later scalers
    follows: ClassVar[bool] = False

    def rescaled(
        self, x_scaler: Standardizer, y_scaler: Standardizer | None
    ) -> tuple[Self, Reexpression]:
        """Return (the model with later scalers and the same outputs, what changed its weights)."""
        raise NotImplementedError

    def raw(self, X: np.ndarray) -> Tensor:
        """Return raw outputs (n_samples, n_outputs) in y's unit and X's dtype, on the CPU.

        Inputs are standardised in float64. For X that is neither float32 nor float64, as a module
        may get, outputs are float64.
        """
        parts = self._sparse_parts(X) or self._dense_parts(X)
        raw = parts[0] if len(parts) == 1 else torch.cat(parts)
        raw = raw.to(DTYPES[output_dtype(X)])
        if self.y_scaler is not None:
            offset, factor = map(torch.from_numpy, self._raw_affine())
            raw = raw * factor.to(raw.dtype) + offset.to(raw.dtype)
        return raw

    def _dense_parts(self, X: Any) -> list[Tensor]:
        """Return raw outputs for standardised targets, some rows at a time."""
        device = self._device()
        predict, dtype = self._predictor(X.dtype, device)
        return [
            predict(torch.from_numpy(self._inputs(X[rows], dtype)).to(device)).cpu()
            for rows in chunks(X.shape[0], 1, self.rows_at_a_time(CHUNK_SIZE))
        ]

    def _sparse_parts(self, X: Any) -> list[Tensor]:
        """Return the same without making rows dense, or nothing where that does not pay."""
        is_thin = sp.issparse(X) and X.nnz <= MAX_DENSITY * math.prod(X.shape)
        is_here = is_thin and self._device().type == "cpu"
        predict = self._sparse_predictor(X.dtype) if is_here else None
        if predict is None:
            return []
        parts = list(chunks(X.shape[0], self.widest, CHUNK_SIZE))
        if len(parts) == 1:
            return [predict(X)]
        X = X.tocsr()
        return [predict(X[rows]) for rows in parts]

    def is_constant(self, X: Tensor) -> bool:
        """Return whether raw outputs of standardised inputs (n_samples, ...) are next to equal."""
        predict, _ = self._predictor(np.dtype(np.float32), X.device)
        low, high = predict(X).aminmax(dim=0)
        return bool((high - low < ALIKE).all())

    def threads(self, n_rows: int) -> AbstractContextManager[None]:
        """Return a context with as many of torch's threads as pay for predicting these rows."""
        n_rows = min(n_rows, self.rows_at_a_time(CHUNK_SIZE))
        return threads_for(n_rows * self.n_multiply_adds, self._device())

    def _device(self) -> torch.device:
        there = self.device == "cpu" or self.device in available_devices()
        return torch.device(self.device if there else "cpu")

    def rows_at_a_time(self, size: int) -> int:
        """Return how many rows fill the widest of all layers with `size` numbers."""
        return max(1, size // max(self.widest, math.prod(self.input_shape)))

    def _inputs(self, X: Any, dtype: np.dtype) -> np.ndarray:
        """Return dense, standardised and writable inputs."""
        if sp.issparse(X):
            X = X.toarray()
        if self.x_scaler is not None:
            X = self.x_scaler.transform(X)
        with np.errstate(over="ignore"):  # the estimator looks at what comes of it
            X = X.astype(dtype, copy=False)
        # torch takes neither what must not be written to nor what is read backwards
        return X if X.flags.writeable and min(X.strides) >= 0 else X.copy()

    def _raw_affine(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (offset, factor), float64 (n_outputs,), from standardised to y's own unit."""
        if self.y_scaler is None:
            return np.zeros(self.head.n_outputs), np.ones(self.head.n_outputs)
        head: Any = self.head  # of a regressor
        return head.raw_affine(*self.y_scaler.known)


@dataclass(frozen=True)
class MLPModel(Model):
    """The built-in network.

    Parameters
    ----------
    spec : NetworkSpec
    flat : ndarray of shape (n_params,)
        Weights, for standardised inputs and targets.
    values : ColumnValues or None
        What says which columns are embedded, where there is an embedding.
    """

    spec: NetworkSpec
    flat: np.ndarray
    values: ColumnValues | None = None

    follows = True

    @property
    def input_shape(self) -> tuple[int]:
        """The number of features."""
        return (self.spec.n_features,)

    @property
    def n_layers(self) -> int:
        """Number of layers, input and output included."""
        return len(self.spec.layer_sizes)

    @property
    def dropout(self) -> tuple[float, ...]:
        """Probability of dropping a unit, per hidden layer."""
        return self.spec.dropout

    def with_dropout(self, rule: Callable[[int], float]) -> Self:
        """Return the model whose layers drop units as a rule of their width says."""
        dropout = tuple(rule(width) for width in self.spec.layer_sizes[1:-1])
        return replace(self, spec=replace(self.spec, dropout=dropout))

    @property
    def rate_factors(self) -> dict[str, float]:
        """A smaller share for the numbers of an embedding, which is the first module."""
        return {} if self.spec.embedding is None else {"[!0]*": 1.0, "0.*": RATE_FACTOR}

    @property
    def mixes_rows(self) -> bool:
        """Whether units are dropped at random."""
        return any(self.spec.dropout)

    @property
    def widest(self) -> int:
        """Width of the widest layer behind the inputs."""
        return max(self.spec.row_sizes)

    @property
    def n_multiply_adds(self) -> int:
        """Multiply-adds per row: about the number of weights that multiply."""
        embedding = self.spec.embedding
        return self.spec.n_coefs + (0 if embedding is None else embedding.n_params)

    @property
    def embeds(self) -> bool:
        """Whether there are columns to embed."""
        return self.values is not None and bool(self.values.are_numeric.any())

    @property
    def narrowing(self) -> Narrowing:
        """The network without the columns that it does not embed."""
        return narrowing_of([self])

    def trained(self, flat: np.ndarray) -> Self:
        """Return the model with other weights (n_params,)."""
        return replace(self, flat=flat)

    def embedding_more(self, values: ColumnValues, rng: np.random.RandomState) -> Self:
        """Return the model that embeds columns which have shown a third value, too.

        The coefs behind are still zero: nothing jumps.
        """
        assert self.values is not None
        new = self.spec.narrowed(values.are_numeric & ~self.values.are_numeric)
        embedding, flat = new.spec.embedding, self.flat
        if embedding is not None:
            drawn = np.hstack([np.zeros(new.spec.n_dense), embedding.draw(rng)])
            flat = flat + new.put(drawn)
        return replace(self, values=values, flat=flat)

    def rescaled(
        self, x_scaler: Standardizer, y_scaler: Standardizer | None
    ) -> tuple[Self, Reexpression]:
        """Return (the model with later scalers and the same outputs, what changed its weights)."""
        assert self.x_scaler is not None
        out: tuple[Any, ...] = 1.0, 0.0, 1.0
        if self.y_scaler is not None and y_scaler is not None:
            out = self.head.change_of_unit(self.y_scaler.known, y_scaler.known)
        change = Reexpression(self.spec, *self.x_scaler.change(x_scaler), *out)
        flat = change.weights(self.flat)
        return replace(self, x_scaler=x_scaler, y_scaler=y_scaler, flat=flat), change

    def trainable(self) -> nn.Module:
        """Return the nn.Sequential that has these weights; units are dropped as in a stack."""
        masks = Masks(self.spec.dropped)
        tail = self.spec.tail(self.flat)
        return make_module(self.spec, *self.spec.split(self.flat), tail, masks)

    def trained_by(self, net: Any) -> Self:
        """Return the model with the weights of the nn.Sequential."""
        layers = [layer for layer in net.module_ if isinstance(layer, nn.Linear)]
        coefs = [layer.weight.detach().cpu().numpy().T for layer in layers]
        intercepts = [layer.bias.detach().cpu().numpy() for layer in layers]
        first = net.module_[0]
        tail = (
            [first.numbers.detach().cpu().numpy()] if isinstance(first, PeriodicEmbedding) else []
        )
        return self.trained(np.hstack([pack(coefs, intercepts), *tail]))

    def raw(self, X: np.ndarray) -> Tensor:
        """Return the same outputs whether autocast is on or not."""
        with without_autocast(self._device()):
            return super().raw(X)

    def _predictor(
        self, dtype: np.dtype, device: torch.device
    ) -> tuple[Callable[[Tensor], Tensor], np.dtype]:
        """Compute in X's dtype on the CPU, in float32 on an accelerator."""
        dtype = dtype if device.type == "cpu" else np.dtype(np.float32)
        networks: dict[Hashable, Network] = self.__dict__.setdefault("_networks", {})
        if (dtype, device) not in networks:
            narrowing = self.narrowing
            flat = torch.from_numpy(np.require(narrowing.take(self.flat), dtype, "W"))
            networks[dtype, device] = Network(narrowing.spec, flat.to(device))
        return networks[dtype, device].predict, dtype

    def _sparse_predictor(self, dtype: np.dtype) -> Callable[[Any], Tensor] | None:
        """Compute in X's dtype, or in float64 where a mean has to be taken off."""
        if self.spec.embedding is not None:  # cosines are nowhere zero
            return None
        networks: dict[Hashable, Network] = self.__dict__.setdefault("_networks", {})
        is_centred = self.x_scaler is not None and bool(self.x_scaler.mean.any())
        key = "sparse", np.dtype(np.float64) if is_centred else dtype
        if key not in networks:
            flat = np.empty(self.flat.shape, key[1])
            SparseNetwork.arrange(self.spec, self.flat, flat, self.x_scaler)
            networks[key] = SparseNetwork(self.spec, torch.from_numpy(flat))
        return networks[key].predict

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the tensors that predictions keep."""
        state = vars(self).copy()  # another thread may be predicting
        state.pop("_networks", None)
        return state

    def weights(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return (coefs, intercepts) for raw inputs and outputs, in the dtype of the fitted X.

        Standardisation is folded into the first and the last layer, in float64. Behind an embedding
        the first coef has n_features rows for the columns, then those for what it adds.
        """
        coefs, intercepts = self.spec.split(self.flat.astype(np.float64))
        if self.x_scaler is not None:
            n_features = self.spec.n_features
            plain = coefs[0][:n_features] / self.x_scaler.scale[:, None]
            coefs[0] = np.vstack([plain, coefs[0][n_features:]])
            intercepts[0] = intercepts[0] - self.x_scaler.mean @ plain
        offset, factor = self._raw_affine()
        coefs[-1] = coefs[-1] * factor
        intercepts[-1] = intercepts[-1] * factor + offset
        return [c.astype(self.dtype) for c in coefs], [b.astype(self.dtype) for b in intercepts]

    def module(self) -> nn.Module:
        """Return a plain nn.Sequential: raw float32 features in, raw outputs out."""
        embedding = self.spec.embedding
        if embedding is None:
            return make_module(self.spec, *self.weights())
        tail = self.spec.tail(self.flat)
        if self.x_scaler is not None:
            tail = embedding.rescaled(tail, self.x_scaler.mean, self.x_scaler.scale)
        narrowing = self.narrowing
        flat = narrowing.take(np.hstack([pack(*self.weights()), tail]))
        return make_module(narrowing.spec, *narrowing.spec.split(flat), narrowing.spec.tail(flat))


def narrowing_of(models: Sequence[MLPModel]) -> Narrowing:
    """Return the network of models of one spec without the columns that none of them embeds."""
    spec = models[0].spec
    columns = [model.values.are_numeric for model in models if model.values is not None]
    return spec.narrowed(np.any(columns, axis=0) if columns else None)


@dataclass(frozen=True)
class Fitted:
    """What a call of fit or partial_fit leaves: all that predictions and later calls need.

    Parameters
    ----------
    model : Model
    targets : Targets
    progress : Progress
    state : SolverState or None
        What the solver remembers, if there is something to go on with.
    """

    model: Any
    targets: Any
    progress: Any
    state: Any = None
