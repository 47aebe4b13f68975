"""Learning-rate schedules: the rate of every epoch."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar


class Schedule(ABC):
    """The learning rate, epoch by epoch.

    Parameters
    ----------
    rate : float
        The initial learning rate.
    power_t : float
        Exponent of "invscaling".
    max_iter : int
        Number of epochs that "cosine" and "onecycle" are spread over.
    """

    #: whether it comes down to nothing at max_iter epochs: to end before would spoil it
    is_fixed: ClassVar[bool] = False
    #: printed when a plateau ends the run
    last_words: ClassVar[str] = "Stopping."

    def __init__(self, rate: float, power_t: float = 0.5, max_iter: int = 200):
        self.initial, self.power_t, self.max_iter = rate, power_t, max_iter
        self.epoch = 0
        self.rate = self.at(0, 0)

    @abstractmethod
    def at(self, epoch: int, n_samples_seen: int) -> float:
        """Return the rate of an epoch, counted from 0."""

    def after_epoch(self, n_samples_seen: int) -> None:
        """Set the rate of the next epoch."""
        self.epoch += 1
        self.rate = self.at(self.epoch, n_samples_seen)

    def resume(self, epoch: int, rate: float, n_samples_seen: int | None = None) -> None:
        """Go on where an earlier run ended: at its rate, or as if rate_0 had always been this."""
        self.epoch = epoch
        self.rate = rate if n_samples_seen is None else self.at(epoch, n_samples_seen)

    def after_plateau(self) -> str | None:
        """React to a run that no longer improves: None ends it, words go on."""
        return None


class Constant(Schedule):
    """rate_0."""

    def at(self, epoch: int, n_samples_seen: int) -> float:
        """Return rate_0."""
        return self.initial


class InverseScaling(Schedule):
    """rate_0 / (t + 1)^power_t, t the number of rows trained on so far."""

    def at(self, epoch: int, n_samples_seen: int) -> float:
        """Return the rate after n_samples_seen rows."""
        return self.initial / (n_samples_seen + 1) ** self.power_t if epoch else self.initial


class Adaptive(Constant):
    """Divide by 5 at every plateau, down to 1e-6."""

    last_words = "Learning rate too small. Stopping."

    def after_epoch(self, n_samples_seen: int) -> None:
        """Keep the rate."""
        self.epoch += 1

    def resume(self, epoch: int, rate: float, n_samples_seen: int | None = None) -> None:
        """Go on with the rate that the plateaus have left."""
        self.epoch, self.rate = epoch, rate

    def after_plateau(self) -> str | None:
        """Divide the rate by 5 unless it is at the bottom."""
        if self.rate <= 1e-6:
            return None
        self.rate /= 5
        return f"Setting learning rate to {self.rate:f}"


class Cosine(Schedule):
    """Half a cosine from rate_0 to 0 (Loshchilov & Hutter 2017, eq. 5, without restarts)."""

    is_fixed = True

    def at(self, epoch: int, n_samples_seen: int) -> float:
        """Return rate_0 (1 + cos(pi epoch / max_iter)) / 2."""
        return self.initial * (1 + math.cos(math.pi * min(epoch / self.max_iter, 1))) / 2


class OneCycle(Schedule):
    """Up from rate_0 / 25 in 30% of the epochs, then down to rate_0 / 250000 (Smith 2018)."""

    is_fixed = True

    def at(self, epoch: int, n_samples_seen: int) -> float:
        """Return the rate between the turning points, along half cosines."""
        position, peak = min(epoch / max(1, self.max_iter - 1), 1), 0.3
        low, high, final = self.initial / 25, self.initial, self.initial / 250_000
        if position < peak:
            return _half_cosine(low, high, position / peak)
        return _half_cosine(high, final, (position - peak) / (1 - peak))


class Custom(Schedule):
    """rate_0 times the user's factor(epoch)."""

    def __init__(self, rate: float, factor: Callable[[int], float]):
        self.factor = factor
        super().__init__(rate)

    def at(self, epoch: int, n_samples_seen: int) -> float:
        """Return rate_0 factor(epoch)."""
        return self.initial * float(self.factor(epoch))


def _half_cosine(start: float, stop: float, position: float) -> float:
    return stop + (start - stop) * (1 + math.cos(math.pi * position)) / 2


SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "invscaling": InverseScaling,
    "adaptive": Adaptive,
    "cosine": Cosine,
    "onecycle": OneCycle,
}
#: schedules that scikit-learn's MLP leaves to sgd: other solvers scale their steps themselves
SGD_ONLY = ("invscaling", "adaptive")


def make_schedule(
    learning_rate: str | Callable[[int], float],
    rate: float,
    *,
    power_t: float,
    max_iter: int,
    scheduled: bool = True,
) -> Schedule:
    """Return the schedule by name, or of a callable epoch -> factor.

    With a solver that is not `scheduled`, the schedules of `SGD_ONLY` are constant.
    """
    if callable(learning_rate):
        return Custom(rate, learning_rate)
    name = "constant" if learning_rate in SGD_ONLY and not scheduled else learning_rate
    return SCHEDULES[name](rate, power_t, max_iter)
