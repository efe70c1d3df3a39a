"""The distribution of weights, with exact zeros apart."""

import math
from collections.abc import Mapping

import torch
from matplotlib.figure import Figure
from torch import Tensor

from torchreg.plots.style import INK, LOOKS, check, tidy


def weight_histograms(weights: Mapping[str, Tensor]) -> Figure:
    """Show whether small weights are exactly zero or only small: histograms of their size.

    One panel per series, logarithmic both ways. The size `|w|` has no place for 0 on a
    logarithmic axis, so exact zeros are one bar of their own at the left. Sizes below 1e-9 are
    counted into the lowest bin.

    Args:
        weights: a tensor of any shape by name; concatenate the tensors of a model first.

    Raises:
        ValueError: no series, an empty tensor, more than eight series, or weights not finite.

    Example:
        >>> figure = weight_histograms({"dense": torch.ones(8), "sparse": torch.eye(4)})
        >>> [axes.get_title() for axes in figure.axes]
        ['dense', 'sparse']
    """
    check(weights)
    flat = {name: w.detach().double().abs().flatten().cpu() for name, w in weights.items()}
    if wrong := [name for name, w in flat.items() if not bool(torch.isfinite(w).all())]:
        raise ValueError(f"the weights of {wrong[0]!r} are not all finite.")
    columns = min(3, len(flat))
    rows = math.ceil(len(flat) / columns)
    figure = Figure(figsize=(3.1 * columns + 0.4, 2.5 * rows + 0.5), dpi=150, layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    low, bins = -9.0, 44
    high = max(max(math.log10(float(w.max())) for w in flat.values() if w.any()), -1.0) + 0.3 \
        if any(bool(w.any()) for w in flat.values()) else 0.0  # fmt: skip
    edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
    most = max(w.numel() for w in flat.values())
    for axes, (name, w), look in zip(grid, flat.items(), LOOKS, strict=False):
        logs = w[w > 0].log10().clamp(min=low)
        counts = torch.histogram(logs, edges).hist
        axes.bar(edges[:-1].tolist(), counts.tolist(), width=float(edges[1] - edges[0]),
                 align="edge", color=look.colour)  # fmt: skip
        zeros = int((w == 0).sum())
        axes.bar([low - 2.2], [zeros], width=1.2, color="black")
        axes.axvline(low - 0.9, ymax=0.84, color="#BBBBBB", lw=0.8, ls=":")
        axes.text(
            0.03, 0.96, f"exact zeros: {zeros / len(w):.1%}" if zeros else "exact zeros: 0",
            transform=axes.transAxes,
            va="top", weight="bold" if zeros else "normal", color="black", fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 2},
        )  # fmt: skip
        axes.set_title(name, fontsize=10.5, color=INK)
        axes.set_yscale("log")
        axes.set_ylim(0.7, most * 12)
        marks = list(range(int(low), math.floor(high) + 1, 3))
        names = [rf"$\leq 10^{{{marks[0]}}}$", *(f"$10^{{{mark}}}$" for mark in marks[1:])]
        axes.set_xticks([low - 2.2, *marks], ["0", *names])
        tidy(axes)
    for axes in grid[len(flat) :]:
        axes.set_visible(False)
    figure.supxlabel("size of a weight, |w|  (black bar: exactly 0)", fontsize=10, color=INK)
    figure.supylabel("number of weights", fontsize=10, color=INK)
    return figure
