"""Penalties that count inside or over groups: group l0, and at most N of M weights."""

from typing import final

import torch
from torch import Tensor

from torchreg.groups import Grouping, name_of
from torchreg.groups.dealing import positive
from torchreg.penalties.attributes import Strength
from torchreg.penalties.base import largest
from torchreg.penalties.grouped import Grouped, norms


@final
class GroupL0(Grouped):
    """``strength * sum over nonzero groups of members``: how many weights the kept groups have.

    Group hard thresholding: a group is kept as it is, or zeroed where
    ``sum(w^2 / (2 * step))``, the loss that the quadratic model expects from losing it, is at
    most its price. Exact in every metric. Every zero group is stationary: raise the strength
    during training. In a loss it has the gradient 0.

    Args:
        strength: the price of one weight of a nonzero group, in units of the mean loss; of one
            nonzero group with ``by_size=False``.
        groups: a function from the weight to (groups, members), see :mod:`torchreg.groups`.
        by_size: charge each group for its members.

    Raises:
        ValueError: a negative, NaN or infinite strength; from the methods, groups that do not
            take each element of a weight exactly once.
        TypeError: a strength that is no number, groups that cannot be called.

    Example:
        >>> import torch
        >>> from torchreg.groups import rows
        >>> penalty = GroupL0(0.5, groups=rows)
        >>> w = torch.tensor([[3.0, 0.1], [0.9, 0.9]])
        >>> penalty(w)
        tensor(2.)
        >>> penalty.prox(w, step=1.0)
        tensor([[3.0000, 0.1000],
                [0.0000, 0.0000]])

    Source: T. Blumensath and M. Davies, "Sampling theorems for signals from the union of
    finite-dimensional linear subspaces" (2009).
    """

    whole = True
    formula = "strength*count(nonzero groups)"
    formula_by_size = "strength*sum(size of nonzero groups)"
    strength = Strength()

    def __init__(self, strength: float, groups: Grouping, *, by_size: bool = True) -> None:
        super().__init__(groups, by_size=by_size)
        self.strength = strength

    def value(self, w: Tensor) -> Tensor:
        """The price of the nonzero groups, with the gradient 0."""
        members = self.members(w)
        norm = norms(members)
        return self.strength * self._price(members) * (norm.clamp(max=0) + (norm != 0)).sum()

    def shrink(self, members: Tensor, step: Tensor) -> Tensor:
        """The group where it is worth more than its price, else 0."""
        price = self.strength * self._price(members)
        return torch.where(_worth(members, step) <= price, 0.0, members)

    def zeroing(self, members: Tensor, step: Tensor) -> Tensor:
        """``sum(w^2 / (2 * step))`` of the group, over its price."""
        return _worth(members, step) / (self.strength * self._price(members))

    def residual(self, members: Tensor, grad: Tensor) -> Tensor:
        """``grad`` at kept groups; 0 at zero ones, where every gradient is allowed."""
        free = (norms(members) != 0) | (self.strength == 0)
        return torch.where(free, grad, 0.0)

    def critical_strength(self, grad: Tensor) -> float:  # noqa: ARG002  (whatever the gradient)
        """0: at any strength above it every zero group is stationary."""
        return 0.0

    def steepness(self, size: Tensor) -> Tensor:
        """0: a kept group is free."""
        return torch.zeros_like(size)

    def _price(self, members: Tensor) -> float:
        return float(members.shape[1]) if self.by_size else 1.0


def _worth(members: Tensor, step: Tensor) -> Tensor:
    """What the quadratic model expects to lose with each group, (groups, 1)."""
    size = members.abs()
    return torch.where(size == 0, 0.0, size.square() / (2 * step)).sum(dim=1, keepdim=True)


@final
class AtMost(Grouped):
    """0 where each group has at most so many nonzero weights, infinite elsewhere: N:M patterns.

    ``AtMost(2, groups=adjacent(4))`` is the 2:4 pattern that sparse tensor cores multiply. Its
    proximal map is the projection: of each group the weights with the largest ``w^2 / step``
    stay as they are, the others become 0; exact in every diagonal metric. Under Adam that ranks
    weights by ``w^2 * sqrt(v)``. It holds from the first step on and has no strength to raise:
    begin from a trained model. A weight that is zero can return: it is ranked again after each
    move. For a fixed pattern from some point on: :func:`torchreg.fix_support`.

    Args:
        count: how many weights of a group may be nonzero, at least 1.
        groups: a function from the weight to (groups, members), see :mod:`torchreg.groups`.

    Raises:
        ValueError: a count that is no whole number of at least 1; from the methods, groups that
            do not take each element of a weight exactly once.
        TypeError: groups that cannot be called.

    Example:
        >>> import torch
        >>> from torchreg.groups import adjacent
        >>> penalty = AtMost(2, groups=adjacent(4))
        >>> penalty.prox(torch.tensor([[3.0, -1.0, 2.0, 0.5]]), step=0.1)
        tensor([[3., 0., 2., 0.]])

    Source: A. Zhou et al., "Learning N:M fine-grained structured sparse neural networks from
    scratch" (2021) for the pattern; A. Beck and Y. Eldar, "Sparsity constrained nonlinear
    optimization" (2013) for its stationary points, there "basic feasible" ones.
    """

    whole = False

    def __init__(self, count: int, groups: Grouping) -> None:
        super().__init__(groups)
        self.count = positive("count", count)
        self.formula = f"0 with at most {self.count} nonzero in a group, else inf"

    @property
    def strength(self) -> float:
        """1: an indicator has no scale, so a residual relative to it is the absolute one."""
        return 1.0

    def value(self, w: Tensor) -> Tensor:
        """0, or infinity where a group has more nonzero weights than it may. Its gradient is 0."""
        nonzero = (self.members(w.detach()) != 0).sum(dim=1)
        return torch.where((nonzero > self.count).any(), torch.inf, 0.0).to(w.abs().dtype)

    def shrink(self, members: Tensor, step: Tensor) -> Tensor:
        """The weights of the largest ``|w| / sqrt(step)``, also where a step is 0 or infinite."""
        finfo, score = torch.finfo(step.dtype), members.abs()
        if step.dim() > 0 and step.numel():
            # Relative to the largest finite one: a step that all members share ranks nothing.
            top = torch.where(step == torch.inf, 0.0, step).amax(dim=1, keepdim=True)
            relative = step / torch.where(top == 0, 1.0, top)
            score = score / relative.clamp(finfo.tiny, finfo.max).sqrt()
        # Stable, so that every process that holds the same weights keeps the same ones.
        first = score.argsort(dim=1, descending=True, stable=True)[:, : self.count]
        return torch.where(torch.zeros_like(score).bool().scatter(1, first, True), members, 0.0)

    def residual(self, members: Tensor, grad: Tensor) -> Tensor:
        """``grad`` where a weight may be moved, 0 at the zeros of a full group.

        In a group with zeros to spare every weight may be moved, each zero included: it is
        stationary only where the whole gradient vanishes. No gradient balances a group that has
        too many nonzero weights: there it is infinite.
        """
        nonzero = members != 0
        used = nonzero.sum(dim=1, keepdim=True)
        free = torch.where(nonzero | (used < self.count), grad, 0.0)
        return torch.where(nonzero & (used > self.count), torch.inf, free)

    def critical_strength(self, grad: Tensor) -> float:
        """0 where the gradient vanishes, else infinite: the first weights of a group are free."""
        return float("inf") if largest(self.members(grad)) > 0 else 0.0

    def steepness(self, size: Tensor) -> Tensor:
        """0: the kept weights are free."""
        return torch.zeros_like(size)

    def extra_repr(self) -> str:
        """Show the arguments as the constructor takes them."""
        return f"{self.count}, groups={name_of(self.groups)}"
