"""What a path holds: a certified solution at each strength."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from torchreg.regularizer import Regularizer
from torchreg.solver.result import Solution


@dataclass(frozen=True)
class Point:
    """One point of a path."""

    strength: float
    """The multiple of the penalties as they were given."""

    loss: float
    """The loss without the penalty."""

    nonzero: int
    """Penalised weights that are not exactly zero."""

    solution: Solution
    """Objective and certificate; of a network, what the weights after training amount to."""

    state: dict[str, Tensor]
    """The model's ``state_dict``, on the CPU."""


@dataclass(frozen=True)
class Path:
    """Solutions along a grid of strengths, in the order in which they were found."""

    regularizer: Regularizer
    points: tuple[Point, ...]
    count: int
    """The number of penalised weights."""

    @property
    def strengths(self) -> list[float]:
        """The multiples of the penalties as they were given."""
        return [point.strength for point in self.points]

    def coefficients(self, name: str = "weight") -> Tensor:
        """One parameter along the path: (points, ...).

        Raises:
            ValueError: the model has none of that name.
        """
        if name not in self.points[0].state:
            there = ", ".join(self.points[0].state)
            raise ValueError(f"the model has no {name!r}; along this path it has {there}.")
        return torch.stack([point.state[name] for point in self.points])

    def load(self, index: int) -> None:
        """Put a point's weights into the model."""
        self.regularizer.model.load_state_dict(self.points[index].state)

    def __len__(self) -> int:
        return len(self.points)

    def __iter__(self) -> Iterator[Point]:
        return iter(self.points)

    def __str__(self) -> str:
        rows = [f"{'strength':>12}  {'loss':>12}  {'nonzero':>9}  {'residual':>9}"]
        for p in self.points:
            mark = "" if p.solution.converged else "  not converged"
            rows.append(
                f"{p.strength:>12.5g}  {p.loss:>12.6g}  {p.nonzero:>9,}  "
                f"{p.solution.residual:>9.1e}{mark}"
            )
        return "\n".join([*rows, f"of {self.count:,} penalised weights"])
