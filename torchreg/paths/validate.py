"""K-fold cross-validation along a path."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from torchreg.paths.follow import Fit, path
from torchreg.paths.points import Path
from torchreg.paths.strengths import critical_strength, grid
from torchreg.regularizer import Regularizer
from torchreg.solver.losses import Logistic, SampleLoss
from torchreg.solver.losses.base import told
from torchreg.solver.solver import check_kinds

Folds = Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class CrossValidation:
    """Held-out losses along a path, and the two usual choices."""

    strengths: list[float]
    """From strong to weak, as the path has them."""

    losses: Tensor
    """The mean loss on held-out samples: (folds, strengths)."""

    path: Path
    """The path on all samples."""

    @property
    def mean(self) -> list[float]:
        """The held-out loss, averaged over the folds."""
        return self.losses.mean(dim=0).tolist()

    @property
    def standard_error(self) -> list[float]:
        """Its standard error: the deviation over the folds, over the root of their number."""
        return (self.losses.std(dim=0) / math.sqrt(len(self.losses))).tolist()

    @property
    def best(self) -> int:
        """The index of the least held-out loss; of equals, the strongest."""
        least = min(self.mean)
        equal = [i for i, mean in enumerate(self.mean) if mean == least]
        return max(equal, key=lambda i: self.strengths[i])

    @property
    def one_standard_error(self) -> int:
        """The index of the strongest within one standard error of the best: never weaker."""
        limit = self.mean[self.best] + self.standard_error[self.best]
        near = [i for i, mean in enumerate(self.mean)
                if mean <= limit and self.strengths[i] >= self.strengths[self.best]]  # fmt: skip
        return max(near, key=lambda i: self.strengths[i])


def cross_validate(
    regularizer: Regularizer,
    loss: SampleLoss,
    *,
    folds: int | Folds = 5,
    seed: int = 0,
    strengths: Sequence[float] | None = None,
    points: int = 50,
    ratio: float = 1e-2,
    fit: Fit | None = None,
    measure: Callable[[Tensor, Tensor], Tensor] | None = None,
    tolerance: float | None = None,
    progress: bool | None = False,
) -> CrossValidation:
    """Follow the same path on all samples and on each fold's, and read the loss on what is left.

    Args:
        regularizer: the penalties and their model, which is left at the best strength. The
            folds work on copies.
        loss: a :class:`torchreg.LeastSquares` or :class:`torchreg.Logistic`, of any model.
        folds: their number, drawn from ``seed`` (each with the same mix of classes for
            :class:`torchreg.Logistic`), or pairs of row indices (inside, held out).
        seed: draws the folds.
        strengths: as in :func:`torchreg.path`.
        points: as in :func:`torchreg.path`.
        ratio: as in :func:`torchreg.path`.
        fit: as in :func:`torchreg.path`; it is given each fold's own regularizer and loss.
        measure: ``(outputs, targets) -> (samples,)``, smaller is better, instead of the loss;
            targets are shaped (samples, outputs), classes one-hot.
        tolerance: as in :func:`torchreg.path`.
        progress: as in :func:`torchreg.path`.

    Raises:
        ValueError: fewer than two folds, or more than samples; a fold that lacks a class, holds
            out nothing, only weight 0, or what it has learnt from; a measure that is not one per
            sample; what :func:`torchreg.path` raises.

    Example:
        >>> import torchreg as tr
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(60, 8, dtype=torch.float64)
        >>> y = 3 * x[:, 0] + torch.randn(60, dtype=torch.float64)
        >>> model = torch.nn.Linear(8, 1, dtype=torch.float64)
        >>> found = tr.cross_validate(
        ...     tr.Regularizer(model, tr.L1(1.0)), tr.LeastSquares(x, y), points=10
        ... )
        >>> found.path.points[found.one_standard_error].nonzero
        1

    Source: T. Hastie, R. Tibshirani and J. Friedman, "The elements of statistical learning"
    (2009), section 7.10, for both choices.
    """
    if not isinstance(loss, SampleLoss):
        raise TypeError(
            "cross-validation takes samples apart, so the loss must know them: pass a "
            f"torchreg.LeastSquares or torchreg.Logistic, found {type(loss).__name__}."
        )
    check_kinds(regularizer, loss)
    given: Any = folds
    parts = _folds(loss, int(given), seed) if isinstance(given, Integral) else _given(loss, given)
    if len(parts) < 2:
        raise ValueError(f"cross-validation needs at least two folds, found {len(parts)}.")
    if strengths is None:
        strengths = grid(critical_strength(regularizer, loss), points=points, ratio=ratio)
    begin = copy.deepcopy(regularizer)
    whole = path(regularizer, loss, strengths=strengths, fit=fit, tolerance=tolerance,
                 progress=progress)  # fmt: skip
    rows = []
    for k, (inside, outside) in enumerate(parts):
        own = copy.deepcopy(begin)
        row = []
        try:
            fold = path(own, loss.rows(inside), strengths=whole.strengths, fit=fit,
                        tolerance=tolerance, progress=progress)  # fmt: skip
            for i in range(len(fold)):
                fold.load(i)
                row.append(_held_out(own, loss, outside, measure))
        except ValueError as error:
            raise ValueError(
                f"fold {k}, which learns from {len(inside)} of {len(loss.x)} samples: {error}"
            ) from error
        rows.append(row)
    result = CrossValidation(whole.strengths, torch.tensor(rows, dtype=torch.float64), whole)
    if not bool(torch.isfinite(result.losses).all()):
        raise ValueError("a held-out loss is not finite: no strength can be chosen by it.")
    whole.load(result.best)
    return result


def _held_out(
    regularizer: Regularizer,
    loss: SampleLoss,
    rows: Tensor,
    measure: Callable[[Tensor, Tensor], Tensor] | None,
) -> float:
    model = regularizer.model
    training = model.training
    model.eval()
    with torch.no_grad():
        outputs = model(loss.x[rows])
    model.train(training)
    outputs = outputs.unsqueeze(1) if outputs.dim() == 1 else outputs
    outputs = outputs if loss.offset is None else outputs + loss.offset[rows]
    share = loss.share[rows]
    if not bool(share.any()):
        raise ValueError("all of the samples that it holds out have weight 0: give other folds.")
    each = loss.each(outputs, rows) if measure is None else measure(outputs, loss.y[rows])
    if not isinstance(each, Tensor) or each.shape != share.shape:
        raise ValueError(
            f"measure must return one number per sample, shaped {tuple(share.shape)}, found "
            f"{told(each)}."
        )
    return float((share * each).sum() / share.sum())


def _given(loss: SampleLoss, folds: Folds) -> Folds:
    """Folds as row indices, once they make sense."""
    try:
        pairs = [(torch.as_tensor(a), torch.as_tensor(b)) for a, b in folds]
    except (TypeError, ValueError) as error:
        raise ValueError(
            "folds must be a number, or pairs (rows inside, rows held out) of indices; found "
            f"{type(folds).__name__}: {error}."
        ) from error
    size, found = len(loss.x), []
    for k, pair in enumerate(pairs):
        rows = [r.nonzero().squeeze(1) if r.dtype == torch.bool else r.long() for r in pair]
        rows = [r.to(loss.x.device) for r in rows]
        for r in rows:
            if r.dim() != 1 or not len(r) or int(r.min()) < 0 or int(r.max()) >= size:
                raise ValueError(
                    f"fold {k}: expected row indices from 0 to {size - 1}, at least one inside "
                    f"and one held out; found {told(r)}."
                )
        if both := int(torch.isin(rows[0], rows[1]).sum()):
            raise ValueError(
                f"fold {k} learns from {both} of the rows that it holds out: give disjoint rows."
            )
        found.append((rows[0], rows[1]))
    return found


def _folds(loss: SampleLoss, count: int, seed: int) -> Folds:
    """Random parts of equal size; for classes, of equal mix."""
    size = len(loss.x)
    if not 2 <= count <= size:
        raise ValueError(f"expected 2 to {size} folds for {size} samples, found {count}.")
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    if isinstance(loss, Logistic):
        order = order[loss.labels.cpu()[order].sort(stable=True).indices]
    part = torch.empty(size, dtype=torch.long)
    part[order] = torch.arange(size) % count
    part = part.to(loss.x.device)
    return [((part != k).nonzero().squeeze(1), (part == k).nonzero().squeeze(1))
            for k in range(count)]  # fmt: skip
