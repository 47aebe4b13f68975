"""
Logistic regression as a network of one neuron
==============================================

A neuron followed by a sigmoid is a logistic regression. Here it learns for which x a noisy line
is above zero.
"""

# %%
# The data
# --------
# 200 points around a line; a point has class 1 where the sigmoid of its y rounds to 1.
import warnings

import matplotlib.pyplot as plt
import numpy as np
from scipy.special import expit
from sklearn.datasets import make_regression
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import classification_report
from sklearn.model_selection import train_test_split
from torch import nn

from torchsk import LossCurveDisplay, TorchClassifier

warnings.simplefilter("ignore", ConvergenceWarning)  # the number of epochs is given

X, y = make_regression(n_samples=200, n_features=1, noise=20, random_state=0)
y = np.round(expit(y)).astype(int)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.25, random_state=6)

# %%
# The neuron
# ----------
# The loss says what the network ends in: with ``nn.BCELoss`` torchsk adds the sigmoid. 1000 epochs
# of full-batch gradient descent with a little momentum; ``n_iter_no_change=np.inf`` makes all of
# them.
neuron = TorchClassifier(
    hidden_layer_sizes=(),
    loss=nn.BCELoss,
    learning_rate="constant",
    learning_rate_init=0.02,
    momentum=0.5,
    nesterovs_momentum=False,
    alpha=0,
    max_grad_norm=None,
    standardize=False,
    batch_size=len(X_train),
    max_iter=1000,
    n_iter_no_change=np.inf,
    random_state=0,
).fit(X_train, y_train)

train_score, test_score = neuron.score(X_train, y_train), neuron.score(X_test, y_test)
print(f"accuracy {train_score:.2f} (training), {test_score:.2f} (test)")
print(classification_report(y_test, neuron.predict(X_test)))

# %%
# The fitted sigmoid crosses 0.5 where the decision changes.
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
grid = np.linspace(X.min(), X.max(), 300).reshape(-1, 1)
boundary = -neuron.intercepts_[0][0] / neuron.coefs_[0][0, 0]
left.scatter(X_train, y_train, s=14, alpha=0.5, label="training rows")
left.scatter(X_test, y_test, s=22, marker="s", alpha=0.5, color="C1", label="test rows")
left.plot(grid, neuron.predict_proba(grid)[:, 1], color="black", label="P(class 1)")
left.axvline(boundary, color="0.6", linestyle=":", label="decision")
left.set(xlabel="x", ylabel="class and probability")
left.legend()
LossCurveDisplay.from_estimator(neuron, ax=right, name="one neuron")
plt.show()

# %%
# Without all that
# ----------------
# The defaults scale x and make mini-batches, with more momentum and a larger rate that comes down
# in the end: 50 epochs are enough.
default = TorchClassifier(hidden_layer_sizes=(), loss=nn.BCELoss, random_state=0)
default_score = default.fit(X_train, y_train).score(X_test, y_test)
print(f"test accuracy {default_score:.2f} after {default.n_iter_} epochs")
