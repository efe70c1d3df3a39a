"""Strengths to try: from the one that zeroes everything, geometrically down."""

import copy
import math
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from torchreg.bundle import Term
from torchreg.debiasing import fix_support
from torchreg.penalties.base import Penalty
from torchreg.regularizer import Regularizer
from torchreg.schedule.strength import scale, strengths
from torchreg.solver.fista import Objective
from torchreg.solver.losses import SampleLoss
from torchreg.solver.solver import as_linear, check_kinds, solve


def scaled(regularizer: Regularizer, factor: float) -> Regularizer:
    """The same penalties on the same model, with every strength multiplied.

    Nothing is shared but the model, so the given regularizer keeps its strengths.

    Example:
        >>> from torchreg import ElasticNet
        >>> regularizer = Regularizer(torch.nn.Linear(3, 1), ElasticNet.from_alpha(1.0, 0.5))
        >>> scaled(regularizer, 0.1).terms[0].penalty
        ElasticNet(l1=0.05, l2=0.025)
    """
    result = copy.copy(regularizer)
    result.terms = [Term(_times(term.penalty, factor), term.slots) for term in regularizer.terms]
    return result


def _times(penalty: Penalty, factor: float) -> Penalty:
    result = copy.deepcopy(penalty)
    scale(result, strengths(penalty), factor)
    return result


def critical_strength(regularizer: Regularizer, loss: Callable[[], Tensor] | SampleLoss) -> float:
    """The smallest multiple of the penalties at which no penalised weight is kept (lambda max).

    What is not penalised, an intercept for example, is fitted first with all penalised weights
    at zero; forgetting that gives too large a number as soon as targets have a mean. The model
    is left as it was found.

    The unit: a multiple of the strengths as they are. Build the penalty with strength 1, as in
    ``L1(1.0)`` or ``ElasticNet.from_alpha(1.0, l1_ratio=0.5)``, and the multiple is the strength.

    Args:
        regularizer: convex penalties, and their model.
        loss: as in :func:`torchreg.solve`.

    Raises:
        ValueError: no finite multiple makes zero stationary (L2, a strength of 0), or every
            multiple does, within the rounding of the data's type; nothing trainable is
            penalised; the loss is not finite or no scalar of this model; groups that are joint
            over several weights.
        TypeError: no regularizer, or no loss.

    Example:
        >>> import torchreg as tr
        >>> x, y = torch.eye(4, dtype=torch.float64), torch.tensor([104.0, 100.0, 100.0, 100.0])
        >>> model = torch.nn.Linear(4, 1, dtype=torch.float64)
        >>> critical_strength(tr.Regularizer(model, tr.L1(1.0)), tr.LeastSquares(x, y))
        0.75
    """
    check_kinds(regularizer, loss)
    before = {p: p.detach().clone() for p in regularizer.model.parameters()}
    try:
        with torch.no_grad():
            for parameter in regularizer.selection().values():
                parameter.zero_()
        if regularizer.unpenalised():
            closed = as_linear(regularizer, loss) if isinstance(loss, SampleLoss) else None
            bias = dict(regularizer.model.named_parameters()).get("bias")
            if closed is not None and closed.intercept is not None and bias is not None:
                assert isinstance(loss, SampleLoss)
                with torch.no_grad():
                    bias.copy_(loss.fit_intercept(loss.start(None)))
            else:
                solve(fix_support(regularizer), loss, tolerance=_tight(regularizer))
        found, noise = _critical(regularizer, loss)
    finally:
        with torch.no_grad():
            for parameter, value in before.items():
                parameter.copy_(value)
    if not math.isfinite(found):
        raise ValueError(
            "no finite strength makes every penalised weight zero (L2 zeroes none, and a strength "
            "of 0 stays 0): choose the strengths yourself, strengths=[...]."
        )
    if noise is None:
        raise ValueError(
            "these penalties keep every weight that is zero at any strength (l0 and its kin), so "
            "a path cannot begin there: give fit= and strengths=, from dense to sparse."
        )
    if found <= noise:
        raise ValueError(
            "the gradient vanishes where all penalised weights are zero, to rounding, so they stay "
            "zero at every strength: are the targets constant, or the features?"
        )
    return found


def _critical(
    regularizer: Regularizer, loss: Callable[[], Tensor] | SampleLoss
) -> tuple[float, float | None]:
    """The critical multiple, and the one below which it is rounding; None if all penalties jump."""
    bound = [(p, penalty) for _, p, penalty in regularizer.items() if p.requires_grad]
    if not bound:
        raise ValueError(
            "no trainable parameter is penalised, so there is no critical strength: select "
            "parameters with requires_grad."
        )
    closure = (lambda: loss(regularizer.model)) if isinstance(loss, SampleLoss) else loss
    objective = Objective(regularizer, closure)
    value, found = objective.at(objective.point())
    if not math.isfinite(value) or not all(bool(torch.isfinite(g).all()) for g in found):
        raise ValueError(
            f"the loss or its gradient is not finite where all penalised weights are zero: the "
            f"loss is {value}. Look for NaN in the data."
        )
    gradients, left = found[: len(bound)], found[len(bound) :]
    rounding = _rounding(loss, left)
    largest, noise = 0.0, None
    for (p, penalty), gradient in zip(bound, gradients, strict=True):
        unit = penalty.critical_strength(torch.ones_like(gradient))
        if unit > 0:
            least = rounding * unit / (penalty.strength or 1.0)
            noise = max(noise or 0.0, least if math.isfinite(least) else 0.0)
        edge = penalty.critical_strength(gradient)
        if edge > 0:
            own = penalty.strength if not math.isinf(edge) else 0.0
            multiple = edge / own if own else math.inf
            if math.isfinite(multiple):  # an elastic net without L1 has no edge
                far = _times(penalty, 1.001 * multiple).distance(torch.zeros_like(p), gradient)
                multiple = math.inf if bool((far > 0).any()) else multiple
            largest = max(largest, multiple)
    return largest, noise


def _rounding(loss: Callable[[], Tensor] | SampleLoss, left: Sequence[Tensor]) -> float:
    """The size of a gradient that may be no more than rounding.

    Of a closure's data nothing is known but what the fit of the unpenalised part has left.
    """
    least = max((float(g.abs().max()) for g in left if g.numel()), default=0.0)
    if not isinstance(loss, SampleLoss):
        return least
    size = float(loss.y.abs().max())
    if loss.offset is not None:
        size = max(size, float(loss.offset.abs().max()))
    columns = float((loss.share @ loss.x.abs().flatten(1)).max())
    return 8 * torch.finfo(loss.x.dtype).eps * size * columns


def _tight(regularizer: Regularizer) -> float:
    kinds = {p.dtype for p in regularizer.model.parameters()}
    return 1e-5 if torch.float32 in kinds else 1e-10


def grid(highest: float, *, points: int, ratio: float) -> list[float]:
    """A geometric grid downward: ``highest`` first, ``ratio * highest`` last.

    Example:
        >>> grid(1.0, points=3, ratio=0.01)
        [1.0, 0.1, 0.01]
    """
    given: Any = points
    if not isinstance(given, Integral) or int(given) < 1:
        raise ValueError(f"a path needs at least one point, an integer; found points={points!r}.")
    share: Any = ratio
    if not isinstance(share, Real) or not 0 < ratio < 1:
        raise ValueError(f"ratio must be a number above 0 and below 1, found {ratio!r}.")
    if points == 1:
        return [highest]
    return [highest * ratio ** (i / (points - 1)) for i in range(points)]
