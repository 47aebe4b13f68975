"""What y means: labels and numbers of every container, and what is refused."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from networks import Classifier, Regressor

TARGETS = {
    "list": list,
    "column": lambda y: y.reshape(-1, 1),
    "pandas": lambda y: pd.Series(y, index=y[::-1]),
    "polars": pl.Series,
    "torch": torch.tensor,
    "int8": lambda y: y.astype(np.int8),
    "float64": lambda y: y.astype(float),
    "strings": lambda y: np.array(["x", "yy", "z"])[y],
    "strings as objects": lambda y: np.array(["x", "yy", "z"], dtype=object)[y],
    "pandas strings": lambda y: pd.Series(np.array(["x", "yy", "z"])[y]),
    "categories": lambda y: pd.Series(np.array(["x", "yy", "z"])[y]).astype("category"),
    "negative": lambda y: -10 * (2 - y),
    "bools": lambda y: y > 0,
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.DataConversionWarning")
@pytest.mark.parametrize("target", TARGETS)
def test_containers_of_classes(target, iris):
    X, y = iris[0], TARGETS[target](iris[1])
    model = Classifier().fit(X, y)
    flat = np.ravel(np.asarray(y))
    np.testing.assert_array_equal(model.classes_, np.unique(flat))
    assert model.predict(X).dtype == model.classes_.dtype
    assert np.mean(model.predict(X) == flat) > 0.95
    assert model.score(X, flat) > 0.95
    assert model.decision_function(X).shape == ((150,) if target == "bools" else (150, 3))
    proba = model.predict_proba(X)
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(model.predict_log_proba(X), np.log(proba))


@pytest.mark.parametrize("target", ["list", "pandas", "polars", "torch", "int8", "float64"])
def test_containers_of_numbers(target, iris):
    X, y = iris
    expected = Regressor().fit(X, y).predict(X)
    assert expected.shape == (150,)
    np.testing.assert_allclose(Regressor().fit(X, TARGETS[target](y)).predict(X), expected)


def test_targets_of_two_dimensions(diabetes):
    X, y = diabetes
    assert Regressor().fit(X, y.reshape(-1, 1)).predict(X).shape == (442,)
    two = Regressor().fit(X, np.column_stack([y, -1e4 * y])).predict(X)
    assert two.shape == (442, 2)
    assert np.corrcoef(two[:, 0], -two[:, 1])[0, 1] > 0.9


def test_bad_targets(iris):
    X, y = iris
    with pytest.raises(ValueError, match="Unknown label type"):
        Classifier().fit(X, y + 0.5 * X[:, 0])
    with pytest.raises(ValueError, match=r"^`y_val` has classes not in"):
        Classifier().fit(X[:100], y[:100], X_val=X, y_val=y)
    with pytest.raises(ValueError, match="y must be 1-D, or a binary matrix"):
        Classifier().fit(X, np.column_stack([y, y]))
    with pytest.raises(ValueError, match=r"^y must be non-negative for the Poisson loss"):
        Regressor(loss="poisson").fit(X, y - 1)
    with pytest.raises(ValueError, match=r"^y must hold numbers .*; got y of dtype datetime64"):
        Regressor().fit(X, y.astype("datetime64[D]"))
    with pytest.raises(ValueError, match=r"^y must have 3 columns; got 2\.$"):
        labels = np.eye(3, dtype=int)[y]
        Classifier().partial_fit(X, labels, classes=range(3)).partial_fit(X, labels[:, :2])


def test_bad_held_out_targets(iris):
    X, y = iris
    one, two, labels = X[:, 0], X[:, :2], np.eye(3, dtype=int)[y]
    for model, target, held_out in [
        (Regressor(), two, one),
        (Regressor(), one, two),
        (Regressor(), two, X[:, :3]),
        (Classifier(), labels, labels[:, :2]),
    ]:
        n_columns, n_held_out = (t.reshape(150, -1).shape[1] for t in (target, held_out))
        message = f"^y_val must have {n_columns} columns; got {n_held_out}"
        with pytest.raises(ValueError, match=message):
            model.fit(X, target, X_val=X, y_val=held_out)
    with pytest.raises(ValueError, match=r"^y_val must be positive for the Gamma loss; got y_val"):
        Regressor(loss="gamma").fit(X, one, X_val=X, y_val=-one)
    with pytest.raises(ValueError, match="^X_val has 2 features"):
        Regressor().fit(X, one, X_val=two, y_val=one)


def test_labels_that_look_like_numbers_are_warned_of():
    X, y = np.arange(60.0).reshape(30, 2), np.arange(30)
    with pytest.warns(UserWarning, match="could represent a regression problem"):
        Classifier(max_iter=1).fit(X, y)
    for dtype in (int, np.uint8, float, str):
        net = Classifier(max_iter=1).fit(X, (y // 2).astype(dtype))
        assert net.classes_.tolist() == np.unique((y // 2).astype(dtype)).tolist()
