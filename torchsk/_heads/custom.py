"""A loss of the user's own, any function of (raw, target)."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from torchsk._heads.base import ClassesHead, Head, LabelsHead, RegressionHead
from torchsk._heads.tools import as_plain


@dataclass(frozen=True)
class _Custom(Head):
    """A loss(raw, target) of the user's, called with one batch at a time.

    `function` is a class, built with `params`, or a callable that takes them as keywords.

    It returns one number per sample, one per sample and output (they are summed), or one number:
    the mean of the batch. Then that number stands for every sample of the batch, so that mean and
    gradient are the user's own, but samples cannot be weighed (`per_sample` is False).
    """

    function: Callable[..., Any] = field(hash=False)
    params: tuple[tuple[str, Any], ...] = field(default=(), compare=False)
    #: params with plain numbers for arrays and tensors, which do not compare as a whole
    plain_params: tuple[tuple[str, Any], ...] = field(init=False, repr=False, hash=False)
    call: Callable[..., Any] = field(init=False, compare=False, repr=False)
    is_scalar: bool = field(init=False)

    calls_user: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Call the loss once, to see whether it can be used and what it returns."""
        plain = tuple((name, as_plain(value)) for name, value in self.params)
        object.__setattr__(self, "plain_params", plain)
        is_class = isinstance(self.function, type)
        call = self.function(**dict(self.params)) if is_class else self.function
        object.__setattr__(self, "call", call)
        if isinstance(call, nn.Module):
            trainable = [n for n, p in call.named_parameters() if p.requires_grad]
            if trainable:
                raise ValueError(
                    "loss must have no trainable parameters (freeze them: requires_grad_(False)); "
                    f"got loss with the parameters {trainable}."
                )
        n_samples = self.n_outputs + 2
        target = torch.from_numpy(self.encode(np.ones((n_samples, self._n_columns))))
        with torch.inference_mode(False), torch.enable_grad():
            raw = torch.zeros(n_samples, self.n_outputs, requires_grad=True, device="cpu")
            value = self._call(raw, target if target.dtype == torch.int64 else target.float())
        if not (
            isinstance(value, Tensor)
            and value.requires_grad
            and (value.numel() == 1 or value.shape[:1] == (n_samples,))
        ):
            got = value.shape if isinstance(value, Tensor) else value
            raise ValueError(
                "loss must return a tensor that depends on raw by torch operations, with one "
                f"number, or one per sample (here {n_samples}); got loss(raw, target)={got!r}."
            )
        object.__setattr__(self, "is_scalar", value.numel() == 1)

    @property
    def _n_columns(self) -> int:
        """Number of columns of y."""
        return self.n_targets

    @property
    def per_sample(self) -> bool:
        """Whether the loss returns one number per sample."""
        return not self.is_scalar

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        if raw.ndim > 2:
            target = target.expand(*raw.shape[:-2], *target.shape[-2:])
            return torch.stack([self.loss(r, t) for r, t in zip(raw, target, strict=True)])
        value = self._call(raw, target)
        if self.is_scalar:
            return value.reshape(1).expand(len(raw))
        return value.reshape(len(raw), -1).sum(-1)

    def _call(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return what the user's loss returns for (n_samples, n_outputs)."""
        call = self.call
        if isinstance(call, nn.Module) and any(b.device != raw.device for b in call.buffers()):
            call = deepcopy(call).to(raw.device)
        is_class = isinstance(self.function, type)
        value: Tensor = call(raw, target, **({} if is_class else dict(self.params)))
        return value


class CustomLabels(_Custom, LabelsHead):
    """The user's own loss of yes/no labels: multilabel classification.

    Domain: target in {0, 1}, (n_samples, n_labels)
    Link:   raw = log(p / (1 - p))
    Loss:   the user's
    """


class CustomClasses(_Custom, ClassesHead):
    """The user's own loss of one class out of two or more.

    Domain: target in {0, ..., n_classes - 1}, (n_samples,)
    Link:   raw = log(p) up to a constant per sample
    Loss:   the user's
    """

    @property
    def _n_columns(self) -> int:
        return 1

    def _call(self, raw: Tensor, target: Tensor) -> Tensor:
        return super()._call(raw, target.squeeze(-1))


class CustomNumbers(_Custom, RegressionHead):
    """The user's own loss of numbers.

    Domain: real numbers, (n_samples, n_targets)
    Link:   raw = prediction
    Loss:   the user's
    """
