"""The checkpoints of runs: written whole, read with care, and given to other runs."""

import io
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import Tensor

from experiments.errors import FolderError
from experiments.flags import Flags
from experiments.results import read_json, write_bytes

PHASES = ("dense", "penalised", "debiased")
"""The folders that a run may leave, in the order in which they are trained."""

# What a run must have in common with the one that a flag of its own names.
NAMED = {
    "start": ("task", "model", "seed", "validation", "limit"),
    "teacher": ("task", "seed", "validation", "limit"),
}

# What is read of a checkpoint.
_STATE = {"state_dict", "optimizer_states", "lr_schedulers", "loops", "epoch", "rows"}


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
    what = "network" if "model" in NAMED[flag] else "task"
    for key in NAMED[flag]:
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


def settings_of(flags: Flags) -> dict[str, Any]:
    """The flags as JSON values."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in vars(flags).items()}


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The names of the settings in which two runs differ.

    A run of an older version lacks the newer flags, and is as good as one that left them out.
    """

    def alike(name: str) -> bool:
        if name in one and name in other:
            return bool(one[name] == other[name])
        return {**one, **other}[name] in (None, False)

    return sorted(name for name in {*one, *other} if not alike(name))
