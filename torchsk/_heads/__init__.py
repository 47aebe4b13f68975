"""A loss and everything that follows from it: output layer, target encoding, link, score.

A network ends in `raw` outputs. A *head* knows what they mean. Estimators and trainer only ask
the head; no other file looks at the name of a loss. A new loss is one class and one row of
`LOSSES`.

Shapes: `raw` is (..., n_samples, n_outputs) and `target` is (..., n_samples, n_columns); leading
axes (a stack of models) broadcast. `loss` reduces the last axis only.
"""

from torchsk._heads.base import ClassificationHead, Head, RegressionHead
from torchsk._heads.classification import Binomial, Multinomial
from torchsk._heads.registry import ALIASES, LOSS_NAMES, LOSSES, TORCH_LOSSES, make_head

__all__ = [
    "ALIASES",
    "LOSSES",
    "LOSS_NAMES",
    "TORCH_LOSSES",
    "Binomial",
    "ClassificationHead",
    "Head",
    "Multinomial",
    "RegressionHead",
    "make_head",
]
