"""The sweep chooses a strength on validation data, resumes, and shares its study."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from experiments import sweep
from experiments.data import Images, Source, read
from experiments.errors import FolderError
from tests.datasets import write_mnist

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_mnist(folder)
    return folder


def flags_for(data: Path, study: Path, *more: str) -> list[str]:
    flags = ["mnist", "--study", str(study), "--data-dir", str(data), "--device", "cpu"]
    flags += ["--low", "1e-2", "--high", "1", "--max-density", "0.3", "--trials", "3"]
    return [*flags, "--epochs", "2", "--batch-size", "50", "--validation", "100", *more]


def trials_of(study: Path) -> list[Any]:
    settings = json.loads((study / "settings.json").read_text())
    opened = sweep.open_study(study, settings, seed=0)
    return list(opened.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED)))


def test_a_sparse_enough_row_beats_every_denser_one() -> None:
    score = sweep.Score(max_density=0.1)
    sparse = score({"val_accuracy": 0.2, "density": 0.1})
    dense = score({"val_accuracy": 1.0, "density": 0.11})
    denser = score({"val_accuracy": 1.0, "density": 0.5})
    assert sparse == 0.2
    assert sparse > dense > denser


def test_a_sweep_leaves_its_choice_and_never_reads_the_test_images(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    splits: list[bool] = []

    def noted(source: Source, data_dir: Path, *, train: bool) -> Images:
        splits.append(train)
        return read(source, data_dir, train=train)

    monkeypatch.setattr("experiments.training.read", noted)
    study = tmp_path / "study"
    sweep.main(flags_for(data, study))
    assert splits == [True] * 3
    choice = json.loads((study / "choice.json").read_text())
    assert 1e-2 <= choice["strength"] <= 1
    assert choice["density"] <= 0.3
    complete = [t for t in trials_of(study) if t.state is TrialState.COMPLETE]
    rows = [t.user_attrs["row"] for t in complete]
    best = max(r["val_accuracy"] for r in rows if r["density"] <= 0.3)
    assert choice["val_accuracy"] == best
    assert (study / "frontier.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "chosen" in printed
    assert f"python -m experiments.mnist --strength {choice['strength']!r} " in printed
    sweep.main(flags_for(data, study))  # finished: nothing is trained again
    assert len(trials_of(study)) == 3
    with pytest.raises(FolderError, match=r"other flags \(epochs differ\)"):
        sweep.main(flags_for(data, study, "--epochs", "3"))


def test_a_killed_worker_is_taken_over(data: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    command = [sys.executable, "-m", "experiments.sweep", *flags_for(data, study)]
    worker = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(study.glob("strength-*/*/*.ckpt")):  # inside a trial
        assert worker.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    begun = {folder.name for folder in study.glob("strength-*")}
    sweep.main(flags_for(data, study))
    strengths = {f"strength-{t.params['strength']:.6g}" for t in trials_of(study)}
    assert begun <= strengths
    assert len(strengths) == 3
    for trial in trials_of(study):  # also of the one that went on in the middle
        assert max(trial.intermediate_values) == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--low", "1", "--high", "1e-3"], "expected 0 < --low < --high"),
        (["--max-density", "0"], "--max-density must be above 0"),
        (["--strength", "1e-3"], "leave out --strength: the sweep chooses it"),
        (["--strength=1e-3"], "leave out --strength"),
        (["--out", "x"], "leave out --out"),
        (["--trials", "0"], "0 is below 1"),
        (["--epoch-count", "3"], "unrecognized arguments"),
    ],
)
def test_wrong_flags_are_refused(
    more: list[str],
    message: str,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        sweep.main(flags_for(data, tmp_path, *more))
    assert message in capsys.readouterr().err


def test_a_range_without_a_sparse_enough_strength_says_so(data: Path, tmp_path: Path) -> None:
    more = ("--low", "1e-9", "--high", "1e-8", "--trials", "1")
    with pytest.raises(FolderError, match="raise --high"):
        sweep.main(flags_for(data, tmp_path / "study", *more))
    assert (tmp_path / "study" / "trials.txt").exists()
