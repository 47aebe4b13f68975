"""Compare estimators on the same folds: scores, times, sizes, paired differences."""

from dataclasses import dataclass
from html import escape
from numbers import Integral
from typing import NamedTuple

import numpy as np
from scipy import stats
from sklearn.base import is_classifier
from sklearn.model_selection import check_cv, cross_validate
from sklearn.utils import indexable

from torchsk._displays import ComparisonDisplay, check_named_estimators, import_optional, unwrap


class PairedDifference(NamedTuple):
    """Mean difference of two estimators' scores, with its 95% interval and p value.

    Parameters
    ----------
    mean : float
        Mean over the folds.
    low, high : float
        Ends of the 95% interval.
    pvalue : float
        Two-sided p value for the hypothesis that the mean is zero.
    """

    mean: float
    low: float
    high: float
    pvalue: float


def corrected_resampled_ttest(differences, test_train_ratio):
    """Test whether the mean of paired differences, of shape (n_folds,), is zero.

    The folds' training sets overlap, so the variance of the mean is larger than the usual
    ``var / n_folds``; one fold, or a nan among the differences, gives nan.
    """
    n_folds, mean = len(differences), np.mean(differences)
    variance = np.var(differences, ddof=1) if n_folds > 1 else np.nan
    # Nadeau & Bengio (2003), "Inference for the generalization error", Machine Learning 52:
    # Var(mean) = (1 / k + n_test / n_train) * var(differences), t with k - 1 degrees of freedom.
    standard_error = np.sqrt((1 / n_folds + test_train_ratio) * variance)
    with np.errstate(divide="ignore"):
        t = mean / standard_error if mean != 0 else 0.0
    half_width = stats.t.ppf(0.975, n_folds - 1) * standard_error
    pvalue = 2 * stats.t.sf(abs(t), n_folds - 1)
    return PairedDifference(*map(float, (mean, mean - half_width, mean + half_width, pvalue)))


def count_parameters(estimator):
    """Return the number of weights of the fitted network inside an estimator, or None."""
    *_, final = unwrap(estimator)
    if hasattr(final, "coefs_"):
        return sum(np.size(array) for array in [*final.coefs_, *final.intercepts_])
    if hasattr(final, "module_"):
        return sum(tensor.numel() for tensor in final.module_.parameters())
    return None


def _best_params(estimator):
    """Return the parameters that the fitted search inside an estimator chose, or None."""
    found = (level.best_params_ for level in unwrap(estimator) if hasattr(level, "best_params_"))
    return next(found, None)


def _make_splits(estimators, X, y, groups, cv, random_state):
    """Return the folds, a list of (train, test); shuffled when a random state is given."""
    classifier = any(map(is_classifier, estimators.values()))
    splitter = check_cv(cv, y, classifier=classifier)
    if random_state is not None:
        if not (cv is None or isinstance(cv, Integral)):
            raise ValueError(
                f"random_state must be None when cv is not an int; got {random_state=!r}."
            )
        splitter = type(splitter)(splitter.n_splits, shuffle=True, random_state=random_state)
    return list(splitter.split(X, y, groups))


def _name_estimator(error, name):
    """Have an error of one estimator name it: in its message, or in a note where it has another."""
    where = f"estimators[{name!r}]"
    if len(error.args) == 1 and isinstance(error.args[0], str):
        error.args = (f"{where} failed: {error.args[0].lstrip()}",)
    else:
        error.add_note(f"This happened in compare, with {where}.")


def compare(
    estimators,
    X,
    y=None,
    *,
    groups=None,
    scoring=None,
    cv=5,
    n_jobs=None,
    verbose=False,
    params=None,
    random_state=None,
    error_score=np.nan,
):
    """Cross-validate several estimators on the same folds.

    Every estimator is cloned and goes through scikit-learn's `cross_validate` once, so each
    joblib backend and `n_jobs` works as there. Times are those of a fit as it ran: inside
    ``joblib.parallel_config("torchsk")`` they include what a fit waited for its stack, and
    cannot be compared.

    Parameters
    ----------
    estimators : dict of str to estimator
        Name -> estimator, fitted or not. Differences are taken against the first.
    X : array-like of shape (n_samples, n_features)
        Data to fit; a DataFrame or a sparse matrix as well. Of any shape that the estimators take.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
        Target to predict.
    groups : array-like of shape (n_samples,), default=None
        Group labels, for a `cv` that uses them.
    scoring : str, callable, list of str or dict, default=None
        One score or several, as in `cross_validate`. None takes each estimator's own `score`,
        which need not be the same: R^2 for most regressors, D^2 for quantiles. Name a scorer then.
    cv : int, splitter or iterable of (train, test), default=5
        Folds, made once for all estimators; an int is stratified when any estimator is a
        classifier.
    n_jobs : int, default=None
        Folds to run in parallel.
    verbose : bool, default=False
        Whether to print a line as each estimator ends.
    params : dict, default=None
        Parameters for every estimator's `fit`, as in `cross_validate`.
    random_state : int, RandomState instance or None, default=None
        Shuffles the folds of an int `cv`; None keeps the rows in order, as `cross_validate`.
    error_score : "raise" or float, default=nan
        Score of a fold whose fit fails.

    Returns
    -------
    Comparison
        Scores and times (`cv_results`), numbers of weights (`n_parameters`), what searches chose
        (`best_params`) and paired differences; prints as a table.

    Raises
    ------
    TypeError
        If `estimators` is not a dict of str to estimator.
    ValueError
        If `estimators` is empty, or mixes classifiers with others without a `scoring`; if
        `random_state` is given with a splitter; or if an estimator fails on every fold.

    See Also
    --------
    Comparison : What is returned.
    sklearn.model_selection.cross_validate : What runs for each estimator.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.dummy import DummyClassifier
    >>> from sklearn.linear_model import LogisticRegression
    >>> from torchsk import compare
    >>> X, y = load_iris(return_X_y=True)
    >>> estimators = {"dummy": DummyClassifier(), "logistic": LogisticRegression(max_iter=500)}
    >>> comparison = compare(estimators, X, y, scoring="accuracy")
    >>> comparison.test_scores()["logistic"].round(3)
    array([0.967, 1.   , 0.933, 0.967, 1.   ])
    >>> comparison.differences()["logistic"].pvalue < 0.001
    True
    """
    check_named_estimators(estimators)
    if scoring is None and len(set(map(is_classifier, estimators.values()))) > 1:
        raise ValueError(
            "scoring must be given when estimators mix classifiers and others; got scoring=None."
        )
    X, y, groups = indexable(X, y, groups)
    splits = _make_splits(estimators, X, y, groups, cv, random_state)
    comparison = Comparison(
        cv_results={},
        n_parameters={},
        best_params={},
        test_train_ratio=sum(len(test) for _, test in splits) / sum(len(t) for t, _ in splits),
    )
    # A list of one score gives the results its name: test_accuracy and not test_score.
    settings = {"scoring": [scoring] if isinstance(scoring, str) else scoring, "cv": splits}
    settings |= {"n_jobs": n_jobs, "params": params, "error_score": error_score}
    for name, estimator in estimators.items():
        try:
            results = cross_validate(estimator, X, y, return_estimator=True, **settings)
        except Exception as error:
            _name_estimator(error, name)
            raise
        fitted = results.pop("estimator")
        for column, values in results.items():
            if column.startswith("test_") and np.isnan(values).all():
                raise ValueError(
                    "scoring must give a number on some fold for every estimator; got nan on all "
                    f"folds in {column!r} of estimators[{name!r}]: the warnings say why."
                )
        comparison.cv_results[name] = results
        comparison.n_parameters[name] = [count_parameters(one) for one in fitted]
        comparison.best_params[name] = [_best_params(one) for one in fitted]
        if verbose:
            print(comparison._progress(name, len(estimators)), flush=True)
    return comparison


@dataclass(frozen=True, repr=False, eq=False)
class Comparison:
    """Scores, times and sizes of several estimators on the same folds.

    It is made by :func:`compare`, prints as a text table, and shows as an HTML table in a
    notebook: one table per metric.

    Parameters
    ----------
    cv_results : dict of str to dict
        Name of an estimator -> what `cross_validate` returned: ``fit_time``, ``score_time``
        (seconds) and a ``test_<metric>`` per metric, each an ndarray of shape (n_folds,).
    n_parameters : dict of str to list
        Name of an estimator -> its network's number of weights, intercepts included, per fold;
        None without a network.
    best_params : dict of str to list
        Name of an estimator -> the parameters its search chose per fold, None without a search.
    test_train_ratio : float
        Test samples per training sample, over all folds.

    See Also
    --------
    compare : Cross-validate several estimators on the same folds.
    ComparisonDisplay : Plot of scores and times.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.dummy import DummyClassifier
    >>> from torchsk import compare
    >>> comparison = compare({"dummy": DummyClassifier()}, *load_iris(return_X_y=True))
    >>> comparison.names, comparison.metrics
    (['dummy'], ['score'])
    """

    cv_results: dict
    n_parameters: dict
    best_params: dict
    test_train_ratio: float

    @property
    def names(self):
        """Names of the estimators; the first is what the others are compared with."""
        return list(self.cv_results)

    @property
    def metrics(self):
        """Names of the scores."""
        results = self.cv_results[self.names[0]]
        return [key.removeprefix("test_") for key in results if key.startswith("test_")]

    def _values(self, key):
        """Return {name: array of shape (n_folds,)} of one entry of the results."""
        return {name: np.asarray(results[key]) for name, results in self.cv_results.items()}

    def _check_metric(self, metric):
        if metric is not None and metric not in self.metrics:
            raise ValueError(f"metric must be one of {self.metrics}; got metric={metric!r}.")
        return self.metrics[0] if metric is None else metric

    def test_scores(self, metric=None):
        """Return each estimator's test score per fold.

        Parameters
        ----------
        metric : str, default=None
            One of `metrics`; None is the first.

        Returns
        -------
        dict of str to ndarray of shape (n_folds,)
            Name of an estimator -> its scores; nan where a fit failed.
        """
        return self._values(f"test_{self._check_metric(metric)}")

    def differences(self, metric=None):
        """Return how each estimator's score differs from the first one's.

        The p value and the 95% interval are those of the corrected resampled t-test (Nadeau and
        Bengio, 2003): the variance of the mean difference over k folds is
        ``(1 / k + n_test / n_train)`` times the variance of the differences.

        Parameters
        ----------
        metric : str, default=None
            One of `metrics`; None is the first.

        Returns
        -------
        dict of str to PairedDifference
            Name of every estimator but the first -> ``mean``, ``low``, ``high`` (the interval)
            and ``pvalue`` (two-sided); nan where a fit failed.
        """
        (_, first), *others = self.test_scores(metric).items()
        ratio = self.test_train_ratio
        return {name: corrected_resampled_ttest(scores - first, ratio) for name, scores in others}

    def to_frame(self):
        """Return everything but `best_params` as a pandas DataFrame, one row per estimator.

        In a script ``print(comparison.to_frame().T)`` shows it whole: a column per estimator.

        Returns
        -------
        pandas.DataFrame
            Columns named as in ``GridSearchCV.cv_results_`` (``mean_test_accuracy``,
            ``split0_test_accuracy``, ``mean_fit_time``, ...), then ``n_parameters`` (mean over
            the folds) and, per metric, ``difference_accuracy``, ``difference_low_accuracy``,
            ``difference_high_accuracy`` and ``pvalue_accuracy``.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        pandas = import_optional("pandas", "Comparison.to_frame")
        rows = {name: self._frame_row(name) for name in self.names}
        for metric in self.metrics:
            labels = ("difference", "difference_low", "difference_high", "pvalue")
            for name, difference in self.differences(metric).items():
                rows[name] |= {f"{k}_{metric}": v for k, v in zip(labels, difference, strict=True)}
        return pandas.DataFrame.from_dict(rows, orient="index")

    def _frame_row(self, name):
        """Return one estimator's columns, without the differences."""
        row: dict[str, float] = {}
        for key, values in self.cv_results[name].items():
            row |= {f"split{i}_{key}": v for i, v in enumerate(values) if key.startswith("test_")}
            row |= {f"mean_{key}": np.mean(values), f"std_{key}": np.std(values)}
        known = [n for n in self.n_parameters[name] if n is not None]
        return row | {"n_parameters": np.mean(known) if known else np.nan}

    def plot(self, metric=None, *, ax=None):
        """Plot the scores per fold, their means, and the times.

        Parameters
        ----------
        metric : str, default=None
            One of `metrics`; None is the first.
        ax : matplotlib Axes or pair of Axes, default=None
            Axes for the scores, or for the scores and the times; None makes a figure of both.

        Returns
        -------
        ComparisonDisplay
            The display that was drawn.
        """
        return ComparisonDisplay(
            test_scores=self.test_scores(metric),
            fit_times=self._values("fit_time"),
            score_times=self._values("score_time"),
            score_name=self._check_metric(metric),
        ).plot(ax)

    def _table(self, metric):
        """Return the header and the rows of one metric's table, all str."""
        scores, differences = self.test_scores(metric), self.differences(metric)
        digits = _n_decimals(scores.values())
        header = ["estimator", metric, "difference [95% interval]", "p"]
        header += ["fit time (s)", "score time (s)", "parameters"]
        rows = []
        for name in self.names:
            row = [name, _format_mean(scores[name], digits)]
            row += _format_difference(differences.get(name), digits)
            row += [f"{self.cv_results[name][k].mean():.3g}" for k in ("fit_time", "score_time")]
            rows.append([*row, _format_counts(self.n_parameters[name])])
        return header, rows

    def _caption(self):
        n_folds = len(self.cv_results[self.names[0]]["fit_time"])
        caption = f"Mean ± standard deviation over {n_folds} fold{'s' * (n_folds > 1)}"
        if len(self.names) > 1:
            caption += f"; differences from {self.names[0]!r}, corrected resampled t-test"
        return caption

    def __str__(self):
        tables = [_format_text(*self._table(metric)) for metric in self.metrics]
        return "\n\n".join([*tables, self._caption()])

    __repr__ = __str__

    def _repr_html_(self):
        tables = [_format_html(*self._table(metric)) for metric in self.metrics]
        return "\n".join([*tables, f"<p>{escape(self._caption())}</p>"])

    def _progress(self, name, n_estimators):
        """Return the line that says that one estimator has ended."""
        scores, fit_times = self.test_scores()[name], self.cv_results[name]["fit_time"]
        result = f"{self.metrics[0]} {_format_mean(scores, _n_decimals([scores]))}"
        done = f"[{len(self.names)}/{n_estimators}]"
        return f"{done} {name}: {result}, fit time {fit_times.mean():.3g} s"


def _n_decimals(arrays):
    """Return how many decimals show scores of this size: three around 1, none from 1000 on."""
    values = np.abs(np.concatenate(list(arrays)))
    largest = np.max(values, where=np.isfinite(values), initial=0.0)
    return max(0, 3 - int(np.log10(largest))) if largest > 0 else 3


def _format_mean(scores, digits):
    return f"{scores.mean():.{digits}f} ± {scores.std():.{digits}f}"


def _format_difference(difference, digits):
    """Return the cells of a difference and its p value; dashes for the first estimator."""
    if difference is None:
        return ["-", "-"]
    mean, low, high, pvalue = difference
    interval = f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
    return [interval, "<0.001" if pvalue < 0.001 else f"{pvalue:.3f}"]


def _format_counts(counts):
    """Return a number of parameters, or the range of it over the folds."""
    known = sorted({count for count in counts if count is not None})
    return " to ".join(f"{count:,}" for count in known[:1] + known[1:][-1:]) or "-"


def _format_text(header, rows):
    """Return a table as text: names to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    )


def _format_html(header, rows):
    """Return a table as HTML; names are escaped."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr><th>{escape(name)}</th>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for name, *cells in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
