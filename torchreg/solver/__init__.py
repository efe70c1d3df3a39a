"""A full-batch solver that certifies what it returns."""

from torchreg.solver.losses import LeastSquares, Logistic, SampleLoss
from torchreg.solver.polish import polish, refit
from torchreg.solver.result import NotConverged, Solution
from torchreg.solver.solver import solve

__all__ = [
    "LeastSquares",
    "Logistic",
    "NotConverged",
    "SampleLoss",
    "Solution",
    "polish",
    "refit",
    "solve",
]
