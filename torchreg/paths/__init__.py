"""Paths: from the critical strength down, or from dense to sparse, and cross-validation."""

from torchreg.paths.follow import path
from torchreg.paths.points import Path, Point
from torchreg.paths.strengths import critical_strength, scaled
from torchreg.paths.validate import CrossValidation, cross_validate

__all__ = [
    "CrossValidation",
    "Path",
    "Point",
    "critical_strength",
    "cross_validate",
    "path",
    "scaled",
]
