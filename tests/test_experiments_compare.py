import csv
import json
from pathlib import Path
from typing import Any

import pytest

from experiments import compare, mnist
from experiments.checkpoints import settings_of
from experiments.errors import told
from experiments.training import train
from tests.datasets import write_mnist


def write_run(folder: Path, *flags: str, errors: dict[str, float], density: float = 1.0) -> Path:
    _, parsed = mnist.parse([*flags, "--out", str(folder)])
    phases = {
        name: {
            "test_error": error,
            "val_error": error,
            "density": density,
            "weights": 266_200,
            "seconds": 10.0,
        }
        for name, error in errors.items()
    }
    result: dict[str, Any] = {"task": "mnist", "flags": settings_of(parsed), "phases": phases}
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def test_seeds_are_averaged_and_settings_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [
        write_run(
            tmp_path / f"sparse{seed}",
            *("--strength", "1e-4", "--seed", str(seed), "--debias-epochs", "1"),
            errors={"penalised": penalised, "debiased": 0.015},
            density=density,
        )
        for seed, penalised, density in ((0, 0.018, 0.10), (1, 0.020, 0.12), (2, 0.022, 0.11))
    ]
    runs.append(write_run(tmp_path / "dense", "--penalty", "none", errors={"dense": 0.016}))
    out = tmp_path / "table"
    compare.main([*map(str, runs), "--out", str(out)])
    text = (out / "table.txt").read_text()
    rows = [line.split() for line in text.splitlines()[2:]]
    assert " ".join(rows[0]) == (
        "lenet-300-100 l1 0.0001 penalised 3 2.00 ± 0.20 2.00 ± 0.20 11.00 ± 1.00 10"
    )
    assert rows[1][3:7] == ["debiased", "3", "1.50", "±"]
    assert rows[2] == ["lenet-300-100", "none", "dense", "1", "1.60", "1.60", "100.00", "10"]
    assert text.strip() in capsys.readouterr().out
    assert (out / "table.md").read_text().startswith("| run")
    with (out / "table.csv").open() as file:
        read = list(csv.DictReader(file))
    assert float(read[0]["test_error_mean"]) == pytest.approx(0.02)
    assert float(read[0]["test_error_std"]) == pytest.approx(0.002)
    assert read[2]["test_error_std"] == ""
    assert read[0]["weights"] == "266200"
    assert (out / "accuracy-sparsity.png").read_bytes().startswith(b"\x89PNG")


def test_other_differences_are_named(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / lr, "--strength", "1e-4", "--lr", lr, errors={"penalised": 0.02})
        for lr in ("1e-3", "2e-3")
    ]
    text = compare.compare(runs, None)
    assert "lr 0.001" in text
    assert "lr 0.002" in text


def test_taught_seeds_are_averaged_each_with_its_own_teacher(tmp_path: Path) -> None:
    errors = {"penalised": 0.02}
    runs = [
        write_run(tmp_path / name, "--strength", "1e-4", "--seed", seed, *more, errors=errors)
        for name, seed, more in (
            ("taught0", "0", ["--teacher", "dense"]),
            ("taught1", "1", ["--teacher", "dense-seed1"]),
            ("otherwise0", "0", ["--teacher", "caffe0"]),
            ("started0", "0", ["--start", "dense0"]),
            ("shift0", "0", []),
            ("off0", "0", ["--no-flip"]),
            ("on0", "0", ["--flip"]),
        )
    ]
    result = json.loads((runs[4] / "result.json").read_text())
    result["flags"]["limit"] = 5
    (runs[4] / "result.json").write_text(json.dumps(result))
    rows = compare.collect(compare.read_runs(runs))
    assert [(row.setting, row.seeds) for row in rows] == [
        ("lenet-300-100 l1 0.0001 taught teacher dense", 2),
        ("lenet-300-100 l1 0.0001 taught teacher caffe", 1),
        ("lenet-300-100 l1 0.0001 fine-tuned", 1),
        ("lenet-300-100 l1 0.0001 flip off limit 5", 1),
        ("lenet-300-100 l1 0.0001 flip off limit default", 1),
        ("lenet-300-100 l1 0.0001 flip True limit default", 1),
    ]


def test_a_run_of_an_older_version_lacks_the_newer_flags_and_is_averaged(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / n, "--strength", "1e-4", "--seed", n, errors={"penalised": 0.02})
        for n in ("0", "1")
    ]
    result = json.loads((runs[0] / "result.json").read_text())
    for flag in ("start", "teacher", "each_layer"):
        del result["flags"][flag]
    (runs[0] / "result.json").write_text(json.dumps(result))
    (row,) = compare.collect(compare.read_runs(runs))
    assert row.seeds == 2


def test_runs_that_differ_in_a_phase_are_told_apart(tmp_path: Path) -> None:
    sparse = ("--strength", "1e-4", "--debias-epochs")
    runs = [
        write_run(tmp_path / n, *sparse, n, errors={"penalised": 0.02, "debiased": 0.01})
        for n in ("1", "2")
    ]
    rows = compare.collect(compare.read_runs(runs))
    assert [row.setting for row in rows[::2]] == [
        f"lenet-300-100 l1 0.0001 debias-epochs {n}" for n in (1, 2)
    ]
    assert [row.last for row in rows] == [False, True] * 2
    cifar = write_run(tmp_path / "c", "--penalty", "none", "--lr", "1", errors={"dense": 0.1})
    result = json.loads((cifar / "result.json").read_text())
    (cifar / "result.json").write_text(json.dumps({**result, "task": "cifar10"}))
    rows = compare.collect(compare.read_runs([runs[0], cifar]))
    assert [row.setting for row in rows[1:]] == [
        "mnist lenet-300-100 l1 0.0001",
        "cifar10 lenet-300-100 none",
    ]


def test_no_seed_counts_twice(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", "--strength", "1e-4", errors={"penalised": 0.02})
    (row,) = compare.collect(compare.read_runs([one, tmp_path / "one" / ".." / "one"]))
    assert row.seeds == 1
    two = write_run(tmp_path / "two", "--strength", "1e-4", errors={"penalised": 0.02})
    with pytest.raises(ValueError, match="same seed, 0: together they would count as two"):
        compare.compare([one, two], None)


def test_the_picture_says_what_it_leaves_out(tmp_path: Path) -> None:
    names = {"--penalty=l1": "l1", "--mode=loss": "loss", "--penalty=l2": "l2"}
    runs = [
        write_run(tmp_path / name, "--strength=1e-4", flag, errors={"penalised": 0.02}, density=0.5)
        for flag, name in names.items()
    ]
    rows = compare.collect(compare.read_runs(runs))
    assert [row.series for row in rows] == [
        "torchreg, l1 penalised",
        "torchreg, l1 in the loss penalised",
        "torchreg, l2 penalised",
    ]
    assert "eight series apart: sparse momentum (2019)" in compare.compare(runs, tmp_path / "out")
    short = write_run(tmp_path / "s", "--penalty=none", "--limit=9", errors={"dense": 0.1})
    assert "a run has --limit" in compare.compare([short], tmp_path / "out")


def test_unfinished_and_strange_folders(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="is not the folder of a run"):
        told(lambda: compare.main([str(tmp_path)]))
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(SystemExit, match="the run is not finished"):
        told(lambda: compare.main([str(tmp_path)]))
    (tmp_path / "result.json").write_text('{"task": ')
    with pytest.raises(SystemExit, match="is not readable JSON"):
        told(lambda: compare.main([str(tmp_path)]))
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(SystemExit, match="is not what a run leaves"):
        told(lambda: compare.main([str(tmp_path)]))


def test_a_sweep_trains_by_a_function_and_may_stop_it(tmp_path: Path) -> None:
    write_mnist(tmp_path / "data")
    flags = ["--strength", "1", "--epochs", "3", "--batch-size", "50", "--device", "cpu"]
    task, parsed = mnist.parse([*flags, "--data-dir", str(tmp_path / "data")])
    parsed.strength = 1e-3
    seen: list[dict[str, Any]] = []
    (phase,) = train(task, parsed, tmp_path / "whole", seen.append, quiet=True)
    assert [row["epoch"] for row in seen] == [1, 2, 3]
    assert phase.last == seen[-1]
    assert 0 < phase.last["density"] < 1
    assert 0 <= phase.last["val_accuracy"] <= 1

    class Pruned(Exception):
        pass

    def prune(row: dict[str, Any]) -> None:
        if row["epoch"] == 2:
            raise Pruned

    with pytest.raises(Pruned):
        train(task, parsed, tmp_path / "pruned", prune, quiet=True)
