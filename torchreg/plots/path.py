"""A path of strengths: coefficients, losses, nonzeros and certificates."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from torchreg.paths import CrossValidation, Path
from torchreg.plots.style import INK, LOOKS, tidy


def regularization_path(
    of: Path | CrossValidation,
    *,
    parameter: str = "weight",
    names: Sequence[str] | None = None,
    measure: str = "loss",
) -> Figure:
    """Show how a solution changes with the strength, in four panels.

    Coefficients; the loss (held out, with error bars of one standard error and both choices, if
    it was cross-validated); the number of nonzeros; and the stationarity residual of each point,
    crossed where the solver stopped before its tolerance. The strength falls to the right.

    Args:
        of: a path, or a cross-validation, whose path on all samples is drawn.
        parameter: whose coefficients to draw; at most the 200 largest.
        names: one per coefficient; the six largest are named.
        measure: what the loss is.

    Raises:
        ValueError: as many names as there are coefficients were expected.

    Example:
        >>> import torch, torchreg as tr
        >>> x, model = torch.eye(3), torch.nn.Linear(3, 1)
        >>> found = tr.path(
        ...     tr.Regularizer(model, tr.L1(1.0)), tr.LeastSquares(x, x[:, 0]), points=3
        ... )
        >>> [axes.get_ylabel() for axes in regularization_path(found).axes]
        ['coefficient', 'loss', 'nonzero weights', 'stationarity residual']
    """
    path = of.path if isinstance(of, CrossValidation) else of
    weights = path.coefficients(parameter).flatten(1).double()
    if names is not None and len(names) != weights.shape[1]:
        raise ValueError(f"expected {weights.shape[1]} names, one per coefficient; found "
                         f"{len(names)}.")  # fmt: skip
    figure = Figure(figsize=(9, 6.6), dpi=150, layout="constrained")
    grid = figure.subplots(2, 2, sharex=True)
    coefficients, losses, counts, certificates = grid.flatten()
    strengths = path.strengths

    largest = weights.abs().amax(dim=0).argsort(descending=True)[:200].tolist()
    for place, index in enumerate(largest):
        look = LOOKS[place % len(LOOKS)]
        label = _short(str(names[index])) if names is not None and place < 6 else None
        coefficients.plot(strengths, weights[:, index].tolist(), color=look.colour, lw=1.1,
                          ls=look.line if place < 6 else "-", label=label,
                          marker="o" if len(path) == 1 else None, ms=3)  # fmt: skip
    coefficients.axhline(0, color="#BBBBBB", lw=0.8, zorder=0)
    coefficients.set_ylabel("coefficient")
    if names is not None:
        _legend(coefficients)

    colour = LOOKS[0].colour
    if isinstance(of, CrossValidation):
        losses.errorbar(of.strengths, of.mean, yerr=of.standard_error, color=colour, lw=1.4,
                        elinewidth=0.7, marker="o", ms=3)  # fmt: skip
        losses.axvline(of.strengths[of.best], color=INK, lw=1, ls="-", label="best")
        losses.axvline(of.strengths[of.one_standard_error], color=INK, lw=1, ls="--",
                       label="one standard error")  # fmt: skip
        _legend(losses)
        losses.set_ylabel(f"held-out {measure}")
    else:
        losses.plot(strengths, [p.loss for p in path], color=colour, lw=1.4, marker="o", ms=3)
        losses.set_ylabel(measure)

    counts.plot(strengths, [p.nonzero for p in path], color=colour, lw=1.4, marker="o", ms=3)
    counts.set_ylabel("nonzero weights")
    most = max(1, *(p.nonzero for p in path))
    counts.set_ylim(-0.03 * most, 1.05 * most)
    counts.yaxis.set_major_locator(MaxNLocator(integer=True))

    residuals = [max(p.solution.residual, 1e-17) for p in path]
    certificates.plot(strengths, residuals, color=colour, lw=1.4, marker="o", ms=3)
    failed = [(p.strength, r) for p, r in zip(path, residuals, strict=True)
              if not p.solution.converged]  # fmt: skip
    if failed:
        certificates.plot(*zip(*failed, strict=True), ls="", marker="x", color="black", ms=7,
                          label="before its tolerance")  # fmt: skip
        _legend(certificates)
    certificates.set_yscale("log")
    certificates.set_ylabel("stationarity residual")
    high, low = max(strengths), min(strengths)
    if low > 0:
        counts.set_xscale("log")
        room = max(1.05, (high / low) ** 0.02) if high > low else 10.0
        counts.set_xlim(high * room, low / room)
    else:
        counts.set_xlim(1.02 * high or 1.0, -0.02 * high or -1.0)
    for axes in grid[1]:
        axes.set_xlabel("strength")
    for axes in grid.flatten():
        tidy(axes)
    return figure


def _short(name: str) -> str:
    return name if len(name) <= 28 else f"{name[:27]}…"


def _legend(axes: Any) -> None:
    """On a ground that leaves it legible where there is no place beside the lines."""
    axes.legend(fontsize=8, framealpha=0.6, edgecolor="none")
