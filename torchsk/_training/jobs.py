"""What a fit hands to training and gets back, and what a lane is."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from torchsk._heads import Head
from torchsk._mlp import Reexpression
from torchsk._models import Model
from torchsk._parameters import Settings
from torchsk._rows import Examples
from torchsk._runtime import exact_dtype
from torchsk._schedules import Schedule
from torchsk._training.progress import Progress


class TrainingCancelled(BaseException):
    """Training was told to stop: the search around it is being interrupted."""


@dataclass(frozen=True)
class Validation:
    """Held-out rows and how they are scored.

    `score` is None for the head's own score, or a function of the trained model.
    """

    rows: Examples
    score: Callable[[Model], float] | None = None

    def evaluate(self, raw: Tensor, head: Head, model: Callable[[], Model]) -> tuple[float, float]:
        """Return (loss, score) of the raw outputs (n_rows, n_outputs) of the rows."""
        target, weight = self.rows.target, self.rows.weight
        if exact_dtype(raw.device) != torch.float64:  # scores need it
            raw, target = raw.cpu(), target.cpu()
            weight = None if weight is None else weight.cpu()
        losses = head.loss(raw, target).double()
        if weight is None:
            mean = losses.mean()
        else:
            mean = (losses @ weight.double()) / weight.double().sum()
        loss = float(mean) * head.loss_scale
        if not bool(torch.isfinite(raw).all()):
            return loss, math.nan
        if self.score is not None:
            return loss, float(self.score(model()))
        return loss, head.score(raw, target, weight)


@dataclass(frozen=True)
class SolverState:
    """What a solver remembers between calls of partial_fit.

    Parameters
    ----------
    key : Hashable
        The lane's `key`: who may go on from here.
    n_steps, epoch : int
        Steps and epochs done so far.
    rate : float
        The learning rate.
    moments : ndarray of shape (n_moments, n_params)
    """

    key: Any
    n_steps: int
    epoch: int
    rate: float
    moments: np.ndarray


@dataclass
class TrainingJob:
    """Everything that one fit needs, validated and encoded.

    Parameters
    ----------
    lane : Lane
        Who trains it.
    model : Model
        The network with the weights to start from.
    head : Head
        The head in the unit that the targets are trained in.
    rows : Examples
    settings : Settings
    schedule : Schedule
    progress : Progress
        The record of earlier calls, which this one goes on with.
    rng : RandomState
    device : torch.device
    n_rows_counted : int
        Rows that an epoch counts as in `t_`: those before duplicates were merged.
    validation : Validation, optional
    state : SolverState, optional
        What the solver remembers of the last call.
    on_epoch : callable, optional
        Called after each epoch with a function that returns the trained model; returns whether to
        stop.
    """

    lane: "Lane"
    model: Any
    head: Head
    rows: Examples
    settings: Settings
    schedule: Schedule
    progress: Progress
    rng: np.random.RandomState
    device: torch.device
    n_rows_counted: int
    validation: Validation | None = None
    state: SolverState | None = None
    on_epoch: Callable[[Callable[[], Model]], bool] | None = None

    @property
    def n_bytes(self) -> int:
        """Bytes of the X that the fit was given, which its caller keeps until it ends."""
        held_out = 0 if self.validation is None else self.validation.rows.size
        return (self.rows.size + held_out) * np.dtype(self.model.dtype).itemsize

    @property
    def calls_user(self) -> bool:
        """Whether a step calls what a user gave: a loss, or an activation that is a class."""
        return self.head.calls_user or not all(
            isinstance(activation, str) for activation in self.model.spec.activations
        )

    def draw_unused_orders(self, n_epochs: int) -> None:
        """Advance the generator as scikit-learn's MLP does, though one batch needs no order."""
        is_one_batch = self.rows.n_rows <= self.settings.batch_size
        if self.lane.has_epochs and self.settings.shuffle and is_one_batch:
            for _ in range(n_epochs):
                self.rng.shuffle(np.arange(self.n_rows_counted))


@dataclass
class TrainingResult:
    """What training gives back: the trained model, the record, and what there is to say of it."""

    model: Any
    progress: Progress
    n_iter: int
    loss: float
    state: SolverState | None = None
    warning: Warning | None = None
    net: Any = None


class Lane(ABC):
    """A way to train: what it can do, and the training itself."""

    #: whether it trains in epochs, each of which is recorded and may be the last
    has_epochs: ClassVar[bool] = True
    #: what to try where training diverges
    ways_to_converge: ClassVar[str] = (
        "Lower learning_rate_init, set max_grad_norm (for example 1.0), or scale the data "
        "(standardize=True)."
    )
    #: what it computes in
    dtype: ClassVar[torch.dtype] = torch.float32
    #: whether it multiplies sparse rows as they are
    multiplies_sparse: ClassVar[bool] = False
    #: whether it reads the rows of a file batch by batch
    reads_files: ClassVar[bool] = False

    @property
    @abstractmethod
    def key(self) -> Hashable:
        """What a later call must share to go on with the solver's state."""

    def stack_key(self, job: TrainingJob) -> Hashable | None:
        """Return what jobs must share to train together; None for a job that trains alone."""
        return None

    def max_models(self, job: TrainingJob) -> int:
        """Return how many jobs like this one should train together at most."""
        return 1

    def reexpress(self, state: SolverState, change: Reexpression) -> SolverState:
        """Return a state of this lane's for weights that have been re-expressed."""
        return state

    @abstractmethod
    def train(
        self, jobs: Sequence[TrainingJob], should_stop: Callable[[], bool] | None = None
    ) -> list[TrainingResult | Exception]:
        """Train jobs of equal `stack_key` together; return one result or exception per job.

        Parameters
        ----------
        jobs : sequence of TrainingJob
        should_stop : callable, optional
            Looked at often; TrainingCancelled is raised when it returns True.
        """
