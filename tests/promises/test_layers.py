"""The rooms of the house: who may import whom, and what each room keeps to itself."""

import ast
import re
from pathlib import Path

import pytest

import torchsk

PACKAGE = Path(torchsk.__file__).parent
ROOMS = {path.stem: path.read_text() for path in PACKAGE.glob("*.py")}
# a room of several files is one room to the others; inside it, registry -> losses -> base -> tools
HEADS = {path.stem: path.read_text() for path in (PACKAGE / "_heads").glob("*.py")}
ROOMS |= {"_heads": "\n".join(HEADS.values())}
# From the top of the house to its ground: a room imports from floors below its own only.
FLOORS = [
    {"__init__"},
    {"_convert", "_compare"},
    {"_estimators", "_displays"},
    {"_base"},
    {"_stacking", "_skorch"},
    {"_training"},
    {"_batches", "_lbfgs"},
    {"_jobs", "_modules", "_optimizers", "_parameters"},
    {"_models"},
    {"_heads", "_mlp", "_solvers", "_stopping", "_tensors"},
    {"_matmul", "_random", "_sklearn_compat"},
]
# Rooms that know nothing of the house.
ALONE = {"_heads", "_solvers", "_stopping", "_displays"}
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


@pytest.mark.parametrize("file", sorted(HEADS))
def test_arrows_inside_the_room_of_heads(file):
    order = ["tools", "base", "classification", "regression", "custom", "registry", "__init__"]
    for module, _ in _imports(HEADS[file]):
        if module.startswith("torchsk._heads."):
            assert order.index(module.split(".")[2]) < order.index(file)


@every_room
def test_private_names_and_skorch_stay_in_their_rooms(room):
    for module, name in _imports(ROOMS[room]):
        library, private = module.split(".")[0], re.search(r"(^|\.)_", f"{module}.{name}")
        assert room == "_sklearn_compat" or not (library == "sklearn" and private), (module, name)
        assert room == "_skorch" or library != "skorch"


@every_room
def test_a_table_decides_not_an_if(room):
    chains = {"_heads": r"\bloss [!=]= |isinstance\([^)]*[Hh]ead", "_solvers": r"\bsolver [!=]= "}
    for owner, chain in chains.items():
        assert room == owner or not re.search(chain, ROOMS[room]), owner
