"""One call for every convex problem: the quick way where the structure is known."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from torchreg.penalties import L1, L2, ElasticNet, FixedSupport
from torchreg.regularizer import Regularizer, check_regularizer
from torchreg.solver.fista import Objective, accelerated
from torchreg.solver.losses import Logistic, SampleLoss
from torchreg.solver.newton import Linear, newton
from torchreg.solver.result import NotConverged, Solution, warn_unless_converged
from torchreg.solver.separation import separates


def solve(
    regularizer: Regularizer,
    loss: Callable[[], Tensor] | SampleLoss,
    *,
    tolerance: float | None = None,
    gap: float | None = None,
    iterations: int | None = None,
) -> Solution:
    """Minimise ``loss + penalty`` over a model's parameters on all data at once, and certify it.

    It starts where the model is (a warm start) and leaves the solution in the model, with exact
    zeros. Trainable parameters that no penalty acts on, an intercept for example, are fitted
    along. There are two ways, and both end with the same certificate:

    - any model, any differentiable loss, any penalty: accelerated proximal gradient with
      backtracking and adaptive restart. For a convex loss and penalty the result is the optimum;
      otherwise a stationary point.
    - one ``nn.Linear`` under :class:`torchreg.LeastSquares` or :class:`torchreg.Logistic` with L1,
      L2, Elastic Net or a fixed support on its weight: Newton's method on the few columns that
      matter, 10 to 100 times quicker, with a duality gap.

    On CPU or CUDA, wherever model and data are. Put a model with dropout or BatchNorm into
    ``eval()`` first: the loss must be the same function each time.

    Args:
        regularizer: the penalties and their model.
        loss: a function without arguments that returns the mean loss over all of the data,
            without the penalty, as a scalar tensor with its graph; or a loss that knows its data.
        tolerance: the stationarity residual to reach, relative to the strength. By default 1e-6
            in float64 and 1e-4 in float32, whose rounding allows little more.
        gap: stop as well once the duality gap is below this part of the objective. Only where
            the loss knows its data.
        iterations: give up after so many; 20,000 by default, or 200 rounds of the quick way.

    Returns:
        The objective, the residual, the gap where it is known, the iterations, and whether the
        tolerance was met.

    Warns:
        NotConverged: it stopped before its tolerance; or a linear model under
            :class:`torchreg.Logistic` without a penalty separates the classes, and no weights
            are the best ones.

    Raises:
        ValueError: the loss is not finite or no scalar of this model; two penalties act on one
            parameter; parameters in half precision, or not of the data's type and device;
            a gap is asked for where none is known; groups that are joint over several weights.
        TypeError: no regularizer, or no loss.

    Example:
        >>> import torchreg as tr
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(50, 200, dtype=torch.float64)
        >>> model = nn.Linear(200, 1, dtype=torch.float64)
        >>> solution = tr.solve(
        ...     tr.Regularizer(model, tr.L1(0.5)), tr.LeastSquares(x, 3 * x[:, 7] + 10)
        ... )
        >>> solution.converged, model.weight.nonzero().tolist()
        (True, [[0, 7]])
    """
    check_kinds(regularizer, loss)
    if doubly := regularizer.overlap():
        raise ValueError(
            f"more than one penalty acts on {', '.join(doubly)}: use one composite penalty such as "
            "torchreg.ElasticNet(l1, l2)."
        )
    tolerance, steps = _tolerance(regularizer, tolerance), iterations
    most: Any = 1 if steps is None else steps
    if not isinstance(most, Integral) or int(most) < 1:
        raise ValueError(f"iterations must be an integer of at least 1, found {steps!r}.")
    if gap is not None and not gap > 0:
        raise ValueError(f"gap must be above 0, found {gap}: or leave it out.")
    solution = None
    problem = as_linear(regularizer, loss)
    if problem is not None:
        solution = newton(problem, tolerance=tolerance, gap=gap, iterations=int(steps or 200))
        model = regularizer.model
        with torch.no_grad():
            _parameter(model, "weight").copy_(problem.weight)
            if problem.intercept is not None:
                _parameter(model, "bias").copy_(problem.intercept)
    elif gap is not None:
        raise ValueError(
            "a duality gap is known for one nn.Linear under torchreg.LeastSquares or "
            "torchreg.Logistic with L1, L2 or ElasticNet on its weight: leave gap out, and stop "
            "by tolerance."
        )
    if solution is None:
        closure = (lambda: loss(regularizer.model)) if isinstance(loss, SampleLoss) else loss
        solution = accelerated(
            Objective(regularizer, closure), tolerance=tolerance, iterations=int(steps or 20_000)
        )
    if _endless(regularizer, loss):
        warnings.warn(
            "the classes are separable and no penalty holds the weights: the logistic loss falls "
            "for ever as they grow, so there is no minimiser, and what was found is no solution. "
            "Use a strength above 0.",
            NotConverged,
            stacklevel=2,
        )
        return replace(solution, converged=False)
    warn_unless_converged(solution, tolerance)
    return solution


def check_kinds(regularizer: Regularizer, loss: object) -> None:
    """Raise a TypeError unless there are a regularizer and something to call for the loss."""
    check_regularizer(regularizer)
    if not callable(loss):
        raise TypeError(
            "the loss must be a function without arguments, such as "
            f"lambda: cross_entropy(model(x), y), or a torchreg.LeastSquares; found {loss!r}."
        )


def _endless(regularizer: Regularizer, loss: object) -> bool:
    """Whether an unpenalised linear model separates the classes."""
    model = regularizer.model
    if not isinstance(loss, Logistic) or type(model) is not nn.Linear or loss.x.dim() != 2:
        return False
    held = any(
        penalty.strength > 0 and not isinstance(penalty, FixedSupport)
        for _, _, penalty in regularizer.items()
    )
    free = all(parameter.requires_grad for parameter in model.parameters())
    return not held and free and separates(loss, model)


def as_linear(regularizer: Regularizer, loss: object) -> Linear | None:
    """The problem with its structure, where it has the one that the quick way takes."""
    model = regularizer.model
    if not isinstance(loss, SampleLoss):
        return None
    _check_like(model, loss)
    if type(model) is not nn.Linear or loss.x.dim() != 2 or not model.weight.requires_grad:
        return None
    penalties = {name: penalty for name, _, penalty in regularizer.items()}
    penalty = penalties.pop("weight", None)
    if penalties or (model.bias is not None and not model.bias.requires_grad):
        return None
    l1, l2, allowed = 0.0, 0.0, None
    if isinstance(penalty, ElasticNet):
        l1, l2 = penalty.l1, penalty.l2
    elif isinstance(penalty, L1):
        l1 = penalty.l1
    elif isinstance(penalty, L2):
        l2 = penalty.l2
    elif isinstance(penalty, FixedSupport):
        allowed = penalty.kept.to(model.weight.device)
    elif penalty is not None:
        return None
    outputs, features = loss.y.shape[1], loss.x.shape[1]
    if model.weight.shape != (outputs, features):
        raise ValueError(
            f"expected nn.Linear({features}, {outputs}) for this loss, found a weight shaped "
            f"{tuple(model.weight.shape)}."
        )
    weight = model.weight.detach().clone()
    if allowed is not None:
        weight = torch.where(allowed, weight, 0.0)
    intercept = None if model.bias is None else model.bias.detach().clone()
    return Linear(loss, weight, intercept, l1, l2, allowed)


def _check_like(model: nn.Module, loss: SampleLoss) -> None:
    for name, parameter in model.named_parameters():
        if parameter.dtype != loss.x.dtype or parameter.device != loss.x.device:
            raise ValueError(
                f"{name} is {parameter.dtype} on {parameter.device}, the data {loss.x.dtype} on "
                f"{loss.x.device}: bring both to one type and device."
            )


def _tolerance(regularizer: Regularizer, asked: float | None) -> float:
    kinds = {p.dtype for p in regularizer.model.parameters() if p.requires_grad}
    if wrong := kinds - {torch.float32, torch.float64}:
        raise ValueError(
            f"parameters are held in {', '.join(sorted(map(str, wrong)))}; a certificate needs "
            "float32 or float64: model.double(), or model.float()."
        )
    if asked is None:
        return 1e-4 if torch.float32 in kinds else 1e-6
    if not asked > 0:
        raise ValueError(f"tolerance must be above 0, found {asked}.")
    return asked


def _parameter(model: nn.Module, name: str) -> nn.Parameter:
    return dict(model.named_parameters())[name]
