"""What goes wrong in a run is said when it happens, with the way on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from experiments.results import write_text
from tests.test_experiments_run import data, main

__all__ = ["data"]


def test_damaged_settings_are_mended_as_the_message_says(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = "--strength 1e-3 --epochs 1 --batch-size 50"
    main(data, out, flags)
    settings = out / "settings.json"
    before = settings.read_text()
    settings.write_text(before[:40])
    with pytest.raises(SystemExit, match="remove that file and give the command again"):
        main(data, out, flags)
    settings.unlink()
    with pytest.raises(SystemExit, match="--epochs 1 there, 2 here"):
        main(data, out, flags.replace("--epochs 1", "--epochs 2"))
    main(data, out, flags)
    assert settings.read_text() == before


@pytest.mark.parametrize("flags", ["--lr 1e30", "--optimizer sgd --lr 1e6"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_diverged_run_stops_and_keeps_no_such_epoch(
    data: Path, tmp_path: Path, flags: str
) -> None:
    out = tmp_path / "run"
    with pytest.raises(SystemExit, match=r"diverged in epoch . of .*lower --lr.*--fresh"):
        main(data, out, f"--strength 1e-3 --epochs 4 --batch-size 50 {flags}")
    assert not (out / "result.json").exists()
    if (last := out / "penalised" / "last.ckpt").exists():
        weights = torch.load(last, weights_only=True)["state_dict"].values()
        assert all(w.isfinite().all() for w in weights)
    main(data, out, "--strength 1e-3 --epochs 1 --batch-size 50 --fresh")


def test_a_cut_validation_split_is_said(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(data, tmp_path / "run", "--penalty none --epochs 1 --limit 60")
    assert "only 30 of the 60 training images are held out" in capsys.readouterr().out


@pytest.mark.parametrize("flags", ["", " --fresh"])
def test_a_folder_in_use_is_left_to_the_process_that_uses_it(
    data: Path, tmp_path: Path, flags: str
) -> None:
    out = tmp_path / "run"
    main(data, out, "--strength 1e-3 --epochs 1 --batch-size 50")
    before = sorted(out.iterdir())
    holds = "import sys; from experiments.lock import alone_in\nfrom pathlib import Path\n"
    holds += "with alone_in(Path(sys.argv[1])): print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", holds, str(out)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(SystemExit, match="another process is at work in"):
            main(data, out, f"--strength 1e-3 --epochs 1 --batch-size 50{flags}")
        other.kill()
    assert sorted(out.iterdir()) == before
    main(data, out, f"--strength 1e-3 --epochs 1 --batch-size 50{flags}")


def test_an_interrupt_while_a_file_is_written_leaves_no_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    file = tmp_path / "result.json"
    write_text(file, "before")
    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_text(file, "after")
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    assert file.read_text() == "before"
