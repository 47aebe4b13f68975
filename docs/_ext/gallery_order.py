"""The examples stand in the gallery as its index names them, the first ones first."""

from pathlib import Path

INDEX = Path(__file__).parents[2] / "examples" / "index.rst"


def place_in_index(path):
    """Return where the index names the example that lies at a path."""
    return INDEX.read_text().find(f"/{Path(path).name}")
