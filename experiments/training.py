"""Train a classifier with a penalty, then train on without it: what every experiment shares.

Phase one trains with the penalty for ``--epochs``; under ``--density`` its strength is found on
the way, and the zeros stay as they are from some epoch on. Phase two starts from its last
weights, holds their zeros and trains the others without the penalty (debiasing). Each phase has
a cosine schedule and checkpoints of its own, so a run resumes inside either.
"""

import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor, nn

from experiments.checkpoints import WholeCheckpoints, weights_given
from experiments.data import Batches, Images, Source, hold_out, read
from experiments.distillation import taught_by
from experiments.flags import Flags
from experiments.models import MODELS
from experiments.modules import Classifier, SparseClassifier, make_regularizer
from experiments.rows import Report, Rows, diverged
from torchreg.lightning import SparsityMonitor, TargetSparsity
from torchreg.schedule import layer_densities, multiply_adds


@dataclass(frozen=True)
class Task:
    """What a script settles before its flags are read: the data and the network."""

    name: str
    source: Source
    model: Callable[[int], nn.Module]


@dataclass(frozen=True)
class Phase:
    """One of the two phases, trained."""

    name: str
    module: Classifier
    trainer: pl.Trainer
    folder: Path

    @property
    def last(self) -> dict[str, Any]:
        """The row of the last epoch, whose weights the numbers of a run are of."""
        return self.module.rows[-1]


@contextmanager
def quietly() -> Iterator[None]:
    """Leave out what Lightning says of every run, and three warnings that mean no harm here."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for harmless in (
            r"Checkpoint directory .* exists and is not empty",  # it is how a run resumes
            r"The number of training batches .* is smaller than the logging interval",
            r".*isinstance\(treespec, LeafSpec\).* is deprecated",  # Lightning's own call of torch
        ):
            warnings.filterwarnings("ignore", message=harmless)
        yield


@quietly()
def train(
    task: Task, flags: Flags, folder: Path, report: Report | None = None, *, quiet: bool = False
) -> list[Phase]:
    """Train the phases that the flags ask for; phases and epochs done before are not repeated.

    The test images are not touched: a sweep calls this and reads ``phases[-1].last``, with
    ``val_accuracy`` and ``density``.

    Args:
        task: data and network.
        flags: everything else.
        folder: where checkpoints and logs go, and are looked for.
        report: called after each epoch.
        quiet: print nothing.
    """
    pl.seed_everything(flags.seed, verbose=False)
    images = limited(read(task.source, flags.data_dir, train=True), flags)
    fitted, held_out = hold_out(images, min(flags.validation, len(images) // 2), flags.seed)
    if len(held_out) < flags.validation and not quiet:
        print(
            f"only {len(held_out)} of the {len(images)} training images are held out for "
            f"validation, not {flags.validation}: half of them at most"
        )
    model = task.model(task.source.classes).to(memory_format=torch.channels_last)
    if flags.start is not None:
        model.load_state_dict(weights_given("start", task.name, flags)[0])
    teaching = teacher(task, flags)
    example = next(iter(Batches(images.at(slice(0, 2)), task.source, 2)))[0]
    phases: list[Phase] = []
    for name, epochs, lr in plan(flags):
        held = name == "debiased"
        place = folder / name
        callbacks = [Rows(name, report, quiet=quiet), SparsityMonitor(), *checkpoints(place)]
        if name == "penalised":
            callbacks += target(flags, model, example)
        trainer = make_trainer(
            flags,
            max_epochs=epochs,
            logger=[TensorBoardLogger(place, "tensorboard"), CSVLogger(place, "csv")],
            callbacks=callbacks,
        )
        device = trainer.strategy.root_device
        options: dict[str, Any] = {"lr": lr, "epochs": epochs}
        if teaching is not None:
            options["teacher"] = taught_by(teaching, trainer)
        module = (
            Classifier(model, task.source.classes, flags, **options)
            if name == "dense"
            else SparseClassifier(
                model, task.source.classes, flags, held=held, example=example, **options
            )
        )
        batches = Batches(
            fitted,
            task.source,
            flags.batch_size,
            device=device,
            seed=2 * flags.seed + held,
            shift=flags.shift,
            flip=flags.flip,
        )
        last = place / "last.ckpt"
        trainer.fit(
            module,
            batches,
            Batches(held_out, task.source, 1000, device=device),
            ckpt_path=last if last.exists() else None,
            weights_only=True,
        )
        if not math.isfinite(module.rows[-1]["val_loss"]):  # kept by an earlier version
            raise diverged(name, epochs, "validation loss is not finite")
        phases.append(Phase(name, module, trainer, place))
    return phases


def teacher(task: Task, flags: Flags) -> nn.Module | None:
    """The network of ``--teacher`` with the weights that its run has ended with, if it is given.

    Raises:
        FolderError: the run is not one to learn from.
    """
    if flags.teacher is None:
        return None
    state, other = weights_given("teacher", task.name, flags)
    network = MODELS[other["model"]](task.source.classes)
    network.load_state_dict(state)
    return network.to(memory_format=torch.channels_last)


def plan(flags: Flags) -> list[tuple[str, int, float]]:
    """The phases of a run: name, epochs, and the lr at its peak."""
    if flags.penalty == "none":
        return [("dense", flags.epochs, flags.lr)]
    debias_lr = flags.lr if flags.debias_lr is None else flags.debias_lr
    phases = [
        ("penalised", flags.epochs, flags.lr),
        ("debiased", flags.debias_epochs, debias_lr),
    ]
    return [phase for phase in phases if phase[1]]


def target(flags: Flags, model: nn.Module, example: Tensor) -> list[pl.Callback]:
    """What ``--density`` asks for."""
    if flags.density is None:
        return []
    begin, end, hold = flags.ramp
    cost = multiply_adds(model, example) if flags.multiply_adds else None
    density: float | dict[str | tuple[str, ...], float] = flags.density
    if flags.each_layer:
        made = make_regularizer(model, flags, example)
        density = layer_densities(made, flags.density, multiple_of=flags.multiple or 1)
    return [TargetSparsity(density, begin=begin, end=end, hold=hold, cost=cost)]


def checkpoints(folder: Path) -> list[ModelCheckpoint]:
    """Keep ``best.ckpt``, of the highest validation accuracy, and ``last.ckpt``, to resume from.

    A run's results are of the last epoch, not of the best: while zeros are still being made an
    earlier epoch may be more accurate because it is denser, and the cosine settles both at the
    end. After debiasing, where all epochs have the same zeros, the two compare.
    """
    # Two callbacks: with save_last=True Lightning writes last.ckpt only when best.ckpt changes.
    best = ModelCheckpoint(
        folder, "best", monitor="val/accuracy", mode="max", enable_version_counter=False
    )
    return [best, ModelCheckpoint(folder, "last", enable_version_counter=False)]


def make_trainer(flags: Flags, **options: Any) -> pl.Trainer:
    """A Trainer on one device, without what an in-memory run has no use for."""
    return pl.Trainer(
        accelerator=flags.device,
        devices=1,
        precision=flags.precision,  # type: ignore[arg-type]
        plugins=[WholeCheckpoints()],
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=False,
        log_every_n_steps=50,
        **options,
    )


def limited(images: Images, flags: Flags) -> Images:
    """The first ``--limit`` images."""
    return images.at(slice(0, flags.limit))
