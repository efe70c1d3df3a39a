"""D of the optimizers with two moments: Adam, AdamW, AMSGrad, Adamax, NAdam and RAdam.

The first moment m of a constant gradient g is ``(1 - beta1^t) * g``, so what multiplies it in
the update, times that, is the linear response. ``weight_decay`` is coupled in all of them but
AdamW: part of the gradient and so of the objective, ``weight_decay / 2 * sum(w^2)``. With
``decoupled_weight_decay=True`` (AdamW's only way) it multiplies the weight by
``1 - lr * weight_decay``: a decay in the optimizer's own metric that belongs to no fixed
objective. With ``weight_decay=0`` the objective is loss + penalty alone. Neither changes D.
"""

from typing import Any

import torch
from torch import Tensor

from torchreg.metrics.step_size import StepSize, number

_IDLE = 2.0**60  # larger than any floor, and exact to divide by


def adam(group: dict[str, Any], _: Tensor, state: dict[str, Any]) -> StepSize:
    """D of ``torch.optim.Adam`` and ``AdamW``: ``lr / (sqrt(v_hat) + eps)``.

    The step is ``lr * m_hat / (sqrt(v_hat) + eps)`` and the bias-corrected first moment of a
    constant gradient is that gradient. ``v_hat = v / (1 - beta2^t)``, with the maximum of v so
    far under AMSGrad, as torch computes it.
    """
    second = state["max_exp_avg_sq"] if group["amsgrad"] else state["exp_avg_sq"]
    return StepSize(number(group["lr"]), _root(second, group, state))


def adamax(group: dict[str, Any], _: Tensor, state: dict[str, Any]) -> StepSize:
    """D of ``torch.optim.Adamax``: ``lr / u``.

    The step is ``lr * m_hat / u`` with ``u = max(beta2 * u, |grad| + eps)``, the ``exp_inf`` of
    the state, which needs no correction and holds its eps already.
    """
    return StepSize(number(group["lr"]), state["exp_inf"])


def nadam(group: dict[str, Any], _: Tensor, state: dict[str, Any]) -> StepSize:
    """D of ``torch.optim.NAdam``.

    With ``mu_t = beta1 * (1 - 0.96^(t * momentum_decay) / 2)`` and P their running product, the
    step is ``lr * [(1 - mu_t) / (1 - P_t) * grad + mu_(t+1) / (1 - P_(t+1)) * m]`` over
    ``sqrt(v_hat) + eps``; a constant gradient has ``m = (1 - beta1^t) * grad``.
    """
    beta1, t = number(group["betas"][0]), number(state["step"])
    product = number(state["mu_product"])
    mu, ahead = (
        beta1 * (1 - 0.5 * 0.96 ** (step * group["momentum_decay"])) for step in (t, t + 1)
    )
    weight = (1 - mu) / (1 - product) + ahead * (1 - beta1**t) / (1 - product * ahead)
    return StepSize(number(group["lr"]) * weight, _root(state["exp_avg_sq"], group, state))


def radam(group: dict[str, Any], _: Tensor, state: dict[str, Any]) -> StepSize:
    """D of ``torch.optim.RAdam``: ``lr * r_t * sqrt(1 - beta2^t) / (sqrt(v) + eps)``.

    The rectification r_t depends on t alone, through ``rho_inf = 2 / (1 - beta2) - 1`` and
    ``rho_t = rho_inf - 2 * t * beta2^t / (1 - beta2^t)``. As long as rho_t is at most 5 the step
    is ``lr * m_hat`` without a denominator, and D = lr.
    """
    lr, beta2, t = number(group["lr"]), number(group["betas"][1]), number(state["step"])
    correction = 1 - beta2**t
    limit = 2 / (1 - beta2) - 1
    length = limit - 2 * t * beta2**t / correction
    ratio = (length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length)
    if not isinstance(length, Tensor):
        if length <= 5:
            return StepSize(lr)
        root = state["exp_avg_sq"].sqrt().add_(group["eps"]).div_(correction**0.5)
        return StepSize(lr * ratio**0.5, root)
    rectified = length > 5
    root = (state["exp_avg_sq"].sqrt() + group["eps"]) / correction**0.5
    scale = torch.where(rectified, ratio.clamp(min=0) ** 0.5, _IDLE)
    return StepSize(lr * scale, torch.where(rectified, root, _IDLE))


def _root(second: Tensor, group: dict[str, Any], state: dict[str, Any]) -> Tensor:
    """``sqrt(v / (1 - beta2^t)) + eps``, a new tensor."""
    correction = 1 - number(group["betas"][1]) ** number(state["step"])
    return second.sqrt().div_(correction**0.5).add_(group["eps"])
