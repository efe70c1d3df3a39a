"""The duality gap of a linear model: an upper bound on how far it is from the optimum."""

from torch import Tensor

from torchreg.solver.losses import SampleLoss


def duality_gap(
    loss: SampleLoss, z: Tensor, gradient: Tensor, weight: Tensor, l1: float, l2: float
) -> tuple[float, float | None]:
    """The objective ``loss + l1 sum|w| + l2 sum(w^2)`` and its distance from a dual value.

    The dual point is the loss's own gradient at the outputs, scaled until it is feasible. With
    an intercept that gradient must sum to zero, so the outputs must be those of the best one.

    Args:
        loss: the samples.
        z: the outputs (samples, outputs) of these weights, with the best intercept.
        gradient: of the loss in the weights, there: (outputs, features).
        weight: (outputs, features).
        l1: strength of ``sum|w|``.
        l2: strength of ``sum(w^2)``, no half.

    Returns:
        The objective and the gap; None for a gap where nothing bounds the weights (l1 = l2 = 0).

    Source: E. Ndiaye et al., "Gap safe screening rules for sparsity enforcing penalties" (2017).
    """
    wide, size = z.double(), weight.double()
    penalty = l1 * size.abs().sum() + l2 * size.square().sum()
    objective = float(loss.value(wide) + penalty)
    if l1 == 0 and l2 == 0:
        return objective, None
    theta = loss.slope(wide)
    u = gradient.double().abs()
    largest = float(u.max()) if u.numel() else 0.0
    inside = min(1.0, l1 / largest) if largest > 0 else 1.0
    return objective, max(
        0.0, min(objective - _dual(loss, theta, u, l1, l2, s) for s in {inside, 1.0} if s > 0)
    )


def _dual(loss: SampleLoss, theta: Tensor, u: Tensor, l1: float, l2: float, scale: float) -> float:
    over = (scale * u - l1).clamp(min=0)
    if l2 > 0:
        bound = float(over.square().sum()) / (4 * l2)
    elif float(over.max()) > 1e-12 * l1:
        return float("-inf")
    else:
        bound = 0.0
    theta = scale * theta
    value = loss.conjugate(theta)
    if loss.offset is not None:
        value = value - (theta * loss.offset * loss.share.unsqueeze(1)).sum()
    return -float(value) - bound
