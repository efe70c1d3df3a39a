"""What a run looks like: its epochs, its weights, and the pixels that it still reads."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.results import write_figure
from torchreg.plots import input_map, training_curves, weight_histograms


def draw(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    weights: Mapping[str, Mapping[str, Tensor]],
    pixels: tuple[int, int],
) -> None:
    """Draw curves.png, weights.png and, where the first layer is fully connected, inputs.png.

    Args:
        folder: where they go.
        rows: the epochs of all phases, in order.
        weights: by phase, the penalised tensors by name.
        pixels: height and width of an image.
    """
    name = ", then ".join(weights)
    curves = training_curves(
        range(1, len(rows) + 1),
        {name: [row["val_loss"] for row in rows]},
        {name: [1 - row["density"] for row in rows]},
        measure="validation loss",
    )
    curves.axes[0].set_yscale("linear")
    for axes in curves.axes:
        axes.set_xlabel("epoch (dotted: the penalty is lifted)" if len(weights) > 1 else "epoch")
        axes.locator_params(axis="x", integer=True)
        for phase in list(weights)[:-1]:
            lifted = sum(row["phase"] == phase for row in rows) + 0.5
            axes.axvline(lifted, color="#999999", lw=1, ls=":")
    write_figure(folder / "curves.png", curves)
    flat = {phase: torch.cat([w.flatten() for w in of.values()]) for phase, of in weights.items()}
    write_figure(folder / "weights.png", weight_histograms(flat))
    first = {phase: next(iter(of.values())) for phase, of in weights.items()}
    if all(w.dim() == 2 and w.shape[1] == pixels[0] * pixels[1] for w in first.values()):
        write_figure(folder / "inputs.png", input_map(first, pixels))
