"""Error against density on MNIST: LeNets trained to a density that is asked for.

Every run takes the l0 penalty through TargetSparsity: weights ranked by the proximal map in Adam's
own metric, a cubic ramp of the density, then a support that stays.
"""

import argparse
import io
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

import torchreg as tr
from experiments.data import MNIST_SOURCE, hold_out, read
from experiments.errors import FolderError, told
from experiments.flag_types import count, positive, share
from experiments.frontier_report import report
from experiments.frontier_teacher import Teacher, logits
from experiments.frontier_training import Recipe, Setting, Training
from experiments.lock import alone_in
from experiments.results import read_json, write_bytes, write_json

DESCRIPTION = """\
Train LeNets to densities: all models, densities, shifts and seeds, or those named by flags. A run
that is done is skipped, one that was cut off goes on; several processes may share one folder.

  python -m experiments.frontier                                       # everything
  python -m experiments.frontier --model lenet-300-100 --density 0.015 --shift 2 --seed 0
  python -m experiments.frontier --validate --seed 0                   # to choose a recipe
  python -m experiments.frontier --report-only                         # the table so far
"""


class Part(NamedTuple):
    """What is run of one model, and how."""

    model: str
    shift: int
    densities: Sequence[float]
    seeds: Sequence[int]
    epochs: int
    recipe: Recipe


PLAN = (
    Part("lenet-300-100", 0, (0.04, 0.015, 0.01), range(5), 60,
         Recipe(lr=4e-3, input_dropout=0.1, teacher=Teacher())),
    Part("lenet-300-100", 2, (0.04, 0.015), range(5), 100, Recipe(lr=3e-3)),
    Part("lenet-300-100", 2, (0.01,), range(5), 80,
         Recipe(lr=3e-3, end=0.5, hold=0.8, average=0.85)),
    Part("lenet-5-caffe", 0, (0.01, 0.005), range(3), 20,
         Recipe(lr=3e-3, teacher=Teacher(epochs=8, input_dropout=0.1))),
)  # fmt: skip
"""Recipes are chosen on training images held out (``--validate`` holds out one in twelve)."""


def run(
    setting: Setting, recipe: Recipe, out: Path, data_dir: Path, limit: int | None = None
) -> dict[str, Any]:
    """Train one network, or go on with it, or read its result.

    The test images are read once, when the training is over; with ``validate`` never: 5,000
    training images are held out, and judged instead.
    """
    folder = out / setting.folder
    folder.mkdir(parents=True, exist_ok=True)
    result, checkpoint = folder / "result.json", folder / "last.ckpt"
    if result.exists():
        found: dict[str, Any] = read_json(result)
        _refuse_other(found["recipe"], recipe, folder)
        return found
    with alone_in(folder):
        images = read(MNIST_SOURCE, data_dir, train=True)
        if limit is not None:
            images = images.at(slice(limit))
        judged = None
        if setting.validate:
            images, judged = hold_out(images, len(images) // 12, setting.seed)
        taught = None
        if recipe.teacher is not None:
            print(f"{setting.folder}: its dense network, {out / setting.teacher}", flush=True)
            taught = logits(
                recipe.teacher,
                setting.model,
                images,
                shift=setting.shift,
                seed=setting.seed,
                file=out / setting.teacher,
            )
        training = Training(setting, recipe, images, taught)
        if checkpoint.exists():
            state = torch.load(checkpoint, weights_only=True)
            _refuse_other(state["recipe"], recipe, folder)
            training.load_state_dict(state)
        while training.epoch < setting.epochs:
            loss = training.run_epoch()
            density = 1 - tr.sparsity(training.regularizer).sparsity
            shown = f" validation {training.error(judged):.2%}" if judged else ""
            print(
                f"{setting.folder} epoch {training.epoch} loss {loss:.4f} density {density:.2%}"
                f"{shown} {training.seconds:.0f} s",
                flush=True,
            )
            if training.epoch % 5 == 0:
                packed = io.BytesIO()
                torch.save(training.state_dict(), packed)
                write_bytes(checkpoint, packed.getvalue())
        counted = tr.sparsity(training.result)
        made = {
            "setting": asdict(setting),
            "recipe": asdict(recipe),
            "limit": limit,
            "error": training.error(judged or read(MNIST_SOURCE, data_dir, train=False)),
            "judged_on": "validation" if judged else "test",
            "density": 1 - counted.sparsity,
            "nonzero": counted.count - counted.exact,
            "weights": counted.count,
            "by_layer": {n: t.count - t.exact for n, t in counted.tensors.items()},
            "seconds": training.seconds,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "machine": platform.machine(),
        }
        packed = io.BytesIO()
        torch.save(training.result.state_dict(), packed)
        write_bytes(folder / "model.pt", packed.getvalue())
        write_json(result, made)
        checkpoint.unlink(missing_ok=True)
    return made


def _refuse_other(found: dict[str, Any], recipe: Recipe, folder: Path) -> None:
    if found != asdict(recipe):
        raise FolderError(
            f"{folder} holds a run by another recipe, {found}. Move it away, or give another --out."
        )


def plan(flags: argparse.Namespace) -> list[tuple[Setting, Recipe]]:
    """The runs asked for: seed by seed, so that every setting soon has one."""
    found = []
    for model, shift in dict.fromkeys((part.model, part.shift) for part in PLAN):
        if flags.model not in (None, model) or flags.shift not in (None, shift):
            continue
        parts = [part for part in PLAN if (part.model, part.shift) == (model, shift)]
        for density in flags.density or [one for part in parts for one in part.densities]:
            # A density that no part lists is trained as the first part's are.
            part = next((part for part in parts if density in part.densities), parts[0])
            found += [
                (
                    Setting(
                        model, density, shift, seed, flags.epochs or part.epochs, flags.validate
                    ),
                    part.recipe,
                )
                for seed in flags.seed or part.seeds
            ]
    return sorted(found, key=lambda one: one[0].seed)


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is asked for, and report all that is done."""
    made = argparse.ArgumentParser(
        prog="python -m experiments.frontier",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--model", choices=sorted({part.model for part in PLAN}), help="default: both"
    )
    made.add_argument("--density", type=share, nargs="+", help="nonzero / all weights")
    made.add_argument("--shift", type=int, choices=(0, 2), help="in pixels; default: both")
    made.add_argument("--seed", type=count, nargs="+")
    made.add_argument(
        "--epochs", type=positive, help="default: 60; with shifts 100, at 1 %% 80; of LeNet-5 20"
    )
    made.add_argument("--validate", action="store_true", help="hold images out; leave the test be")
    made.add_argument("--limit", type=positive, help="train on so many images only: a trial")
    made.add_argument("--data-dir", type=Path, default=Path("data"))
    made.add_argument("--out", type=Path, default=Path("runs/frontier"))
    made.add_argument("--threads", type=positive, default=1, help="of torch; one is enough")
    made.add_argument("--report-only", action="store_true")
    flags = made.parse_args(argv)
    torch.set_num_threads(flags.threads)
    for setting, recipe in [] if flags.report_only else plan(flags):
        try:
            run(setting, recipe, flags.out, flags.data_dir, flags.limit)
        except FolderError as error:
            print(f"skipped: {error}")
    print(report(flags.out))


if __name__ == "__main__":
    told(main)
