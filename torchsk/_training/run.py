"""The run of one job, in whichever lane: its epochs, its best weights, and how it ends."""

import math
import time
from collections.abc import Callable
from typing import Any, ClassVar

from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from torchsk._models import Model
from torchsk._solvers import UPDATE_RULES, UpdateRule
from torchsk._training.jobs import SolverState, TrainingJob, TrainingResult
from torchsk._training.progress import is_diverged, why_not_finite

# where the peak of a schedule is past, and the share of a loss's fall that then is still to come
# from which it falls fast
PAST_PEAK, FALLING = 0.3, 0.3
# a rate so many times lower or higher than the usual one may be to blame
UNUSUAL = 4
# rows that show whether a network predicts the same for all
ROWS_TO_ASK = 100
# a Ctrl-C within so many seconds of the last one is meant for more than one fit
SECONDS_TO_REPEAT = 2.0


class Run:
    """What is recorded after each epoch of a job, the best weights, and the ending.

    Parameters
    ----------
    job : TrainingJob
    copy_weights : callable
        Returns a copy of the weights as they are now, in the lane's own form.
    are_finite : callable
        Returns whether all of them are finite.
    """

    #: when a Ctrl-C last ended a run of this process, by a clock that is never set
    _last_interrupt: ClassVar[float] = -math.inf

    def __init__(
        self, job: TrainingJob, copy_weights: Callable[[], Any], are_finite: Callable[[], bool]
    ):
        self.job, self.n_iter = job, 0
        self._copy_weights, self._are_finite = copy_weights, are_finite
        #: kept by early stopping
        self._best = copy_weights() if job.settings.early_stopping else None
        #: None, "diverged", "stop" (told to, or no improvement), "max_iter" or "interrupted"
        self.ending: str | None = None

    def after_epoch(
        self,
        loss: float,
        validation: tuple[float, float] | None,
        model: Callable[[], Model],
        told_to_stop: bool = False,
    ) -> None:
        """Record an epoch, and set `ending` if it is the last.

        Parameters
        ----------
        loss : float
            Training loss.
        validation : tuple of float or None
            (loss, score) of the held-out rows.
        model : callable
            Returns the model with the weights of this epoch.
        told_to_stop : bool
            Whether somebody has asked for it.
        """
        job, progress, settings = self.job, self.job.progress, self.job.settings
        self.n_iter += 1
        progress.n_samples_seen += job.n_rows_counted
        is_best = progress.record(loss, validation, settings.tol)
        if settings.verbose:
            _report(self.n_iter, loss, validation)
        if is_diverged(progress):
            self.ending = "diverged"
            return
        if is_best and self._best is not None and self._are_finite():
            self._best = self._copy_weights()
        job.schedule.after_epoch(progress.n_samples_seen)
        if job.on_epoch is not None and job.on_epoch(model):
            told_to_stop = True
        if self._is_on_plateau() or told_to_stop:
            self.ending = "stop"
        elif self.n_iter == settings.max_iter:
            self.ending = "max_iter"

    def _is_on_plateau(self) -> bool:
        """Return whether the run no longer improves, and its schedule does not go on from there."""
        schedule, progress, settings = self.job.schedule, self.job.progress, self.job.settings
        patience = settings.n_iter_no_change
        if schedule.is_fixed:  # its last epochs are its best: only held-out rows can end it
            patience = 2 * patience if settings.early_stopping else math.inf
        words = progress.plateau(settings.tol, patience)
        if words is None:
            return False
        onwards = schedule.after_plateau()
        if settings.verbose:
            print(f"{words} {onwards or schedule.last_words}")
        if onwards:
            progress.n_no_improvement = 0
        return not onwards

    def interrupt(self, interrupt: KeyboardInterrupt) -> None:
        """End here, as Ctrl-C asks for; or raise it again, if it comes soon after the last one."""
        now = time.monotonic()
        is_repeated = now - Run._last_interrupt < SECONDS_TO_REPEAT
        Run._last_interrupt = now
        if is_repeated:
            raise interrupt
        self.ending = "interrupted"

    def best_weights(self) -> Any:
        """Return the best weights, if early stopping has kept some; None: the last ones count.

        Raises
        ------
        ValueError
            If the loss, the score or a weight is not finite, and there is no finite best.
        """
        if self._best is None:
            is_lost = self.ending == "diverged" or not self._are_finite()
        else:
            is_lost = self.ending == "diverged" and math.isinf(self.job.progress.best_watched)
        if is_lost:
            raise ValueError(self._why_not_finite())
        return self._best

    def result(
        self,
        model: Model,
        state: SolverState | None = None,
        *,
        loss: float | None = None,
        warning: Warning | None = None,
        net: Any = None,
    ) -> TrainingResult:
        """Return the result: the trained model, and what there is to say of the run.

        Without a `loss` it is that of the last epoch.
        """
        progress = self.job.progress
        if loss is None:
            loss = progress.loss_curve[-1] if progress.loss_curve else math.nan
        if self.ending == "diverged":
            state = None  # moments of no use
        warning = warning or self._warning(model)
        return TrainingResult(model, progress, self.n_iter, loss, state, warning, net)

    def _warning(self, model: Model) -> Warning | None:
        """Return what a user should know of the ending."""
        if self.ending == "interrupted":
            return UserWarning(
                "Training interrupted by user. The model trained so far is kept, and a search "
                f"goes on with its next fit: press Ctrl-C again within {SECONDS_TO_REPEAT:g} "
                "seconds to end all of it."
            )
        if self.ending == "diverged":
            return ConvergenceWarning(
                f"{self._why_not_finite()} The best weights so far were kept."
            )
        settings = self.job.settings
        if self.ending != "max_iter" or settings.incremental:
            return None
        if self.job.schedule.is_fixed:  # it has done what was planned
            return self._too_slow() or self._too_fast(model)
        rule = UPDATE_RULES.get(settings.solver, UpdateRule)
        return ConvergenceWarning(
            f"Stochastic Optimizer: Maximum iterations ({settings.max_iter}) reached and the "
            f"optimization hasn't converged yet. {rule.advice}"
        )

    def _why_not_finite(self) -> str:
        return why_not_finite(self.job.progress, self.n_iter, self.job.lane.ways_to_converge)

    def _too_slow(self) -> Warning | None:
        """Return a hint if the rate that was asked for is so low that the loss was still falling.

        Under a schedule of fixed length that shows in how much of the fall came after its peak.
        """
        settings, curve = self.job.settings, self.job.progress.loss_curve[-self.n_iter :]
        if settings.learning_rate_init * UNUSUAL > settings.usual_rate or len(curve) < 10:
            return None
        start, peak, end = curve[0], curve[int(PAST_PEAK * len(curve))], curve[-1]
        if not peak - end > FALLING * (start - end) > 0:
            return None
        return ConvergenceWarning(
            f"The loss was still falling fast: learning_rate_init={settings.learning_rate_init:g} "
            f"is the peak of a schedule of {settings.max_iter} epochs, for which "
            f"{settings.usual_rate:g} is usual with this solver. Raise it or max_iter, or use "
            "learning_rate='constant'."
        )

    def _too_fast(self, model: Model) -> Warning | None:
        """Return a hint if the rate that was asked for is so high that the network has died.

        Its large steps have left units that no row reaches: it predicts the same for all.
        """
        settings, rows = self.job.settings, self.job.rows
        if settings.learning_rate_init < UNUSUAL * settings.usual_rate:
            return None
        some = rows.X.part(slice(None, None, -(-rows.n_rows // ROWS_TO_ASK)))
        if not isinstance(some, Tensor) or not model.is_constant(some):  # or sparse
            return None
        return ConvergenceWarning(
            "The network predicts next to the same for all rows: "
            f"learning_rate_init={settings.learning_rate_init:g} is far above "
            f"{settings.usual_rate:g}, which is usual with this solver. Lower it."
        )


def _report(n_iter: int, loss: float, validation: tuple[float, float] | None) -> None:
    """Print one epoch, in scikit-learn's words."""
    print(f"Iteration {n_iter}, loss = {loss:.8f}")
    if validation is not None:
        print(f"Validation score: {validation[1]:f}")
        print(f"Validation loss: {validation[0]:.8f}")
