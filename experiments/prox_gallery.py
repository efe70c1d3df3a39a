"""A picture of every proximal map: what a weight becomes, for a small and for a large step.

python -m experiments.prox_gallery
"""

import textwrap
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

import torchreg as tr
from torchreg.plots.style import INK, LOOKS, tidy

WHERE = Path(__file__).parent / "measured" / "penalties" / "prox.png"
STEPS = (0.5, 4.0)
ONE = {
    "L1": tr.L1(0.6),
    "L2": tr.L2(0.3),
    "ElasticNet": tr.ElasticNet(0.4, 0.2),
    "MCP": tr.MCP(0.6, concavity=2.0),
    "SCAD": tr.SCAD(0.5, concavity=3.0),
    "LogSum": tr.LogSum(0.9, width=0.5),
    "LHalf": tr.LHalf(0.6),
    "L0": tr.L0(0.4),
}
PAIR = {
    "GroupLasso": tr.GroupLasso(0.6, tr.rows, by_size=False),
    "SparseGroupLasso": tr.SparseGroupLasso(0.9, tr.rows, by_size=False),
    "GroupMCP": tr.GroupMCP(0.6, tr.rows, concavity=2.0, by_size=False),
    "GroupL0": tr.GroupL0(0.4, tr.rows, by_size=False),
    "ExclusiveLasso": tr.ExclusiveLasso(0.6, tr.rows),
    "AtMost": tr.AtMost(1, tr.rows),
}


def gallery() -> Figure:
    """Two rows of curves for single weights, two rows of arrows for a group of two weights."""
    figure = Figure(figsize=(11, 12.4), dpi=150, layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=(1, 1.18))
    _curves(halves[0])
    _arrows(halves[1])
    return figure


def _curves(figure: Any) -> None:
    w = torch.linspace(-4, 4, 2001, dtype=torch.float64)
    grid = figure.subplots(2, 4, sharex=True, sharey=True)
    for axes, (name, penalty) in zip(grid.flatten(), ONE.items(), strict=True):
        axes.plot(w, w, color="#BBBBBB", lw=0.8, ls=":")
        for step, look in zip(STEPS, (LOOKS[4], LOOKS[1]), strict=True):
            z = penalty.prox(w, step)
            z[1:][z.diff().abs() > 0.1] = torch.nan  # a jump is no line
            axes.plot(w, z, color=look.colour, lw=1.8, ls=look.line, label=f"step {step:g}")
        formula = textwrap.fill(penalty.formula, 38)
        axes.set_title(f"{name}\n{formula}", fontsize=8.5, color=INK)
        axes.set_xlim(-4, 4)
        axes.set_ylim(-4, 4)
        tidy(axes)
    grid[0, 0].legend(fontsize=8, frameon=False)
    figure.supxlabel("weight w", fontsize=10, color=INK)
    figure.supylabel("prox(w)", fontsize=10, color=INK)


def _arrows(figure: Any) -> None:
    ticks = torch.linspace(-2.4, 2.4, 13, dtype=torch.float64)
    points = torch.cartesian_prod(ticks, ticks)
    metric = torch.tensor([0.5, 2.0], dtype=torch.float64).expand_as(points)
    grid = figure.subplots(2, 3, sharex=True, sharey=True)
    for axes, (name, penalty) in zip(grid.flatten(), PAIR.items(), strict=True):
        moved = penalty.prox(points, metric)
        zero = (moved == 0).all(dim=1)
        still = (moved == points).all(dim=1) & ~zero
        axes.scatter(*points[still].T, s=4, color="#999999", label="stays as it is")
        for start, end in zip(points[~zero & ~still], moved[~zero & ~still], strict=True):
            arrow = {"arrowstyle": "-|>", "color": LOOKS[4].colour, "lw": 0.8, "mutation_scale": 6,
                     "shrinkA": 0, "shrinkB": 0}  # fmt: skip
            axes.annotate("", end.tolist(), start.tolist(), arrowprops=arrow)
        axes.scatter(
            *points[zero].T, s=12, color=LOOKS[5].colour, label="the whole group is zeroed"
        )
        axes.set_title(f"{name}\n{penalty.formula}", fontsize=8.5, color=INK)
        axes.set_xlim(-2.7, 2.7)
        axes.set_ylim(-2.7, 2.7)
        axes.set_aspect("equal")
        tidy(axes)
    handles, labels = grid[1, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    figure.supxlabel("two weights of one group; steps 0.5 across, 2 upward", fontsize=10, color=INK)


def main() -> None:
    """Write the picture and say where."""
    WHERE.parent.mkdir(parents=True, exist_ok=True)
    gallery().savefig(WHERE)
    print(WHERE.relative_to(Path(__file__).parent.parent))


if __name__ == "__main__":
    main()
