"""What an installed torchsk must do, without extras and from another folder than the checkout.

`make dist` runs it with the lowest versions that pyproject.toml promises.
"""

import importlib.metadata
import re
import sys
import tempfile
from pathlib import Path

import joblib
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import check_estimator
from torch import nn

import torchsk
from torchsk import TorchClassifier, TorchRegressor, _stacking


def check_readme():
    """Run the first Python block of the description that the wheel carries."""
    description = importlib.metadata.metadata("torchsk").get_payload()
    links = re.findall(r"\]\((?!https?://)[^)]*\)", description)
    assert not links, f"no file lies beside the description of a package: {links}"
    block = re.search(r"```python\n(.*?)```", description, re.DOTALL).group(1)
    print(block)
    exec(block, {})


def check_search():
    """Train a search in this process and on two workers, to the scores of single fits."""
    X, y = load_breast_cancer(return_X_y=True)
    net = TorchClassifier((15,), max_iter=5, random_state=0)
    search = GridSearchCV(net, {"alpha": [0.1, 1.0]}, cv=3)
    expected = search.fit(X, y).cv_results_["mean_test_score"]
    stacks, train = [], _stacking.TaskGroup.train
    _stacking.TaskGroup.train = lambda self, jobs: stacks.append(len(jobs)) or train(self, jobs)
    for n_jobs in (1, 2):
        with joblib.parallel_config("torchsk", n_jobs=n_jobs):
            np.testing.assert_allclose(search.fit(X, y).cv_results_["mean_test_score"], expected)
    assert stacks == [6], stacks  # those of the workers train there


def check_lanes():
    """Train a module, and save and load."""
    X, y = load_breast_cancer(return_X_y=True)
    module = nn.Sequential(nn.Linear(30, 8), nn.ReLU(), nn.Linear(8, 1))
    net = TorchClassifier(module=module, standardize=True, max_iter=5, random_state=0).fit(X, y)
    assert net.score(X, y) > 0.9
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.joblib"
        joblib.dump(net, path)
        assert (joblib.load(path).predict(X) == net.predict(X)).all()


def main():
    """Run everything."""
    root = Path(torchsk.__file__).resolve().parents[1]
    assert root.name == "site-packages", f"the checkout was imported: {root}"
    assert torchsk.__version__ == importlib.metadata.version("torchsk")
    assert (root / "torchsk" / "py.typed").exists()
    loaded = {"matplotlib", "pandas", "skorch"} & set(sys.modules)
    assert not loaded, f"imported too early: {loaded}"
    for name in ("numpy", "scipy", "joblib", "scikit-learn", "skorch", "threadpoolctl", "torch"):
        print(name, importlib.metadata.version(name))
    check_readme()
    check_search()
    check_lanes()
    for estimator in (TorchClassifier(), TorchRegressor()):
        results = check_estimator(estimator, on_fail=None)
        statuses = [result["status"] for result in results]
        print(estimator, {status: statuses.count(status) for status in sorted(set(statuses))})
        bad = [r for r in results if r["status"] in ("failed", "xfail")]
        assert not bad, bad


if __name__ == "__main__":
    main()
