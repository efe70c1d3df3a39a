"""The README's snippets are run in order, and print what it says they print."""

import contextlib
import io
import os
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.M | re.S)


@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:The number of training batches")
def test_every_snippet_prints_what_stands_below_it() -> None:
    blocks = BLOCK.findall(README)
    assert len(blocks) >= 4
    namespace: dict[str, Any] = {}
    for code, expected in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "README.md", "exec"), namespace)
        assert printed.getvalue() == expected, code


def test_the_first_snippet_is_short() -> None:
    code = BLOCK.findall(README)[0][0]
    assert len([line for line in code.splitlines() if line.strip()]) < 12


@pytest.mark.parametrize("command", ["demo", "test"])
def test_the_two_commands_can_be_run(command: str) -> None:
    assert f"scripts/{command}" in README
    assert os.access(ROOT / "scripts" / command, os.X_OK)


def test_every_file_that_it_shows_is_there() -> None:
    for shown in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / shown).is_file(), shown


def test_every_experiment_that_it_names_is_there() -> None:
    for module in re.findall(r"python -m (experiments\.\w+)", README):
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), module
