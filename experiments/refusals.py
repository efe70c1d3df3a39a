"""Combinations of flags that would quietly do something else than they say."""

import torch

from experiments.flags import Flags
from experiments.penalties import COUNTABLE, FOUND, GROUPED, JUMPING


def mend(flags: Flags) -> str | None:
    """What to change about the flags, or None where they fit together.

    Args:
        flags: as they were given, ``groups`` None where it was left out.
    """
    ungrouped = flags.groups and flags.penalty not in GROUPED
    dense, elastic = flags.penalty == "none", flags.penalty == "elasticnet"
    nothing = "do nothing under --penalty none: leave them out"
    absent = {"cuda": not torch.cuda.is_available(), "mps": not torch.backends.mps.is_available()}
    begin, end, hold = flags.ramp
    cases = (
        (
            dense and (flags.strength or flags.l2 or flags.density),
            f"--strength, --density and --l2 {nothing}",
        ),
        (
            not dense and not flags.strength and not flags.density,
            f"--penalty {flags.penalty} needs a --strength above 0, such as 1e-4, or a --density",
        ),
        (
            flags.strength and flags.density,
            "--density finds the strength: leave --strength out",
        ),
        (flags.density == 1, "--density must be below 1; --penalty none is dense"),
        (not begin <= end <= hold, "--ramp needs BEGIN <= END <= HOLD"),
        (flags.multiply_adds and not flags.density, "--multiply-adds needs --density"),
        (flags.each_layer and not flags.density, "--each-layer needs --density"),
        (
            flags.each_layer and flags.multiply_adds,
            "--each-layer and --multiply-adds exclude each other: a layer's weights all cost the "
            "same",
        ),
        (flags.multiple and not flags.each_layer, "--multiple needs --each-layer"),
        (
            flags.multiple and flags.penalty not in COUNTABLE,
            f"--multiple counts channels, and --penalty {flags.penalty} zeroes single weights: "
            "give --penalty group-l0",
        ),
        (
            flags.l2 and not elastic,
            "--l2 belongs to --penalty elasticnet; under --penalty l2 use --strength",
        ),
        (elastic and not flags.l2, "--penalty elasticnet needs an --l2 above 0 (else it is l1)"),
        (
            ungrouped,
            f"--penalty {flags.penalty} has no groups: leave --groups out, or give --penalty "
            f"{' or '.join(GROUPED)}",
        ),
        (
            flags.where and flags.penalty in GROUPED and flags.groups in (None, *FOUND),
            "--groups removable and shared find their own parameters: leave --where out, or give "
            "other groups",
        ),
        (not flags.epochs, "--epochs must be at least 1"),
        (
            dense and flags.debias_epochs,
            "--debias-epochs stand after epochs with a penalty; under --penalty none give --epochs "
            "alone",
        ),
        (
            (flags.debias_epochs or flags.density)
            and (flags.penalty == "l2" or flags.mode == "loss"),
            "--debias-epochs and --density need exact zeros, and neither --penalty l2 nor --mode "
            "loss leaves any: leave it out",
        ),
        (
            flags.mode == "loss" and flags.penalty in JUMPING,
            f"--penalty {flags.penalty} has no useful gradient: use --mode proximal",
        ),
        (
            flags.penalty in JUMPING and not flags.density,
            f"--penalty {flags.penalty} makes every zero final, so its strength must rise slowly: "
            "give --density, which sees to that",
        ),
        (flags.debias_lr and not flags.debias_epochs, "--debias-lr needs --debias-epochs"),
        (flags.limit == 1, "--limit must be at least 2: an image to train on, one to validate"),
        (absent.get(flags.device), f"--device {flags.device}: torch finds none here; give cpu"),
    )
    return next((told for refused, told in cases if refused), None)
