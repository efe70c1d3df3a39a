"""The folder of a run: claimed by one command, never half written, never silently replaced."""

import io
import os
import pickle
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import lightning
import torch
import torchvision
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import Tensor

import torchreg as tr
from experiments.cli import Flags, FolderError
from experiments.lock import alone_in
from experiments.results import read_json, table, write_bytes, write_json, write_text

# Flags that may differ when a run goes on: they name places, or this very call.
_ELSEWHERE = {"data_dir", "out", "fresh", "device"}
PHASES = ("dense", "penalised", "debiased")
"""The folders that a run may leave, in the order in which they are trained."""

# What a run must have in common with the one that a flag of its own names.
_SHARED = {
    "start": ("task", "model", "seed", "validation", "limit"),
    "teacher": ("task", "seed", "validation", "limit"),
}

# What is read of a checkpoint, and of a result.
_STATE = {"state_dict", "optimizer_states", "lr_schedulers", "loops", "epoch", "rows"}
_RESULT = {"task": str, "flags": dict, "phases": dict}
_FLAGS = {"model", "penalty", "strength", "l2", "mode", "seed"}
_NUMBERS = {"test_error", "val_error", "density", "weights", "seconds"}


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
            with ZipFile(path) as packed:  # torch does not look at the checksums
                if damaged := packed.testzip():
                    raise ValueError(f"{damaged} in it is damaged")
            state: dict[str, Any] = super().load_checkpoint(path, *args, **kwargs)
            if not (isinstance(state, dict) and state.keys() >= _STATE):
                raise ValueError("it is no checkpoint of these scripts")
            return state
        except OSError:
            raise
        except Exception as error:  # whatever a parser of zip or pickle makes of wrong bytes
            reason = str(error).partition("\n")[0] or type(error).__name__
            if isinstance(error, pickle.UnpicklingError):  # torch advises to unpickle anything
                reason = "it holds something else than tensors and numbers"
            best = Path(path).with_name("best.ckpt")
            kept = f", or replace it by a copy of {best}, to go on from there" * best.exists()
            raise FolderError(
                f"the checkpoint {path} cannot be read ({reason}). Nothing was "
                f"changed. Remove it, to train this phase anew{kept}, and give the same command "
                "again."
            ) from error


def last_weights(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights at the end of a run's last phase, named as in its network, and its flags.

    Raises:
        FolderError: no run of these scripts, or one that has trained nothing yet.
    """
    noted = folder / "settings.json"
    phases = [folder / phase / "last.ckpt" for phase in reversed(PHASES)]
    last = next((path for path in phases if path.exists()), None)
    if not noted.exists() or last is None:
        raise FolderError(
            f"{folder} holds no trained run of these scripts. Train one first, such as "
            "python -m experiments.mnist --model lenet-5-caffe --penalty none."
        )
    state = WholeCheckpoints().load_checkpoint(last, weights_only=True)["state_dict"]
    kept = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
    return kept, read_json(noted)


def weights_given(flag: str, task: str, flags: Flags) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The last weights of the run that ``--start`` or ``--teacher`` names, and its flags.

    Raises:
        FolderError: no trained run; a teacher that is not finished, and would be another when this
            run is resumed; weights that are not finite; a run of another task or network, or one
            that held out other images for validation, some of which it was trained on: this run's
            validation would be worth nothing.
    """
    folder: Path = getattr(flags, flag)
    state, other = last_weights(folder)
    asked = {"task": task, **settings_of(flags)}
    what = "network" if "model" in _SHARED[flag] else "task"
    for key in _SHARED[flag]:
        if other.get(key) != asked[key]:
            raise FolderError(
                f"--{flag} {folder} is a run with {key} {other.get(key)}, and this one has "
                f"{asked[key]}: they must have the {what} and the held-out images in common. Name "
                "another run, or give this one the flags of that."
            )
    if flag == "teacher" and not (folder / "result.json").exists():
        raise FolderError(
            f"--{flag} {folder} is a run that is not finished (it has no result.json). Give its "
            "command again, and then this one."
        )
    if unusable := [name for name, tensor in state.items() if not tensor.isfinite().all()]:
        raise FolderError(
            f"--{flag} {folder} is a run that diverged ({unusable[0]} is not finite). Name "
            "another run, or train it again with a lower --lr and --fresh."
        )
    return state, other


def claim(task: str, flags: Flags, check: Callable[[], object] = lambda: None) -> Path:
    """Take the folder of a run, new or to be resumed, and note the flags in it.

    Args:
        task: the name of the data.
        flags: what the run was asked for.
        check: called before anything is made or moved; it may raise.

    Returns:
        The folder; it holds ``result.json`` already where the run is finished.

    Raises:
        FolderError: the folder belongs to a run with other flags, to no run, or is to be set aside
            while another process is at work in it; or a run that the flags name is not fit for it.
    """
    name = f"{task}-{flags.model}-{flags.penalty}"
    if flags.penalty != "none":
        asked = f"{flags.strength:g}" if flags.strength else f"density-{flags.density:g}"
        name += f"-{asked}" + (f"-{flags.l2:g}" if flags.l2 else "") + f"-{flags.mode}"
    name += "-taught" * (flags.teacher is not None)
    folder = flags.out or Path("runs") / f"{name}-seed{flags.seed}"
    settings = {"task": task, **settings_of(flags)}
    aside = flags.fresh and folder.exists()
    if not aside and _begun(folder):
        _refuse_others(folder, settings)
        if (folder / "settings.json").exists():
            return folder
        print(f"{folder} had no settings.json: taken to be a run with these flags")
    elif (
        # A folder of ours in which nothing has been trained yet is free for any flags.
        not aside
        and folder.exists()
        and any(folder.iterdir())
        and not (folder / "settings.json").exists()
    ):
        raise FolderError(
            f"{folder} exists and is no run of these scripts (it has no settings.json). Give "
            "another --out."
        )
    for flag in _SHARED:
        if (given := getattr(flags, flag)) is not None:
            weights_given(flag, task, flags)
            if aside and given.resolve() == folder.resolve():
                raise FolderError(
                    f"--fresh would set {folder} aside, and --{flag} names it. Give another --out."
                )
    check()
    if aside:
        number = next(n for n in range(1, 10_000) if not Path(f"{folder}.{n}").exists())
        with alone_in(folder):
            folder.rename(f"{folder}.{number}")
        print(f"the earlier run is kept in {folder}.{number}")
    write_json(folder / "settings.json", settings)
    return folder


def _begun(folder: Path) -> bool:
    return (folder / "result.json").exists() or any(
        (folder / phase / "last.ckpt").exists() for phase in PHASES
    )


def _refuse_others(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse a folder whose run had other flags; where nothing tells its flags, take it."""
    noted = folder / "settings.json"
    try:
        before = read_json(noted) if noted.exists() else None
        if noted.exists() and not isinstance(before, dict):
            raise ValueError(f"{noted} does not hold the flags of a run")
    except ValueError as error:
        raise FolderError(
            f"{str(error).partition(': remove it')[0]}. If the run in {folder} had the flags of "
            "this command, remove that file and give the command again, to go on with it; else "
            "give --fresh to set it aside."
        ) from error
    if before is None and (folder / "result.json").exists():
        result = read_result(folder / "result.json")
        before = {"task": result["task"], **result["flags"]}
    differing = [
        f"--{key.replace('_', '-')} {before.get(key)} there, {settings.get(key)} here"
        for key in sorted({*before, *settings} if before is not None else ())
        if before is not None and before.get(key) != settings.get(key) and key not in _ELSEWHERE
    ]
    if differing:
        raise FolderError(
            f"{folder} holds a run with other flags ({'; '.join(differing)}). Give the same "
            "flags to go on with it, another --out, or --fresh to set it aside."
        )


def read_result(path: Path) -> dict[str, Any]:
    """Read the result of a finished run.

    Raises:
        ValueError: it is not what a run leaves.
    """
    result: Any = read_json(path)
    if (
        not isinstance(result, dict)
        or any(not isinstance(result.get(key), kind) for key, kind in _RESULT.items())
        or not result["flags"].keys() >= _FLAGS
        or not result["phases"]
        or any(not set(numbers) >= _NUMBERS for numbers in result["phases"].values())
    ):
        raise ValueError(
            f"{path} is not what a run leaves: numbers are missing. Remove it and give the "
            "command of the run again, which measures its last checkpoint."
        )
    return result


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
