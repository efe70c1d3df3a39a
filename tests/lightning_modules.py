"""Modules, data and a Trainer that the tests of the Lightning side share."""

from collections.abc import Callable
from typing import Any, Literal, cast

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import BaseFinetuning
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader, TensorDataset

import torchreg as tr
from torchreg.lightning import RegularizedMixin

L1 = 0.05
Batch = tuple[Tensor, Tensor]


class Plain(L.LightningModule):
    """An existing module, which knows of no penalty."""

    def __init__(self, configure: Callable[["Plain"], Any] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1)).double()
        self.configure = configure

    def loss(self, batch: Batch) -> Tensor:
        x, y = batch
        return nn.functional.mse_loss(self.net(x), y)

    def training_step(self, batch: Batch, _: int) -> Any:
        return self.loss(batch)

    def configure_optimizers(self) -> Any:
        return self.configure(self) if self.configure else sgd(self)


class Proximal(RegularizedMixin, Plain):
    """The existing module, regularised."""

    def configure_regularizer(self) -> Any:
        return tr.L1(L1)


class InLoss(Proximal):
    regularization: Literal["proximal", "loss"] = "loss"


def sgd(module: nn.Module, **kwargs: Any) -> Optimizer:
    return SGD(module.parameters(), lr=0.1, momentum=0.9, **kwargs)


def data(batches: int = 5, size: int = 4, dtype: torch.dtype = torch.float64) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batches * size, 6, generator=generator, dtype=torch.float64).to(dtype)
    return [(part, part[:, :1] * 2) for part in x.split(size)]


def loader(batches: list[Batch], size: int = 4) -> DataLoader[Any]:
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return DataLoader(TensorDataset(x, y), batch_size=size)


def trainer(**kwargs: Any) -> L.Trainer:
    quiet = dict.fromkeys(
        ["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False
    )
    return L.Trainer(**{"accelerator": "cpu", "devices": 1, "max_epochs": 2, **quiet, **kwargs})


def fit(module: L.LightningModule, batches: list[Batch] | None = None, **kwargs: Any) -> L.Trainer:
    running = trainer(**kwargs)
    running.fit(module, loader(batches or data()))
    return running


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


def add_subgradient(module: Plain) -> None:
    """One subgradient of ``L1 * sum|w|`` over the weights, by hand."""
    for name, p in module.named_parameters():
        if name.endswith("weight"):
            assert p.grad is not None
            p.grad += L1 * p.detach().sign()


class Unfreezes(BaseFinetuning):
    """Unfreezes a layer in the second epoch, with a parameter group of its own."""

    def __init__(self, *layers: int) -> None:
        super().__init__()
        self.layers = layers

    def freeze_before_training(self, module: L.LightningModule) -> None:
        self.freeze([cast(Plain, module).net[layer] for layer in self.layers])

    def finetune_function(self, module: L.LightningModule, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            layers = [cast(Plain, module).net[layer] for layer in self.layers]
            self.unfreeze_and_add_param_group(layers, optimizer, lr=0.1)


def of_the_trainable(module: nn.Module) -> Optimizer:
    return SGD([p for p in module.parameters() if p.requires_grad], lr=0.1)


def backbone(_: Any) -> Any:
    return {"net.0.weight": tr.L1(L1)}


def by_hand(
    *,
    mode: str,
    accumulate: int = 1,
    clip: float | None = None,
    batches: list[Batch] | None = None,
    optimizer: Callable[[nn.Module], Optimizer] = sgd,
) -> Plain:
    """Two epochs in plain torch: the penalty counts once per optimizer step."""
    module = Plain()
    stepper = optimizer(module)
    if mode == "proximal":
        stepper = tr.ProximalOptimizer(stepper, tr.Regularizer(module, tr.L1(L1)))
    batches = batches or data()
    for _ in range(2):
        for start in range(0, len(batches), accumulate):
            stepper.zero_grad()
            for batch in batches[start : start + accumulate]:
                (module.loss(batch) / accumulate).backward()
            if mode == "loss":
                add_subgradient(module)
            if clip:
                nn.utils.clip_grad_norm_(module.parameters(), clip)
            stepper.step()
    return module


MODES = pytest.mark.parametrize("kind", [Proximal, InLoss])
FEW_WORKERS = pytest.mark.filterwarnings("ignore:The '\\w+' does not have many workers")
