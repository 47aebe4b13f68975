"""The words about torchsk: every python block runs, every public docstring is whole."""

import ast
import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest
from numpydoc.docscrape import ClassDoc
from numpydoc.validate import validate
from pages import python_blocks

import torchsk
from torchsk import TorchClassifier, TorchRegressor
from torchsk._heads import ALIASES, LOSSES

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.rst"))]
# numpydoc checks that are not asked for, and why.
NOT_ASKED = {
    "ES01": "one line of summary is enough where it says everything",
    "EX01": "asked of classes and functions below, not of each method",
    "GL01": "the summary stands on the line of the quotes, as in scikit-learn",
    "PR08": "a sentence may begin with scikit-learn, skorch or torch",
    "RT02": "a returned value has a name, as in scikit-learn",
    "SA01": "a See Also only where there is something to see",
    "SA03": "as PR08",
}


def public_objects():
    """Yield the dotted name of everything public and written here."""
    for name in torchsk.__all__:
        yield name
        owner = getattr(torchsk, name)
        for member in dir(owner) if inspect.isclass(owner) else ():
            static = inspect.getattr_static(owner, member)
            source = static.fget if isinstance(static, property) else getattr(owner, member, None)
            ours = (getattr(source, "__module__", None) or "").startswith("torchsk")
            if ours and callable(source) and not member.startswith("_"):
                yield f"{name}.{member}"


@pytest.mark.parametrize("page", [p for p in PAGES if any(python_blocks(p))], ids=lambda p: p.name)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for line, source in python_blocks(page):
        exec(compile("\n" * line + source, page, "exec"), namespace)


@pytest.mark.parametrize("name", list(public_objects()))
def test_docstring(name):
    errors = validate(f"torchsk.{name}")["errors"]
    not_asked = set(NOT_ASKED) - (set() if "." in name else {"EX01"})
    asked = [": ".join(error) for error in errors if error[0] not in not_asked]
    assert not asked, "\n".join(asked)


#: parameters whose words depend on what is predicted
DIFFERENT = {"loss", "loss_params", "learning_rate_init", "standardize", "scoring", "class_weight"}


def test_the_two_estimators_say_the_same_of_the_same_parameter():
    classes = TorchClassifier, TorchRegressor
    docs = [{p.name: p for p in ClassDoc(cls)["Parameters"]} for cls in classes]
    assert set(docs[0]) ^ set(docs[1]) == {"class_weight"}
    for name in set(docs[0]) - DIFFERENT:
        assert docs[0][name] == docs[1][name], name


def _bullets(estimator, parameter):
    """Yield (names in quotes, head, text) of each point of the list in the words on a parameter."""
    doc = {p.name: p.desc for p in ClassDoc(estimator)["Parameters"]}[parameter]
    points = re.findall(r"^- (.*(?:\n  .*)*)", "\n".join(doc), re.MULTILINE)
    for head, text in (point.split(":", 1) for point in points):
        yield re.findall(r'"(\w+)"', head), head, " ".join(text.split())


def _losses(estimator):
    """Return {loss: {problem: head}} of one estimator."""
    is_regressor = estimator is TorchRegressor
    return {n: heads for n, heads in LOSSES.items() if ("regression" in heads) == is_regressor}


@pytest.mark.parametrize("estimator", [TorchClassifier, TorchRegressor])
def test_help_lists_the_losses(estimator):
    points = list(_bullets(estimator, "loss"))
    aliases = {alias for alias, name in ALIASES.items() if name in _losses(estimator)}
    listed = [name for names, _, _ in points for name in names]
    assert sorted(listed) == sorted({*_losses(estimator), *aliases})
    for names, head, text in points:
        assert text.endswith(".")
        for alias in aliases.intersection(names):
            assert ALIASES[alias] == names[0]
        if estimator is TorchClassifier:
            problems = re.findall(r"\((.*)\)", head)[0].split(", ")
            assert problems == sorted(LOSSES[names[0]])
            heads = [LOSSES[names[0]][problem] for problem in problems]
            assert {head.has_proba for head in heads} == {"nothing" not in text}


@pytest.mark.parametrize("estimator", [TorchClassifier, TorchRegressor])
def test_help_lists_the_parameters_of_each_loss(estimator):
    expected = {
        name: {
            option.name: option.default
            for head in heads.values()
            for option in fields(head)
            if "rule" in option.metadata
        }
        for name, heads in _losses(estimator).items()
    }
    listed = {
        name: {
            option: ast.literal_eval(default)
            for option, default in re.findall(r"``(\w+)=([^`]+)``", text)
        }
        for names, _, text in _bullets(estimator, "loss_params")
        for name in names
    }
    assert listed == {name: options for name, options in expected.items() if options}


def test_api_page_lists_every_public_name():
    page = (ROOT / "docs" / "api.rst").read_text()
    assert set(re.findall(r"^   (\w+)$", page, re.MULTILINE)) == set(torchsk.__all__)


def test_every_room_is_drawn():
    drawing = (ROOT / "docs" / "_static" / "rooms.svg").read_text()
    files = {p.stem for p in (ROOT / "torchsk").iterdir() if p.stem[:2] != "__" and p.stem != "py"}
    assert set(re.findall(r'class="name"[^>]*>(\w+)<', drawing)) == files


@pytest.mark.parametrize("page", ["README.md", "docs/index.rst"])
def test_the_pitch_has_the_numbers_of_the_tables(page):
    readme, pitch = (ROOT / "README.md").read_text(), (ROOT / page).read_text()
    mlp, ours = re.search(r"^prices +(\S+) +(\S+)", readme, re.MULTILINE).groups()
    defaults = (ROOT / "docs" / "defaults.rst").read_text()
    accuracy, _, r2 = re.search(
        r"\* - torchsk's defaults\n     - \+(\S+) .*\n     - (\S+) .*\n     - \+(\S+) ", defaults
    ).groups()
    ratios = [float(row) for row in re.findall(r"s \| ([\d.]+) \|$", readme, re.MULTILINE)]
    for number in (f"{float(ours):.2f}", f"{float(mlp):.1f}", f"{float(accuracy):.3f}", r2):
        assert number in pitch, number
    assert f"{min(ratios):.0f} to {max(ratios):.0f} times faster" in pitch


def test_the_readme_has_the_ratios_to_skorch_of_small_networks():
    benchmarks = (ROOT / "docs" / "benchmarks.rst").read_text()
    rows = re.findall(r'"\d+ x \d+, \((?:15|100)\), \d+", \w+, [\d.]+, ([\d.]+)', benchmarks)
    ratios = [float(ratio) for ratio in rows]
    assert (
        f"{min(ratios):.0f} to {max(ratios):.0f} times faster" in (ROOT / "README.md").read_text()
    )


def test_links_of_the_readme_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text())
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_promise_names_what_holds_it():
    """The table in CONTRIBUTING names every file of tests/promises, and only what there is."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rows = text[text.index("| promise |") :].partition("\n\n")[0]
    named = set(re.findall(r"`([\w/]+\.(?:py|sh))`", rows))
    promises = {path.name for path in (ROOT / "tests" / "promises").glob("test_*.py")}
    assert promises <= named
    missing = {
        name
        for name in named - promises
        if not (ROOT / name).exists() and not (ROOT / "tests" / "promises" / name).exists()
    }
    assert not missing
