"""Proximal maps as pure tensor functions.

One convention for the whole library. With a step size D > 0, a float or one number per
coordinate (the optimizer's diagonal metric), the proximal map of a penalty P is

    prox(w, D) = argmin over z of  1/2 * sum((z - w)^2 / D) + P(z)

and L2 is written without a half: ``l2 * sum(z^2)``. Source: N. Parikh and S. Boyd,
"Proximal Algorithms" (2014), sections 2.1 and 6.5.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class ClosedForm(NamedTuple):
    """A proximal map as one elementwise formula of few numbers."""

    prox: Callable[..., Tensor]
    """``(w, step, *numbers) -> z``, pure; a number that is 0 may leave its part out."""

    slope: Callable[..., float | Tensor]
    """``(w, *numbers)``: the size of the penalty's gradient at a kept weight."""

    numbers: tuple[float, ...]
    """The strengths as they are now."""


def soft_threshold(w: Tensor, threshold: float | Tensor) -> Tensor:
    """Minimise ``1/2 * (z - w)^2 + threshold * |z|`` over z, coordinate by coordinate.

    Every ``|w| <= threshold`` becomes exactly 0.0; all others move towards zero by the
    threshold. A complex w keeps its phase and its modulus shrinks. NaN stays NaN.

    Args:
        w: any shape, real or complex.
        threshold: a non-negative float, or a tensor that broadcasts to w's shape.

    Returns:
        A new tensor shaped like w, in its precision.

    Example:
        >>> soft_threshold(torch.tensor([-3.0, 0.5, 1.5]), 1.0)
        tensor([-2.0000,  0.0000,  0.5000])
    """
    if w.is_complex():
        modulus = w.abs()
        shrunk = (modulus - threshold).clamp(min=0)
        kept = shrunk / modulus.clamp(min=torch.finfo(modulus.dtype).tiny)
        return (w * kept).to(w.dtype)
    # w less its projection on [-threshold, threshold]: inside, w - w is exactly 0.
    if isinstance(threshold, Tensor):
        return (w - torch.clamp(w, -threshold, threshold)).to(w.dtype)
    largest = min(threshold, torch.finfo(w.dtype).max)  # clamp takes no larger number
    return w - torch.clamp(w, -largest, largest)


def ridge(w: Tensor, step: float | Tensor, l2: float) -> Tensor:
    """Minimise ``1/2 * sum((z - w)^2 / step) + l2 * sum(z^2)`` over z: ``w / (1 + 2 step l2)``.

    Example:
        >>> ridge(torch.tensor([3.0]), step=1.0, l2=1.0)
        tensor([1.])
    """
    return (w / (1 + 2 * l2 * step)).to(w.dtype)


def elastic_net(w: Tensor, step: float | Tensor, l1: float, l2: float) -> Tensor:
    """Minimise ``1/2 * sum((z - w)^2 / step) + l1 * sum|z| + l2 * sum(z^2)`` over z.

    The closed form is ``soft_threshold(w, step * l1) / (1 + 2 * step * l2)``. A strength of
    zero leaves its factor out, so that an infinite step never meets ``inf * 0``.

    Example:
        >>> elastic_net(torch.tensor([-3.0, 0.5]), step=1.0, l1=1.0, l2=0.5)
        tensor([-1.,  0.])
    """
    z = soft_threshold(w, step * l1) if l1 > 0 else w.clone()
    return ridge(z, step, l2) if l2 > 0 else z


def slope(w: Tensor, l1: float, l2: float) -> float | Tensor:
    """The size of the elastic net's gradient at a kept weight: ``l1 + 2 * l2 * |w|``.

    Example:
        >>> slope(torch.tensor([-3.0, 0.0]), l1=1.0, l2=0.5)
        tensor([4., 1.])
    """
    return l1 + 2 * l2 * w.abs() if l2 > 0 else l1


def hard_threshold(w: Tensor, step: float | Tensor, l0: float) -> Tensor:
    """Minimise ``1/2 * (z - w)^2 / step + l0 * (z != 0)`` over z, coordinate by coordinate.

    Every ``|w| <= sqrt(2 * step * l0)`` becomes exactly 0.0; all others stay. NaN stays NaN.

    Example:
        >>> hard_threshold(torch.tensor([-3.0, 0.5, 1.5]), step=1.0, l0=0.5)
        tensor([-3.0000,  0.0000,  1.5000])
    """
    return w.masked_fill(_within(w, step, l0), 0.0)


def hard_threshold_(w: Tensor, step: float | Tensor, l0: float) -> Tensor:
    """:func:`hard_threshold` in place: the same numbers.

    Example:
        >>> hard_threshold_(torch.tensor([-3.0, 0.5, 1.5]), step=1.0, l0=0.5)
        tensor([-3.0000,  0.0000,  1.5000])
    """
    return w.masked_fill_(_within(w, step, l0), 0.0)


def _within(w: Tensor, step: float | Tensor, l0: float) -> Tensor:
    bound = 2 * l0 * step
    return w.abs() <= (bound.sqrt() if isinstance(bound, Tensor) else bound**0.5)


def no_slope(w: Tensor, l0: float) -> float:  # noqa: ARG001  (whatever they are)
    """The slope of l0 at a kept weight: 0."""
    return 0.0


def soft_threshold_(w: Tensor, threshold: float | Tensor) -> Tensor:
    """:func:`soft_threshold` in place: the same numbers, rounded to w's type.

    Without a temporary for a float, unless w is complex or in half precision.

    Example:
        >>> soft_threshold_(torch.tensor([-3.0, -0.5, 1.5]), 1.0)
        tensor([-2.0000,  0.0000,  0.5000])
    """
    # softshrink takes the threshold in float32 beside a shorter type, clamp in that type.
    if w.is_complex() or w.dtype in (torch.float16, torch.bfloat16):
        return w.copy_(soft_threshold(w, threshold))
    if isinstance(threshold, Tensor):
        return w.sub_(torch.clamp(w, -threshold, threshold))
    largest = min(threshold, torch.finfo(w.dtype).max)
    torch.ops.aten.softshrink.out(w, largest, out=w)
    return w.add_(0.0)  # softshrink leaves -0.0 for negative weights


def elastic_net_(w: Tensor, step: float | Tensor, l1: float, l2: float) -> Tensor:
    """:func:`elastic_net` in place: the same numbers, without a temporary for a float.

    Example:
        >>> elastic_net_(torch.tensor([-3.0, 0.5]), step=1.0, l1=1.0, l2=0.5)
        tensor([-1.,  0.])
    """
    if l1 > 0:
        soft_threshold_(w, step * l1)
    return w.div_(1 + 2 * l2 * step) if l2 > 0 else w
