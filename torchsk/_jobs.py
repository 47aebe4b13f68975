"""What a fit hands to training and gets back, and the book that is kept of its epochs."""

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from torchsk._heads import Head
from torchsk._mlp import NetworkSpec
from torchsk._rows import Rows
from torchsk._runtime import exact_dtype
from torchsk._schedules import Schedule
from torchsk._solvers import FULL_BATCH_SOLVERS, UPDATE_RULES
from torchsk._stopping import Progress, is_diverged


class TrainingCancelled(BaseException):
    """Training was told to stop: the search around it is being interrupted."""


@dataclass(frozen=True)
class Validation:
    """Held-out rows and how they are scored.

    `score` is None for the head's own score, "loss" for the negative loss, or a function of the
    flat weights.
    """

    X: Rows
    target: Tensor
    weight: Tensor | None
    score: str | Callable[[np.ndarray], float] | None = None


@dataclass(frozen=True)
class SolverState:
    """What a solver remembers between calls of partial_fit: moments (n_moments, n_params), ..."""

    moments: np.ndarray
    n_steps: int
    rate: float
    epoch: int
    solver: Any = None


class Lane(Protocol):
    """Trains a job in another way than the stack does."""

    @property
    def key(self) -> Hashable:
        """What a later call must share to go on with the solver's state."""

    def train(self, job: "TrainingJob", should_stop: Callable[[], bool] | None) -> "TrainingResult":
        """Train one job."""


@dataclass
class TrainingJob:
    """Everything that one fit of the built-in network needs, validated and encoded."""

    spec: NetworkSpec
    head: Head
    X: Rows
    target: Tensor
    weight: Tensor | None
    flat: np.ndarray
    rng: np.random.RandomState
    device: torch.device
    solver: str
    schedule: Schedule
    hyper_parameters: dict[str, float]
    progress: Progress
    batch_size: int
    n_rows_seen: int
    max_iter: int
    nesterov: bool = True
    alpha: float = 0.0
    max_grad_norm: float | None = None
    shuffle: bool = True
    tol: float = 1e-4
    n_iter_no_change: float = 10
    max_fun: int = 15_000
    state: SolverState | None = None
    validation: Validation | None = None
    keep_best: bool = False
    verbose: bool = False
    warn_at_max_iter: bool = True
    on_epoch: Callable[[Progress, Callable[[], np.ndarray]], bool] | None = None
    lane: Lane | None = None

    @property
    def size(self) -> int:
        """How many numbers its rows hold."""
        return self.X.n_rows * self.X.n_features

    @property
    def dtype(self) -> torch.dtype:
        """float32, or float64 for solvers whose line search needs it."""
        return torch.float64 if self.solver in FULL_BATCH_SOLVERS else torch.float32


@dataclass
class TrainingResult:
    """What training gives back."""

    flat: np.ndarray
    progress: Progress
    n_iter: int
    state: SolverState | None = None
    loss: float = math.nan
    warning: str | None = None
    interrupted: bool = False
    net: Any = None


def score_raw(
    raw: Tensor, head: Head, validation: Validation, weights: Callable[[], Any]
) -> tuple[float, float]:
    """Return (loss, score) of the raw outputs (n_rows, n_outputs) of held-out rows."""
    target, weight = validation.target, validation.weight
    if exact_dtype(raw.device) != torch.float64:  # scores need it
        raw, target = raw.cpu(), target.cpu()
        weight = None if weight is None else weight.cpu()
    losses = head.loss(raw, target).double()
    mean = losses.mean() if weight is None else (losses @ weight.double()) / weight.double().sum()
    loss = float(mean) * head.loss_scale
    if not bool(torch.isfinite(raw).all()):
        return loss, math.nan
    if callable(validation.score):
        return loss, float(validation.score(weights()))
    if validation.score == "loss":
        return loss, -loss
    return loss, head.score(raw, target, weight)


def record_epoch(
    job: TrainingJob,
    n_iter: int,
    loss: float,
    validation: tuple[float, float] | None,
    weights: Callable[[], Any],
    keep: Callable[[], None],
    told_to_stop: bool = False,
) -> str | None:
    """Record an epoch; return "diverged", "stop" or "max_iter" if the run ends with it.

    `weights` returns the weights of the epoch, and `keep` keeps them as the best so far.
    """
    progress = job.progress
    progress.n_samples_seen += job.n_rows_seen
    is_best = progress.record(loss, validation, job.tol)
    if job.verbose:
        report(n_iter, loss, validation)
    if is_diverged(progress):
        return "diverged"
    if is_best:
        keep()
    job.schedule.after_epoch(progress.n_samples_seen)
    if job.on_epoch is not None and job.on_epoch(progress, weights):
        told_to_stop = True
    plateau = progress.plateau(job.tol, job.n_iter_no_change)
    if plateau is not None:
        onwards = job.schedule.after_plateau()
        if job.verbose:
            print(f"{plateau} {onwards or job.schedule.last_words}")
        progress.n_no_improvement = 0 if onwards else progress.n_no_improvement
        plateau = None if onwards else plateau
    if plateau is not None or told_to_stop:
        return "stop"
    return "max_iter" if n_iter == job.max_iter else None


def report(n_iter: int, loss: float, validation: tuple[float, float] | None) -> None:
    """Print one epoch, in scikit-learn's words."""
    print(f"Iteration {n_iter}, loss = {loss:.8f}")
    if validation is not None:
        print(f"Validation score: {validation[1]:f}")
        print(f"Validation loss: {validation[0]:.8f}")


def max_iter_warning(job: TrainingJob) -> str | None:
    """Return scikit-learn's words for a run cut short by max_iter, with what to try."""
    if not job.warn_at_max_iter:
        return None
    words = (
        f"Stochastic Optimizer: Maximum iterations ({job.max_iter}) reached and the optimization "
        "hasn't converged yet."
    )
    rule = UPDATE_RULES.get(job.solver)
    if rule is not None and rule.default_max_grad_norm is not None:
        words += " Raise max_iter or learning_rate_init, or try solver='adam'."
    return words
