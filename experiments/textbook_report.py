"""The tables of the textbook cases, coefficient by coefficient, and their command line."""

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import Any

import torch

from experiments import results


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

    head = ["penalty", "strength", "zeros", "sklearn zeros", "same", "difference", "residual"]
    summary = results.table(
        [*head, "steps", score, f"sklearn {score}"],
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
        "  training part; zeros, sklearn zeros: weights that are exactly 0.0, here and there;\n"
        "difference: the largest of any coefficient, intercept included; residual: how far from\n"
        f"  optimal (KKT), relative to the strength; {score}: on the test part, read once."
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
    share = "Elastic Net's share of L1, strictly between 0 and 1"
    add = partial(parser.add_argument, metavar="N", type=int)
    add("--folds", default=5, help="folds of the cross-validation, 2 to 20")
    add("--seed", default=0, help="draws the test part and the folds")
    add("--steps", default=100_000, help="most steps of one fit; it stops once it is certified")
    add("--l1-ratio", default=0.5, type=float, metavar="R", help=share)
    add(
        "--out", default=Path("runs") / prog, type=_folder, metavar="FOLDER", help="for the results"
    )
    args = parser.parse_args(arguments)
    for flag, valid, expected, found in (
        ("--folds", 2 <= args.folds <= 20, "from 2 to 20", args.folds),
        ("--seed", 0 <= args.seed < 2**32, "from 0 to 2^32 - 1", args.seed),
        ("--steps", args.steps >= 1, "of at least 1", args.steps),
        ("--l1-ratio", 0 < args.l1_ratio < 1, "strictly between 0 (L2) and 1 (L1)", args.l1_ratio),
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


def _folder(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError(f"expected the name of a folder, found {text!r}")
    return Path(text)


def _number(value: float) -> str:
    return "0" if value == 0 else f"{value:.4f}"
