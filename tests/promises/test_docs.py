"""The words about torchsk: every python block runs, every public docstring is whole."""

import inspect
import re
from pathlib import Path

import pytest
from numpydoc.docscrape import ClassDoc
from numpydoc.validate import validate
from pages import python_blocks

import torchsk
from torchsk import TorchClassifier, TorchRegressor

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


def test_api_page_lists_every_public_name():
    page = (ROOT / "docs" / "api.rst").read_text()
    assert set(re.findall(r"^   (\w+)$", page, re.MULTILINE)) == set(torchsk.__all__)


def test_every_room_is_drawn():
    drawing = (ROOT / "docs" / "_static" / "rooms.svg").read_text()
    files = {path.stem for path in (ROOT / "torchsk").iterdir() if path.stem[:2] != "__"}
    assert set(re.findall(r'class="name"[^>]*>(\w+)<', drawing)) == files


def test_links_of_the_readme_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text())
    assert [link for link in links if not (ROOT / link).exists()] == []
