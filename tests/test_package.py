"""The package as it is installed: light to import, typed, under its own name."""

import subprocess
import sys
import tomllib
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import pytest

import torchreg as tr

ROOT = Path(__file__).parent.parent


def test_importing_it_imports_torch_and_none_of_the_extras() -> None:
    code = (
        "import sys, torch; before = {*sys.modules}; import torchreg; "
        "new = {name.partition('.')[0] for name in {*sys.modules} - before}; "
        "print(*sorted(new - {*sys.stdlib_module_names} - {'torch', 'torchreg'}))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == ""


def test_it_is_typed_and_its_versions_agree() -> None:
    assert files("torchreg").joinpath("py.typed").is_file()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == tr.__version__ == version(project["name"])


def test_every_public_name_is_there_and_told() -> None:
    for name in tr.__all__:
        assert getattr(tr, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        tr.nonsense  # noqa: B018
