"""Accuracy against sparsity on MNIST, with the two LeNets that sparsity papers report on."""

from collections.abc import Sequence

from experiments import cli
from experiments.data import MNIST_SOURCE
from experiments.errors import told
from experiments.flags import Flags
from experiments.models import FOR_MNIST
from experiments.run import run
from experiments.training import Task

DESCRIPTION = """\
Train a LeNet on MNIST with a penalty, exact zeros included, then without it on the weights that
are left; test both.

  python -m experiments.mnist --strength 1e-4 --shift 1 --epochs 25 --debias-epochs 5
  python -m experiments.mnist --penalty none
"""


def parse(argv: Sequence[str] | None = None) -> tuple[Task, Flags]:
    """Read the flags of this script."""
    made = cli.parser("mnist", DESCRIPTION, FOR_MNIST)
    flags = cli.parse(made, argv)
    return Task("mnist", MNIST_SOURCE, FOR_MNIST[flags.model]), flags


def main(argv: Sequence[str] | None = None) -> None:
    """Run one experiment."""
    run(*parse(argv))


if __name__ == "__main__":
    told(main)
