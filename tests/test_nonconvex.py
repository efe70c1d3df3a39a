"""Concave penalties: every step, both branches, the limits, factors and reweighting."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchreg as tr
from tests.cases import sample

PENALTIES = [
    tr.MCP(0.5, concavity=3.0),
    tr.MCP(0.5, concavity=0.3),
    tr.SCAD(0.5),
    tr.SCAD(0.5, concavity=1.2),
    tr.LogSum(0.5, width=1.0),
    tr.LogSum(0.5, width=0.01),
    tr.LHalf(0.5),
    tr.L0(0.5),
]
# Around every branch: steps below, at and above the concavities, and extreme ones.
STEPS = [1e-3, 0.2, 0.3, 0.5, 1.0, 2.2, 2.7, 3.0, 4.0, 4.7, 5.0, 100.0, 1e4]


@pytest.mark.parametrize("penalty", PENALTIES, ids=repr)
@pytest.mark.parametrize("step", STEPS)
def test_prox_is_the_global_minimum_at_every_step(penalty: Any, step: float) -> None:
    w = torch.cat([torch.linspace(0, 12, 61), torch.logspace(-6, 3, 30)]).double()
    z = penalty.prox(w, step)
    grid = torch.cat([torch.zeros(1), torch.linspace(1e-4, 1.2, 6000)]).double()
    candidates = w.unsqueeze(1) * grid  # 0, and up to beyond w itself

    def cost(z: Tensor) -> Tensor:
        rho: Tensor = penalty.rho(z.abs())
        return (z - w.view(-1, *[1] * (z.dim() - 1))).square() / (2 * step) + rho

    least = cost(candidates).min(dim=1).values
    assert bool((cost(z) <= least + 1e-14 * (1 + least)).all())
    assert torch.equal(penalty.prox(-w, step), -z)
    many = penalty.prox(w, torch.full_like(w, step))
    assert torch.equal(many, z)


@pytest.mark.parametrize("penalty", PENALTIES, ids=repr)
def test_each_step_of_a_metric_takes_its_own_branch(penalty: tr.Penalty) -> None:
    w = sample(len(STEPS))
    together = penalty.prox(w, torch.tensor(STEPS, dtype=w.dtype))
    alone = [penalty.prox(w[i : i + 1], step) for i, step in enumerate(STEPS)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-15, atol=0)


@pytest.mark.parametrize("penalty", PENALTIES, ids=repr)
def test_the_value_is_the_integral_of_the_slope(penalty: Any) -> None:
    """From a size of 0.1 on: l0 and l1/2 rise vertically before."""
    r = torch.linspace(0.1, 5, 400_001, dtype=torch.float64)
    middles = (r[1:] + r[:-1]) / 2
    rise = (penalty.derivative(middles) * r.diff()).sum()
    torch.testing.assert_close(penalty.rho(r[-1]) - penalty.rho(r[0]), rise, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("many", [tr.MCP(0.4, 1e12), tr.SCAD(0.4, 1e12), tr.LogSum(0.4, 1e12)])
def test_with_a_large_parameter_it_is_l1(many: tr.Penalty) -> None:
    w, grad, l1 = sample(50), sample(50), tr.L1(0.4)
    for step in (0.7, 0.1 + 3 * torch.rand_like(w)):
        torch.testing.assert_close(many.prox(w, step), l1.prox(w, step), rtol=1e-9, atol=1e-9)
        assert torch.equal(many.prox(w, step) == 0, l1.prox(w, step) == 0)
    torch.testing.assert_close(many(w), l1(w), rtol=1e-9, atol=0)
    torch.testing.assert_close(many.distance(w, grad), l1.distance(w, grad), rtol=0, atol=1e-9)
    assert many.critical_strength(grad) == l1.critical_strength(grad)


@pytest.mark.parametrize("penalty", PENALTIES, ids=repr)
def test_nan_stays_nan_and_zero_is_positive(penalty: tr.Penalty) -> None:
    w = torch.tensor([math.nan, -1e-9, 0.0])
    z = penalty.prox(w, 1.0)
    assert z.isnan().tolist() == [True, False, False]
    assert not torch.signbit(z[1])


@pytest.mark.parametrize(("kind", "name"), [(tr.MCP, "concavity"), (tr.SCAD, "concavity")])
@pytest.mark.parametrize("bad", [0.0, -2.0, math.inf, math.nan])
def test_a_concavity_out_of_range_is_refused(kind: Any, name: str, bad: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be"):
        kind(0.1, bad)


@pytest.mark.parametrize(
    ("penalty", "name"),
    [
        (tr.MCP(0.1), "concavity"),
        (tr.SCAD(0.1), "concavity"),
        (tr.LogSum(0.1, 1.0), "width"),
        (tr.GroupMCP(0.1, groups=tr.rows), "concavity"),
    ],
)
def test_a_shape_set_later_is_checked_as_well(penalty: tr.Penalty, name: str) -> None:
    before = getattr(penalty, name)
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=f"{name} must be above"):
            setattr(penalty, name, bad)
    with pytest.raises(TypeError, match=f"{name} must be a number"):
        setattr(penalty, name, "3")
    assert getattr(penalty, name) == before
    setattr(penalty, name, 5)
    assert f"{name}=5" in repr(penalty)


def test_other_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="concavity must be above 1 and finite, found 1"):
        tr.SCAD(0.1, 1.0)
    with pytest.raises(ValueError, match="concavity must be above 1 and finite, found -1"):
        tr.SCAD(0.1, concavity=-1)
    with pytest.raises(ValueError, match="width must be above 0"):
        tr.LogSum(0.1, 0.0)
    kinds: list[Any] = [tr.MCP, tr.SCAD, lambda s: tr.LogSum(s, 1.0), tr.LHalf, tr.L0]
    for kind in kinds:
        with pytest.raises(ValueError, match="must be a finite number of at least 0"):
            kind(-0.1)


def test_a_schedule_may_set_the_strength() -> None:
    penalty = tr.MCP(0.1)
    penalty.strength = 0.4
    assert repr(penalty) == "MCP(0.4, concavity=3)"
    assert penalty(torch.tensor([100.0])) == pytest.approx(3 * 0.4**2 / 2)
    with pytest.raises(ValueError, match="strength must be"):
        penalty.strength = math.nan


@pytest.mark.parametrize("penalty", [tr.LHalf(1e-4), tr.LogSum(1e-4, 0.05), tr.LogSum(1e-4, 1.0)])
@pytest.mark.parametrize("step", [1e-3, 1e-9])
def test_rounding_does_not_move_what_is_hardly_shrunk(penalty: tr.Penalty, step: float) -> None:
    """In float32 no weight grows, and none moves by more than the last digit of its shift."""
    w = torch.linspace(0.1, 4, 2001)
    z, exact = penalty.prox(w, step), penalty.prox(w.double(), step)
    assert bool((z <= w).all())
    assert float((z - exact).abs().div(w).max()) <= 0.51 * torch.finfo(w.dtype).eps


def trained(penalty: tr.Penalty, steps: int = 1500) -> tuple[nn.Linear, tr.Regularizer, Tensor]:
    """Adam on a regression whose true weights are known; the loss at the end."""
    torch.manual_seed(1)
    x = torch.randn(200, 20, dtype=torch.float64)
    truth = torch.zeros(20, dtype=torch.float64)
    truth[:4] = torch.tensor([2.0, -1.5, 1.0, 3.0])
    y = x @ truth + 0.1 * torch.randn(200, dtype=torch.float64)
    linear = nn.Linear(20, 1, bias=False, dtype=torch.float64)
    regularizer = tr.Regularizer(linear, penalty)
    optimizer = tr.ProximalOptimizer(torch.optim.Adam(linear.parameters(), lr=0.02), regularizer)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        ((linear(x).squeeze(1) - y).square().mean() / 2).backward()
        optimizer.step()
        schedule.step()
    loss = (linear(x).squeeze(1) - y).square().mean() / 2
    only = torch.zeros(20, dtype=torch.float64)
    only[:4] = torch.linalg.lstsq(x[:, :4], y).solution
    return linear, regularizer, torch.stack([loss, (linear.weight.squeeze(0) - only).abs().max()])


@pytest.mark.parametrize(
    "penalty", [tr.MCP(0.1), tr.SCAD(0.1), tr.GroupMCP(0.05, tr.adjacent(4))], ids=repr
)
def test_adam_finds_the_true_support_without_bias(penalty: tr.Penalty) -> None:
    """Least squares on the true features: what L1 misses by its threshold."""
    linear, regularizer, found = trained(penalty)
    assert (linear.weight != 0).squeeze(0).tolist() == [True] * 4 + [False] * 16
    assert float(found[1].detach()) < 1e-6
    assert tr.stationarity(regularizer, found[0]).residual < 1e-5


def test_l1_keeps_its_bias() -> None:
    assert float(trained(tr.L1(0.1))[2][1].detach()) > 0.05


def test_factors_free_hold_and_scale() -> None:
    factors = torch.tensor([0.0, 1.0, 2.0, math.inf], dtype=torch.float64)
    penalty, w = tr.WeightedL1(0.5, factors), torch.full((4,), -3.0, dtype=torch.float64)
    for step in (0.0, 0.4, torch.full_like(w, 0.4), math.inf):
        z = penalty.prox(w, step)
        shift = [0.0, *(0.5 * f * float(torch.as_tensor(step).max()) for f in (1, 2)), math.inf]
        assert z.tolist() == pytest.approx([-max(3.0 - s, 0.0) for s in shift])
    assert penalty(w) == math.inf
    assert penalty(torch.tensor([5.0, 1.0, 1.0, 0.0])) == 0.5 * 3
    assert penalty.distance(z, torch.ones_like(w)).tolist() == [1.0, 0.5, 0.0, 0.0]
    assert penalty.critical_strength(torch.tensor([0.0, 1.0, 6.0, 9.0])) == 3
    assert penalty.critical_strength(torch.tensor([1.0, 0.0, 0.0, 0.0])) == math.inf
    penalty.l1 = 0.0  # what is held stays held while a schedule warms up
    assert penalty.prox(w, 0.4).tolist() == [-3.0, -3.0, -3.0, 0.0]


def test_factors_are_a_scaling_of_the_columns() -> None:
    """l1 * sum(f * |w|) over x is L1 over x / f, with the weights f * w."""
    w, factors = sample(6, 4), 0.2 + torch.rand(6, 1, dtype=torch.float64)
    weighted, plain = tr.WeightedL1(0.3, factors), tr.L1(0.3)
    torch.testing.assert_close(weighted(w), plain(factors * w))
    step = 0.7 / factors.square()
    expected = plain.prox(factors * w, 0.7) / factors
    torch.testing.assert_close(weighted.prox(w, step.expand_as(w)), expected)


def test_bad_factors_are_refused() -> None:
    for bad in (torch.tensor([-1.0]), torch.tensor([math.nan])):
        with pytest.raises(ValueError, match="factors must be at least 0"):
            tr.WeightedL1(0.1, bad)
    with pytest.raises(TypeError, match="tensor of real numbers"):
        tr.WeightedL1(0.1, [1.0])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"shaped \(3,\), the weight \(2, 4\)"):
        tr.WeightedL1(0.1, torch.ones(3))(torch.ones(2, 4))


def test_reweighting_is_the_tangent_of_log_sum() -> None:
    linear = nn.Linear(6, 3, dtype=torch.float64)
    regularizer = tr.Regularizer(linear, tr.L1(0.3))
    (term,) = tr.reweighted(regularizer, width=0.1).terms
    bound, concave = term.penalty, tr.LogSum(0.3, width=0.1)
    w = linear.weight.detach()
    torch.testing.assert_close(bound.slope(w), concave.slope(w))
    gap = bound(w) - concave(w)
    for _ in range(20):  # it touches there and lies above elsewhere
        z = w + 0.3 * torch.randn_like(w)
        assert bound(z) - concave(z) >= gap - 1e-12
    again = tr.reweighted(tr.Regularizer(linear, tr.WeightedL1(0.3, torch.tensor(math.inf))), 0.1)
    assert not again.terms[0].penalty.prox(w, 0.0).any()


def test_what_cannot_be_reweighted_is_told() -> None:
    linear = nn.Linear(3, 2)
    with pytest.raises(TypeError, match="has the penalty L2, which has no factors"):
        tr.reweighted(tr.Regularizer(linear, tr.L2(0.1)), width=0.1)
    with pytest.raises(TypeError, match=r"expected a torchreg\.Regularizer"):
        tr.reweighted(tr.L1(0.1), width=0.1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="width must be above 0"):
        tr.reweighted(tr.Regularizer(linear, tr.L1(0.1)), width=0.0)


def test_reweighting_takes_each_weight_once_and_a_width_that_is_a_number() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    doubly = tr.Regularizer(model, {"*.weight": tr.L1(0.1), "0.weight": tr.L1(0.2)})
    with pytest.raises(ValueError, match=r"more than one penalty acts on 0\.weight"):
        tr.reweighted(doubly, 0.1)
    for bad in ("a", torch.ones(2), None):
        with pytest.raises(TypeError, match="width must be a number"):
            tr.reweighted(tr.Regularizer(model, tr.L1(0.1)), bad)  # type: ignore[arg-type]


def test_factors_and_supports_that_do_not_fit_are_refused_when_bound() -> None:
    linear = nn.Linear(5, 6)
    for penalty in (tr.WeightedL1(1.0, torch.ones(7)), tr.WeightedL1(1.0, torch.ones(2, 6, 5))):
        with pytest.raises(ValueError, match="factors are shaped"):
            tr.Regularizer(linear, penalty)
    with pytest.raises(ValueError, match="this support is shaped"):
        tr.Regularizer(linear, tr.FixedSupport(torch.ones(6, 4, dtype=torch.bool)))


def test_weights_that_are_held_at_strength_zero_are_penalised() -> None:
    held = tr.WeightedL1(0.0, torch.tensor([[0.0, math.inf, 0.0]]))
    tr.Regularizer(nn.Linear(3, 1), held)  # a warning would fail here
