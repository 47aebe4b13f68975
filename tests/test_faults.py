"""Faults that were found, each as the test that it failed."""

import json
import subprocess
import sys
import textwrap

import joblib
import numpy as np
import pytest
import torch
from numpydoc.docscrape import ClassDoc
from sklearn.model_selection import GridSearchCV

from torchsk import TorchClassifier, TorchRegressor
from torchsk._heads import make_head

MB = 2**20


# -- heads -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss, name", [("huber", "delta"), ("smooth_l1", "beta")])
def test_heads_with_other_thresholds_are_not_equal(loss, name):
    one, nine = (make_head(loss, {name: value}, "regression", 1) for value in (1.0, 9.0))
    assert one != nine
    assert one.stack_key == nine.stack_key
    assert one.standardized(np.array([2.0])) != nine.standardized(np.array([2.0]))
    assert one.stack_key != make_head(loss, None, "regression", 2).stack_key


def test_folds_whose_thresholds_differ_train_in_one_stack(diabetes):
    X, y = diabetes
    net = TorchRegressor("huber", 4, max_iter=3, loss_params={"delta": 20.0}, random_state=0)
    alone = GridSearchCV(net, {"alpha": [0.1, 1.0]}, cv=3).fit(X, y)
    with joblib.parallel_config("torchsk"):
        stacked = GridSearchCV(net, {"alpha": [0.1, 1.0]}, cv=3).fit(X, y)
    np.testing.assert_allclose(
        stacked.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"], rtol=1e-4
    )


@pytest.mark.parametrize("weight", [torch.tensor([1.0, 2.0]), np.array([1.0, 2.0])], ids=type)
def test_own_losses_with_arrays_as_parameters_are_stacked(weight, diabetes):
    def loss(raw, target, weight):
        return ((raw - target).square() * torch.as_tensor(weight, dtype=raw.dtype)).sum(1)

    heads = [make_head(loss, {"weight": w}, "regression", 2) for w in (weight, weight * 1)]
    assert heads[0] == heads[1]
    assert hash(heads[0]) == hash(heads[1])
    assert heads[0] != make_head(loss, {"weight": weight * 2}, "regression", 2)
    X, y = diabetes
    net = TorchRegressor(loss, 4, max_iter=2, loss_params={"weight": weight}, random_state=0)
    with joblib.parallel_config("torchsk"):
        search = GridSearchCV(net, {"alpha": [0.1, 1.0]}, cv=2, error_score="raise")
        search.fit(X, np.column_stack([y, -y]))


# -- memory ----------------------------------------------------------------------------------------

LBFGS = """
    import json, resource, sys, warnings
    import numpy as np, torch
    from torchsk import TorchRegressor

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    X = np.random.RandomState(0).normal(size=(int(sys.argv[1]), 2))
    net = TorchRegressor(hidden_layer_sizes=500, solver="lbfgs", max_iter=2, random_state=0)
    net.fit(X[:1000], X[:1000, 0])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    net.fit(X, X[:, 0])
    print(json.dumps(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts kilobytes")
@pytest.mark.parametrize("n_rows", [50_000, 150_000])
def test_the_memory_of_lbfgs_is_bounded_by_the_widest_layer(n_rows):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LBFGS), str(n_rows)],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) < 160 * MB


# -- docstrings ------------------------------------------------------------------------------------

#: parameters whose words depend on what is predicted
DIFFERENT = {"loss", "loss_params", "learning_rate_init", "standardize", "scoring", "class_weight"}


def test_the_two_estimators_say_the_same_of_the_same_parameter():
    classes = TorchClassifier, TorchRegressor
    docs = [{p.name: p for p in ClassDoc(cls)["Parameters"]} for cls in classes]
    assert set(docs[0]) ^ set(docs[1]) == {"class_weight"}
    for name in set(docs[0]) - DIFFERENT:
        assert docs[0][name] == docs[1][name], name
