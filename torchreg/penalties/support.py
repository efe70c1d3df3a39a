"""Zeros that stay: the indicator function of a support, for debiasing."""

from typing import final

import torch
from torch import Tensor

from torchreg.penalties.base import Penalty, check_step


@final
class FixedSupport(Penalty):
    """0 where every weight outside a support is zero, infinite elsewhere.

    Its proximal map is the projection onto that support, in every diagonal metric: what is
    outside stays exactly 0.0 through momentum, weight decay and noise, and what is inside is
    free of any penalty. It belongs to one tensor; :func:`torchreg.fix_support` makes one for
    each penalised tensor of a model.

    Args:
        kept: bool, shaped like the weight: True where it may be nonzero.

    Raises:
        TypeError: ``kept`` is no tensor of bools.
        ValueError: from the methods, a weight of another shape.

    Example:
        >>> FixedSupport(torch.tensor([True, False])).prox(torch.tensor([1.0, 2.0]), step=0.1)
        tensor([1., 0.])
    """

    formula = "0 on the support, else inf"

    def __init__(self, kept: Tensor) -> None:
        super().__init__()
        if not isinstance(kept, Tensor) or kept.dtype != torch.bool:
            found = kept.dtype if isinstance(kept, Tensor) else type(kept).__name__
            raise TypeError(f"kept must be a tensor of bools, such as w != 0; found {found}.")
        self.kept = kept.detach().clone()

    @property
    def strength(self) -> float:
        """1: an indicator has no scale, so a residual relative to it is the absolute one."""
        return 1.0

    def value(self, w: Tensor) -> Tensor:
        """0, or infinity where a weight outside the support is nonzero. Its gradient is 0."""
        outside = ((w.detach() != 0) & ~self._kept(w)).any()
        return torch.where(outside, torch.inf, 0.0).to(w.abs().dtype)

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        """``w`` on the support and 0 outside, whatever the step. (A step of 0 too.)"""
        check_step(w, step)
        return torch.where(self._kept(w), w, 0.0)

    def prox_(self, w: Tensor, step: float | Tensor) -> Tensor:
        """:meth:`prox` in place."""
        check_step(w, step)
        return torch.where(self._kept(w), w, w.new_zeros(()), out=w)

    def add_gradient_(self, w: Tensor, grad: Tensor, scale: float = 1.0) -> None:
        """Nothing: the value is constant where it is finite."""

    def distance(self, w: Tensor, grad: Tensor) -> Tensor:
        """``|grad|`` on the support; 0 outside, where every gradient is allowed."""
        return torch.where(self._kept(w), grad.abs(), 0.0)

    def critical_strength(self, grad: Tensor) -> float:
        """0 where the gradient vanishes on the support, else infinite."""
        inside = torch.where(self._kept(grad), grad.abs(), 0.0)
        return float("inf") if bool((inside > 0).any()) else 0.0

    def slope(self, w: Tensor) -> float:  # noqa: ARG002  (the same at every weight)
        """0: the kept weights are free."""
        return 0.0

    def check_shape(self, shape: torch.Size) -> None:
        """Raise unless the support is of this shape."""
        if shape != self.kept.shape:
            raise ValueError(
                f"this support is shaped {tuple(self.kept.shape)}, the weight {tuple(shape)}: "
                "make it from the same tensor, with torchreg.fix_support(regularizer)."
            )

    def extra_repr(self) -> str:
        """Show the size of the support."""
        return f"{int(self.kept.sum()):,} of {self.kept.numel():,} kept"

    def _kept(self, w: Tensor) -> Tensor:
        self.check_shape(w.shape)
        self.kept = self.kept.to(w.device)
        return self.kept
