"""What a metric gives: the step size D, and the floor under its curvature estimate."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

CURVATURE_FLOOR = 0.1
"""The fraction of a penalty's slope below which a curvature estimate counts as empty.

A coordinate with next to no gradient history has a denominator near eps and would lose a live
weight in one step. At a stationary point a kept weight has ``|grad|`` equal to the slope, and
the denominator is at least that, so any fraction below 1 is idle there; at 1 and above it makes
false stationary points. At 0.1 a weight shrinks by at most ten times the lr a step.
"""


class StepSize(NamedTuple):
    """D as ``scale / denominator``; without a denominator D is the scale, the same everywhere.

    The denominator is the curvature estimate in units of the gradient, such as
    ``sqrt(v_hat) + eps``, so that a penalty's slope can be held against it.
    """

    scale: float | Tensor
    denominator: Tensor | None = None

    def bounded(self, slope: float | Tensor) -> float | Tensor:
        """D with its denominator held to at least ``CURVATURE_FLOOR * slope``."""
        if self.denominator is None:
            return self.scale
        held = self.denominator.clamp(min=CURVATURE_FLOOR * slope).reciprocal_()
        per_coordinate = isinstance(self.scale, Tensor) and self.scale.dim() > 0
        return held * self.scale if per_coordinate else held.mul_(self.scale)


Metric = Callable[[dict[str, Any], Tensor, dict[str, Any]], StepSize | float | Tensor]
"""``(param_group, parameter, state) -> D``, called right after the wrapped optimizer's step."""


def number(value: float | Tensor) -> float | Tensor:
    """A host scalar as a float; one on an accelerator, or while compiling, as a 0-d tensor.

    So nothing waits for an accelerator, and a compiled metric takes lr and step as inputs. In
    float64 on CPU and CUDA: torch keeps the step in float32, in which ``1 - beta2^step`` loses
    five of its seven digits at first. Beside a tensor with dimensions it promotes nothing.
    """
    if not isinstance(value, Tensor):
        return value
    if value.device.type == "cpu" and not torch.compiler.is_compiling():
        return float(value)
    return value.squeeze().double() if value.device.type in ("cpu", "cuda") else value.squeeze()
