"""Penalties: one small object each that knows its value, prox, optimality and edge."""

from torchreg.penalties.base import Penalty
from torchreg.penalties.separable import L1, L2, ElasticNet
from torchreg.penalties.support import FixedSupport

__all__ = ["L1", "L2", "ElasticNet", "FixedSupport", "Penalty"]
