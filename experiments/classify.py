"""Logistic regression with L2, L1 and Elastic Net, beside scikit-learn's own solutions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, train_test_split
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from experiments import textbook, textbook_report
from experiments.textbook import Loss
from experiments.textbook_report import Comparison

# The curvature of log(1 + exp(-u)) is sigmoid(u) * sigmoid(-u), at most a quarter.
LOSS = Loss(binary_cross_entropy_with_logits, curvature=0.25)

# From one that leaves a weight or two to one that is hardly felt, three to a decade.
STRENGTHS = np.logspace(-1, -3, 7).tolist()


def reference(name: str, alpha: float, l1_ratio: float, samples: int) -> LogisticRegression:
    """scikit-learn's estimator of the same objective: C multiplies the *sum* of the losses.

    liblinear would be quick under L1 but penalises the intercept too, so SAGA takes both.
    It stops on the change per epoch: at 1e-9 it was still 5e-5 away on some splits.
    """
    C = 1 / (samples * alpha)
    if name == "L2":
        return LogisticRegression(C=C, l1_ratio=0.0, solver="newton-cholesky", tol=1e-12)
    share = 1.0 if name == "L1" else l1_ratio
    return LogisticRegression(
        C=C, l1_ratio=share, solver="saga", tol=1e-11, max_iter=1_000_000, random_state=0
    )


def run(
    x: Tensor, y: Tensor, *, folds: int = 5, seed: int = 0, steps: int = 100_000,
    l1_ratio: float = 0.5,
) -> list[Comparison]:  # fmt: skip
    """Choose each penalty's strength on a training part, solve, and compare with scikit-learn.

    Args:
        x: raw features, (samples, features), y: (samples, 1), of zeros and ones.
        folds: folds of the cross-validation, inside the training part.
        seed: draws the test part, a quarter, and the folds; each has the same mix of classes.
        steps: most steps of one fit.
        l1_ratio: Elastic Net's share of L1.
    """
    labels = y[:, 0].numpy()
    train, test = train_test_split(
        np.arange(len(x)), test_size=0.25, random_state=seed, stratify=labels
    )
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    inside = list(splitter.split(train, labels[train]))
    x_train, x_test = textbook.standardise(x[train], x[test])
    rows = []
    for name, penalty_of in textbook.penalties(l1_ratio).items():
        strength, errors, fit = textbook.fit_best(
            x[train], y[train], LOSS, penalty_of, STRENGTHS, inside, steps=steps, name=name
        )
        theirs: Any = reference(name, strength, l1_ratio, len(train))
        theirs.fit(x_train.numpy(), labels[train])
        with torch.no_grad():
            right = (fit.model(x_test) > 0) == (y[test] > 0)
        rows.append(
            Comparison(
                penalty=name,
                strength=strength,
                strengths=STRENGTHS,
                validation=errors,
                ours=fit.coefficients.tolist(),
                reference=[*theirs.coef_[0].tolist(), float(theirs.intercept_[0])],
                residual=fit.residual,
                steps=fit.steps,
                score=float(right.double().mean()),
                reference_score=float(theirs.score(x_test.numpy(), labels[test])),
            )
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the case from the command line."""
    textbook_report.command(
        "classify",
        "Tell benign from malignant tumours (569 samples, 30 features, in scikit-learn) by "
        "logistic regression with L2, L1 and Elastic Net. Each is solved by a proximal optimizer "
        "to a certified optimum and printed beside scikit-learn's coefficients. Takes half a "
        "minute.",
        load_breast_cancer(),
        run,
        "accuracy",
        arguments,
    )


if __name__ == "__main__":
    main()
