"""Keep exact zeros when the weights of several steps are averaged."""

from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import lightning.pytorch.callbacks as lightning_callbacks
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from torchreg.lightning.mixin import check_makes_zeros, regularizers_of
from torchreg.lightning.penalise import callbacks_of


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

    List it after the averaging callback: Lightning's SWA or WeightAveraging, or a subclass.

    Raises:
        ValueError: an averaging callback comes after it in the trainer's callbacks, or there is
            none.
        TypeError: when the training starts, no optimizer is proximal, so there are no exact zeros.

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
        if not any(isinstance(callback, _AVERAGING) for callback in callbacks):
            names = " or ".join(kind.__name__ for kind in _AVERAGING)
            raise ValueError(
                "RestoreSupport projects averaged weights, and no callback of the trainer "
                f"averages any. List {names} (or a subclass) before it, or leave it out."
            )
        for callback in callbacks[callbacks.index(self) :]:
            if isinstance(callback, _AVERAGING):
                name = type(callback).__name__
                raise ValueError(
                    f"RestoreSupport comes before {name} in the trainer's callbacks, so the "
                    f"average would be dense again. List it after: [{name}(...), RestoreSupport()]."
                )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check that there are exact zeros to bring back."""
        check_makes_zeros("RestoreSupport brings back", trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the support of the epoch's last iterate."""
        if not self._averaged:
            self._kept = [
                {name: w.detach() != 0 for name, w in regularizer.selection().items()}
                for regularizer in regularizers_of(trainer, pl_module)
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
            regularizers = regularizers_of(trainer, pl_module)
            for regularizer, kept in zip(regularizers, self._kept, strict=True):
                for name, w in regularizer.selection().items():
                    if name in kept:  # and not unfrozen since
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
