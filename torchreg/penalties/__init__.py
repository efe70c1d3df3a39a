"""Penalties: one small object each that knows its value, prox, optimality and edge.

One without an exact proximal map in a diagonal metric is not among them: the nuclear norm has a
closed form for a single step size alone, so that under Adam it would solve another problem.
"""

from torchreg.penalties.base import Penalty
from torchreg.penalties.counting import L0, LHalf
from torchreg.penalties.exclusive import ExclusiveLasso
from torchreg.penalties.group import GroupLasso, SparseGroupLasso
from torchreg.penalties.group_counting import AtMost, GroupL0
from torchreg.penalties.group_mcp import GroupMCP
from torchreg.penalties.nonconvex import MCP, SCAD, LogSum
from torchreg.penalties.separable import L1, L2, ElasticNet
from torchreg.penalties.support import FixedSupport
from torchreg.penalties.weighted import WeightedL1

__all__ = [
    "L0",
    "L1",
    "L2",
    "MCP",
    "SCAD",
    "AtMost",
    "ElasticNet",
    "ExclusiveLasso",
    "FixedSupport",
    "GroupL0",
    "GroupLasso",
    "GroupMCP",
    "LHalf",
    "LogSum",
    "Penalty",
    "SparseGroupLasso",
    "WeightedL1",
]
