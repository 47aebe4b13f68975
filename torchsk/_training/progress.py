"""The record of a training run, and the rules that read it: when to stop, what is best."""

import math
from dataclasses import dataclass, field


@dataclass
class Progress:
    """What is known of a run, epoch by epoch; kept by the fitted estimator to train on.

    Parameters
    ----------
    early_stopping : bool
        Whether the held-out rows, not the training loss, decide.
    watches_loss : bool
        Whether it is then their loss that decides, not their score.
    """

    early_stopping: bool
    watches_loss: bool = False
    loss_curve: list[float] = field(default_factory=list)
    validation_loss_curve: list[float] | None = None
    validation_scores: list[float] | None = None
    best_loss: float = math.inf
    #: of the held-out rows: the best of what decides, and the score of that epoch
    best_watched: float = -math.inf
    best_score: float = -math.inf
    n_no_improvement: int = 0
    n_samples_seen: int = 0
    n_epochs: int = 0

    def copy(self) -> "Progress":
        """Return a copy that can be trained on without changing this one."""
        fields = dict(vars(self))
        for name in ("loss_curve", "validation_loss_curve", "validation_scores"):
            fields[name] = None if fields[name] is None else list(fields[name])
        return Progress(**fields)

    def watch(self, early_stopping: bool, watches_loss: bool) -> None:
        """Set what decides; the best of something else is no best."""
        if watches_loss != self.watches_loss:
            self.best_watched = -math.inf
        self.early_stopping, self.watches_loss = early_stopping, watches_loss

    def record(self, loss: float, validation: tuple[float, float] | None, tol: float) -> bool:
        """Add one epoch's training loss and validation (loss, score); return True at a new best.

        As scikit-learn's MLP: an epoch counts as an improvement if it betters the best by tol. What
        is not finite is never the best.
        """
        self.n_epochs += 1
        self.loss_curve.append(loss)
        if validation is not None:
            if self.validation_loss_curve is None:
                self.validation_loss_curve = []
            if self.validation_scores is None:
                self.validation_scores = []
            self.validation_loss_curve.append(validation[0])
            self.validation_scores.append(validation[1])
        if self.early_stopping and validation is not None:
            watched = -validation[0] if self.watches_loss else validation[1]
            improved = not watched < self.best_watched + tol
            is_best = math.isfinite(watched) and watched > self.best_watched
            if is_best:
                self.best_watched, self.best_score = watched, validation[1]
        else:
            improved = not loss > self.best_loss - tol
            is_best = math.isfinite(loss) and loss < self.best_loss
            self.best_loss = loss if is_best else self.best_loss
        self.n_no_improvement = 0 if improved else self.n_no_improvement + 1
        return is_best

    def plateau(self, tol: float, n_iter_no_change: float) -> str | None:
        """Return scikit-learn's words when the run no longer improves, else None."""
        if self.n_no_improvement <= n_iter_no_change:
            return None
        watched = "Training loss"
        if self.early_stopping:
            watched = "Validation loss" if self.watches_loss else "Validation score"
        return (
            f"{watched} did not improve more than tol={tol:f} for {n_iter_no_change} "
            "consecutive epochs."
        )


def is_diverged(progress: Progress) -> bool:
    """Return whether the loss of the last epoch, or what else decides, is not finite."""
    curves = [progress.loss_curve]
    if progress.early_stopping:
        is_loss = progress.watches_loss
        held_out = progress.validation_loss_curve if is_loss else progress.validation_scores
        curves.append(held_out or [])
    return not all(map(_ends_finite, curves))


def why_not_finite(progress: Progress, epoch: int, ways: str) -> str:
    """Return what to say of a run that ended in this epoch as something was not finite.

    `ways` are what to try where training itself went astray.
    """
    losses = progress.loss_curve, progress.validation_loss_curve
    is_score = all(map(_ends_finite, losses)) and not _ends_finite(progress.validation_scores)
    return (UNDEFINED if is_score else DIVERGED).format(epoch=epoch, ways=ways)


def _ends_finite(curve: list[float] | None) -> bool:
    return not curve or math.isfinite(curve[-1])


DIVERGED = (
    "Training diverged: the loss, the score or a weight became non-finite in epoch {epoch}. {ways}"
)
UNDEFINED = (
    "The validation score was not finite in epoch {epoch}, though the loss was: scoring may be "
    "undefined for the rows held out (too few, or all of the same y). Hold out more "
    "(validation_fraction, or X_val and y_val), or use scoring='loss'."
)
