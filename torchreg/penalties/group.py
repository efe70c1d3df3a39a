"""Penalties whose zeros are whole groups: group lasso and sparse group lasso."""

from typing import final

import torch
from torch import Tensor

from torchreg.groups import Grouping
from torchreg.penalties.attributes import Share, Strength
from torchreg.penalties.base import accumulation_dtype
from torchreg.penalties.grouped import Grouped, directions, from_ball, norms
from torchreg.penalties.newton import shrink_groups
from torchreg.prox import soft_threshold


@final
class GroupLasso(Grouped):
    """``strength * sum over groups of sqrt(members) * norm(w_g)``: whole groups become zero.

    L1 over the norms of groups: neurons, filters, channels, embedding entries, heads. Inside a
    kept group no weight is zeroed. The proximal map is exact in a diagonal metric as well, so
    that Adam reaches the optimum and its zero groups.

    Args:
        strength: relative to the mean loss. skglm's and celer's ``GroupLasso(alpha)`` halve the
            squared error and do not weight by size: with the loss ``mse / 2`` and
            ``by_size=False``, strength = alpha.
        groups: a function from the weight to (groups, members), see :mod:`torchreg.groups`.
        by_size: weight each group by the root of its size, so that groups of all sizes enter at
            the same rate and one strength suits layers of all widths.

    Raises:
        ValueError: a negative, NaN or infinite strength; from the methods, groups that do not
            take each element of a weight exactly once.
        TypeError: a strength that is no number, groups that cannot be called.

    Example:
        >>> from torchreg.groups import rows
        >>> penalty = GroupLasso(1.0, groups=rows, by_size=False)
        >>> w = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
        >>> penalty(w)
        tensor(5.5000)
        >>> penalty.prox(w, step=1.0)
        tensor([[2.4000, 3.2000],
                [0.0000, 0.0000]])

    Source: M. Yuan and Y. Lin, "Model selection and estimation in regression with grouped
    variables" (2006).
    """

    whole = True
    formula = "strength*sum(norm(group))"
    formula_by_size = "strength*sum(sqrt(size)*norm(group))"
    strength = Strength()

    def __init__(self, strength: float, groups: Grouping, *, by_size: bool = True) -> None:
        super().__init__(groups, by_size=by_size)
        self.strength = strength

    def value(self, w: Tensor) -> Tensor:
        """The sum of group norms. The gradient at a zero group is 0."""
        members = self.members(w)
        return self._radius(members) * norms(members).sum()

    def shrink(self, members: Tensor, step: Tensor) -> Tensor:
        """:func:`torchreg.penalties.newton.shrink_groups`."""
        return shrink_groups(members, self._radius(members) * step)

    def zeroing(self, members: Tensor, step: Tensor) -> Tensor:
        """``norm(w / step)`` of the group, over its radius."""
        ratio = torch.where(members == 0, 0.0, members.abs() / step)
        return norms(ratio) / self._radius(members)

    def residual(self, members: Tensor, grad: Tensor) -> Tensor:
        """To {strength * w / norm(w)} at kept groups, to the ball of that radius at zero ones."""
        return from_ball(members, grad, self._radius(members))

    def critical_strength(self, grad: Tensor) -> float:
        """The largest norm of a group of the gradient, over the root of its size."""
        members = self.members(grad)
        return float(norms(members).max()) / self.root_size(members) if members.numel() else 0.0

    def steepness(self, size: Tensor) -> Tensor:
        """``radius * |w| / norm(w)``, with the radius ``strength * sqrt(members)``."""
        return self._radius(size) * directions(size)

    def _radius(self, members: Tensor) -> float:
        return self.strength * self.root_size(members)


@final
class SparseGroupLasso(Grouped):
    """L1 and group lasso together: zero groups, and zeros inside the groups that are kept.

    ``strength * (l1_share * sum|w| + (1 - l1_share) * sum over groups of sqrt(members) *
    norm(w_g))``. Its proximal map is soft thresholding, then that of the group lasso, which is
    exact for this pair in any diagonal metric.

    Args:
        strength: relative to the mean loss.
        groups: a function from the weight to (groups, members), see :mod:`torchreg.groups`.
        l1_share: from 0, the group lasso, to 1, L1. The literature's alpha.
        by_size: weight each group by the root of its size.

    Raises:
        ValueError: a negative, NaN or infinite strength; a share outside [0, 1]; from the
            methods, groups that do not take each element of a weight exactly once.
        TypeError: a strength that is no number, groups that cannot be called.

    Example:
        >>> from torchreg.groups import rows
        >>> penalty = SparseGroupLasso(2.0, groups=rows, l1_share=0.5, by_size=False)
        >>> penalty.prox(torch.tensor([[4.0, 5.0, 0.5], [1.3, 1.4, 0.0]]), step=1.0)
        tensor([[2.4000, 3.2000, 0.0000],
                [0.0000, 0.0000, 0.0000]])

    Source: N. Simon, J. Friedman, T. Hastie and R. Tibshirani, "A sparse-group lasso" (2013).
    """

    whole = False
    formula = "strength*(l1_share*sum|w| + (1 - l1_share)*sum(norm(group)))"
    formula_by_size = "strength*(l1_share*sum|w| + (1 - l1_share)*sum(sqrt(size)*norm(group)))"
    strength = Strength()
    l1_share = Share()

    def __init__(
        self, strength: float, groups: Grouping, *, l1_share: float = 0.5, by_size: bool = True
    ) -> None:
        super().__init__(groups, by_size=by_size)
        self.strength = strength
        self.l1_share = l1_share

    def value(self, w: Tensor) -> Tensor:
        """The sum of sizes and of group norms. The gradient at zero is 0."""
        members = self.members(w)
        l1, radius = self._parts(members)
        return l1 * w.abs().sum(dtype=accumulation_dtype(w)) + radius * norms(members).sum()

    def shrink(self, members: Tensor, step: Tensor) -> Tensor:
        """Soft thresholding, then the group lasso's."""
        l1, radius = self._parts(members)
        # A share of 0 leaves its part out: an infinite step times 0 is NaN.
        soft = soft_threshold(members, l1 * step) if l1 > 0 else members
        return shrink_groups(soft, radius * step) if radius > 0 else soft

    def residual(self, members: Tensor, grad: Tensor) -> Tensor:
        """The group lasso's, with each coordinate's distance to the set of L1 inside."""
        l1, radius = self._parts(members)
        smooth = grad + l1 * members.sgn() + radius * directions(members)
        kept = torch.where(members == 0, soft_threshold(grad, l1), smooth)
        zeroed = from_ball(members, soft_threshold(grad, l1), radius)
        return torch.where(norms(members) == 0, zeroed, kept)

    def critical_strength(self, grad: Tensor) -> float:
        """The largest over groups of the root of ``norm(soft(grad, l1)) = radius``.

        Found by bisection: the left side falls and the right one rises with the strength.
        """
        members = self.members(grad.detach()).abs().double()
        if not members.any():
            return 0.0
        l1, radius = self._parts(members, unit=1.0)
        low = torch.zeros(len(members), 1, dtype=members.dtype, device=members.device)
        high = members.sum(dim=1, keepdim=True) / max(l1, radius)
        for _ in range(80):
            middle = (low + high) / 2
            zero = norms((members - l1 * middle).clamp(min=0)) <= radius * middle
            low, high = torch.where(zero, low, middle), torch.where(zero, middle, high)
        return float(high.max())

    def steepness(self, size: Tensor) -> Tensor:
        """L1's and the group lasso's together."""
        l1, radius = self._parts(size)
        return l1 + radius * directions(size)

    def extra_repr(self) -> str:
        """Show the arguments as the constructor takes them."""
        return f"{super().extra_repr()}, l1_share={self.l1_share:.12g}"

    def _parts(self, members: Tensor, unit: float | None = None) -> tuple[float, float]:
        strength = self.strength if unit is None else unit
        radius = strength * (1 - self.l1_share) * self.root_size(members)
        return strength * self.l1_share, radius
