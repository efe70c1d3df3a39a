"""What the two textbook cases share: a certified solver, cross-validation, the tables.

``experiments.linear`` and ``experiments.classify`` are the worked examples: begin there, then
read :func:`solve`, where torchreg is used.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import SGD

import torchreg as tr

CERTIFICATE = 1e-8
"""A solution is done when its stationarity residual is below this part of the strength."""

ROUGH = 1e-2
"""The same for the fits of the cross-validation, which only compare held-out losses."""

MOMENTUM = 0.99
"""Close to 1 since columns are correlated: those of the tumours have correlation eigenvalues from
1e-4 to 13. L1 at 0.00316 takes 8,320 steps there with 0.9, 3,460 with 0.99, 6,420 with 0.995; at
0.00215 on another split 37,440 with 0.98 and 17,860 with 0.99."""


class Loss(NamedTuple):
    """A smooth mean loss of a linear model."""

    mean: Callable[[Tensor, Tensor], Tensor]
    """``(outputs, targets) -> scalar``."""

    curvature: float
    """The largest second derivative of one sample's loss in its output."""


@dataclass(frozen=True)
class Fit:
    """A solution, with the number that certifies it."""

    model: nn.Linear
    residual: float
    steps: int

    @property
    def coefficients(self) -> Tensor:
        """The weights, and the intercept last."""
        return torch.cat([self.model.weight.detach().flatten(), self.model.bias.detach()])


def penalties(l1_ratio: float) -> dict[str, Callable[[float], tr.Penalty]]:
    """The three penalties as functions of scikit-learn's alpha, so that a strength means the same.

    All are ``alpha * (l1_ratio * |w| + (1 - l1_ratio) / 2 * w^2)``, ratio 0, 1 and in between.
    """
    return {
        "L2": tr.L2.from_weight_decay,
        "L1": tr.L1,
        "Elastic Net": partial(tr.ElasticNet.from_alpha, l1_ratio=l1_ratio),
    }


def at(name: str, strength: float) -> str:
    """A penalty and its strength, as the table has them."""
    return f"{name} at strength {strength:.4g}"


def standardise(train: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Shift and scale columns to mean 0 and deviation 1 in ``train``; ``other`` has no say."""
    mean, deviation = train.mean(dim=0), train.std(dim=0, correction=0)
    return (train - mean) / deviation, (other - mean) / deviation


def solve(
    x: Tensor,
    y: Tensor,
    loss: Loss,
    penalty: tr.Penalty,
    *,
    steps: int,
    tolerance: float = CERTIFICATE,
    start: nn.Linear | None = None,
    name: str | None = None,
) -> Fit:
    """Minimise ``loss.mean(x w + b, y) + penalty(w)`` over w and b, on all samples at once.

    Nesterov momentum with the step 1 / L, where L bounds the curvature of the mean loss:
    ``loss.curvature`` times the largest eigenvalue of ``[x, 1]' [x, 1] / n``.

    Args:
        x: (samples, features), y: (samples, 1), both float64.
        loss: the smooth part.
        penalty: acts on w; the intercept b is free.
        steps: give up after this many.
        tolerance: stop when the stationarity residual is below.
        start: where to begin (not changed); zero by default.
        name: what an error calls this penalty, beside its strength for example.

    Raises:
        ArithmeticError: not certified after all steps. There is no uncertified result.
    """
    model = copy.deepcopy(start) if start else nn.Linear(x.shape[1], 1, dtype=x.dtype)
    if not start:
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
    with_intercept = torch.cat([x, torch.ones_like(y)], dim=1)
    lipschitz = loss.curvature * float(torch.linalg.matrix_norm(with_intercept, 2)) ** 2 / len(x)

    regularizer = tr.Regularizer(model, penalty)  # by default weights only, no biases
    sgd = SGD(model.parameters(), lr=1 / lipschitz, momentum=MOMENTUM, nesterov=True)
    optimizer = tr.ProximalOptimizer(sgd, regularizer)
    residual = float("inf")
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        # The penalty is left out of this loss: the optimizer applies it.
        loss.mean(model(x), y).backward()
        optimizer.step()
        if step % 20 == 0 or step == steps:
            residual = tr.stationarity(regularizer, lambda: loss.mean(model(x), y)).residual
            if residual <= tolerance:
                return Fit(model, residual, step)
    raise ArithmeticError(
        f"{name or repr(penalty)} is not solved after {steps} steps: the stationarity residual is "
        f"{residual:.1e} of the strength, {tolerance:.0e} is asked for. Allow more with --steps."
    )


def cross_validate(
    x: Tensor,
    y: Tensor,
    loss: Loss,
    penalty_of: Callable[[float], tr.Penalty],
    strengths: Sequence[float],
    folds: Iterable[tuple[Any, Any]],
    *,
    steps: int,
    name: str,
) -> list[float]:
    """The mean loss on held-out data at each strength, averaged over the folds.

    Args:
        x: raw features, (samples, features); each fold is standardised anew.
        y: (samples, 1).
        loss: fitted with the penalty, read without it.
        penalty_of: a strength to its penalty.
        strengths: from strong to weak: each solution starts at the one before.
        folds: pairs of row indices (inside, held out).
        steps: most steps of one fit.
        name: what an error calls the penalty.
    """
    errors = torch.zeros(len(strengths), dtype=torch.float64)
    count = 0
    for x_in, y_in, x_out, y_out in standardised_folds(x, y, folds):
        count += 1
        model: nn.Linear | None = None
        for i, strength in enumerate(strengths):
            model = solve(
                x_in, y_in, loss, penalty_of(strength), steps=steps, tolerance=ROUGH, start=model,
                name=at(name, strength),
            ).model  # fmt: skip
            with torch.no_grad():
                errors[i] += loss.mean(model(x_out), y_out)
    return [float(error) / count for error in errors]


def fit_best(
    x: Tensor,
    y: Tensor,
    loss: Loss,
    penalty_of: Callable[[float], tr.Penalty],
    strengths: Sequence[float],
    folds: Iterable[tuple[Any, Any]],
    *,
    steps: int,
    name: str,
) -> tuple[float, list[float], Fit]:
    """Choose the strength of the least held-out loss, and solve with it on all of x.

    Arguments and errors are those of :func:`cross_validate` and :func:`solve`.

    Returns:
        The strength, the held-out loss at each strength, the solution on standardised x.
    """
    errors = cross_validate(x, y, loss, penalty_of, strengths, folds, steps=steps, name=name)
    strength = min(zip(errors, strengths, strict=True), key=lambda pair: pair[0])[1]
    x_train, _ = standardise(x, x)
    fit = solve(x_train, y, loss, penalty_of(strength), steps=steps, name=at(name, strength))
    return strength, errors, fit


def standardised_folds(
    x: Tensor, y: Tensor, folds: Iterable[tuple[Any, Any]]
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Each fold as (x, y) to fit and (x, y) held out; the statistics are those of the first."""
    for inside, outside in folds:
        fitted, held_out = standardise(x[inside], x[outside])
        yield fitted, y[inside], held_out, y[outside]
