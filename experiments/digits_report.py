"""From finished runs to a choice, a table, JSON and pictures."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import torchreg as tr
from experiments import digits_smaller as smaller
from experiments import digits_training as training
from experiments import results
from experiments.digits_methods import ASKED
from experiments.digits_smaller import Smaller
from experiments.digits_training import SHAPE, Run, Split
from torchreg import plots

RULE = (
    "Of each method the strongest strength whose validation accuracy is within one standard error "
    "of that method's best validation accuracy. The test split is read once, for the chosen "
    "strengths alone."
)


@dataclass(frozen=True)
class Chosen:
    """A method at its chosen strength, with its one look at the test split."""

    run: Run
    test: float
    inputs: int
    """Input pixels that the first layer uses."""


def choose(runs: Sequence[Run], samples: int) -> Run:
    """The strongest penalty that validation cannot tell from the best one.

    Args:
        runs: the runs of one method.
        samples: digits in the validation split, which set the standard error
            ``sqrt(p (1 - p) / samples)`` of the best accuracy p.

    Source: the one-standard-error rule of L. Breiman et al., "Classification and regression
    trees" (1984).
    """
    best = max(run.validation for run in runs)
    tolerance = math.sqrt(best * (1 - best) / samples)
    fitting = [run for run in runs if run.validation >= best - tolerance]
    return max(fitting, key=lambda run: run.settings.strength)


def write(runs: Sequence[Run], folder: Path, out: Path) -> str:
    """Choose, test, write everything under ``out``, and return the text for the terminal."""
    torch.set_num_threads(1)
    train, validation, test = training.load(runs[0].settings.seed)
    chosen = evaluate(
        [choose(of, len(validation.y)) for of in by_method(runs).values()], folder, test
    )
    shrunk = {
        c.run.settings.method: smaller.shrink(training.trained(c.run, folder), validation)
        for c in chosen
        if c.run.settings.method in ASKED and ASKED[c.run.settings.method].groups
    }
    notes = _notes(chosen, shrunk, len(test.y))
    text = f"{results.table(*_table(chosen))}\n\n{notes}\n"
    markdown = f"{results.table(*_table(chosen), markdown=True)}\n\n{notes}\n"
    results.write_text(out / "table.txt", text)
    results.write_text(out / "table.md", markdown)
    results.write_json(out / "results.json", _numbers(runs, chosen, shrunk))
    pictures = draw(runs, chosen, folder, train)
    for one in shrunk.values():
        pictures["neurons.png"] = plots.kept_channels(one.compaction.layers)
    for name, figure in pictures.items():
        results.write_figure(out / name, figure)
    names = ", ".join(["table.txt", "table.md", "results.json", *pictures])
    return f"\n{text}\nWritten to {out}: {names}"


def by_method(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs of each method, by its name, in order."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.settings.method, []).append(run)
    return found


def evaluate(runs: Sequence[Run], folder: Path, test: Split) -> list[Chosen]:
    """Read the test split, once per chosen run."""
    rows = []
    for run in runs:
        model = training.trained(run, folder)
        used = len(tr.support(model[0]))
        rows.append(Chosen(run, training.accuracy(model, test), used))
    return rows


def draw(
    runs: Sequence[Run], chosen: Sequence[Chosen], folder: Path, train: Split
) -> dict[str, Any]:
    """The four pictures, matplotlib figures, by file name."""
    grid = by_method(runs)
    names = list(grid)
    models = {name: training.trained(c.run, folder) for name, c in zip(names, chosen, strict=True)}
    weights: dict[str, Tensor] = {
        name: torch.cat([w.detach().flatten() for w in tr.select(model).values()])
        for name, model in models.items()
    }
    mapped = ["no penalty", "L1 in the loss", "proximal L1", *(n for n in names if n in ASKED)]
    first = {name: models[name].get_parameter("0.weight") for name in mapped}
    return {
        "accuracy_sparsity.png": plots.frontier(
            {name: [(run.exact, run.validation) for run in one] for name, one in grid.items()},
            chosen={
                name: (grid[name].index(c.run), c.test)
                for name, c in zip(names, chosen, strict=True)
            },
            lowest=0.9,
        ),
        "weights.png": plots.weight_histograms(weights),
        "pixels.png": plots.input_map(first, SHAPE, example=train.x.mean(0), title="average digit"),
        "training.png": plots.training_curves(
            chosen[0].run.steps,
            {name: c.run.losses for name, c in zip(names, chosen, strict=True)},
            {name: c.run.sparsities for name, c in zip(names, chosen, strict=True)},
            measure="training cross-entropy (log scale)",
        ),
    }


def _table(chosen: Sequence[Chosen]) -> tuple[list[str], list[list[str]]]:
    header = [
        "method", "strength", "test acc.", "exact zeros", "near zeros", "pixels", "residual",
        "seconds",
    ]  # fmt: skip
    rows = [
        [
            c.run.settings.method,
            f"{c.run.settings.strength:g}",
            f"{c.test:.1%}",
            f"{c.run.exact:.1%}" if c.run.exact else "0",
            f"{c.run.near:.1%}",
            f"{c.inputs}/64",
            _residual(c.run.residual),
            f"{c.run.seconds:.1f}",
        ]
        for c in chosen
    ]
    return header, rows


def _residual(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 10 else f"{value:#.2g}"


def _notes(chosen: Sequence[Chosen], shrunk: Mapping[str, Smaller], samples: int) -> str:
    by_name = {c.run.settings.method: c for c in chosen}
    plain, loss, proximal = (by_name[n] for n in ("no penalty", "L1 in the loss", "proximal L1"))
    error = math.sqrt(plain.test * (1 - plain.test) / samples)
    settings = plain.run.settings
    notes = [
        f"What it shows: L1 in the loss leaves {100 * loss.run.exact:.3g}% of the weights exactly "
        f"zero, proximal L1 {proximal.run.exact:.1%}, at a test accuracy of {proximal.test:.1%} "
        f"against {plain.test:.1%} without a penalty: "
        f"{100 * (proximal.test - plain.test):+.1f} points, where one standard error is "
        f"{100 * error:.1f}.",
        *(smaller.tell(name, one) for name, one in shrunk.items()),
        f"How a strength was chosen: {RULE}",
        "Columns: strength is l1 (l2 for L2; Elastic Net has l1 = l2). Near zeros are |w| <= "
        "0.001, exact ones among them. Pixels are the inputs that the first layer uses. "
        "The residual is the distance of -grad, over the whole training split, to the "
        "subdifferential of the penalty, at the largest coordinate and relative to the strength; "
        "0 is a stationary point, and runs of this length stop before they get there.",
        f"Seed {settings.seed}, {settings.steps} full-batch steps of Adam for each run. Run "
        "again, only the seconds differ.",
    ]
    return "\n\n".join(textwrap.fill(note, 96) for note in notes)


def _numbers(
    runs: Sequence[Run], chosen: Sequence[Chosen], shrunk: Mapping[str, Smaller]
) -> dict[str, Any]:
    found = {name: smaller.numbers(one) for name, one in shrunk.items()}
    return {
        "rule": RULE,
        "chosen": [{**asdict(c.run), "test": c.test, "inputs": c.inputs} for c in chosen],
        "grid": [asdict(run) for run in runs],
        **({"compact": found} if found else {}),
    }
