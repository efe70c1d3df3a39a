"""What the mixin does during a fit: each optimizer step counts the penalty exactly once."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy
from torch import Tensor
from torch.optim import LBFGS, Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from torchreg.metrics import metric_of
from torchreg.proximal import ProximalOptimizer
from torchreg.report import sparsity

if TYPE_CHECKING:
    from torchreg.lightning.mixin import RegularizedMixin


class Penalise(Callback):
    """The callback that :class:`RegularizedMixin` adds to the trainer.

    It reads the module's ``regularization`` and ``regularizer``, and keeps no state beyond a fit.
    It stays with the trainer, and leaves modules without the mixin alone.
    """

    def __init__(self) -> None:
        self._module: RegularizedMixin | None = None
        self._attached: set[Optimizer] = set()
        self._counted: set[Optimizer] = set()
        self._hooks: list[Any] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Resolve the regularizer and give each optimizer its part of it.

        The model is configured and on its device, the optimizers are built, and their states are
        not restored yet.
        """
        self.on_fit_end(trainer, pl_module)
        if not hasattr(pl_module, "_follow_unfrozen"):
            return
        module = cast("RegularizedMixin", pl_module)
        if module.regularization not in ("proximal", "loss"):
            raise ValueError(
                f"{type(module).__name__}.regularization is {module.regularization!r}; expected "
                "'proximal' (exact zeros) or 'loss' (the penalty joins the loss)."
            )
        if isinstance(trainer.strategy, DeepSpeedStrategy):
            raise TypeError(
                "DeepSpeed keeps gradients and steps to itself, where no penalty can join them. "
                "Use another strategy, such as 'ddp'."
            )
        if isinstance(trainer.strategy, FSDPStrategy):
            raise TypeError(
                "FSDPStrategy flattens the parameters into pieces without shape, on which no "
                "penalty could tell a weight from a bias. Use ModelParallelStrategy, with "
                "fully_shard in configure_model."
            )
        module._regularizer = None
        regularizer = module.regularizer
        trained = _trained(trainer)
        left = [
            n for n, p in regularizer.selection().items() if p.requires_grad and p not in trained
        ]
        if left:
            raise ValueError(
                f"no optimizer of {type(module).__name__} holds the penalised {', '.join(left)}: "
                "the penalty on it would do nothing. Return an optimizer for it from "
                "configure_optimizers, or leave it out of configure_regularizer."
            )
        self._module = module
        # Of every optimizer, also one that Lightning does not know of.
        self._hooks.append(register_optimizer_step_post_hook(self._check_counted))
        self._attach(trainer, module)

    def on_train_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Penalise what has been unfrozen, or added to an optimizer, since."""
        if self._module is not None:
            self._module._follow_unfrozen()
            self._attach(trainer, self._module)

    def _attach(self, trainer: pl.Trainer, module: "RegularizedMixin") -> None:
        """Give each optimizer that holds penalised parameters its part of the penalty, once."""
        fresh = [o for o in trainer.optimizers if o not in self._attached]
        if not fresh:
            return
        penalised = set(module.regularizer.selection().values())
        made = {
            optimizer: self._penalised(module, optimizer)
            for optimizer in fresh
            if not penalised.isdisjoint(_parameters(optimizer))
        }
        if made:
            trainer.optimizers = [made.get(o, o) for o in trainer.optimizers]
            self._attached.update(made.values())

    def _penalised(self, module: "RegularizedMixin", optimizer: Optimizer) -> Optimizer:
        """The optimizer that takes the penalty into account in the module's mode."""
        if isinstance(optimizer, ProximalOptimizer):
            raise TypeError(
                f"configure_optimizers of {type(module).__name__} returns a ProximalOptimizer, and "
                f"regularization = {module.regularization!r} makes the penalty act once more. "
                "Return the torch.optim optimizer inside it; a metric= becomes the method "
                "proximal_metric of your module."
            )
        if module.regularization == "proximal":
            if module.proximal_metric is None:
                _check_metric(module, optimizer)
            proximal = ProximalOptimizer(
                optimizer, module.regularizer, metric=module.proximal_metric
            )
            proximal.register_step_pre_hook(lambda *_: self._counted.add(optimizer))
            proximal.register_step_post_hook(lambda *_: self._counted.discard(optimizer))
            return proximal
        if isinstance(optimizer, LBFGS) and any(
            g["line_search_fn"] for g in optimizer.param_groups
        ):
            raise TypeError(
                "the line search of LBFGS needs the value of loss + penalty, and training_step "
                "returns the loss alone. Leave RegularizedMixin out and return "
                "loss + regularizer() from training_step, or use line_search_fn=None."
            )
        return optimizer

    def on_before_optimizer_step(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,  # noqa: ARG002
        optimizer: Optimizer,
    ) -> None:
        """Add one subgradient of the penalty to the gradients, where the mode is ``"loss"``."""
        module = self._module
        if module is None:
            return
        module._follow_unfrozen()
        if module.regularization != "loss":
            return
        self._counted.add(optimizer)
        # A fused optimizer divides by the loss scale itself, in its step.
        scaler: Any = getattr(trainer.precision_plugin, "scaler", None)
        fused = scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False)
        scale = scaler.get_scale() if fused else 1.0
        module.regularizer.add_gradients_(scale, parameters=_parameters(optimizer))

    def _check_counted(self, optimizer: Optimizer, *_: Any) -> None:
        if optimizer in self._counted:
            # A subclass whose step calls its parent's comes here twice; its wrapper ends the step.
            if optimizer in self._attached:
                self._counted.discard(optimizer)
            return
        if self._module is None or isinstance(optimizer, ProximalOptimizer):
            return  # its inner optimizer has been checked
        held = set(_parameters(optimizer)).intersection(
            self._module.regularizer.selection().values()
        )
        # An optimizer may step another one inside, as ZeroRedundancyOptimizer does.
        if held and not any(held.issubset(_parameters(outer)) for outer in self._counted):
            raise RuntimeError(
                f"{type(optimizer).__name__} has stepped without the penalty. Step the optimizers "
                "that self.optimizers() returns, not those that configure_optimizers built nor "
                "any that it did not return; give an optimizer its first penalised parameters "
                "before a batch begins, as in on_train_epoch_start."
            )

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Log the task loss, which Lightning has divided by the number of batches in a step."""
        if self._module is None:
            return
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if loss is not None:
            _log(trainer, pl_module, "train/task_loss", loss * trainer.accumulate_grad_batches)

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the penalty and the sparsity."""
        if self._module is None:
            return
        regularizer = self._module.regularizer
        _log(trainer, pl_module, "train/penalty", regularizer())
        _log(trainer, pl_module, "train/sparsity", sparsity(regularizer).sparsity)

    def on_exception(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        exception: BaseException,  # noqa: ARG002
    ) -> None:
        """Leave the user's optimizers as they were, also after an interrupt."""
        self.on_fit_end(trainer, pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Leave the user's optimizers as they were."""
        for hook in self._hooks:
            hook.remove()
        for optimizer in self._attached:
            if isinstance(optimizer, ProximalOptimizer):
                optimizer.release()
        self._hooks, self._attached, self._counted, self._module = [], set(), set(), None


def _check_metric(module: "RegularizedMixin", optimizer: Optimizer) -> None:
    """Name the mixin's way to pass a metric where none is known."""
    try:
        metric_of(optimizer)
    except TypeError as error:
        name = type(optimizer).__name__
        raise TypeError(
            f"no diagonal step size is known for {name}. If {name} moves each coordinate by a "
            f"known factor per unit of gradient, give {type(module).__name__} the method "
            "proximal_metric(self, group, parameter, state) that returns that factor, as it was "
            "in the step just taken, such as torchreg.StepSize(group['lr'], its denominator). "
            "Otherwise use an optimizer of torch.optim whose step size is known, such as AdamW, or "
            "regularization = 'loss'."
        ) from error


def callbacks_of(trainer: pl.Trainer) -> list[Callback]:
    """The callbacks of a trainer, which Lightning does not annotate."""
    return cast(list[Callback], cast(Any, trainer).callbacks)


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _trained(trainer: pl.Trainer) -> set[Tensor]:
    return {parameter for optimizer in trainer.optimizers for parameter in _parameters(optimizer)}


def _log(trainer: pl.Trainer, module: pl.LightningModule, name: str, value: Any) -> None:
    if not trainer.barebones:
        module.log(name, value, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)
