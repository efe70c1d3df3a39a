"""Elastic-net regression, with the strength given or chosen by cross-validation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import RegressorMixin
from torch import Tensor

from torchreg.estimators.base import LinearEstimator
from torchreg.solver import LeastSquares, SampleLoss


class ElasticNetRegressor(RegressorMixin, LinearEstimator):  # type: ignore[misc]
    """Minimise ``1/(2n) ||y - Xw - b||^2 + strength * (l1_ratio |w| + (1 - l1_ratio)/2 w^2)``.

    The objective of ``sklearn.linear_model.ElasticNet(alpha=strength, l1_ratio)``; the intercept
    is free. Standardise features of different scales first.

    Args:
        strength: of the penalty, at least 0.
        l1_ratio: the share of L1: 1 is the lasso, 0 is ridge.
        fit_intercept: whether to fit b.
        tol: the stationarity residual to reach, relative to the strength; None for 1e-6 in
            float64 and 1e-4 in float32.
        max_iter: rounds at most; None for 200.
        device: where to compute: ``"cpu"``, ``"cuda"``.

    Attributes:
        coef_: (features,), with exact zeros.
        intercept_: a number.
        converged_: whether ``tol`` was reached; a warning says so too.
        residual_: the stationarity residual reached.
        gap_: the duality gap.
        n_iter_: rounds taken.

    Example:
        >>> X = np.random.default_rng(0).normal(size=(50, 4))
        >>> model = ElasticNetRegressor(strength=0.1).fit(X, 3 * X[:, 1] + 5)
        >>> print(model.support())
        1 of 4 input features used: 1
    """

    def __init__(
        self,
        strength: float = 0.01,
        *,
        l1_ratio: float = 1.0,
        fit_intercept: bool = True,
        tol: float | None = None,
        max_iter: int | None = None,
        device: str = "cpu",
    ) -> None:
        self.strength = strength
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter
        self.device = device

    def predict(self, X: Any) -> Any:
        """The predicted targets: (samples,)."""
        return self._outputs(X)[:, 0]

    def _targets(self, y: Any) -> Any:
        if np.asarray(y).dtype.kind not in "fiub":
            raise ValueError(
                f"the targets of a regression must be numbers, found {np.asarray(y).dtype}: take "
                "LogisticClassifier for labels."
            )
        return y

    def _loss(self, x: Tensor, y: Any, weight: Tensor | None) -> SampleLoss:
        return LeastSquares(x, self._tensor(y), sample_weight=weight)

    def _keep(self, weights: Any, bias: Any) -> None:
        self.coef_, self.intercept_ = weights[0], float(bias[0])


class ElasticNetRegressorCV(ElasticNetRegressor):
    """:class:`ElasticNetRegressor` with the strength chosen by K-fold cross-validation.

    Args:
        l1_ratio: the share of L1, above 0 unless strengths are given.
        strengths: those to try; by default a grid from the critical strength downward.
        points: of that grid.
        ratio: its smallest strength over its largest.
        cv: folds: a number, or a scikit-learn splitter.
        choice: ``"best"``, the least held-out loss, or ``"one_standard_error"``, the strongest
            within one standard error of it.
        fit_intercept: whether to fit b.
        tol: as in :class:`ElasticNetRegressor`.
        device: where to compute.

    Attributes:
        strength_: the strength that was chosen.
        strengths_: those that were tried, from strong to weak.
        losses_: held-out losses (folds, strengths).
        coef_path_: (strengths, 1, features).
    """

    def __init__(
        self,
        *,
        l1_ratio: float = 1.0,
        strengths: Sequence[float] | None = None,
        points: int = 50,
        ratio: float = 1e-2,
        cv: Any = 5,
        choice: str = "best",
        fit_intercept: bool = True,
        tol: float | None = None,
        device: str = "cpu",
    ) -> None:
        self.l1_ratio = l1_ratio
        self.strengths = strengths
        self.points = points
        self.ratio = ratio
        self.cv = cv
        self.choice = choice
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.device = device
