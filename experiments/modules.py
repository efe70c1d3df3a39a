"""The networks as LightningModules: a dense baseline, and the same with a penalty."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import lightning.pytorch as pl
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics.classification import MulticlassAccuracy

import torchreg as tr
from experiments import distillation
from experiments.flags import Flags
from experiments.penalties import GROUPED, SINGLE, groupings
from torchreg.lightning import RegularizedMixin
from torchreg.schedule import multiply_adds


class Classifier(pl.LightningModule):
    """An ordinary classifier, which knows nothing of penalties: the dense baseline.

    Args:
        model: from images to logits.
        classes: how many.
        flags: optimizer and schedule.
        lr: at its peak.
        epochs: the length of the schedule.
        teacher: from images to the logits that are asked for beside the labels, in training.
    """

    def __init__(
        self,
        model: nn.Module,
        classes: int,
        flags: Flags,
        *,
        lr: float,
        epochs: int,
        teacher: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.flags, self.epochs = model, flags, epochs
        self.lr, self.teacher = lr, teacher
        self.accuracies = nn.ModuleDict(
            {
                f"{split}_accuracy": MulticlassAccuracy(classes, average="micro")
                for split in ("train", "val", "test")
            }
        )
        self.rows: list[dict[str, Any]] = []

    def _loss(self, split: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        logits = self.model(x)
        if split == "train" and self.teacher is not None:
            loss = distillation.loss(logits, self.teacher(x), y)
        else:
            loss = F.cross_entropy(logits, y)
        accuracy = self.accuracies[f"{split}_accuracy"]
        assert isinstance(accuracy, MulticlassAccuracy)
        accuracy(logits, y)
        options: dict[str, Any] = {"on_step": False, "on_epoch": True, "batch_size": len(y)}
        self.log(f"{split}/loss", loss, **options)
        self.log(f"{split}/accuracy", accuracy, prog_bar=split == "val", **options)
        return loss

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:  # noqa: ARG002
        """The mean cross entropy, or the loss of who is taught; without any penalty."""
        return self._loss("train", batch)

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:  # noqa: ARG002
        """Loss and accuracy on the images held out."""
        self._loss("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:  # noqa: ARG002
        """Loss and accuracy on the test images."""
        self._loss("test", batch)

    def configure_optimizers(self) -> Any:
        """The optimizer of the flags, its lr under a warm-up and a cosine."""
        steps = int(self.trainer.estimated_stepping_batches)
        warm = min(1.0, self.flags.warmup / self.epochs) * steps

        def factor(step: int) -> float:
            rise = min(1.0, (step + 1) / warm) if warm else 1.0
            fall = 0.5 * (1 + math.cos(math.pi * step / steps))
            return rise * fall

        optimizer = make_optimizer(self.model, self.flags, self.lr)
        schedule = {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the rows of the epochs so far: a resumed run tells of all of them."""
        checkpoint["rows"] = self.rows

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the rows of the epochs before."""
        self.rows = checkpoint["rows"]


class SparseClassifier(RegularizedMixin, Classifier):
    """The same classifier with a penalty: the mixin, and one method.

    Args:
        held: hold the zeros that there are and penalise nothing else.
        example: two images, for ``--groups removable`` and ``shared``.
    """

    def __init__(self, *args: Any, held: bool, example: Tensor, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.held, self.example = held, example
        if self.flags.mode == "loss" and not held:
            self.regularization = "loss"

    def configure_regularizer(self) -> tr.Regularizer:
        """The penalty of the flags, or the zeros of the weights as they are now."""
        regularizer = make_regularizer(self.model, self.flags, self.example)
        return tr.fix_support(regularizer) if self.held else regularizer


def make_regularizer(model: nn.Module, flags: Flags, example: Tensor) -> tr.Regularizer:
    """The penalty that the flags name, bound to a model.

    Args:
        model: the network.
        flags: the penalty, its strength, its groups, and where it acts.
        example: a batch for the model, from which ``--groups removable`` and ``shared`` follow
            the channels.
    """
    strength = flags.strength or 1.0  # under --density it only has to be positive
    if flags.penalty not in GROUPED:
        make = SINGLE.get(flags.penalty, partial(tr.ElasticNet, l2=flags.l2))
        if not flags.each_layer:
            return tr.Regularizer(model, make(strength), flags.where)
        names = tr.select(model, flags.where)  # a density of its own takes a penalty of its own
        return tr.Regularizer(model, {name: make(strength) for name in names})
    example = example.to(next(model.parameters()).device)
    found = groupings(model, flags.groups, example, flags.where)
    # A budget of multiply-adds is spent best where each of them is as dear as any other.
    prices = multiply_adds(model, example) if flags.multiply_adds else {}
    grouped = GROUPED[flags.penalty]
    return tr.Regularizer(
        model,
        {
            names: grouped(strength * _price(model, names, prices), groups=group)
            for names, group in found.items()
        },
    )


def _price(model: nn.Module, names: str | tuple[str, ...], prices: Mapping[str, float]) -> float:
    """What a weight of these parameters costs on average; 1 where nothing is counted."""
    counts = {name: weight.numel() for name, weight in tr.select(model, names).items()}
    total = sum(prices.get(name, 1.0) * count for name, count in counts.items())
    return total / sum(counts.values())


def make_optimizer(model: nn.Module, flags: Flags, lr: float) -> Optimizer:
    """The optimizer that the flags name, in torch's fused form: one pass over the weights."""
    options: dict[str, Any] = {"lr": lr, "weight_decay": flags.weight_decay, "fused": True}
    if flags.optimizer == "sgd":
        nesterov = flags.momentum > 0
        return SGD(model.parameters(), momentum=flags.momentum, nesterov=nesterov, **options)
    kind = AdamW if flags.optimizer == "adamw" else Adam
    return kind(model.parameters(), betas=(flags.momentum, 0.999), **options)
