"""What sparsity costs: accuracy against the share of exact zeros."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from torchreg.plots.style import INK, LOOKS, check, tidy

Points = Sequence[tuple[float, float]]


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
    check(series)
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
    for (name, one), look in zip(series.items(), LOOKS, strict=False):
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
        tidy(axes)
    left.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.4g}%"))
    figure.legend(loc="outside lower center", ncols=3 if len(series) > 2 else 2, frameon=False)
    return figure


def _note_hidden(axes: Any, accuracies: Sequence[float], measure: str, lowest: float) -> None:
    """Say above a panel how many of its points are not drawn."""
    if hidden := sum(y < lowest for y in accuracies):
        runs = "run" if hidden == 1 else "runs"
        told = f"not drawn: {hidden} {runs} below\n{100 * lowest:.4g}% {measure}"
        before = axes.get_title(loc="left")
        axes.set_title(f"{before}\n{told}" if before else told, loc="left", fontsize=9, color=INK)


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
