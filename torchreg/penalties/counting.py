"""Penalties that rise vertically at zero: l0, which counts weights, and l1/2."""

from typing import final

import torch
from torch import Tensor

from torchreg import prox
from torchreg.penalties.attributes import Strength
from torchreg.penalties.base import check_step
from torchreg.penalties.radial import Radial


@final
class L0(Radial):
    """``l0 * count(w != 0)``: what sparsity is about, without any shrinkage.

    Its proximal map keeps a weight as it is or zeroes it: hard thresholding, where
    ``w^2 / (2 * step)``, the loss that the quadratic model expects from losing the weight, is
    at most l0. Under Adam that ranks weights by ``w^2 * sqrt(v)``. Every zero is stationary, so
    the result depends on the way there: raise the strength during training. In a loss it has
    the gradient 0: use it in :class:`torchreg.ProximalOptimizer`.

    Args:
        l0: the price of one nonzero weight, in units of the mean loss.

    Raises:
        ValueError: a negative, NaN or infinite strength.
        TypeError: a strength that is no number.

    Example:
        >>> penalty = L0(0.5)
        >>> w = torch.tensor([-2.0, 0.1, 1.0, 1.1])
        >>> penalty(w)
        tensor(2.)
        >>> penalty.prox(w, step=1.0)
        tensor([-2.0000,  0.0000,  0.0000,  1.1000])

    Source: T. Blumensath and M. Davies, "Iterative thresholding for sparse approximations"
    (2008).
    """

    formula = "l0*count(w != 0)"
    l0 = Strength()

    def __init__(self, l0: float) -> None:
        super().__init__()
        self.l0 = l0

    @property
    def strength(self) -> float:
        """The l0."""
        return self.l0

    def rho(self, size: Tensor) -> Tensor:
        """l0 at every size but 0."""
        constant = size.clamp(max=0)  # 0, with the gradient 0
        return self.l0 * (constant + (size != 0))

    def derivative(self, size: Tensor) -> Tensor:
        """0; infinite at 0, unless the strength is 0."""
        return torch.where((size == 0) & (self.l0 > 0), torch.inf, torch.zeros_like(size))

    def shrink(self, size: Tensor, step: Tensor) -> Tensor:
        """``size`` where it is above ``sqrt(2 * step * l0)``, else 0."""
        return prox.hard_threshold(size, step, self.l0)

    @property
    def closed_form(self) -> prox.ClosedForm:
        """``w`` where it is above ``sqrt(2 * step * l0)`` in size, else 0."""
        return prox.ClosedForm(prox.hard_threshold, prox.no_slope, (self.l0,))

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        """``w`` where it is above ``sqrt(2 * step * l0)`` in size, else 0."""
        check_step(w, step)
        return w.clone() if self.idle else prox.hard_threshold(w, step, self.l0)

    def prox_(self, w: Tensor, step: float | Tensor) -> Tensor:
        """:meth:`prox` in place."""
        check_step(w, step)
        return w if self.idle else prox.hard_threshold_(w, step, self.l0)

    def critical_strength(self, grad: Tensor) -> float:  # noqa: ARG002  (whatever the gradient)
        """0: at any strength above it every zero is stationary."""
        return 0.0

    def zeroing_factor(self, w: Tensor, step: Tensor) -> Tensor:
        """``w^2 / (2 * l0 * step)``."""
        return w.abs().square() / (2 * self.l0 * step)

    def slope(self, w: Tensor) -> float:  # type: ignore[override]  # noqa: ARG002
        """0: a kept weight is free."""
        return 0.0

    def extra_repr(self) -> str:
        """Show the strength as the constructor takes it."""
        return f"l0={self.l0:.12g}"


@final
class LHalf(Radial):
    """``strength * sum(sqrt|w|)``: sparser than L1 at the same fit, large weights shrunk less.

    Between L1 and l0. Its proximal map, half thresholding, is exactly 0 up to
    ``1.5 * (strength * step)^(2/3)``, jumps from there, and shrinks a large weight by
    ``strength * step / (2 * sqrt|w|)``. Every zero is stationary, since the root rises
    vertically: begin from a model that is trained, or raise the strength during training.

    Args:
        strength: relative to the mean loss.

    Raises:
        ValueError: a negative, NaN or infinite strength.
        TypeError: a strength that is no number.

    Example:
        >>> penalty = LHalf(1.0)
        >>> penalty(torch.tensor([4.0, 0.0, 0.25]))
        tensor(2.5000)
        >>> penalty.prox(torch.tensor([4.25, 1.4]), step=1.0)  # 4.25 = 4 + 1 / (2 * sqrt(4))
        tensor([4., 0.])

    Source: Z. Xu, X. Chang, F. Xu and H. Zhang, "L1/2 regularization: a thresholding
    representation theory and a fast solver" (2012), equations 8 to 11 with lambda = 2 * step *
    strength.
    """

    formula = "strength*sum(sqrt|w|)"
    strength = Strength()

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = strength

    def rho(self, size: Tensor) -> Tensor:
        """``strength * sqrt(size)``."""
        above = torch.where(size == 0, 1.0, size)  # the root has no derivative at 0
        return self.strength * torch.where(size == 0, 0.0, above.sqrt())

    def derivative(self, size: Tensor) -> Tensor:
        """``strength / (2 * sqrt(size))``; infinite at 0, unless the strength is 0."""
        if self.strength == 0:
            return torch.zeros_like(size)
        return self.strength / (2 * size.sqrt())

    def shrink(self, size: Tensor, step: Tensor) -> Tensor:
        """``2/3 * size * (1 + cos(2/3 * acos(-shift/4 * (3/size)^1.5)))`` above the jump.

        That is the largest root of ``z + shift / (2 * sqrt(z)) = size``, shift = step * strength.
        """
        shift = self.strength * step
        angle = (-shift / 4 * (3 / size) ** 1.5).clamp(min=-1).acos()
        kept = 2 / 3 * size * (1 + (2 / 3 * angle).cos())
        # Once through that equation, so that rounding does not move what is hardly shrunk.
        kept = torch.where(shift == 0, size, size - shift / (2 * kept.sqrt()))
        return torch.where(size <= 1.5 * shift ** (2 / 3), 0.0, kept)

    def critical_strength(self, grad: Tensor) -> float:  # noqa: ARG002  (whatever the gradient)
        """0: at any strength above it every zero is stationary."""
        return 0.0

    def zeroing_factor(self, w: Tensor, step: Tensor) -> Tensor:
        """``(|w| / 1.5)^1.5 / (strength * step)``."""
        return (w.abs() / 1.5) ** 1.5 / (self.strength * step)

    def extra_repr(self) -> str:
        """Show the strength as the constructor takes it."""
        return f"{self.strength:.12g}"
