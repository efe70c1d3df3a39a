"""Ask a network for the outputs of a trained one beside the labels: what both of its uses share.

The outputs say which other classes an image is like, and labels do not; a sparse network that
could learn its training images by heart gains most.

Source: G. Hinton, O. Vinyals, J. Dean, "Distilling the knowledge in a neural network" (2015).
"""

from collections.abc import Callable

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

TEMPERATURE = 2.0
"""What the outputs of both networks are divided by before the softmax."""

SHARE = 0.8
"""Of the loss, what asks for the outputs of the teacher; the rest asks for the labels."""


def loss(
    outputs: Tensor,
    logits: Tensor,
    labels: Tensor,
    *,
    temperature: float = TEMPERATURE,
    share: float = SHARE,
) -> Tensor:
    """Cross-entropies to the labels and to the softened outputs of the teacher.

    ``(1 - share) * CE(outputs, labels) + share * T^2 * CE(outputs / T, softmax(logits / T))``: the
    latter counts temperature squared, so that its gradient keeps its size.

    Args:
        outputs: (batch, classes), of the network that learns.
        logits: (batch, classes), of the teacher.
        labels: (batch,), of the images.
        temperature: T, above 0.
        share: of the loss, from 0 (labels alone) to 1.
    """
    soft = F.cross_entropy(outputs / temperature, (logits / temperature).softmax(dim=1))
    hard = F.cross_entropy(outputs, labels)
    return (1 - share) * hard + share * temperature**2 * soft


def taught_by(network: nn.Module, trainer: pl.Trainer) -> Callable[[Tensor], Tensor]:
    """The outputs of a trained network as a function of images: in eval mode, without gradients.

    A function, because a module takes every network among its attributes for a part of itself:
    for its parameters, its checkpoints and its mode.

    Args:
        network: the teacher; moved to the device and the precision of the trainer, and frozen.
        trainer: of the network that learns. Called in its steps, the function is under its
            autocast.
    """
    network = trainer.precision_plugin.convert_module(network.to(trainer.strategy.root_device))
    network.eval().requires_grad_(False)

    def outputs(x: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = network(x)
        return found

    return outputs
