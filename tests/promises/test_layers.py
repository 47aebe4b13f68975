"""The rooms of the house: who may import whom, and what each room keeps to itself."""

import ast
import itertools
import re
from pathlib import Path

import pytest

import torchsk
from torchsk._solvers import SOLVERS

PACKAGE = Path(torchsk.__file__).parent
# a folder is one room to the others; in it, too, imports go one way
FOLDERS = {
    "_heads": ["tools", "base", "classification", "regression", "custom", "registry", "__init__"],
    "_skorch": ["batches", "nets", "lane", "__init__"],
    "_training": ["progress", "jobs", "run", "batches", "graphs", "stack", "lbfgs", "__init__"],
}
FILES = {
    f"{folder}.{path.stem}": path.read_text()
    for folder in FOLDERS
    for path in (PACKAGE / folder).glob("*.py")
}
ROOMS = {path.stem: path.read_text() for path in PACKAGE.glob("*.py")} | {
    folder: "\n".join(text for file, text in FILES.items() if file.startswith(folder))
    for folder in FOLDERS
}
# From the top of the house to its ground: a room imports from floors below its own only.
FLOORS = [
    {"__init__"},
    {"_convert", "_compare"},
    {"_classifier", "_displays", "_regressor"},
    {"_base"},
    {"_fitting", "_stacking"},
    {"_dealing", "_executors", "_skorch"},
    {"_training"},
    {"_modules", "_optimizers"},
    {"_models", "_parameters"},
    {"_sparse"},
    {"_mlp", "_rows", "_targets"},
    {"_activations", "_embedding", "_heads", "_inputs", "_schedules", "_solvers", "_standardizer"},
    {"_data", "_defaults", "_dropout", "_hints", "_matmul", "_runtime", "_sklearn_compat"},
]
# Rooms that know nothing of the house.
ALONE = {"_activations", "_displays", "_heads", "_schedules", "_solvers"} | FLOORS[-1]
# Rooms that own solvers: what one needs of the name of a solver is asked there.
OWNERS = {"_solvers", "_optimizers"}
#: functions of users, whose arguments are theirs
PUBLIC = {"compare", "fit", "partial_fit", "plot"}
every_room = pytest.mark.parametrize("room", sorted(ROOMS))


def _imports(source):
    """Yield (module, name) for every import, wherever in the source it stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = "torchsk" if node.level else ""
            module = ".".join(part for part in (package, node.module) if part)
            yield from ((module, alias.name) for alias in node.names)


@every_room
def test_arrows_point_downwards(room):
    names = {
        part
        for module, name in _imports(ROOMS[room])
        for part in f"{module}.{name}".split(".")[1:2]
        if module.split(".")[0] == "torchsk"
    }
    floor = next(i for i, rooms in enumerate(FLOORS) if room in rooms)
    below = set() if room in ALONE else set().union(*FLOORS[floor + 1 :])
    assert names <= below | {room}


@pytest.mark.parametrize("file", sorted(FILES))
def test_arrows_inside_a_folder(file):
    folder, name = file.split(".")
    order = FOLDERS[folder]
    for module, _ in _imports(FILES[file]):
        if module.startswith(f"torchsk.{folder}."):
            assert order.index(module.split(".")[2]) < order.index(name)


@every_room
def test_private_names_and_skorch_stay_in_their_rooms(room):
    for module, name in _imports(ROOMS[room]):
        library, private = module.split(".")[0], re.search(r"(^|\.)_", f"{module}.{name}")
        assert room == "_sklearn_compat" or not (library == "sklearn" and private), (module, name)
        assert room == "_skorch" or library != "skorch"


@every_room
def test_a_table_decides_not_an_if(room):
    chains = {"_heads": r"\bloss [!=]= |isinstance\([^)]*[Hh]ead", "": r"isinstance\([^)]*[Ll]ane"}
    for owner, chain in chains.items():
        assert room == owner or not re.search(chain, ROOMS[room]), owner


def _questions_of_solvers(source):
    """Yield every comparison, match and method call on a solver, or with the name of one."""
    for node in ast.walk(ast.parse(source)):
        asked = []
        if isinstance(node, ast.Compare):
            asked = [node.left, *node.comparators]
        elif isinstance(node, ast.Match):
            asked = [node.subject]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            asked = [node.func.value]
        for part in itertools.chain.from_iterable(map(ast.walk, asked)):
            named = getattr(part, "id", None), getattr(part, "attr", None)
            if any("solver" in str(name).lower() for name in named) or (
                isinstance(part, ast.Constant) and part.value in SOLVERS
            ):
                yield ast.unparse(node)
                break


@every_room
def test_a_lane_or_a_rule_is_asked_not_the_name_of_a_solver(room):
    allowed = {"SOLVERS.keys()"}  # the names that a parameter may have
    assert room in OWNERS or set(_questions_of_solvers(ROOMS[room])) <= allowed


@pytest.mark.parametrize(
    "question",
    [
        "job.solver == 'lbfgs'", "if solver in FULL_BATCH: pass", "x = 'sgd' != name",
        "self.solver.startswith('l')", "match settings.solver:\n    case 'adam': pass",
    ],
)  # fmt: skip
def test_that_test_sees_questions(question):
    assert list(_questions_of_solvers(question))


def _size(node):
    """Lines of a definition without its docstring."""
    body = node.body[1:] if ast.get_docstring(node) else node.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("file", sorted(set(ROOMS) - set(FOLDERS)) + sorted(FILES))
def test_rooms_and_functions_are_small(file):
    """Smells, not rules: what grows beyond them usually has a concept without a name."""
    tree = ast.parse(ROOMS.get(file) or FILES[file])
    kinds = ast.FunctionDef, ast.ClassDef, ast.Module
    nodes = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    docs = [node.body[0] for node in nodes if ast.get_docstring(node) is not None]
    n_lines = max(getattr(node, "end_lineno", 0) for node in tree.body) if tree.body else 0
    assert n_lines - sum(doc.end_lineno - doc.lineno + 1 for doc in docs) <= 450
    for function in (node for node in nodes if isinstance(node, ast.FunctionDef)):
        arguments = function.args
        names = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        is_public = function.name in ("__init__", *PUBLIC)
        assert is_public or len(names) <= 9, function.name
        assert function.name == "__init__" or _size(function) <= 60, function.name
