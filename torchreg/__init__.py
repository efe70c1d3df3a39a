"""torchreg: penalties over named parameters, and optimizers that reach exact zeros."""

# ruff: noqa: I001  (in the order in which a reader meets them)
from importlib import import_module
from typing import TYPE_CHECKING, Any

# What a penalty acts on
from torchreg.selection import select
from torchreg.groups import (
    adjacent,
    columns,
    filters,
    gates,
    grouped_channels,
    heads,
    input_channels,
    joint,
    kernel_positions,
    rows,
    tiles,
    transposed,
)

# Penalties, and penalties bound to a model
from torchreg.penalties import L1, L2, ElasticNet, FixedSupport, Penalty
from torchreg.penalties import L0, MCP, SCAD, LHalf, LogSum, WeightedL1
from torchreg.penalties import GroupL0, GroupLasso, GroupMCP, SparseGroupLasso
from torchreg.penalties import AtMost, ExclusiveLasso
from torchreg.regularizer import Regularizer
from torchreg.debiasing import fix_support
from torchreg.reweighting import reweighted

# The proximal optimizer
from torchreg.metrics import StepSize
from torchreg.proximal import ProximalOptimizer

# Strengths over time
from torchreg.schedule import StrengthSchedule, TargetSparsity

# Reports
from torchreg.report import Sparsity, Support, sparsity, support
from torchreg.certificate import Stationarity, stationarity

# Full-batch solutions with a certificate
from torchreg.solver import LeastSquares, Logistic, NotConverged, Solution, polish, refit, solve
from torchreg.paths import CrossValidation, Path, critical_strength, cross_validate, path

if TYPE_CHECKING:
    from torchreg import compaction as compaction
    from torchreg import estimators as estimators
    from torchreg import lightning as lightning
    from torchreg import plots as plots
    from torchreg.compaction import compact as compact
    from torchreg.compaction import latency as latency
    from torchreg.compaction import removable_groups as removable_groups
    from torchreg.compaction import to_csr as to_csr

__all__ = [
    "L0",
    "L1",
    "L2",
    "MCP",
    "SCAD",
    "AtMost",
    "CrossValidation",
    "ElasticNet",
    "ExclusiveLasso",
    "FixedSupport",
    "GroupL0",
    "GroupLasso",
    "GroupMCP",
    "LHalf",
    "LeastSquares",
    "LogSum",
    "Logistic",
    "NotConverged",
    "Path",
    "Penalty",
    "ProximalOptimizer",
    "Regularizer",
    "Solution",
    "SparseGroupLasso",
    "Sparsity",
    "Stationarity",
    "StepSize",
    "StrengthSchedule",
    "Support",
    "TargetSparsity",
    "WeightedL1",
    "adjacent",
    "columns",
    "compact",
    "compaction",
    "critical_strength",
    "cross_validate",
    "estimators",
    "filters",
    "fix_support",
    "gates",
    "grouped_channels",
    "heads",
    "input_channels",
    "joint",
    "kernel_positions",
    "latency",
    "lightning",
    "path",
    "plots",
    "polish",
    "refit",
    "removable_groups",
    "reweighted",
    "rows",
    "select",
    "solve",
    "sparsity",
    "stationarity",
    "support",
    "tiles",
    "to_csr",
    "transposed",
]

__version__ = "0.1.0"

_ON_DEMAND = {"compaction", "estimators", "lightning", "plots"}
_FROM_COMPACTION = {"compact", "latency", "removable_groups", "to_csr"}


def __getattr__(name: str) -> Any:
    """Import the parts that need more than torch when they are first asked for."""
    if name in _ON_DEMAND:
        return import_module(f"torchreg.{name}")
    if name in _FROM_COMPACTION:
        return getattr(import_module("torchreg.compaction"), name)
    raise AttributeError(f"module 'torchreg' has no attribute {name!r}")
