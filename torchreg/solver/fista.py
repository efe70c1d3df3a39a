"""Any differentiable loss, any penalty with a proximal map: accelerated proximal gradient."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from torchreg.penalties.base import Penalty
from torchreg.regularizer import Regularizer
from torchreg.solver.losses.base import told
from torchreg.solver.result import Solution

Points = list[Tensor]


class Objective:
    """A loss over the parameters of a model as a function of tensors, and its penalties."""

    def __init__(self, regularizer: Regularizer, loss: Callable[[], Tensor]) -> None:
        if together := [b.name for b in regularizer.bundles() if b.joint is not None]:
            raise ValueError(
                f"the groups of {together[0]} are joint, and the full-batch solver takes one "
                "weight after another: train with torchreg.ProximalOptimizer instead."
            )
        bound = [(p, penalty) for _, p, penalty in regularizer.items() if p.requires_grad]
        self.parameters: list[nn.Parameter] = [p for p, _ in bound]
        self.penalties: list[Penalty | None] = [penalty for _, penalty in bound]
        free = list(regularizer.unpenalised().values())
        self.parameters += free
        self.penalties += [None] * len(free)
        self.loss = loss
        self.strongest = max((penalty.strength for _, penalty in bound), default=0.0)

    def point(self) -> Points:
        """The parameters as they are."""
        return [p.detach().clone() for p in self.parameters]

    def put(self, point: Points) -> None:
        """Set the parameters."""
        with torch.no_grad():
            for parameter, value in zip(self.parameters, point, strict=True):
                parameter.copy_(value)

    def at(self, point: Points) -> tuple[float, Points]:
        """The loss and its gradient."""
        self.put(point)
        with torch.enable_grad():
            value = self.loss()
            if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
                found = told(value) if isinstance(value, Tensor) else repr(value)
                raise ValueError(
                    "the loss must return a scalar tensor computed from the regularizer's model, "
                    f"found {found}."
                )
            slopes = torch.autograd.grad(value, self.parameters, allow_unused=True)
        if all(slope is None for slope in slopes):
            raise ValueError(
                "the loss depends on no parameter of the regularizer's model: was it computed "
                "from another model, or from a copy of this one?"
            )
        gradient = [
            torch.zeros_like(p) if g is None else g
            for p, g in zip(self.parameters, slopes, strict=True)
        ]
        return float(value.detach()), gradient

    def penalty(self, point: Points) -> float:
        """The penalties at a point."""
        terms = zip(self.penalties, point, strict=True)
        return sum(float(penalty.value(w)) for penalty, w in terms if penalty is not None)

    def prox(self, point: Points, gradient: Points, step: float) -> Points:
        """One proximal gradient step."""
        moved = [w - step * g for w, g in zip(point, gradient, strict=True)]
        return [
            w if penalty is None else penalty.prox(w, step)
            for penalty, w in zip(self.penalties, moved, strict=True)
        ]

    def residual(self, point: Points, gradient: Points) -> float:
        """The stationarity residual: relative to the strengths, absolute where they are 0."""
        worst = 0.0
        for penalty, w, g in zip(self.penalties, point, gradient, strict=True):
            if w.numel():
                far = g.abs() if penalty is None else penalty.distance(w, g)
                strength = self.strongest if penalty is None else penalty.strength
                far_most = float(far.max())
                if math.isnan(far_most):
                    return math.inf
                worst = max(worst, far_most / (strength or 1.0))
        return worst


def accelerated(objective: Objective, *, tolerance: float, iterations: int) -> Solution:
    """Minimise loss + penalties from where the model is, and leave the solution in the model.

    The step size is found by backtracking and may grow again; the momentum restarts where it
    points uphill or the objective rises. Where differences of the loss drown in rounding, its
    gradients are compared instead.

    Args:
        objective: loss and penalties.
        tolerance: stop at this stationarity residual.
        iterations: at most so many.

    Raises:
        ValueError: the loss or its gradient is not finite, at the start or on the way.

    Source: A. Beck and M. Teboulle, "A fast iterative shrinkage-thresholding algorithm" (2009);
    B. O'Donoghue and E. Candes, "Adaptive restart for accelerated gradient schemes" (2015).
    """
    x = objective.point()
    value, gradient = objective.at(x)
    if not math.isfinite(value) or not all(bool(torch.isfinite(g).all()) for g in gradient):
        raise ValueError(f"the loss or its gradient is not finite: the loss is {value}.")
    residual = objective.residual(x, gradient)
    best = residual, x, value
    total = value + objective.penalty(x)
    y, ahead, slope = x, value, gradient
    momentum, curvature, done = 1.0, 1.0, 0
    while residual > tolerance and done < iterations:
        done += 1
        z, f, g, curvature = _backtrack(objective, y, ahead, slope, curvature)
        if not math.isfinite(f):
            objective.put(best[1])
            raise ValueError(
                f"the loss became {f} in iteration {done}: it has no minimum that the penalty "
                "holds, or is not defined everywhere. The model is at the best point before."
            )
        residual = objective.residual(z, g)
        if residual <= best[0]:
            best = residual, z, f
        new = f + objective.penalty(z)
        moved = _minus(z, x)
        rises = new > total + 1e-15 * abs(total) and y is not x
        if rises or _dot(_minus(y, z), moved) > 0:
            momentum = 1.0
            if rises:  # go back to the last good point and take a plain step
                y = x
                ahead, slope = objective.at(x)
                continue
            y, ahead, slope = z, f, g
        else:
            following = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
            factor, momentum = (momentum - 1) / following, following
            y = [a + factor * d for a, d in zip(z, moved, strict=True)] if factor else z
            ahead, slope = objective.at(y) if factor else (f, g)
        x, total = z, new
        curvature *= 0.95
    residual, x, value = best
    objective.put(x)
    return Solution(
        value + objective.penalty(x), residual, None, done, converged=residual <= tolerance
    )


def _backtrack(
    objective: Objective, y: Points, ahead: float, slope: Points, curvature: float
) -> tuple[Points, float, Points, float]:
    """The proximal step from y whose curvature bound holds, its loss and its gradient."""
    eps = torch.finfo(y[0].dtype).eps
    while True:
        z = objective.prox(y, slope, 1 / curvature)
        f, g = objective.at(z)
        d = _minus(z, y)
        size = curvature / 2 * _dot(d, d)
        rise = f - ahead - _dot(slope, d)
        if size <= 1e3 * eps * abs(ahead):
            rise = _dot(_minus(g, slope), d) / 2
        if rise <= size * (1 + 1e-9) + 1e-300 or curvature > 1e18:
            return z, f, g, curvature
        curvature *= 2 if math.isfinite(rise) else 16


def _minus(a: Points, b: Points) -> Points:
    return [one - other for one, other in zip(a, b, strict=True)]


def _dot(a: Points, b: Points) -> float:
    return sum(
        float((one.double() * other.double()).sum()) for one, other in zip(a, b, strict=True)
    )
