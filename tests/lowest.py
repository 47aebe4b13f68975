"""Print the lowest versions of the dependencies in pyproject.toml as pip's constraints.

`make dist` installs with them. torch is left to constraints.txt.
"""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement


def main():
    """Print a line for each dependency."""
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    for line in tomllib.loads(text)["project"]["dependencies"]:
        requirement = Requirement(line)
        (specifier,) = requirement.specifier
        assert specifier.operator == ">="
        if requirement.name != "torch":
            print(f"{requirement.name}=={specifier.version}")


if __name__ == "__main__":
    main()
