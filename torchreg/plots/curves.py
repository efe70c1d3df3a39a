"""Loss and sparsity over a training."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from torchreg.plots.style import INK, LOOKS, check, tidy


def training_curves(
    steps: Sequence[int],
    losses: Mapping[str, Sequence[float]],
    sparsities: Mapping[str, Sequence[float]],
    *,
    measure: str = "training loss",
) -> Figure:
    """Show how loss and exact zeros come about over the steps of a training.

    Lines that lie exactly on one another hide all but the last: a note names them.

    Args:
        steps: when the numbers were taken.
        losses: positive numbers by name, one per step; drawn on a logarithmic axis.
        sparsities: exact zeros as fractions, with the same names and length.
        measure: what the loss is.

    Raises:
        ValueError: no series, more than eight, names or lengths that differ.

    Example:
        >>> figure = training_curves([0, 9], {"L1": [2.3, 0.1]}, {"L1": [0.0, 0.9]})
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['training loss', 'exact zeros']
    """
    check(losses)
    if list(losses) != list(sparsities):
        raise ValueError(
            f"losses and sparsities have other names: {list(losses)}, {list(sparsities)}."
        )
    for name in losses:
        if not len(steps) == len(losses[name]) == len(sparsities[name]):
            raise ValueError(
                f"{name!r}: expected {len(steps)} numbers, one per step; found "
                f"{len(losses[name])} losses and {len(sparsities[name])} sparsities."
            )
    figure = Figure(figsize=(9, 4.3), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, look in zip(losses, LOOKS, strict=False):
        left.plot(steps, losses[name], color=look.colour, ls=look.line, lw=1.8, label=name)
        right.plot(steps, sparsities[name], color=look.colour, ls=look.line, lw=1.8)
    _note_coinciding(left, losses)
    _note_coinciding(right, sparsities)
    left.set_yscale("log")
    left.set_ylabel(measure)
    right.set_ylabel("exact zeros")
    right.set_ylim(-0.03, 1.03)
    right.yaxis.set_major_formatter(PercentFormatter(1.0))
    for axes in (left, right):
        axes.set_xlabel("step")
        tidy(axes)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def _note_coinciding(axes: Any, lines: Mapping[str, Sequence[float]]) -> None:
    """Name above a panel the lines that lie on one another, of which only the last is seen."""
    groups: dict[tuple[float, ...], list[str]] = {}
    for name, line in lines.items():
        groups.setdefault(tuple(line), []).append(name)
    told = [
        textwrap.fill(f"on one line{' at 0' if not any(line) else ''}: {', '.join(names)}", 52)
        for line, names in groups.items()
        if len(names) > 1
    ]
    axes.set_title("\n".join(told), loc="left", fontsize=9, color=INK)
