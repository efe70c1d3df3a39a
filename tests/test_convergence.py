"""Every optimizer x {L1, ElasticNet} reaches the optimum of the objective that was written.

The outside solver is scikit-learn's saga at a tolerance of 1e-15, the problem that of
experiments.optimizers. The quick form has a quarter of the steps; ``-m long`` has them all, and
20,000 further ones.
"""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import ASGD, Adadelta, Adagrad, Adam, Adamax, NAdam, Optimizer, RAdam, RMSprop

import torchreg as tr
from experiments import optimizers
from experiments.exactness import lr_alone
from experiments.optimizers import BATCH, CASES, PENALTIES, Parameters, optimum, solve, strengths

FULL = [name for name, case in CASES.items() if not case.batches_only]


def long(test: Any) -> Any:
    """Minutes: left out by default, and by ``-m "not slow"`` too, which replaces that default."""
    return pytest.mark.slow(pytest.mark.long(test))


each_full = pytest.mark.parametrize("name", FULL)
each_penalty = pytest.mark.parametrize("penalised", PENALTIES)


@each_penalty
def test_the_outside_optimum_is_one(penalised: str) -> None:
    penalty = PENALTIES[penalised]
    _, weights, gradient = optimum(*strengths(penalty))
    # Stationary, coordinate by coordinate, to a millionth of the strength.
    assert float(penalty.distance(weights, gradient).max()) < 1e-6 * penalty.l1
    assert 0 < int((weights == 0).sum()) < weights.numel()


def test_the_gradient_that_is_written_out_is_that_of_the_loss() -> None:
    x, _, onehot = optimizers.wine()
    linear = nn.Linear(13, 3, dtype=torch.float64)
    optimizers.task_loss(linear).backward()
    error = torch.softmax(linear(x), 1) - onehot
    assert linear.weight.grad is not None
    torch.testing.assert_close(error.T @ x / len(x), linear.weight.grad)


@each_full
@each_penalty
def test_a_quarter_of_the_steps_comes_near(name: str, penalised: str) -> None:
    case = CASES[name]
    found = solve(case.make, PENALTIES[penalised], steps=case.steps // 4)
    # L1 alone leaves flat directions; the Elastic Net's curvature is at least 2 * l2.
    assert -1e-12 < found.gap < (3e-3 if penalised == "L1" else 1e-4)
    if penalised == "ElasticNet":
        assert found.residual < 1e-2
        assert found.mismatch == 0


PLAIN = ("SGD", "ASGD, lambd=0")  # whose step is the lr, so that the obvious wrapper is right


@pytest.mark.parametrize("name", [name for name in FULL if name not in PLAIN])
def test_the_lr_alone_solves_another_problem(name: str) -> None:
    case = CASES[name]
    found = solve(case.make, PENALTIES["L1"], steps=case.steps // 10, metric=lr_alone)
    assert found.gap > 0.02


DECAYED: dict[str, tuple[optimizers.Case, str]] = {
    "Adam": (optimizers.Case(lambda p: Adam(p, lr=0.05), 800, 1e-6), "weight_decay"),
    "Adamax": (optimizers.Case(lambda p: Adamax(p, lr=0.2), 1500, 1e-6), "weight_decay"),
    "NAdam": (optimizers.Case(lambda p: NAdam(p, lr=0.05), 800, 1e-6), "weight_decay"),
    "RAdam": (optimizers.Case(lambda p: RAdam(p, lr=0.2), 1500, 1e-6), "weight_decay"),
    "RMSprop": (optimizers.Case(lambda p: RMSprop(p, lr=0.02), 1000, 1e-5), "weight_decay"),
    "Adagrad": (optimizers.Case(lambda p: Adagrad(p, lr=0.5), 800, 1e-6), "weight_decay"),
    "Adadelta": (optimizers.Case(lambda p: Adadelta(p, lr=10.0), 1500, 1e-6), "weight_decay"),
    "ASGD": (optimizers.Case(lambda p: ASGD(p, lr=0.7, lambd=0.0), 1000, 1e-6), "weight_decay"),
    "ASGD lambd": (optimizers.Case(lambda p: ASGD(p, lr=0.7, lambd=0.0), 3000, 1e-6), "lambd"),
}


@pytest.mark.parametrize("name", DECAYED)
def test_coupled_decay_is_the_l2_of_the_objective(name: str) -> None:
    case, option = DECAYED[name]
    l1, l2 = strengths(PENALTIES["ElasticNet"])

    def make(parameters: Parameters) -> Optimizer:
        optimizer = case.make(parameters)
        (group,) = optimizer.param_groups
        weight, bias = group["params"]
        group["params"] = [weight]
        group[option] = 2 * l2  # torch halves it
        optimizer.add_param_group({"params": [bias], "lr": group["lr"], option: 0.0})
        return optimizer

    found = solve(make, tr.L1(l1), steps=case.steps)
    best, weights, _ = optimum(l1, l2)
    decay = l2 * float(found.weights.square().sum())
    objective = (1 + found.gap) * optimum(l1, 0.0)[0] + decay
    assert -1e-12 < objective / best - 1 < case.target
    assert torch.equal(found.weights == 0, weights == 0)


@pytest.mark.parametrize("name", CASES)
def test_mini_batches_stay_within_their_noise(name: str) -> None:
    # The gap of a run whose gradients come from 32 of 178 wines: a percent, of a start at 300 %.
    case = CASES[name]
    found = solve(case.make, PENALTIES["ElasticNet"], steps=case.steps // 2, batch=BATCH)
    assert -1e-12 < found.gap < 1e-2


@long
@each_full
@each_penalty
def test_all_of_the_steps_reach_it_and_stay(name: str, penalised: str) -> None:
    case = CASES[name]
    found = solve(case.make, PENALTIES[penalised], steps=case.steps, further=20_000)
    assert -1e-12 < found.gap < case.target
    assert found.residual < 1e-2
    assert found.mismatch == 0
    assert found.drift < case.target


@long
@pytest.mark.parametrize("name", CASES)
@each_penalty
def test_mini_batches_with_all_of_the_steps(name: str, penalised: str) -> None:
    case = CASES[name]
    found = solve(case.make, PENALTIES[penalised], steps=case.steps, batch=BATCH)
    assert -1e-12 < found.gap < 5e-3


def test_the_experiment_writes_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = optimizers.Case(CASES["Adam"].make, 50, 1.0)
    monkeypatch.setattr(optimizers, "CASES", {"Adam": few})
    optimizers.main(["--out", str(tmp_path), "--further", "100"])
    assert "gap, lr * strength" in capsys.readouterr().out
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["penalty"] for row in rows] == list(PENALTIES)
    assert float(rows[0]["gap"]) < float(rows[0]["naive_gap"])
    assert (tmp_path / "table.md").read_text().count("Adam") == 2
    assert (tmp_path / "table.txt").exists()
