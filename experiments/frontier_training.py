"""One network trained to a density: the loop of ``experiments.frontier``.

A plain loop over tensors in memory: no part of a step is spent outside of network, optimizer and
target.
"""

import math
import shutil
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import torchreg as tr
from experiments.data import MNIST_SOURCE, Batches, Images
from experiments.frontier_teacher import Teacher, with_dropout
from experiments.models import FOR_MNIST


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; shares are of all of the steps."""

    lr: float = 2e-3
    batch_size: int = 128
    begin: float = 0.03
    """The share of the steps that is dense."""
    end: float = 0.75
    """Where the density has come down."""
    hold: float = 0.85
    """From where the support is fixed."""
    every: int = 16
    """The strength is found anew at every so many steps."""
    average: float = 0.88
    """From where the weights are averaged, one in ``every`` steps."""
    last_lr: float = 0.1
    """Where the cosine ends, as a share of the lr."""
    input_dropout: float = 0.0
    """Of pixels, to the end."""
    dropout: float = 0.0
    """Of the hidden units, at first; it falls to 0 with the density."""
    teacher: Teacher | None = None
    """The dense network whose outputs are asked for, beside the labels."""


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

    @property
    def teacher(self) -> str:
        """The file of its dense network below ``--out``, which all densities share."""
        name = f"{self.model}-shift{self.shift}{'-validate' * self.validate}"
        return f"teachers/{name}-seed{self.seed}.pt"


COMPILED = shutil.which("g++") is not None
"""Whether the proximal step is one kernel: a fifth of a small network's time is saved."""

PARTS = ("model", "optimizer", "scheduler", "target", "average")
"""Of a training, what a checkpoint holds the state of."""


class Training:
    """The network of a run, and all that its training changes."""

    def __init__(
        self, setting: Setting, recipe: Recipe, images: Images, logits: Tensor | None = None
    ) -> None:
        torch.manual_seed(setting.seed)
        self.setting, self.recipe = setting, recipe
        self.labels, self.logits = images.labels, logits
        # A batch comes with the places of its images, where labels and logits are found.
        places = Images(images.pixels, torch.arange(len(images)))
        self.batches = Batches(
            places, MNIST_SOURCE, recipe.batch_size, seed=setting.seed, shift=setting.shift
        )
        self.steps = setting.epochs * len(self.batches)
        self.model, first, self.dropouts = with_dropout(FOR_MNIST[setting.model](10))
        first.p = recipe.input_dropout
        self.regularizer = tr.Regularizer(self.model, tr.L0(1.0))
        adam = torch.optim.Adam(self.model.parameters(), lr=recipe.lr, fused=True)
        self.optimizer = tr.ProximalOptimizer(adam, self.regularizer, compile=COMPILED)
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
        for x, places in self.batches:
            self.optimizer.zero_grad()
            loss = self._loss(self.model(x), places)
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

    def _loss(self, outputs: Tensor, places: Tensor) -> Tensor:
        labels = self.labels[places]
        if self.recipe.teacher is None or self.logits is None:
            return F.cross_entropy(outputs, labels)
        return self.recipe.teacher.loss(outputs, self.logits[places], labels)

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
