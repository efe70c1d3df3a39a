"""Which inputs a first layer uses, laid out as the inputs are."""

from collections.abc import Mapping
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from torchreg.plots.style import INK, check
from torchreg.report import support


def input_map(
    layers: Mapping[str, Tensor],
    shape: tuple[int, int],
    *,
    example: Tensor | None = None,
    title: str = "an example",
) -> Figure:
    """Show which inputs, laid out as a picture, a first layer still uses, and how strongly.

    The shade is the norm of the weights that leave an input, relative to the largest of its
    panel. An input that no weight leaves (:func:`torchreg.support`) is crossed out: it could be
    left out without changing any output.

    Args:
        layers: weights shaped (outputs, inputs) by name.
        shape: (height, width) of the picture; their product is the number of inputs.
        example: a picture of that shape, drawn first; an average input for example.
        title: what the example is.

    Raises:
        ValueError: no series, more than eight, or a tensor that does not fit the shape.

    Example:
        >>> figure = input_map({"first": torch.tensor([[0.0, 1.0, 2.0, 0.0]])}, (2, 2))
        >>> figure.axes[0].get_title().replace(chr(10), ": ")
        'first: 2 of 4 inputs used'
    """
    check(layers)
    height, width = shape
    for name, weight in layers.items():
        if weight.dim() != 2 or weight.shape[1] != height * width:
            raise ValueError(
                f"expected {name!r} shaped (outputs, {height * width}), found "
                f"{tuple(weight.shape)}."
            )
    if example is not None and example.numel() != height * width:
        raise ValueError(
            f"expected an example of {height} x {width}, found {tuple(example.shape)}."
        )
    panels = len(layers) + (example is not None)
    figure = Figure(figsize=(2.5 * panels + 0.3, 3.2), dpi=150, layout="constrained")
    grid = list(figure.subplots(1, panels, squeeze=False).flatten())
    if example is not None:
        axes = grid.pop(0)
        axes.imshow(example.detach().cpu().reshape(shape).tolist(), cmap="gray_r")
        axes.set_title(f"{title}\n", fontsize=10.5, color=INK)
        _bare(axes)
    for axes, (name, weight) in zip(grid, layers.items(), strict=True):
        used = support(weight)
        norms = weight.detach().double().cpu().norm(dim=0)
        shade = (norms / norms.max().clamp(min=torch.finfo(torch.float64).tiny)).reshape(shape)
        picture = axes.imshow(shade.tolist(), cmap="Blues", vmin=0, vmax=1)
        unused = (~used.mask).reshape(shape).nonzero()
        if len(unused):
            axes.imshow([[[0.89, 0.89, 0.89, float(off)] for off in row]
                         for row in (~used.mask).reshape(shape).tolist()])  # fmt: skip
            size = 90 / max(shape)
            axes.plot(unused[:, 1], unused[:, 0], ls="", marker="x", color="#777777", ms=size * 0.5)
        axes.set_title(f"{name}\n{len(used)} of {height * width} inputs used", fontsize=10.5,
                       color=INK)  # fmt: skip
        _bare(axes)
    bar = figure.colorbar(
        picture, ax=figure.axes, location="bottom", shrink=0.4, aspect=40, pad=0.04
    )
    bar.set_label("norm of the weights that leave an input, of the largest  (x: none)", fontsize=9)
    bar.ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    bar.outline.set_visible(False)
    return figure


def _bare(axes: Any) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set(color="#BBBBBB", linewidth=0.6)
