"""A linear model with L1 and L2: Newton's method on the few columns that matter."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from torchreg.solver.active import active_set
from torchreg.solver.columns import Columns
from torchreg.solver.gap import duality_gap
from torchreg.solver.losses import LeastSquares, SampleLoss
from torchreg.solver.result import Solution

LARGEST = 3000
"""Weights that one Newton system may have; above, accelerated gradient steps are quicker."""

ROOM = 200
"""Features that may enter a working set at once, or as many as there are already if more."""

FORCING = 0.15
"""The part of a violation that is left when the working set is given up for a larger one."""

PATIENCE = 3
"""Rounds without headway after which rounding has the last word."""


@dataclass
class Linear:
    """``min loss(x weight' + intercept) + l1 sum|weight| + l2 sum(weight^2)``, and where we are."""

    loss: SampleLoss
    weight: Tensor
    """(outputs, features); changed by the solver."""

    intercept: Tensor | None
    """(outputs,), or None; changed by the solver."""

    l1: float
    l2: float
    allowed: Tensor | None = None
    """bool like weight: False where it must stay 0."""

    @property
    def scale(self) -> float:
        """What residuals are relative to, as :class:`torchreg.ElasticNet` has it."""
        return self.l1 or self.l2 or 1.0

    def distance(self, weight: Tensor, gradient: Tensor) -> Tensor:
        """The distance of -gradient from the penalty's subdifferential."""
        smooth = gradient + 2 * self.l2 * weight if self.l2 else gradient
        at_zero = (smooth.abs() - self.l1).clamp(min=0)
        far = torch.where(weight == 0, at_zero, (smooth + self.l1 * weight.sgn()).abs())
        return far if self.allowed is None else far * self.allowed

    def penalty(self, weight: Tensor) -> Tensor:
        """``l1 sum|w| + l2 sum(w^2)``."""
        value = self.l1 * weight.abs().sum()
        return value + self.l2 * weight.square().sum() if self.l2 else value


def newton(
    problem: Linear, *, tolerance: float, gap: float | None, iterations: int
) -> Solution | None:
    """Solve a :class:`Linear` in place; None where the Newton systems would be too large.

    Each round takes the gradient over all features, gathers the columns of those that want to
    move, and minimises a second-order model of the loss plus the penalty on the gathered columns,
    until these are at rest. For least squares that model is the problem itself.

    Args:
        problem: solved in place.
        tolerance: stop at this stationarity residual.
        gap: or stop when the duality gap is below this part of the objective.
        iterations: rounds at most.

    Source: J. Lee, Y. Sun and M. Saunders, "Proximal Newton-type methods" (2014), with the
    working sets of M. Massias, A. Gramfort and J. Salmon, "Celer" (2018).
    """
    loss, share = problem.loss, problem.loss.share.unsqueeze(1)
    columns = loss.columns(centred=problem.intercept is not None)
    columns.gather(problem.weight.any(dim=0).nonzero().squeeze(1))
    if not isinstance(loss, LeastSquares) and bool(problem.weight.any()):
        _start_over(problem, columns)
    if problem.intercept is not None and not bool(problem.weight.any()):
        problem.intercept += loss.fit_intercept(loss.start(problem.intercept))
    eps = torch.finfo(loss.x.dtype).eps
    least, lowest, since = math.inf, math.inf, 0
    for round_ in range(iterations + 1):
        z = loss.start(problem.intercept) + columns.times(problem.weight)  # afresh: no drift
        pull = share * loss.slope(z)
        gradient = pull.T @ loss.x
        level = pull.sum(dim=0)
        distance = problem.distance(problem.weight, gradient)
        worst = float(distance.max()) if distance.numel() else 0.0
        if problem.intercept is not None:
            worst = max(worst, float(level.abs().max()))
        residual = worst / problem.scale
        if not math.isfinite(residual):
            raise ValueError("the loss or its gradient is not finite: scale the features.")
        value = float(loss.value(z.double()) + problem.penalty(problem.weight.double()))
        headway = residual < 0.7 * least or value < lowest - eps * abs(lowest)
        since = 0 if round_ == 0 or headway else since + 1
        least, lowest = min(least, residual), min(lowest, value)
        done = residual <= tolerance
        last = round_ == iterations or since == PATIENCE
        if done or gap is not None or last:
            best = z
            if problem.intercept is not None:
                best = z + loss.fit_intercept(z)
                gradient = (share * loss.slope(best)).T @ loss.x
            objective, found = duality_gap(
                loss, best, gradient, problem.weight, problem.l1, problem.l2
            )
            small = gap is not None and found is not None and found <= gap * abs(objective)
            if done or small or last:
                return Solution(objective, residual, found, round_, done or small)
        waiting = (problem.weight == 0) & (distance > 0.5 * tolerance * problem.scale)
        if not _gather(columns, problem.weight, waiting, distance):
            return None
        goal = max(0.3 * tolerance * problem.scale, FORCING * worst)
        _settle(problem, columns, z, goal)
    raise AssertionError  # the last round returns


def _start_over(problem: Linear, columns: Columns) -> None:
    """Take zero weights where they are better than those given.

    Far out, where each sample is told with certainty, rightly or wrongly, the loss has no
    curvature left for a Newton step.
    """
    loss, z = problem.loss, problem.loss.start(problem.intercept)
    given = (z + columns.times(problem.weight)).double()
    if problem.intercept is not None:
        z = z + loss.fit_intercept(z)
    if not bool(loss.value(given) + problem.penalty(problem.weight.double()) <= loss.value(z)):
        problem.weight.zero_()


def _gather(columns: Columns, weight: Tensor, waiting: Tensor, distance: Tensor) -> bool:
    """Gather the support and the features that want to enter most; whether they are few enough."""
    support = weight.ne(0).any(dim=0)
    wanted = waiting.any(dim=0).nonzero().squeeze(1)
    room = max(ROOM, int(support.sum()))
    if len(wanted) > room:
        wanted = wanted[distance.amax(dim=0)[wanted].topk(room).indices]
    columns.gather(torch.cat([support.nonzero().squeeze(1), wanted]).unique())
    return int(weight.ne(0).sum()) <= LARGEST


def _settle(problem: Linear, columns: Columns, z: Tensor, goal: float) -> None:
    """Newton steps on the gathered columns until their distance is below the goal, or stays."""
    loss, block, share = problem.loss, columns.block, problem.loss.share.unsqueeze(1)
    quadratic, eps = isinstance(loss, LeastSquares), torch.finfo(z.dtype).eps
    intercept = problem.intercept is not None
    weight = problem.weight[:, columns.index]
    far = max(1.0, float(columns.mean.abs().max())) if intercept else 1.0
    allowed = None if problem.allowed is None else problem.allowed[:, columns.index]
    local = Linear(loss, weight, None, problem.l1, problem.l2, allowed)
    least, since, bounded = math.inf, 0, False
    for _ in range(1 if quadratic else 20):
        pull = share * loss.slope(z)
        gradient = pull.T @ block
        level = pull.sum(dim=0) if intercept else pull.new_empty(0)
        distance = local.distance(weight, gradient)
        worst = float(distance.max()) if distance.numel() else 0.0
        if intercept:  # as the gradient of columns that are not centred would feel it
            worst = max(worst, float(level.abs().max()) * far)
        since = 0 if worst < 0.7 * least else since + 1
        least = min(least, worst)
        if worst <= goal or since == 2:
            break
        pairs = (weight != 0) | (distance > 0)
        if quadratic and local.allowed is None:
            pairs = torch.ones_like(pairs)
        outs, at = pairs.nonzero(as_tuple=True)
        h = loss.hessian(None if bounded else z, columns, outs, at, intercept=intercept)
        h = h if quadratic else h.double()  # its rounding is mended by the next round's gradient
        count = len(outs)
        if problem.l2:
            ridge = torch.zeros_like(h[0])
            ridge[:count] = 2 * problem.l2
            h = h + ridge.diag()
        old = torch.cat([weight[outs, at], torch.zeros_like(level)]).to(h.dtype)
        slope = torch.cat([gradient[outs, at] + 2 * problem.l2 * weight[outs, at], level]).to(
            h.dtype
        )
        l1 = torch.full_like(old, problem.l1)
        l1[count:] = 0.0
        new = active_set(h, h @ old - slope, l1, old, tolerance=0.3 * goal / far, eps=eps)
        move = (new - old).to(z.dtype)
        change = torch.zeros_like(weight)
        change[outs, at] = move[:count]
        shift = block @ change.T + move[count:] if intercept else block @ change.T
        step = 1.0
        target = weight.clone()
        target[outs, at] = new[:count].to(z.dtype)
        if not quadratic:
            fall = float(gradient.reshape(-1) @ change.reshape(-1) + level @ move[count:])
            step = _step(local, z, shift, weight, target, fall)
            if not step:
                if bounded:
                    break
                bounded, least = True, math.inf  # next with a curvature that is always enough
        weight = target if step == 1.0 else weight + step * (target - weight)
        z = z + step * shift
        if problem.intercept is not None:
            centre = (change @ columns.mean[columns.index]) * step
            problem.intercept += step * move[count:] - centre
    problem.weight[:, columns.index] = weight


def _step(
    problem: Linear, z: Tensor, shift: Tensor, weight: Tensor, target: Tensor, slope: float
) -> float:
    """Halve a Newton step until the objective falls as far as its model promises, by a part.

    0 where it never does: rounding, or a model that is useless so far from its minimum.
    """
    wide, far = z.double(), shift.double()
    now = float(problem.loss.value(wide))
    before = float(problem.penalty(weight.double()))
    promised = slope + float(problem.penalty(target.double())) - before
    rounding = 10 * torch.finfo(z.dtype).eps * (abs(now) + before)
    step = 1.0
    while step > 1e-6:
        there = (weight + step * (target - weight)).double()
        value = float(problem.loss.value(wide + step * far) + problem.penalty(there))
        if value <= now + before + 0.1 * step * promised + rounding:
            return step
        step /= 2
    return 0.0
