"""The built-in network on sparse rows: its first products pass over the zeros."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchsk._mlp import Network, NetworkSpec
from torchsk._rows import Rows, SparseRows
from torchsk._standardizer import Standardizer


class SparseNetwork(Network):
    """A network, or a stack of them, whose inputs are scipy CSR matrices, samples as rows.

    The first coef is stored (fan_in, fan_out), not transposed as in `Network`: an entry of X meets
    a row of it, which is contiguous then.

    Parameters
    ----------
    spec : NetworkSpec
    flat : Tensor of shape (n_params,) or (n_models, n_params), on the CPU
        The weights, as `arranged` returns them; every method sees later in-place changes.
    groups : list of int, optional
        Numbers of neighbouring models that see the same rows: `forward` and `backward` take one
        matrix for each, in a list. It must be given for a stack.
    """

    takes_tables = True

    def __init__(self, spec: NetworkSpec, flat: Tensor, groups: list[int] | None = None):
        super().__init__(spec, flat)
        fan_in, fan_out, *_ = spec.layer_sizes
        first = flat[..., : fan_in * fan_out].view(*flat.shape[:-1], fan_in, fan_out)
        self.coefs[0], self.weights[0] = first, first.mT
        #: the group of each model of a stack
        self._group_of = np.repeat(np.arange(len(groups or ())), groups or ())

    @classmethod
    def arranged(cls, spec: NetworkSpec, flat: np.ndarray) -> np.ndarray:
        """Return weights (..., n_params) of `Network` in the order that this class wants."""
        out = np.empty_like(flat)
        cls.arrange(spec, flat, out)
        return out

    @classmethod
    def restored(cls, spec: NetworkSpec, flat: np.ndarray) -> np.ndarray:
        """Return weights (..., n_params) of this class in the order of `Network`."""
        fan_in, fan_out, *_ = spec.layer_sizes
        out = np.empty_like(flat)
        _transpose_head(flat, out, fan_in, fan_out)
        return out

    @classmethod
    def arrange(
        cls,
        spec: NetworkSpec,
        flat: np.ndarray,
        out: np.ndarray,
        scaler: Standardizer | None = None,
    ) -> None:
        """Write the arranged weights to `out`; with a scaler they are for inputs before it."""
        fan_in, fan_out, *_ = spec.layer_sizes
        scale = None if scaler is None else scaler.scale[:, None]
        first = _transpose_head(flat, out, fan_out, fan_in, scale)
        if scaler is not None:
            out[..., spec.n_coefs : spec.n_coefs + fan_out] -= scaler.mean @ first

    def _affine(self, layer: int, X: Any) -> Tensor:
        if layer:
            return super()._affine(layer, X)
        return torch.from_numpy(X @ self.coefs[0].numpy()).add_(self._biases[0])

    def _layer(self, layer: int, X: Any, out: Tensor | None = None) -> Tensor:
        """Return W X + b; X of the first layer is a list of matrices (n_samples, fan_in)."""
        if layer:
            return super()._layer(layer, X, out)
        coef = self.coefs[0]
        if coef.ndim == 2:
            z = torch.from_numpy(X[0] @ coef.numpy())
        else:
            z = coef.new_empty(len(coef), X[0].shape[0], coef.shape[2])
            for part, group, own in zip(z.numpy(), self._group_of, coef.numpy()):
                part[:] = X[group] @ own
        return z.mT.add_(self.intercepts[0])

    def _use_again(self, name: str, layer: int, like: Any) -> Tensor | None:
        """Return memory of a hidden layer; the first products return new memory."""
        return None if name == "z" and layer == 0 else super()._use_again(name, layer, like)

    def _outer(self, layer: int, delta: Tensor, X: Any, gradient: Network) -> None:
        """Write the gradient of a layer's weights."""
        if layer:
            super()._outer(layer, delta, X, gradient)
            return
        out, delta = gradient.coefs[0], delta.mT
        if out.ndim == 2:
            np.copyto(out.numpy(), X[0].T @ delta.numpy())
        else:
            transposed = [rows.T for rows in X]
            for part, group, own in zip(out.numpy(), self._group_of, delta.numpy()):
                np.copyto(part, transposed[group] @ own)


def network_class(X: Rows) -> type[Network]:
    """Return the class of networks whose inputs these rows are."""
    return SparseNetwork if isinstance(X, SparseRows) else Network


def _transpose_head(
    flat: np.ndarray, out: np.ndarray, n: int, m: int, scale: np.ndarray | None = None
) -> np.ndarray:
    """Copy (..., n_params), its first numbers (n, m) transposed to (m, n) and divided by a scale.

    Return a view (..., m, n) of them in `out`.
    """
    given = flat[..., : n * m].reshape(*flat.shape[:-1], n, m).swapaxes(-1, -2)
    head = out[..., : n * m].reshape(*flat.shape[:-1], m, n)
    np.divide(given, 1.0 if scale is None else scale, out=head, casting="same_kind")
    out[..., n * m :] = flat[..., n * m :]
    return head
