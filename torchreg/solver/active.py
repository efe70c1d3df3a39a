"""A small quadratic with an L1 term, solved exactly by changing its set of nonzeros."""

import torch
from torch import Tensor

from torchreg.solver.factor import Factor


def active_set(
    h: Tensor,
    q: Tensor,
    l1: Tensor,
    start: Tensor,
    *,
    tolerance: float,
    eps: float,
    most: int = 200,
) -> Tensor:
    """Minimise ``1/2 b'Hb - q'b + sum(l1 |b|)`` over b.

    Each round solves the linear system of the nonzeros with their signs, together with the zeros
    that want to move. A solution that keeps its signs is taken; otherwise the better of two: the
    solution with every wrong sign set to zero, and the lowest point on the way to it that
    changes no sign. The value falls in every round, so no set comes twice.

    Args:
        h: positive semidefinite, (n, n).
        q: (n,).
        l1: the strength of each coordinate, (n,); 0 leaves it free.
        start: a first guess, (n,).
        tolerance: the distance from stationarity that is near enough.
        eps: the relative rounding with which H was computed: smaller pivots are noise.
        most: rounds at most. The caller certifies the result in any case.

    Source: H. Lee et al., "Efficient sparse coding algorithms" (2006), feature-sign search; the
    jump to several zeros at once follows M. Hintermueller, K. Ito and K. Kunisch (2002).
    """
    b, factor = start.clone(), Factor(h, eps)
    free = l1 == 0
    slope = h @ b - q
    refined = False
    for _ in range(most):
        on = (b != 0) | free
        excess = slope.abs() - l1
        waiting = (~on & (excess > tolerance)).nonzero().squeeze(1)
        signs = torch.sign(b)
        off = torch.where(on, (slope + l1 * signs).abs(), 0.0)
        settled = not len(off) or float(off.max()) <= tolerance
        if settled and not len(waiting):
            break
        room = max(10, int(on.sum()))
        if len(waiting) > room:
            waiting = waiting[excess[waiting].topk(room).indices]
        signs[waiting] = -torch.sign(slope[waiting])
        now = _value(b, slope, q, l1)

        chosen = on.clone()
        chosen[waiting] = True
        found = factor.solve(q - l1 * signs, chosen, b)
        wrong = ~free & (found * signs < 0) | (~free & ~chosen)
        jump = torch.where(wrong, 0.0, found)
        jump_slope = h @ jump - q
        exact = not bool((wrong & chosen).any())
        if exact and bool((torch.sign(jump) == torch.sign(b)).all()) and refined:
            break  # the same signs solved twice: the rest is rounding
        if exact or float(_value(jump, jump_slope, q, l1)) < float(now):
            refined = exact
            b, slope = jump, jump_slope
            continue

        # The careful way: the nonzeros alone, or one new coordinate once they are settled.
        chosen = on.clone()
        if settled:
            chosen[waiting[excess[waiting].argmax()]] = True
        found = factor.solve(q - l1 * signs, chosen, b)
        refined = False
        b = _along(b, found - b, slope, h, l1, free)
        slope = h @ b - q
    return b


def _value(b: Tensor, slope: Tensor, q: Tensor, l1: Tensor) -> Tensor:
    return (b @ (slope - q)) / 2 + (l1 * b.abs()).sum()


def _along(b: Tensor, d: Tensor, slope: Tensor, h: Tensor, l1: Tensor, free: Tensor) -> Tensor:
    """The lowest of the points between b and b + d where a sign changes, and of b + d."""
    crossing = ~free & (b * (b + d) < 0)
    times = torch.cat([-b[crossing] / d[crossing], b.new_ones(1)])
    points = b + times.unsqueeze(1) * d
    value = times * (slope @ d) + times.square() / 2 * (d @ (h @ d)) + points.abs() @ l1
    best = int(value.argmin())
    point = points[best]
    if best < len(times) - 1:
        point[crossing.nonzero().squeeze(1)[best]] = 0.0
    return point
