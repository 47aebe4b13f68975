"""scikit-learn's own checks: what check_estimator runs, and what it leaves out."""

import os
import subprocess
import sys
from unittest import SkipTest

import pytest
from networks import Small
from sklearn.base import clone
from sklearn.utils.estimator_checks import (
    check_all_zero_sample_weights_error,
    check_dataframe_column_names_consistency,
    check_inplace_ensure_writeable,
    check_param_validation,
    parametrize_with_checks,
)

from torchsk import TorchClassifier, TorchRegressor

ESTIMATORS = [
    TorchClassifier(),
    TorchRegressor(),
    TorchClassifier(solver="adam"),
    TorchRegressor(solver="adam"),
    TorchClassifier(numerical_embedding="periodic"),
    TorchRegressor(numerical_embedding="periodic"),
]


def run(check, estimator):
    """Run one check; a skipped one must be one of the array API, which runs below."""
    try:
        check(estimator)
    except SkipTest:
        assert check.func.__name__ == "check_array_api_input"
        raise


@parametrize_with_checks(ESTIMATORS)
def test_estimator(estimator, check):
    run(check, estimator)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
@pytest.mark.parametrize(
    "check",
    [
        check_all_zero_sample_weights_error,
        check_dataframe_column_names_consistency,
        check_inplace_ensure_writeable,
        check_param_validation,
    ],
)
def test_checks_that_scikit_learn_keeps_for_its_own_estimators(estimator, check):
    check(type(estimator).__name__, clone(estimator))


# SCIPY_ARRAY_API must be set before scipy is imported: a process of its own.
ARRAY_API_RUN = """
import warnings
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import estimator_checks_generator
from torchsk import TorchClassifier, TorchRegressor

torch.set_num_threads(1)
warnings.simplefilter("ignore", ConvergenceWarning)
for estimator in (TorchClassifier(), TorchRegressor()):
    for estimator, check in estimator_checks_generator(estimator):
        if check.func.__name__ == "check_array_api_input":
            check(estimator)  # raises where it would be skipped, too
            print("passed")
"""


def test_checks_of_the_array_api_are_not_skipped_where_scipy_has_it():
    done = subprocess.run(
        [sys.executable, "-c", ARRAY_API_RUN],
        env=os.environ | {"SCIPY_ARRAY_API": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {"passed"}


# -- a module --------------------------------------------------------------------------------------


SMALL = {"module": Small, "max_iter": 30, "solver": "adam", "learning_rate_init": 0.03}


@parametrize_with_checks([TorchClassifier(**SMALL), TorchRegressor(**SMALL, standardize=True)])
def test_module(estimator, check):
    run(check, estimator)
