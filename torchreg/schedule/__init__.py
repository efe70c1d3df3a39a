"""Strengths over time: schedules of a given shape, and schedules towards a given sparsity."""

from torchreg.schedule.cost import multiply_adds
from torchreg.schedule.layers import layer_densities
from torchreg.schedule.shapes import cosine, cubic, linear, piecewise, warmup
from torchreg.schedule.strength import StrengthSchedule
from torchreg.schedule.target import TargetSparsity

__all__ = [
    "StrengthSchedule",
    "TargetSparsity",
    "cosine",
    "cubic",
    "layer_densities",
    "linear",
    "multiply_adds",
    "piecewise",
    "warmup",
]
