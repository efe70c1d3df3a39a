"""Linear regression with L2, L1 and Elastic Net, beside scikit-learn's own solutions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_diabetes
from sklearn.linear_model import ElasticNet, Lasso, Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold, train_test_split
from torch import Tensor

from experiments import textbook, textbook_report
from experiments.textbook import Loss
from experiments.textbook_report import Comparison


def half_mse(outputs: Tensor, targets: Tensor) -> Tensor:
    """``1/(2n) ||y - outputs||^2``: the loss beside which scikit-learn writes its penalties."""
    return (outputs - targets).square().mean() / 2


LOSS = Loss(half_mse, curvature=1.0)
# From one that leaves a weight or two to one that is hardly felt, three to a decade.
STRENGTHS = np.logspace(1, -2, 10).tolist()


def closed_form(x: Tensor, y: Tensor, alpha: float) -> list[float]:
    """Minimise ``half_mse + alpha / 2 * sum(w^2)``: one linear system, the intercept free."""
    centred, mean = x - x.mean(dim=0), y.mean()
    gram = centred.T @ centred / len(x) + alpha * torch.eye(x.shape[1], dtype=x.dtype)
    w = torch.linalg.solve(gram, centred.T @ (y - mean) / len(x))
    return [*w.flatten().tolist(), float(mean - x.mean(dim=0) @ w.flatten())]


def reference(name: str, alpha: float, l1_ratio: float, samples: int) -> Any:
    """scikit-learn's estimator of the same objective. Ridge's loss is a sum, not a mean / 2."""
    tight = {"tol": 1e-12, "max_iter": 1_000_000}
    if name == "L2":
        return Ridge(alpha=alpha * samples, **tight)
    if name == "L1":
        return Lasso(alpha=alpha, **tight)
    return ElasticNet(alpha=alpha, l1_ratio=l1_ratio, **tight)


def run(
    x: Tensor, y: Tensor, *, folds: int = 5, seed: int = 0, steps: int = 100_000,
    l1_ratio: float = 0.5,
) -> list[Comparison]:  # fmt: skip
    """Choose each penalty's strength on a training part, solve, and compare with scikit-learn.

    Args:
        x: raw features, (samples, features), y: (samples, 1).
        folds: folds of the cross-validation, inside the training part.
        seed: draws the test part, a quarter, and the folds.
        steps: most steps of one fit.
        l1_ratio: Elastic Net's share of L1.
    """
    train, test = train_test_split(np.arange(len(x)), test_size=0.25, random_state=seed)
    inside = list(KFold(folds, shuffle=True, random_state=seed).split(train))
    x_train, x_test = textbook.standardise(x[train], x[test])
    rows = []
    for name, penalty_of in textbook.penalties(l1_ratio).items():
        strength, errors, fit = textbook.fit_best(
            x[train], y[train], LOSS, penalty_of, STRENGTHS, inside, steps=steps, name=name
        )
        theirs = reference(name, strength, l1_ratio, len(train))
        theirs.fit(x_train.numpy(), y[train, 0].numpy())
        with torch.no_grad():
            outputs = fit.model(x_test)
        rows.append(
            Comparison(
                penalty=name,
                strength=strength,
                strengths=STRENGTHS,
                validation=errors,
                ours=fit.coefficients.tolist(),
                reference=[*theirs.coef_.tolist(), float(theirs.intercept_)],
                residual=fit.residual,
                steps=fit.steps,
                score=float(r2_score(y[test].numpy(), outputs.numpy())),
                reference_score=float(theirs.score(x_test.numpy(), y[test, 0].numpy())),
                closed_form=closed_form(x_train, y[train], strength) if name == "L2" else None,
            )
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the case from the command line."""
    textbook_report.command(
        "linear",
        "Predict the progress of diabetes (442 patients, 10 features, in scikit-learn) by linear "
        "regression with L2, L1 and Elastic Net. Each is solved by a proximal optimizer to a "
        "certified optimum and printed beside scikit-learn's coefficients. Takes well under a "
        "minute.",
        load_diabetes(scaled=False),
        run,
        "R^2",
        arguments,
    )


if __name__ == "__main__":
    main()
