"""Penalties: one small object each that knows its value, prox, optimality and edge."""

from torchreg.penalties.base import Penalty
from torchreg.penalties.counting import L0, LHalf
from torchreg.penalties.group import GroupLasso, SparseGroupLasso
from torchreg.penalties.group_nonconvex import GroupL0, GroupMCP
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
    "ElasticNet",
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
