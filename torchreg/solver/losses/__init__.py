"""Losses that know their data: what lets a solver see columns, duals and an intercept."""

from torchreg.solver.losses.base import SampleLoss
from torchreg.solver.losses.least_squares import LeastSquares
from torchreg.solver.losses.logistic import Logistic

__all__ = ["LeastSquares", "Logistic", "SampleLoss"]
