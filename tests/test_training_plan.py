"""Flags reach what they name: optimizers, phases, penalties."""

from functools import partial
from itertools import product

import pytest
import torch
from torch import nn

import torchreg as tr
from experiments import cifar10, mnist
from experiments.flags import Flags
from experiments.models import small_vgg
from experiments.modules import make_optimizer, make_regularizer
from experiments.penalties import GROUP_CHOICES, GROUPED, SINGLE
from experiments.training import plan

MADE = {name: partial(make, groups=tr.filters) for name, make in GROUPED.items()}


def flags(*more: str) -> Flags:
    return mnist.parse(["--strength", "1e-3", *more])[1]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_momentum_and_decay_reach_the_optimizer(optimizer: str) -> None:
    asked = flags("--optimizer", optimizer, "--momentum", "0.7", "--weight-decay", "0.01")
    (group,) = make_optimizer(nn.Linear(2, 2), asked, 0.3).param_groups
    assert (group["momentum"] if optimizer == "sgd" else group["betas"][0]) == 0.7
    assert group["weight_decay"] == 0.01
    assert group["lr"] == 0.3


def test_the_phases_have_their_own_epochs_and_rates() -> None:
    asked = ["--lr", "0.1", "--epochs", "3"]
    assert plan(flags(*asked)) == [("penalised", 3, 0.1)]
    assert plan(flags(*asked, "--debias-epochs", "4")) == [
        ("penalised", 3, 0.1),
        ("debiased", 4, 0.1),
    ]
    more = ["--debias-epochs", "4", "--debias-lr", "0.05"]
    assert plan(flags(*asked, *more)) == [("penalised", 3, 0.1), ("debiased", 4, 0.05)]
    assert plan(mnist.parse(["--penalty", "none", "--epochs", "2"])[1]) == [("dense", 2, 2e-3)]


@pytest.mark.parametrize(
    ("penalty", "groups"), [*product(GROUPED, GROUP_CHOICES), *((name, None) for name in SINGLE)]
)
def test_every_penalty_can_be_named(penalty: str, groups: str | None) -> None:
    strength = ["--strength", "1e-3"] if penalty == "l2" else ["--density", "0.5"]
    chosen = ["--groups", groups] if groups else []
    asked = cifar10.parse(["--penalty", penalty, *strength, *chosen])[1]
    model = small_vgg()
    found = make_regularizer(model, asked, torch.zeros(2, 3, 32, 32))
    assert {type(term.penalty) for term in found.terms} == {type((SINGLE | MADE)[penalty](1.0))}
    weights = set(tr.select(model))
    reached = set(found.selection())
    # The first layer reads the pixels, which no smaller network could do without.
    grouped = penalty in GROUPED and groups in ("removable", "shared")
    assert reached == (weights - {"conv1_1.weight"} if grouped else weights)
