"""The record of a training run, and the rules that read it: when to stop, what is best."""

import math
from dataclasses import dataclass, field


@dataclass
class Progress:
    """What is known of a run, epoch by epoch; kept by the fitted estimator to train on.

    Parameters
    ----------
    early_stopping : bool
        Whether the validation score, not the training loss, decides.
    """

    early_stopping: bool
    loss_curve: list[float] = field(default_factory=list)
    validation_loss_curve: list[float] | None = None
    validation_scores: list[float] | None = None
    best_loss: float = math.inf
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
            score = validation[1]
            improved = not score < self.best_score + tol
            is_best = math.isfinite(score) and score > self.best_score
            self.best_score = score if is_best else self.best_score
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
        watched = "Validation score" if self.early_stopping else "Training loss"
        return (
            f"{watched} did not improve more than tol={tol:f} for {n_iter_no_change} "
            "consecutive epochs."
        )


def is_diverged(progress: Progress) -> bool:
    """Return whether the loss of the last epoch, or the score that decides, is not finite."""
    watched = [progress.loss_curve, progress.validation_scores if progress.early_stopping else None]
    return not all(map(_ends_finite, watched))


def why_not_finite(progress: Progress, epoch: int) -> str:
    """Return what to say of a run that ended in this epoch as something was not finite."""
    losses = progress.loss_curve, progress.validation_loss_curve
    is_score = all(map(_ends_finite, losses)) and not _ends_finite(progress.validation_scores)
    return (UNDEFINED if is_score else DIVERGED).format(epoch=epoch)


def _ends_finite(curve: list[float] | None) -> bool:
    return not curve or math.isfinite(curve[-1])


DIVERGED = (
    "Training diverged: the loss, the score or a weight became non-finite in epoch {epoch}. Lower "
    "learning_rate_init, set max_grad_norm (for example 1.0), or scale the data (standardize=True)."
)
UNDEFINED = (
    "The validation score was not finite in epoch {epoch}, though the loss was: scoring may be "
    "undefined for the rows held out (of a single class, for example). Hold out more "
    "(validation_fraction, or X_val and y_val), or use scoring='loss'."
)
