"""A Sphinx extension that writes what the tables of torchsk hold: losses, activations, solvers."""

import re
from dataclasses import fields
from pathlib import Path

from torchsk._activations import ACTIVATIONS
from torchsk._heads import ALIASES, LOSSES, TORCH_LOSSES
from torchsk._mlp import INITS
from torchsk._schedules import SCHEDULES
from torchsk._solvers import SOLVERS


def names(table):
    """Return the names of a table as text."""
    return ", ".join(f'``"{name}"``' for name in table)


def list_table(rows):
    """Return the lines of a list-table whose first row is the header."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for first, *others in rows:
        lines += [f"   * - {first}", *(f"     - {cell}".rstrip() for cell in others)]
    return [*lines, ""]


def other_names(loss):
    """Return the aliases and the torch losses that stand for a loss."""
    aliases = [f'``"{alias}"``' for alias, name in ALIASES.items() if name == loss]
    return aliases + [f"``nn.{t.__name__}``" for t, row in TORCH_LOSSES.items() if row.name == loss]


def facts(head):
    """Yield (name, text) of a head: domain, link, loss, output activation, parameters."""
    for name, text in re.findall(r"^ *(Domain|Link|Loss):((?:.*\n {12})*.*)$", head.__doc__, re.M):
        yield name, f"``{' '.join(text.split())}``"
    yield "Output activation", f"``{head.out_activation}``"
    for option in fields(head):
        if "rule" in option.metadata:
            rule = option.metadata["rule"].replace("_", r"\_")
            yield "In loss_params", f"``{option.name}={option.default!r}``: {rule}"


def losses():
    """Return the lines of the page part about losses: an overview, then loss by loss."""
    overview = [["loss", "problems", "output", "also reached by"]]
    details = []
    for loss, heads in LOSSES.items():
        ends = dict.fromkeys(head.out_activation for head in heads.values())
        cells = [", ".join(column) for column in (heads, ends, other_names(loss))]
        overview.append([f'``"{loss}"``', *cells])
        details += [loss, "~" * len(loss), ""]
        for head in dict.fromkeys(heads.values()):
            problems = ", ".join(problem for problem in heads if heads[problem] is head)
            details += [f"**{problems}**: {head.__doc__.splitlines()[0]}", ""]
            details += [f":{name}: {text}" for name, text in facts(head)] + [""]
    return [*list_table(overview), "Loss by loss", "-" * 12, "", *details]


def write_losses(app):
    """Write generated/losses.inc, which losses.rst includes."""
    target = Path(app.srcdir, "generated", "losses.inc")
    target.parent.mkdir(exist_ok=True)
    target.write_text("\n".join(losses()))


def add_names(app, docname, content):
    """Define |activations|, |solvers|, |schedules| and |inits| on a page that uses them."""
    tables = {
        "activations": ACTIVATIONS,
        "solvers": SOLVERS,
        "schedules": SCHEDULES,
        "inits": INITS,
    }
    for name, table in tables.items():
        if f"|{name}|" in content[0]:
            content[0] += f"\n\n.. |{name}| replace:: {names(table)}\n"


def setup(app):
    """Connect the hooks."""
    app.connect("source-read", add_names)
    app.connect("builder-inited", write_losses)
    return {"parallel_read_safe": True}
