"""L1, L2 and Elastic Net, and how others write them."""

from typing import Self, final

from torch import Tensor

from torchreg.penalties.attributes import Strength, as_strength
from torchreg.penalties.base import largest
from torchreg.penalties.elastic import Elastic


@final
class L1(Elastic):
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
        >>> import torch
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

    def critical_strength(self, grad: Tensor) -> float:
        """``max|grad|``; 0 for an empty tensor."""
        return largest(grad)

    def extra_repr(self) -> str:
        """Show the strength as the constructor takes it."""
        return f"l1={self.l1:.12g}"


@final
class L2(Elastic):
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
        >>> import torch
        >>> L2(0.5)(torch.tensor([1.0, 2.0]))
        tensor(2.5000)
        >>> L2(0.5).prox(torch.tensor([1.0, 2.0]), step=1.0)
        tensor([0.5000, 1.0000])

    Source: A. Hoerl and R. Kennard, "Ridge regression" (1970).
    """

    formula = "l2*sum(w^2)"
    l2 = Strength()

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

    def critical_strength(self, grad: Tensor) -> float:
        """0 where the gradient vanishes, else infinite: no finite L2 makes zero stationary."""
        return float("inf") if largest(grad) > 0 else 0.0

    def extra_repr(self) -> str:
        """Show the strength as the constructor takes it."""
        return f"l2={self.l2:.12g}"


@final
class ElasticNet(Elastic):
    """``l1 * sum|w| + l2 * sum(w^2)``: zeros as L1, and correlated weights kept together.

    Args:
        l1: the strength of ``sum|w|``, relative to the mean loss.
        l2: the strength of ``sum(w^2)``, without a half.

    Raises:
        ValueError: a negative, NaN or infinite strength.
        TypeError: a strength that is no number.

    Example:
        >>> import torch
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

    def critical_strength(self, grad: Tensor) -> float:
        """The smallest l1, ``max|grad|``: the slope of ``w^2`` is 0 at zero."""
        return largest(grad)

    def extra_repr(self) -> str:
        """Show the strengths as the constructor takes them."""
        return f"l1={self.l1:.12g}, l2={self.l2:.12g}"
