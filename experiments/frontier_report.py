"""The runs of ``experiments.frontier`` as a table and as a picture beside published points."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from experiments.published import BY_TASK
from experiments.results import read_json, table, write_figure, write_text
from torchreg.plots import frontier

HEADER = ["network", "shift", "taught", "density %", "nonzero", "seeds", "test error %", "seconds"]


def report(out: Path) -> str:
    """Read the finished runs below a folder, and leave table.txt, .md, .csv and pictures there.

    Runs that judged validation images are listed below the table, and drawn nowhere.
    """
    runs = [read_json(path) for path in sorted(out.glob("*/seed*/result.json"))]
    rows = _grouped([run for run in runs if run["judged_on"] == "test"])
    shown = [_cells(runs) for runs in rows]
    text = table(HEADER, shown) if rows else "no run is finished yet"
    if rows:
        write_text(out / "table.txt", text + "\n")
        write_text(out / "table.md", table(HEADER, shown, markdown=True) + "\n")
        write_text(out / "table.csv", _as_csv(rows))
    for model in {runs[0]["setting"]["model"] for runs in rows}:
        write_figure(out / f"{model}.png", _draw(model, rows))
    trials = _grouped([run for run in runs if run["judged_on"] != "test"])
    if trials:
        header = [name.replace("test", "validation") for name in HEADER]
        text += "\n\n" + table(header, [_cells(runs) for runs in trials])
    return text + "\n\ndensity: nonzero / all weights, biases apart; mean ± sample deviation"


def _grouped(runs: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Runs that differ in the seed alone, the densest first."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for run in runs:
        setting = {k: v for k, v in run["setting"].items() if k != "seed"}
        same = (*setting.values(), str(run["recipe"]), run["limit"])
        groups.setdefault(same, []).append(run)
    ordered = ("model", "shift", "density")
    return sorted(
        groups.values(),
        key=lambda runs: [
            -runs[0]["setting"][k] if k == "density" else runs[0]["setting"][k] for k in ordered
        ],
    )


def _cells(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    setting = runs[0]["setting"]
    return [
        setting["model"],
        str(setting["shift"]),
        "yes" if _taught(runs[0]) else "no",
        f"{mean(100 * run['density'] for run in runs):.3f}",
        f"{mean(run['nonzero'] for run in runs):,.0f} of {runs[0]['weights']:,}",
        str(len(runs)),
        _spread([100 * run["error"] for run in runs]),
        f"{mean(run['seconds'] for run in runs):.0f}",
    ]


def _taught(run: Mapping[str, Any]) -> bool:
    """Whether a dense network's outputs were asked for, beside the labels."""
    return run["recipe"].get("teacher") is not None


def _spread(numbers: Sequence[float]) -> str:
    deviation = f" ± {stdev(numbers):.2f}" if len(numbers) > 1 else ""
    return f"{mean(numbers):.2f}{deviation}"


def _as_csv(rows: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """One line for each run, in full precision."""
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    settings = ["model", "shift", "density", "seed", "epochs"]
    numbers = ["taught", "error", "density", "nonzero", "weights", "seconds"]
    out.writerow([*(f"asked_{n}" if n == "density" else n for n in settings), *numbers])
    for run in (run for runs in rows for run in runs):
        told = {**run, "taught": int(_taught(run))}
        out.writerow([*(run["setting"][n] for n in settings), *(told[n] for n in numbers)])
    return text.getvalue()


def _draw(model: str, rows: Sequence[Sequence[Mapping[str, Any]]]) -> Any:
    series: dict[str, list[tuple[float, float]]] = {}
    for runs in rows:
        setting = runs[0]["setting"]
        if setting["model"] == model:
            shifted = f", shifts up to {setting['shift']} px" if setting["shift"] else ""
            taught = ", taught" if _taught(runs[0]) else ""
            point = (mean(1 - run["density"] for run in runs), mean(1 - r["error"] for r in runs))
            series.setdefault(f"torchreg, l0{taught}{shifted}", []).append(point)
    series |= {name: list(points) for name, points in BY_TASK["mnist", model].items()}
    return frontier(dict(list(series.items())[:8]), measure="test accuracy", lowest=0.97)
