"""Penalties whose zeros are whole groups: group lasso and sparse group lasso."""

from abc import abstractmethod
from typing import final

import torch
from torch import Tensor

from torchreg.blocks import BLOCK
from torchreg.groups import Grouping, as_grouping, check_cover, name_of, split
from torchreg.penalties.base import Penalty, Strength, accumulation_dtype, as_strength, check_step
from torchreg.penalties.newton import shrink_groups
from torchreg.penalties.radial import as_tensor
from torchreg.prox import soft_threshold


class Grouped(Penalty):
    """A sum over the groups of a weight; the groups of one tensor have one size."""

    strength = Strength()

    def __init__(self, strength: float, groups: Grouping, by_size: bool) -> None:
        super().__init__()
        self.strength = strength
        self.groups = as_grouping(groups)
        self.by_size = bool(by_size)
        self._covered: set[torch.Size] = set()

    def cover(self, w: Tensor) -> None:
        """Raise unless the groups take each element of w once. Looked at once for a shape."""
        if w.shape not in self._covered:
            check_cover(self.groups, w.shape)
            self._covered.add(w.shape)

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        """The minimiser, group by group, for a scalar step and for one per coordinate."""
        check_step(w, step)
        if self.strength == 0:
            return w.clone()
        self.cover(w)
        members, back = split(self.groups, w)
        metric = as_tensor(step, w.real if w.is_complex() else w)
        if metric.dim() > 0:
            metric = self.groups(metric)
        # Some groups at a time, so that what each pass over them reads is in the cache.
        count = max(1, BLOCK * torch.get_num_threads() // max(1, members.shape[1]))
        if w.device.type != "cpu" or len(members) <= count:
            return back(self.shrink(members, metric))
        parts = members.split(count)
        metrics = metric.split(count) if metric.dim() > 0 else [metric] * len(parts)
        return back(torch.cat([self.shrink(*one) for one in zip(parts, metrics, strict=True)]))

    @abstractmethod
    def shrink(self, members: Tensor, step: Tensor) -> Tensor:
        """The proximal map of (groups, members), the step 0-d or alike; the strength is not 0."""

    def distance(self, w: Tensor, grad: Tensor) -> Tensor:
        """The size of each coordinate of the vector from ``-grad`` to the subdifferential.

        So the norm over a group is the group's distance, as a zero group allows any gradient
        whose *norm* is small enough.
        """
        self.cover(w)
        members, back = split(self.groups, w)
        return back(self.residual(members, self.groups(grad)).to(members.dtype)).abs()

    @abstractmethod
    def residual(self, members: Tensor, grad: Tensor) -> Tensor:
        """The vector from ``-grad`` to the nearest point of the subdifferential, by members."""

    def slope(self, w: Tensor) -> float:  # noqa: ARG002  (at every weight)
        """0: of a kept group only the norm of the gradient is known, not that of a member."""
        return 0.0

    def extra_repr(self) -> str:
        """Show the arguments as the constructor takes them."""
        shown = f"{self.strength:.12g}, groups={name_of(self.groups)}"
        return shown if self.by_size else f"{shown}, by_size=False"


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

    formula = "strength*sum(sqrt(size)*norm(group))"

    def __init__(self, strength: float, groups: Grouping, *, by_size: bool = True) -> None:
        super().__init__(strength, groups, by_size)
        if not self.by_size:
            self.formula = "strength*sum(norm(group))"

    def value(self, w: Tensor) -> Tensor:
        """The sum of group norms. The gradient at a zero group is 0."""
        self.cover(w)
        members = self.groups(w)
        return self.strength * self._factor(members) * norms(members).sum()

    def shrink(self, members: Tensor, step: Tensor) -> Tensor:
        """:func:`torchreg.penalties.newton.shrink_groups`."""
        return shrink_groups(members, self.strength * self._factor(members) * step)

    def residual(self, members: Tensor, grad: Tensor) -> Tensor:
        """To {strength * w / norm(w)} at kept groups, to the ball of that radius at zero ones."""
        return from_ball(members, grad, self.strength * self._factor(members))

    def critical_strength(self, grad: Tensor) -> float:
        """The largest norm of a group of the gradient, over the root of its size."""
        self.cover(grad)
        members = self.groups(grad)
        return float(norms(members).max()) / self._factor(members) if members.numel() else 0.0

    def _factor(self, members: Tensor) -> float:
        return float(members.shape[1] ** 0.5) if self.by_size else 1.0


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

    formula = "strength*(l1_share*sum|w| + (1 - l1_share)*sum(sqrt(size)*norm(group)))"

    def __init__(
        self, strength: float, groups: Grouping, *, l1_share: float = 0.5, by_size: bool = True
    ) -> None:
        super().__init__(strength, groups, by_size)
        self.l1_share = as_strength("l1_share", l1_share)
        if self.l1_share > 1:
            raise ValueError(f"l1_share must be between 0 and 1, found {self.l1_share:.12g}.")
        if not self.by_size:
            self.formula = "strength*(l1_share*sum|w| + (1 - l1_share)*sum(norm(group)))"

    def value(self, w: Tensor) -> Tensor:
        """The sum of sizes and of group norms. The gradient at zero is 0."""
        self.cover(w)
        members = self.groups(w)
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
        norm = norms(members)
        smooth = grad + l1 * members.sgn() + radius * members / norm.clamp(min=smallest(norm))
        kept = torch.where(members == 0, soft_threshold(grad, l1), smooth)
        zeroed = from_ball(members, soft_threshold(grad, l1), radius)
        return torch.where(norm == 0, zeroed, kept)

    def critical_strength(self, grad: Tensor) -> float:
        """The largest over groups of the root of ``norm(soft(grad, l1)) = radius``.

        Found by bisection: the left side falls and the right one rises with the strength.
        """
        self.cover(grad)
        members = self.groups(grad.detach()).abs().double()
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

    def extra_repr(self) -> str:
        """Show the arguments as the constructor takes them."""
        return f"{super().extra_repr()}, l1_share={self.l1_share:.12g}"

    def _parts(self, members: Tensor, unit: float | None = None) -> tuple[float, float]:
        strength = self.strength if unit is None else unit
        factor = float(members.shape[1] ** 0.5) if self.by_size else 1.0
        return strength * self.l1_share, strength * (1 - self.l1_share) * factor


def norms(members: Tensor) -> Tensor:
    """The norm of each group, (groups, 1), with the gradient 0 at 0; low precision in float32."""
    # A sum adds pairwise, which torch's own norm does not: large groups would lose digits.
    square = members.to(accumulation_dtype(members)).abs().square().sum(dim=1, keepdim=True)
    zero = square == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, square).sqrt())


def from_ball(members: Tensor, grad: Tensor, radius: float | Tensor) -> Tensor:
    """From -grad to {radius * w / norm(w)} at kept groups, to the ball of that radius at zeros."""
    norm, length = norms(members), norms(grad)
    kept = grad + radius * members / norm.clamp(min=smallest(norm))
    zeroed = grad * (1 - radius / length.clamp(min=smallest(length))).clamp(min=0)
    return torch.where(norm == 0, zeroed, kept)


def smallest(like: Tensor) -> float:
    """The smallest number to divide by."""
    return torch.finfo(like.dtype).tiny
