"""The dense network that teaches a sparse one: the same layers and images, trained before it.

A sparse network that could learn its training images by heart does better when it is asked for the
outputs of a dense one, which was trained with dropout, than for the labels alone.
"""

import io
from collections import OrderedDict
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments import distillation
from experiments.data import MNIST_SOURCE, Batches, Images
from experiments.errors import FolderError
from experiments.models import FOR_MNIST
from experiments.results import write_bytes


@dataclass(frozen=True)
class Teacher:
    """How the dense network is trained, and how its outputs are used."""

    epochs: int = 30
    lr: float = 2e-3
    batch_size: int = 128
    input_dropout: float = 0.2
    dropout: float = 0.3
    temperature: float = distillation.TEMPERATURE
    share: float = distillation.SHARE

    def loss(self, outputs: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of the sparse network, as in :func:`experiments.distillation.loss`."""
        return distillation.loss(
            outputs, logits, labels, temperature=self.temperature, share=self.share
        )


def logits(
    teacher: Teacher, model: str, images: Images, *, shift: int, seed: int, file: Path
) -> Tensor:
    """The dense network's outputs for the images as they are, (images, classes).

    Args:
        teacher: how it is trained.
        model: the name of the network.
        images: what it is trained on, and judged on by nobody.
        shift: random shifts while it is trained, in pixels.
        seed: of weights and order.
        file: where the trained network is read from, or left. Two processes that find none train
            the same network.

    Raises:
        FolderError: the file is of another recipe, or of other images.
    """
    torch.manual_seed(10_000 + seed)
    network, first, hidden = with_dropout(FOR_MNIST[model](10))
    recipe = {**asdict(teacher), "images": len(images)}
    if file.exists():
        found = torch.load(file, weights_only=True)
        if found["recipe"] != recipe:
            raise FolderError(
                f"{file} was trained by another recipe, {found['recipe']}. Move it away, or give "
                "another --out."
            )
        network.load_state_dict(found["model"])
    else:
        first.p = teacher.input_dropout
        for dropout in hidden:
            dropout.p = teacher.dropout
        _train(network, teacher, images, shift, seed)
        packed = io.BytesIO()
        torch.save({"recipe": recipe, "model": network.state_dict()}, packed)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(file, packed.getvalue())
    network.eval()
    with torch.no_grad():
        return torch.cat([network(x) for x, _ in Batches(images, MNIST_SOURCE, 1000)])


def _train(network: nn.Module, teacher: Teacher, images: Images, shift: int, seed: int) -> None:
    batches = Batches(images, MNIST_SOURCE, teacher.batch_size, seed=10_000 + seed, shift=shift)
    optimizer = torch.optim.Adam(network.parameters(), lr=teacher.lr, fused=True)
    steps = teacher.epochs * len(batches)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    network.train()
    for epoch in range(teacher.epochs):
        batches.set_epoch(epoch)
        for x, y in batches:
            optimizer.zero_grad()
            F.cross_entropy(network(x), y).backward()
            optimizer.step()
            scheduler.step()


def with_dropout(model: nn.Module) -> tuple[nn.Sequential, nn.Dropout, list[nn.Dropout]]:
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
