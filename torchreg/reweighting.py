"""Reweighted L1: the log-sum penalty through its tangents, one convex problem after another."""

import torch

from torchreg.distributed import whole
from torchreg.penalties import L1, WeightedL1
from torchreg.penalties.attributes import as_strength
from torchreg.regularizer import Regularizer, check_regularizer


def reweighted(regularizer: Regularizer, width: float) -> Regularizer:
    """Penalise large weights less: L1 with the factors ``1 / (1 + |w| / width)`` of this moment.

    Train with L1, reweight, train on, two or three times: zeros as L1 gives them, and large
    weights that are hardly shrunk. Each round minimises the tangent of
    :class:`torchreg.LogSum` of the same strength and width, which lies above it, so that loss +
    log-sum falls from round to round. The result goes to a new :class:`torchreg.ProximalOptimizer`.

    Args:
        regularizer: L1 or WeightedL1 penalties. It is not changed.
        width: the size of a weight from which it counts as large, above 0. The factors of the
            literature, ``1 / (|w| + eps)``, are these over the width, with eps = width.

    Returns:
        A regularizer of the same model, with a :class:`torchreg.WeightedL1` for each tensor.

    Raises:
        TypeError: no Regularizer, another penalty than L1, or a width that is no number.
        ValueError: a width that is not above 0 and finite; two penalties on one weight.

    Example:
        >>> model = torch.nn.Linear(3, 1)
        >>> _ = model.weight.data.copy_(torch.tensor([[0.0, 1.0, 3.0]]))
        >>> again = reweighted(Regularizer(model, L1(0.1)), width=1.0)
        >>> again.terms[0].penalty.factors
        tensor([[1.0000, 0.5000, 0.2500]])

    Source: E. Candès, M. Wakin and S. Boyd, "Enhancing sparsity by reweighted l1 minimization"
    (2008).
    """
    check_regularizer(regularizer)
    width = as_strength("width", width)
    if width == 0:
        raise ValueError("width must be above 0 and finite, found 0.")
    if doubly := regularizer.overlap():
        raise ValueError(
            f"more than one penalty acts on {', '.join(doubly)}, and one set of factors takes "
            "their place: give each weight one penalty."
        )
    penalties = {}
    for name, parameter, penalty in regularizer.items():
        if not isinstance(penalty, L1 | WeightedL1):
            raise TypeError(
                f"{name} has the penalty {type(penalty).__name__}, which has no factors: reweight "
                "L1, or use torchreg.LogSum for the same objective in one go."
            )
        factors = 1 / (1 + whole(parameter.detach()).abs() / width)
        if isinstance(penalty, WeightedL1):  # what is free or held stays so
            own = penalty.factors.to(factors)
            factors = torch.where((own == 0) | own.isinf(), own, factors)
        penalties[name] = WeightedL1(penalty.l1, factors)
    return Regularizer(regularizer.model, penalties)
