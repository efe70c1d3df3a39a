"""Competition inside groups: the exclusive lasso."""

from typing import final

import torch
from torch import Tensor

from torchreg.groups import Grouping
from torchreg.penalties.attributes import Strength
from torchreg.penalties.base import accumulation_dtype, largest
from torchreg.penalties.grouped import Grouped
from torchreg.penalties.radial import resized
from torchreg.prox import soft_threshold


@final
class ExclusiveLasso(Grouped):
    """``strength / 2 * sum over groups of (sum|w_g|)^2``: few weights of each group, none empty.

    The opposite of the group lasso: the members of a group compete, and no group is emptied,
    as its last weight costs next to nothing. For choosing among alternatives: one class for
    each feature (``columns`` of a classifier), a few inputs for each neuron (``rows``), some of
    each set of correlated features. A group of one is L2 with ``l2 = strength / 2``.

    Args:
        strength: relative to the mean loss.
        groups: a function from the weight to (groups, members), see :mod:`torchreg.groups`.

    Raises:
        ValueError: a negative, NaN or infinite strength; from the methods, groups that do not
            take each element of a weight exactly once.
        TypeError: a strength that is no number, groups that cannot be called.

    Example:
        >>> import torch
        >>> from torchreg.groups import rows
        >>> penalty = ExclusiveLasso(1.0, groups=rows)
        >>> w = torch.tensor([[3.0, 1.0, -2.0], [0.2, 0.0, 0.0]])
        >>> penalty(w)
        tensor(18.0200)
        >>> penalty.prox(w, step=1.0)
        tensor([[ 1.3333,  0.0000, -0.3333],
                [ 0.1000,  0.0000,  0.0000]])

    Source: Y. Zhou, R. Jin and S. Hoi, "Exclusive lasso for multi-task feature selection"
    (2010).
    """

    whole = False
    formula = "strength/2*sum((sum|group|)^2)"
    strength = Strength()

    def __init__(self, strength: float, groups: Grouping) -> None:
        super().__init__(groups)
        self.strength = strength

    def value(self, w: Tensor) -> Tensor:
        """Half the strength times the squared sums of sizes. The gradient at 0 is 0."""
        return self.strength / 2 * _sums(self.members(w)).square().sum()

    def shrink(self, members: Tensor, step: Tensor) -> Tensor:
        """Soft thresholding by ``step * strength * s``, with s the sum of what it leaves.

        With the k members of the largest ``|w| / step`` left, that sum is
        ``sum|w| / (1 + strength * sum(step))`` over them. It rises with k as long as the next
        one is above its threshold, and falls from there: s is the largest of them.
        """
        if members.numel() == 0:
            return members.clone()
        size, bound = members.abs(), torch.finfo(step.dtype).max / (2 * members.shape[1])
        price = (self.strength * step).clamp(max=bound).expand_as(size)
        ratio = torch.where(size == 0, 0.0, size / price)
        order = ratio.argsort(dim=1, descending=True, stable=True)
        prices, sizes = (one.gather(1, order).cumsum(dim=1) for one in (price, size))
        reached = sizes / (1 + prices)
        # Of equals the last: what is below the rounding of a sum is above its threshold too.
        last = size.shape[1] - 1 - reached.flip(1).argmax(dim=1, keepdim=True)
        prices, sizes = prices.gather(1, last), sizes.gather(1, last)
        # Less the member's own part, so that nothing cancels in the last one of a group.
        shrunk = size * ((1 + (prices - price)) / (1 + prices))
        shrunk = (shrunk - (sizes - size) * (price / (1 + prices))).clamp(min=0)
        left = torch.arange(size.shape[1], device=size.device).expand_as(order) <= last
        shrunk = shrunk.where(torch.zeros_like(left).scatter(1, order, left), 0.0)
        return resized(members, size, torch.where(step == torch.inf, 0.0, shrunk))

    def residual(self, members: Tensor, grad: Tensor) -> Tensor:
        """L1's, to {s * sign(w)} at kept weights and [-s, s] at zeros, s = strength * sum|w|."""
        l1 = self.strength * _sums(members)
        return torch.where(members == 0, soft_threshold(grad, l1), grad + l1 * members.sgn())

    def critical_strength(self, grad: Tensor) -> float:
        """0 where the gradient vanishes, else infinite: the first weight of a group is free."""
        return float("inf") if largest(self.members(grad)) > 0 else 0.0

    def steepness(self, size: Tensor) -> Tensor:
        """``strength * sum|w|``, the same in all of a group."""
        return (self.strength * _sums(size)).expand_as(size)


def _sums(members: Tensor) -> Tensor:
    """The sum of sizes of each group, (groups, 1); low precision in float32."""
    return members.abs().sum(dim=1, keepdim=True, dtype=accumulation_dtype(members))
