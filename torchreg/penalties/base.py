"""The contract that every penalty keeps; solvers, reports and tests use nothing else."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from torchreg import distributed
from torchreg.prox import ClosedForm

Weights = Tensor | Mapping[str, Tensor] | Iterable[Tensor]


class Penalty(nn.Module, ABC):
    """A penalty P(w) with a strength: what it costs, and how to minimise with it.

    A penalty owns no parameters and no buffers, so it adds no key to any ``state_dict``.
    Strengths are relative to the *mean* loss over the data. A subclass gives the five
    abstract members; each acts on one tensor of any shape.
    """

    formula: str
    """The value as a formula, in this library's unit (L2 without a half)."""

    elementwise: ClassVar[bool] = False
    """Whether P is a sum over single weights and knows no shape: it may be handed any part."""

    @property
    def closed_form(self) -> ClosedForm | None:
        """The proximal map as one formula that compiles into one kernel, where there is one."""
        return None

    @property
    @abstractmethod
    def strength(self) -> float:
        """The lambda of the literature, which residuals are relative to."""

    @property
    def idle(self) -> bool:
        """Whether the proximal map is the identity now, so that no step size need be read."""
        return False

    @abstractmethod
    def value(self, w: Tensor) -> Tensor:
        """P(w): a scalar tensor, differentiable; low precision is summed in float32."""

    @abstractmethod
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        """Minimise ``1/2 * sum((z - w)^2 / step) + P(z)`` over z.

        Pure: w is not changed and the result is a new tensor in w's precision, whatever that of
        the step. A step of 0 is the identity.

        Args:
            w: any shape.
            step: the metric, a float or scalar tensor, or one number per coordinate, shaped
                like w. Never negative.

        Raises:
            ValueError: the step is negative or NaN, or shaped unlike w.
        """

    @abstractmethod
    def distance(self, w: Tensor, grad: Tensor) -> Tensor:
        """How far ``-grad``, the gradient of the loss, is from the subdifferential of P at w.

        Zero everywhere exactly where w is stationary for loss + P. Shaped like w.
        """

    @abstractmethod
    def critical_strength(self, grad: Tensor) -> float:
        """The smallest strength at which w = 0 is stationary, given the loss's gradient there."""

    @abstractmethod
    def slope(self, w: Tensor) -> float | Tensor:
        """The size of P's gradient at a kept weight, as it would be where w is zero.

        At a stationary point a kept weight has a loss gradient of exactly this size. The
        proximal optimizer uses it to tell a settled curvature estimate from an empty one.
        """

    def zeroing_factor(self, w: Tensor, step: Tensor) -> Tensor | None:  # noqa: ARG002
        """For each weight the multiple of the strength from which on :meth:`prox` zeroes it.

        :class:`torchreg.TargetSparsity` ranks weights by it. None where it has no closed form:
        there a bisection over the strength takes its place.

        Args:
            w: any shape.
            step: of w's real type, 0-d or shaped like w.

        Returns:
            Shaped like w; infinite where no strength zeroes the weight, as at a step of 0. Where
            w is 0 it is that of the weight's group, or 0 or NaN where it has none.
        """
        return None

    def keeps(self, w: Tensor, step: float | Tensor) -> Tensor:
        """What :meth:`prox` keeps, as bools shaped like w: what is nonzero after it.

        Where a penalty zeroes whole groups, a group is kept or not: the zero weights of one that
        is kept count as kept, as nothing holds them at zero.

        Args:
            w: any shape.
            step: as in :meth:`prox`, which raises what it raises.
        """
        return self.prox(w, step) != 0

    def check_shape(self, shape: torch.Size) -> None:
        """Raise a ValueError if P is not defined on weights of this shape. Called when bound."""

    def prox_(self, w: Tensor, step: float | Tensor) -> Tensor:
        """:meth:`prox` in place: w becomes the minimiser. The step is not changed.

        This one goes through :meth:`prox`; a penalty overrides it to spare the temporaries.

        Raises:
            ValueError: what :meth:`prox` returns is shaped unlike w.
        """
        z = self.prox(w, step)
        if z.shape != w.shape:
            raise ValueError(
                f"the prox of {type(self).__name__} is shaped {tuple(z.shape)}; expected "
                f"{tuple(w.shape)}, as its argument is."
            )
        return w.copy_(z)

    @torch.enable_grad()
    def add_gradient_(self, w: Tensor, grad: Tensor, scale: float = 1.0) -> None:
        """Add ``scale`` times one subgradient of P at w to grad, in place.

        It is the one that :meth:`value` has under autograd, which is what this one goes
        through; a penalty overrides it to spare the temporaries.
        """
        w = w.detach().requires_grad_()
        value = self.value(w)
        if value.requires_grad:  # else it is constant where it is finite
            (found,) = torch.autograd.grad(value, w)
            grad.add_(found, alpha=scale)

    def forward(self, weights: Weights) -> Tensor:
        """P summed over a tensor, a mapping of tensors (a selection) or an iterable of them.

        Warns:
            UserWarning: there is no tensor at all, so nothing is penalised.
        """
        return total([distributed.value(self, w) for w in tensors(weights)], of=type(self).__name__)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


def total(values: list[Tensor], of: str) -> Tensor:
    """Add scalar tensors, also across devices; warn where there are none."""
    if not values:
        warnings.warn(
            f"{of} penalises nothing: it was given no tensor. (A generator such as "
            "model.parameters() is empty when it is used a second time.)",
            stacklevel=3,
        )
        return torch.zeros(())
    result = values[0]
    for value in values[1:]:
        result = result + value.to(result.device)
    return result


def tensors(weights: Weights) -> list[Tensor]:
    """List the tensors in any form that a penalty accepts.

    Raises:
        TypeError: anything else, such as a model: select from it first.
    """
    if isinstance(weights, Tensor):
        return [weights]
    if isinstance(weights, nn.Module) or not isinstance(weights, Iterable):
        raise TypeError(
            f"expected a tensor, a mapping or an iterable of tensors, found "
            f"{type(weights).__name__}: pass torchreg.select(model) for a model's weights."
        )
    listed = list(weights.values() if isinstance(weights, Mapping) else weights)
    for one in listed:
        if not isinstance(one, Tensor):
            raise TypeError(
                f"expected tensors, found {one!r} of type {type(one).__name__} among them."
            )
    return listed


def accumulation_dtype(w: Tensor) -> torch.dtype | None:
    """float32 for the sum over a half-precision tensor; None, its own type, otherwise."""
    return torch.float32 if w.dtype in (torch.float16, torch.bfloat16) else None


def largest(grad: Tensor) -> float:
    """``max|grad|``; 0 for an empty tensor."""
    return float(grad.abs().max()) if grad.numel() else 0.0


def check_step(w: Tensor, step: float | Tensor) -> None:
    """Raise if a step cannot be a metric for w. A tensor's values are not read (no host sync)."""
    if isinstance(step, Tensor):
        if step.dim() > 0 and step.shape != w.shape:
            raise ValueError(
                f"expected a step that is a number or shaped like w, {tuple(w.shape)}; found "
                f"{tuple(step.shape)}."
            )
    elif not step >= 0:
        raise ValueError(f"expected a step of at least 0, found {step}.")
