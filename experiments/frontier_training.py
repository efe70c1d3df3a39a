"""One network trained to a density: the loop of ``experiments.frontier``.

A plain loop over tensors in memory: no part of a step is spent outside of network, optimizer and
target.
"""

import math
import time
from collections import OrderedDict
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import torchreg as tr
from experiments.data import MNIST_SOURCE, Batches, Images
from experiments.mnist import MODELS


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; shares are of all of the steps."""

    lr: float = 2e-3
    batch_size: int = 128
    begin: float = 0.03
    """The share of the steps that is dense."""
    end: float = 0.5
    """Where the density has come down."""
    hold: float = 0.8
    """From where the support is fixed."""
    every: int = 16
    """The strength is found anew at every so many steps."""
    average: float = 0.85
    """From where the weights are averaged, one in ``every`` steps."""
    last_lr: float = 0.1
    """Where the cosine ends, as a share of the lr."""
    input_dropout: float = 0.0
    """Of pixels, to the end."""
    dropout: float = 0.0
    """Of the hidden units, at first; it falls to 0 with the density."""


@dataclass(frozen=True)
class Setting:
    """One run."""

    model: str
    density: float
    shift: int
    seed: int
    epochs: int
    validate: bool

    @property
    def folder(self) -> str:
        """Its folder below ``--out``."""
        name = f"{self.model}-{100 * self.density:g}pc-shift{self.shift}-{self.epochs}epochs"
        return f"{name}{'-validate' * self.validate}/seed{self.seed}"


PARTS = ("model", "optimizer", "scheduler", "target", "average")
"""Of a training, what a checkpoint holds the state of."""


class Training:
    """The network of a run, and all that its training changes."""

    def __init__(self, setting: Setting, recipe: Recipe, images: Images) -> None:
        torch.manual_seed(setting.seed)
        self.setting, self.recipe = setting, recipe
        self.batches = Batches(
            images, MNIST_SOURCE, recipe.batch_size, seed=setting.seed, shift=setting.shift
        )
        self.steps = setting.epochs * len(self.batches)
        self.model, first, self.dropouts = _with_dropout(MODELS[setting.model](10))
        first.p = recipe.input_dropout
        self.regularizer = tr.Regularizer(self.model, tr.L0(1.0))
        adam = torch.optim.Adam(self.model.parameters(), lr=recipe.lr, fused=True)
        self.optimizer = tr.ProximalOptimizer(adam, self.regularizer)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(
            self.optimizer, self.steps, eta_min=recipe.last_lr * recipe.lr
        )
        # The support is fixed by then, so the average has the same zeros.
        self.average = torch.optim.swa_utils.AveragedModel(self.model)
        self.target = tr.TargetSparsity(
            self.optimizer,
            setting.density,
            begin=int(recipe.begin * self.steps),
            end=int(recipe.end * self.steps),
            hold=int(recipe.hold * self.steps),
            every=recipe.every,
        )
        self.epoch, self.seconds = 0, 0.0

    def run_epoch(self) -> float:
        """Train for one epoch; returns the mean loss."""
        began = time.perf_counter()
        torch.manual_seed(1000 * self.setting.seed + self.epoch)  # dropout, resumed or not
        self.batches.set_epoch(self.epoch)
        self._set_dropout()
        self.model.train()
        total = torch.zeros(())
        for x, y in self.batches:
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.model(x), y)
            loss.backward()
            self.optimizer.step()
            self.scheduler.step()
            total += loss.detach()
            late = self.target.steps > self.recipe.average * self.steps
            if late and self.target.steps % self.recipe.every == 0:
                self.average.update_parameters(self.model)
        self.epoch += 1
        self.seconds += time.perf_counter() - began
        mean = float(total) / len(self.batches)
        if not math.isfinite(mean):
            raise ValueError(f"the loss of {self.setting.folder} is {mean}: lower the lr.")
        return mean

    def _set_dropout(self) -> None:
        falling = tr.schedule.cubic(int(self.recipe.end * self.steps), start=1.0, end=0.0)
        for dropout in self.dropouts:
            dropout.p = self.recipe.dropout * falling(self.target.steps)

    @property
    def result(self) -> nn.Module:
        """The averaged network, once there is one."""
        return self.average.module if self.average.n_averaged > 0 else self.model

    @torch.no_grad()
    def error(self, images: Images) -> float:
        """The share of images that the network gets wrong."""
        model = self.result.eval()
        wrong = torch.zeros((), dtype=torch.int64)
        for x, y in Batches(images, MNIST_SOURCE, 1000):
            wrong += (model(x).argmax(1) != y).sum()
        return int(wrong) / len(images)

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs."""
        state = {name: getattr(self, name).state_dict() for name in PARTS}
        numbers = {"epoch": self.epoch, "seconds": self.seconds}
        return {**state, **numbers, "recipe": asdict(self.recipe)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        for name in PARTS:
            getattr(self, name).load_state_dict(state[name])
        self.epoch, self.seconds = state["epoch"], state["seconds"]


def _with_dropout(model: nn.Module) -> tuple[nn.Sequential, nn.Dropout, list[nn.Dropout]]:
    """The model with a dropout before its first layer, and one before each linear layer inside."""
    first, hidden = nn.Dropout(0.0), []
    layers: OrderedDict[str, nn.Module] = OrderedDict(drop_input=first)
    inside = False
    for name, layer in model.named_children():
        if inside and isinstance(layer, nn.Linear):
            hidden.append(nn.Dropout(0.0))
            layers[f"drop_{name}"] = hidden[-1]
        inside = inside or any(True for _ in layer.parameters())
        layers[name] = layer
    # The layout of the batches, in which convolutions take half the time on a CPU.
    return nn.Sequential(layers).to(memory_format=torch.channels_last), first, hidden
