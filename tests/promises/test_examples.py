"""Every example runs, and reaches the figure it is there for."""

import re
import runpy
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from torchsk._activations import ACTIVATIONS

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run an example in an empty folder and return its variables."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plt, "show", lambda: None)
    yield lambda name: runpy.run_path(str(EXAMPLES / f"{name}.py"))
    plt.close("all")


def test_every_example_is_tested():
    source = Path(__file__).read_text()
    # plot_compare_with_sklearn takes longer; `make demo` and the gallery run it
    names = {path.stem for path in EXAMPLES.glob("plot_*.py")} - {"plot_compare_with_sklearn"}
    assert {name for name in names if f'run("{name}")' not in source} == set()


def test_every_example_is_in_one_section_of_the_gallery():
    index = (EXAMPLES / "index.rst").read_text()
    in_page = re.findall(r"^   \.\./examples/(\w+)\.py$", index, re.MULTILINE)
    in_sidebar = re.findall(r"^   (plot_\w+)$", index, re.MULTILINE)
    assert sorted(in_page) == sorted(path.stem for path in EXAMPLES.glob("plot_*.py"))
    assert in_page == in_sidebar


def test_one_neuron(run):
    seen = run("plot_one_neuron")
    neuron, line = seen["neuron"], seen["line"]
    train, test = (seen["X_train"], seen["y_train"]), (seen["X_test"], seen["y_test"])
    assert neuron.n_iter_ == 20
    assert neuron.score(*train) == pytest.approx(0.81, abs=0.005)
    assert neuron.score(*test) == pytest.approx(0.78, abs=0.005)
    assert neuron.score(*train) == pytest.approx(line.score(*train), abs=1e-6)
    assert [coef.shape for coef in seen["several"].coefs_] == [(2, 3), (3, 1)]
    assert seen["several"].score(seen["X_two"], seen["y_two"]) > 0.95
    assert seen["collapse_gap"] < 1e-12


def test_logistic_neuron(run):
    seen = run("plot_logistic_neuron")
    assert seen["train_score"] >= 0.96
    assert seen["test_score"] >= 0.94
    assert seen["default_score"] >= 0.94


def test_activations(run):
    seen = run("plot_activations")
    assert set(seen["NAMES"]) == set(ACTIVATIONS)
    z = seen["z"].detach().numpy()
    for values, slope in seen["curves"].values():
        is_smooth = np.abs(np.diff(slope, n=2, prepend=0, append=0)) < 0.05
        assert np.gradient(values, z)[is_smooth] == pytest.approx(slope[is_smooth], abs=0.02)
    assert seen["moved"]["logistic"] < 1e-3 * seen["moved"]["relu"]


def test_gradient_and_dtypes(run):
    seen = run("plot_gradient")
    assert set(seen["ACTIVATIONS"]) == set(ACTIVATIONS)
    assert seen["largest_gap"] < 1e-5
    assert seen["dtype_gap"] < 1e-5
    for (dtype, _), prediction in seen["predictions"].items():
        assert prediction.dtype == (np.float32 if dtype == "float32" else np.float64)


def test_linear_or_not(run):
    scores = run("plot_linear_or_not")["scores"]
    assert scores["ring", "linear"] < 0.7
    assert scores["ring", "two hidden layers"] >= 0.98
    assert scores["moons", "two hidden layers"] >= scores["moons", "linear"] + 0.03


def test_breast_cancer(run):
    seen = run("plot_breast_cancer")
    assert (len(seen["y_train"]), len(seen["y_test"])) == (455, 114)
    assert seen["n_wrong"] <= 8
    assert seen["test_score"] >= 0.96
    assert seen["scores"].mean() >= 0.96


def test_gene_expression(run):
    seen = run("plot_gene_expression")
    net = seen["net"]
    assert [len(coef) for coef in net.coefs_] == [500, 300, 100, 20]
    assert net.n_outputs_ == 7
    assert len(net.loss_curve_) == len(net.validation_loss_curve_) == 2000
    assert seen["n_wrong"] <= 1  # 3 of 716 would be 0.8 of 189
    assert seen["test_score"] >= 0.98
    assert seen["default_score"] >= 0.95


def test_three_losses(run):
    seen = run("plot_three_losses")
    assert [row["ends in"] for row in seen["rows"]] == ["logistic", "softmax", "softmax"]
    assert [row["outputs"] for row in seen["rows"]] == [1, 2, 2]
    assert len({row["test accuracy"] for row in seen["rows"]}) == 1
    assert seen["largest_gap"] < 1e-3
    assert seen["own_gap"] < 1e-4


def test_own_module(run):
    seen = run("plot_own_module")
    assert np.round(seen["trace"], 2).tolist() == pytest.approx(
        np.array(
            [
                (0.00, 0.00), (0.32, 0.12), (0.54, 0.14), (0.69, 0.10), (0.81, 0.04),
                (0.91, -0.03), (1.00, -0.11), (1.08, -0.18), (1.15, -0.25), (1.21, -0.31),
            ]
        )
    )  # fmt: skip
    linear, best = np.array(seen["linear_trace"]), seen["least_squares"]
    assert linear[10, :2] == pytest.approx([1.1, -0.8], abs=0.05)
    assert linear[99] == pytest.approx([*best.coef_, best.intercept_], abs=2e-3)


def test_images(run):
    scores = run("plot_images")["scores"]
    assert len(scores["convolutional"]) == 5
    assert scores["convolutional"].mean() > 0.98
    assert scores["convolutional"].mean() > scores["built-in, flattened"].mean()


def test_sequences(run):
    seen = run("plot_sequences")
    scores, accuracies = seen["scores"], seen["accuracies"]
    assert scores["convolutional"][-1] > 0.95
    assert max(scores["built-in, flattened"]) < seen["large_score"] < scores["convolutional"][0]
    assert accuracies["backwards"] < 0.05
    assert accuracies["in random order"] == pytest.approx(0.5, abs=0.05)


def test_two_features(run):
    seen = run("plot_two_features")
    table = seen["table"]
    assert (len(seen["X_train"]), len(seen["X_test"])) == (341, 114)
    # scaled, the validation loss stops the descent, where the defaults have long been
    assert 5000 < table.loc["logistic, scaled", "steps"] < 100_000
    assert table.loc["logistic, defaults", "steps"] < 1000
    losses = table["training loss"]
    assert losses["logistic, defaults"] == pytest.approx(losses["logistic, scaled"], abs=0.002)
    assert table.loc["logistic, scaled", "test error"] < 0.11
    for net in seen["hidden"].values():
        assert len(net.loss_curve_) == len(net.validation_loss_curve_) == 2000
    assert table.loc["two hidden neurons, scaled", "test error"] < 0.11
    rule = seen["rule"]
    assert (rule.xx0.min(), rule.xx0.max()) == (rule.xx1.min(), rule.xx1.max()) == (5, 35)
    is_malignant = rule.response > 0.5
    assert is_malignant[rule.xx0 > 20].all()
    assert not is_malignant[rule.xx0 < 10].any()


def test_training_options(run):
    seen = run("plot_training_options")
    scores = seen["scores"]
    for way in ["glorot_uniform", "kaiming_normal", "orthogonal"]:
        assert scores["init", way] > 0.94
    for way in ["constant", "cosine", "onecycle", "a function", "ExponentialLR"]:
        assert scores["schedule", way] > 0.94
    assert scores["batch", "batches of 32"] > scores["batch", "batches of 1347"]
    assert scores["module", "nn.Sequential"] > 0.94
    assert not any(parameter.grad is not None for parameter in seen["layers"].parameters())
    watched, logged = seen["watched"], seen["logged"]
    assert logged["Loss/train_loss"] == pytest.approx(watched.loss_curve_, rel=1e-5)
    assert logged["Loss/valid_loss"] == pytest.approx(watched.validation_loss_curve_, rel=1e-5)
    assert scores["device", "auto"] > 0.94
    assert seen["moved"].device_


def test_quantiles(run):
    seen = run("plot_quantiles")
    for level, share in seen["below"].items():
        assert share == pytest.approx(level, abs=0.05)
    assert seen["coverage"] == pytest.approx(0.9, abs=0.02)
    for shares in seen["coverage_by_group"].values():
        assert shares.to_numpy() == pytest.approx(0.9, abs=0.05)
    assert (seen["low"] <= seen["middle"]).all()
    assert (seen["middle"] <= seen["high"]).all()


def test_counts(run):
    d2 = run("plot_counts")["d2"]
    network = d2.pop("TorchRegressor")
    assert network > 0.9
    assert network > max(d2.values()) + 0.05


def test_noise(run):
    seen = run("plot_noise")
    assert seen["correlation"] > 0.95
    std = seen["crash_std"]
    assert std[:50].max() < 0.5 * std.max()
    assert (seen["mean"] - 2 * np.sin(seen["grid"])) == pytest.approx(0, abs=0.35)


def test_fast_search(run):
    seen = run("plot_fast_search")
    assert seen["score_gap"].max() < 0.002
    assert seen["alone"].best_params_ == seen["stacked"].best_params_
    assert seen["together"]["one by one"] == 1
    assert 12 <= seen["together"]["together"] <= 36
    assert all(len(fits) == 36 * 20 for fits in seen["ended"].values())


def test_unscaled_target(run):
    scores = run("plot_unscaled_target")["scores"]
    assert scores["MLPRegressor"] < -10
    assert scores["TorchRegressor"] > 0.9
    assert scores["TorchRegressor"] > scores["MLPRegressor, target scaled"] - 0.05


def test_mixed_table(run):
    seen = run("plot_mixed_table")
    assert seen["X_train"].isna().sum().to_dict() == {"sex": 0, "age": 201, "passengerClass": 0}
    assert seen["test_score"] > seen["majority"] + 0.1
    assert seen["search"].best_score_ > seen["majority"] + 0.1
    survived = {line.get_label(): line.get_ydata() for line in seen["ax"].lines}
    assert (survived["female, 1st class"] > survived["male, 1st class"]).all()
    for curve in survived.values():
        assert curve[0] > curve[-1]


def test_tables(run):
    scores = {name: values.mean() for name, values in run("plot_tables")["scores"].items()}
    assert scores["network, periodic"] > scores["network"] + 0.005
    assert scores["network, periodic"] > scores["trees"] - 0.01


def test_imbalanced(run):
    plain, balanced = run("plot_imbalanced")["scores"].values()
    # on every data set, as the page says
    assert (balanced["recall"] > plain["recall"] + 0.05).all()
    assert (balanced["balanced accuracy"] > plain["balanced accuracy"]).all()
    assert (balanced["accuracy"] < plain["accuracy"]).all()
    assert (balanced["precision"] < plain["precision"] - 0.2).all()
    assert (balanced["average precision"] > plain["average precision"] - 0.05).all()


@pytest.mark.slow
def test_threshold(run):
    seen = run("plot_threshold")
    costs, brier = ({k: np.array(v) for k, v in seen[name].items()} for name in ("costs", "brier"))
    for name in ["tuned threshold", "threshold 1/11"]:  # on every data set, as the page says
        assert (costs[name] < 0.75 * costs["threshold 0.5"]).all()
    plain = brier["threshold 0.5"]
    assert (brier["balanced"] > 1.2 * plain).all()
    assert brier["balanced, calibrated"] == pytest.approx(plain, abs=0.005)
