"""The python blocks of the README and of the pages of the guide."""

import itertools
import textwrap


def python_blocks(page, every=False):
    """Yield (line number, source) of a page's blocks that no line before calls not executed."""
    lines, before = page.read_text().splitlines(), ""
    for number, line in enumerate(lines, start=1):
        is_block = line.strip() in ("```python", ".. code-block:: python")
        if is_block and (every or "not executed" not in before):
            deeper = " " * (len(line) - len(line.lstrip()) + 1)
            inside = {
                ".md": lambda row: row.strip() != "```",
                ".rst": lambda row, deeper=deeper: not row.strip() or row.startswith(deeper),
            }[page.suffix]
            rows = itertools.takewhile(inside, lines[number:])
            yield number, textwrap.dedent("\n".join(rows))
        before = line if line.strip() else before
