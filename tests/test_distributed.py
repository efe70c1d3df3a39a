"""Two and four real processes, their weights sharded in every way, equal one process."""

import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import distributed_worker as worker
from tests.distributed_worker import LAYOUTS, OPTIMIZERS, TRAININGS, Layout
from tests.processes import torchrun

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes, and then four, have left their checkpoints and what they found."""
    path = tmp_path_factory.mktemp("distributed")
    for processes in (2, 4):  # four resume what two have saved
        torchrun(processes, "tests.distributed_worker", str(path))
    return path


@pytest.fixture(params=[2, 4], ids=["two", "four"])
def ranks(request: pytest.FixtureRequest, folder: Path) -> list[dict[Any, Any]]:
    """What each rank found."""
    processes: int = request.param
    return [torch.load(folder / f"{processes}-{rank}.pt") for rank in range(processes)]


def assert_equal(found: Any, expected: Any) -> None:
    """The same but for the order of summation, in float64; zeros, counts and text exactly."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            assert_equal(found[name], expected[name])
    elif isinstance(expected, torch.Tensor) and expected.is_floating_point():
        # Twelve steps let a rounding of 1e-16 grow; the issue asks for 1e-6.
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
        assert torch.equal(found == 0, expected == 0)
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)
    else:
        assert found == expected


single_training = cache(lambda kind: worker.training("single", kind))


def test_shards_are_uneven_and_some_are_empty(folder: Path) -> None:
    sizes = [torch.load(folder / f"4-{rank}.pt")["sizes"] for rank in range(4)]
    rows = {i: [of_rank[i] for of_rank in sizes] for i in (0, 2, 4)}
    assert rows == {0: [3, 3, 3, 1], 2: [2, 2, 2, 1], 4: [1, 1, 1, 0]}


@pytest.mark.parametrize(("layout", "kind"), TRAININGS)
def test_a_training_equals_the_single_process(
    ranks: list[dict[Any, Any]], layout: str, kind: str
) -> None:
    """Weights, zeros, reports, certificate, optimizer state, and the debiasing that follows."""
    expected = single_training(kind)
    assert 0 < expected["zeros"] < 150  # of 60 + 70 + 21 + 3
    assert math.isfinite(expected["stationarity"]["residual"])
    for found in ranks:
        assert_equal(found["training", layout, kind], expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_penalty_in_a_loss_and_its_gradient_equal_the_single_process(
    ranks: list[dict[Any, Any]], layout: str
) -> None:
    expected = worker.gradients("single")
    assert expected["untouched"]
    for found in ranks:
        assert_equal(found["gradients", layout], expected)
        assert_equal(found["gradients", layout]["before"], expected["direct"])


@pytest.mark.parametrize("kind", worker.TARGETS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_density_is_reached_over_all_shards(
    ranks: list[dict[Any, Any]], layout: str, kind: str
) -> None:
    """The same weights are ranked, resumed and held as in one process."""
    expected = worker.targeted("single", kind)
    assert expected["zeros"] == 85  # of 151, at a density of 0.44
    for found in ranks:
        assert_equal(found["targeted", layout, kind], expected)


@pytest.mark.parametrize("kind", ["Nesterov", "Adam"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_joint_groups_reach_over_weights_that_are_sharded(
    ranks: list[dict[Any, Any]], layout: str, kind: str
) -> None:
    expected = worker.together("single", kind)
    assert 0 < expected["zeros"] < 130
    assert_equal(expected["direct"], expected["autograd"])
    for found in ranks:
        assert_equal(found["together", layout, kind], expected)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
@pytest.mark.parametrize("kind", ["Nesterov", "Adam"])
def test_checkpoints_resume_in_any_number_of_processes(
    ranks: list[dict[Any, Any]], folder: Path, kind: str
) -> None:
    layout = Layout("single")
    layout.train(worker.proximal(layout, kind), 8)
    # Saved by two processes after four steps: resumed here, in two and in four.
    assert_equal(worker.resume(str(folder), kind, Layout("single"), 4), layout.weights())
    for found in ranks:
        assert_equal(found["resumed", kind], layout.weights())
        assert_equal(found["full", kind], layout.weights())


def test_the_example_of_two_processes_is_resumed_by_one(tmp_path: Path) -> None:
    options = ["experiments.sharded", "--epochs=3", f"--checkpoint={tmp_path}"]
    first, resumed = torchrun(2, *options), torchrun(1, *options)
    for printed in (first, resumed):
        assert "50,200 of 50,610 parameters penalised" in printed

    def residual(printed: str) -> float:
        return float(printed.partition("stationarity residual ")[2].split()[0])

    assert residual(resumed) < residual(first)


def test_what_cannot_be_done_is_refused_on_every_rank(ranks: list[dict[Any, Any]]) -> None:
    for found in ranks:
        told = found["refusals"]
        assert "pass a function that returns it" in told["a loss with its graph"]
        assert "the loss is not finite" in told["not finite on the other ranks"]
        assert "Use fully_shard (FSDP2)" in told["older"]


def test_every_optimizer_of_the_list_is_trained() -> None:
    assert {kind for _, kind in TRAININGS} == set(OPTIMIZERS)
