"""torchreg: penalties over named parameters, and optimizers that reach exact zeros."""

# ruff: noqa: I001  (in the order in which a reader meets them)
from importlib import import_module
from typing import TYPE_CHECKING, Any

# What a penalty acts on
from torchreg.selection import select

# Penalties, and penalties bound to a model
from torchreg.penalties import L1, L2, ElasticNet, FixedSupport, Penalty
from torchreg.regularizer import Regularizer, fix_support

# The proximal optimizer
from torchreg.metrics import StepSize
from torchreg.proximal import ProximalOptimizer

# Reports
from torchreg.report import Sparsity, Support, sparsity, support
from torchreg.certificate import Stationarity, stationarity

if TYPE_CHECKING:
    from torchreg import lightning as lightning
    from torchreg import plots as plots

__all__ = [
    "L1",
    "L2",
    "ElasticNet",
    "FixedSupport",
    "Penalty",
    "ProximalOptimizer",
    "Regularizer",
    "Sparsity",
    "Stationarity",
    "StepSize",
    "Support",
    "fix_support",
    "lightning",
    "plots",
    "select",
    "sparsity",
    "stationarity",
    "support",
]

__version__ = "0.1.0"

_ON_DEMAND = {"lightning", "plots"}


def __getattr__(name: str) -> Any:
    """Import the parts that need more than torch when they are first asked for."""
    if name in _ON_DEMAND:
        return import_module(f"torchreg.{name}")
    raise AttributeError(f"module 'torchreg' has no attribute {name!r}")
