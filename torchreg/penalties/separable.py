"""Penalties that are a sum over single weights: L1, L2 and Elastic Net."""

from typing import Self, final

import torch
from torch import Tensor

from torchreg import prox
from torchreg.blocks import LONGER, blocks
from torchreg.penalties.base import Penalty, Strength, accumulation_dtype, as_strength, check_step


def _sum_abs(w: Tensor) -> Tensor:
    return w.abs().sum(dtype=accumulation_dtype(w))


def _sum_squares(w: Tensor) -> Tensor:
    if w.is_complex():
        w = torch.view_as_real(w)
    return w.to(accumulation_dtype(w)).square().sum()  # squares overflow float16 above 255


def _add_gradient_(w: Tensor, grad: Tensor, l1: float, l2: float) -> None:
    """Add ``l1 * sign(w) + 2 * l2 * w``, with a sign of 0 at 0."""
    for part, beside in blocks(w.detach(), {"grad": grad}, times=LONGER):
        if l1 > 0:
            beside["grad"].add_(part.sgn(), alpha=l1)
        if l2 > 0:
            beside["grad"].add_(part, alpha=2 * l2)


def _distance(w: Tensor, smooth: Tensor, l1: float) -> Tensor:
    """Distance of -smooth to l1 * d|w|: {l1 * sign(w)} at kept weights, [-l1, l1] at zeros.

    For complex w the set at zero is the disk of radius l1 and the sign is the phase.
    """
    kept = (smooth + l1 * w.sgn()).abs()
    zeroed = (smooth.abs() - l1).clamp(min=0)
    return torch.where(w == 0, zeroed, kept)


@final
class L1(Penalty):
    """``l1 * sum|w|``: the penalty that gives exact zeros (the lasso).

    In a loss it only shrinks: its zeros come from :meth:`prox`, that is, from
    :class:`torchreg.ProximalOptimizer`. It also biases the weights that it keeps by the
    threshold; train on without it, on the kept weights, to remove that.

    Args:
        l1: the strength, relative to the mean loss. scikit-learn's ``Lasso(alpha)`` minimises
            ``1/(2n) ||y - Xw||^2 + alpha * sum|w|``: with the loss ``mse / 2``, l1 = alpha.
            Keras' ``L1(l1)`` is the same number.

    Raises:
        ValueError: a negative, NaN or infinite strength.
        TypeError: a strength that is no number.

    Example:
        >>> penalty = L1(0.5)
        >>> w = torch.tensor([-2.0, 0.1, 1.0])
        >>> penalty(w)
        tensor(1.5500)
        >>> penalty.prox(w, step=1.0)
        tensor([-1.5000,  0.0000,  0.5000])

    Source: R. Tibshirani, "Regression shrinkage and selection via the lasso" (1996).
    """

    formula = "l1*sum|w|"
    l1 = Strength()
    elementwise = True

    def __init__(self, l1: float) -> None:
        super().__init__()
        self.l1 = l1

    @property
    def strength(self) -> float:
        """The l1."""
        return self.l1

    @property
    def elastic_net(self) -> tuple[float, float]:
        """``(l1, 0)``."""
        return self.l1, 0.0

    def value(self, w: Tensor) -> Tensor:
        """``l1 * sum|w|``; the modulus for complex w. The gradient at w = 0 is 0."""
        return self.l1 * _sum_abs(w)

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        """``soft_threshold(w, step * l1)``."""
        check_step(w, step)
        return prox.elastic_net(w, step, self.l1, 0.0)

    def prox_(self, w: Tensor, step: float | Tensor) -> Tensor:
        """:meth:`prox` in place."""
        check_step(w, step)
        return prox.elastic_net_(w, step, self.l1, 0.0)

    def add_gradient_(self, w: Tensor, grad: Tensor, scale: float = 1.0) -> None:
        """``grad += scale * (l1 * sign(w))``."""
        _add_gradient_(w, grad, scale * self.l1, 0.0)

    def distance(self, w: Tensor, grad: Tensor) -> Tensor:
        """``|grad + l1 * sign(w)|`` at kept weights, ``max(|grad| - l1, 0)`` at zeros."""
        return _distance(w, grad, self.l1)

    def critical_strength(self, grad: Tensor) -> float:
        """``max|grad|``; 0 for an empty tensor."""
        return _largest(grad)

    def slope(self, w: Tensor) -> float:  # noqa: ARG002  (the same at every weight)
        """``l1``."""
        return self.l1

    def extra_repr(self) -> str:
        """Show the strength as the constructor takes it."""
        return f"l1={self.l1:.12g}"


@final
class L2(Penalty):
    """``l2 * sum(w^2)``, without a half: shrinks every weight, zeroes none (ridge).

    Args:
        l2: the strength, relative to the mean loss. Others write ``wd / 2 * sum(w^2)``: see
            :meth:`from_weight_decay`. scikit-learn's ``Ridge(alpha)`` minimises
            ``||y - Xw||^2 + alpha * sum(w^2)``: with the loss ``mse``, l2 = alpha / n.
            Keras' ``L2(l2)`` is the same number.

    Raises:
        ValueError: a negative, NaN or infinite strength.
        TypeError: a strength that is no number.

    Example:
        >>> L2(0.5)(torch.tensor([1.0, 2.0]))
        tensor(2.5000)
        >>> L2(0.5).prox(torch.tensor([1.0, 2.0]), step=1.0)
        tensor([0.5000, 1.0000])

    Source: A. Hoerl and R. Kennard, "Ridge regression" (1970).
    """

    formula = "l2*sum(w^2)"
    l2 = Strength()
    elementwise = True

    def __init__(self, l2: float) -> None:
        super().__init__()
        self.l2 = l2

    @classmethod
    def from_weight_decay(cls, weight_decay: float) -> Self:
        """The penalty that ``torch.optim.SGD(weight_decay=...)`` adds: l2 is half of it.

        torch adds ``weight_decay * w`` to the gradient, which is the gradient of
        ``weight_decay / 2 * sum(w^2)``. It holds for every *coupled* decay, not AdamW's.

        Example:
            >>> L2.from_weight_decay(1e-4)
            L2(l2=5e-05)
        """
        return cls(as_strength("weight_decay", weight_decay) / 2)

    @property
    def weight_decay(self) -> float:
        """The coupled ``weight_decay`` of torch.optim that equals this penalty: ``2 * l2``."""
        return 2 * self.l2

    @property
    def strength(self) -> float:
        """The l2."""
        return self.l2

    @property
    def elastic_net(self) -> tuple[float, float]:
        """``(0, l2)``."""
        return 0.0, self.l2

    def value(self, w: Tensor) -> Tensor:
        """``l2 * sum(w^2)``; the squared modulus for complex w."""
        return self.l2 * _sum_squares(w)

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        """``w / (1 + 2 * step * l2)``."""
        check_step(w, step)
        return prox.elastic_net(w, step, 0.0, self.l2)

    def prox_(self, w: Tensor, step: float | Tensor) -> Tensor:
        """:meth:`prox` in place."""
        check_step(w, step)
        return prox.elastic_net_(w, step, 0.0, self.l2)

    def add_gradient_(self, w: Tensor, grad: Tensor, scale: float = 1.0) -> None:
        """``grad += scale * (2 * l2 * w)``."""
        _add_gradient_(w, grad, 0.0, scale * self.l2)

    def distance(self, w: Tensor, grad: Tensor) -> Tensor:
        """``|grad + 2 * l2 * w|``."""
        return (grad + 2 * self.l2 * w).abs()

    def critical_strength(self, grad: Tensor) -> float:
        """0 where the gradient vanishes, else infinite: no finite L2 makes zero stationary."""
        return float("inf") if _largest(grad) > 0 else 0.0

    def slope(self, w: Tensor) -> Tensor | float:
        """``2 * l2 * |w|``."""
        return prox.slope(w, 0.0, self.l2)

    def extra_repr(self) -> str:
        """Show the strength as the constructor takes it."""
        return f"l2={self.l2:.12g}"


@final
class ElasticNet(Penalty):
    """``l1 * sum|w| + l2 * sum(w^2)``: zeros as L1, and correlated weights kept together.

    Args:
        l1: the strength of ``sum|w|``, relative to the mean loss.
        l2: the strength of ``sum(w^2)``, without a half.

    Raises:
        ValueError: a negative, NaN or infinite strength.
        TypeError: a strength that is no number.

    Example:
        >>> penalty = ElasticNet(l1=0.5, l2=0.25)
        >>> penalty(torch.tensor([-2.0, 0.1]))
        tensor(2.0525)
        >>> penalty.prox(torch.tensor([-2.0, 0.1]), step=1.0)
        tensor([-1.,  0.])

    Source: H. Zou and T. Hastie, "Regularization and variable selection via the elastic
    net" (2005), the form that they call naive.
    """

    formula = "l1*sum|w| + l2*sum(w^2)"
    l1 = Strength()
    l2 = Strength()
    elementwise = True

    def __init__(self, l1: float, l2: float) -> None:
        super().__init__()
        self.l1 = l1
        self.l2 = l2

    @classmethod
    def from_alpha(cls, alpha: float, l1_ratio: float = 0.5) -> Self:
        """The penalty of scikit-learn's ``ElasticNet(alpha, l1_ratio)``.

        scikit-learn writes ``alpha * (l1_ratio * |w| + (1 - l1_ratio) / 2 * w^2)`` beside
        ``1/(2n) ||y - Xw||^2``, which is ``mse / 2``.

        Raises:
            ValueError: l1_ratio is outside [0, 1].

        Example:
            >>> ElasticNet.from_alpha(0.1, l1_ratio=0.8)
            ElasticNet(l1=0.08, l2=0.01)
            >>> ElasticNet.from_alpha(0.5, l1_ratio=0.5).to_alpha()
            (0.5, 0.5)
        """
        alpha, share = as_strength("alpha", alpha), as_strength("l1_ratio", l1_ratio)
        if share > 1:
            raise ValueError(f"l1_ratio must be between 0 and 1, found {share}.")
        return cls(l1=alpha * share, l2=alpha * (1 - share) / 2)

    @classmethod
    def from_keras(cls, l1: float = 0.0, l2: float = 0.0) -> Self:
        """The penalty of ``keras.regularizers.L1L2(l1, l2)``: the same numbers, no half.

        Example:
            >>> ElasticNet.from_keras(l1=0.01, l2=0.02)
            ElasticNet(l1=0.01, l2=0.02)
        """
        return cls(l1=l1, l2=l2)

    def to_alpha(self) -> tuple[float, float]:
        """scikit-learn's ``(alpha, l1_ratio)``; the ratio is 1 where both strengths are 0."""
        alpha = self.l1 + 2 * self.l2
        return alpha, self.l1 / alpha if alpha > 0 else 1.0

    @property
    def strength(self) -> float:
        """The l1, or the l2 where l1 is 0."""
        return self.l1 if self.l1 > 0 else self.l2

    @property
    def elastic_net(self) -> tuple[float, float]:
        """``(l1, l2)``."""
        return self.l1, self.l2

    def value(self, w: Tensor) -> Tensor:
        """``l1 * sum|w| + l2 * sum(w^2)``."""
        return self.l1 * _sum_abs(w) + self.l2 * _sum_squares(w)

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        """``soft_threshold(w, step * l1) / (1 + 2 * step * l2)``."""
        check_step(w, step)
        return prox.elastic_net(w, step, self.l1, self.l2)

    def prox_(self, w: Tensor, step: float | Tensor) -> Tensor:
        """:meth:`prox` in place."""
        check_step(w, step)
        return prox.elastic_net_(w, step, self.l1, self.l2)

    def add_gradient_(self, w: Tensor, grad: Tensor, scale: float = 1.0) -> None:
        """``grad += scale * (l1 * sign(w) + 2 * l2 * w)``."""
        _add_gradient_(w, grad, scale * self.l1, scale * self.l2)

    def distance(self, w: Tensor, grad: Tensor) -> Tensor:
        """L1's distance, with ``2 * l2 * w`` counted to the smooth part."""
        return _distance(w, grad + 2 * self.l2 * w, self.l1)

    def critical_strength(self, grad: Tensor) -> float:
        """The smallest l1, ``max|grad|``: the slope of ``w^2`` is 0 at zero."""
        return _largest(grad)

    def slope(self, w: Tensor) -> Tensor | float:
        """``l1 + 2 * l2 * |w|``."""
        return prox.slope(w, self.l1, self.l2)

    def extra_repr(self) -> str:
        """Show the strengths as the constructor takes them."""
        return f"l1={self.l1:.12g}, l2={self.l2:.12g}"


def _largest(grad: Tensor) -> float:
    return float(grad.abs().max()) if grad.numel() else 0.0
