"""A wrapped optimizer converges to the objective that the user wrote: real data, outside oracle."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, Optimizer

import torchreg as tr
from experiments.exactness import (
    OPTIMIZERS,
    OPTIMUM,
    STRENGTH,
    lr_alone,
    solve,
    task_loss,
)
from tests.convex import fista

Make = Callable[[nn.Linear], Optimizer]
ADAPTIVE = [name for name in OPTIMIZERS if name.startswith("Adam")]
GRADIENT: dict[str, Make] = {
    **{name: make for name, make in OPTIMIZERS.items() if name.startswith("SGD")},
    "SGD, dampened": lambda m: SGD(m.parameters(), lr=0.5, momentum=0.9, dampening=0.9),
}


def test_the_oracle_finds_the_published_optimum() -> None:
    optimum, weights = fista(STRENGTH, 0.0)
    assert optimum == pytest.approx(OPTIMUM, abs=1e-12)
    assert float((weights != 0).double().mean()) == pytest.approx(0.239, abs=5e-4)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_the_adam_family_reaches_the_optimum_and_its_zeros(name: str) -> None:
    optimum, weights = fista(STRENGTH, 0.0)
    found = solve(OPTIMIZERS[name], tr.L1(STRENGTH), steps=3000)
    assert abs(found.objective - optimum) < 1e-9
    assert torch.equal(found.linear.weight == 0, weights == 0)
    assert found.certificate.residual < 1e-5


@pytest.mark.parametrize("name", GRADIENT)
def test_the_sgd_family_comes_within_a_thousandth(name: str) -> None:
    optimum, _ = fista(STRENGTH, 0.0)
    found = solve(GRADIENT[name], tr.L1(STRENGTH), steps=3000)
    assert -1e-12 < found.objective - optimum < 1e-3


@pytest.mark.slow
def test_sgd_with_momentum_reaches_the_optimum_given_the_steps() -> None:
    optimum, weights = fista(STRENGTH, 0.0)
    make: Make = lambda m: SGD(m.parameters(), lr=0.2, momentum=0.95)  # noqa: E731
    found = solve(make, tr.L1(STRENGTH), steps=12_000)
    assert abs(found.objective - optimum) < 1e-9
    assert torch.equal(found.linear.weight == 0, weights == 0)


def test_elastic_net_reaches_its_optimum_under_adam() -> None:
    optimum, weights = fista(STRENGTH, 1e-3)
    found = solve(OPTIMIZERS["Adam"], tr.ElasticNet(STRENGTH, 1e-3), steps=3000)
    assert abs(found.objective - optimum) < 1e-9
    assert torch.equal(found.linear.weight == 0, weights == 0)


def decaying(linear: nn.Linear) -> list[dict[str, Any]]:
    """Groups that decay the weights and not the biases, so that it is an elastic net."""
    return [{"params": [linear.weight], "weight_decay": 2e-3}, {"params": [linear.bias]}]


def test_coupled_weight_decay_of_adam_is_the_elastic_net_of_the_objective() -> None:
    optimum, weights = fista(STRENGTH, 1e-3)
    make: Make = lambda m: Adam(decaying(m), lr=0.05)  # noqa: E731
    found = solve(make, tr.L1(STRENGTH), steps=3000)
    decay = float(tr.L2.from_weight_decay(2e-3)(found.linear.weight.detach()))
    assert abs(found.objective + decay - optimum) < 1e-9
    assert torch.equal(found.linear.weight == 0, weights == 0)


def test_coupled_weight_decay_of_sgd_is_the_elastic_net_of_the_objective() -> None:
    optimum, _ = fista(STRENGTH, 1e-3)
    make: Make = lambda m: SGD(decaying(m), lr=0.2, momentum=0.95)  # noqa: E731
    found = solve(make, tr.L1(STRENGTH), steps=3000)
    decay = float(tr.L2.from_weight_decay(2e-3)(found.linear.weight.detach()))
    assert abs(found.objective + decay - optimum) < 1e-6


@pytest.mark.parametrize(("name", "least"), [("SGD, momentum 0.9", 0.7), ("Adam", 1.8)])
def test_thresholding_by_the_lr_alone_solves_another_problem(name: str, least: float) -> None:
    found = solve(OPTIMIZERS[name], tr.L1(STRENGTH), steps=1500, metric=lr_alone)
    assert found.objective > least


def test_a_penalty_in_the_loss_leaves_no_zero() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 10, dtype=torch.float64)
    regularizer = tr.Regularizer(linear, tr.L1(STRENGTH))
    optimizer = Adam(linear.parameters(), lr=0.01)
    for _ in range(300):
        optimizer.zero_grad()
        (task_loss(linear) + regularizer()).backward()
        optimizer.step()
    report = tr.sparsity(regularizer, tolerance=0.02)
    assert report.exact == 0
    assert report.near_sparsity > 0.4
