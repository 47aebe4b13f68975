"""What was meant by a name that is unknown: the ones that are like it."""

import difflib
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

#: what others call it -> its name here; all without capitals and underscores
SYNONYMS: dict[str, str] = {
    "sigmoid": "logistic",
    "swish": "silu",
    "linear": "identity",
    "henormal": "kaiming_normal",
    "heuniform": "kaiming_uniform",
    "cosineannealing": "cosine",
    "l1": "absolute_error",
    "l2": "squared_error",
    "binarycrossentropy": "log_loss",
    "sparsecategoricalcrossentropy": "cross_entropy",
    "gpu": "cuda",
    "acc": "accuracy",
    "mse": "neg_mean_squared_error",
    "rmse": "neg_root_mean_squared_error",
    "mae": "neg_mean_absolute_error",
}


def _plain(name: str) -> str:
    """Return a name without capitals, spaces, hyphens and underscores."""
    return re.sub(r"[\W_]", "", name.lower())


def names_like(value: str, names: Iterable[str]) -> list[str]:
    """Return those of the names that are written otherwise, mean the same, or are close."""
    named: dict[str, list[str]] = {}
    for name in names:
        named.setdefault(_plain(name), []).append(name)
    plain = _plain(value)
    same = plain if plain in named else _plain(SYNONYMS.get(plain, ""))
    found = [same] if same in named else difflib.get_close_matches(plain, named)
    return [name for key in found for name in named[key]]


def did_you_mean(value: Any, names: Collection[str]) -> str:
    """Return a question to end a message with; nothing for what is known, or like no name."""
    if not isinstance(value, str) or value in names:
        return ""
    alike = " or ".join(map(repr, names_like(value, names)))
    return f" Did you mean {alike}?" if alike else ""


@contextmanager
def suggesting(value: Any, names: Collection[str]) -> Iterator[None]:
    """Have a ValueError about a value end with the names that are like it."""
    try:
        yield
    except ValueError as error:
        if len(error.args) == 1:
            error.args = (f"{error}{did_you_mean(value, names)}",)
        raise
