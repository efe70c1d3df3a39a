"""Watch the exact zeros of a training grow."""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from torchreg.lightning.mixin import regularizers_of
from torchreg.report import sparsity


class SparsityMonitor(Callback):
    """Watch the exact zeros grow, in the progress bar and in the logger.

    At the end of every n-th epoch and of the last one it logs ``sparsity/total`` (also in the
    progress bar) and ``sparsity/<name>`` for each penalised tensor: exact zeros as a fraction of
    all its elements. A logger with ``add_text`` (TensorBoard) gets the table of counts, one with
    ``add_histogram`` the histogram of each tensor's nonzero weights; the zeros, a spike that
    would hide all else, are told by the scalars.

    What is counted is the module's regularizer, or that of its ProximalOptimizers; without
    either, the weights of its default selection (see :func:`torchreg.select`).

    Args:
        every_n_epochs: how often; counting reads every weight once.
        histograms: whether to log histograms.

    Raises:
        ValueError: ``every_n_epochs`` is not a positive integer.

    Example:
        >>> import lightning.pytorch as L
        >>> trainer = L.Trainer(accelerator="cpu", callbacks=[SparsityMonitor(every_n_epochs=5)],
        ...                     logger=False, enable_checkpointing=False)
    """

    def __init__(self, every_n_epochs: int = 1, *, histograms: bool = True) -> None:
        if not isinstance(every_n_epochs, int) or every_n_epochs < 1:
            raise ValueError(f"every_n_epochs must be a positive integer, found {every_n_epochs}.")
        self.every_n_epochs = every_n_epochs
        self.histograms = histograms
        self._missing = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Start afresh."""
        self._missing = False

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count, and log on rank zero what only rank zero has a logger for."""
        done = trainer.current_epoch + 1
        last = (
            done == trainer.max_epochs
            or trainer.should_stop
            or 0 <= trainer.max_steps <= trainer.global_step
        )
        self._missing = bool(done % self.every_n_epochs) and not last
        if trainer.barebones or self._missing:
            return
        found = self._report(trainer, pl_module)
        for name, value in found.items():
            pl_module.log(
                name,
                value,
                prog_bar=name == "sparsity/total",
                on_epoch=True,
                batch_size=1,
                sync_dist=True,
            )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the last epoch, where only a later callback knew that it was the last."""
        if trainer.barebones or not self._missing:
            return
        found = self._report(trainer, pl_module)
        for logger in trainer.loggers:
            metrics = {**found, "epoch": trainer.current_epoch - 1}
            logger.log_metrics(metrics, _step(trainer))
            logger.save()

    def _report(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float]:
        """Count, give the loggers the table and the histograms, and return the scalars."""
        step = _step(trainer)
        selections = [r.selection() for r in regularizers_of(trainer, pl_module)]
        weights = {name: w for selection in selections for name, w in selection.items()}
        report = sparsity(weights or pl_module)
        scalars = {"sparsity/total": report.sparsity}
        scalars |= {f"sparsity/{name}": zeros.sparsity for name, zeros in report.tensors.items()}
        for logger in trainer.loggers if trainer.is_global_zero else []:
            experiment: Any = getattr(logger, "experiment", None)
            if hasattr(experiment, "add_text"):
                # Four blanks: preformatted text in Markdown.
                table = "\n".join(f"    {line}" for line in str(report).splitlines())
                experiment.add_text("sparsity/table", table, step)
            if self.histograms and hasattr(experiment, "add_histogram"):
                for name, w in weights.items():
                    nonzero = w.detach()[w.detach() != 0]
                    nonzero = nonzero[nonzero.isfinite()]
                    if nonzero.numel():
                        tag = f"nonzero_weights/{name}"
                        experiment.add_histogram(tag, nonzero, step)
        return scalars


def _step(trainer: pl.Trainer) -> int:
    """The step at which Lightning logs the metrics of an epoch."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped - 1
