"""D of the optimizers that divide the gradient by a root of its squares.

RMSprop, Adagrad and Adadelta. ``weight_decay`` is coupled in all of them: part of the gradient,
and so of the objective, ``weight_decay / 2 * sum(w^2)``. It does not change D.
"""

from typing import Any

from torch import Tensor

from torchreg.metrics.step_size import StepSize, number


def rmsprop(group: dict[str, Any], _: Tensor, state: dict[str, Any]) -> StepSize:
    """D of ``torch.optim.RMSprop``: ``lr / (sqrt(v) + eps)``, times W with momentum.

    v is the running mean of the squared gradient, ``centered`` less the square of the running
    mean. The step is ``lr * grad / (sqrt(v) + eps)``; with momentum m it is ``lr * b_t`` with
    ``b_t = m * b_(t-1) + grad / (sqrt(v_t) + eps)``, and W is the ``momentum_weight`` of
    :func:`torchreg.metrics.advance`.

    Centered, the denominator is the standard deviation of the gradient: it vanishes where the
    gradient is always the same, so such a run diverges with or without a penalty. Use it with
    mini-batches.
    """
    second = state["square_avg"]
    if group["centered"]:
        # Rounding may leave a mean square just below the squared mean.
        second = second.addcmul(state["grad_avg"], state["grad_avg"], value=-1).clamp_(min=0)
    weight = state["momentum_weight"] if group["momentum"] > 0 else 1.0
    return StepSize(number(group["lr"]) * weight, second.sqrt().add_(group["eps"]))


def adagrad(group: dict[str, Any], _: Tensor, state: dict[str, Any]) -> StepSize:
    """D of ``torch.optim.Adagrad``: ``lr / (1 + (t - 1) * lr_decay) / (sqrt(sum) + eps)``.

    The step is that times the gradient, with the sum of all squared gradients so far.
    """
    lr = number(group["lr"]) / (1 + (number(state["step"]) - 1) * group["lr_decay"])
    return StepSize(lr, state["sum"].sqrt().add_(group["eps"]))


def adadelta(group: dict[str, Any], _: Tensor, state: dict[str, Any]) -> StepSize:
    """D of ``torch.optim.Adadelta``: ``lr * sqrt(a + eps) / sqrt(v + eps)``.

    v is the running mean of the squared gradient and a that of the squared moves *before* this
    step, which the step has overwritten by ``a' = rho * a + (1 - rho) * delta^2``, where
    ``delta = sqrt(a + eps) / sqrt(v + eps) * grad``. Solved for a,
    ``a + eps = (a' + rho * eps) / (rho + (1 - rho) * grad^2 / (v + eps))``, and a constant
    gradient has ``grad^2 = v / (1 - rho^t)``.
    """
    eps = group["eps"]
    rho = min(max(group["rho"], 1e-12), 1 - 1e-12)  # at 0 and at 1 the formula is 0 / 0
    variance = state["square_avg"] + eps
    share = (1 - rho) / (1 - rho ** number(state["step"]))
    before = (state["acc_delta"] + rho * eps) / (rho + share * state["square_avg"] / variance)
    return StepSize(number(group["lr"]) * before.sqrt_(), variance.sqrt_())
