"""Strength schedules and the target sparsity as callbacks."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from torchreg.lightning.mixin import check_makes_zeros, regularizers_of
from torchreg.proximal import ProximalOptimizer
from torchreg.schedule import StrengthSchedule
from torchreg.schedule import TargetSparsity as Target
from torchreg.schedule.shapes import Shape


class Strengths(Callback):
    """Let the strengths follow a shape over the epochs, or over the optimizer steps.

    A :class:`torchreg.StrengthSchedule` on the module's regularizer (or on that of its
    ProximalOptimizers). It resumes with the
    trainer's checkpoint.

    Args:
        shape: a function from the number of epochs or steps done to a factor, such as
            ``torchreg.schedule.cosine(20)``; or one for each term of the regularizer, in order.
        interval: whether the shape counts epochs or optimizer steps.

    Raises:
        ValueError: another interval; when the training starts, the module has no regularizer, or
            several.

    Example:
        >>> import lightning.pytorch as L
        >>> import torchreg as tr
        >>> trainer = L.Trainer(max_epochs=30, callbacks=[Strengths(tr.schedule.warmup(10))],
        ...                     accelerator="cpu", logger=False, enable_checkpointing=False)
    """

    def __init__(
        self, shape: Shape | Sequence[Shape], interval: Literal["epoch", "step"] = "epoch"
    ) -> None:
        if interval not in ("epoch", "step"):
            raise ValueError(f"interval must be 'epoch' or 'step', found {interval!r}.")
        self.shape, self.interval = shape, interval
        self._schedule: StrengthSchedule | None = None
        self._resumed: dict[str, Any] | None = None
        self._seen = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:  # noqa: ARG002
        """Start afresh; a checkpoint is restored after this."""
        if stage == "fit":
            self._schedule = self._resumed = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the strengths as they are for the bases, or go on from a checkpoint."""
        found = list(regularizers_of(trainer, pl_module))
        if len(found) != 1:
            raise ValueError(f"Strengths needs one regularizer to set, found {len(found)}.")
        self._schedule = StrengthSchedule(found[0], self.shape)
        if self._resumed is not None:
            self._schedule.load_state_dict(self._resumed)
        self._seen = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Count a step that was taken: none while gradients accumulate."""
        if self.interval == "step" and trainer.global_step > self._seen:
            self._advance()
        self._seen = trainer.global_step

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Count an epoch."""
        if self.interval == "epoch":
            self._advance()

    def _advance(self) -> None:
        if self._schedule is not None:
            self._schedule.step()

    def state_dict(self) -> dict[str, Any]:
        """The schedule's."""
        return {} if self._schedule is None else self._schedule.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Kept until the training starts."""
        self._resumed = state_dict or None


class TargetSparsity(Callback):
    """Bring a fit to a density and hold it, without a strength to tune.

    Attaches a :class:`torchreg.TargetSparsity` to the module's ProximalOptimizer, which
    :class:`RegularizedMixin` makes. Its steps are shares of the whole fit here. It resumes with
    the trainer's checkpoint.

    Args:
        density: nonzero weights over all penalised weights, or one for each selection.
        begin: the share of the fit after which the density starts to fall.
        end: the share at which it has come down.
        hold: the share from which the support is fixed. Default: ``end``.
        others: further arguments of :class:`torchreg.TargetSparsity`: ``every``, ``horizon``,
            ``cost``, ``at_most``.

    Raises:
        ValueError: shares out of order; when the training starts, the length of the fit is not
            known, or several optimizers are proximal.
        TypeError: when the training starts, no optimizer is proximal, so there are no exact zeros.

    Warns:
        UserWarning: the fit ended, stopped early for example, before the density was held.

    Example:
        >>> import lightning.pytorch as L
        >>> trainer = L.Trainer(max_epochs=30, callbacks=[TargetSparsity(0.05)],
        ...                     accelerator="cpu", logger=False, enable_checkpointing=False)
    """

    def __init__(
        self,
        density: float | Mapping[Any, float],
        *,
        begin: float = 0.0,
        end: float = 0.6,
        hold: float | None = None,
        **others: Any,
    ) -> None:
        hold = end if hold is None else hold
        if not 0 <= begin <= end <= hold <= 1:
            raise ValueError(
                f"expected shares 0 <= begin <= end <= hold <= 1 of the fit, found begin={begin}, "
                f"end={end}, hold={hold}."
            )
        self.density, self.begin, self.end, self.hold = density, begin, end, hold
        self.others = others
        self.target: Target | None = None
        """The target of the present fit, and of the last one."""
        self._resumed: dict[str, Any] | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:  # noqa: ARG002
        """Start afresh; a checkpoint is restored after this."""
        if stage == "fit":
            self.target = self._resumed = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Attach the target, or go on from a checkpoint."""
        check_makes_zeros("TargetSparsity steers", trainer, pl_module)
        proximal = [o for o in trainer.optimizers if isinstance(o, ProximalOptimizer)]
        steps = trainer.estimated_stepping_batches
        if len(proximal) != 1 or steps == float("inf"):
            raise ValueError(
                f"TargetSparsity needs one ProximalOptimizer and a fit of known length; found "
                f"{len(proximal)} and {steps} steps. Set max_epochs or max_steps, and use "
                "torchreg.TargetSparsity itself for several optimizers."
            )
        last = max(int(steps) - 1, 0)  # the support is fixed at the last step at the latest
        shares = self.begin, self.end, self.hold
        begin, end, hold = (min(round(share * steps), last) for share in shares)
        self.target = Target(
            proximal[0], self.density, begin=begin, end=end, hold=hold, **self.others
        )
        if self._resumed is not None:
            self.target.load_state_dict(self._resumed)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Leave the optimizer alone from now on, and say so if the density was not reached."""
        if self.target is None:
            return
        self.target.detach()
        if not self.target.holding:
            warnings.warn(
                f"the fit ended after {self.target.steps} steps, before the density of "
                f"{self.density} was to be held at step {self.target.hold}: the model is denser "
                "than was asked. Train on from the checkpoint, or set max_epochs or max_steps to "
                "the steps that are taken.",
                stacklevel=2,
            )

    def on_exception(self, trainer: pl.Trainer, *_: Any) -> None:  # noqa: ARG002
        """Leave the optimizer alone, so that another fit can begin."""
        if self.target is not None:
            self.target.detach()

    def state_dict(self) -> dict[str, Any]:
        """The target's."""
        return {} if self.target is None else self.target.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Kept until the training starts."""
        self._resumed = state_dict or None
