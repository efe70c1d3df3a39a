"""Print the requirements of an extra that this Python does not meet, one a line.

    python scripts/missing.py EXTRA

Prints nothing where all are met. Reads pyproject.toml; needs the standard library alone, so
that it runs before anything is installed.
"""

import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def requirements(project: dict, extra: str) -> list[str]:
    """List the project's own requirements and those of an extra, extras of ours expanded."""
    listed = list(project["dependencies"])
    for line in project["optional-dependencies"][extra]:
        ours = re.fullmatch(rf"{re.escape(project['name'])}\[([\w-]+)\]", line)
        listed += requirements(project, ours[1]) if ours else [line]
    return list(dict.fromkeys(listed))


def met(requirement: str) -> bool:
    """Whether an installed version satisfies ``name`` or ``name>=version``."""
    name, _, least = requirement.partition(">=")
    try:
        found = version(name)
    except PackageNotFoundError:
        return False
    return not least or numbers(found) >= numbers(least)


def numbers(text: str) -> list[int]:
    """Read the leading release numbers of a version: ``2.11.0+cpu`` is [2, 11, 0]."""
    return [int(part) for part in re.match(r"[\d.]*", text)[0].split(".") if part]


if __name__ == "__main__":
    pyproject = Path(__file__).parent.parent / "pyproject.toml"
    project = tomllib.loads(pyproject.read_text())["project"]
    print(*(line for line in requirements(project, sys.argv[1]) if not met(line)), sep="\n")
