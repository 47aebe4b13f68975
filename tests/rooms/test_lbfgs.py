"""lbfgs on a function with a known minimum."""

import math

import numpy as np
import pytest

from torchsk._training.lbfgs import minimize_lbfgs


def _quadratic(n=8):
    rng = np.random.RandomState(0)
    A = rng.normal(size=(n, n))
    A = A @ A.T + np.eye(n)
    b = rng.normal(size=n)
    return (lambda x: (0.5 * x @ A @ x - b @ x, A @ x - b)), np.linalg.solve(A, b)


def test_lbfgs_solves_a_quadratic():
    objective, solution = _quadratic()
    latest = []
    result = minimize_lbfgs(
        objective, np.zeros(8), max_iter=100, max_fun=1000, tol=1e-9, callback=latest.append
    )
    assert result.status == 0
    np.testing.assert_allclose(result.x, solution, rtol=1e-3)
    assert len(latest) == result.nit


@pytest.mark.parametrize("limit", ["max_iter", "max_fun"])
def test_lbfgs_stops_at_its_limits(limit):
    objective, _ = _quadratic()
    limits = {"max_iter": 100, "max_fun": 1000, limit: 3}
    result = minimize_lbfgs(objective, np.zeros(8), tol=1e-12, **limits)
    assert result.status == 1
    assert math.isfinite(result.fun)
