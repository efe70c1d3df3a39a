"""One run from its flags to its numbers: claim the folder, train, test once, write, draw."""

from pathlib import Path
from typing import Any

from torch import Tensor

import torchreg as tr
from experiments import artifacts
from experiments.checkpoints import settings_of
from experiments.data import Batches, read
from experiments.flags import Flags
from experiments.lock import alone_in
from experiments.pictures import draw
from experiments.training import Phase, Task, limited, quietly, train

# Paths of this machine, which settings.json keeps and a result does not.
_PLACES = {"data_dir", "out"}


def run(task: Task, flags: Flags) -> dict[str, Any]:
    """Do what the flags ask for, or go on with it, or say that it is done.

    The test images are read after the last epoch of the last phase, and once.

    Returns:
        The content of ``result.json``.

    Raises:
        FolderError: the folder holds a run with other flags, a damaged checkpoint, or another
            process at work.
        DivergedError: a loss or a weight is not finite.
        DataError: the data is missing or damaged.
        OSError: something could not be written; the checkpoints before it are whole.
    """
    # The data is read before an earlier run is set aside, or a folder made.
    folder = artifacts.claim(
        task.name, flags, lambda: read(task.source, flags.data_dir, train=True)
    )
    with alone_in(folder):
        return _run(task, flags, folder)


def _run(task: Task, flags: Flags, folder: Path) -> dict[str, Any]:
    finished = folder / "result.json"
    if finished.exists():
        result = artifacts.read_result(finished)
        print(f"{folder} is finished (--fresh would set it aside and run again):")
        print(artifacts.summary(result))
        return result
    print(f"{folder}: checkpoints, logs and results go here", flush=True)
    phases = train(task, flags, folder)
    device = phases[0].trainer.strategy.root_device
    test = limited(read(task.source, flags.data_dir, train=False), flags)
    batches = Batches(test, task.source, 1000, device=device)
    measured = {phase.name: _measured(phase, batches) for phase in phases}
    rows = [row for phase in phases for row in phase.module.rows]
    result = {
        "task": task.name,
        "flags": {k: v for k, v in settings_of(flags).items() if k not in _PLACES},
        "phases": {name: numbers for name, (numbers, _) in measured.items()},
        "seconds": sum(row["seconds"] for row in rows),
        "test_images": len(test),
        "device": artifacts.device_name(device),
        "versions": artifacts.versions(),
    }
    weights = {name: tensors for name, (_, tensors) in measured.items()}
    height, width = test.pixels.shape[1:3]
    draw(folder, rows, weights, (height, width))
    path = artifacts.write_result(folder, result, rows)
    print(artifacts.summary(result))
    print(f"{result['seconds']:.0f} s of training; numbers in {path}")
    return result


@quietly()
def _measured(phase: Phase, test: Batches) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The numbers of the last weights of a phase, loaded from its checkpoint, and the weights."""
    last = phase.folder / "last.ckpt"
    (got,) = phase.trainer.test(
        phase.module, test, ckpt_path=last, verbose=False, weights_only=True
    )
    selection = tr.select(phase.module.model, phase.module.flags.where)
    zeros = tr.sparsity(selection)
    best = max(phase.module.rows, key=lambda row: float(row["val_accuracy"]))
    accuracy, validation = round(got["test/accuracy"], 6), phase.last["val_accuracy"]
    numbers = {
        "test_accuracy": accuracy,
        "test_error": round(1 - accuracy, 6),
        "val_accuracy": validation,
        "val_error": round(1 - validation, 6),
        "density": zeros.density,
        "nonzero": zeros.count - zeros.exact,
        "weights": zeros.count,
        "near_zero": zeros.near,
        "tensors": {
            name: {"zeros": one.exact, "weights": one.count} for name, one in zeros.tensors.items()
        },
        "epochs": len(phase.module.rows),
        "seconds": sum(row["seconds"] for row in phase.module.rows),
        "best": {key: best[key] for key in ("epoch", "val_accuracy", "density")},
    }
    return numbers, {name: w.detach().cpu().clone() for name, w in selection.items()}
