"""scikit-learn's own tests of its MLP, run on our classes under scikit-learn's defaults.

The installed test file is executed with MLPClassifier and MLPRegressor bound to subclasses of ours
that differ in their defaults only; its test functions then become those of this file.
"""

import inspect
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import sklearn.neural_network
from sklearn.neural_network import MLPClassifier, MLPRegressor

from torchsk import TorchClassifier, TorchRegressor

# their own runs show warnings, ours are errors
pytestmark = pytest.mark.filterwarnings("default", "ignore::sklearn.exceptions.ConvergenceWarning")

NOT_OURS = {
    "dropout": 0,
    "standardize": False,
    "max_grad_norm": None,
    "scoring": None,
    "batch_size": 200,  # what "auto" is there
}
#: test -> (how it fails here, why it is not asked of ours)
EXCEPTED = {
    "test_fit": (
        AttributeError,
        "builds a fitted model by setting coefs_ and private attributes; test_parity.py compares "
        "a first partial_fit with scikit-learn's instead",
    ),
    "test_gradient": (
        AttributeError,
        "calls the private _loss_grad_lbfgs; test_mlp.py compares gradients with autograd",
    ),
    "test_learning_rate_warmstart": (
        AttributeError,
        "reads the private _optimizer; test_parity.py compares schedules and warm starts",
    ),
    "test_adaptive_learning_rate": (
        AttributeError,
        "reads the private _optimizer; test_parity.py compares adaptive runs to their end",
    ),
    "test_n_iter_no_change": (
        AttributeError,
        "reads the private _no_improvement_count; test_parity.py compares where plateaus end",
    ),
    "test_n_iter_no_change_inf": (
        AttributeError,
        "reads the private _no_improvement_count; test_parity.py has an infinite one as well",
    ),
    "test_nonfinite_params": (
        AssertionError,
        "expects the words of an error after training; ours comes before: X is out of range",
    ),
    "test_predict_proba_multilabel": (
        AssertionError,
        "expects the same argmax of probabilities that round to 1 and of their logarithms, which "
        "ours tell apart; test_heads.py compares them with log_expit",
    ),
    "test_mlp_partial_fit_after_fit": (
        pytest.fail.Exception,
        "expects partial_fit to raise with early_stopping=True; ours trains on",
    ),
}


@pytest.fixture(autouse=True)
def global_state():
    """Some of their tests draw from numpy's global generator, and end differently by the draw."""
    np.random.seed(0)  # noqa: NPY002


def with_defaults_of(theirs, ours):
    """Return a subclass of ours whose parameters have the defaults of theirs."""
    known = inspect.signature(theirs).parameters
    defaults = {name: parameter.default for name, parameter in known.items()} | NOT_OURS
    signature = inspect.signature(ours.__init__)
    signature = signature.replace(
        parameters=[
            parameter.replace(default=defaults.get(name, parameter.default))
            for name, parameter in signature.parameters.items()
        ]
    )

    def __init__(self, *args, **params):
        bound = signature.bind(self, *args, **params)
        bound.apply_defaults()
        ours.__init__(*bound.args, **bound.kwargs)

    __init__.__signature__ = signature
    body = {"__init__": __init__, "__module__": __name__, "__qualname__": theirs.__name__}
    return type(theirs.__name__, (ours,), body)


def load_tests():
    """Return scikit-learn's test module, executed with our classes in place of its own."""
    path = Path(sklearn.neural_network.__file__).parent / "tests" / "test_mlp.py"
    module = ModuleType("torchsk_under_sklearn_tests")
    with pytest.MonkeyPatch.context() as patch:
        for theirs, ours in OURS.items():
            patch.setattr(sklearn.neural_network, theirs.__name__, ours)
        exec(compile(path.read_text(), path, "exec"), vars(module))
    return module


OURS = {
    MLPClassifier: with_defaults_of(MLPClassifier, TorchClassifier),
    MLPRegressor: with_defaults_of(MLPRegressor, TorchRegressor),
}
# where pickle looks for the classes
for _theirs, _ours in OURS.items():
    setattr(sys.modules[__name__], _theirs.__name__, _ours)

TESTS = {name: test for name, test in vars(load_tests()).items() if name.startswith("test_")}
for _name, _test in TESTS.items():
    if _name in EXCEPTED:
        _error, _reason = EXCEPTED[_name]
        _test = pytest.mark.xfail(raises=_error, reason=_reason, strict=True)(_test)
    globals()[_name] = _test


@pytest.fixture
def global_random_seed():
    """scikit-learn's fixture, at its default."""
    return 42


def test_the_excepted_tests_exist():
    assert set(EXCEPTED) <= set(TESTS)
    assert len(TESTS) > 40


def test_the_classes_differ_from_ours_in_defaults_only():
    for theirs, ours in OURS.items():
        known = theirs().get_params() | {"batch_size": NOT_OURS["batch_size"]}
        assert known.items() <= ours().get_params().items()
        assert not {"fit", "partial_fit", "predict", "score"} & set(vars(ours))
