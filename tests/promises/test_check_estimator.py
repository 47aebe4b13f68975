"""scikit-learn's own checks: what check_estimator runs, and what it leaves out."""

import os
import subprocess
import sys

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
]


@parametrize_with_checks(ESTIMATORS)
def test_estimator(estimator, check):
    check(estimator)


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
import collections, warnings
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import check_estimator
from torchsk import TorchClassifier, TorchRegressor

torch.set_num_threads(1)
warnings.simplefilter("ignore", ConvergenceWarning)
for estimator in (TorchClassifier(), TorchRegressor()):
    results = check_estimator(estimator)  # raises at the first check that fails
    print(*sorted({result["status"] for result in results}))
"""


def test_no_check_is_skipped_with_the_array_api():
    run = subprocess.run(
        [sys.executable, "-c", ARRAY_API_RUN],
        env=os.environ | {"SCIPY_ARRAY_API": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["passed", "passed"]


# -- a module --------------------------------------------------------------------------------------


SMALL = {"module": Small, "max_iter": 100, "solver": "adam", "learning_rate_init": 0.01}


@parametrize_with_checks([TorchClassifier(**SMALL), TorchRegressor(**SMALL, standardize=True)])
def test_check_estimator(estimator, check):
    check(estimator)
