"""Multinomial logistic regression with L1 and L2, with and without cross-validation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from torch import Tensor

from torchreg.estimators.base import LinearEstimator
from torchreg.solver import Logistic, SampleLoss


class LogisticClassifier(ClassifierMixin, LinearEstimator):  # type: ignore[misc]
    """Minimise ``mean cross-entropy + strength * (l1_ratio |w| + (1 - l1_ratio)/2 w^2)``.

    The objective of ``sklearn.linear_model.LogisticRegression(C=1 / (n * strength), l1_ratio)``.
    Two classes have one weight vector, more have one each (softmax); intercepts are free.

    Args:
        strength: of the penalty, at least 0, relative to the *mean* loss.
        l1_ratio: the share of L1: 1 is the lasso's penalty, 0 is ridge.
        fit_intercept: whether to fit intercepts.
        tol: the stationarity residual to reach, relative to the strength; None for 1e-6 in
            float64 and 1e-4 in float32.
        max_iter: rounds at most; None for 200.
        device: where to compute: ``"cpu"``, ``"cuda"``.

    Attributes:
        coef_: (classes, features), or (1, features) for two classes, with exact zeros.
        intercept_: (classes,), or (1,).
        classes_: the labels.
        converged_: whether ``tol`` was reached; a warning says so too.
        residual_: the stationarity residual reached.
        gap_: the duality gap.
        n_iter_: rounds taken.

    Example:
        >>> X = np.random.default_rng(0).normal(size=(80, 4))
        >>> model = LogisticClassifier(strength=0.05).fit(X, np.where(X[:, 2] > 0, "yes", "no"))
        >>> print(model.support())
        1 of 4 input features used: 2
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

    def decision_function(self, X: Any) -> Any:
        """The logits: (samples, classes), or (samples,) for two classes."""
        outputs = self._outputs(X)
        return outputs[:, 0] if len(self.classes_) == 2 else outputs

    def predict_proba(self, X: Any) -> Any:
        """The probability of each class: (samples, classes)."""
        z = torch.from_numpy(self._outputs(X))
        if z.shape[1] == 1:
            z = torch.cat([torch.zeros_like(z), z], dim=1)
        return torch.softmax(z, dim=1).numpy()

    def predict_log_proba(self, X: Any) -> Any:
        """The logarithm of :meth:`predict_proba`."""
        z = torch.from_numpy(self._outputs(X))
        if z.shape[1] == 1:
            z = torch.cat([torch.zeros_like(z), z], dim=1)
        return torch.log_softmax(z, dim=1).numpy()

    def predict(self, X: Any) -> Any:
        """The most probable class of each sample."""
        outputs = self._outputs(X)
        best = outputs[:, 0] > 0 if outputs.shape[1] == 1 else outputs.argmax(axis=1)
        return self.classes_[best.astype(int)]

    def _targets(self, y: Any) -> Any:
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                "expected labels of at least two classes, found one class: "
                f"{self.classes_.tolist()}."
            )
        return labels

    def _loss(self, x: Tensor, y: Any, weight: Tensor | None) -> SampleLoss:
        classes = len(self.classes_)
        return Logistic(
            x, self._tensor(y), outputs=1 if classes == 2 else classes, sample_weight=weight
        )


class LogisticClassifierCV(LogisticClassifier):
    """:class:`LogisticClassifier` with the strength chosen by K-fold cross-validation.

    Args:
        l1_ratio: the share of L1, above 0 unless strengths are given.
        strengths: those to try; by default a grid from the critical strength downward.
        points: of that grid.
        ratio: its smallest strength over its largest.
        cv: folds: a number (stratified), or a scikit-learn splitter.
        choice: ``"best"``, the least held-out cross-entropy, or ``"one_standard_error"``, the
            strongest within one standard error of it.
        fit_intercept: whether to fit intercepts.
        tol: as in :class:`LogisticClassifier`.
        device: where to compute.

    Attributes:
        strength_: the strength that was chosen.
        strengths_: those that were tried, from strong to weak.
        losses_: held-out losses (folds, strengths).
        coef_path_: (strengths, outputs, features).
    """

    def __init__(
        self,
        *,
        l1_ratio: float = 1.0,
        strengths: Sequence[float] | None = None,
        points: int = 20,
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
