"""The folder of a run: claimed by one command, never half written, never silently replaced."""

import io
import os
import pickle
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import lightning
import torch
import torchvision
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

import torchreg as tr
from experiments.cli import Flags, FolderError
from experiments.results import read_json, table, write_bytes, write_json, write_text

# Flags that may differ when a run goes on: they name places, or this very call.
_ELSEWHERE = {"data_dir", "out", "fresh", "device"}


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that are whole or not there: a full disk or a kill leaves the one before."""

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | os.PathLike[str],
        storage_options: Any | None = None,  # noqa: ARG002
    ) -> None:
        """Write beside the old file, then take its place."""
        packed = io.BytesIO()
        torch.save(checkpoint, packed)
        write_bytes(Path(path), packed.getvalue())

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint.

        Raises:
            FolderError: it is damaged; the message says what to do.
        """
        try:
            return super().load_checkpoint(path, *args, **kwargs)
        except (RuntimeError, EOFError, KeyError, pickle.UnpicklingError, BadZipFile) as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            best = Path(path).with_name("best.ckpt")
            kept = f", or replace it by a copy of {best}, to go on from there" * best.exists()
            raise FolderError(
                f"the checkpoint {path} cannot be read ({reason}). Nothing was "
                f"changed. Remove it, to train this phase anew{kept}, and give the same command "
                "again."
            ) from error


def claim(task: str, flags: Flags) -> Path:
    """Take the folder of a run, new or to be resumed, and note the flags in it.

    Returns:
        The folder; it holds ``result.json`` already where the run is finished.

    Raises:
        FolderError: the folder belongs to a run with other flags.
    """
    name = f"{task}-{flags.model}-{flags.penalty}"
    if flags.penalty != "none":
        name += f"-{flags.strength:g}" + (f"-{flags.l2:g}" if flags.l2 else "") + f"-{flags.mode}"
    folder = flags.out or Path("runs") / f"{name}-seed{flags.seed}"
    if flags.fresh and folder.exists():
        number = next(n for n in range(1, 10_000) if not Path(f"{folder}.{n}").exists())
        folder.rename(f"{folder}.{number}")
        print(f"the earlier run is kept in {folder}.{number}")
    settings = {"task": task, **settings_of(flags)}
    noted = folder / "settings.json"
    # A folder in which nothing has been trained yet is free for any flags.
    begun = (folder / "result.json").exists() or any(folder.glob("*/last.ckpt"))
    if noted.exists() and begun:
        before = read_json(noted)
        differing = [
            f"--{key.replace('_', '-')} {before.get(key)} there, {settings.get(key)} here"
            for key in sorted({*before, *settings})
            if before.get(key) != settings.get(key) and key not in _ELSEWHERE
        ]
        if differing:
            raise FolderError(
                f"{folder} holds a run with other flags ({'; '.join(differing)}). Give the same "
                "flags to go on with it, another --out, or --fresh to set it aside."
            )
        return folder
    if folder.exists() and any(folder.iterdir()) and not noted.exists():
        raise FolderError(
            f"{folder} exists and is no run of these scripts (it has no settings.json). Give "
            "another --out."
        )
    write_json(noted, settings)
    return folder


def settings_of(flags: Flags) -> dict[str, Any]:
    """The flags as JSON values."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in vars(flags).items()}


def versions() -> dict[str, str]:
    """What the numbers were made with."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "lightning": lightning.__version__,
        "torchreg": tr.__version__,
    }


def device_name(device: torch.device) -> str:
    """The accelerator's name, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"


def write_result(
    folder: Path, result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> Path:
    """Leave the numbers: the epochs as CSV, then the result, whose presence says *finished*."""
    header = list(rows[0])
    lines = [",".join(header), *(",".join(f"{row[key]}" for key in header) for row in rows)]
    write_text(folder / "epochs.csv", "\n".join(lines) + "\n")
    write_json(folder / "result.json", result)
    return folder / "result.json"


def summary(result: Mapping[str, Any]) -> str:
    """A run's result for the terminal."""
    rows = [
        [
            name,
            f"{phase['test_error']:.2%}",
            f"{phase['val_error']:.2%}",
            f"{phase['density']:.2%}",
            f"{phase['nonzero']:,} of {phase['weights']:,}",
        ]
        for name, phase in result["phases"].items()
    ]
    return table(["weights", "test error", "validation", "density", "nonzero"], rows)
