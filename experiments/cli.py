"""The flags that every experiment has."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import nn

from experiments.flag_types import amount, count, fraction, positive, rate, share
from experiments.flags import Flags
from experiments.penalties import GROUP_CHOICES, PENALTY_CHOICES
from experiments.refusals import mend

EPILOG = """\
A run that was interrupted goes on where it stopped when the same command is given again, and
ends with the same weights. A finished run is not repeated: --fresh sets it aside first.
"""


def parser(
    script: str, description: str, models: Mapping[str, Callable[[int], nn.Module]]
) -> argparse.ArgumentParser:
    """Build the parser of a script; the script adds its own flags and sets its defaults.

    Args:
        script: as in ``python -m experiments.<script>``.
        description: what the script measures.
        models: the choices of ``--model``; the first is the default.
    """
    made = argparse.ArgumentParser(
        prog=f"python -m experiments.{script}",
        description=description,
        epilog=EPILOG,
        formatter_class=_Help,
    )
    group = made.add_argument_group("model and penalty")
    names = list(models)
    group.add_argument("--model", choices=names, default=names[0], help="the network")
    group.add_argument(
        "--penalty",
        choices=PENALTY_CHOICES,
        default="l1",
        help="none is dense; the README has a table of the others",
    )
    group.add_argument(
        "--strength",
        type=amount,
        default=0.0,
        help="l1, or l2 under --penalty l2, ...; or give --density",
    )
    group.add_argument(
        "--density",
        type=share,
        help="bring the share of nonzero weights down to this, and hold it; no --strength needed",
    )
    group.add_argument(
        "--ramp",
        type=fraction,
        nargs=3,
        metavar=("BEGIN", "END", "HOLD"),
        default=[0.05, 0.5, 0.75],
        help="of --density, as shares of the epochs: when it starts to fall, has come down, and "
        "from when the zeros stay and the penalty is lifted",
    )
    group.add_argument(
        "--multiply-adds",
        action="store_true",
        help="count the multiply-adds of the nonzero weights under --density, not the weights",
    )
    group.add_argument(
        "--each-layer",
        action="store_true",
        help="bring each layer to --density by itself: how much a layer matters is not compared "
        "with others, which normalisation between them makes hard",
    )
    group.add_argument(
        "--multiple",
        type=positive,
        metavar="N",
        help="round what --each-layer keeps to a multiple of N channels: vectors are filled by 8 "
        "or 16",
    )
    group.add_argument("--l2", type=amount, default=0.0, help="l2 of --penalty elasticnet")
    group.add_argument(
        "--groups",
        choices=GROUP_CHOICES,
        help="of a group penalty; removable (the default): what a smaller network can do without; "
        "shared: the same, with the channels that several layers read (residual streams) as one",
    )
    group.add_argument(
        "--where",
        nargs="+",
        metavar="GLOB",
        help="parameter names to penalise and to count (default: the weights; no biases, no "
        "normalisation)",
    )
    group.add_argument(
        "--mode",
        choices=("proximal", "loss"),
        default="proximal",
        help="proximal steps, which leave exact zeros; or the penalty added to the loss, which "
        "does not",
    )

    group = made.add_argument_group("training")
    group.add_argument(
        "--start",
        type=Path,
        metavar="RUN",
        help="begin with the weights of this finished run of the same network, such as a dense one",
    )
    group.add_argument(
        "--teacher",
        type=Path,
        metavar="RUN",
        help="ask for the outputs of the network of this finished run beside the labels; it may "
        "be another --model, of the same held-out images",
    )
    group.add_argument("--optimizer", choices=("adam", "adamw", "sgd"), default="adam", help=" ")
    group.add_argument("--lr", type=rate, default=2e-3, help="at its peak; a cosine follows")
    group.add_argument(
        "--weight-decay", type=amount, default=0.0, help="the optimizer's own, on every parameter"
    )
    group.add_argument(
        "--momentum", type=fraction, default=0.9, help="of SGD (Nesterov); beta1 of Adam, AdamW"
    )
    group.add_argument("--warmup", type=amount, default=0.0, help="epochs of rising lr")
    group.add_argument("--epochs", type=count, default=30, help="with the penalty")
    group.add_argument(
        "--debias-epochs",
        type=count,
        default=0,
        help="more epochs without the penalty, the zeros held: undoes the shrinkage",
    )
    group.add_argument("--debias-lr", type=rate, help="peak lr there (default: --lr)")
    group.add_argument("--batch-size", type=positive, default=128, help=" ")
    group.add_argument(
        "--shift", type=count, default=0, metavar="PIXELS", help="random shifts up to so far"
    )
    group.add_argument(
        "--flip", action=argparse.BooleanOptionalAction, default=False, help="random mirroring"
    )
    group.add_argument("--seed", type=count, default=0, help="of weights, order and split")

    group = made.add_argument_group("data")
    group.add_argument(
        "--data-dir", type=Path, default=Path("data"), help="read from here, or download to here"
    )
    group.add_argument("--validation", type=positive, default=5000, help="training images held out")
    group.add_argument("--limit", type=positive, help="use only so many images of each split")

    group = made.add_argument_group("machine and output")
    group.add_argument(
        "--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="auto: CUDA first"
    )
    group.add_argument(
        "--precision",
        choices=("32-true", "bf16-mixed", "16-mixed", "64-true"),
        default="32-true",
        help="as Lightning names it; weights stay float32 in the mixed ones",
    )
    group.add_argument("--out", type=Path, help="the run's folder (default: named by its flags)")
    group.add_argument("--fresh", action="store_true", help="set an earlier run aside, start anew")
    return made


def parse(made: argparse.ArgumentParser, argv: Sequence[str] | None) -> Flags:
    """Parse, and refuse combinations that would quietly do something else than they say."""
    flags = made.parse_args(argv, namespace=Flags())
    if told := mend(flags):
        made.error(told)
    flags.groups = flags.groups or GROUP_CHOICES[0]
    return flags


class _Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Wrapped help with defaults, left out where there is none to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False or "default" in (action.help or ""):
            return action.help
        return super()._get_help_string(action)
