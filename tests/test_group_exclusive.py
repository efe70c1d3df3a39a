"""The exclusive lasso: its minimum, its support inside groups, an outside solver's optimum."""

import math
from typing import Any

import cvxpy
import pytest
import torch
from torch import Tensor, nn

import torchreg as tr
from tests.test_group_penalties import regression


@pytest.mark.parametrize("members", [1, 2, 7, 60])
@pytest.mark.parametrize("decades", [0.0, 2.0, 10.0])
def test_what_is_left_solves_its_equation(members: int, decades: float) -> None:
    """Against bisection: s is the sum of what thresholds of step * strength * s leave."""
    w = torch.randn(200, members, dtype=torch.float64)
    step = 10 ** (decades * (torch.rand_like(w) - 0.5))
    size, low, high = w.abs(), torch.zeros(200, 1).double(), w.abs().sum(1, keepdim=True)
    for _ in range(200):
        middle = (low + high) / 2
        further = (size - 0.3 * step * middle).clamp(min=0).sum(1, keepdim=True) > middle
        low, high = torch.where(further, middle, low), torch.where(further, high, middle)
    expected = w.sign() * (size - 0.3 * step * high).clamp(min=0)
    z = tr.ExclusiveLasso(0.3, tr.rows).prox(w, step)
    torch.testing.assert_close(z, expected, rtol=0, atol=1e-14 * members)
    clear = (size - 0.3 * step * high).abs() > 1e-12 * (size + step * high)
    assert torch.equal((z == 0)[clear], (expected == 0)[clear])
    assert bool(z.any(dim=1).all())  # no group is emptied


@pytest.mark.parametrize("step", [1e20, 1e300, [1e-3, 1e300, math.inf], [0.0, 1.0, math.inf]])
def test_no_group_is_emptied_by_a_huge_step(step: Any) -> None:
    """Not even where one over the step is lost to rounding; an infinite step leaves nothing."""
    w = torch.tensor([[2.0, -3.0, 5.0]], dtype=torch.float64)
    metric = step if isinstance(step, float) else torch.tensor([step], dtype=w.dtype)
    z = tr.ExclusiveLasso(0.5, tr.rows).prox(w, metric)
    assert not z.isnan().any()
    if isinstance(step, float):
        assert z[0, :2].tolist() == [0.0, 0.0]
        torch.testing.assert_close(z[0, 2], w[0, 2] / (1 + 0.5 * step), rtol=1e-15, atol=0)
    else:
        assert (z[0] != 0).tolist() == [True, step[1] < 2, False]


def test_nan_stays_in_its_group() -> None:
    w = torch.tensor([[math.nan, 1.0], [3.0, 4.0]])
    z = tr.ExclusiveLasso(1.0, tr.rows).prox(w, torch.ones(2, 2))
    assert z[0].isnan().any()
    torch.testing.assert_close(z[1], torch.tensor([2 / 3, 5 / 3]))


def test_adam_reaches_the_optimum_of_an_outside_solver() -> None:
    x, y = regression()
    strength, groups = 0.5, tr.adjacent(4)
    cp: Any = cvxpy  # its types name no function
    outside = cp.Variable(40)
    squares = sum(cp.square(cp.norm1(outside[4 * i : 4 * i + 4])) for i in range(10))
    cost = cp.sum_squares(x.numpy() @ outside - y.numpy()) / (2 * len(y)) + strength / 2 * squares
    tight = {"tol_gap_abs": 1e-11, "tol_gap_rel": 1e-11, "tol_feas": 1e-11}
    optimum = cp.Problem(cp.Minimize(cost)).solve(solver="CLARABEL", **tight)
    expected = torch.from_numpy(outside.value)

    linear = nn.Linear(40, 1, bias=False, dtype=torch.float64)
    regularizer = tr.Regularizer(linear, tr.ExclusiveLasso(strength, groups))
    optimizer = tr.ProximalOptimizer(torch.optim.Adam(linear.parameters(), lr=0.02), regularizer)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1500)

    def loss() -> Tensor:
        error: Tensor = linear(x).squeeze(1) - y
        return error.square().mean() / 2

    for _ in range(1500):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        schedule.step()
    found = linear.weight.detach().flatten()
    assert float((loss() + regularizer()).detach()) == pytest.approx(optimum, rel=1e-6)
    # The outside solver ends inside of the constraints: its zeros are small numbers.
    assert torch.equal(found != 0, expected.abs() > 1e-5)
    kept = groups(found.view(1, -1)) != 0
    assert bool(kept.any(dim=1).all())
    assert not kept.all()
    assert tr.stationarity(regularizer, loss()).residual < 1e-5
