"""The lane of skorch, which trains what a stack cannot, behind the same estimator.

A user's module, skorch's callbacks, and torch's optimizers and schedulers come here. The estimator
holds a skorch net, which is driven epoch by epoch: losses, batches and the ending are those of a
stack, and nothing is held out, printed or swallowed that the estimator does not know of. No other
room imports skorch, and this one is imported on use.
"""

from torchsk._skorch.lane import SkorchLane

__all__ = ["SkorchLane"]
