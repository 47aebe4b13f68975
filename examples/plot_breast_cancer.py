"""
Two classes: is a tumour malignant?
===================================

Are the cells of a tumour malignant? 569 tumours, 30 measurements of each, and a network with one
hidden layer of 15 neurons.
"""

# %%
# Train and test
# --------------
# The network is 30 -> 15 -> 1 with relu, and a sigmoid because the loss is ``nn.BCELoss``. The
# measurements run from thousandths to thousands; torchsk scales its inputs itself.
import matplotlib.pyplot as plt
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import ConfusionMatrixDisplay, RocCurveDisplay
from sklearn.model_selection import ShuffleSplit, cross_val_score, train_test_split
from torch import nn

from torchsk import TorchClassifier

data = load_breast_cancer()
X_train, X_test, y_train, y_test = train_test_split(
    data.data, data.target, test_size=114, random_state=0
)
net = TorchClassifier(hidden_layer_sizes=(15,), loss=nn.BCELoss, random_state=0)
net.fit(X_train, y_train)

n_wrong = (net.predict(data.data) != data.target).sum()
test_score = net.score(X_test, y_test)
print(f"{n_wrong} of {len(data.target)} wrong ({n_wrong / len(data.target):.1%})")
print(f"test accuracy {test_score:.3f}, {net.n_iter_} epochs")

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
ConfusionMatrixDisplay.from_estimator(
    net, X_test, y_test, display_labels=data.target_names, cmap="Blues", colorbar=False, ax=left
)
RocCurveDisplay.from_estimator(net, X_test, y_test, name="30 -> 15 -> 1", ax=right)
left.set(title="test rows")
plt.show()

# %%
# Other splits
# ------------
# One split of 114 test rows says little about the second digit. Ten splits:
splits = ShuffleSplit(n_splits=10, test_size=114, random_state=0)
scores = cross_val_score(net, data.data, data.target, cv=splits)
print(f"test accuracy {scores.mean():.3f} ± {scores.std():.3f}")
