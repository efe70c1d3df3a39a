"""Lift the penalty from an epoch on and keep its zeros."""

import warnings
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from torchreg.debiasing import fix_support
from torchreg.lightning.mixin import RegularizedMixin, check_makes_zeros, regularizers_of
from torchreg.penalties import FixedSupport
from torchreg.proximal import ProximalOptimizer
from torchreg.regularizer import Regularizer


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
        check_makes_zeros("Debias fixes", trainer, pl_module)
        if self._kept is not None:
            self._fix(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fix the support when its epoch has come."""
        if self._kept is None and trainer.current_epoch >= self.epoch:
            self._fix(trainer, pl_module)

    def _fix(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        proximal = [o for o in trainer.optimizers if isinstance(o, ProximalOptimizer)]
        fixed = {r: fix_support(r) for r in regularizers_of(trainer, pl_module)}
        if self._kept is None:
            self._kept = [dict(_supports(regularizer)) for regularizer in fixed.values()]
        for regularizer, kept in zip(fixed.values(), self._kept, strict=True):
            for name, _, penalty in regularizer.items():
                penalty.kept = kept[name]
        if isinstance(pl_module, RegularizedMixin):
            pl_module._regularizer = fixed[pl_module.regularizer]
        for optimizer in proximal:
            optimizer.regularizer = fixed[optimizer.regularizer]

    def state_dict(self) -> dict[str, Any]:
        """The fixed support; nothing before it is fixed."""
        return {} if self._kept is None else {"kept": self._kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume in the phase of the checkpoint."""
        self._kept = state_dict["kept"]


def _supports(regularizer: Regularizer) -> Iterator[tuple[str, Tensor]]:
    for name, _, penalty in regularizer.items():
        assert isinstance(penalty, FixedSupport)
        yield name, penalty.kept
