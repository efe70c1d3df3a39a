"""Accuracy against sparsity on CIFAR-10 or CIFAR-100: a VGG for the CPU, larger ones for a GPU."""

from collections.abc import Sequence

import torch

from experiments import cli
from experiments.data import CIFAR10_SOURCE, CIFAR100_SOURCE
from experiments.errors import told
from experiments.flags import Flags
from experiments.models import FOR_CIFAR
from experiments.run import run
from experiments.training import Task

DESCRIPTION = """\
Train a convolutional network on CIFAR with a penalty, exact zeros included, then without it on
the weights that are left; test both.

  python -m experiments.cifar10 --penalty none
  python -m experiments.cifar10 --strength 1e-4 --epochs 12 --debias-epochs 3 --debias-lr 1e-3
"""


def fastest_precision() -> str:
    """bfloat16 where the machine computes in it: elsewhere it takes ten times as long as float32.

    Example:
        >>> fastest_precision() in ("bf16-mixed", "32-true")
        True
    """
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    told: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    native = any(told.get(name) for name in ("amx_bf16", "avx512_bf16"))
    return "bf16-mixed" if native else "32-true"


def parse(argv: Sequence[str] | None = None) -> tuple[Task, Flags]:
    """Read the flags of this script."""
    made = cli.parser("cifar10", DESCRIPTION, FOR_CIFAR)
    made.add_argument("--cifar100", action="store_true", help="the data set with 100 classes")
    made.set_defaults(epochs=15, lr=5e-3, warmup=1.0, shift=4, flip=True)
    made.set_defaults(precision=fastest_precision())
    flags = cli.parse(made, argv)
    name, source = ("cifar100", CIFAR100_SOURCE) if flags.cifar100 else ("cifar10", CIFAR10_SOURCE)
    return Task(name, source, FOR_CIFAR[flags.model]), flags


def main(argv: Sequence[str] | None = None) -> None:
    """Run one experiment."""
    run(*parse(argv))


if __name__ == "__main__":
    told(main)
