"""D of Adafactor, whose second moment is factored and whose step is relative to the weights."""

from typing import Any

import torch
from torch import Tensor

from torchreg.metrics.step_size import StepSize, number


def adafactor(group: dict[str, Any], parameter: Tensor, state: dict[str, Any]) -> StepSize:
    """D of ``torch.optim.Adafactor``: ``alpha / clip / sqrt(v)``.

    v is the second moment, of a matrix the product of its row and column means over their mean,
    held to at least eps1^2. With ``u = grad / sqrt(v)`` over n coordinates, the clipping factor
    is ``clip = max(1, rms(u) / d)``, and ``alpha = min(lr, 1 / sqrt(t)) * max(eps2, rms(w))``
    with w as it was *before* the step: the step is ``w' = (1 - lr * weight_decay) * w - s * u``,
    ``s = alpha / clip``. From w' and the gradient w is ``(w' + s * u) / (1 - lr * weight_decay)``;
    put into alpha this is a quadratic equation for s, with one positive root as long as
    ``min(lr, 1 / sqrt(t)) * d < 1 - lr * weight_decay``, as at any usual lr (torch's is 0.01).

    The statistics are those of the whole tensor, so this metric cannot be taken block by block.
    ``weight_decay`` is decoupled and belongs to no fixed objective. As v is shared by rows and
    columns it may be far below the squared gradient of one coordinate in a matrix whose rows
    are very unlike; the floor under the denominator could then be active at a stationary point.
    """
    eps1, eps2 = group["eps"]
    tiny = torch.finfo(parameter.dtype).eps if eps1 is None else eps1
    if "variance" in state:
        second = state["variance"].clamp(min=tiny * tiny)
    else:
        mean = state["row_var"].mean(dim=-2, keepdim=True).clamp_(min=tiny)
        second = (state["row_var"] @ state["col_var"]).div_(mean).clamp_(min=tiny * tiny)
    root = second.sqrt_()
    assert parameter.grad is not None
    u = (-parameter.grad if group["maximize"] else parameter.grad) / root

    lr, t = number(group["lr"]), number(state["step"])
    if isinstance(lr, Tensor) or isinstance(t, Tensor):
        relative = torch.minimum(torch.as_tensor(lr, device=u.device), torch.as_tensor(t) ** -0.5)
    else:
        relative = min(lr, t**-0.5)
    count = max(1, parameter.numel()) ** 0.5
    kept = 1 - lr * group["weight_decay"]
    size = torch.linalg.vector_norm(u)
    clip = (size / (count * group["d"])).clamp(min=1.0)

    # s = rate * norm(w' + s * u), squared: (1 - square) * s^2 - 2 * half * s - rate^2 |w'|^2 = 0
    rate = relative / (clip * kept * count)
    half = rate**2 * (parameter * u).sum()
    free = (rate * torch.linalg.vector_norm(parameter)) ** 2
    lead = 1 - (rate * size) ** 2
    spread = (half**2 + lead * free).clamp(min=0).sqrt()
    tiniest = torch.finfo(root.dtype).tiny
    by_weights = torch.where(
        half > 0, (half + spread) / lead, free / (spread - half).clamp(min=tiniest)
    )
    return StepSize(torch.maximum(by_weights, relative * eps2 / clip), root)
