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

from experiments.cli import told
from experiments.published import BY_TASK
from experiments.results import read_json, table, write_figure, write_text
from torchreg.plots import frontier

# Flags that two runs of one setting may differ in.
_SAME = {"seed", "data_dir", "out", "fresh", "device"}


class Row(NamedTuple):
    """One phase of all runs that differ in nothing but the seed."""

    setting: str
    phase: str
    seeds: int
    weights: int
    measured: Mapping[str, list[float]]
    """One number per seed: ``test_error``, ``val_error``, ``density``, ``seconds``."""


def read_runs(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Read the results of runs, given by their folders.

    Raises:
        ValueError: a folder without a finished run, or one given twice.
    """
    runs = []
    for path in dict.fromkeys(paths):
        if not (path / "result.json").exists():
            raise ValueError(
                f"{path} holds no result.json: "
                + (
                    "the run is not finished. Give its command again to go on with it."
                    if (path / "settings.json").exists()
                    else "it is not the folder of a run."
                )
            )
        runs.append(read_json(path / "result.json"))
    return runs


def collect(runs: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Put runs together that differ in the seed alone; one row for each of their phases."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for run in runs:
        flags = {k: str(v) for k, v in sorted(run["flags"].items()) if k not in _SAME}
        groups.setdefault((run["task"], *flags.items()), []).append(run)
    rows = []
    for members in groups.values():
        phases = members[0]["phases"]
        rows += [
            Row(
                _setting(members[0], runs),
                phase,
                len(members),
                phases[phase]["weights"],
                {
                    key: [float(run["phases"][phase][key]) for run in members]
                    for key in ("test_error", "val_error", "density", "seconds")
                },
            )
            for phase in phases
        ]
    return rows


def _setting(run: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> str:
    """Name a run by model and penalty, and by whatever else is not the same in all runs."""
    flags = run["flags"]
    words = [flags["model"], flags["penalty"]]
    if flags["penalty"] != "none":
        words.append(f"{flags['strength']:g}")
        words += [f"+ {flags['l2']:g}"] * bool(flags["l2"])
        words += ["in the loss"] * (flags["mode"] == "loss")
    told_already = {"model", "penalty", "strength", "l2", "mode"}
    told_already |= {key for key in flags if key.endswith(("_epochs", "_lr"))}
    # The epochs of both phases together: a dense run of the same budget has them in one.
    for key, value in flags.items():
        others = {str(other["flags"].get(key)) for other in runs}
        if len(others) > 1 and key not in _SAME | told_already:
            words.append(f"{key.replace('_', '-')} {value}")
    if len({other["task"] for other in runs}) > 1:
        words.insert(0, run["task"])
    return " ".join(words)


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


def draw(rows: Sequence[Row], published: Mapping[str, list[tuple[float, float]]]) -> Any:
    """Accuracy against sparsity: our means after the last phase, and published points."""
    ours: dict[str, list[tuple[float, float]]] = {}
    for row, after in zip(rows, [*rows[1:], None], strict=True):
        if after is None or after.setting != row.setting:
            point = (1 - mean(row.measured["density"]), 1 - mean(row.measured["test_error"]))
            ours.setdefault(f"torchreg, {row.phase}", []).append(point)
    # A picture tells eight series apart; published ones fill what ours leave.
    series = {**ours, **dict(list(published.items())[: 8 - len(ours)])}
    return frontier(series, measure="test accuracy")


def compare(paths: Sequence[Path], out: Path | None) -> str:
    """Make the table; with ``out``, leave it and the picture there too."""
    runs = read_runs(paths)
    rows = collect(runs)
    text = table(HEADER, cells(rows))
    if out is not None:
        tasks = {(run["task"], run["flags"]["model"]) for run in runs}
        published = BY_TASK.get(next(iter(tasks)), {}) if len(tasks) == 1 else {}
        write_text(out / "table.txt", text + "\n")
        write_text(out / "table.md", table(HEADER, cells(rows), markdown=True) + "\n")
        write_text(out / "table.csv", as_csv(rows))
        write_figure(out / "accuracy-sparsity.png", draw(rows, published))
    return text


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
