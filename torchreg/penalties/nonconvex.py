"""Concave penalties that start as L1 and flatten out: MCP, SCAD, log-sum."""

import math
from typing import final

import torch
from torch import Tensor

from torchreg.penalties.attributes import Above, Strength
from torchreg.penalties.base import largest
from torchreg.penalties.radial import Radial


@final
class MCP(Radial):
    """L1 whose slope falls to 0 (the minimax concave penalty): zeros without biased weights.

    ``strength * |w| - w^2 / (2 * concavity)`` up to ``|w| = concavity * strength``, constant
    beyond: larger weights are not shrunk at all, so there is nothing to debias. As the
    concavity grows it becomes L1. Where the step is at least the concavity, the proximal map
    is hard thresholding at ``strength * sqrt(concavity * step)``.

    Args:
        strength: the slope at zero, relative to the mean loss: L1's l1.
        concavity: the gamma of the literature, above 0, in the units of a step size
            (``w^2 / loss``). The literature asks for more than 1 because its step is 1; here
            every step has its global minimiser.

    Raises:
        ValueError: a negative, NaN or infinite strength; a concavity that is not above 0, or
            infinite (that is L1).
        TypeError: an argument that is no number.

    Example:
        >>> penalty = MCP(1.0, concavity=3.0)
        >>> penalty(torch.tensor([-9.0, 1.5, 0.0]))
        tensor(2.6250)
        >>> penalty.prox(torch.tensor([-9.0, 1.5, 0.9]), step=1.0)
        tensor([-9.0000,  0.7500,  0.0000])

    Source: C.-H. Zhang, "Nearly unbiased variable selection under minimax concave penalty"
    (2010).
    """

    formula = "sum(strength*|w| - w^2/(2*concavity)), constant from concavity*strength"
    strength = Strength()
    concavity = Above(0)

    def __init__(self, strength: float, concavity: float = 3.0) -> None:
        super().__init__()
        self.strength = strength
        self.concavity = concavity

    def rho(self, size: Tensor) -> Tensor:
        """``strength * r - r^2 / (2 * concavity)`` with r held to the knot."""
        r = size.clamp(max=self.concavity * self.strength)
        return r * (self.strength - r / (2 * self.concavity))

    def derivative(self, size: Tensor) -> Tensor:
        """``max(strength - size / concavity, 0)``."""
        return (self.strength - size / self.concavity).clamp(min=0)

    def shrink(self, size: Tensor, step: Tensor) -> Tensor:
        """Firm thresholding below ``step = concavity``, hard thresholding from there."""
        knot = self.concavity * self.strength
        moved = size - step * (knot - size) / (self.concavity - step)
        firm = torch.where(size > knot, size, moved.clamp(min=0))
        # The problem is concave up to the knot: its minimum is at 0, or where P is constant.
        jump = self.strength * math.sqrt(self.concavity) * step.sqrt()
        hard = torch.where(size <= jump, 0.0, size)
        return torch.where(step < self.concavity, firm, hard)

    def zeroing_factor(self, w: Tensor, step: Tensor) -> Tensor:
        """``|w| / (strength * min(step, sqrt(concavity * step)))``."""
        return w.abs() / (self.strength * step.minimum((self.concavity * step).sqrt()))

    def critical_strength(self, grad: Tensor) -> float:
        """``max|grad|``, as for L1; 0 for an empty tensor."""
        return largest(grad)

    def extra_repr(self) -> str:
        """Show the strength and the concavity as the constructor takes them."""
        return f"{self.strength:.12g}, concavity={self.concavity:.12g}"


@final
class SCAD(Radial):
    """L1 up to the strength, then a slope that falls to 0: zeros without biased weights.

    The smoothly clipped absolute deviation: slope ``strength`` up to ``|w| = strength``, falling
    linearly to 0 at ``concavity * strength``, constant beyond. As the concavity grows it becomes
    L1. The strength is also a size of weights, as the field defines it: for networks, whose
    strengths are far smaller than their weights, :class:`MCP` has a knot of its own.

    Args:
        strength: the slope at zero, relative to the mean loss: L1's l1.
        concavity: the a of the literature, above 1; 3.7 is what its authors advise. They ask for
            more than 2 because their step is 1; here every step has its global minimiser.

    Raises:
        ValueError: a negative, NaN or infinite strength; a concavity that is not above 1, or
            infinite (that is L1).
        TypeError: an argument that is no number.

    Example:
        >>> penalty = SCAD(1.0)
        >>> penalty.prox(torch.tensor([-9.0, 1.5, 0.9]), step=1.0)
        tensor([-9.0000,  0.5000,  0.0000])

    Source: J. Fan and R. Li, "Variable selection via nonconcave penalized likelihood and its
    oracle properties" (2001).
    """

    formula = "sum(scad(|w|)), slope strength to 0 at concavity*strength"
    strength = Strength()
    concavity = Above(1)

    def __init__(self, strength: float, concavity: float = 3.7) -> None:
        super().__init__()
        self.strength = strength
        self.concavity = concavity

    def rho(self, size: Tensor) -> Tensor:
        """The integral of the slope: linear, quadratic, constant."""
        straight = size.clamp(max=self.strength)
        bent = size.clamp(self.strength, self.concavity * self.strength) - self.strength
        return self.strength * (straight + bent) - bent.square() / (2 * (self.concavity - 1))

    def derivative(self, size: Tensor) -> Tensor:
        """``strength``, falling to 0 between strength and ``concavity * strength``."""
        falling = (self.concavity * self.strength - size) / (self.concavity - 1)
        return falling.clamp(0, self.strength)

    def shrink(self, size: Tensor, step: Tensor) -> Tensor:
        """Soft thresholding at first, the identity at last, and a line or a jump between."""
        first, last, span = self.strength, self.concavity * self.strength, self.concavity - 1
        soft = (size - step * first).clamp(min=0)
        line = size - step * (last - size) / (span - step)
        convex = torch.where(
            size <= first + step * first, soft, torch.where(size > last, size, line)
        )
        # Concave between the knots: soft thresholding, or where P is constant. The two cost the
        # same at the jump.
        jump = torch.where(
            step < self.concavity + 1,
            first * (self.concavity + 1 + step) / 2,
            first * math.sqrt(self.concavity + 1) * step.sqrt(),
        )
        return torch.where(step < span, convex, torch.where(size <= jump, soft, size))

    def zeroing_factor(self, w: Tensor, step: Tensor) -> Tensor:
        """``|w| / (strength * min(step, sqrt((concavity + 1) * step)))``."""
        return w.abs() / (self.strength * step.minimum(((self.concavity + 1) * step).sqrt()))

    def critical_strength(self, grad: Tensor) -> float:
        """``max|grad|``, as for L1; 0 for an empty tensor."""
        return largest(grad)

    def extra_repr(self) -> str:
        """Show the strength and the concavity as the constructor takes them."""
        return f"{self.strength:.12g}, concavity={self.concavity:.12g}"


@final
class LogSum(Radial):
    """``strength * width * sum(log(1 + |w| / width))``: the penalty behind reweighted L1.

    Its slope is the strength at zero and falls as ``1 / (1 + |w| / width)``: weights far larger
    than the width are hardly shrunk. As the width grows it becomes L1; minimised through its
    tangents it is :func:`torchreg.reweighted`.

    Args:
        strength: the slope at zero, relative to the mean loss: L1's l1. The literature's
            ``lambda * sum(log(|w| + eps))`` has lambda = strength * width and eps = width.
        width: the size of a weight from which it counts as large, above 0: somewhat below the
            nonzero weights that are expected.

    Raises:
        ValueError: a negative, NaN or infinite strength; a width that is not above 0 and finite.
        TypeError: an argument that is no number.

    Example:
        >>> penalty = LogSum(1.0, width=0.5)
        >>> penalty(torch.tensor([0.0]))
        tensor(0.)
        >>> penalty.prox(torch.tensor([-9.0, 1.5, 0.9]), step=0.5)
        tensor([-8.9736,  1.3660,  0.6899])

    Source: E. Candès, M. Wakin and S. Boyd, "Enhancing sparsity by reweighted l1 minimization"
    (2008).
    """

    formula = "strength*width*sum(log(1 + |w|/width))"
    strength = Strength()
    width = Above(0)

    def __init__(self, strength: float, width: float) -> None:
        super().__init__()
        self.strength = strength
        self.width = width

    def rho(self, size: Tensor) -> Tensor:
        """``strength * width * log(1 + size / width)``."""
        return self.strength * self.width * (size / self.width).log1p()

    def derivative(self, size: Tensor) -> Tensor:
        """``strength / (1 + size / width)``."""
        return self.strength / (1 + size / self.width)

    def shrink(self, size: Tensor, step: Tensor) -> Tensor:
        """The larger root of ``z^2 + (width - size) * z + width * (shift - size)``, or 0.

        ``shift = step * strength``. The two costs are compared where the problem is not convex.
        """
        width, shift = self.width, self.strength * step
        square = (size + width).square() - 4 * shift * width
        root = square.clamp(min=0).sqrt()
        # Each form where it does not cancel.
        outer = (size - width + root) / 2
        inner = 2 * width * (size - shift) / (width - size + root)
        z = torch.where(size >= width, outer, inner).clamp(min=0)
        # Once through its equation, so that rounding does not move what is hardly shrunk.
        z = torch.where(z > size / 2, size - shift / (1 + z / width), z)
        z = torch.where(shift == 0, size, z)
        gain = z * (z / 2 - size) + shift * width * (z / width).log1p()
        zero = torch.where(shift <= width, size <= shift, (square < 0) | (gain >= 0))
        return torch.where(zero, 0.0, z)

    def critical_strength(self, grad: Tensor) -> float:
        """``max|grad|``, as for L1; 0 for an empty tensor."""
        return largest(grad)

    def extra_repr(self) -> str:
        """Show the strength and the width as the constructor takes them."""
        return f"{self.strength:.12g}, width={self.width:.12g}"
