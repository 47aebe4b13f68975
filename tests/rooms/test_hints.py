"""What was meant by a name: other spelling, other word, close."""

import pytest

from torchsk._activations import ACTIVATIONS
from torchsk._heads import LOSS_NAMES
from torchsk._hints import SYNONYMS, did_you_mean, names_like, suggesting
from torchsk._mlp import INITS
from torchsk._parameters import PARAMETER_CONSTRAINTS
from torchsk._schedules import SCHEDULES
from torchsk._sklearn_compat import StrOptions
from torchsk._solvers import SOLVERS

TABLES = {
    "activation": ACTIVATIONS, "loss": LOSS_NAMES, "solver": SOLVERS, "learning_rate": SCHEDULES,
    "init": INITS,
}  # fmt: skip


@pytest.mark.parametrize("table", TABLES)
def test_every_name_is_known_however_it_is_written(table):
    for name in TABLES[table]:
        assert did_you_mean(name, TABLES[table]) == ""
        for written in {name.upper(), f" {name}\n", name.replace("_", "-"), name.title()} - {name}:
            assert did_you_mean(written, TABLES[table]) == f" Did you mean {name!r}?"


@pytest.mark.parametrize(
    "value, table, meant",
    [
        ("LeakyReLU", "activation", ["leaky_relu"]), ("sigmoid", "activation", ["logistic"]),
        ("Swish", "activation", ["silu"]), ("OneCycle", "learning_rate", ["onecycle"]),
        ("crossentropy", "loss", ["cross_entropy"]), ("RMSE", "loss", ["mse"]),
        ("L1", "loss", ["absolute_error"]), ("ADMA", "solver", ["adam", "adamw"]),
        ("xavier", "init", ["xavier_normal", "xavier_uniform"]), ("magic", "loss", []),
    ],
)  # fmt: skip
def test_what_is_like_a_name(value, table, meant):
    assert names_like(value, TABLES[table]) == meant


def test_synonyms_stand_for_names_of_something():
    known = {name for table in TABLES.values() for name in table}
    others = {"cuda", "accuracy", "neg_mean_squared_error", "neg_mean_absolute_error"}
    assert set(SYNONYMS.values()) <= known | others | {"neg_root_mean_squared_error"}


@pytest.mark.parametrize("value", [0.5, None, print, "adam"])
def test_nothing_is_said_of_what_is_no_wrong_name(value):
    with pytest.raises(ValueError, match=r"^wrong$"), suggesting(value, SOLVERS):
        raise ValueError("wrong")


def test_every_list_of_names_can_be_read():
    for constraints in PARAMETER_CONSTRAINTS.values():
        for one in constraints:
            if isinstance(one, StrOptions):
                assert all(names_like(name.upper(), one.options) == [name] for name in one.options)
