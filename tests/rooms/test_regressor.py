"""TorchRegressor: deviations and quantiles beside the mean."""

import numpy as np
import pytest
from losses import draw_problem
from sklearn.metrics import d2_pinball_score

from torchsk import TorchRegressor


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_gaussian_learns_the_noise_in_the_unit_of_y():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, size=(1000, 2))
    deviation = 10 * np.exp(X[:, 1])
    y = 1000 + 100 * X[:, 0] + deviation * rng.normal(size=1000)
    net = TorchRegressor(loss="gaussian", max_iter=60, random_state=0).fit(X, y)
    prediction, y_std = net.predict(X, return_std=True)
    np.testing.assert_array_equal(prediction, net.predict(X))
    assert y_std.shape == (1000,)
    assert np.corrcoef(y_std, deviation)[0, 1] > 0.9
    assert 0.6 < np.mean(abs(y - prediction) < y_std) < 0.76
    with pytest.raises(ValueError, match="return_std must be False"):
        TorchRegressor(max_iter=1).fit(X, y).predict(X, return_std=True)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("n_targets", [1, 2])
def test_quantiles_are_predicted_and_scored_together(n_targets):
    X, y = draw_problem("regression", positive=False)
    y, levels = (y[:, 0] if n_targets == 1 else y), [0.1, 0.5, 0.9]
    net = TorchRegressor(loss="quantile", loss_params={"quantile": levels}, random_state=0)
    prediction = net.fit(X, y).predict(X)
    assert prediction.shape == (*y.shape, 3)
    assert (np.diff(prediction, axis=-1) >= 0).all()
    np.testing.assert_allclose(
        [(y < q).mean() for q in np.moveaxis(prediction, -1, 0)], levels, atol=0.1
    )
    weight = np.arange(200.0)
    expected = [
        d2_pinball_score(y, prediction[..., i], alpha=level, sample_weight=weight)
        for i, level in enumerate(levels)
    ]
    assert net.score(X, y, sample_weight=weight) == pytest.approx(np.mean(expected))
