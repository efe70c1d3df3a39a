"""Flags reach what they name: optimizers, phases, the cut before debiasing."""

import math

import pytest
import torch
from torch import nn

from experiments import mnist
from experiments.cli import Flags
from experiments.modules import make_optimizer
from experiments.training import keep_largest, plan


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
    asked = ["--lr", "0.1", "--epochs", "3", "--final-lr", "0.2"]
    assert plan(flags(*asked)) == [("penalised", 3, 0.1, 0.2)]
    more = ["--dense-epochs", "2", "--penalty-lr", "0.05", "--debias-epochs", "4"]
    assert plan(flags(*asked, *more)) == [
        ("dense", 2, 0.1, 0.0),
        ("penalised", 3, 0.05, 0.2),
        ("debiased", 4, 0.1, 0.0),
    ]


@pytest.mark.parametrize("density", [0.01, 0.2, 0.5, 1.0])
def test_the_largest_weights_are_kept_and_no_more_than_asked(density: float) -> None:
    weights = {"a": torch.randn(7, 9), "b": torch.randn(40)}
    before = torch.cat([w.flatten() for w in weights.values()])
    keep_largest(weights, density)
    after = torch.cat([w.flatten() for w in weights.values()])
    kept = after != 0
    assert kept.sum() <= math.ceil(density * len(before))
    assert kept.sum() >= math.floor(density * len(before)) - 1
    assert torch.equal(after[kept], before[kept])
    if not kept.all():
        assert before[kept].abs().min() > before[~kept].abs().max()
