"""Several runs in one table, mean and deviation over seeds, and beside published numbers.

Density is nonzero weights over all weights of the penalised tensors: the weights of the network,
without biases and normalisation, unless the runs were given ``--where``.
"""

import argparse
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from experiments.artifacts import read_result
from experiments.errors import told
from experiments.labels import series, setting, telling
from experiments.published import BY_TASK
from experiments.results import table, write_figure, write_text
from torchreg.plots import frontier


class Row(NamedTuple):
    """One phase of all runs that differ in nothing but the seed."""

    setting: str
    phase: str
    seeds: int
    weights: int
    measured: Mapping[str, list[float]]
    """One number per seed: ``test_error``, ``val_error``, ``density``, ``seconds``."""

    series: str
    """What a picture calls this phase."""

    last: bool
    """No phase comes after it."""


def read_runs(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Read the results of runs, given by their folders; a folder given twice counts once.

    Raises:
        ValueError: a folder without a finished run.
    """
    runs = []
    for path in {path.resolve(): path for path in reversed(paths)}.values():
        if not (path / "result.json").exists():
            raise ValueError(
                f"{path} holds no result.json: "
                + (
                    "the run is not finished. Give its command again to go on with it."
                    if (path / "settings.json").exists()
                    else "it is not the folder of a run."
                )
            )
        runs.append({**read_result(path / "result.json"), "folder": path})
    return runs[::-1]


def collect(runs: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Put runs together that differ in the seed alone; one row for each of their phases.

    Raises:
        ValueError: two runs have the same settings and the same seed.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for run in runs:
        flags = sorted(telling(run).items())
        members = groups.setdefault((run["task"], *flags, *run["phases"]), [])
        for other in members:
            if other["flags"]["seed"] == run["flags"]["seed"]:
                raise ValueError(
                    f"{other['folder']} and {run['folder']} have the same settings and the same "
                    f"seed, {run['flags']['seed']}: together they would count as two seeds. Leave "
                    "one out."
                )
        members.append(run)
    firsts = [members[0] for members in groups.values()]
    return [
        Row(
            setting(members[0], firsts),
            phase,
            len(members),
            numbers["weights"],
            {
                key: [float(run["phases"][phase][key]) for run in members]
                for key in ("test_error", "val_error", "density", "seconds")
            },
            series(members[0], phase, firsts),
            phase == list(members[0]["phases"])[-1],
        )
        for members in groups.values()
        for phase, numbers in members[0]["phases"].items()
    ]


MEASURED = ("test_error", "val_error", "density")
HEADER = ["run", "phase", "seeds", "test error %", "validation error %", "density %", "seconds"]


def cells(rows: Sequence[Row]) -> list[list[str]]:
    """The rows as text: mean +- sample standard deviation over the seeds."""
    return [
        [
            row.setting,
            row.phase,
            str(row.seeds),
            *(_spread([100 * x for x in row.measured[k]]) for k in MEASURED),
            f"{mean(row.measured['seconds']):.0f}",
        ]
        for row in rows
    ]


def _spread(numbers: Sequence[float]) -> str:
    deviation = f" ± {stdev(numbers):.2f}" if len(numbers) > 1 else ""
    return f"{mean(numbers):.2f}{deviation}"


def as_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV, in full precision."""
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    numbers = [*MEASURED, "seconds"]
    names = [f"{key}_{what}" for key in numbers for what in ("mean", "std")]
    out.writerow(["run", "phase", "seeds", "weights", *names])
    for row in rows:
        several = row.seeds > 1
        values = [
            value
            for key in numbers
            for value in (
                f"{mean(row.measured[key]):.6g}",
                f"{stdev(row.measured[key]):.6g}" if several else "",
            )
        ]
        out.writerow([row.setting, row.phase, row.seeds, row.weights, *values])
    return text.getvalue()


def draw(
    rows: Sequence[Row], published: Mapping[str, list[tuple[float, float]]]
) -> tuple[Any, list[str]]:
    """Accuracy against sparsity: our means after the last phase, and published points.

    Returns:
        The figure, and the names of the series for which it had no room.
    """
    drawn: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row.last:
            point = (1 - mean(row.measured["density"]), 1 - mean(row.measured["test_error"]))
            drawn.setdefault(row.series, []).append(point)
    drawn |= published
    names = list(drawn)  # ours first; a picture tells eight apart
    return frontier({n: drawn[n] for n in names[:8]}, measure="test accuracy"), names[8:]


def compare(paths: Sequence[Path], out: Path | None) -> str:
    """Make the table; with ``out``, leave it and the picture there too.

    Returns:
        The table, and below it what the picture leaves out.
    """
    runs = read_runs(paths)
    rows = collect(runs)
    text = table(HEADER, cells(rows))
    if out is None:
        return text
    tasks = {(run["task"], run["flags"]["model"]) for run in runs}
    published = BY_TASK.get(next(iter(tasks)), {}) if len(tasks) == 1 else {}
    notes = []
    if published and any(run["flags"].get("limit") for run in runs):
        published = {}
        notes.append("not drawn: published numbers, which are of all images; a run has --limit")
    figure, left = draw(rows, published)
    if left:
        notes.append(f"not drawn, since a picture tells eight series apart: {'; '.join(left)}")
    write_text(out / "table.txt", text + "\n")
    write_text(out / "table.md", table(HEADER, cells(rows), markdown=True) + "\n")
    write_text(out / "table.csv", as_csv(rows))
    write_figure(out / "accuracy-sparsity.png", figure)
    return "\n".join([text, *notes])


def main(argv: Sequence[str] | None = None) -> None:
    """Compare the runs named on the command line."""
    made = argparse.ArgumentParser(prog="python -m experiments.compare", description=__doc__)
    made.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="the folder of a run")
    made.add_argument(
        "--out", type=Path, help="leave table.txt, .md, .csv and accuracy-sparsity.png here"
    )
    flags = made.parse_args(argv)
    print(compare(flags.runs, flags.out))
    weights = "density: nonzero / all weights of the penalised tensors"
    print(f"\nmean ± sample standard deviation over seeds; {weights}")
    if flags.out is not None:
        print(f"table.txt, table.md, table.csv and accuracy-sparsity.png are in {flags.out}")


if __name__ == "__main__":
    told(main)
