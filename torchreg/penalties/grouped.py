"""What penalties over groups of weights have in common: coverage, shapes, norms."""

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from torchreg.blocks import BLOCK
from torchreg.groups import Grouping, as_grouping, check_cover, name_of, split
from torchreg.penalties.base import Penalty, accumulation_dtype, check_step
from torchreg.penalties.radial import as_tensor


class Grouped(Penalty):
    """A sum over the groups of a weight; the groups of one tensor have one size.

    Args:
        groups: a function from the weight to (groups, members), see :mod:`torchreg.groups`.
        by_size: whether the size of a group enters, as the root of its members or as stated.
    """

    whole: ClassVar[bool]
    """Whether the proximal map zeroes whole groups, and no weight of a group that it keeps."""

    formula_by_size: str
    """The formula where the size of a group enters, of penalties that have that choice."""

    def __init__(self, groups: Grouping, *, by_size: bool = False) -> None:
        super().__init__()
        self.groups = as_grouping(groups)
        self.by_size = bool(by_size)
        if self.by_size:
            self.formula = self.formula_by_size
        self._covered: set[torch.Size] = set()

    @property
    def idle(self) -> bool:
        """At strength 0."""
        return self.strength == 0

    def check_shape(self, shape: torch.Size) -> None:
        """Raise unless the groups take each element once. Looked at once for a shape."""
        if shape not in self._covered:
            check_cover(self.groups, shape)
            self._covered.add(shape)

    def members(self, w: Tensor) -> Tensor:
        """See w as (groups, members), each element once."""
        self.check_shape(w.shape)
        return self.groups(w)

    def root_size(self, members: Tensor) -> float:
        """``sqrt(members)`` where the size of a group enters, else 1."""
        return float(members.shape[1] ** 0.5) if self.by_size else 1.0

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        """The minimiser, group by group, for a scalar step and for one per coordinate."""
        check_step(w, step)
        if self.idle:
            return w.clone()
        self.check_shape(w.shape)
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

    def zeroing_factor(self, w: Tensor, step: Tensor) -> Tensor | None:
        """One number for all members of a group, shaped like w."""
        members, back = split(self.groups, w)
        found = self.zeroing(members, self.groups(step) if step.dim() > 0 else step)
        return None if found is None else back(found.expand(members.shape).to(members.dtype)).abs()

    def zeroing(self, members: Tensor, step: Tensor) -> Tensor | None:  # noqa: ARG002
        """:meth:`zeroing_factor` of each group, (groups, 1); None where there is no closed form."""
        return None

    def keeps(self, w: Tensor, step: float | Tensor) -> Tensor:
        """What is nonzero after :meth:`prox`; of whole groups, all of it."""
        found = super().keeps(w, step)
        if not self.whole:
            return found
        members, back = split(self.groups, found.float())
        kept = members.any(dim=1, keepdim=True).to(members.dtype)
        return back(kept.expand(members.shape)) != 0

    def distance(self, w: Tensor, grad: Tensor) -> Tensor:
        """The size of each coordinate of the vector from ``-grad`` to the subdifferential.

        So the norm over a group is the group's distance, as a zero group may allow any gradient
        whose *norm* is small enough.
        """
        self.check_shape(w.shape)
        members, back = split(self.groups, w)
        return back(self.residual(members, self.groups(grad)).to(members.dtype)).abs()

    @abstractmethod
    def residual(self, members: Tensor, grad: Tensor) -> Tensor:
        """The vector from ``-grad`` to the nearest point of the subdifferential, by members."""

    def slope(self, w: Tensor) -> Tensor | float:
        """The size of P's gradient at each member, which is its part of the group's.

        At a stationary point a kept member's loss gradient has this size, near zero for a member
        near zero. What has no gradient history is held, be it a whole group or one member of a
        group that has one. It is read after the optimizer's move: a stationary member nearer to
        zero than a ninth of that move may be held there, by as much, until the lr decays.
        """
        self.check_shape(w.shape)
        size, back = split(self.groups, w.abs())
        return back(self.steepness(size).to(size.dtype))

    @abstractmethod
    def steepness(self, size: Tensor) -> Tensor:
        """The size of P's gradient at members of these sizes, shaped like them."""

    def extra_repr(self) -> str:
        """Show the arguments as the constructor takes them."""
        shown = f"{self.strength:.12g}, groups={name_of(self.groups)}"
        sized = self.by_size or not hasattr(self, "formula_by_size")
        return shown if sized else f"{shown}, by_size=False"


def norms(members: Tensor) -> Tensor:
    """The norm of each group, (groups, 1), with the gradient 0 at 0; low precision in float32."""
    # A sum adds pairwise, which torch's own norm does not: large groups would lose digits.
    square = members.to(accumulation_dtype(members)).abs().square().sum(dim=1, keepdim=True)
    zero = square == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, square).sqrt())


def directions(members: Tensor) -> Tensor:
    """``w / norm(w)`` of each group; 0 for a zero group."""
    norm = norms(members)
    return members / norm.clamp(min=_smallest(norm))


def from_ball(members: Tensor, grad: Tensor, radius: float | Tensor) -> Tensor:
    """From -grad to {radius * w / norm(w)} at kept groups, to the ball of that radius at zeros."""
    length = norms(grad)
    zeroed = grad * (1 - radius / length.clamp(min=_smallest(length))).clamp(min=0)
    return torch.where(norms(members) == 0, zeroed, grad + radius * directions(members))


def _smallest(like: Tensor) -> float:
    """The smallest number to divide by."""
    return torch.finfo(like.dtype).tiny
