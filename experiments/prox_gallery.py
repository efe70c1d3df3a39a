"""A picture of every proximal map: what a weight becomes, for a small and for a large step.

python -m experiments.prox_gallery
"""

from pathlib import Path

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
}


def gallery() -> Figure:
    """Two rows of curves for single weights, one row of arrows for a group of two weights."""
    figure = Figure(figsize=(11, 8.6), dpi=150, layout="constrained")
    grid = figure.subplots(3, 4)
    w = torch.linspace(-4, 4, 2001, dtype=torch.float64)
    for axes, (name, penalty) in zip(grid[:2].flatten(), ONE.items(), strict=True):
        axes.plot(w, w, color="#BBBBBB", lw=0.8, ls=":")
        for step, look in zip(STEPS, (LOOKS[4], LOOKS[1]), strict=True):
            z = penalty.prox(w, step)
            z[1:][z.diff().abs() > 0.1] = torch.nan  # a jump is no line
            axes.plot(w, z, color=look.colour, lw=1.8, ls=look.line, label=f"step {step:g}")
        axes.set_title(f"{name}\n{penalty.formula}", fontsize=8.5, color=INK, wrap=True)
        axes.set_xlim(-4, 4)
        axes.set_ylim(-4, 4)
        tidy(axes)
    grid[0, 0].legend(fontsize=8, frameon=False)
    ticks = torch.linspace(-2.4, 2.4, 17, dtype=torch.float64)
    points = torch.cartesian_prod(ticks, ticks)
    metric = torch.tensor([0.5, 2.0], dtype=torch.float64).expand_as(points)
    for axes, (name, penalty) in zip(grid[2], PAIR.items(), strict=True):
        moved = penalty.prox(points, metric)
        zero = (moved == 0).all(dim=1)
        move = (moved - points)[~zero].T
        axes.quiver(
            *points[~zero].T, *move, angles="xy", scale_units="xy", scale=1,
            color=LOOKS[4].colour, width=0.005,
        )  # fmt: skip
        axes.scatter(*points[zero].T, s=9, color=LOOKS[5].colour, label="the whole group is zeroed")
        axes.set_title(f"{name}\nsteps 0.5 across, 2 upward", fontsize=8.5, color=INK)
        axes.set_aspect("equal")
        tidy(axes)
    grid[2, 0].legend(fontsize=7.5, loc="upper right", framealpha=1)
    figure.supxlabel("weight w (below: two weights of one group)", fontsize=10, color=INK)
    figure.supylabel("prox(w)", fontsize=10, color=INK)
    return figure


def main() -> None:
    """Write the picture and say where."""
    WHERE.parent.mkdir(parents=True, exist_ok=True)
    gallery().savefig(WHERE)
    print(WHERE.relative_to(Path(__file__).parent.parent))


if __name__ == "__main__":
    main()
