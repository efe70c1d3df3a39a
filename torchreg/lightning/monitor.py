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

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count, and log on rank zero what only rank zero has a logger for."""
        done = trainer.current_epoch + 1
        if (done % self.every_n_epochs and done != trainer.max_epochs) or trainer.barebones:
            return
        selections = [r.selection() for r in regularizers_of(trainer, pl_module)]
        weights = {name: w for selection in selections for name, w in selection.items()}
        report = sparsity(weights or pl_module)
        options: dict[str, Any] = {"on_epoch": True, "batch_size": 1, "sync_dist": True}
        pl_module.log("sparsity/total", report.sparsity, prog_bar=True, **options)
        for name, zeros in report.tensors.items():
            pl_module.log(f"sparsity/{name}", zeros.sparsity, **options)
        if not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            experiment: Any = getattr(logger, "experiment", None)
            if hasattr(experiment, "add_text"):
                # Four blanks: preformatted text in Markdown.
                table = "\n".join(f"    {line}" for line in str(report).splitlines())
                experiment.add_text("sparsity/table", table, trainer.global_step)
            if self.histograms and hasattr(experiment, "add_histogram"):
                for name, w in weights.items():
                    nonzero = w.detach()[w.detach() != 0]
                    nonzero = nonzero[nonzero.isfinite()]
                    if nonzero.numel():
                        tag = f"nonzero_weights/{name}"
                        experiment.add_histogram(tag, nonzero, trainer.global_step)
