"""A density for each layer: rounded to whole multiples of groups, and reached in whole groups."""

from typing import Any

import pytest
import torch
from torch import nn

import torchreg as tr
from tests.lightning_modules import Proximal, fit
from tests.test_target_sparsity import OPTIMIZERS, Problem
from torchreg.lightning import Debias
from torchreg.lightning import TargetSparsity as Callback
from torchreg.schedule import layer_densities


def bound(rows: int, penalty: tr.Penalty) -> tr.Regularizer:
    return tr.Regularizer(nn.Linear(10, rows), penalty)


@pytest.mark.parametrize(
    ("rows", "density", "multiple", "kept"),
    [
        (64, 0.6875, 16, 48),  # 44, between 32 and 48
        (32, 0.6875, 16, 16),  # 22
        (20, 0.35, 8, 8),  # 7
        (50, 0.35, 8, 16),  # 17.5
        (50, 0.35, 1, 18),
        (64, 0.01, 16, 16),  # one multiple at the least
        (40, 0.99, 16, 32),  # 39.6; 48 would be more than there are
    ],
)
def test_it_keeps_the_nearest_multiple(rows: int, density: float, multiple: int, kept: int) -> None:
    regularizer = bound(rows, tr.GroupL0(1.0, groups=tr.rows))
    found = layer_densities(regularizer, density, multiple_of=multiple)
    assert found == {"weight": kept / rows}


def test_a_layer_that_has_no_more_stays_whole() -> None:
    """31 of 32 is nearer to 32 than to 16, and 5 is less than one multiple."""
    model = nn.Sequential(nn.Linear(3, 31), nn.Linear(31, 5), nn.Linear(5, 40))
    penalties = {f"{i}.weight": tr.GroupL0(1.0, groups=tr.rows) for i in range(3)}
    found = layer_densities(tr.Regularizer(model, penalties), 0.87, multiple_of=16)
    assert found == {"0.weight": 1.0, "1.weight": 1.0, "2.weight": 32 / 40}


def test_without_groups_it_counts_weights() -> None:
    assert layer_densities(bound(10, tr.L0(1.0)), 0.34, multiple_of=4) == {"weight": 36 / 100}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_layer_ends_at_its_multiple(optimizer: str) -> None:
    penalties = {
        "0.weight": tr.GroupL0(1.0, groups=tr.rows),  # 30 of them
        "2.weight": tr.GroupL0(1.0, groups=tr.columns),  # 30
    }
    problem = Problem(penalties, optimizer)
    densities = layer_densities(problem.regularizer, 0.35, multiple_of=8)
    assert densities == {"0.weight": 8 / 30, "2.weight": 8 / 30}
    tr.TargetSparsity(problem.optimizer, densities, end=60, every=8)
    problem.train(90)
    assert problem.nonzero() == [8 * 40, 8 * 5]


def test_a_density_of_one_leaves_its_selection_alone() -> None:
    """It is trained as if nothing penalised it, and the others come to their density."""
    problem = Problem(
        {
            "0.weight": tr.GroupL0(1.0, groups=tr.rows),
            "2.weight": tr.GroupL0(1.0, groups=tr.columns),
        }
    )
    target = tr.TargetSparsity(problem.optimizer, {"0.weight": 0.5, "2.weight": 1.0}, end=20)
    problem.train(40)
    assert problem.nonzero() == [15 * 40, 30 * 5]
    assert target.strength == [0.0, 0.0]
    alone = Problem({"0.weight": tr.GroupL0(1.0, groups=tr.rows)})
    tr.TargetSparsity(alone.optimizer, 0.5, end=20)
    alone.train(40)
    for one, other in zip(problem.model.parameters(), alone.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_one_density_for_all_must_be_below_one() -> None:
    problem = Problem(tr.L0(1.0))
    with pytest.raises(ValueError, match="above 0 and below 1, found 1"):
        tr.TargetSparsity(problem.optimizer, 1.0, end=20)
    with pytest.raises(ValueError, match=r"above 0 and at most 1, found 1\.1"):
        tr.TargetSparsity(problem.optimizer, {"*.weight": 1.1}, end=20)


@pytest.mark.parametrize("make", [tr.GroupL0, tr.GroupLasso, tr.GroupMCP])
def test_a_group_counts_whole_and_its_zero_weights_stay_free(make: Any) -> None:
    """Weights without a gradient for the moment leave zeros inside a group that is kept."""
    problem = Problem({"0.weight": make(1.0, groups=tr.rows)}, "SGD")
    weight = problem.first.weight
    with torch.no_grad():
        weight[0] *= 5
        weight[0, :20] = 0.0
    idle = torch.zeros_like(weight)
    idle[0, :20] = 1.0
    hook = weight.register_hook(lambda grad: grad * (1 - idle))
    tr.TargetSparsity(problem.optimizer, 0.5, end=0)
    problem.train(1)
    assert sorted((weight != 0).sum(1).tolist()) == [0] * 15 + [20] + [40] * 14
    hook.remove()
    problem.train(1)
    assert sorted((weight != 0).sum(1).tolist()) == [0] * 15 + [40] * 15


def test_whole_groups_that_are_a_rounded_share_are_all_kept() -> None:
    """24 / 44 of 440 weights are 239.99999999999997."""
    regularizer = bound(44, tr.GroupMCP(1.0, groups=tr.rows))
    model = regularizer.model
    optimizer = tr.ProximalOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), regularizer)
    densities = layer_densities(regularizer, 0.55, multiple_of=8)
    tr.TargetSparsity(optimizer, densities, end=1)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(8, 10)).square().mean().backward()
        optimizer.step()
    assert int((model.get_parameter("weight") != 0).any(1).sum()) == 24


def test_where_nothing_is_to_be_zeroed_no_density_was_missed() -> None:
    # A warning would be an error.
    fit(Proximal(), callbacks=[Callback({"*weight": 1.0}, end=0.5)])


@pytest.mark.parametrize("density", [0.5, {"*weight": 0.5}])
def test_debiasing_before_the_density_is_held_says_so(density: Any) -> None:
    callbacks = [Callback(density, end=0.75), Debias(1)]
    with pytest.raises(RuntimeError, match=r"fix_support or Debias .* before the density was held"):
        fit(Proximal(), callbacks=callbacks, max_epochs=4)
    fit(Proximal(), callbacks=[Callback(density, end=0.5), Debias(3)], max_epochs=4)


def test_penalties_that_zero_single_weights_count_no_groups() -> None:
    regularizer = bound(30, tr.SparseGroupLasso(1.0, groups=tr.rows))
    assert layer_densities(regularizer, 0.5) == {"weight": 0.5}
    with pytest.raises(ValueError, match="zeroes single weights, so a density does not count"):
        layer_densities(regularizer, 0.5, multiple_of=8)


def test_a_multiple_that_leaves_every_layer_whole_is_refused() -> None:
    regularizer = bound(8, tr.GroupL0(1.0, groups=tr.rows))
    with pytest.raises(ValueError, match="every layer would stay whole: there are 8 in weight"):
        layer_densities(regularizer, 0.5, multiple_of=16)


def test_an_empty_tensor_has_no_density() -> None:
    model = nn.ParameterDict({"some": torch.ones(4, 2), "none": torch.ones(4, 0)})
    regularizer = tr.Regularizer(model, {name: tr.GroupL0(1.0, groups=tr.rows) for name in model})
    assert layer_densities(regularizer, 0.5) == {"some": 0.5}


@pytest.mark.parametrize("found", [nn.Linear(2, 2), {"weight": tr.L0(1.0)}, None])
def test_it_refuses_what_is_not_bound(found: Any) -> None:
    with pytest.raises(TypeError, match=r"expected a torchreg.Regularizer, found \w+: bind"):
        layer_densities(found, 0.5)


def test_a_state_has_the_penalties_in_the_order_of_the_regularizer() -> None:
    """Whatever the order of the densities, and with a penalty that none is asked of."""

    def made(*names: str) -> tuple[Problem, tr.TargetSparsity]:
        problem = Problem({"0.weight": tr.L1(1.0), "2.weight": tr.L1(2.0)})
        return problem, tr.TargetSparsity(problem.optimizer, dict.fromkeys(names, 0.5), end=30)

    for names in (("2.weight", "0.weight"), ("2.weight",)):
        problem, target = made(*names)
        problem.train(5)
        state = target.state_dict()
        assert state["bases"] == [{"l1": 1.0}, {"l1": 2.0}]
        other, resumed = made(*names)
        resumed.load_state_dict(state)
        assert resumed.strength == target.strength
        assert other.regularizer.terms[0].penalty.strength == target.strength[0]


@pytest.mark.parametrize("density", [0.0, 1.0, -0.5, float("nan"), True, "0.5"])
def test_it_refuses_other_densities(density: float) -> None:
    with pytest.raises(ValueError, match="above 0 and below 1"):
        layer_densities(bound(4, tr.L0(1.0)), density)


@pytest.mark.parametrize("multiple", [0, -8, 2.0, True])
def test_it_refuses_other_multiples(multiple: int) -> None:
    with pytest.raises(ValueError, match="multiple_of must be a whole number of at least 1"):
        layer_densities(bound(4, tr.L0(1.0)), 0.5, multiple_of=multiple)
