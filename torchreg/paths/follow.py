"""A path: one certified solution per strength, each begun at the one before."""

import math
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path as File
from typing import Any

import torch
from torch import Tensor

from torchreg.certificate import stationarity
from torchreg.paths.points import Path, Point
from torchreg.paths.progress import Progress
from torchreg.paths.storage import read, write
from torchreg.paths.strengths import critical_strength, grid, scaled
from torchreg.regularizer import Regularizer
from torchreg.solver.losses import SampleLoss
from torchreg.solver.result import Solution
from torchreg.solver.solver import check_kinds, solve

Loss = Callable[[], Tensor] | SampleLoss
Fit = Callable[[Regularizer, Any], None]

REST = 0.1
"""The residual up to which a trained network counts as at rest."""


def path(
    regularizer: Regularizer,
    loss: Loss,
    *,
    strengths: Sequence[float] | None = None,
    points: int = 50,
    ratio: float = 1e-2,
    fit: Fit | None = None,
    tolerance: float | None = None,
    gap: float | None = None,
    resume: str | os.PathLike[str] | None = None,
    progress: bool | None = False,
) -> Path:
    """Solve loss + penalty at every strength of a grid, each from the solution before.

    Without ``fit`` the problem is taken to be convex: the grid goes down from the critical
    strength, where nothing is selected, and :func:`torchreg.solve` certifies every point. With
    ``fit``, for networks, it goes up, dense to sparse: zeros that a network has lost cannot tell
    whether they were wanted. Each point of a network is certified too, though seldom at rest.

    Strengths are multiples of the penalties as they are: build them with strength 1,
    ``L1(1.0)`` or ``ElasticNet.from_alpha(1.0, l1_ratio=0.5)``.

    Args:
        regularizer: the penalties and their model, which is left at the last point.
        loss: as in :func:`torchreg.solve`; with ``fit``, the loss that certifies.
        strengths: the grid, if not from the critical strength; sorted as told above.
        points: of the grid.
        ratio: the smallest strength of the grid over the largest.
        fit: ``fit(regularizer, loss)`` trains the model, from where it is, at the strengths of
            the regularizer that it is given. It sets its own seeds.
        tolerance: as in :func:`torchreg.solve`; with ``fit``, the residual up to which a point
            counts as converged, by default 0.1.
        gap: as in :func:`torchreg.solve`; not with ``fit``.
        resume: a file that holds the points so far, written whole after each. Begun again with
            the same grid, the path goes on after the last of them. What it holds is certified
            anew, so that a file of other data or penalties is found out.
        progress: print a line per point to standard error; None does where that is a terminal.

    Raises:
        ValueError: an empty grid, a negative or infinite strength, a file of another grid,
            problem or model, or what :func:`critical_strength` and :func:`torchreg.solve` raise.
        TypeError: no regularizer, or no loss.
        FileNotFoundError: there is no folder for the file to resume from.

    Warns:
        NotConverged: a point that stopped before its tolerance. Not with ``fit``, where few
        points are at rest: ``print`` marks those that are not.

    Example:
        >>> import torchreg as tr
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(40, 6, dtype=torch.float64)
        >>> model = torch.nn.Linear(6, 1, dtype=torch.float64)
        >>> found = tr.path(tr.Regularizer(model, tr.L1(1.0)),
        ...                 tr.LeastSquares(x, 3 * x[:, 0] - x[:, 4]), points=4)
        >>> [point.nonzero for point in found]
        [0, 2, 2, 2]

    Source: J. Friedman, T. Hastie and R. Tibshirani, "Regularization paths for generalized
    linear models via coordinate descent" (2010); for networks, I. Lemhadri et al., "LassoNet"
    (2021), which goes from dense to sparse.
    """
    check_kinds(regularizer, loss)
    if fit is not None and gap is not None:
        raise ValueError("a duality gap is for convex problems: leave out gap, or fit.")
    if strengths is None:
        strengths = grid(critical_strength(regularizer, loss), points=points, ratio=ratio)
    try:
        order = sorted((float(s) for s in strengths), reverse=fit is None)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"strengths must be a list of numbers such as [1.0, 0.1], found {strengths!r}."
        ) from error
    if not order:
        raise ValueError("the grid of strengths is empty: there is nothing to solve.")
    if not all(0 <= s < float("inf") for s in order):
        raise ValueError(f"strengths must be finite and at least 0, found {order}.")
    found = [] if resume is None else read(File(resume), order)
    if found:
        _check_held(regularizer, loss, found, tolerance, gap, convex=fit is None)
    elif fit is None:
        with torch.no_grad():
            for parameter in regularizer.selection().values():
                parameter.zero_()
    shown = Progress(len(order), progress)
    for strength in order[len(found) :]:
        here = scaled(regularizer, strength)
        if fit is None:
            solution = solve(here, loss, tolerance=tolerance, gap=gap)
        else:
            fit(here, loss)
            solution = _certify(here, loss, tolerance)
        found.append(_point(regularizer, strength, solution, solution.objective - here().item()))
        shown.tell(len(found), f"strength {strength:.4g}, {found[-1].nonzero:,} nonzero")
        if resume is not None:
            write(File(resume), order, found)
    total = sum(p.numel() for p in regularizer.selection().values())
    return Path(regularizer, tuple(found), total)


def _check_held(
    regularizer: Regularizer,
    loss: Loss,
    held: list[Point],
    tolerance: float | None,
    gap: float | None,
    *,
    convex: bool,
) -> None:
    """Certify the points of a file on this problem, and load the last."""
    kinds = {p.dtype for p in regularizer.model.parameters()}
    near = 1e-3 if torch.float32 in kinds else 1e-6
    asked = (1e-4 if torch.float32 in kinds else 1e-6) if tolerance is None else tolerance
    for point in held:
        try:
            regularizer.model.load_state_dict(point.state)
        except RuntimeError as error:
            raise ValueError(f"the file to resume from is of another model: {error}") from error
        here, there = _certify(scaled(regularizer, point.strength), loss, None), point.solution
        same = math.isclose(here.objective, there.objective, rel_tol=near, abs_tol=near**2)
        if convex and same and point.strength > 0:  # a residual is relative to the strength
            same = here.residual <= 10 * max(there.residual, asked)
        told = (
            f"the file to resume from holds another problem: at strength {point.strength:.4g} its "
            f"objective is {there.objective:.6g} with a residual of {there.residual:.2g}, that of "
            f"this loss and these penalties {here.objective:.6g} with {here.residual:.2g}. Give "
            "the same data and penalties, delete the file, or give another."
        )
        if not same and convex:
            raise ValueError(told)
        if not same:  # a network's loss may depend on its mode or on chance
            warnings.warn(told, stacklevel=3)
        if convex and gap is None and there.converged and there.residual > asked:
            raise ValueError(
                f"the file to resume from was solved to a residual of {there.residual:.2g} only, "
                f"{asked:.2g} is asked for: delete it, or give another."
            )


def _certify(regularizer: Regularizer, loss: Loss, tolerance: float | None) -> Solution:
    """What :func:`torchreg.solve` would say of the model as it is now."""

    def value() -> Tensor:
        return loss(regularizer.model) if isinstance(loss, SampleLoss) else loss()

    residual = stationarity(regularizer, value).residual
    with torch.no_grad():
        objective = float(value() + regularizer())
    return Solution(
        objective, residual, None, 0, residual <= (REST if tolerance is None else tolerance)
    )


def _point(regularizer: Regularizer, strength: float, solution: Solution, loss: float) -> Point:
    state = {n: t.detach().cpu().clone() for n, t in regularizer.model.state_dict().items()}
    nonzero = sum(int(p.detach().ne(0).sum()) for p in regularizer.selection().values())
    return Point(strength, loss, nonzero, solution, state)
