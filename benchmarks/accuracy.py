"""How accurate the defaults are: torchsk, scikit-learn's MLP, boosted trees, linear models.

Every model sees the same random splits (70/30, stratified for classes) of the same sets. All but
the trees get categories as 0/1 columns, medians for missing values, and standardised features
(and targets); the trees get categories and missing values as they are. Times are those of fit
alone, in seconds of one CPU core. Sets are named in `_datasets.py`; needs the extra "bench".
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _datasets import CLASSIFICATION, LARGE, REGRESSION, Dataset, load
from _harness import RESULTS, machine, print_table, save
from sklearn.compose import (
    ColumnTransformer,
    TransformedTargetRegressor,
    make_column_selector,
    make_column_transformer,
)
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, log_loss, r2_score
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    OneHotEncoder,
    OrdinalEncoder,
    QuantileTransformer,
    StandardScaler,
)
from threadpoolctl import threadpool_limits

from torchsk import TorchClassifier, TorchRegressor

#: results of one split: accuracy and log_loss, or r2, and seconds
Scores = dict[str, float]


def numbers() -> ColumnTransformer:
    """Return what turns a table into numbers, for every model but the trees."""
    one_hot = OneHotEncoder(
        handle_unknown="infrequent_if_exist", max_categories=30, drop="if_binary",
        sparse_output=False,
    )  # fmt: skip
    return make_column_transformer(
        (SimpleImputer(strategy="median"), make_column_selector(dtype_include="number")),
        (one_hot, make_column_selector(dtype_exclude="number")),
    )


def categories() -> ColumnTransformer:
    """Return what turns a table into numbers for trees, which take categories by their codes."""
    codes = OrdinalEncoder(
        handle_unknown="use_encoded_value", unknown_value=np.nan, max_categories=250
    )
    return make_column_transformer(
        ("passthrough", make_column_selector(dtype_include="number")),
        (codes, make_column_selector(dtype_exclude="number")),
    )


def split(data: Dataset, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the training and of the test rows."""
    return train_test_split(
        np.arange(len(data.y)),
        test_size=0.3,
        random_state=seed,
        stratify=data.y if data.is_classification else None,
    )


def scaled_y(model: Any) -> TransformedTargetRegressor:
    """Return a regressor that sees its target standardised."""
    return TransformedTargetRegressor(model, transformer=StandardScaler())


def torchsk(data: Dataset, seed: int) -> Any:
    """Return torchsk with its defaults."""
    make = TorchClassifier if data.is_classification else TorchRegressor
    return make(random_state=seed)


def periodic(data: Dataset, seed: int) -> Any:
    """Return torchsk with its numeric columns embedded."""
    return torchsk(data, seed).set_params(numerical_embedding="periodic")


def tables(data: Dataset, seed: int) -> Any:
    """Return the recipe for tables: embedded columns, made normal before by their quantiles."""
    n_quantiles = min(1000, len(split(data, seed)[0]))
    scores = QuantileTransformer(
        n_quantiles=n_quantiles, output_distribution="normal", random_state=seed
    )
    return make_pipeline(scores, periodic(data, seed))


def realmlp(data: Dataset, seed: int) -> Any:
    """Return the network of pytabkit that trains fast (RealMLP-TD-S)."""
    import pytabkit

    kind = "Classifier" if data.is_classification else "Regressor"
    make = getattr(pytabkit, f"RealMLP_TD_S_{kind}")
    return make(random_state=seed, device="cpu", n_threads=1, verbosity=0)


def mlp(data: Dataset, seed: int) -> Any:
    """Return scikit-learn's MLP behind scalers."""
    if data.is_classification:
        return make_pipeline(StandardScaler(), MLPClassifier(random_state=seed))
    return make_pipeline(StandardScaler(), scaled_y(MLPRegressor(random_state=seed)))


def trees(data: Dataset, seed: int) -> Any:
    """Return gradient-boosted trees."""
    is_category = [dtype.kind not in "if" for dtype in data.X.dtypes]
    order = sorted(is_category)  # `categories` puts them last
    if data.is_classification:
        return HistGradientBoostingClassifier(categorical_features=order, random_state=seed)
    return HistGradientBoostingRegressor(categorical_features=order, random_state=seed)


def linear(data: Dataset, seed: int) -> Any:
    """Return logistic or ridge regression."""
    if data.is_classification:
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return make_pipeline(StandardScaler(), scaled_y(Ridge()))


MODELS: dict[str, Callable[[Dataset, int], Any]] = {
    "torchsk": torchsk,
    "mlp": mlp,
    "trees": trees,
    "linear": linear,
    "periodic": periodic,
    "tables": tables,
}
#: only where --models names them: torchsk after torch.set_float32_matmul_precision("medium"),
#: rounded here as a processor with bfloat16 does it, and pytabkit's network, if that is installed
EXTRA_MODELS = {"medium": torchsk, "realmlp": realmlp}


def precision(name: str) -> AbstractContextManager[object]:
    """Return the context in which a model is evaluated."""
    if name != "medium":
        return nullcontext()
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    from simulated_precision import reduced_products

    return reduced_products()


def evaluate(make: Callable[[Dataset, int], Any], data: Dataset, seed: int) -> Scores:
    """Fit on the training rows of a split and return the scores of its test rows."""
    train, test = split(data, seed)
    encoder = categories() if make is trees else numbers()
    X_train = np.asarray(encoder.fit_transform(data.X.iloc[train]), dtype=np.float64)
    X_test = np.asarray(encoder.transform(data.X.iloc[test]), dtype=np.float64)
    model = make(data, seed)
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X_train, data.y[train])
    seconds = time.process_time() - start
    return score(model, X_test, data.y[test], data) | {"seconds": seconds}


def score(model: Any, X: np.ndarray, y: np.ndarray, data: Dataset) -> Scores:
    """Return accuracy and log loss, or R2."""
    if not data.is_classification:
        return {"r2": float(r2_score(y, model.predict(X)))}
    proba = model.predict_proba(X).astype(np.float64)
    proba /= proba.sum(1, keepdims=True)
    accuracy = accuracy_score(y, model.classes_[proba.argmax(1)])
    loss = log_loss(y, proba, labels=model.classes_)
    return {"accuracy": float(accuracy), "log_loss": float(loss)}


def differences(results: dict[str, list[Scores]], other: dict[str, list[Scores]], name: str):
    """Return the paired differences of a score: means over splits, and their standard errors."""
    sets = [key for key in results if key in other and name in results[key][0]]
    pairs = [
        [a[name] - b[name] for a, b in zip(results[key], other[key], strict=False)] for key in sets
    ]
    means = np.array([np.mean(pair) for pair in pairs])
    errors = np.array(
        [np.std(pair, ddof=1) / np.sqrt(len(pair)) if len(pair) > 1 else 0 for pair in pairs]
    )
    return sets, means, errors


def summary(results: dict[str, list[Scores]], other: dict[str, list[Scores]]) -> dict[str, Any]:
    """Return how results compare with others, paired by set and split."""
    row: dict[str, Any] = {}
    for name in ("accuracy", "log_loss", "r2"):
        sets, means, errors = differences(results, other, name)
        if not sets:
            continue
        row[name] = float(means.mean())
        row[f"{name}_error"] = float(means.std(ddof=1) / np.sqrt(len(sets))) if len(sets) > 1 else 0
        row[f"{name}_median"] = float(np.median(means))
        sign = -1 if name == "log_loss" else 1
        tie = 0.001
        gains = sign * means
        row[f"{name}_wins"] = [
            int((gains > tie).sum()), int((abs(gains) <= tie).sum()), int((gains < -tie).sum())
        ]  # fmt: skip
        worst = np.argsort(gains)[0]
        row[f"{name}_worst"] = [float(means[worst]), sets[worst]]
        beyond = gains + 2 * errors < -0.02
        row[f"{name}_beyond"] = {sets[i]: round(float(means[i]), 4) for i in np.flatnonzero(beyond)}
    times = [
        np.mean([a["seconds"] for a in results[key]]) / np.mean([b["seconds"] for b in other[key]])
        for key in results
        if key in other and "seconds" in results[key][0]
    ]
    if times:
        row["time_ratio"] = float(np.exp(np.mean(np.log(times))))
    return row


#: models in words
LABELS = {"mlp": "MLP", "tables": "torchsk, embedded", "realmlp": "RealMLP-TD-S"}
COLUMNS = [
    "against the MLP", "accuracy", "w/t/l", "worst", "log loss", "R2", "median", "w/t/l", "worst",
    "time",
]  # fmt: skip


def table_row(name: str, row: dict[str, Any]) -> list[object]:
    """Return a summary as the cells of a table."""

    def mean(key: str) -> str:
        return f"{row[key]:+.4f} ± {row[f'{key}_error']:.4f}" if key in row else ""

    def wins(key: str) -> str:
        return "/".join(map(str, row[f"{key}_wins"])) if key in row else ""

    def worst(key: str) -> str:
        return "{:+.3f} {}".format(*row[f"{key}_worst"]) if key in row else ""

    median = f"{row['r2_median']:+.4f}" if "r2" in row else ""
    ratio = f"{row['time_ratio']:.2f}" if "time_ratio" in row else ""
    return [
        name, mean("accuracy"), wins("accuracy"), worst("accuracy"), mean("log_loss"),
        mean("r2"), median, wins("r2"), worst("r2"), ratio,
    ]  # fmt: skip


def draw(
    results: dict[str, dict[str, list[Scores]]], names: list[str], reference: str, path: Path
) -> None:
    """Draw the differences of some models from a reference, one dot per set."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    n_rows = max(4, len(results[reference]) * 0.7)
    figure, axes = plt.subplots(1, 2, figsize=(11, 0.22 * n_rows + 1), layout="constrained")
    for axis, key, label in zip(axes, ("accuracy", "r2"), ("accuracy", "R2")):
        for i, name in enumerate(names):
            sets, means, errors = differences(results[name], results[reference], key)
            at = np.arange(len(sets)) + 0.2 * (i - (len(names) - 1) / 2)
            axis.errorbar(means, at, xerr=errors, fmt="o", ms=3, lw=1, label=LABELS.get(name, name))
            axis.set_yticks(np.arange(len(sets)), sets, fontsize=7)
        axis.axvline(0, color="0.5", lw=0.8)
        axis.set_xlabel(f"{label} minus that of the {LABELS.get(reference, reference)}")
        axis.set_xlim(-0.15, 0.15)
    axes[0].legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="*", help="names of sets; the dev sets if left out")
    parser.add_argument("--large", action="store_true", help="the large sets, on all their rows")
    parser.add_argument("--rows", type=int, default=10_000, help="largest number of rows of a set")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument(
        "--models", nargs="*", default=list(MODELS), choices=[*MODELS, *EXTRA_MODELS]
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for JSON and PNG")
    options = parser.parse_args()
    dev_sets = [name for name in (*CLASSIFICATION, *REGRESSION) if name != "magic_like"]
    names = options.sets or dev_sets
    rows = options.rows
    if options.large:
        names, rows = list(LARGE), 10**9
    report = "accuracy_large" if options.large else "accuracy"
    options.out.mkdir(parents=True, exist_ok=True)
    before = machine()
    torch.set_num_threads(1)
    results: dict[str, dict[str, list[Scores]]] = {name: {} for name in options.models}
    with threadpool_limits(1):
        for name in names:
            data = load(name).head(rows)
            for model in options.models:
                results[model][name] = []
            for seed in range(options.splits):  # interleaved, for their times
                for model in options.models:
                    with precision(model):
                        make = (MODELS | EXTRA_MODELS)[model]
                        results[model][name].append(evaluate(make, data, seed))
            print(name, flush=True)
    if "medium" in results and "torchsk" in results:
        columns = [COLUMNS[0].replace("the MLP", "float32"), *COLUMNS[1:]]
        print_table(columns, [table_row("medium", summary(results["medium"], results["torchsk"]))])
    if "mlp" in results:
        print_table(COLUMNS, [table_row(m, summary(results[m], results["mlp"])) for m in results])
        names = [name for name in results if name not in ("mlp", "periodic", "tables")]
        draw(results, names, "mlp", options.out / f"{report}.png")
    if {"torchsk", "tables", "trees"} <= results.keys():
        columns = [COLUMNS[0].replace("the MLP", "trees"), *COLUMNS[1:]]
        others = [name for name in results if name != "trees"]
        rows = [table_row(name, summary(results[name], results["trees"])) for name in others]
        print_table(columns, rows)
        draw(results, ["torchsk", "tables"], "trees", options.out / f"{report}_tables.png")
    save(report, results, options.out, before)


if __name__ == "__main__":
    main()
