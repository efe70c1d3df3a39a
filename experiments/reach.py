"""How much of well-known networks lies in groups whose zeros can be removed.

    python -m experiments.reach

Counted are the weights (without biases and normalisation) that ``torchreg.removable_groups`` names,
alone and with ``shared=True``, of networks of torchvision without pretrained weights.
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import torchvision
from torch import nn

import torchreg as tr
from experiments.results import table, write_text

NETWORKS = [
    "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "vgg11_bn",
    "densenet121", "convnext_tiny",
]  # fmt: skip


def share(model: nn.Module, groups: Iterable[str | tuple[str, ...]]) -> float:
    """The share of a network's weights that are in groups, in percent."""
    named = [w.numel() for names in groups for w in tr.select(model, names).values()]
    return 100 * sum(named) / sum(w.numel() for w in tr.select(model).values())


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/reach"), help="output folder")
    out = parser.parse_args(arguments).out
    rows = []
    for name in NETWORKS:
        model = torchvision.models.get_model(name, weights=None)
        x = torch.randn(2, 3, 64, 64)
        found = [tr.removable_groups(model, x, shared=shared) for shared in (False, True)]
        rows.append([name, *(f"{share(model, groups):.0f}" for groups in found)])
        print("  ".join(rows[-1]), flush=True)
    header = ["network", "removable, % of the weights", "with shared=True"]
    print(f"\n{table(header, rows)}")
    write_text(out / "table.txt", table(header, rows) + "\n")
    write_text(out / "table.md", table(header, rows, markdown=True) + "\n")


if __name__ == "__main__":
    main()
