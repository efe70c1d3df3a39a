"""Callbacks of a sparse training: watch the zeros, debias, and keep zeros under averaging."""

import warnings
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import lightning.pytorch.callbacks as lightning_callbacks
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from torchreg.lightning.mixin import RegularizedMixin
from torchreg.lightning.penalise import callbacks_of
from torchreg.penalties import FixedSupport
from torchreg.proximal import ProximalOptimizer
from torchreg.regularizer import Regularizer, fix_support
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
        selections = [r.selection() for r in _regularizers(trainer, pl_module)]
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


class Debias(Callback):
    """Remove the bias of L1: from an epoch on, train the weights that are left without penalty.

    L1 shrinks the weights that it keeps. At the start of epoch ``epoch`` the zeros of the
    proximal optimizers are fixed where they are (:func:`torchreg.fix_support`) and the penalty is
    lifted from all other weights. It works with :class:`RegularizedMixin` in mode ``"proximal"``
    and with ProximalOptimizers that the module builds itself. The optimizer's state and lr go on
    as they are.

    The support is part of the callback's checkpoint (one bool per penalised weight), so a run
    resumed from either phase goes on bit for bit.

    Args:
        epoch: the first epoch without penalty, counted from 0 like ``trainer.current_epoch``:
            also the number of epochs with it.

    Raises:
        ValueError: ``epoch`` is not a non-negative integer.
        TypeError: when the training starts, no optimizer is proximal, so there are no exact zeros.

    Warns:
        UserWarning: ``epoch`` is not below the trainer's ``max_epochs``.

    Example:
        >>> import lightning.pytorch as L
        >>> trainer = L.Trainer(max_epochs=30, callbacks=[Debias(epoch=20)], accelerator="cpu",
        ...                     logger=False, enable_checkpointing=False)
    """

    def __init__(self, epoch: int) -> None:
        if not isinstance(epoch, int) or epoch < 0:
            raise ValueError(f"epoch must be a non-negative integer, found {epoch!r}.")
        self.epoch = epoch
        self._kept: list[dict[str, Tensor]] | None = None

    @property
    def begun(self) -> bool:
        """Whether the support is fixed."""
        return self._kept is not None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:  # noqa: ARG002
        """Start afresh; a checkpoint is restored after this."""
        if stage == "fit":
            self._kept = None
            if trainer.max_epochs is not None and 0 <= trainer.max_epochs <= self.epoch:
                warnings.warn(
                    f"Debias(epoch={self.epoch}) does not begin in a fit of "
                    f"{trainer.max_epochs} epochs (they count from 0).",
                    stacklevel=2,
                )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on with the support of a checkpoint."""
        if not any(isinstance(optimizer, ProximalOptimizer) for optimizer in trainer.optimizers):
            raise TypeError(
                "Debias fixes exact zeros, and no optimizer makes any. Use RegularizedMixin with "
                "regularization = 'proximal', or a torchreg.ProximalOptimizer."
            )
        if self._kept is not None:
            self._fix(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fix the support when its epoch has come."""
        if self._kept is None and trainer.current_epoch >= self.epoch:
            self._fix(trainer, pl_module)

    def _fix(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        proximal = [o for o in trainer.optimizers if isinstance(o, ProximalOptimizer)]
        fixed = {regularizer: fix_support(regularizer) for regularizer in _each(proximal)}
        if self._kept is None:
            self._kept = [dict(_supports(regularizer)) for regularizer in fixed.values()]
        for regularizer, kept in zip(fixed.values(), self._kept, strict=True):
            for name, _, penalty in regularizer.items():
                penalty.kept = kept[name]
        if isinstance(pl_module, RegularizedMixin):
            pl_module._regularizer = fixed.get(pl_module.regularizer, pl_module.regularizer)
        for optimizer in proximal:
            optimizer.regularizer = fixed[optimizer.regularizer]

    def state_dict(self) -> dict[str, Any]:
        """The fixed support; nothing before it is fixed."""
        return {} if self._kept is None else {"kept": self._kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume in the phase of the checkpoint."""
        self._kept = state_dict["kept"]


class RestoreSupport(Callback):
    """Bring back the exact zeros that averaging the weights (EMA, SWA) destroys.

    A mean of sparse iterates is nonzero wherever one of them was. The averaged weights are
    projected onto the support of the last proximal iterate: a weight that the proximal optimizer
    held at zero when the training ended is zero, every other keeps its averaged value. The rule
    has no threshold to tune, and it is the proximal map, for any step size, of the indicator of
    that support. What it removes vanishes anyhow: proximal steps reach the support of the
    solution after finitely many steps, and averages of later iterates have it.

    It acts when the training ends, and before SWA's pass that renews the statistics of
    BatchNorm. Validation and checkpoints *during* the training see the average as it is, so that
    a resumed run equals one that was not interrupted; ``trainer.save_checkpoint`` after the fit
    saves the zeros.

    List it after the averaging callback.

    Raises:
        ValueError: an averaging callback comes after it in the trainer's callbacks.

    Example:
        >>> import lightning.pytorch as L
        >>> from lightning.pytorch.callbacks import StochasticWeightAveraging
        >>> averaging = [StochasticWeightAveraging(swa_lrs=0.01), RestoreSupport()]
        >>> trainer = L.Trainer(callbacks=averaging, accelerator="cpu", logger=False,
        ...                     enable_checkpointing=False)

    Source: W. Hare and A. Lewis, "Identifying active constraints via partial smoothness and
    prox-regularity" (2004), for the support that is reached after finitely many steps.
    """

    def __init__(self) -> None:
        self._kept: list[dict[str, Tensor]] = []
        self._averaged = False
        self._ended = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:  # noqa: ARG002
        """Start afresh, and check the order of the callbacks."""
        if stage != "fit":
            return
        self._kept, self._averaged, self._ended = [], False, False
        callbacks = callbacks_of(trainer)
        for callback in callbacks[callbacks.index(self) :]:
            if isinstance(callback, _AVERAGING):
                name = type(callback).__name__
                raise ValueError(
                    f"RestoreSupport comes before {name} in the trainer's callbacks, so the "
                    f"average would be dense again. List it after: [{name}(...), RestoreSupport()]."
                )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the support of the epoch's last iterate."""
        if not self._averaged:
            self._kept = [
                {name: w.detach() != 0 for name, w in regularizer.selection().items()}
                for regularizer in _regularizers(trainer, pl_module)
            ]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """In SWA's last pass, where the averages have already replaced the weights, project them.

        In every other epoch the weights are those whose support has just been noted.
        """
        pairs = self._pairs(trainer, pl_module)
        if any(bool((w.detach() != 0)[~kept.to(w.device)].any()) for w, kept in pairs):
            self._averaged = True
            self._project(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Project the averaged weights."""
        self._project(trainer, pl_module)
        self._ended = True

    @torch.no_grad()
    def _project(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for w, kept in self._pairs(trainer, pl_module):
            w.copy_(torch.where(kept.to(w.device), w, 0.0))

    def _pairs(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> Iterator[tuple[nn.Parameter, Tensor]]:
        if self._kept:
            regularizers = _regularizers(trainer, pl_module)
            for regularizer, kept in zip(regularizers, self._kept, strict=True):
                for name, w in regularizer.selection().items():
                    yield w, kept[name]

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """After the training, save the zeros where the averaging callback saves its own copy."""
        if self._ended:
            kept = dict(self._pairs(trainer, pl_module))
            saved = checkpoint["state_dict"]
            for name, w in pl_module.named_parameters(remove_duplicate=False):
                if w in kept and name in saved:
                    mask = kept[w].to(saved[name].device)
                    saved[name] = torch.where(mask, saved[name], 0.0)


_AVERAGING: tuple[type[Callback], ...] = tuple(
    getattr(lightning_callbacks, name)
    for name in ("StochasticWeightAveraging", "WeightAveraging")
    if hasattr(lightning_callbacks, name)  # WeightAveraging came with Lightning 2.6
)


def _regularizers(trainer: pl.Trainer, pl_module: pl.LightningModule) -> list[Regularizer]:
    """The module's regularizer, or those of its proximal optimizers, each once."""
    if isinstance(pl_module, RegularizedMixin):
        return [pl_module.regularizer]
    return _each([o for o in trainer.optimizers if isinstance(o, ProximalOptimizer)])


def _each(optimizers: list[ProximalOptimizer]) -> list[Regularizer]:
    return list(dict.fromkeys(optimizer.regularizer for optimizer in optimizers))


def _supports(regularizer: Regularizer) -> Iterator[tuple[str, Tensor]]:
    for name, _, penalty in regularizer.items():
        assert isinstance(penalty, FixedSupport)
        yield name, penalty.kept
