"""Step sizes: how an optimizer turned its gradient estimate into a move.

The metric D of an optimizer is the linear response of its update to a constant gradient: how
far it would move a coordinate, per unit of gradient, at this very step and with its own
curvature estimate. A wrapped optimizer whose proximal map uses this D has the stationary points
of loss + penalty as its fixed points; one that uses ``lr`` alone solves another problem as soon
as there is momentum or an adaptive step.

Each metric is a pure function that reads one parameter's state right after the optimizer's own
step, which ``before_step`` and ``advance`` frame. Source: the update rules in ``torch/optim``;
proximal steps in a diagonal metric: S. Becker and J. Fadili, "A quasi-Newton proximal splitting
method" (2012).
"""

from torchreg.metrics.factored import adafactor
from torchreg.metrics.gradient import asgd, sgd
from torchreg.metrics.known import is_elementwise, is_known, is_uniform, metric_of
from torchreg.metrics.moments import adam, adamax, nadam, radam
from torchreg.metrics.momentum import advance, before_step, seal, settle_momentum
from torchreg.metrics.squares import adadelta, adagrad, rmsprop
from torchreg.metrics.step_size import CURVATURE_FLOOR, Metric, StepSize

__all__ = [
    "CURVATURE_FLOOR",
    "Metric",
    "StepSize",
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "advance",
    "asgd",
    "before_step",
    "is_elementwise",
    "is_known",
    "is_uniform",
    "metric_of",
    "nadam",
    "radam",
    "rmsprop",
    "seal",
    "settle_momentum",
    "sgd",
]
