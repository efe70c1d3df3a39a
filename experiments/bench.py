"""What the penalty and the proximal step cost, in units of a plain copy of the same weights.

    scripts/bench                                      # one thread; ResNet-18 and ViT-B
    scripts/bench --models resnet18 --repetitions 50
    scripts/bench --device cuda

All cases of a model run in turn, again and again, so that a busy machine slows all alike. Each
time is divided by that of the copy in the same round; the table shows the median of these ratios
and the quartiles, and the ratio of the shortest times, which a busy machine disturbs least. The
memory is what a case holds at most beyond what it found, in bytes of the weights. The proximal
part of torchao's pat is its whole step less torch's (foreach) step, if torchao is installed.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from experiments.bench_cases import (
    Case,
    bytes_of,
    copy_case,
    extra_memory,
    model_of,
    penalty_cases,
    rival_cases,
    step_cases,
    training_cases,
    weights_of,
)
from experiments.results import table, write_figure, write_json, write_text
from torchreg.plots.style import INK, LOOKS, tidy

COPY = "copy"
Times = Mapping[str, list[float]]


def measure(cases: Mapping[str, Case], repetitions: int, device: torch.device) -> Times:
    """Time every case in turn, in seconds, after one round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for round_ in range(repetitions + 1):
        for name, case in cases.items():
            seconds = timed(case, device)
            if round_ > 0:
                times[name].append(seconds)
    return times


def timed(case: Case, device: torch.device) -> float:
    """One run in seconds: by device events on CUDA, else by the clock."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        case()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) / 1e3
    begin = time.perf_counter()
    case()
    return time.perf_counter() - begin


def spread(ratios: list[float]) -> dict[str, float]:
    """The median and the quartiles."""
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {"median": middle, "low": low, "high": high}


def ratios(times: Times, name: str, to: str, less: str | None = None) -> dict[str, float]:
    """The time of one case (less that of another) over that of a third.

    ``least`` is the ratio of the shortest times; the median and quartiles are round by round.
    """
    minus = times[less] if less else [0.0] * len(times[name])
    pairs = zip(times[name], minus, times[to], strict=True)
    least = (min(times[name]) - min(minus)) / min(times[to])
    return {"least": least, **spread([(one - other) / unit for one, other, unit in pairs])}


def bench_model(
    name: str, repetitions: int, device: torch.device, compiled: bool
) -> dict[str, Any]:
    """Measure a model's cases; everything in the result is a plain number by name."""
    model = model_of(name, device)
    rivals = rival_cases(model)
    ours = penalty_cases(model) | step_cases(model, compiled)
    cases = {COPY: copy_case(model)} | ours | rivals
    times = measure(cases, repetitions, device)
    total = bytes_of(weights_of(model))
    copies = {case: ratios(times, case, COPY) for case in cases if case != COPY}
    beside = {}
    for kind in ("SGD", "Adam"):
        rival = f"{kind} step in torchao's pat"
        if rival in times:
            copies[f"prox of {kind} in torchao's pat"] = ratios(
                times, rival, COPY, less=f"{kind} step, foreach"
            )
        for prox in (case for case in cases if case.startswith(f"prox of {kind}")):
            for step in (case for case in cases if case.startswith(f"{kind} step, ")):
                beside[f"{prox} / {step}"] = ratios(times, prox, step)
    memory = {
        case: extra_memory(run, device) / total
        for case, run in ours.items()
        if "prox" in case or "L1" in case
    }
    return {
        "weights": total // 4,
        "copy_ms": {k: 1e3 * v for k, v in spread(times[COPY]).items()},
        "in_copies": copies,
        "beside_the_step": beside,
        "extra_memory": memory,
    }


def bench_training(repetitions: int, device: torch.device) -> dict[str, Any]:
    """A whole training step with the proximal part over one without."""
    times = measure(training_cases(device), repetitions, device)
    return {
        kind: ratios(times, f"training step, {kind}, proximal", f"training step, {kind}")
        for kind in ("SGD", "Adam")
    }


def told(found: Mapping[str, float]) -> list[str]:
    """The cells of a ratio."""
    return [
        f"{found['least']:.2f}",
        f"{found['median']:.2f}",
        f"{found['low']:.2f} to {found['high']:.2f}",
    ]


def report(result: Mapping[str, Any]) -> str:
    """Lay all out as Markdown tables."""
    parts = [f"{result['machine']}, torch {result['torch']}, {result['threads']} thread(s)"]
    for name, found in result["models"].items():
        header = [f"{name}: {found['weights']:,} weights", "least", "median", "quartiles", "memory"]
        rows = [
            [case, *told(one), f"{found['extra_memory'][case]:.1%}"]
            if case in found["extra_memory"]
            else [case, *told(one), "-"]
            for case, one in found["in_copies"].items()
        ]
        parts.append(table(header, rows, markdown=True))
        rows = [[case, *told(one)] for case, one in found["beside_the_step"].items()]
        parts.append(
            table([f"{name}: ratio of times", "least", "median", "quartiles"], rows, markdown=True)
        )
    if not result["torchao"]:
        parts.append("torchao is not installed: pip install --no-deps torchao")
    if result["training"]:
        rows = [[kind, *told(one)] for kind, one in result["training"].items()]
        header = ["ResNet-18 step, 64 images, with / without", "least", "median", "quartiles"]
        parts.append(table(header, rows, markdown=True))
    return "\n\n".join(parts) + "\n"


def draw(result: Mapping[str, Any]) -> Figure:
    """Bars in copies, logarithmic, with the quartiles; a line at one copy."""
    models = result["models"]
    figure = Figure(figsize=(4.6 * len(models) + 1.6, 4.6), dpi=150, layout="constrained")
    grid = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    for axes, (name, found) in zip(grid, models.items(), strict=True):
        shown = {k: v for k, v in found["in_copies"].items() if "step in" not in k}
        for row, (case, one) in enumerate(shown.items()):
            ours = case.startswith(("prox of", "L1 by add")) and "torchao" not in case
            axes.barh(row, one["median"], color=LOOKS[4 if ours else 0].colour)
            axes.plot([one["low"], one["high"]], [row, row], color="black", lw=1.2)
        axes.set_yticks(range(len(shown)), list(shown), fontsize=8.5)
        axes.set_xscale("log")
        axes.axvline(1, color=INK, lw=0.9, ls=":")
        axes.set_xlabel("time in copies of the weights")
        axes.set_title(f"{name}, {found['weights'] / 1e6:.1f} million weights", fontsize=10)
        tidy(axes)
    grid[0].invert_yaxis()
    return figure


def main() -> None:
    """Measure, print, and write JSON, a table and a picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["resnet18", "vit_b_16"],
                        choices=["resnet18", "vit_b_16"])  # fmt: skip
    parser.add_argument("--repetitions", type=int, default=20, help="rounds that count (20)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (1)")
    parser.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled cases out")
    parser.add_argument("--no-training", action="store_true", help="leave the training step out")
    parser.add_argument("--out", type=Path, default=Path("experiments/measured/bench"))
    asked = parser.parse_args()
    if asked.repetitions < 2:
        parser.error("--repetitions must be at least 2: there is no spread in one.")
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    device = torch.device(asked.device)
    result: dict[str, Any] = {
        "machine": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
        "torch": torch.__version__,
        "threads": asked.threads,
        "repetitions": asked.repetitions,
        "models": {},
        "training": {},
    }
    for name in asked.models:
        print(f"measuring {name} ...", flush=True)
        compiled = device.type == "cpu" and not asked.no_compile  # elsewhere it changes nothing
        found = bench_model(name, asked.repetitions, device, compiled)
        result["models"][name] = found
        result["torchao"] = any("torchao" in case for case in found["in_copies"])
    if not asked.no_training:
        print("measuring a training step ...", flush=True)
        result["training"] = bench_training(asked.repetitions, device)
    print(report(result))
    write_json(asked.out / "results.json", result)
    write_text(asked.out / "table.md", report(result))
    write_figure(asked.out / "bench.png", draw(result))


if __name__ == "__main__":
    main()
