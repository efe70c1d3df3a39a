"""Penalties that are a sum of one function of each weight's size: what they have in common."""

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from torchreg.penalties.base import Penalty, accumulation_dtype, check_step


class Radial(Penalty):
    """``sum(rho(|w|))`` with rho increasing from rho(0) = 0; the modulus for complex w.

    A subclass gives rho, its derivative and its proximal map, each over sizes of at least 0.
    Where rho is concave, a proximal problem may have two local minima: 0, and a kept one.
    ``shrink`` returns the better of them for *every* step, where the textbook formula is right
    for small steps alone; an adaptive optimizer's are often larger.
    """

    elementwise: ClassVar[bool] = True

    @abstractmethod
    def rho(self, size: Tensor) -> Tensor:
        """The cost of a weight of this size."""

    @abstractmethod
    def derivative(self, size: Tensor) -> Tensor:
        """``rho'``; at size 0 from the right, infinite where rho rises vertically."""

    @abstractmethod
    def shrink(self, size: Tensor, step: Tensor) -> Tensor:
        """Minimise ``1/2 * (z - size)^2 / step + rho(z)`` over z >= 0; the strength is not 0."""

    @property
    def idle(self) -> bool:
        """At strength 0."""
        return self.strength == 0

    def value(self, w: Tensor) -> Tensor:
        """``sum(rho(|w|))``. The gradient at w = 0 is 0."""
        return self.rho(w.to(accumulation_dtype(w)).abs()).sum()

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        """The global minimiser, for every step: the size shrinks, the sign or phase stays."""
        check_step(w, step)
        if self.idle:
            return w.clone()
        size = w.abs()
        return resized(w, size, self.shrink(size, as_tensor(step, size)))

    def distance(self, w: Tensor, grad: Tensor) -> Tensor:
        """``|grad + rho'(|w|) * sign(w)|`` at kept weights, ``max(|grad| - rho'(0), 0)`` at zeros.

        The derivative at zero counts from the right: where it is infinite, as for l0, every zero
        is stationary.
        """
        slope = self.derivative(w.abs())
        return torch.where(
            w == 0, (grad.abs() - slope).clamp(min=0), (grad + slope * w.sgn()).abs()
        )

    def slope(self, w: Tensor) -> Tensor:
        """``rho'(|w|)``, and where a kept weight costs nothing more, rho' at zero.

        Out there the proximal map is the identity as long as it keeps the weight, whatever the
        step, so that holding the step down makes no false stationary point. It keeps a weight
        whose gradient vanishes, as it does there, from being lost to a step that explodes.
        """
        size = w.abs()
        slope = self.derivative(size)
        return torch.where(slope > 0, slope, self.derivative(torch.zeros_like(size)))


def resized(w: Tensor, size: Tensor, shrunk: Tensor) -> Tensor:
    """Give w another size: the sign or phase stays, and so does w where its size does."""
    # 0 less the size, since a negated 0 would be -0.0.
    turned = w.sgn() * shrunk if w.is_complex() else torch.where(w < 0, 0 - shrunk, shrunk)
    return torch.where(shrunk == size, w, turned)


def as_tensor(step: float | Tensor, like: Tensor) -> Tensor:
    """A step as a tensor of this type, without a copy from host to device."""
    if isinstance(step, Tensor) and step.dim() == 0 and step.device != like.device:
        step = float(step)  # of a host; a device is never asked, since a number is not kept there
    if isinstance(step, Tensor):
        return step.to(like.dtype)
    return like.new_full((), step if step <= torch.finfo(like.dtype).max else float("inf"))
