"""The penalties, weights and step sizes that the contract tests run over.

A new penalty joins the contract with one line in ``CASES``.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from torchreg import (
    L0,
    L1,
    L2,
    MCP,
    SCAD,
    ElasticNet,
    ExclusiveLasso,
    GroupL0,
    GroupLasso,
    GroupMCP,
    LHalf,
    LogSum,
    Penalty,
    SparseGroupLasso,
    WeightedL1,
    rows,
)


@dataclass(frozen=True)
class Case:
    """A penalty as a function of its strength; at strength 0 it must penalise nothing."""

    name: str
    make: Callable[[float], Penalty]
    convex: bool = True
    zeroes: bool = True  # zero is stationary from a strength on that depends on the gradient
    quadratic: bool = True  # in pieces along each axis, and the subdifferential is a box

    def __str__(self) -> str:
        return self.name


def rows_or_all(w: Tensor) -> Tensor:
    """The rows of a matrix; of a vector, one group, so that two weights are one too."""
    return rows(w) if w.dim() > 1 else w.reshape(1, -1)


CASES = [
    Case("L1", L1),
    Case("L2", L2, zeroes=False),
    Case("ElasticNet-l2-half-of-l1", lambda strength: ElasticNet(strength, strength / 2)),
    Case("ElasticNet-l2-fourfold", lambda strength: ElasticNet(strength, 4 * strength)),
    Case("WeightedL1", lambda strength: WeightedL1(strength, torch.tensor(2.0))),
    Case("MCP", MCP, convex=False),
    Case("MCP-steep", lambda strength: MCP(strength, concavity=0.5), convex=False),
    Case("SCAD", SCAD, convex=False),
    Case("SCAD-steep", lambda strength: SCAD(strength, concavity=1.5), convex=False),
    Case("LogSum", lambda strength: LogSum(strength, width=1.0), convex=False, quadratic=False),
    Case(
        "LogSum-narrow",
        lambda strength: LogSum(strength, width=0.05),
        convex=False,
        quadratic=False,
    ),
    Case("LHalf", LHalf, convex=False, zeroes=False, quadratic=False),
    Case("L0", L0, convex=False, zeroes=False, quadratic=False),
    Case("GroupLasso", lambda strength: GroupLasso(strength, rows_or_all), quadratic=False),
    Case("SparseGroupLasso", lambda s: SparseGroupLasso(s, rows_or_all), quadratic=False),
    Case(
        "GroupMCP",
        lambda strength: GroupMCP(strength, rows_or_all),
        convex=False,
        quadratic=False,
    ),
    Case(
        "GroupMCP-steep",
        lambda strength: GroupMCP(strength, rows_or_all, concavity=0.5),
        convex=False,
        quadratic=False,
    ),
    Case(
        "GroupL0",
        lambda strength: GroupL0(strength, rows_or_all),
        convex=False,
        quadratic=False,
        zeroes=False,
    ),
    Case("ExclusiveLasso", lambda strength: ExclusiveLasso(strength, rows_or_all), zeroes=False),
]

STRENGTHS = [0.0, 0.5]


def sample(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normal numbers, about a fifth of them exactly 0."""
    w = 2 * torch.randn(shape, dtype=dtype)
    return w * (torch.rand(shape) > 0.2)


LAYOUTS: dict[str, Callable[[torch.dtype], Tensor]] = {
    "contiguous": lambda dtype: sample(4, 6, dtype=dtype),
    "transposed": lambda dtype: sample(6, 4, dtype=dtype).t(),
    "strided": lambda dtype: sample(8, 12, dtype=dtype)[::2, ::2],
    "empty": lambda dtype: sample(0, 3, dtype=dtype),
    "0-d": lambda dtype: torch.randn((), dtype=dtype),
}

STEPS: dict[str, Callable[[Tensor], float | Tensor]] = {
    "float": lambda w: 0.7,  # noqa: ARG005
    "0-d tensor": lambda w: torch.tensor(0.7, dtype=w.dtype),
    "per coordinate": lambda w: 0.1 + torch.rand_like(w),
}
