"""Real Trainer runs on small files: what a run leaves, and what it survives."""

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import mnist
from experiments.errors import told
from tests.datasets import write_mnist

ROOT = Path(__file__).parents[1]
FLAGS = "--strength 1e-3 --epochs 3 --debias-epochs 2 --batch-size 50 --validation 100 --shift 1"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_mnist(folder)
    return folder


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    main(data, out)
    return out


def command(data: Path, out: Path, flags: str = FLAGS) -> list[str]:
    places = ["--data-dir", str(data), "--out", str(out), "--device", "cpu"]
    return [*flags.split(), *places]


def main(data: Path, out: Path, flags: str = FLAGS) -> None:
    told(lambda: mnist.main(command(data, out, flags)))


def numbers(out: Path) -> dict[str, Any]:
    """The result, without what another attempt may change."""
    result: dict[str, Any] = json.loads((out / "result.json").read_text())
    for phase in result["phases"].values():
        del phase["seconds"]
    return {key: result[key] for key in ("phases", "task", "test_images")}


def state(out: Path, phase: str = "debiased", name: str = "last") -> dict[str, Any]:
    found: dict[str, Any] = torch.load(out / phase / f"{name}.ckpt", weights_only=True)
    return found


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list):
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other


def assert_same_run(one: Path, other: Path) -> None:
    assert numbers(one) == numbers(other)
    for phase in ("penalised", "debiased"):
        for key in ("state_dict", "optimizer_states", "lr_schedulers"):
            assert_same(state(one, phase)[key], state(other, phase)[key])


def test_a_run_leaves_its_numbers(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    main(data, out)
    result = json.loads((out / "result.json").read_text())
    assert list(result["phases"]) == ["penalised", "debiased"]
    penalised, debiased = result["phases"].values()
    assert penalised["weights"] == 266_200
    assert 0 < penalised["density"] < 1
    assert debiased["density"] <= penalised["density"]
    assert sum(t["zeros"] for t in debiased["tensors"].values()) == 266_200 - debiased["nonzero"]
    assert debiased["test_error"] == pytest.approx(1 - debiased["test_accuracy"])
    assert (penalised["epochs"], debiased["epochs"]) == (3, 2)
    assert result["flags"]["strength"] == 1e-3
    assert not {"data_dir", "out"} & result["flags"].keys()
    assert result["test_images"] == 100
    assert set(result["versions"]) >= {"torch", "lightning", "torchvision"}
    weights = [w for k, w in state(out)["state_dict"].items() if k.endswith("weight")]
    assert sum(int((w != 0).sum()) for w in weights) == debiased["nonzero"]
    assert len((out / "epochs.csv").read_text().splitlines()) == 1 + 5
    assert (state(out, "penalised")["epoch"], state(out)["epoch"]) == (2, 1)  # of the last epoch
    for phase in ("penalised", "debiased"):
        assert (out / phase / "best.ckpt").exists()
        assert list((out / phase / "csv").rglob("metrics.csv"))
        assert list((out / phase / "tensorboard").rglob("events.*"))
    for picture in ("curves.png", "weights.png", "inputs.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")

    before = (out / "result.json").read_bytes()
    capsys.readouterr()
    main(data, out)
    assert "is finished (--fresh" in capsys.readouterr().out
    assert (out / "result.json").read_bytes() == before

    with pytest.raises(SystemExit, match=r"--strength 0.001 there, 0.002 here"):
        main(data, out, FLAGS.replace("1e-3", "2e-3"))

    main(data, out, FLAGS + " --fresh --limit 200 --epochs 1 --debias-epochs 0")
    assert (tmp_path / "run.1" / "result.json").read_bytes() == before
    assert list(numbers(out)["phases"]) == ["penalised"]


@pytest.mark.parametrize(
    ("flags", "phase", "zeros"),
    [
        ("--penalty none --weight-decay 1e-4 --optimizer adamw", "dense", False),
        ("--penalty elasticnet --strength 1e-3 --l2 1e-4 --optimizer sgd", "penalised", True),
        ("--penalty l2 --strength 1e-3", "penalised", False),
        ("--strength 1e-3 --mode loss --warmup 0.5", "penalised", False),
        ("--strength 1e-2 --where *fc1* --precision bf16-mixed", "penalised", True),
        ("--model lenet-5-caffe --strength 1e-3 --limit 100", "penalised", True),
    ],
)
def test_every_choice_runs(data: Path, tmp_path: Path, flags: str, phase: str, zeros: bool) -> None:
    out = tmp_path / "run"
    main(data, out, f"{flags} --epochs 1 --batch-size 50 --validation 100")
    (name,) = numbers(out)["phases"]
    assert name == phase
    assert (numbers(out)["phases"][phase]["density"] < 1) == zeros


@pytest.mark.parametrize(
    ("line", "number", "status"),
    [
        ("penalised  epoch   2", signal.SIGKILL, -signal.SIGKILL),
        ("debiased   epoch   1", signal.SIGTERM, 143),
        ("penalised  epoch   1", signal.SIGINT, 130),
    ],
)
def test_a_killed_run_goes_on_and_equals_one_that_was_not(
    data: Path, whole: Path, tmp_path: Path, line: str, number: signal.Signals, status: int
) -> None:
    out = tmp_path / "killed"
    with subprocess.Popen(
        [sys.executable, "-m", "experiments.mnist", *command(data, out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdout is not None
        for told in process.stdout:
            if told.startswith(line):
                process.send_signal(number)
                break
        said = process.communicate()[1]
    assert process.returncode == status
    if number != signal.SIGKILL:
        assert said == "interrupted; give the same command again to go on\n"
    assert not (out / "result.json").exists()
    main(data, out)
    assert_same_run(out, whole)


def full_for(patch: pytest.MonkeyPatch, name: str, *, after: int = 0) -> None:
    """A disk that is full for every file of this name, from the ``after``-th write on."""
    real = tempfile.mkstemp
    writes = []

    def mkstemp(**options: Any) -> tuple[int, str]:
        if options.get("prefix") == f".{name}.":
            writes.append(name)
            if len(writes) > after:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(**options)

    patch.setattr(tempfile, "mkstemp", mkstemp)


@pytest.mark.parametrize(("name", "after"), [("result.json", 0), ("last.ckpt", 4)])
def test_a_full_disk_loses_nothing_earlier(
    data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, after: int
) -> None:
    out = tmp_path / "full"
    with monkeypatch.context() as patch:
        full_for(patch, name, after=after)
        with pytest.raises(SystemExit, match=rf"could not write .*{name} \(No space left"):
            main(data, out)
    assert not (out / "result.json").exists()
    epochs = 2 if name == "result.json" else 1
    assert state(out)["epoch"] + 1 == epochs  # the checkpoint before is whole
    main(data, out)
    assert_same_run(out, whole)


def test_a_damaged_checkpoint_is_named(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    main(data, out)
    (out / "result.json").unlink()
    last = out / "debiased" / "last.ckpt"
    whole = last.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"not a checkpoint"):
        last.write_bytes(damaged)
        with pytest.raises(SystemExit, match=r"debiased/last.ckpt cannot be read") as caught:
            main(data, out)
        assert "best.ckpt" in str(caught.value)
        assert last.read_bytes() == damaged
    torch.save({"weights": torch.zeros(3)}, last)
    with pytest.raises(SystemExit, match="no checkpoint of these scripts"):
        main(data, out)
    at = len(whole) // 2
    last.write_bytes(whole[:at] + bytes(8 * [255]) + whole[at + 8 :])
    with pytest.raises(SystemExit, match=r"in it is damaged|Bad CRC"):
        main(data, out)
    last.unlink()  # what the message says
    main(data, out)
    assert (out / "result.json").exists()


def test_a_run_begins_with_the_weights_of_another(data: Path, whole: Path, tmp_path: Path) -> None:
    flags = "--strength 1e-9 --lr 1e-9 --epochs 1 --batch-size 50 --validation 100"
    main(data, tmp_path / "on", f"{flags} --start {whole}")
    before, after = numbers(whole)["phases"]["debiased"], numbers(tmp_path / "on")["phases"]
    assert after["penalised"]["test_error"] == before["test_error"]
    for seed, named in ((3, "seed 0, and this one has 3"), (0, "holds no trained run")):
        start = whole if seed else tmp_path
        with pytest.raises(SystemExit) as refused:
            main(data, tmp_path / "off", f"{flags} --seed {seed} --start {start}")
        assert named in str(refused.value)


@pytest.mark.parametrize("penalty", ["l0", "group-l0"])
def test_each_layer_comes_to_the_density(data: Path, tmp_path: Path, penalty: str) -> None:
    out = tmp_path / "run"
    flags = f"--penalty {penalty} --density 0.4 --each-layer --ramp 0 0.5 0.6"
    main(data, out, f"{flags} --epochs 2 --batch-size 50 --validation 100")
    found = numbers(out)["phases"]["penalised"]["tensors"]
    counts = [(t["weights"] - t["zeros"], t["weights"]) for t in found.values()]
    grouped = [pair for pair in counts if pair[0] < pair[1]] if penalty == "group-l0" else counts
    assert len(grouped) >= 2
    assert all(kept / of == pytest.approx(0.4, rel=0.02) for kept, of in grouped)
