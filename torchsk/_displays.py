"""Plots of training curves and of comparisons; they read public attributes only."""

from collections.abc import Callable, Mapping
from importlib import import_module
from itertools import chain, zip_longest
from textwrap import fill
from typing import Any, Literal, NamedTuple

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted


class _Curve(NamedTuple):
    """How one fitted attribute is drawn, and which of its epochs is the best."""

    label: str
    linestyle: Literal["-", "--", ":"]
    best: Callable
    is_score: bool = False


CURVES = {
    "loss_curve_": _Curve("training loss", "-", np.nanargmin),
    "validation_loss_curve_": _Curve("validation loss", "--", np.nanargmin),
    "validation_scores_": _Curve("validation score", ":", np.nanargmax, is_score=True),
}
BEST_EPOCH_STYLE: dict[str, Any] = {
    "marker": "*",
    "markersize": 13,
    "markeredgecolor": "black",
    "linestyle": "",
}
# correlation below which a score is the loss upside down, to the eye
MIRRORED = -0.999
# Below the tick labels and the axis label: the pad is in font sizes, so no axes size matters.
BELOW_AXES: dict[str, Any] = {
    "loc": "upper center",
    "bbox_to_anchor": (0.5, 0),
    "borderaxespad": 3.8,
}


def _place_legend(ax, columns, inside="best"):
    """Draw lists of handles as columns below the axes, or inside if no layout makes room."""
    if ax.figure.get_layout_engine() is None:
        ax.legend(handles=[*chain(*columns)], loc=inside)
        return
    from matplotlib.lines import Line2D

    blank = Line2D([], [], linestyle="", label=" ")
    padded = zip(*zip_longest(*columns, fillvalue=blank), strict=True)
    ax.legend(handles=[*chain(*padded)], ncols=len(columns), **BELOW_AXES)


def import_optional(module, user):
    """Import a module of the extra "plot", or say who needs it and how to install it."""
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(
            f"{user} needs {package}; install it with `pip install torchsk[plot]`."
        ) from error


def check_named_estimators(estimators, *, name="estimators"):
    """Raise unless `estimators` is a non-empty dict of str -> estimator."""
    if not isinstance(estimators, Mapping):
        raise TypeError(f"{name} must be a dict of name: estimator; got {name}={estimators!r}.")
    if not estimators:
        raise ValueError(f"{name} must be a dict of one estimator or more; got {name}={{}}.")
    for key, estimator in estimators.items():
        if not isinstance(key, str):
            raise TypeError(f"names in {name} must be str; got name={key!r}.")
        if isinstance(estimator, type) or not hasattr(estimator, "fit"):
            where = f"{name}[{key!r}]"
            raise TypeError(f"{where} must be an estimator instance; got {where}={estimator!r}.")


def unwrap(estimator):
    """Yield the estimator, then what it wraps (pipelines, fitted searches), outermost first."""
    yield estimator
    if isinstance(estimator, Pipeline):
        yield from unwrap(estimator[-1])
    for attribute in ("best_estimator_", "regressor_"):
        if hasattr(estimator, attribute):
            yield from unwrap(getattr(estimator, attribute))


def _read_curves(estimator):
    """Return {attribute: curve of shape (n_epochs,)} for the attributes that are there.

    The last one decides which epoch is the best: the score, unless early stopping watches the loss.
    """
    check_is_fitted(estimator)
    *_, final = unwrap(estimator)
    values = {attribute: getattr(final, attribute, None) for attribute in CURVES}
    curves = {key: np.asarray(v) for key, v in values.items() if v is not None and len(v)}
    if "loss_curve_" not in curves:
        raise ValueError(
            "estimator must have a loss_curve_, as torchsk's and scikit-learn's networks have "
            "after a fit with another solver than 'lbfgs', alone, at the end of a pipeline or in a "
            f"search; got estimator={estimator!r}, whose {type(final).__name__} has none."
        )
    if getattr(final, "scoring", None) == "loss" and "validation_loss_curve_" in curves:
        curves["validation_loss_curve_"] = curves.pop("validation_loss_curve_")
    return curves


def _without_mirrored(named):
    """Return {name: curves} without the scores, if each of them is the loss upside down.

    Where one is not, as of an MLPRegressor, which records no loss, the others are to be compared to
    it.
    """
    scored = [curves for curves in named.values() if "validation_scores_" in curves]
    if not all(map(_mirrors, scored)):
        return named
    return {
        name: {key: curve for key, curve in curves.items() if not CURVES[key].is_score}
        for name, curves in named.items()
    }


def _mirrors(curves):
    """Return whether the score is the loss upside down, as R2 is the squared error."""
    score, loss = curves["validation_scores_"], curves.get("validation_loss_curve_")
    if loss is None:
        return False
    is_known = np.isfinite(score) & np.isfinite(loss)
    score, loss = score[is_known], loss[is_known]
    if len(loss) < 3 or np.argmax(score) != np.argmin(loss):
        return False
    with np.errstate(divide="ignore", invalid="ignore"):  # constant curves: nan
        return np.corrcoef(score, loss)[0, 1] < MIRRORED


def _best_epoch(curves):
    """Return the attribute that decides and the index of its best epoch (None: all are nan)."""
    *_, watched = curves
    is_known = not np.isnan(curves[watched]).all()
    return watched, int(CURVES[watched].best(curves[watched])) if is_known else None


def _score_axes(ax, create):
    """Return the axes of scores over `ax`; an earlier call's, a new one, or None."""
    for other in ax.get_shared_x_axes().get_siblings(ax):
        if other.get_gid() == "validation_scores_" and other.bbox.bounds == ax.bbox.bounds:
            return other
    if not create:
        return None
    score_ax = ax.twinx()
    score_ax.set(gid="validation_scores_", ylabel="validation score")
    # The loss axes and their legend lie on top, the background stays at the bottom.
    ax.set_zorder(score_ax.get_zorder() + 1)
    ax.patch.set_visible(False)
    score_ax.patch.set_visible(True)
    return score_ax


class LossCurveDisplay:
    """Plot of loss and validation score per epoch, with the best epoch marked.

    It is recommended to use :meth:`from_estimator` to make one. An estimator has one colour;
    the line style tells its training loss, validation loss and validation score apart. The
    losses are on the left axis; the training loss includes the penalty of `alpha` where that is
    part of the loss, the validation loss never does. On the right axis is the score of the held-out
    rows; :meth:`from_estimator` leaves it out where it is the validation loss upside down, as R2
    is the squared error. A star marks the best epoch: that of the smallest validation loss where
    ``scoring="loss"`` watches it, else that of the largest score. Its weights are the ones kept
    only with ``early_stopping=True``, otherwise they are those of the last epoch.

    Parameters
    ----------
    curves : dict of str to dict
        Name of an estimator -> its curves: the key ``"loss_curve_"`` and, where there are any,
        ``"validation_loss_curve_"`` and ``"validation_scores_"``, each an ndarray of shape
        (n_epochs,). The last key decides which epoch is the best.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the losses.
    score_ax_ : matplotlib Axes or None
        Second y axis, with the validation scores; None when there are none.
    figure_ : matplotlib Figure
        Figure with both axes.
    lines_ : dict of str to dict
        Name of an estimator -> its matplotlib lines, with the keys of `curves`.
    best_markers_ : dict of str to matplotlib Line2D
        Name of an estimator -> the mark on its best epoch.
    best_epochs_ : dict of str to int
        Name of an estimator -> its best epoch, counted from 1, by the last of its curves: the
        largest score, or the smallest loss.

    See Also
    --------
    ComparisonDisplay : Scores and times of several estimators.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neural_network import MLPClassifier
    >>> from torchsk import LossCurveDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> mlp = MLPClassifier((10,), early_stopping=True, random_state=0).fit(X, y)
    >>> display = LossCurveDisplay.from_estimator(mlp)
    >>> sorted(display.lines_["MLPClassifier"])
    ['loss_curve_', 'validation_scores_']
    """

    def __init__(self, *, curves):
        self.curves = curves

    @classmethod
    def from_estimator(cls, estimator, *, ax=None, name=None, log_scale=False, line_kw=None):
        """Plot the curves of a fitted estimator, or of several.

        Parameters
        ----------
        estimator : estimator instance or dict of str to estimator
            Fitted estimator with a ``loss_curve_``, such as a TorchClassifier or scikit-learn's
            MLPRegressor; also inside a Pipeline, or a search (its ``best_estimator_``).
            A dict draws each estimator under its name.
        ax : matplotlib Axes, default=None
            Axes to draw on, as in :meth:`from_estimator`; None makes a figure.
            The legend lies below axes with a layout (``subplots(layout="constrained")``).
        name : str, default=None
            Name in the legend; None is the name of the estimator's class.
        log_scale : bool, default=False
            Whether the losses are on a log scale.
        line_kw : dict, default=None
            Keywords for matplotlib's `plot` of each curve.

        Returns
        -------
        LossCurveDisplay
            The display that was drawn.

        Raises
        ------
        NotFittedError
            If an estimator is not fitted.
        ValueError
            If an estimator recorded no loss curve, as with ``solver="lbfgs"``; or `log_scale`
            meets a loss below zero.
        """
        if isinstance(estimator, Mapping):
            check_named_estimators(estimator, name="estimator")
            if name is not None:
                raise ValueError(f"name must be None for a dict of estimators; got name={name!r}.")
            named = estimator
        else:
            *_, final = unwrap(estimator)
            named = {name or type(final).__name__: estimator}
        curves = _without_mirrored({name: _read_curves(fitted) for name, fitted in named.items()})
        return cls(curves=curves).plot(ax, log_scale=log_scale, line_kw=line_kw)

    def plot(self, ax=None, *, log_scale=False, line_kw=None):
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on, as in :meth:`from_estimator`; None makes a figure.
        log_scale : bool, default=False
            Whether the losses are on a log scale.
        line_kw : dict, default=None
            Keywords for matplotlib's `plot` of each curve.

        Returns
        -------
        LossCurveDisplay
            The display itself.

        Raises
        ------
        ValueError
            If `log_scale` meets a loss below zero.
        """
        pyplot = import_optional("matplotlib.pyplot", "LossCurveDisplay.plot")
        from matplotlib.ticker import MaxNLocator

        self._check_log_scale(log_scale)
        if ax is None:
            _, ax = pyplot.subplots(layout="constrained")
        has_scores = any("validation_scores_" in curves for curves in self.curves.values())
        self.ax_, self.score_ax_, self.figure_ = ax, _score_axes(ax, has_scores), ax.figure
        self.lines_, self.best_markers_, self.best_epochs_ = {}, {}, {}
        for name, curves in self.curves.items():
            self._plot_curves(name, curves, line_kw or {})
        ax.set(xlabel="epoch", ylabel="loss", **({"yscale": "log"} if log_scale else {}))
        ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
        self._plot_legend()
        return self

    def _check_log_scale(self, log_scale):
        losses = [v for c in self.curves.values() for k, v in c.items() if not CURVES[k].is_score]
        if log_scale and np.nanmin(np.concatenate(losses)) < 0:
            raise ValueError(
                "log_scale must be False when a loss is below zero; got log_scale=True."
            )

    def _plot_curves(self, name, curves, line_kw):
        """Draw one estimator's lines in one colour, and mark its best epoch."""
        lines, color = {}, None
        for attribute, curve in CURVES.items():
            if attribute not in curves:
                continue
            axes = self.score_ax_ if curve.is_score else self.ax_
            kwargs = {"linestyle": curve.linestyle, "label": name, "color": color, **line_kw}
            epochs = np.arange(1, len(curves[attribute]) + 1)
            (lines[attribute],) = axes.plot(epochs, curves[attribute], gid=attribute, **kwargs)
            color = lines[attribute].get_color()
        watched, best = _best_epoch(curves)
        if best is not None:
            axes = lines[watched].axes
            point = [best + 1], [curves[watched][best]]
            (self.best_markers_[name],) = axes.plot(
                *point, **BEST_EPOCH_STYLE, color=color, zorder=3
            )
            self.best_epochs_[name] = best + 1
        self.lines_[name] = lines

    def _plot_legend(self):
        """Draw one entry per estimator (colour), then one per kind of curve (line style)."""
        from matplotlib.lines import Line2D

        axes = [self.ax_] if self.score_ax_ is None else [self.ax_, self.score_ax_]
        drawn = [line for one in axes for line in one.lines if line.get_gid() in CURVES]
        names = [
            Line2D([], [], color=line.get_color(), linewidth=4, label=line.get_label())
            for line in drawn
            if line.get_gid() == "loss_curve_"
        ]
        kinds = [
            Line2D([], [], color="0.3", linestyle=curve.linestyle, label=curve.label)
            for attribute, curve in CURVES.items()
            if any(line.get_gid() == attribute for line in drawn)
        ]
        kinds.append(Line2D([], [], color="0.7", label="best epoch", **BEST_EPOCH_STYLE))
        # Losses end low and scores high: the middle of the right side is free. Matplotlib's
        # "best" place would see the losses only.
        inside = "best" if self.score_ax_ is None else "center right"
        _place_legend(self.ax_, [names, kinds], inside)


def _wrap(name, width=28):
    """Return a name in lines of at most about `width`, also broken after underscores."""
    return fill(name.replace("_", "_\0 "), width).replace("_\0 ", "_").replace("\0", "")


class ComparisonDisplay:
    """Plot of the scores and the times of several estimators on the same folds.

    It is recommended to use :meth:`Comparison.plot` to make one. Each fold is a point, at the
    same height within every estimator's row; a dashed line shows the first estimator's mean.

    Parameters
    ----------
    test_scores : dict of str to ndarray of shape (n_folds,)
        Name of an estimator -> its test scores.
    fit_times : dict of str to ndarray of shape (n_folds,)
        Name of an estimator -> its fit times in seconds.
    score_times : dict of str to ndarray of shape (n_folds,)
        Name of an estimator -> its times in seconds to predict and score the test rows.
    score_name : str, default="score"
        Name of the score.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the scores.
    time_ax_ : matplotlib Axes or None
        Axes with the times; None when only one axes was given to draw on.
    figure_ : matplotlib Figure
        Figure with the axes.

    See Also
    --------
    compare : Cross-validate several estimators on the same folds.
    LossCurveDisplay : Loss and validation score per epoch.

    Examples
    --------
    >>> import numpy as np
    >>> from torchsk import ComparisonDisplay
    >>> times = {"a": np.array([0.1, 0.2]), "b": np.array([1.0, 1.2])}
    >>> scores = {"a": np.array([0.90, 0.93]), "b": np.array([0.95, 0.96])}
    >>> display = ComparisonDisplay(test_scores=scores, fit_times=times, score_times=times).plot()
    >>> display.time_ax_.get_xlabel()
    'time per fold (s)'
    """

    def __init__(self, *, test_scores, fit_times, score_times, score_name="score"):
        self.test_scores = test_scores
        self.fit_times = fit_times
        self.score_times = score_times
        self.score_name = score_name

    def plot(self, ax=None):
        """Draw the scores, and the times beside them.

        Parameters
        ----------
        ax : matplotlib Axes or pair of Axes, default=None
            Axes for the scores, or for the scores and the times; None makes a figure of both.

        Returns
        -------
        ComparisonDisplay
            The display itself.
        """
        pyplot = import_optional("matplotlib.pyplot", "ComparisonDisplay.plot")
        if ax is None:
            size = (9, 1.5 + 0.5 * len(self.test_scores))
            _, ax = pyplot.subplots(1, 2, sharey=True, figsize=size, layout="constrained")
        axes = np.ravel(ax)
        for axes_, plot in zip(axes, (self._plot_scores, self._plot_times), strict=False):
            plot(axes_)
            self._plot_names(axes_)
            axes_.grid(axis="x", alpha=0.4)
            _place_legend(axes_, [[handle] for handle in axes_.get_legend_handles_labels()[0]])
        self.ax_, self.figure_ = axes[0], axes[0].figure
        self.time_ax_ = axes[1] if len(axes) > 1 else None
        return self

    def _plot_folds(self, ax, values, **kwargs):
        """Draw one point per estimator and fold; a fold has the same height in every row."""
        table = np.array(list(values.values()))
        n_estimators, n_folds = table.shape
        offsets = np.linspace(-0.2, 0.2, n_folds) if n_folds > 1 else np.zeros(1)
        rows = np.arange(n_estimators)[:, np.newaxis] + offsets
        ax.scatter(table, rows, **{"s": 22, "alpha": 0.7, **kwargs})
        return table.mean(axis=1)

    def _plot_scores(self, ax):
        means = self._plot_folds(ax, self.test_scores, color="tab:blue", label="one fold")
        style = {"linestyle": "", "marker": "D", "markersize": 8, "markeredgecolor": "black"}
        ax.plot(means, range(len(means)), **style, color="white", zorder=3, label="mean")
        ax.axvline(means[0], color="0.5", linestyle="--", linewidth=1, label="mean of the first")
        ax.set(xlabel=f"test {self.score_name}")

    def _plot_times(self, ax):
        self._plot_folds(ax, self.fit_times, color="tab:orange", label="fit")
        self._plot_folds(
            ax, self.score_times, color="tab:green", marker="s", label="predict and score"
        )
        ax.set(xlabel="time per fold (s)", xscale="log")

    def _plot_names(self, ax):
        """Name the rows, the first estimator at the top; long names are wrapped."""
        names = [_wrap(name) for name in self.test_scores]
        ax.set_yticks(range(len(names)), names)
        ax.set_ylim(len(names) - 0.5, -0.5)
