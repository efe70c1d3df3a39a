"""The main job as a user meets it: a real process, killed, resumed, repeated."""

import json
import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import torchreg as tr
from experiments import digits, digits_report, digits_training
from experiments.digits_methods import METHODS
from experiments.digits_training import Run, Settings

pytestmark = pytest.mark.filterwarnings("error")
RUNS = sum(len(method.strengths) for method in METHODS.values())
STEPS = "30"


def command(out: Path, *more: str) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "experiments.digits",
            "--steps", STEPS, "--out", str(out), *more]  # fmt: skip


def without_seconds(table: str) -> list[str]:
    """The table's lines without the last column, which is the time."""
    return [line.rsplit(maxsplit=1)[0] for line in table.split("\n\n")[0].splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """One uninterrupted run: its folder, and what it printed."""
    out = tmp_path_factory.mktemp("whole")
    done = subprocess.run(command(out, "--jobs", "1"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_it_ends_with_a_table_and_writes_all_that_it_names(whole: tuple[Path, str]) -> None:
    out, told = whole
    assert (out / "table.txt").read_text() in told
    table = (out / "table.txt").read_text().split("\n\n")[0].splitlines()
    assert [line.split("  ")[0] for line in table[2:]] == list(METHODS)
    assert max(len(line) for line in (out / "table.txt").read_text().splitlines()) <= 100
    assert (out / "table.md").read_text().startswith("| method")
    for name in ("accuracy_sparsity.png", "weights.png", "pixels.png", "training.png"):
        assert name in told
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    told = " ".join(told.split())
    assert "within one standard error of that method's best validation accuracy" in told
    assert "The test split is read once, for the chosen strengths alone." in told


def test_the_residual_is_relative_to_the_strength(whole: tuple[Path, str]) -> None:
    out, _ = whole
    chosen = json.loads((out / "results.json").read_text())["chosen"]
    lines = (out / "table.txt").read_text().split("\n\n")[0].splitlines()
    printed = [line.split()[-2] for line in lines]
    assert printed[0] == "residual"
    assert printed[2] == "-"
    assert chosen[0]["residual"] is None
    assert chosen[0]["stationarity"] > 0
    for run, shown in zip(chosen[1:], printed[3:], strict=True):
        expected = run["stationarity"] / run["settings"]["strength"]
        assert run["residual"] == pytest.approx(expected)
        assert float(shown) == pytest.approx(expected, rel=0.05)


def test_l1_in_the_loss_leaves_no_exact_zero_and_proximal_l1_does(
    whole: tuple[Path, str],
) -> None:
    grid = json.loads((whole[0] / "results.json").read_text())["grid"]
    exact = {
        name: [r["exact"] for r in grid if r["settings"]["method"] == name] for name in METHODS
    }
    assert set(exact["L1 in the loss"]) == {0.0}
    assert max(exact["proximal L1"]) > 0.5
    assert max(exact["proximal Elastic Net"]) > 0.5


def test_a_group_penalty_stands_beside_the_others_and_its_network_is_cut_down(
    whole: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The runs of the six methods are taken over, so the two commands share all but one row."""
    shutil.copytree(whole[0] / "runs", tmp_path / "runs")
    flags = ["--penalty", "group-lasso", "--groups", "removable"]
    threads = torch.get_num_threads()
    try:
        assert digits.main(["--steps", STEPS, "--jobs", "1", "--out", str(tmp_path), *flags]) == 0
    finally:
        torch.set_num_threads(threads)
    told = capsys.readouterr().out
    assert f"{RUNS} of {RUNS + 5} runs were finished before" in told
    before, after = ((out / "table.txt").read_text().split("\n\n")[0].splitlines()
                     for out in (whole[0], tmp_path))  # fmt: skip
    assert [line.split() for line in after[2:-1]] == [line.split() for line in before[2:]]
    assert after[-1].startswith("group-lasso, removable ")

    found = json.loads((tmp_path / "results.json").read_text())
    (compact,) = found["compact"].values()
    assert (tmp_path / "neurons.png").read_bytes().startswith(b"\x89PNG")
    assert "neurons.png" in told
    # What is told is what a network cut down here and now has, and its outputs are the same.
    chosen = Settings(**found["chosen"][-1]["settings"])
    run = digits_training.read(chosen, tmp_path / "runs")
    assert run is not None
    model = digits_training.trained(run, tmp_path / "runs").eval()
    x = digits_training.load(chosen.seed)[2].x
    small, _ = tr.compact(model, x[:1])
    with torch.no_grad():
        torch.testing.assert_close(small(x), model(x))
    sizes = [len(small.get_parameter(f"{layer}.bias")) for layer in (0, 2, 4)]
    count = sum(p.numel() for p in small.parameters())
    assert sizes[0] < 100
    assert sizes[1] < 50
    assert "-".join(map(str, sizes)) + " of 100-50-10 neurons" in " ".join(told.split())
    assert f"{count:,} of 12,060 parameters" in " ".join(told.split())
    assert compact["parameters"] == [12060, count]
    assert compact["difference"] < 1e-4


def test_killed_midway_it_resumes_to_the_table_of_an_uninterrupted_run(
    whole: tuple[Path, str], tmp_path: Path
) -> None:
    """kill -9, two jobs instead of one, then again: also "one seed twice, one table"."""
    process = subprocess.Popen(
        command(tmp_path, "--jobs", "2"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        finished = wait_for_runs(tmp_path, 3)
    finally:
        process.kill()
        process.wait()
    assert not (tmp_path / "table.txt").exists()
    finished[0].write_text("{")
    kept = {file: file.stat().st_mtime_ns for file in finished[1:]}
    again = subprocess.run(
        command(tmp_path, "--jobs", "1"), capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    assert "runs were finished before" in again.stdout
    assert "Doing one run again" in again.stderr
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    expected = (whole[0] / "table.txt").read_text()
    assert without_seconds((tmp_path / "table.txt").read_text()) == without_seconds(expected)


def test_ctrl_c_says_in_one_line_what_is_kept(tmp_path: Path) -> None:
    process = subprocess.Popen(
        # Ten times the steps: it must not end before the signal comes, on a busy machine either.
        command(tmp_path, "--jobs", "1", "--steps", f"{STEPS}0"), stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
        # A shell starts what it runs in the background deaf to Ctrl-C, these tests included.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        wait_for_runs(tmp_path, 1)
    except BaseException:
        process.kill()
        raise
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "Traceback" not in told
    last = told.strip().splitlines()[-1]
    assert last.startswith("Interrupted.")
    assert "give the same command again" in last


def wait_for_runs(out: Path, count: int) -> list[Path]:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        found = sorted((out / "runs").glob("*.json"))
        if len(found) >= count:
            return found
        time.sleep(0.02)
    raise AssertionError(f"no {count} finished runs in {out} within five minutes")


def test_the_three_splits_share_no_digit() -> None:
    splits = digits_training.load(0)
    assert [len(split.x) for split in splits] == [1077, 360, 360]
    rows = [{tuple(row) for row in split.x.tolist()} for split in splits]
    assert all(len(row) == len(split.x) for row, split in zip(rows, splits, strict=True))
    assert len(set.union(*rows)) == 1797


def test_the_test_split_is_read_once_for_each_method_and_only_when_all_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = digits_training.load(0)[2]
    read: list[str] = []
    plain = digits_training.accuracy

    def watched(model: torch.nn.Module, split: digits_training.Split) -> float:
        read.append("test" if torch.equal(split.x, test.x) else "validation")
        return plain(model, split)

    monkeypatch.setattr(digits_training, "accuracy", watched)
    threads = torch.get_num_threads()
    try:
        assert (
            digits.main(["--seed", "0", "--steps", "2", "--jobs", "1", "--out", str(tmp_path)]) == 0
        )
    finally:
        torch.set_num_threads(threads)
    assert read == ["validation"] * RUNS + ["test"] * len(METHODS)


def a_run(strength: float, validation: float) -> Run:
    settings = Settings("proximal L1", strength, 0, 1, "")
    return Run(settings, validation, 0.5, 0.5, 0.0, 0.0, 0.0, [0], [1.0], [0.0], "")


def test_the_strongest_within_one_standard_error_is_chosen() -> None:
    error = math.sqrt(0.97 * 0.03 / 360)
    runs = [a_run(1.0, 0.97), a_run(2.0, 0.97 - 0.9 * error), a_run(3.0, 0.97 - 1.1 * error)]
    assert digits_report.choose(runs, 360).settings.strength == 2.0
    assert digits_report.choose(runs[::-1], 360).settings.strength == 2.0


def test_a_run_with_other_settings_is_never_taken(tmp_path: Path) -> None:
    settings = Settings("no penalty", 0.0, 0, 1, "code")
    threads = torch.get_num_threads()
    digits_training.train(settings, tmp_path)
    torch.set_num_threads(threads)
    assert digits_training.read(settings, tmp_path) is not None
    for other in (
        Settings("L1 in the loss", 0.0, 0, 1, "code"),
        Settings("no penalty", 0.1, 0, 1, "code"),
        Settings("no penalty", 0.0, 1, 1, "code"),
        Settings("no penalty", 0.0, 0, 2, "code"),
        Settings("no penalty", 0.0, 0, 1, "other"),
    ):
        assert digits_training.read(other, tmp_path) is None
    (tmp_path / f"{settings.key}.pt").write_bytes(b"")
    with pytest.raises(ValueError, match="do not belong together"):
        digits_training.read(settings, tmp_path)
