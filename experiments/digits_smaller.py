"""The network of a group penalty without its zeros: fewer neurons, the same outputs."""

from typing import Any, NamedTuple

import torch
from torch import nn

import torchreg as tr
from experiments.digits_training import Split


class Smaller(NamedTuple):
    """A network that was cut down, and how far its outputs are from those of the original."""

    network: nn.Module
    compaction: "tr.compaction.Compaction"
    difference: float
    """Of any logit, over the digits that both were compared on."""

    digits: int
    """How many those were."""


@torch.no_grad()
def shrink(model: nn.Module, split: Split) -> Smaller:
    """Cut the zeros out of a network, and compare both on every digit of a split.

    Args:
        model: a trained network. It is left as it is.
        split: digits; their labels are not looked at.
    """
    small, compaction = tr.compact(model.eval(), split.x[:2])
    difference = float((small(split.x) - model(split.x)).abs().max())
    return Smaller(small, compaction, difference, len(split.x))


def tell(name: str, smaller: Smaller) -> str:
    """The smaller network in words.

    Args:
        name: of the method.
        smaller: its network, cut down.
    """
    before, after = (
        "-".join(f"{change[side]:.0f}" for change in smaller.compaction.layers.values())
        for side in (0, 1)
    )
    if before == after:
        return (
            f"What could be removed of {name}: nothing. No neuron's group is zero in every layer "
            "that reads it; more --steps or --groups removable may help."
        )
    parameters = smaller.compaction.parameters
    return (
        f"What was removed of {name}: torchreg.compact leaves {after} of {before} neurons and "
        f"{parameters.after:,} of {parameters.before:,} parameters ({parameters.kept:.1%}) in an "
        f"ordinary nn.Sequential. On the {smaller.digits} validation digits its outputs differ "
        f"by at most {smaller.difference:.1g}."
    )


def numbers(smaller: Smaller) -> dict[str, Any]:
    """The same for ``results.json``."""
    found = smaller.compaction
    return {
        "layers": {name: list(change) for name, change in found.layers.items()},
        "parameters": list(found.parameters),
        "multiply_adds": list(found.multiply_adds),
        "difference": smaller.difference,
    }
