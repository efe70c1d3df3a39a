"""Error against density on MNIST: LeNets trained to a density that is asked for.

Every run takes the l0 penalty through TargetSparsity: weights ranked by the proximal map in Adam's
own metric, a cubic ramp of the density, then a support that stays. A plain loop over tensors in
memory: no part of a step is spent outside of network, optimizer and target.
"""

import argparse
import io
import math
import platform
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

import torchreg as tr
from experiments.cli import FolderError, told
from experiments.data import MNIST_SOURCE, Batches, Images, hold_out, read
from experiments.flag_types import count, positive, share
from experiments.frontier_report import report
from experiments.lock import alone_in
from experiments.mnist import MODELS
from experiments.results import read_json, write_bytes, write_json

DESCRIPTION = """\
Train LeNets to densities: all models, densities, shifts and seeds, or those named by flags. A run
that is done is skipped, one that was cut off goes on; several processes may share one folder.

  python -m experiments.frontier                                       # everything
  python -m experiments.frontier --model lenet-300-100 --density 0.015 --shift 2 --seed 0
  python -m experiments.frontier --validate --seed 0                   # to choose a recipe
  python -m experiments.frontier --report-only                         # the table so far
"""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; shares are of all of the steps."""

    lr: float = 2e-3
    batch_size: int = 128
    begin: float = 0.03
    """The share of the steps that is dense."""
    end: float = 0.5
    """Where the density has come down."""
    hold: float = 0.8
    """From where the support is fixed."""
    every: int = 16
    """The strength is found anew at every so many steps."""
    smoothing: float = 0.0
    """Label smoothing."""
    input_dropout: float = 0.0
    dropout: float = 0.0
    """Of the hidden units, at first; it falls to 0 with the density."""


RECIPES = {
    ("lenet-300-100", False): Recipe(input_dropout=0.2, dropout=0.3),
    ("lenet-300-100", True): Recipe(),
    ("lenet-5-caffe", False): Recipe(dropout=0.3),
    ("lenet-5-caffe", True): Recipe(),
}
"""By model and whether images are shifted; chosen on 5,000 images held out (``--validate``)."""


class Part(NamedTuple):
    """What is run of one model."""

    densities: Sequence[float]
    shifts: Sequence[int]
    seeds: Sequence[int]
    epochs: int


PLAN = {
    "lenet-300-100": Part((0.04, 0.015, 0.01), (0, 2), range(5), 60),
    "lenet-5-caffe": Part((0.01, 0.005), (0,), range(3), 40),
}


@dataclass(frozen=True)
class Setting:
    """One run."""

    model: str
    density: float
    shift: int
    seed: int
    epochs: int
    validate: bool

    @property
    def folder(self) -> str:
        """Its folder below ``--out``."""
        name = f"{self.model}-{100 * self.density:g}pc-shift{self.shift}-{self.epochs}epochs"
        return f"{name}{'-validate' * self.validate}/seed{self.seed}"


class Training:
    """The network of a run, and all that its training changes."""

    def __init__(self, setting: Setting, recipe: Recipe, images: Images) -> None:
        torch.manual_seed(setting.seed)
        self.setting, self.recipe = setting, recipe
        self.batches = Batches(
            images, MNIST_SOURCE, recipe.batch_size, seed=setting.seed, shift=setting.shift
        )
        self.steps = setting.epochs * len(self.batches)
        self.model, self.dropouts = _with_dropout(MODELS[setting.model](10))
        self.regularizer = tr.Regularizer(self.model, tr.L0(1.0))
        adam = torch.optim.Adam(self.model.parameters(), lr=recipe.lr, fused=True)
        self.optimizer = tr.ProximalOptimizer(adam, self.regularizer)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, self.steps)
        self.target = tr.TargetSparsity(
            self.optimizer,
            setting.density,
            begin=int(recipe.begin * self.steps),
            end=int(recipe.end * self.steps),
            hold=int(recipe.hold * self.steps),
            every=recipe.every,
        )
        self.epoch, self.seconds = 0, 0.0

    def run_epoch(self) -> float:
        """Train for one epoch; returns the mean loss."""
        began = time.perf_counter()
        torch.manual_seed(1000 * self.setting.seed + self.epoch)  # dropout, resumed or not
        self.batches.set_epoch(self.epoch)
        self._set_dropout()
        self.model.train()
        total = torch.zeros(())
        for x, y in self.batches:
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.model(x), y, label_smoothing=self.recipe.smoothing)
            loss.backward()
            self.optimizer.step()
            self.scheduler.step()
            total += loss.detach()
        self.epoch += 1
        self.seconds += time.perf_counter() - began
        mean = float(total) / len(self.batches)
        if not math.isfinite(mean):
            raise ValueError(f"the loss of {self.setting.folder} is {mean}: lower the lr.")
        return mean

    def _set_dropout(self) -> None:
        falling = tr.schedule.cubic(int(self.recipe.end * self.steps), start=1.0, end=0.0)
        hidden = self.recipe.dropout * falling(self.target.steps)
        for layer, dropout in enumerate(self.dropouts):
            first = layer == 0 and self.setting.model == "lenet-300-100"
            dropout.p = self.recipe.input_dropout if first else hidden

    @torch.no_grad()
    def error(self, images: Images) -> float:
        """The share of images that the network gets wrong."""
        self.model.eval()
        wrong = torch.zeros((), dtype=torch.int64)
        for x, y in Batches(images, MNIST_SOURCE, 1000):
            wrong += (self.model(x).argmax(1) != y).sum()
        return int(wrong) / len(images)

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs."""
        parts = ("model", "optimizer", "scheduler", "target")
        state = {name: getattr(self, name).state_dict() for name in parts}
        numbers = {"epoch": self.epoch, "seconds": self.seconds}
        return {**state, **numbers, "recipe": asdict(self.recipe)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        for name in ("model", "optimizer", "scheduler", "target"):
            getattr(self, name).load_state_dict(state[name])
        self.epoch, self.seconds = state["epoch"], state["seconds"]


def _with_dropout(model: nn.Module) -> tuple[nn.Sequential, list[nn.Dropout]]:
    """The model with a dropout before each of its linear layers."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    dropouts = []
    for name, layer in model.named_children():
        if isinstance(layer, nn.Linear):
            dropouts.append(nn.Dropout(0.0))
            layers[f"drop_{name}"] = dropouts[-1]
        layers[name] = layer
    # The layout of the batches, in which convolutions take half the time on a CPU.
    return nn.Sequential(layers).to(memory_format=torch.channels_last), dropouts


def run(setting: Setting, out: Path, data_dir: Path, limit: int | None = None) -> dict[str, Any]:
    """Train one network, or go on with it, or read its result.

    The test images are read once, when the training is over; with ``validate`` never: 5,000
    training images are held out, and judged instead.
    """
    folder = out / setting.folder
    folder.mkdir(parents=True, exist_ok=True)
    result, checkpoint = folder / "result.json", folder / "last.ckpt"
    recipe = RECIPES[setting.model, setting.shift > 0]
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
        training = Training(setting, recipe, images)
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
        counted = tr.sparsity(training.regularizer)
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
        write_json(result, made)
        torch.save({n: w.detach() for n, w in training.model.state_dict().items()},
                   folder / "model.pt")  # fmt: skip
        checkpoint.unlink(missing_ok=True)
    return made


def _refuse_other(found: dict[str, Any], recipe: Recipe, folder: Path) -> None:
    if found != asdict(recipe):
        raise FolderError(
            f"{folder} holds a run by another recipe, {found}. Move it away, or give another --out."
        )


def plan(flags: argparse.Namespace) -> list[Setting]:
    """The runs asked for: seed by seed, so that every setting soon has one."""
    found = [
        Setting(model, density, shift, seed, flags.epochs or whole.epochs, flags.validate)
        for model, whole in PLAN.items()
        for density in flags.density or whole.densities
        for shift in (whole.shifts if flags.shift is None else flags.shift)
        for seed in flags.seed or whole.seeds
        if flags.model in (None, model)
    ]
    return sorted(found, key=lambda setting: setting.seed)


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is asked for, and report all that is done."""
    made = argparse.ArgumentParser(
        prog="python -m experiments.frontier",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--model", choices=list(PLAN), help="default: both")
    made.add_argument("--density", type=share, nargs="+", help="nonzero / all weights")
    made.add_argument("--shift", type=count, nargs="+", help="of images, in pixels each way")
    made.add_argument("--seed", type=count, nargs="+")
    made.add_argument("--epochs", type=positive, help="default: 60, or 40 of LeNet-5-Caffe")
    made.add_argument("--validate", action="store_true", help="hold images out; leave the test be")
    made.add_argument("--limit", type=positive, help="train on so many images only: a trial")
    made.add_argument("--data-dir", type=Path, default=Path("data"))
    made.add_argument("--out", type=Path, default=Path("runs/frontier"))
    made.add_argument("--threads", type=positive, default=1, help="of torch; one is enough")
    made.add_argument("--report-only", action="store_true")
    flags = made.parse_args(argv)
    torch.set_num_threads(flags.threads)
    for setting in [] if flags.report_only else plan(flags):
        try:
            run(setting, flags.out, flags.data_dir, flags.limit)
        except FolderError as error:
            print(f"skipped: {error}")
    print(report(flags.out))


if __name__ == "__main__":
    told(main)
