"""The points of a path in a file, from which it is resumed."""

import os
import tempfile
from dataclasses import asdict
from pathlib import Path as File

import torch

from torchreg.paths.points import Point
from torchreg.solver.result import Solution


def read(file: File, order: list[float]) -> list[Point]:
    """The points so far, none if there is no file yet.

    Args:
        file: where :func:`write` puts them.
        order: the grid that the path is to follow.

    Raises:
        FileNotFoundError: there is no folder for it.
        ValueError: it holds something else, or another grid.
    """
    if not file.parent.is_dir():  # said before the first point is solved, not after it
        raise FileNotFoundError(f"there is no folder {file.parent} to keep points in: make it.")
    if not file.exists():
        return []
    try:
        held = torch.load(file, weights_only=True)
        points = [Point(**{**p, "solution": Solution(**p["solution"])}) for p in held["points"]]
        strengths = held["strengths"]
    except IsADirectoryError:
        raise
    except Exception as error:  # torch.load raises as many kinds as there are broken files
        raise ValueError(
            f"{file} holds no path to resume ({type(error).__name__}: {error}): delete it, or give "
            "another file."
        ) from error
    if strengths != order:
        raise ValueError(
            f"{file} holds a path over {len(strengths)} other strengths: delete it, or "
            "give another file to resume from."
        )
    return points


def write(file: File, order: list[float], points: list[Point]) -> None:
    """Write beside the file and put it in its place in one step."""
    held = [{**vars(point), "solution": asdict(point.solution)} for point in points]
    handle, beside = tempfile.mkstemp(dir=file.parent, prefix=file.name)
    os.close(handle)
    try:
        torch.save({"strengths": order, "points": held}, beside)
        os.replace(beside, file)
    except BaseException:
        File(beside).unlink(missing_ok=True)
        raise
