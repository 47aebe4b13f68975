"""A fitted estimator is a small thing that can be kept, sent, and read without fear.

`PYTHONPATH=tests python tests/promises/test_saving.py` writes tests/data anew.
"""

import copy
import dataclasses
import functools
import io
import json
import os
import pickle
import random
import subprocess
import sys
import types
import zipfile
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import pytest
import scipy.sparse as sp
import skorch.callbacks as cbs
import torch
from networks import Net, mlp
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

import torchsk
from torchsk import TorchClassifier, TorchRegressor

sio = pytest.importorskip("skops.io")

DATA = Path(__file__).parents[1] / "data"
CLASSIFIERS = {
    "plain": {},
    "no scaler": {"standardize": False},
    "early stopping": {"early_stopping": True},
    "adam": {"solver": "adam"},
    "lbfgs": {"solver": "lbfgs"},
    "dropout": {"dropout": [0.5, 0.0], "hidden_layer_sizes": (4, 3), "activation": ["tanh", "elu"]},
    "linear": {"hidden_layer_sizes": ()},
    "hinge": {"loss": "hinge"},
    "focal": {"loss": "focal", "loss_params": {"gamma": 1.5}},
    "weighted": {"loss": "cross_entropy", "loss_params": {"weight": [1, 2, 3]}},
    "nll": {"loss": "nll"},
    "class weights": {"class_weight": {0: 1.0, 1: 2.0, 2: 1.0}},
    "embedded": {"numerical_embedding": "periodic"},
    "generator": {"random_state": np.random.RandomState(0)},
}
REGRESSORS = {
    "plain": {},
    "no scaler": {"standardize": False, "max_iter": 1},
    "early stopping": {"early_stopping": True, "scoring": "neg_mean_absolute_error"},
    "absolute error": {"loss": "absolute_error"},
    "huber": {"loss": "huber", "loss_params": {"delta": 0.5}},
    "smooth_l1": {"loss": "smooth_l1", "loss_params": {"beta": 2.0}},
    "quantile": {"loss": "quantile", "loss_params": {"quantile": [0.1, 0.5, 0.9]}},
    "poisson": {"loss": "poisson"},
    "gamma": {"loss": "gamma"},
    "tweedie": {"loss": "tweedie", "loss_params": {"power": 1.5}},
    "gaussian": {"loss": "gaussian"},
}


def fitted(kind, name):
    """(a fitted estimator, rows to predict); both small."""
    if kind == "classifier":
        X, y = load_iris(return_X_y=True)
        net = TorchClassifier(**{"random_state": 0, "max_iter": 3, **CLASSIFIERS[name]})
    else:
        X, y = load_diabetes(return_X_y=True)
        net = TorchRegressor(**{"random_state": 0, "max_iter": 3, **REGRESSORS[name]})
    return net.fit(X, y), X


ALL = [
    *(("classifier", name) for name in CLASSIFIERS),
    *(("regressor", name) for name in REGRESSORS),
]


#: the files of torchsk that a fitted built-in network has classes of; building one runs no code
ROOMS = tuple(
    f"torchsk.{room}."
    for room in (
        "_classifier", "_embedding", "_heads", "_mlp", "_models", "_regressor", "_standardizer",
        "_targets", "_training.jobs", "_training.progress",
    )
)  # fmt: skip


def load_skops(data):
    """Load what torchsk has written, and nothing else: the lines of docs/saving.rst."""
    types = sio.get_untrusted_types(data=data)
    if not all(name.startswith(ROOMS) for name in types):
        raise ValueError(f"asks for {types}")
    return sio.loads(data, trusted=types)


def through_joblib(net):
    stream = io.BytesIO()
    joblib.dump(net, stream, compress=3)
    stream.seek(0)
    return joblib.load(stream)


WAYS = {
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
    "pickle, oldest protocol": lambda net: pickle.loads(pickle.dumps(net, protocol=0)),
    "joblib": through_joblib,
    "skops": lambda net: load_skops(sio.dumps(net)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


def predictions(net, X):
    parts = [net.predict(X)]
    for name in ("predict_proba", "decision_function"):
        if hasattr(net, name):
            parts.append(getattr(net, name)(X))
    if net.loss == "gaussian":
        parts.extend(net.predict(X, return_std=True))
    return parts


# -- round trips -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_round_trips(kind, name):
    net, X = fitted(kind, name)
    for how, go in WAYS.items():
        twin = go(net)
        assert type(twin) is type(net)
        assert vars(twin).keys() == vars(net).keys(), how
        for ours, theirs in zip(predictions(net, X), predictions(twin, X), strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=how)
            assert ours.dtype == theirs.dtype
        for ours, theirs in zip(net.coefs_, twin.coefs_):
            np.testing.assert_array_equal(ours, theirs)
        assert getattr(twin, "loss_curve_", 0) == getattr(net, "loss_curve_", 0)


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_training_goes_on_from_a_file(solver, how, iris):
    X, y = iris
    net = TorchClassifier((4,), solver=solver, random_state=0, batch_size=40, max_iter=3).fit(X, y)
    twin = WAYS[how](net)
    before = twin.coefs_[0].copy(), list(twin.loss_curve_)
    for _ in range(3):
        net.partial_fit(X, y)
    np.testing.assert_array_equal(twin.coefs_[0], before[0])  # what a copy shares is not written to
    assert twin.loss_curve_ == before[1]
    for _ in range(3):
        twin.partial_fit(X, y)
    np.testing.assert_array_equal(twin.coefs_[0], net.coefs_[0])
    assert twin.loss_curve_ == net.loss_curve_


@pytest.mark.parametrize("how", WAYS)
def test_a_pipeline_and_an_unfitted_one(how, iris):
    pipe = make_pipeline(StandardScaler(), TorchClassifier((4,), max_iter=3, random_state=0))
    pipe.fit(*iris)
    np.testing.assert_array_equal(
        WAYS[how](pipe).predict_proba(iris[0]), pipe.predict_proba(iris[0])
    )
    unfitted = WAYS[how](TorchRegressor("huber", alpha=0.5))
    assert unfitted.get_params() == TorchRegressor("huber", alpha=0.5).get_params()
    assert not hasattr(unfitted, "n_iter_")


def test_another_process_reads_the_file(tmp_path):
    net, X = fitted("regressor", "quantile")
    joblib.dump(net, tmp_path / "net.joblib")
    np.save(tmp_path / "X.npy", X)
    script = """
import joblib, numpy as np
np.save("p.npy", joblib.load("net.joblib").predict(np.load("X.npy")))
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=120)
    np.testing.assert_array_equal(np.load(tmp_path / "p.npy"), net.predict(X))


# -- what is inside --------------------------------------------------------------------------------


PLAIN = (str, bytes, int, float, complex, bool, type(None), np.generic, np.dtype)


def walk(value, path, seen):
    """Yield every (path, object) that a value holds."""
    if id(value) in seen:
        return
    seen.add(id(value))
    yield path, value
    if isinstance(value, PLAIN):
        return
    if isinstance(value, dict):
        children = [(f"{path}[{key!r}]", item) for key, item in value.items()]
        children += [(f"{path} key", key) for key in value]
    elif isinstance(value, list | tuple | set | frozenset):
        children = [(f"{path}[{i}]", item) for i, item in enumerate(value)]
    elif isinstance(value, np.ndarray):
        children = [(f"{path}.base", value.base)] if value.base is not None else []
        if value.dtype == object:
            children += [(f"{path}[...]", item) for item in value.ravel()]
    else:
        children = [
            (f"{path}.{name}", item) for name, item in getattr(value, "__dict__", {}).items()
        ]
    for name, child in children:
        yield from walk(child, name, seen)


FORBIDDEN = (
    torch.Tensor, torch.dtype, torch.device, torch.Generator, nn.Module, torch.optim.Optimizer,
    io.IOBase, np.memmap, sp.sparray, sp.spmatrix, functools.partial, type,
    types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType,
)  # fmt: skip


class Modules(pickle.Unpickler):
    """Notes the packages that a pickle needs."""

    def __init__(self, file):
        super().__init__(file)
        self.found = set()

    def find_class(self, module, name):
        self.found.add(module.split(".")[0])
        return super().find_class(module, name)


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_nothing_inside_but_arrays_numbers_and_words(kind, name):
    net, _ = fitted(kind, name)
    n_weights = sum(part.size for part in [*net.coefs_, *net.intercepts_])
    for path, value in walk(net, "net", set()):
        assert not isinstance(value, FORBIDDEN), path
        if isinstance(value, PLAIN + (dict, list, tuple, np.ndarray, np.random.RandomState)):
            continue
        if type(value).__module__.startswith("numpy."):
            continue  # inside of the caller's own RandomState
        assert type(value).__module__.startswith("torchsk."), path
        assert value is net or dataclasses.is_dataclass(value), path
    reader = Modules(io.BytesIO(pickle.dumps(net)))
    reader.load()
    assert reader.found <= {"torchsk", "numpy", "builtins", "copyreg", "_codecs"}
    arrays = [v for _, v in walk(vars(net), "", set()) if isinstance(v, np.ndarray)]
    assert max(array.size for array in arrays) <= max(2 * n_weights, 700)


@pytest.mark.parametrize(
    ("params", "factor"),
    [({"solver": "sgd"}, 2), ({"solver": "adam"}, 3), ({"solver": "lbfgs"}, 2)],
    ids=str,
)
def test_the_size_is_that_of_the_weights(params, factor):
    # float32 weights with one or two moments per weight; lbfgs has float64 weights
    rng = np.random.RandomState(0)
    X, y = rng.normal(size=(9000, 50)), rng.randint(0, 3, 9000)
    net = TorchClassifier((300, 300), max_iter=1, random_state=0, **params).fit(X, y)
    weights = 4 * sum(part.size for part in [*net.coefs_, *net.intercepts_])
    for size in (len(pickle.dumps(net)), len(sio.dumps(net))):
        assert factor * weights <= size < factor * weights + 80_000 < X.nbytes


def test_rows_do_not_count():
    rng = np.random.RandomState(0)
    sizes = []
    for n_rows in (100, 3000):
        X, y = rng.normal(size=(n_rows, 3)), rng.normal(size=n_rows)
        net = TorchRegressor(
            hidden_layer_sizes=(4,), early_stopping=True, max_iter=2, random_state=0
        ).fit(X, y)
        sizes.append(len(pickle.dumps(net)))
    assert abs(sizes[1] - sizes[0]) < 100


# -- where there is no such device -----------------------------------------------------------------


def _absent_device():
    return next(d for d in ("cuda", "mps", "xpu") if not getattr(torch, d).is_available())


@pytest.mark.parametrize("how", WAYS)
def test_a_model_from_another_device(how, iris):
    X, y = iris
    net = TorchClassifier((4,), max_iter=3, random_state=0).fit(X, y)
    expected = net.predict_proba(X)
    absent = _absent_device()  # as if it had been trained there
    net.device, net.device_ = absent, absent
    net._fitted = replace(net._fitted, model=replace(net._fitted.model, device=absent))
    twin = WAYS[how](net)
    np.testing.assert_array_equal(twin.predict_proba(X), expected)
    assert twin.device_ == absent
    assert twin.module_(torch.ones(1, 4)).shape == (1, 3)
    with pytest.raises(ValueError, match=f"device must be one of .*{absent}"):
        twin.fit(X, y)
    np.testing.assert_array_equal(twin.predict_proba(X), expected)
    twin.set_params(device="cpu").partial_fit(X, y)
    assert twin.device_ == "cpu"


# -- files of this version -------------------------------------------------------------------------


KEPT = {
    "classifier": (TorchClassifier, {}, load_iris),
    "regressor": (TorchRegressor, {}, load_diabetes),
    "embedded": (TorchClassifier, {"numerical_embedding": "periodic"}, load_iris),
}


def _kept(kind):
    make, changes, load = KEPT[kind]
    X, y = load(return_X_y=True)
    changes = {"hidden_layer_sizes": (5,), "early_stopping": True, "max_iter": 20, **changes}
    net = make(random_state=0, **changes)
    return net.fit(X, y), X, y


def _predict(net, X):
    return net.predict_proba(X) if hasattr(net, "predict_proba") else net.predict(X)


def _write_data():
    """Write the files that later versions must be able to read."""
    folder = DATA / torchsk.__version__
    folder.mkdir(exist_ok=True)
    for kind in KEPT:
        net, X, _ = _kept(kind)
        sio.dump(net, folder / f"{kind}.skops", compression=zipfile.ZIP_DEFLATED, compresslevel=9)
        content = {"X": X[::30].tolist(), "prediction": _predict(net, X[::30]).tolist()}
        (folder / f"{kind}.json").write_text(json.dumps(content))


def test_files_of_this_version_are_kept():
    assert {path.stem for path in (DATA / torchsk.__version__).glob("*.skops")} == set(KEPT)


@pytest.mark.parametrize("name", sorted(str(p.relative_to(DATA)) for p in DATA.glob("*/*.skops")))
def test_a_kept_file_is_still_read(name):
    """Those of every version."""
    path = DATA / name
    net, content = load_skops(path.read_bytes()), json.loads(path.with_suffix(".json").read_text())
    predictions = _predict(net, np.array(content["X"]))
    np.testing.assert_allclose(predictions, content["prediction"], rtol=1e-9)
    _, X, y = _kept(path.stem)
    assert clone(net).fit(X, y).n_iter_ > 0


# -- spoiled files ---------------------------------------------------------------------------------


WATCHED = ("os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.Popen",
           "socket.connect", "os.remove", "os.rename", "os.rmdir", "os.mkdir", "shutil.rmtree",
           "exec", "ctypes.dlopen", "webbrowser.open", "pickle.find_class",
           "marshal.loads")  # fmt: skip
_seen, _is_watching = [], False


def _watch(event, args):
    if not _is_watching:
        return
    writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
    if event in WATCHED or writes:
        _seen.append((event, args))


@pytest.fixture
def watch():
    """A context in which everything that Python runs, removes or writes is noted."""
    global _is_watching
    if not getattr(test_a_spoiled_file_runs_nothing, "hooked", False):
        sys.addaudithook(_watch)
        test_a_spoiled_file_runs_nothing.hooked = True
    _seen.clear()
    _is_watching = True
    yield _seen
    _is_watching = False


EVIL = [
    ("os", "system"), ("builtins", "exec"), ("builtins", "eval"), ("subprocess", "Popen"),
    ("pathlib", "Path"), ("shutil", "rmtree"), ("torch", "load"), ("pickle", "loads"),
    ("joblib", "load"), ("torch.hub", "load"), ("numpy", "load"), ("importlib", "import_module"),
    ("torchsk._fitting", "copy"), ("torchsk._stacking", "threading"),
    ("torchsk", "TorchClassifier"),
]  # fmt: skip
LOADERS = ["ObjectNode", "FunctionNode", "TypeNode", "PartialNode", "MethodNode", "JsonNode",
           "ConstructorFromReduceNode", "OperatorFuncNode", "NdArrayNode", "Missing",
           "DictNode"]  # fmt: skip
VALUES = [None, -1, 10**30, 1e308, "", "x", [], {}, True, "../../etc/passwd", "NaN", [0], "float32"]


def places(value, path=()):
    """Yield the path to everything in a tree of JSON."""
    yield path
    lists = enumerate(value) if isinstance(value, list) else ()
    for key, item in value.items() if isinstance(value, dict) else lists:
        yield from places(item, (*path, key))


def spoil_schema(schema, rng):
    schema = copy.deepcopy(schema)
    *path, last = rng.choice([path for path in places(schema) if path])
    parent = schema
    for key in path:
        parent = parent[key]
    kind = rng.randrange(4)
    if kind == 0:
        del parent[last]
    elif kind == 1:
        parent[last] = rng.choice(VALUES)
    elif kind == 2:
        other = schema
        for key in rng.choice(list(places(schema))):
            other = other[key]
        parent[last] = copy.deepcopy(other)
    else:
        objects = [p for p in places(schema) if p and p[-1] == "__loader__"]
        where = schema
        for key in rng.choice(objects)[:-1]:
            where = where[key]
        where["__module__"], where["__class__"] = rng.choice(EVIL)
        if rng.random() < 0.7:
            where["__loader__"] = rng.choice(LOADERS)
    return schema


def spoil(data, rng):
    """Return a file that is a little wrong: in its bytes, its arrays or its schema."""
    kind = rng.randrange(4)
    if kind == 0:
        data = bytearray(data)
        for _ in range(rng.randint(1, 20)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        return bytes(data)
    if kind == 1:
        return data[: rng.randrange(len(data))] + rng.randbytes(rng.randrange(9))
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        names = [name for name in old.namelist() if name != "schema.json"]
        chosen = rng.choice(names)
        for name in old.namelist():
            content = bytearray(old.read(name))
            if name == "schema.json" and kind == 2:
                content = json.dumps(spoil_schema(json.loads(content), rng)).encode()
            elif name == chosen and kind == 3:
                for _ in range(rng.randint(1, 9)):
                    content[rng.randrange(len(content))] = rng.randrange(256)
            new.writestr(name, bytes(content))
    return out.getvalue()


def test_a_spoiled_file_runs_nothing(watch):
    net, X, _ = _kept("classifier")
    data = sio.dumps(net)
    trusted = sio.get_untrusted_types(data=data)
    rng, outcomes = random.Random(0), {"raised": 0, "loaded": 0, "predicted": 0}
    directory = set(os.listdir())
    for _ in range(300):
        spoiled = spoil(data, rng)
        try:
            loaded = sio.loads(spoiled, trusted=trusted)
        except Exception:
            outcomes["raised"] += 1
            continue
        finally:
            assert watch == []
        outcomes["loaded"] += 1
        try:
            proba = loaded.predict_proba(X)
        except Exception:
            continue
        assert np.isfinite(proba).all()
        outcomes["predicted"] += 1
    print(outcomes)
    assert min(outcomes.values()) > 10
    assert set(os.listdir()) == directory


@pytest.mark.parametrize(
    "name",
    [("os", "system"), ("torchsk._skorch.nets", "ClassifierNet"), ("torchsk._fitting", "copy"),
     ("torchsk", "TorchClassifier"), ("torchsk_", "_heads"), ("torchsk._modules", "ModuleModel")],
)  # fmt: skip
def test_a_file_that_asks_for_more_is_refused(name, watch):
    # a net of skorch holds a pickle: trusting all of torchsk's names would be a hole
    out, data = io.BytesIO(), sio.dumps(_kept("regressor")[0])
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for part in old.namelist():
            content = old.read(part)
            if part == "schema.json":
                schema = json.loads(content)
                nodes = [p for p in places(schema) if p and schema_at(schema, p) == "Standardizer"]
                node = schema_at(schema, nodes[0][:-1])
                node["__module__"], node["__class__"] = name
                content = json.dumps(schema)
            new.writestr(part, content)
    with pytest.raises(ValueError, match="asks for"):
        load_skops(out.getvalue())
    assert watch == []


def schema_at(schema, path):
    for key in path:
        schema = schema[key]
    return schema


def test_the_watch_sees(watch, tmp_path):
    os.system("true")
    (tmp_path / "file").write_text("x")
    assert {event for event, _ in watch} >= {"os.system", "open"}


# -- what skorch has trained -----------------------------------------------------------------------


class Linear(nn.Module):
    def __init__(self, n_features, n_outputs):
        super().__init__()
        self.layer = nn.Linear(n_features, n_outputs)

    def forward(self, X):
        return self.layer(X)


@pytest.mark.parametrize(
    "params",
    [{"module": Linear}, {"solver": torch.optim.Adadelta}, {"skorch_callbacks": []}],
    ids=str,
)
def test_skops_refuses_what_skorch_has_trained(params, iris):
    net = TorchClassifier(max_iter=2, random_state=0, **params).fit(*iris)
    with pytest.raises(TypeError, match="skops keeps no tensors.*pickle.*net_.save_params"):
        sio.dumps(net)
    for how in ("pickle", "joblib", "deepcopy", "copy"):
        twin = WAYS[how](net)
        np.testing.assert_array_equal(twin.predict_proba(iris[0]), net.predict_proba(iris[0]))


@pytest.mark.parametrize("use_safetensors", [False, True])
def test_weights_of_a_module(iris, tmp_path, use_safetensors):
    X, y = iris
    file, how = tmp_path / "weights", {"use_safetensors": use_safetensors}
    net = TorchClassifier(module=Linear, max_iter=5, random_state=0).fit(X, y)
    net.net_.save_params(f_params=file, **how)
    other = TorchClassifier(module=Linear, max_iter=1, random_state=1).fit(X, y)
    other.net_.load_params(f_params=file, **how)
    np.testing.assert_array_equal(other.predict_proba(X), net.predict_proba(X))


# -- cloned, saved, searched -----------------------------------------------------------------------


@pytest.mark.parametrize("how", ["pickle", "joblib", "deepcopy"])
def test_copies_of_a_fitted_estimator(iris, how, tmp_path):
    X, y = iris
    steps = [cbs.EpochScoring("accuracy", on_train=True), cbs.LRScheduler("StepLR", step_size=2)]
    clf = TorchClassifier(
        module=Net, max_iter=3, random_state=0, skorch_callbacks=steps, learning_rate="constant"
    ).fit(X, y)
    if how == "joblib":
        joblib.dump(clf, tmp_path / "clf")
        twin = joblib.load(tmp_path / "clf")
    else:
        twin = copy.deepcopy(clf) if how == "deepcopy" else pickle.loads(pickle.dumps(clf))
    np.testing.assert_array_equal(twin.predict_proba(X), clf.predict_proba(X))
    assert twin._fitted.model.holder is twin.net_  # one module, not two
    assert twin.net_.history == clf.net_.history
    assert twin.net_.module is twin.net_.module_
    twin.partial_fit(X, y)
    assert len(twin.net_.history) == 4
    assert len(clf.net_.history) == 3


def test_a_model_of_another_device_comes_to_the_cpu(iris):
    X, y = iris
    clf = TorchClassifier(module=mlp, max_iter=3, random_state=0).fit(X, y)
    before = clf.predict_proba(X)
    absent = next(d for d in ("cuda", "mps") if not getattr(torch.backends, d).is_built())
    clf.net_.device = absent  # as if it had been trained there
    model = dataclasses.replace(clf._fitted.model, device=absent)
    clf._fitted = dataclasses.replace(clf._fitted, model=model)
    loaded = pickle.loads(pickle.dumps(clf))
    assert loaded.net_.device == "cpu"
    np.testing.assert_array_equal(loaded.predict_proba(X), before)
    loaded.partial_fit(X, y)


def test_weights_are_saved_once(iris):
    clf = TorchClassifier(
        module=mlp, module_params={"width": 20_000}, max_iter=1, momentum=0,
        learning_rate=functools.partial(torch.optim.lr_scheduler.StepLR, step_size=2),
    ).fit(*iris)  # fmt: skip
    assert len(pickle.dumps(clf)) < 20_000 * 8 * 4 * 2 + 20_000  # weights and moments


def test_partial_fit_goes_on_after_pickling(iris):
    X, y = iris
    clf = TorchClassifier(module=mlp, solver="adam", random_state=0, batch_size=40)
    clf.partial_fit(X, y, classes=[0, 1, 2])
    loaded = pickle.loads(pickle.dumps(clf))
    for model in (clf, loaded):
        model.partial_fit(X, y)
    np.testing.assert_array_equal(clf.predict_proba(X), loaded.predict_proba(X))
    assert clf.loss_curve_ == loaded.loss_curve_


if __name__ == "__main__":
    _write_data()
