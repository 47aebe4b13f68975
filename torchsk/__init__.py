"""torch networks as true scikit-learn estimators."""

from torchsk import _stacking
from torchsk._classifier import TorchClassifier
from torchsk._compare import Comparison, compare
from torchsk._convert import from_sklearn, to_sklearn
from torchsk._displays import ComparisonDisplay, LossCurveDisplay
from torchsk._regressor import TorchRegressor

__version__ = "0.1.0"

__all__ = [
    "Comparison",
    "ComparisonDisplay",
    "LossCurveDisplay",
    "TorchClassifier",
    "TorchRegressor",
    "compare",
    "from_sklearn",
    "to_sklearn",
]

_stacking.register()
