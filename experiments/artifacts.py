"""The folder of a run: claimed by one command, never half written, never silently replaced."""

import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
import torchvision

import torchreg as tr
from experiments.checkpoints import (
    NAMED,
    PHASES,
    differing,
    settings_of,
    weights_given,
)
from experiments.errors import FolderError
from experiments.flags import Flags
from experiments.lock import alone_in
from experiments.results import read_json, table, write_json, write_text

# Flags that may differ when a run goes on: they name places, or this very call.
_ELSEWHERE = {"data_dir", "out", "fresh", "device"}

# What is read of a result.
_RESULT = {"task": str, "flags": dict, "phases": dict}
_FLAGS = {"model", "penalty", "strength", "l2", "mode", "seed"}
_NUMBERS = {"test_error", "val_error", "density", "weights", "seconds"}


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
    for flag in NAMED:
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
    others = [
        f"--{key.replace('_', '-')} {before.get(key)} there, {settings.get(key)} here"
        for key in (differing(before, settings) if before is not None else ())
        if before is not None and key not in _ELSEWHERE
    ]
    if others:
        raise FolderError(
            f"{folder} holds a run with other flags ({'; '.join(others)}). Give the same "
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
