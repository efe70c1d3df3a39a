"""Step sizes: how an optimizer turned its gradient estimate into a move.

The metric D of an optimizer is the linear response of its update to a constant gradient: how
far it would move a coordinate, per unit of gradient, at this very step and with its own
curvature estimate. A wrapped optimizer whose proximal map uses this D has the stationary points
of loss + penalty as its fixed points; one that uses ``lr`` alone solves another problem as soon
as there is momentum or an adaptive step.

Each function reads one parameter's state right after the optimizer's own step. Source: the
update rules in ``torch/optim``; proximal steps in a diagonal metric: S. Becker and J. Fadili,
"A quasi-Newton proximal splitting method" (2012).
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

CURVATURE_FLOOR = 0.1
"""The fraction of a penalty's slope below which a curvature estimate counts as empty.

A coordinate with next to no gradient history has a denominator near eps and would lose a live
weight in one step. At a stationary point a kept weight has ``|grad|`` equal to the slope, and
the denominator is at least that, so any fraction below 1 is idle there; at 1 and above it makes
false stationary points. At 0.1 a weight shrinks by at most ten times the lr a step.
"""


class StepSize(NamedTuple):
    """D as ``scale / denominator``; without a denominator D is the scale, the same everywhere."""

    scale: float | Tensor
    denominator: Tensor | None = None

    def bounded(self, slope: float | Tensor) -> float | Tensor:
        """D with its denominator held to at least ``CURVATURE_FLOOR * slope``."""
        if self.denominator is None:
            return self.scale
        floor = CURVATURE_FLOOR * slope
        return self.scale / self.denominator.clamp(min=floor)


Metric = Callable[[dict[str, Any], Tensor, dict[str, Any]], StepSize | float | Tensor]
"""``(param_group, parameter, state) -> D``, called right after the wrapped optimizer's step."""


def sgd(group: dict[str, Any], _: Tensor, state: dict[str, Any]) -> StepSize:
    """D of ``torch.optim.SGD``: the lr times the weight that the buffer has given to gradients.

    Plain SGD moves by ``lr * grad``. With momentum m and dampening d the buffer is
    ``b_1 = g_1`` and ``b_t = m * b_(t-1) + (1 - d) * g_t``; under a constant gradient
    ``b_t = W_t * g`` with ``W_1 = 1`` and ``W_t = m * W_(t-1) + (1 - d)``, so D = lr * W_t.
    Nesterov moves by ``g + m * b_t``: D = lr * (1 + m * W_t). The recursion follows a momentum
    that a scheduler changes. W is kept in the parameter's state, beside the buffer, as
    ``momentum_weight``, and carried over one step at each call; a buffer that was warm before
    is taken to be at its limit, ``(1 - d) / (1 - m)``.

    Coupled ``weight_decay`` is part of the gradient, and so of the objective:
    ``weight_decay / 2 * sum(w^2)`` joins the loss. It does not change D.
    """
    lr, momentum = _number(group["lr"]), group["momentum"]
    if momentum == 0:
        return StepSize(lr)
    before = state.get("momentum_weight")
    weight = 1.0 if before is None else momentum * before + 1 - group["dampening"]
    state["momentum_weight"] = weight
    return StepSize(lr * (1 + momentum * weight) if group["nesterov"] else lr * weight)


def settle_momentum(optimizer: Optimizer) -> None:
    """Give every warm momentum buffer whose history is unknown the weight of a settled one.

    For an SGD that has stepped on its own, or whose plain checkpoint was loaded.
    """
    for group in optimizer.param_groups:
        momentum = group.get("momentum", 0)
        if not (isinstance(optimizer, SGD) and 0 < momentum < 1):
            continue
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            if state.get("momentum_buffer") is not None:
                settled = (1 - group["dampening"]) / (1 - momentum)
                state.setdefault("momentum_weight", settled)


def adam(group: dict[str, Any], _: Tensor, state: dict[str, Any]) -> StepSize:
    """D of ``torch.optim.Adam`` and ``AdamW``: ``lr / (sqrt(v_hat) + eps)``.

    The bias-corrected first moment of a constant gradient is that gradient, so the response is
    the step that divides it; ``v_hat = v / (1 - beta2^t)``, with the maximum of v so far under
    AMSGrad, as torch computes it.

    Coupled ``weight_decay`` (Adam) is part of the objective. AdamW's decoupled decay multiplies
    the weight by ``1 - lr * weight_decay``: a decay of AdamW's own, in its own metric, that
    belongs to no fixed objective. With ``weight_decay=0`` the objective is loss + penalty alone.
    """
    second = state["max_exp_avg_sq"] if group["amsgrad"] else state["exp_avg_sq"]
    correction = 1 - _number(group["betas"][1]) ** _number(state["step"])
    root = second.sqrt() / correction**0.5
    return StepSize(_number(group["lr"]), root.add_(group["eps"]))


_KNOWN: dict[type[Optimizer], Metric] = {SGD: sgd, Adam: adam, AdamW: adam}


def metric_of(optimizer: Optimizer) -> Metric:
    """The metric of an optimizer, by its type.

    A subclass counts as its parent as long as it keeps the parent's ``step``.

    Raises:
        TypeError: no diagonal metric is known; the message names the supported optimizers and
            shows how to pass one.
    """
    step = inspect.unwrap(type(optimizer).step)
    for kind, metric in _KNOWN.items():
        if isinstance(optimizer, kind) and inspect.unwrap(kind.step) is step:
            return metric
    name = type(optimizer).__name__
    known = ", ".join(sorted(kind.__name__ for kind in _KNOWN))
    raise TypeError(
        f"no diagonal step size is known for {name}. Supported: {known}. If {name} moves each "
        "coordinate by a known factor per unit of gradient, pass that factor, as it was in the "
        "step just taken: ProximalOptimizer(optimizer, regularizer, metric=...). For RMSprop it "
        "is metric=lambda group, parameter, state: "
        "torchreg.StepSize(group['lr'], state['square_avg'].sqrt() + group['eps']). The lr alone "
        "is right only for an optimizer that moves by lr * grad."
    )


def is_known(metric: Metric) -> bool:
    """Whether a metric is one of this file, and not a caller's."""
    return metric in _KNOWN.values()


def _number(value: float | Tensor) -> float | Tensor:
    """A host scalar as a float; a scalar on an accelerator stays there, without a sync."""
    if isinstance(value, Tensor) and value.device.type == "cpu":
        return float(value)
    return value
