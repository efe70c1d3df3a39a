"""What each epoch of an experiment leaves: a row of numbers, said in a line and reported."""

import math
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

import torchreg as tr
from experiments.errors import DivergedError
from experiments.modules import Classifier

Report = Callable[[dict[str, Any]], None]
"""Called after each epoch with its row; a sweep may raise from it to end the run."""


class Rows(pl.Callback):
    """Note each epoch in a row, say it in a line, and report it; stop when it diverged."""

    def __init__(self, phase: str, report: Report | None, *, quiet: bool) -> None:
        self.phase, self.report, self.quiet = phase, report, quiet
        self.start = 0.0
        self.loss: float | Tensor = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Start the clock."""
        self.start, self.loss = perf_counter(), 0.0

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,  # noqa: ARG002
        pl_module: pl.LightningModule,  # noqa: ARG002
        outputs: Tensor | Mapping[str, Any] | None,
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Add up the loss on its device, without waiting for it."""
        loss = outputs["loss"] if isinstance(outputs, Mapping) else outputs
        if loss is not None:
            self.loss = self.loss + loss.detach()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Before the checkpoint is written, so that it holds the row of its own epoch."""
        assert isinstance(pl_module, Classifier)
        got = trainer.callback_metrics
        numbers = {"validation loss": got["val/loss"], "training loss": self.loss}
        numbers |= {f"sum of |{k}|": w.abs().sum() for k, w in pl_module.model.named_parameters()}
        for name, number in numbers.items():
            if not math.isfinite(number):
                raise diverged(self.phase, trainer.current_epoch + 1, f"{name} is {number:g}")
        zeros = tr.sparsity(tr.select(pl_module.model, pl_module.flags.where))
        row = {
            "phase": self.phase,
            "epoch": trainer.current_epoch + 1,
            "val_accuracy": round(float(got["val/accuracy"]), 6),
            "val_loss": float(got["val/loss"]),
            "density": zeros.density,
            "seconds": perf_counter() - self.start,
        }
        pl_module.rows.append(row)
        if not self.quiet:
            print(
                f"{self.phase:<9}  epoch {row['epoch']:>3} of {trainer.max_epochs}  validation "
                f"{row['val_accuracy']:.2%}  density {row['density']:.2%}  "
                f"{row['seconds']:.1f} s",
                flush=True,
            )
        if self.report is not None:
            self.report(row)


def diverged(phase: str, epoch: int, found: str) -> DivergedError:
    """The error of an epoch whose numbers are not finite, raised before it is kept."""
    own = " (or --debias-lr)" if phase == "debiased" else ""
    return DivergedError(
        f"training diverged in epoch {epoch} of the {phase} weights (the {found}). Give a lower "
        f"--lr{own}, and --fresh, which sets the epochs before aside."
    )
