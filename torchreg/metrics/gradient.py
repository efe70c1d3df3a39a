"""D of the optimizers that move by a number times the gradient: SGD and ASGD."""

from typing import Any

import torch
from torch import Tensor

from torchreg.metrics.step_size import StepSize, number


def sgd(group: dict[str, Any], _: Tensor, state: dict[str, Any]) -> StepSize:
    """D of ``torch.optim.SGD``: the lr times the weight that the buffer has given to gradients.

    Plain SGD moves by ``lr * grad``. With momentum m and dampening d the buffer is
    ``b_1 = g_1`` and ``b_t = m * b_(t-1) + (1 - d) * g_t``; under a constant gradient
    ``b_t = W_t * g`` with ``W_1 = 1`` and ``W_t = m * W_(t-1) + (1 - d)``, so D = lr * W_t.
    Nesterov moves by ``g + m * b_t``: D = lr * (1 + m * W_t). W is the ``momentum_weight``
    that :func:`torchreg.metrics.advance` keeps in the state, beside the buffer.

    Coupled ``weight_decay`` is part of the gradient, and so of the objective:
    ``weight_decay / 2 * sum(w^2)`` joins the loss. It does not change D.
    """
    lr, momentum = number(group["lr"]), group["momentum"]
    if momentum == 0:
        return StepSize(lr)
    weight = state["momentum_weight"]
    return StepSize(lr * (1 + momentum * weight) if group["nesterov"] else lr * weight)


def asgd(group: dict[str, Any], _: Tensor, state: dict[str, Any]) -> StepSize:
    """D of ``torch.optim.ASGD``: the eta of the step just taken.

    ASGD moves by ``eta_t * (grad + lambd * w)``: ``eta_1 = lr``, and each step ends by writing
    the next one, ``lr / (1 + lambd * lr * t)^alpha``. The one that was used is the ``eta_taken``
    that :func:`torchreg.metrics.before_step` has set aside; at a parameter's first step there
    was none yet, and it is the lr, rounded as torch rounds it.

    Both ``lambd`` (1e-4 unless you say otherwise) and ``weight_decay`` are part of the
    objective: ``(lambd + weight_decay) / 2 * sum(w^2)``. The minimiser is in the weights;
    their average ``ax`` in the state is dense.
    """
    taken = state.get("eta_taken")
    if taken is None:
        dtype = state["eta"].dtype
        taken = torch.as_tensor(group["lr"], dtype=dtype)
    return StepSize(number(taken))
