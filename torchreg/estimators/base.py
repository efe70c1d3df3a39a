"""What the estimators share: arrays to tensors, one fit, one choice by cross-validation."""

import math
from abc import abstractmethod
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, is_classifier
from sklearn.model_selection import check_cv
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor, nn

from torchreg.paths import cross_validate
from torchreg.penalties import ElasticNet
from torchreg.regularizer import Regularizer
from torchreg.report import Support, support
from torchreg.solver import SampleLoss, solve


class LinearEstimator(BaseEstimator):  # type: ignore[misc]
    """A linear model with ``strength * (l1_ratio |w| + (1 - l1_ratio) / 2 w^2)``.

    A subclass makes the loss and reads the outputs; one with a ``cv`` parameter chooses its
    strength by cross-validation.
    """

    coef_: Any
    intercept_: Any

    @abstractmethod
    def _loss(self, x: Tensor, y: Any, weight: Tensor | None) -> SampleLoss:
        """The mean loss over the samples."""

    @abstractmethod
    def _targets(self, y: Any) -> Any:
        """The targets as the loss takes them; sets what belongs to them (``classes_``)."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Solve the problem to its certificate.

        Args:
            X: (samples, features); float32 is solved in float32, all else in float64.
            y: (samples,).
            sample_weight: (samples,); the loss is the weighted mean.

        Raises:
            ValueError: input that does not fit, labels of one class, an ``l1_ratio`` outside
                [0, 1].

        Warns:
            NotConverged: the solver stopped before its tolerance.
        """
        X, y = validate_data(
            self, X, y, dtype=[np.float64, np.float32], y_numeric=not is_classifier(self)
        )
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X, dtype=X.dtype)
        self._check_parameters()
        targets = self._targets(y)
        x = self._tensor(X)
        weight = None if sample_weight is None else self._tensor(sample_weight)
        loss = self._loss(x, targets, weight)
        model = nn.utils.skip_init(
            nn.Linear, x.shape[1], loss.y.shape[1], self.fit_intercept, device=x.device,
            dtype=x.dtype,
        )  # fmt: skip
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
        self._solve(model, loss, y)
        weights = model.weight.detach().cpu().numpy()
        bias = model.bias.detach().cpu().numpy() if self.fit_intercept else weights[:, 0] * 0
        self._keep(weights, bias)
        return self

    def _check_parameters(self) -> None:
        """Say what is wrong by the names of the parameters here."""
        strength = getattr(self, "strength", 0.0)
        if not _number(strength) or not 0 <= strength < math.inf:
            raise ValueError(f"strength must be a finite number of at least 0, found {strength!r}.")
        if not _number(self.l1_ratio) or not 0 <= self.l1_ratio <= 1:
            raise ValueError(f"l1_ratio must be between 0 and 1, found {self.l1_ratio!r}.")
        if self.tol is not None and not (_number(self.tol) and self.tol > 0):
            raise ValueError(f"tol must be a number above 0 or None, found {self.tol!r}.")
        most = getattr(self, "max_iter", None)
        if most is not None and not (isinstance(most, Integral) and int(most) >= 1):
            raise ValueError(f"max_iter must be an integer of at least 1 or None, found {most!r}.")

    def _solve(self, model: nn.Linear, loss: SampleLoss, y: Any) -> None:
        if not hasattr(self, "cv"):
            penalty = ElasticNet.from_alpha(self.strength, self.l1_ratio)
            solution = solve(
                Regularizer(model, penalty, "weight") if penalty.strength else _free(model),
                loss, tolerance=self.tol,
                iterations=None if self.max_iter is None else int(self.max_iter),
            )  # fmt: skip
        else:
            if self.choice not in ("best", "one_standard_error"):
                raise ValueError(
                    f"choice must be 'best' or 'one_standard_error', found {self.choice!r}."
                )
            folds = check_cv(self.cv, y, classifier=is_classifier(self))
            parts = [
                (
                    torch.from_numpy(inside).to(loss.x.device),
                    torch.from_numpy(out).to(loss.x.device),
                )
                for inside, out in folds.split(np.zeros((len(y), 1)), y)
            ]
            unit = ElasticNet.from_alpha(1.0, self.l1_ratio)
            found = cross_validate(
                Regularizer(model, unit, "weight"), loss, folds=parts, strengths=self.strengths,
                points=self.points, ratio=self.ratio, tolerance=self.tol,
            )  # fmt: skip
            index = getattr(found, self.choice)
            found.path.load(index)
            solution = found.path.points[index].solution
            self.strengths_ = np.array(found.strengths)
            self.losses_ = found.losses.numpy()
            self.coef_path_ = found.path.coefficients().numpy()
            self.strength_ = found.strengths[index]
        self.n_iter_ = max(1, solution.iterations)
        self.residual_ = solution.residual
        self.gap_ = solution.gap
        self.converged_ = solution.converged

    def _keep(self, weights: Any, bias: Any) -> None:
        self.coef_, self.intercept_ = weights, bias

    def _outputs(self, X: Any) -> Any:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        return X @ np.atleast_2d(self.coef_).T + self.intercept_

    def support(self) -> Support:
        """The features with a nonzero coefficient, by the names of the data frame's columns.

        ``print`` shows them; ``support().used`` is the list.
        """
        check_is_fitted(self)
        names = getattr(self, "feature_names_in_", None)
        return support(torch.from_numpy(np.atleast_2d(self.coef_)), names)

    def _tensor(self, array: Any) -> Tensor:
        if not (array.flags.writeable and array.dtype.isnative):
            array = array.astype(array.dtype.newbyteorder("="))  # a copy, as torch can have it
        return torch.from_numpy(array).to(self.device)


def _number(found: object) -> bool:
    return isinstance(found, Real) and not isinstance(found, bool)


def _free(model: nn.Linear) -> Regularizer:
    """A strength of 0, which is no mistake here: every weight on the support is free."""
    from torchreg.penalties import FixedSupport

    return Regularizer(model, FixedSupport(torch.ones_like(model.weight, dtype=torch.bool)))
