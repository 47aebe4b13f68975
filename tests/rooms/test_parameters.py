"""Parameters: what may be written in several ways, and what is refused with words that help."""

import numpy as np
import pytest
from networks import Classifier
from torch import nn

from torchsk import TorchClassifier


def test_hidden_layer_sizes_of_any_form(iris):
    X, y = iris
    expected = Classifier(max_iter=3, hidden_layer_sizes=(5,)).fit(X, y).predict_proba(X)
    for sizes in (5, [5], np.array([5]), (np.int64(5),)):
        model = Classifier(max_iter=3, hidden_layer_sizes=sizes).fit(X, y)
        np.testing.assert_array_equal(model.predict_proba(X), expected)
    linear = Classifier(hidden_layer_sizes=()).fit(X, y)
    assert len(linear.coefs_) == 1
    assert linear.score(X, y) > 0.9


class InPlace(nn.Module):
    def forward(self, z):
        return z.relu_()


BAD_PARAMETERS = [
    ({"device": "cuda:63"}, r"^device must be one of \[.*'cpu'.*\]; got device='cuda:63'\."),
    (
        {"device": "gpu"},
        r"^device must be one of .*; got device='gpu'\. Did you mean 'cuda'\?$",
    ),
    ({"hidden_layer_sizes": (5, 0)}, r"^hidden_layer_sizes must be .*; got .*=\(5, 0\)\.$"),
    ({"hidden_layer_sizes": [2.5]}, r"^hidden_layer_sizes must be .*; got .*=\[2\.5\]\.$"),
    ({"hidden_layer_sizes": "ab"}, r"hidden_layer_sizes.* must be"),
    ({"hidden_layer_sizes": [[2, 3]]}, r"^hidden_layer_sizes must be .*=\[\[2, 3\]\]\.$"),
    ({"dropout": [0.1, 0.2]}, r"^dropout must be .* \(1\); got dropout=\[0\.1, 0\.2\]\.$"),
    ({"dropout": [1.0]}, r"^dropout must be .*; got dropout=\[1\.0\]\.$"),
    ({"dropout": ["a"]}, r"^dropout must be .*; got dropout=\['a'\]\.$"),
    ({"dropout": 1.0}, r"The 'dropout' parameter of TorchClassifier must be"),
    ({"activation": ["relu"] * 2}, r"^activation must be .*; got activation=\['relu', 'relu'\]\.$"),
    ({"activation": ["step"]}, r"^activation must be one of .*; got activation='step'\.$"),
    ({"activation": "step"}, r"The 'activation' parameter of TorchClassifier must be"),
    ({"activation": nn.PReLU}, r"^activation must be .* without parameters .*; got .*PReLU'>\.$"),
    ({"activation": nn.Linear}, r"^activation must be .* without parameters .*; got .*Linear'>\.$"),
    ({"activation": nn.GLU}, r"^activation must .* keeps the shape .*; got .*GLU'>\.$"),
    ({"activation": nn.ReLU()}, r"; got activation=ReLU\(\): give the class nn\.ReLU, not an inst"),
    ({"activation": "foo"}, r"'relu6'}, .* an instance of 'type'\. Got 'foo' instead\.$"),
    ({"activation": InPlace}, r"^activation must be .* out of place; got .*InPlace'>\.$"),
    ({"activation": int}, r"^activation must be .*; got activation=<class 'int'>\.$"),
    (
        {"loss": "log"},
        r"^loss must be one of .*; got loss='log'\. Did you mean 'log_loss'\?$",
    ),
    (
        {"loss": "squared_error"},
        r"^loss must be one of .*; got loss='squared_error'\. TorchRegressor",
    ),
    ({"loss_params": {"power": 2}}, r"^loss_params must .*; got loss_params=\{'power': 2\}\.$"),
    ({"solver": "newton"}, r"The 'solver' parameter of TorchClassifier must be"),
    ({"init": "gauss"}, r"The 'init' parameter of TorchClassifier must be"),
    ({"max_grad_norm": 0.0}, r"The 'max_grad_norm' parameter of TorchClassifier must be"),
    ({"scoring": "beauty"}, r"^scoring must be .*; got scoring='beauty'\. .*get_scorer_names\(\)"),
    ({"scoring": "acuracy"}, r"^scoring must be .*='acuracy'\. Did you mean 'accuracy' or"),
    ({"scoring": "Accuracy"}, r"^scoring must be .*='Accuracy'\. Did you mean 'accuracy'\?$"),
    ({"activation": "ReLU"}, r"'activation' .* among .* Got 'ReLU' .*\. Did you mean 'relu'\?$"),
    ({"activation": ["Tanh"]}, r"^activation must .*='Tanh'\. Did you mean 'tanh'\?$"),
    ({"solver": "SGD"}, r"'solver' .* Got 'SGD' instead\. Did you mean 'sgd'\?$"),
    ({"init": "he_normal"}, r"'init' .* Got 'he_normal' .*\. Did you mean 'kaiming_normal'\?$"),
    ({"class_weight": "Balanced"}, r"'class_weight' .* Did you mean 'balanced'\?$"),
    ({"alpha": "Auto"}, r"'alpha' .* Did you mean 'auto'\?$"),
    ({"loss": "cross entropy "}, r"^loss must .*\. Did you mean 'cross_entropy'\?$"),
    ({"device": "CPU"}, r"^device must .*\. Did you mean 'cpu'\?$"),
    ({"solver": "magic"}, r"Got 'magic' instead\.$"),
    ({"alpha": -1.0}, r"Got -1\.0 instead\.$"),
    ({"learning_rate": 0.01}, r"Got 0\.01 instead\. Did you mean learning_rate_init=0\.01\?$"),
    ({"learning_rate": -1}, r"Got -1 instead\.$"),
    ({"learning_rate_init": "cosine"}, r"Did you mean learning_rate='cosine'\?$"),
    ({"early_stopping": True, "validation_fraction": 0.001}, r"^The validation set is too small"),
]


@pytest.mark.parametrize(("params", "message"), BAD_PARAMETERS, ids=lambda p: str(p)[:40])
def test_bad_parameters(params, message, iris):
    with pytest.raises(ValueError, match=message):
        Classifier(**{**params}).fit(*iris)


def test_a_subclass_may_have_parameters_of_its_own(iris):
    class Own(TorchClassifier):
        _parameter_constraints: dict = {
            **TorchClassifier._parameter_constraints, "unchecked": "no_validation"
        }  # fmt: skip

        def __init__(self, *, a=1, unchecked=1, solver="sgd"):
            super().__init__(solver=solver)
            self.a, self.unchecked = a, unchecked

    with pytest.raises(ValueError, match=r"Did you mean 'adam'\?$"):
        Own(solver="Adam").fit(*iris)


def test_what_a_solver_makes_no_use_of_is_said(iris):
    with pytest.warns(UserWarning, match="solver='lbfgs' makes no use of dropout"):
        Classifier(solver="lbfgs", dropout=0.5).fit(*iris)
    with pytest.warns(UserWarning, match="solver='lbfgs' makes no use of X_val and y_val"):
        Classifier(solver="lbfgs").fit(*iris, X_val=iris[0], y_val=iris[1])
