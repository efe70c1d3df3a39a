"""L1 with a factor of its own for each weight: adaptive lasso, reweighting, prior knowledge."""

from typing import final

import torch
from torch import Tensor

from torchreg.penalties.attributes import Strength
from torchreg.penalties.base import Penalty, accumulation_dtype, check_step
from torchreg.prox import soft_threshold


@final
class WeightedL1(Penalty):
    """``l1 * sum(factors * |w|)``: a factor of 0 leaves a weight free, inf holds it at zero.

    For weights that are known to matter or not, for features of unlike scale, and for
    reweighting: :func:`torchreg.reweighted`. It belongs to one tensor, whose shape the factors
    have or broadcast to. What is held at zero stays there at every step and strength, 0 as well.

    Args:
        l1: the strength, relative to the mean loss.
        factors: of at least 0, inf among them, a tensor that broadcasts to the weight's shape:
            (outputs, 1) gives one factor to each row.

    Raises:
        ValueError: a negative, NaN or infinite strength; a negative or NaN factor; from the
            methods, a weight whose shape the factors do not broadcast to.
        TypeError: a strength that is no number, factors that are no real tensor.

    Example:
        >>> penalty = WeightedL1(1.0, torch.tensor([0.0, 0.5, 2.0, torch.inf]))
        >>> penalty.prox(torch.tensor([3.0, 3.0, 3.0, 3.0]), step=1.0)
        tensor([3.0000, 2.5000, 1.0000, 0.0000])

    Source: H. Zou, "The adaptive lasso and its oracle properties" (2006).
    """

    formula = "l1*sum(factors*|w|)"
    l1 = Strength()

    def __init__(self, l1: float, factors: Tensor) -> None:
        super().__init__()
        self.l1 = l1
        if not isinstance(factors, Tensor) or factors.is_complex():
            found = factors.dtype if isinstance(factors, Tensor) else type(factors).__name__
            raise TypeError(f"factors must be a tensor of real numbers, found {found}.")
        if not bool((factors >= 0).all()):
            raise ValueError("factors must be at least 0 (0: free, inf: held at zero), found some "
                             "that are negative or NaN.")  # fmt: skip
        self.factors = factors.detach().clone()

    @property
    def strength(self) -> float:
        """The l1."""
        return self.l1

    def value(self, w: Tensor) -> Tensor:
        """``l1 * sum(factors * |w|)``; infinite where a weight that is held is not zero."""
        size = w.to(accumulation_dtype(w)).abs()
        # A zero costs nothing at any factor, and has the gradient 0.
        factors = torch.where(size == 0, 0.0, self._scaled(size))
        return (factors * size).sum()

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        """``soft_threshold(w, step * l1 * factors)``; 0 where the factor is infinite."""
        check_step(w, step)
        factors = self._fitted(w)
        shift = self._shift(factors, step)
        z = soft_threshold(w, shift.nan_to_num(nan=0.0, posinf=torch.inf))
        return torch.where(factors.isinf(), 0.0, z)

    def distance(self, w: Tensor, grad: Tensor) -> Tensor:
        """L1's distance, with the strength of each weight; 0 where it is held at zero."""
        strength = self._scaled(w)
        kept = (grad + strength.nan_to_num(posinf=0.0) * w.sgn()).abs()
        found = torch.where(w == 0, (grad.abs() - strength).clamp(min=0), kept)
        return torch.where(strength.isinf(), 0.0, found)

    def critical_strength(self, grad: Tensor) -> float:
        """``max(|grad| / factors)``; infinite where a free weight has a gradient."""
        if grad.numel() == 0:
            return 0.0
        size = grad.abs()
        return float(torch.where(size == 0, 0.0, size / self._fitted(grad)).max())

    def zeroing_factor(self, w: Tensor, step: Tensor) -> Tensor:
        """``|w| / (l1 * factors * step)``; infinite for a free weight, 0 for one that is held."""
        factors = self._fitted(w)
        return torch.where(factors.isinf(), 0.0, w.abs() / self._shift(factors, step))

    def slope(self, w: Tensor) -> Tensor:
        """``l1 * factors``."""
        return self._scaled(w)

    def check_shape(self, shape: torch.Size) -> None:
        """Raise unless the factors broadcast to this shape."""
        self._spread(self.factors, shape)

    def extra_repr(self) -> str:
        """Show the strength, and what the factors are shaped like."""
        held = int(self.factors.isinf().sum())
        told = f", {held:,} held at zero" if held else ""
        return f"l1={self.l1:.12g}, factors shaped {tuple(self.factors.shape)}{told}"

    def _shift(self, factors: Tensor, step: float | Tensor) -> Tensor:
        """By how much a step shrinks each weight: a free one by 0, at an infinite step too."""
        return torch.where((factors == 0) | (self.l1 == 0), 0.0, self.l1 * factors * step)

    def _scaled(self, w: Tensor) -> Tensor:
        """The strength of each weight; infinite where it is held, whatever l1."""
        factors = self._fitted(w)
        return torch.where(factors.isinf(), torch.inf, self.l1 * factors)

    def _fitted(self, w: Tensor) -> Tensor:
        real = w.real if w.is_complex() else w
        self.factors = self.factors.to(real.device)
        return self._spread(self.factors.to(real.dtype), w.shape)

    @staticmethod
    def _spread(factors: Tensor, shape: torch.Size) -> Tensor:
        try:
            return factors.expand(shape)
        except RuntimeError as error:
            raise ValueError(
                f"the factors are shaped {tuple(factors.shape)}, the weight {tuple(shape)}: give "
                "one factor for each weight, or a shape that broadcasts."
            ) from error
