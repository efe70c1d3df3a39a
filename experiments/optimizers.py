"""Does every optimizer solve the problem that was written? Measured on a small convex one.

    python -m experiments.optimizers --out measured

Multinomial logistic regression on scikit-learn's 178 wines (13 standardised features, 3 classes,
float64, unpenalised intercept) with L1 and with Elastic Net: one optimum, taken from
scikit-learn's saga at a tolerance of 1e-15. Each optimizer starts from small random weights and
runs full-batch under a cosine lr down to a thousandth, then 20,000 more steps at that lr, which
must not drift. Beside it: the same run thresholding by ``lr * strength``, as the obvious wrapper
does, and a run with mini-batches of 32. Half an hour on one busy core; --jobs shares it out.
"""

import argparse
import csv
import io
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

import torch
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.optim import (
    ASGD,
    SGD,
    Adadelta,
    Adafactor,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
)

import torchreg as tr
from experiments.exactness import lr_alone
from experiments.results import table, write_text
from torchreg.metrics import Metric

Parameters = Iterable[nn.Parameter]
PENALTIES: dict[str, tr.L1 | tr.ElasticNet] = {
    "L1": tr.L1(0.02),
    "ElasticNet": tr.ElasticNet(0.02, 0.01),
}
LAST = 1e-3  # the lr at the end, of the lr at the start
EDGE = 1e-3  # how near the strength |grad| is where a coordinate may fall on either side
BATCH = 32


@dataclass(frozen=True)
class Case:
    """An optimizer, the full-batch steps that it needs, and how near it must come.

    The target is the relative gap to the optimum; mini-batches alone are for an optimizer that
    a deterministic gradient makes diverge.
    """

    make: Callable[[Parameters], Optimizer]
    steps: int
    target: float
    batches_only: bool = False


CASES: dict[str, Case] = {
    "SGD": Case(lambda p: SGD(p, lr=0.7), 8000, 1e-5),
    "SGD, momentum 0.9": Case(lambda p: SGD(p, lr=0.2, momentum=0.9), 5000, 1e-9),
    "SGD, Nesterov 0.9": Case(lambda p: SGD(p, lr=0.2, momentum=0.9, nesterov=True), 5000, 1e-9),
    "ASGD, lambd=0": Case(lambda p: ASGD(p, lr=0.7, lambd=0.0), 8000, 1e-5),
    "Adam": Case(lambda p: Adam(p, lr=0.05), 4000, 1e-9),
    "Adam, amsgrad": Case(lambda p: Adam(p, lr=0.05, amsgrad=True), 4000, 1e-9),
    "AdamW, weight_decay=0": Case(lambda p: AdamW(p, lr=0.05, weight_decay=0), 4000, 1e-9),
    "NAdam": Case(lambda p: NAdam(p, lr=0.05), 4000, 1e-9),
    "RAdam": Case(lambda p: RAdam(p, lr=0.2), 6000, 1e-9),
    "Adamax": Case(lambda p: Adamax(p, lr=0.2), 8000, 1e-9),
    "RMSprop": Case(lambda p: RMSprop(p, lr=0.02), 3000, 1e-5),
    "RMSprop, momentum 0.9": Case(lambda p: RMSprop(p, lr=0.002, momentum=0.9), 3000, 1e-5),
    "RMSprop, centered": Case(lambda p: RMSprop(p, lr=0.002, centered=True), 4000, 1e-5, True),
    "Adagrad": Case(lambda p: Adagrad(p, lr=0.5), 3000, 1e-5),
    "Adadelta": Case(lambda p: Adadelta(p, lr=10.0), 5000, 1e-5),
    "Adafactor": Case(lambda p: Adafactor(p, lr=0.05), 3000, 1e-5),
}


@dataclass(frozen=True)
class Outcome:
    """Where a run ended, beside the optimum."""

    gap: float  # (objective - optimum) / optimum
    residual: float  # of stationarity, relative to the strength
    mismatch: int  # zeros that are not the optimum's, but for coordinates on their edge
    weights: Tensor
    drift: float = math.nan  # the largest move of the gap over the further steps


@cache
def wine() -> tuple[Tensor, Tensor, Tensor]:
    """Load the features (178, 13), standardised, in float64; the labels; and them one-hot."""
    x, y = load_wine(return_X_y=True)
    features = torch.tensor(x, dtype=torch.float64)
    features = (features - features.mean(0)) / features.std(0, correction=0)
    labels = torch.tensor(y)
    return features, labels, nn.functional.one_hot(labels).double()


def task_loss(linear: nn.Linear) -> Tensor:
    """Return the mean cross-entropy over all wines."""
    x, y, _ = wine()
    return nn.functional.cross_entropy(linear(x), y)


def strengths(penalty: tr.L1 | tr.ElasticNet) -> tuple[float, float]:
    """Return l1 and l2."""
    return penalty.l1, penalty.l2 if isinstance(penalty, tr.ElasticNet) else 0.0


@cache
def optimum(l1: float, l2: float) -> tuple[float, Tensor, Tensor]:
    """Solve it with scikit-learn: the objective, the weights (3, 13) and the gradient there."""
    x, y, _ = wine()
    whole = l1 + 2 * l2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # how to write the penalty depends on its version
        solver = LogisticRegression(
            penalty="elasticnet", l1_ratio=l1 / whole, C=1 / (len(x) * whole), solver="saga",
            tol=1e-15, max_iter=100_000, random_state=0,
        )  # fmt: skip
        solver.fit(x.numpy(), y.numpy())
    linear = nn.Linear(13, 3, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(solver.coef_))
        linear.bias.copy_(torch.tensor(solver.intercept_))
    loss = task_loss(linear)
    (gradient,) = torch.autograd.grad(loss, linear.weight)
    w = linear.weight.detach()
    return float(loss.detach() + l1 * w.abs().sum() + l2 * w.square().sum()), w, gradient


def solve(
    make: Callable[[Parameters], Optimizer],
    penalty: tr.L1 | tr.ElasticNet,
    *,
    steps: int,
    further: int = 0,
    metric: Metric | None = None,
    batch: int | None = None,
) -> Outcome:
    """Minimise loss + penalty with a wrapped optimizer, and compare with the optimum.

    The gradient of the loss is written out: ``(softmax - onehot)`` times the features.
    """
    best, solution, gradient = optimum(*strengths(penalty))
    x, _, onehot = wine()
    draw = torch.Generator().manual_seed(0)
    linear = nn.Linear(13, 3, dtype=torch.float64)
    nn.init.normal_(linear.weight, std=0.1, generator=draw)
    nn.init.zeros_(linear.bias)
    regularizer = tr.Regularizer(linear, penalty)
    optimizer = tr.ProximalOptimizer(make(linear.parameters()), regularizer, metric=metric)
    start = [group["lr"] for group in optimizer.param_groups]

    def gap() -> float:
        with torch.no_grad():
            return float(task_loss(linear) + regularizer()) / best - 1

    reached, drift, residual = math.nan, 0.0, math.nan
    for step in range(steps + further):
        share = LAST + (1 - LAST) * (1 + math.cos(math.pi * min(1.0, step / steps))) / 2
        for group, lr in zip(optimizer.param_groups, start, strict=True):
            group["lr"] = lr * share
        rows = slice(None) if batch is None else torch.randint(len(x), (batch,), generator=draw)
        with torch.no_grad():
            error = torch.softmax(linear(x[rows]), 1) - onehot[rows]
            linear.weight.grad, linear.bias.grad = error.T @ x[rows] / len(error), error.mean(0)
        optimizer.step()
        if step == steps - 1:
            reached, ended = gap(), linear.weight.detach().clone()
            residual = tr.stationarity(regularizer, task_loss(linear)).residual
        elif step >= steps and step % 100 == 99:
            drift = max(drift, abs(gap() - reached))
    l1 = penalty.l1
    edge = (gradient.abs() - l1).abs() < EDGE * l1
    # A kept weight has |grad| near l1 as well: on the edge are those that are small besides.
    edge &= solution.abs() < EDGE
    wrong = ((ended == 0) != (solution == 0)) & ~edge
    return Outcome(reached, residual, int(wrong.sum()), ended, drift)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    optimizer: str
    penalty: str
    steps: int
    gap: float
    residual: float
    support_mismatch: int
    drift: float
    batch_gap: float
    naive_gap: float


def measure(pair: tuple[str, str], further: int = 20_000) -> Row:
    """Run one optimizer with one penalty, four ways."""
    torch.set_num_threads(1)
    name, penalised = pair
    case, penalty = CASES[name], PENALTIES[penalised]
    batch = BATCH if case.batches_only else None
    ours = solve(case.make, penalty, steps=case.steps, further=further, batch=batch)
    batched = ours if case.batches_only else solve(
        case.make, penalty, steps=case.steps, batch=BATCH
    )  # fmt: skip
    naive = solve(case.make, penalty, steps=case.steps, metric=lr_alone, batch=batch)
    return Row(
        name, penalised, case.steps, ours.gap, ours.residual, ours.mismatch, ours.drift,
        batched.gap, naive.gap,
    )  # fmt: skip


def told(row: Row) -> list[str]:
    """Write a row for a reader: a gap that is rounding alone as 0."""

    def short(value: float) -> str:
        return "0" if abs(value) < 1e-14 else f"{value:.0e}"

    return [
        row.optimizer, row.penalty, f"{row.steps:,}", short(row.gap), short(row.residual),
        str(row.support_mismatch), short(row.drift), short(row.batch_gap), short(row.naive_gap),
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every optimizer with every penalty; print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/optimizers"), help="output folder")
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--further", type=int, default=20_000, help="steps for the drift")
    chosen = parser.parse_args(arguments)
    pairs = [(name, penalised) for name in CASES for penalised in PENALTIES]
    further = [chosen.further] * len(pairs)
    rows = []
    measured: Iterator[Row]
    with ExitStack() as stack:
        if chosen.jobs > 1:
            pool = stack.enter_context(ProcessPoolExecutor(chosen.jobs))
            measured = pool.map(measure, pairs, further)
        else:
            measured = map(measure, pairs, further)
        for row in measured:
            rows.append(row)
            print("  ".join(told(row)), flush=True)
    header = [
        "optimizer", "penalty", "steps", "gap", "residual", "wrong zeros", "drift",
        "gap, mini-batches", "gap, lr * strength",
    ]  # fmt: skip
    printed = table(header, [told(row) for row in rows])
    print(f"\n{printed}")
    columns = [field.name for field in fields(Row)]
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([getattr(row, column) for column in columns] for row in rows)
    write_text(chosen.out / "table.txt", printed + "\n")
    write_text(chosen.out / "table.csv", lines.getvalue())
    write_text(
        chosen.out / "table.md", table(header, [told(row) for row in rows], markdown=True) + "\n"
    )


if __name__ == "__main__":
    main()
