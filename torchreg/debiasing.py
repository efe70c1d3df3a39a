"""Train on without the penalty, on the weights that it has left."""

from torchreg import distributed
from torchreg.penalties.support import FixedSupport
from torchreg.regularizer import Regularizer, check_regularizer


def fix_support(regularizer: Regularizer) -> Regularizer:
    """Hold the present zeros of the penalised weights, and lift the penalty from the others.

    The second half of a sparse training, called debiasing: L1 shrinks the weights that it
    keeps, so train on with the support fixed and no penalty. The result goes to a new
    :class:`torchreg.ProximalOptimizer`, whose zeros stay exact through momentum and decay.

    Args:
        regularizer: the penalties that made the zeros. It is not changed.

    Returns:
        A regularizer of the same model, with a :class:`torchreg.FixedSupport` per tensor.

    Raises:
        TypeError: no Regularizer.

    Example:
        >>> import torch
        >>> from torchreg import L1, Regularizer
        >>> model = torch.nn.Linear(3, 1)
        >>> _ = model.weight.data.copy_(torch.tensor([[0.0, 2.0, 0.0]]))
        >>> fix_support(Regularizer(model, L1(1e-3)))
        Regularizer: 3 of 4 parameters penalised
          name    shape  count  penalty
          weight  1 x 3      3  FixedSupport(1 of 3 kept): 0 on the support, else inf

    Source: A. Belloni and V. Chernozhukov, "Least squares after model selection in
    high-dimensional sparse models" (2013).
    """
    check_regularizer(regularizer)
    kept = {name: distributed.whole(w.detach()) != 0 for name, w in regularizer.selection().items()}
    return Regularizer(regularizer.model, {name: FixedSupport(mask) for name, mask in kept.items()})
