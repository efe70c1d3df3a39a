"""A concave penalty of group norms: group MCP."""

import math
from typing import final

import torch
from torch import Tensor, nn

from torchreg.groups import Grouping
from torchreg.penalties.attributes import Above, Strength
from torchreg.penalties.grouped import Grouped, directions, from_ball, norms
from torchreg.penalties.newton import shrink_groups
from torchreg.penalties.nonconvex import MCP

SCAN = 32
"""Points at which a group with steps on both sides of the concavity is tried. Of 190,000 random
groups with steps over five decades none ended in another minimum than with 512."""


@final
class GroupMCP(Grouped):
    """MCP of group norms: zero groups, and kept groups that are not shrunk at all.

    ``sum over groups of mcp(norm(w_g))`` with the strength times ``sqrt(members)``; constant
    from ``norm = concavity * strength * sqrt(members)``. As the concavity grows it becomes the
    group lasso.

    Its proximal map has a closed form for one step, Newton's method where all steps of a group
    are below the concavity, and two candidates where none is. A group whose steps lie on both
    sides may have several local minima: a scan of 32 points finds them, bisection follows the
    deepest two. On the CPU that is done for those groups alone.

    Args:
        strength: the slope at zero, relative to the mean loss.
        groups: a function from the weight to (groups, members), see :mod:`torchreg.groups`.
        concavity: the gamma of the literature, above 0, in the units of a step size.
        by_size: multiply the strength by the root of the group's size.

    Raises:
        ValueError: a negative, NaN or infinite strength; a concavity that is not above 0 and
            finite; from the methods, groups that do not take each element exactly once.
        TypeError: an argument that is no number, groups that cannot be called.

    Example:
        >>> from torchreg.groups import rows
        >>> penalty = GroupMCP(1.0, groups=rows, concavity=3.0, by_size=False)
        >>> penalty.prox(torch.tensor([[3.0, 4.0], [0.9, 1.2], [0.3, 0.4]]), step=1.0)
        tensor([[3.0000, 4.0000],
                [0.4500, 0.6000],
                [0.0000, 0.0000]])

    Source: J. Huang, P. Breheny and S. Ma, "A selective review of group selection in
    high-dimensional models" (2012), the group MCP of section 3.
    """

    whole = True
    formula = "sum(mcp(strength; norm(group)))"
    formula_by_size = "sum(mcp(sqrt(size)*strength; norm(group)))"
    strength = Strength()
    concavity = Above(0)

    def __init__(
        self, strength: float, groups: Grouping, *, concavity: float = 3.0, by_size: bool = True
    ) -> None:
        super().__init__(groups, by_size=by_size)
        self.strength = strength
        self.concavity = concavity

    def value(self, w: Tensor) -> Tensor:
        """The sum of MCP over group norms. The gradient at a zero group is 0."""
        members = self.members(w)
        return self._single(members).rho(norms(members)).sum()

    def shrink(self, members: Tensor, step: Tensor) -> Tensor:
        """The best of the local minima: zero, the group as it is, one between."""
        if members.numel() == 0:
            return members.clone()
        if step.dim() == 0:
            norm = norms(members)
            shrunk = self._single(members).shrink(norm, step)
            z = torch.where(shrunk == norm, members, members * (shrunk / norm))
            return torch.where(shrunk == 0, 0.0, z)
        small, large = (found(dim=1, keepdim=True) for found in (step.amax, step.amin))
        convex, mixed = small < self.concavity, (small >= self.concavity) & (large < self.concavity)
        z = torch.where(convex, self._convex(members, step), self._concave(members, step))
        if members.device.type != "cpu":
            return torch.where(mixed, self._scanned(members, step), z)
        chosen = mixed.squeeze(1).nonzero().squeeze(1)
        if len(chosen):
            z[chosen] = self._scanned(members[chosen], step[chosen]).to(z.dtype)
        return z

    def residual(self, members: Tensor, grad: Tensor) -> Tensor:
        """To {slope * w / norm(w)} at kept groups, to the ball of the strength at zero ones."""
        return from_ball(members, grad, self._single(members).derivative(norms(members)))

    def steepness(self, size: Tensor) -> Tensor:
        """``mcp'(norm) * |w| / norm(w)``; where a kept group costs nothing more, mcp' at zero."""
        return self._single(size).slope(norms(size)) * directions(size)

    def critical_strength(self, grad: Tensor) -> float:
        """The largest norm of a group of the gradient, over the root of its size."""
        members = self.members(grad)
        return float(norms(members).max()) / self.root_size(members) if members.numel() else 0.0

    def extra_repr(self) -> str:
        """Show the arguments as the constructor takes them."""
        return f"{super().extra_repr()}, concavity={self.concavity:.12g}"

    def _single(self, members: Tensor) -> MCP:
        return MCP(self.strength * self.root_size(members), self.concavity)

    def _convex(self, w: Tensor, step: Tensor) -> Tensor:
        """All steps below the concavity: a group lasso with P's curvature taken into the metric."""
        single = self._single(w)
        stretch = 1 / (1 - step / self.concavity).clamp(min=torch.finfo(step.dtype).tiny)
        z = shrink_groups(w * stretch, single.strength * step * stretch)
        return torch.where(norms(w) > single.concavity * single.strength, w, z)

    def _concave(self, w: Tensor, step: Tensor) -> Tensor:
        """No step below it: the minimum is at 0, or where P is constant, at w itself."""
        single = self._single(w)
        lost = (w.abs().square() / (2 * step)).nan_to_num(nan=0.0, posinf=torch.inf)
        flat = single.concavity * single.strength
        kept = (lost.sum(dim=1, keepdim=True) > flat * single.strength / 2) & (norms(w) > flat)
        return torch.where(kept | w.isnan(), w, 0.0)

    def _scanned(self, w: Tensor, step: Tensor) -> Tensor:
        """Minimise over the multiplier v of ``z = w / (1 + v * step)``, from w itself to 0.

        Every local minimum has that form. At one, v is rho' over the norm of z. The quadratic part
        of the cost is ``v^2 / 2 * sum(step * z^2)``.
        """
        single, finfo = self._single(w), torch.finfo(step.dtype)
        finite = step.clamp(max=finfo.max**0.25)
        square = w.abs().square()
        weighted = square * finite
        low, high = (bound.log() for bound in self._multipliers(w, step))

        def shrinkage(where: Tensor) -> tuple[Tensor, Tensor]:
            """The multiplier at a place from 0 to 1, and (z / w)^2."""
            v = (low + where * (high - low)).exp()
            return v, (v * finite).add_(1).reciprocal_().square_()

        def cost(where: Tensor) -> Tensor:
            v, factor = shrinkage(where)
            norm = (square * factor).sum(dim=1, keepdim=True).sqrt()
            return v.square() / 2 * factor.mul_(weighted).sum(1, True) + single.rho(norm)

        def falling(where: Tensor) -> Tensor:
            """Whether the cost falls further on: the multiplier is still below rho' / norm."""
            v, factor = shrinkage(where)
            norm = factor.mul_(square).sum(dim=1, keepdim=True).sqrt()
            return v * norm < single.derivative(norm)

        places = [torch.full_like(low, k / (SCAN - 1)) for k in range(SCAN)]
        costs = torch.cat([cost(place) for place in places], dim=1)
        beside = nn.functional.pad(costs, (1, 1), value=torch.inf)
        valleys = costs.where((costs <= beside[:, :-2]) & (costs <= beside[:, 2:]), torch.inf)
        nearly_w = math.log(finfo.eps) / (high - low)  # before the first place: v falls to 0
        best, least = w, torch.full_like(low, torch.inf)
        # Two valleys may be as deep to the eye: the deepest two are followed to their ground.
        for chosen in valleys.topk(2, dim=1, largest=False).indices.split(1, dim=1):
            place = chosen.to(low.dtype) / (SCAN - 1)
            forward = falling(place)
            a = torch.where(place == 0, nearly_w, place - 1 / (SCAN - 1))
            a = torch.where(forward, place, a)
            b = torch.where(forward, (place + 1 / (SCAN - 1)).clamp(max=1), place)
            for _ in range(round(-math.log2(finfo.eps))):  # to the last digit
                middle = (a + b) / 2
                further = falling(middle)
                a, b = torch.where(further, middle, a), torch.where(further, b, middle)
            found = cost(b)
            best = torch.where(found < least, w / (1 + shrinkage(b)[0] * step), best)
            least = torch.minimum(least, found)
        flat = single.rho(norms(w))
        lost = torch.where(square == 0, 0.0, square / (2 * step)).sum(dim=1, keepdim=True)
        best = torch.where(flat <= least, w, best)
        return torch.where(lost <= torch.minimum(flat, least), 0.0, best)

    def _multipliers(self, w: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """Between which two multipliers the local minima of :meth:`_scanned` lie, (groups, 1) each.

        Steps of any spread would leave the points too far apart without. At a minimum the norm n
        of z is below the knot, and ``v * n = rho'(n)``, which is below the strength and at least
        ``strength - norm(w) / concavity``; n is at least the size of any member of z.
        """
        single, size, finfo = self._single(w), w.abs(), torch.finfo(step.dtype)
        price, knot = single.strength, single.concavity * single.strength
        norm = norms(size)
        # An infinite step leaves its member at 0 for every multiplier, a step of 0 at w.
        moving = torch.where((step > 0) & (step < torch.inf), step, 0.0).clamp(max=finfo.max**0.25)
        top = moving.amax(dim=1, keepdim=True)
        top = torch.where(top == 0, single.concavity, top)
        least = torch.where(moving == 0, top, moving).amin(dim=1, keepdim=True)
        low = torch.stack([
            0.01 / top,  # before that nothing moves
            price / norm - 1 / single.concavity,
            ((size / knot - 1) / step).nan_to_num(nan=0.0).amax(dim=1, keepdim=True),
        ]).amax(dim=0)  # fmt: skip
        beyond = size > price * step
        high = torch.where(beyond, price / (size - price * step), torch.inf)
        # Beyond that all of z is next to 0, unless a step of 0 holds a member where it is.
        pinned = ((step == 0) & (size > 0)).any(dim=1, keepdim=True)
        gone = torch.where(pinned, torch.inf, 100 / least)
        high = high.amin(dim=1, keepdim=True).minimum(gone).clamp(max=finfo.max**0.5 / 4)
        low = low.minimum(high) / 2
        return low, high.maximum(low) * 2
