"""What tables and pictures call a run: what sets it apart from the others beside it."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.checkpoints import NAMED

# Flags that two runs of one setting may differ in.
_SAME = {"seed", "data_dir", "out", "fresh", "device"}


def telling(run: Mapping[str, Any]) -> dict[str, str]:
    """The flags that set a run apart from those of other seeds, and not of older versions.

    A run that it was given has its own seed, so from the path of that the seed is left out:
    ``runs/dense`` of seed 0, ``runs/dense-1`` and ``runs/dense-seed2`` are one.
    """
    flags = {k: v for k, v in run["flags"].items() if k not in _SAME and v not in (None, False)}
    own_seed = rf"[-_.]?(seed)?(?<!\d){run['flags']['seed']}(?!\d)"
    return {k: re.sub(own_seed, "", v) if k in NAMED else str(v) for k, v in flags.items()}


def setting(run: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> str:
    """Name a run by model and penalty, and by what it does not share with namesakes."""
    flags = telling(run)
    alike = [telling(other) for other in runs if _base(other, runs) == _base(run, runs)]
    words = [
        f"{key.replace('_', '-')} {flags.get(key, left_out)}"
        for key in sorted({key for other in alike for key in other})
        for left_out in ["off" if run["flags"].get(key) is False else "default"]
        if len({other.get(key) for other in alike}) > 1
    ]
    return " ".join([_base(run, runs), *words])


def _base(run: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> str:
    flags = run["flags"]
    words = [run["task"]] * (len({other["task"] for other in runs}) > 1)
    words += [flags["model"], flags["penalty"]]
    if flags["penalty"] != "none":
        # A density that was asked for, or what runs before --density was there have: a strength.
        density = flags.get("density")
        words.append(f"to {density:.1%}" if density else f"{flags['strength']:g}")
        words += [f"+ {flags['l2']:g}"] * bool(flags["l2"])
        words += ["in the loss"] * (flags["mode"] == "loss")
    words += ["fine-tuned"] * bool(flags.get("start")) + ["taught"] * bool(flags.get("teacher"))
    return " ".join(words)


def series(run: Mapping[str, Any], phase: str, runs: Sequence[Mapping[str, Any]]) -> str:
    """Name what a picture draws in one colour: a penalty of any strength."""
    flags = run["flags"]
    several = len({(other["task"], other["flags"]["model"]) for other in runs}) > 1
    words = [f"{run['task']} {flags['model']}" if several else "torchreg"]
    words += [
        ("" if flags["penalty"] == "none" else f"{flags['penalty']} ")
        + ("in the loss " if flags["mode"] == "loss" and flags["penalty"] != "none" else "")
        + phase
    ]
    words += ["fine-tuned"] * bool(flags.get("start")) + ["taught"] * bool(flags.get("teacher"))
    if limit := flags.get("limit"):
        words.append(f"{limit} images")
    return ", ".join(words)
