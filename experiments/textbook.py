"""What the two textbook cases share: a certified solver, cross-validation, the tables.

``experiments.linear`` and ``experiments.classify`` are the worked examples: begin there, then
read :func:`solve`, where torchreg is used.
"""

import argparse
import copy
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import SGD

import torchreg as tr
from experiments import results

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
        f"{penalty!r} is not solved after {steps} steps: the stationarity residual is "
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
    """
    errors = torch.zeros(len(strengths), dtype=torch.float64)
    count = 0
    for x_in, y_in, x_out, y_out in standardised_folds(x, y, folds):
        count += 1
        model: nn.Linear | None = None
        for i, strength in enumerate(strengths):
            model = solve(
                x_in, y_in, loss, penalty_of(strength), steps=steps, tolerance=ROUGH, start=model
            ).model
            with torch.no_grad():
                errors[i] += loss.mean(model(x_out), y_out)
    return [float(error) / count for error in errors]


def standardised_folds(
    x: Tensor, y: Tensor, folds: Iterable[tuple[Any, Any]]
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Each fold as (x, y) to fit and (x, y) held out; the statistics are those of the first."""
    for inside, outside in folds:
        fitted, held_out = standardise(x[inside], x[outside])
        yield fitted, y[inside], held_out, y[outside]


@dataclass(frozen=True)
class Comparison:
    """One penalty, solved here and by scikit-learn; coefficients end with the intercept."""

    penalty: str
    strength: float
    strengths: list[float]
    validation: list[float]
    ours: list[float]
    reference: list[float]
    residual: float
    steps: int
    score: float
    reference_score: float
    closed_form: list[float] | None = None

    @property
    def difference(self) -> float:
        """The largest difference of any coefficient, the intercept too."""
        return max(abs(a - b) for a, b in zip(self.ours, self.reference, strict=True))

    @property
    def same_zeros(self) -> bool:
        """Whether exactly the same weights are exactly 0.0."""
        return [w == 0 for w in self.ours] == [w == 0 for w in self.reference]

    @property
    def at_edge(self) -> bool:
        """Whether the best strength is the largest or the smallest that was tried."""
        return self.strength in (self.strengths[0], self.strengths[-1])


def report(rows: Sequence[Comparison], features: Sequence[str], score: str) -> str:
    """The coefficients side by side, what certifies them, and what a reader should see."""
    header, columns = ["feature"], []
    for row in rows:
        header += [row.penalty, "sklearn"]
        columns += [row.ours, row.reference]
        if row.closed_form is not None:
            header.append("closed form")
            columns.append(row.closed_form)
    names = [*features, "(intercept)"]
    lines = [[name, *map(_number, values)] for name, *values in zip(names, *columns, strict=True)]
    coefficients = results.table(header, lines)

    head = ["penalty", "strength", "zeros", "sklearn", "same", "difference", "residual", "steps"]
    summary = results.table(
        [*head, score, "sklearn"],
        [
            [
                row.penalty + (" *" if row.at_edge else ""),
                f"{row.strength:.4g}",
                f"{row.ours[:-1].count(0.0)} of {len(features)}",
                str(row.reference[:-1].count(0.0)),
                "yes" if row.same_zeros else "NO",
                f"{row.difference:.1e}",
                f"{row.residual:.1e}",
                f"{row.steps:,}",
                f"{row.score:.4f}",
                f"{row.reference_score:.4f}",
            ]
            for row in rows
        ],
    )
    notes = []
    for row in rows:
        zero = [name for name, w in zip(names, row.ours, strict=True) if w == 0]
        none = "none, it shrinks every weight and drops none"
        told = ", ".join(zero) or (none if row.penalty == "L2" else "none at this strength")
        notes.append(fill(f"Exactly zero under {row.penalty}: {told}.", 95, subsequent_indent="  "))
        if row.closed_form is not None:
            gap = max(abs(a - b) for a, b in zip(row.ours, row.closed_form, strict=True))
            notes.append(f"  Largest difference from its closed form: {gap:.1e}.")
    legend = (
        'A "0" is exactly 0.0, a "0.0000" is not. The weights are those of standardised features.\n'
        "strength: scikit-learn's alpha, beside the mean loss, chosen by cross-validation on the\n"
        "  training part; zeros, sklearn: weights that are exactly 0.0, here and there;\n"
        "difference: the largest of any coefficient, intercept included; residual: how far from\n"
        f"  optimal (KKT), relative to the strength; {score}, sklearn: on the test part, read once."
    )
    if any(row.at_edge for row in rows):
        legend += "\n* the best strength is the last that was tried: a wider range may do better."
    return "\n\n".join([coefficients, summary, legend, "\n".join(notes)])


def command(
    prog: str,
    description: str,
    data: Any,
    run: Callable[..., list[Comparison]],
    score: str,
    arguments: Sequence[str] | None,
) -> None:
    """Run one case from the command line: read the flags, run, print, and write the results."""
    parser = argparse.ArgumentParser(
        prog=f"python -m experiments.{prog}",
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = partial(parser.add_argument, metavar="N", type=int)
    add("--folds", default=5, help="folds of the cross-validation, 2 to 20")
    add("--seed", default=0, help="draws the test part and the folds")
    add("--steps", default=100_000, help="most steps of one fit; it stops once it is certified")
    add("--l1-ratio", default=0.5, type=float, metavar="R", help="Elastic Net's share of L1")
    add("--out", default=Path("runs") / prog, type=Path, metavar="FOLDER", help="for the results")
    args = parser.parse_args(arguments)
    for flag, valid, expected, found in (
        ("--folds", 2 <= args.folds <= 20, "from 2 to 20", args.folds),
        ("--seed", 0 <= args.seed < 2**32, "from 0 to 2^32 - 1", args.seed),
        ("--steps", args.steps >= 1, "of at least 1", args.steps),
        ("--l1-ratio", 0 < args.l1_ratio < 1, "between 0 (L2) and 1 (L1)", args.l1_ratio),
    ):
        if not valid:
            parser.error(f"argument {flag}: expected a number {expected}, found {found}")
    out: Path = args.out
    try:  # before the work, not after
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"argument --out: cannot make {out} ({error.strerror}): choose another folder")
    if not os.access(out, os.W_OK):
        parser.error(f"argument --out: {out} is not writable: choose another folder")

    torch.set_num_threads(1)  # the matrices are small: more threads only wait for each other
    x = torch.tensor(data.data, dtype=torch.float64)
    y = torch.tensor(data.target, dtype=torch.float64)[:, None]
    print(
        f"Three penalties, {args.folds} folds each, on one core: this takes a moment.\n", flush=True
    )
    settings = {name: value for name, value in vars(args).items() if name != "out"}
    try:
        rows = run(x, y, **settings)
        text = report(rows, data.feature_names, score)
        told = [asdict(r) | {"difference": r.difference, "same_zeros": r.same_zeros} for r in rows]
        names = [*map(str, data.feature_names), "(intercept)"]
        content = {**settings, "score": score, "coefficients": names, "penalties": told}
        results.write_json(out / "results.json", content)
        results.write_text(out / "table.txt", text + "\n")
    except (ArithmeticError, OSError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    print(f"{text}\n\nWritten to {out / 'results.json'} and {out / 'table.txt'}.")


def _number(value: float) -> str:
    return "0" if value == 0 else f"{value:.4f}"
