"""``l1 * sum|w| + l2 * sum(w^2)``: what L1, L2 and Elastic Net have in common."""

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from torchreg import prox
from torchreg.blocks import LONGER, blocks
from torchreg.penalties.base import Penalty, accumulation_dtype, check_step


class Elastic(Penalty):
    """``l1 * sum|w| + l2 * sum(w^2)``; a part whose strength is 0 is left out."""

    elementwise: ClassVar[bool] = True

    @property
    @abstractmethod
    def elastic_net(self) -> tuple[float, float]:
        """``(l1, l2)``."""

    @property
    def closed_form(self) -> prox.ClosedForm:
        """``soft_threshold(w, step * l1) / (1 + 2 * step * l2)``."""
        return prox.ClosedForm(prox.elastic_net, prox.slope, self.elastic_net)

    @property
    def idle(self) -> bool:
        """Where both strengths are 0."""
        return self.elastic_net == (0, 0)

    def value(self, w: Tensor) -> Tensor:
        """``l1 * sum|w| + l2 * sum(w^2)``; the modulus for complex w. The gradient at 0 is 0."""
        l1, l2 = self.elastic_net
        if l2 == 0:
            return l1 * _sum_abs(w)
        return l2 * _sum_squares(w) if l1 == 0 else l1 * _sum_abs(w) + l2 * _sum_squares(w)

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        """``soft_threshold(w, step * l1) / (1 + 2 * step * l2)``."""
        check_step(w, step)
        return prox.elastic_net(w, step, *self.elastic_net)

    def prox_(self, w: Tensor, step: float | Tensor) -> Tensor:
        """:meth:`prox` in place."""
        check_step(w, step)
        return prox.elastic_net_(w, step, *self.elastic_net)

    def add_gradient_(self, w: Tensor, grad: Tensor, scale: float = 1.0) -> None:
        """``grad += scale * (l1 * sign(w) + 2 * l2 * w)``, with a sign of 0 at 0."""
        l1, l2 = self.elastic_net
        for part, beside in blocks(w.detach(), {"grad": grad}, times=LONGER):
            if scale * l1 != 0:
                beside["grad"].add_(part.sgn(), alpha=scale * l1)
            if scale * l2 != 0:
                beside["grad"].add_(part, alpha=2 * (scale * l2))

    def distance(self, w: Tensor, grad: Tensor) -> Tensor:
        """``|s + l1 * sign(w)|`` at kept weights, ``max(|s| - l1, 0)`` at zeros.

        There s is the smooth part, ``grad + 2 * l2 * w``. The sets measured are {l1 * sign(w)} and
        [-l1, l1]; for complex w the sign is the phase, and the latter the disk of radius l1.
        """
        l1, l2 = self.elastic_net
        smooth = grad + 2 * l2 * w if l2 > 0 else grad
        if l1 == 0:
            return smooth.abs()
        kept, zeroed = (smooth + l1 * w.sgn()).abs(), (smooth.abs() - l1).clamp(min=0)
        return torch.where(w == 0, zeroed, kept)

    def zeroing_factor(self, w: Tensor, step: Tensor) -> Tensor | None:
        """``|w| / (l1 * step)``; None without an l1, which alone makes zeros."""
        l1, _ = self.elastic_net
        return w.abs() / (l1 * step) if l1 > 0 else None

    def slope(self, w: Tensor) -> Tensor | float:
        """``l1 + 2 * l2 * |w|``."""
        return prox.slope(w, *self.elastic_net)


def _sum_abs(w: Tensor) -> Tensor:
    return w.abs().sum(dtype=accumulation_dtype(w))


def _sum_squares(w: Tensor) -> Tensor:
    if w.is_complex():
        w = torch.view_as_real(w)
    return w.to(accumulation_dtype(w)).square().sum()  # squares overflow float16 above 255
