"""The demo's flags: what they add to the comparison, and what they refuse."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from experiments import digits, digits_training
from experiments.cli import parser
from experiments.digits_methods import ASKED, COMPARED, METHODS, Method
from experiments.digits_smaller import shrink, tell
from experiments.digits_training import Settings, network
from experiments.models import LeNet300_100

pytestmark = pytest.mark.filterwarnings("error")


def test_every_penalty_of_the_experiments_is_compared_here() -> None:
    flags = {action.dest: action for action in parser("x", "", {"a": LeNet300_100})._actions}
    ours = {action.dest: action for action in digits.parser()._actions}
    assert ours["penalty"].choices == flags["penalty"].choices
    alone = [groups for groups in flags["groups"].choices or () if groups != "shared"]
    assert list(ours["groups"].choices or ()) == alone  # of layers in a row none are shared
    asked = {name.split(",")[0] for name in ASKED}
    assert asked.isdisjoint(COMPARED)
    assert asked | set(COMPARED) == set(flags["penalty"].choices or ())
    assert set(COMPARED.values()) <= set(METHODS)


@pytest.mark.parametrize(("name", "method"), ASKED.items())
def test_a_strong_penalty_leaves_nothing_of_what_it_acts_on(
    name: str, method: Method, tmp_path: Path
) -> None:
    settings = Settings(name, 100.0, 0, 4, "code")
    threads = torch.get_num_threads()
    digits_training.train(settings, tmp_path)
    torch.set_num_threads(threads)
    run = digits_training.read(settings, tmp_path)
    assert run is not None
    acted = 5000 + 500 if method.groups == "removable" else 6400 + 5000 + 500
    assert run.exact == pytest.approx(acted / 11900)
    model = digits_training.trained(run, tmp_path)
    assert not model.get_parameter("2.weight").any()


def test_a_network_without_a_zero_neuron_is_told_to_stay() -> None:
    test = digits_training.load(0)[2]
    same = shrink(network(), test)
    assert tuple(same.compaction.parameters) == (12060, 12060)
    assert "nothing" in tell("group-lasso, filters", same)
    assert "--groups removable" in tell("group-lasso, filters", same)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--steps", "0"], "whole number of at least 1, found '0'"),
        (["--seed", "x"], "whole number of at least 0, found 'x'"),
        (["--out", ""], "--out: expected the name of a folder, found ''"),
        (["--quick", "--steps", "3"], "not allowed with"),
        (["--epochs", "3"], "unrecognized arguments"),
        (["--penalty", "lasso"], "invalid choice: 'lasso'"),
        (["--penalty", "none"], "compared anyway, as 'no penalty': leave it out"),
        (["--penalty", "l1"], "compared anyway, as 'proximal L1': leave it out"),
        (["--groups", "filters"], "give --penalty group-lasso or"),
        (["--groups", "removable", "--penalty", "l0"], "or leave --groups out"),
        (["--groups", "rows", "--penalty", "group-l0"], "invalid choice: 'rows'"),
    ],
)
def test_bad_flags_are_told(
    flags: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        digits.main(flags)
    assert told in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert digits.main(["--out", os.fspath(tmp_path / "file")]) == 1
    assert "Cannot write to" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["sklearn.datasets", "tqdm"])
def test_a_missing_package_is_told_with_what_to_install(missing: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None\nimport experiments.digits"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert 'pip install "torchreg-prox[experiments]"' in done.stderr
    assert "Traceback" not in done.stderr
