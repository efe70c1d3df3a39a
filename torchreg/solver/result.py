"""What a solver found, with the numbers that certify it."""

import warnings
from dataclasses import dataclass


class NotConverged(UserWarning):
    """What a solver returns is no certified solution: it stopped too early, or there is none."""


@dataclass(frozen=True)
class Solution:
    """What a solver found. The weights are in the model; these numbers tell how good they are."""

    objective: float
    """Loss + penalty."""

    residual: float
    """The stationarity residual, relative to the strength; absolute where the strength is 0."""

    gap: float | None
    """How far the objective can be from its minimum (a duality gap), where that is known."""

    iterations: int

    converged: bool
    """Whether the residual, or the gap, that was asked for was met, and there is a minimum.

    For a network on a path (``fit=``), whose training solves nothing to rounding: whether the
    residual is at most 0.1, or the tolerance that was given.
    """

    def __str__(self) -> str:
        gap = "" if self.gap is None else f", duality gap {self.gap:.2g}"
        state = "converged" if self.converged else "NOT converged"
        return (
            f"{state} after {self.iterations} iterations: objective {self.objective:.9g}, "
            f"stationarity residual {self.residual:.2g}{gap}"
        )


def warn_unless_converged(solution: Solution, tolerance: float, stacklevel: int = 3) -> None:
    """Say it where a solver has stopped too early."""
    if not solution.converged:
        warnings.warn(
            f"the solver stopped before its tolerance: {solution}; a residual of {tolerance:.2g} "
            "was asked for. Allow more iterations, scale the features, use float64, or ask for "
            "less.",
            NotConverged,
            stacklevel=stacklevel + 1,
        )
