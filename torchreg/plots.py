"""Pictures of what a penalty does; the only file that imports matplotlib.

Every function takes series by name, draws them in one style and returns a
``matplotlib.figure.Figure``, without pyplot and its global state: ``figure.savefig("a.png")``.
Series keep their colour, line and marker from one picture to the next as long as their names
come in the same order. The colours are those of Okabe and Ito (2008), which stay apart under
every common colour blindness.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchreg.report import support

try:
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter
except ImportError as error:
    raise ImportError(
        'torchreg.plots needs matplotlib: pip install "torchreg-prox[experiments]"'
    ) from error

__all__ = ["frontier", "input_map", "training_curves", "weight_histograms"]

Points = Sequence[tuple[float, float]]


class _Look(NamedTuple):
    colour: str
    marker: str
    line: Any


_LOOKS = (
    _Look("#555555", "o", "-"),
    _Look("#E69F00", "s", (0, (6, 2))),
    _Look("#CC79A7", "^", (0, (4, 2, 1, 2))),
    _Look("#009E73", "v", (0, (1, 1.2))),
    _Look("#0072B2", "D", "-"),
    _Look("#D55E00", "P", (0, (6, 2))),
    _Look("#56B4E9", "X", "-"),
    _Look("#000000", "h", (0, (1, 1.2))),
)
_INK = "#333333"
_PALE = "#E4E4E4"


def frontier(
    series: Mapping[str, Points],
    *,
    chosen: Mapping[str, tuple[int, float]] | None = None,
    measure: str = "validation accuracy",
    chosen_measure: str = "test accuracy",
    lowest: float = 0.0,
) -> Figure:
    """Show what sparsity costs: accuracy against the share of exact zeros.

    Methods that leave no exact zero at all stand side by side in a panel of their own on the
    left. To its right the axis is logarithmic in the weights that are kept, so that 90 % and
    99 % of zeros are as far apart as they are in size; 99.9 % and more are drawn at 99.9 %.
    A panel without points is left out.

    Args:
        series: (sparsity, accuracy) points by name, both fractions between 0 and 1.
        chosen: by name, which point of its series was chosen (its index), and another accuracy
            of the same model: drawn larger, and joined to that point by a thin line.
        measure: what the accuracy of ``series`` is.
        chosen_measure: what the accuracy of ``chosen`` is.
        lowest: where the accuracy axis begins, so that one collapsed point does not flatten all
            others. What lies below is counted in a note above its panel instead of being drawn.

    Raises:
        ValueError: no series, an empty one, more than eight, a number outside [0, 1], or a
            chosen name or index that is not in the series.

    Example:
        >>> figure = frontier({"loss": [(0.0, 0.98)], "proximal": [(0.8, 0.98), (0.95, 0.96)]})
        >>> [axes.get_xlabel() for axes in figure.axes]
        ['no exact zero', 'exact zeros among the weights (log scale of what is kept)']
    """
    _check(series)
    chosen = dict(chosen or {})
    if unknown := [name for name in chosen if name not in series]:
        raise ValueError(f"chosen names {unknown} are not among the series {list(series)}.")
    for name, (index, _) in chosen.items():
        if not 0 <= index < len(series[name]):
            raise ValueError(
                f"chosen {name!r}: no point {index} among {len(series[name])}, counted from 0."
            )
    points = [p for one in series.values() for p in one]
    others = [(series[name][index][0], y) for name, (index, y) in chosen.items()]
    if wrong := [p for p in points + others if not all(0 <= number <= 1 for number in p)]:
        raise ValueError(f"expected (sparsity, accuracy) fractions in [0, 1], found {wrong[0]}.")

    figure = Figure(figsize=(9, 5), dpi=150, layout="constrained")
    shares = [x for x, _ in points]
    both = min(shares) == 0 < max(shares)
    grid = figure.subplots(1, 1 + both, sharey=True, squeeze=False,
                           width_ratios=(1, 2.2) if both else None)[0]  # fmt: skip
    left, right = grid[0], grid[-1]
    dense = [name for name, one in series.items() if any(x == 0 for x, _ in one)]
    columns = {name: float(column) for column, name in enumerate(dense)}
    for (name, one), look in zip(series.items(), _LOOKS, strict=False):
        style = {"color": look.colour, "marker": look.marker, "zorder": 3}
        shown = [(x, y) for x, y in one if y >= lowest]
        zero = [y for x, y in shown if x == 0]
        kept = sorted((_kept(x), y) for x, y in shown if x > 0)
        line = look.line if len(kept) > 1 else ""
        if zero:
            left.plot([columns[name]] * len(zero), zero, ms=6, ls="", alpha=0.75, **style)
        if kept:
            right.plot(*_columns(kept), lw=1.5, ms=6, alpha=0.75, ls=line, **style)
        left.plot([], [], ms=6, lw=1.5, ls=line, label=name, **style)
        if name in chosen and chosen[name][1] >= lowest:
            index, other = chosen[name]
            x, y = one[index]
            # Side by side in the left panel, where all points of a series are in one column.
            axes, start, end = (
                (right, _kept(x), _kept(x)) if x else (left, columns[name], columns[name] + 0.4)
            )
            if y >= lowest:
                axes.plot([start, end], [y, other], color="black", lw=0.9, zorder=2)
                axes.plot([start], [y], ls="", ms=6, mec="black", mew=1.2, **style)
            axes.plot([end], [other], ls="", ms=12, mec="black", mew=1.6, **{**style, "zorder": 4})
    if chosen:
        ring = {"color": "black", "lw": 0.9, "marker": "o", "ms": 11, "mfc": "none", "mew": 1.6}
        told = f"chosen strength: {chosen_measure}, joined to its {measure}"
        left.plot([], [], label=told, **ring)
    if min(shares) == 0:
        left.set_xlim(-0.6, len(dense) - (0.2 if chosen else 0.4))
        left.xaxis.set_major_locator(NullLocator())
        left.set_xlabel("no exact zero")
        left.set_facecolor("#F6F6F6")
        _note_hidden(left, [y for x, y in points if x == 0], measure, lowest)
        _note_hidden(left, [y for x, y in others if x == 0], chosen_measure, lowest)
    if max(shares) > 0:
        _kept_axis(right, [_kept(x) for x, y in points + others if x > 0 and y >= lowest])
        right.set_xlabel("exact zeros among the weights (log scale of what is kept)")
        _note_hidden(right, [y for x, y in points if x > 0], measure, lowest)
        _note_hidden(right, [y for x, y in others if x > 0], chosen_measure, lowest)
    left.set_ylabel(f"{measure} (large: {chosen_measure})" if chosen else measure)
    for axes in grid:
        _tidy(axes)
    left.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.4g}%"))
    figure.legend(loc="outside lower center", ncols=3 if len(series) > 2 else 2, frameon=False)
    return figure


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
    _check(weights)
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
    for axes, (name, w), look in zip(grid, flat.items(), _LOOKS, strict=False):
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
        axes.set_title(name, fontsize=10.5, color=_INK)
        axes.set_yscale("log")
        axes.set_ylim(0.7, most * 12)
        marks = list(range(int(low), math.floor(high) + 1, 3))
        names = [rf"$\leq 10^{{{marks[0]}}}$", *(f"$10^{{{mark}}}$" for mark in marks[1:])]
        axes.set_xticks([low - 2.2, *marks], ["0", *names])
        _tidy(axes)
    for axes in grid[len(flat) :]:
        axes.set_visible(False)
    figure.supxlabel("size of a weight, |w|  (black bar: exactly 0)", fontsize=10, color=_INK)
    figure.supylabel("number of weights", fontsize=10, color=_INK)
    return figure


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
    _check(layers)
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
        axes.set_title(f"{title}\n", fontsize=10.5, color=_INK)
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
                       color=_INK)  # fmt: skip
        _bare(axes)
    bar = figure.colorbar(
        picture, ax=figure.axes, location="bottom", shrink=0.4, aspect=40, pad=0.04
    )
    bar.set_label("norm of the weights that leave an input, of the largest  (x: none)", fontsize=9)
    bar.ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    bar.outline.set_visible(False)
    return figure


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
    _check(losses)
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
    for name, look in zip(losses, _LOOKS, strict=False):
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
        _tidy(axes)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def _check(series: Mapping[str, Any]) -> None:
    if not series:
        raise ValueError("expected at least one series by name, found none.")
    if len(series) > len(_LOOKS):
        raise ValueError(
            f"at most {len(_LOOKS)} series can be told apart in one picture, found {len(series)}."
        )
    for name, one in series.items():
        if (one.numel() if isinstance(one, Tensor) else len(one)) == 0:
            raise ValueError(f"the series {name!r} is empty.")


def _note_hidden(axes: Any, accuracies: Sequence[float], measure: str, lowest: float) -> None:
    """Say above a panel how many of its points are not drawn."""
    if hidden := sum(y < lowest for y in accuracies):
        runs = "run" if hidden == 1 else "runs"
        told = f"not drawn: {hidden} {runs} below\n{100 * lowest:.4g}% {measure}"
        before = axes.get_title(loc="left")
        axes.set_title(f"{before}\n{told}" if before else told, loc="left", fontsize=9, color=_INK)


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
    axes.set_title("\n".join(told), loc="left", fontsize=9, color=_INK)


def _kept(sparsity: float) -> float:
    return max(1 - sparsity, 1e-3)


def _columns(points: Points) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _kept_axis(axes: Any, kept: Sequence[float]) -> None:
    """A reversed logarithmic axis of what is kept, labelled with what is zero."""
    low, high = min([*kept, 0.1]), max([*kept, 0.1])
    marks = [0.9, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001]
    if high / low < 20:
        marks += [0.7, 0.3, 0.07, 0.03, 0.015, 0.007, 0.003, 0.0015]
    axes.set_xscale("log")
    axes.set_xlim(min(high * 1.1, 1.05), low * 0.88)
    axes.xaxis.set_major_locator(FixedLocator(marks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * (1 - x):.3g}%"))


def _tidy(axes: Any) -> None:
    axes.grid(True, which="major", color=_PALE, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9, colors=_INK)


def _bare(axes: Any) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set(color="#BBBBBB", linewidth=0.6)
