"""Group lasso and its kin: the diagonal metric, reductions, an outside solver's optimum."""

import math
from typing import Any

import cvxpy
import pytest
import torch
from torch import Tensor, nn

import torchreg as tr
from tests.cases import sample
from torchreg.penalties.newton import shrink_groups


def singles(w: Tensor) -> Tensor:
    return w.reshape(-1, 1)


def whole(w: Tensor) -> Tensor:
    return w.reshape(1, -1)


@pytest.mark.parametrize("special", [(), (math.inf,), (math.inf, 0.0)])
@pytest.mark.parametrize("concavity", [0.03, 3.0])
def test_group_mcp_is_the_global_minimum_whatever_the_spread_of_steps(
    special: tuple[float, ...], concavity: float
) -> None:
    """Steps over 24 decades, or infinite and 0 beside common ones: all z = w / (1 + v * step)."""
    members, decades = 4, 4 if special else 24
    penalty = tr.GroupMCP(0.5, tr.rows, concavity=concavity)
    step = concavity * 10 ** ((torch.rand(200, members, dtype=torch.float64) - 0.5) * decades)
    step[:, : len(special)] = torch.tensor(special, dtype=step.dtype)
    scale = concavity * 10 ** (3 * torch.rand(200, 1, dtype=step.dtype) - 1.5)
    w = torch.randn(200, members, dtype=step.dtype) * scale

    def cost(z: Tensor) -> Tensor:
        lost = torch.where(z == w, 0.0, (z - w).square() / (2 * step)).sum(dim=-1)
        norm = z.norm(dim=-1).clamp(max=concavity)  # a strength of 0.5, times the root of 4
        total: Tensor = lost + norm * (1 - norm / (2 * concavity))
        return total

    grid = torch.logspace(-16, 16, 1500, dtype=step.dtype).view(-1, 1, 1)
    least = cost(w / (1 + grid * step)).amin(dim=0).minimum(cost(w)).minimum(cost(0 * w))
    assert bool((cost(penalty.prox(w, step)) <= least * (1 + 1e-9)).all())


@pytest.mark.parametrize("decades", [1.0, 6.0, 12.0])
@pytest.mark.parametrize("members", [1, 2, 3, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_newton_solves_its_equation_to_rounding(
    decades: float, members: int, dtype: torch.dtype
) -> None:
    """Weights and thresholds over many decades, rows as near to the edge as 1e-14."""
    scale = (torch.rand(2, 500, members, dtype=torch.float64) - 0.5) * decades
    w, threshold = (10**scale).to(dtype)
    edge = torch.linalg.vector_norm(w / threshold, dim=1, keepdim=True)
    threshold = threshold * edge * (1 - 10 ** (-14 * torch.rand(500, 1, dtype=dtype)))
    z = shrink_groups(w, threshold)
    zero = torch.linalg.vector_norm((w / threshold).double(), dim=1) <= 1
    kept = z.any(dim=1)
    eps = torch.finfo(dtype).eps
    near = (torch.linalg.vector_norm((w / threshold).double(), dim=1) - 1).abs() <= 8 * eps
    assert torch.equal(kept[~near], ~zero[~near])
    # n in z = w * n / (n + threshold) is z's own norm.
    norm = torch.linalg.vector_norm(z[kept], dim=1, keepdim=True)
    residual = (z[kept] - w[kept]) / threshold[kept] + z[kept] / norm
    size = w[kept] / threshold[kept]
    assert bool((residual.abs() <= 16 * eps * size.abs()).all())


def test_newton_without_members_or_with_nothing_to_shrink() -> None:
    for shape in ((0, 3), (3, 0)):
        empty = torch.zeros(shape)
        assert shrink_groups(empty, torch.zeros(shape)).shape == shape
    w = torch.tensor([[1.0, -2.0], [0.0, 0.0], [0.0, 5.0]])
    assert torch.equal(shrink_groups(w, torch.zeros_like(w)), w)
    some = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    z = shrink_groups(w, some)
    assert not z.isnan().any()
    assert z[0, 0] == 1
    assert torch.equal(z[1:], w[1:])
    diverged = shrink_groups(torch.tensor([[math.nan, 1.0], [3.0, 4.0]]), torch.ones(2, 2))
    assert diverged[0].isnan().all()
    torch.testing.assert_close(diverged[1], torch.tensor([2.4, 3.2]))


PAIRS = [
    (tr.GroupLasso(0.4, singles), tr.L1(0.4)),
    (tr.GroupLasso(0.4, singles, by_size=False), tr.L1(0.4)),
    (tr.GroupMCP(0.4, singles), tr.MCP(0.4)),
    (tr.GroupMCP(0.4, singles, concavity=0.6), tr.MCP(0.4, concavity=0.6)),
    (tr.GroupL0(0.4, singles), tr.L0(0.4)),
    (tr.ExclusiveLasso(0.4, singles), tr.L2(0.2)),
    (tr.SparseGroupLasso(0.4, singles, l1_share=0.3), tr.L1(0.4)),
    (tr.SparseGroupLasso(0.4, tr.rows, l1_share=1.0), tr.L1(0.4)),
    (tr.SparseGroupLasso(0.4, tr.rows, l1_share=0.0), tr.GroupLasso(0.4, tr.rows)),
    (tr.GroupMCP(0.4, tr.rows, concavity=1e12), tr.GroupLasso(0.4, tr.rows)),
]


@pytest.mark.parametrize(("penalty", "simpler"), PAIRS, ids=repr)
@pytest.mark.parametrize("metric", ["scalar", "diagonal"])
def test_reductions(penalty: tr.Penalty, simpler: tr.Penalty, metric: str) -> None:
    w, grad = sample(6, 5), sample(6, 5)
    step: float | Tensor = 0.7 if metric == "scalar" else 0.05 + 2 * torch.rand_like(w)
    torch.testing.assert_close(penalty.value(w), simpler.value(w))
    torch.testing.assert_close(penalty.prox(w, step), simpler.prox(w, step))
    assert torch.equal(penalty.prox(w, step) == 0, simpler.prox(w, step) == 0)
    torch.testing.assert_close(penalty.distance(w, grad), simpler.distance(w, grad))
    assert penalty.critical_strength(grad) == pytest.approx(simpler.critical_strength(grad))


@pytest.mark.parametrize("share", [0.0, 0.2, 0.8, 1.0])
def test_the_edge_of_the_sparse_group_lasso_at_every_share(share: float) -> None:
    w, grad = torch.zeros(6, 5, dtype=torch.float64), sample(6, 5)
    edge = tr.SparseGroupLasso(1.0, tr.rows, l1_share=share).critical_strength(grad)
    for factor, stays in ((1.001, True), (0.999, False)):
        penalty = tr.SparseGroupLasso(factor * edge, tr.rows, l1_share=share)
        assert bool(penalty.distance(w, grad).any()) is not stays
        assert bool(penalty.prox(-0.3 * grad, 0.3).any()) is not stays


def test_the_distance_of_a_zero_group_is_that_to_the_ball() -> None:
    grad = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    penalty = tr.GroupLasso(1.0, tr.rows, by_size=False)
    found = penalty.distance(torch.zeros(2, 2), grad)
    torch.testing.assert_close(found, torch.tensor([[2.4, 3.2], [0.0, 0.0]]))


@pytest.mark.parametrize("members", [2, 3, 5])
def test_group_mcp_with_steps_on_both_sides_is_at_the_global_minimum(members: int) -> None:
    """Its problem may have several local minima: no other point that could be one costs less."""
    penalty = tr.GroupMCP(1.0, tr.rows, by_size=False, concavity=1.0)
    w = 10 ** (2 * torch.rand(1000, members, dtype=torch.float64) - 1.5)
    step = 10 ** (5 * torch.rand(1000, members, dtype=torch.float64) - 2.5)
    step[:, 0], step[:, 1] = step[:, 0].clamp(max=0.9), step[:, 1].clamp(min=1.1)

    def cost(z: Tensor) -> Tensor:
        norm = z.square().sum(-1).sqrt()
        quadratic = ((z - w).square() / step / 2).sum(-1)
        return quadratic + torch.where(norm < 1, norm - norm.square() / 2, 0.5)

    z = penalty.prox(w, step)
    between = ((z != 0) & (z != w)).any(dim=1)
    assert int(between.sum()) > 20
    # Every stationary point has the form w / (1 + v * step).
    tried = [cost(w / (1 + v * step)) for v in torch.logspace(-6, 6, 1000, dtype=torch.float64)]
    tried += [cost(w), cost(0 * w), cost(w * torch.rand_like(w))]
    assert bool((cost(z) <= torch.stack(tried).min(dim=0).values + 1e-13).all())


def test_each_group_is_shrunk_by_itself() -> None:
    """The scanned groups of a batch, the convex and the concave ones: each as if it were alone."""
    penalty = tr.GroupMCP(0.5, tr.rows, concavity=1.0)
    w, step = sample(40, 4), 10 ** (2 * torch.rand(40, 4, dtype=torch.float64) - 1)
    step[:8] /= 100
    step[8:16] *= 100
    alone = [penalty.prox(w[i : i + 1], step[i : i + 1]) for i in range(len(w))]
    assert torch.equal(penalty.prox(w, step), torch.cat(alone))


def test_bad_arguments_name_the_mend() -> None:
    for bad in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match="l1_share must be"):
            tr.SparseGroupLasso(0.1, tr.rows, l1_share=bad)
        with pytest.raises(ValueError, match="l1_share must be"):
            tr.SparseGroupLasso(0.1, tr.rows).l1_share = bad
    for bad in (0.0, -1.0, math.inf):
        with pytest.raises(ValueError, match="concavity must be"):
            tr.GroupMCP(0.1, tr.rows, concavity=bad)
    kinds: list[Any] = [tr.GroupLasso, tr.SparseGroupLasso, tr.GroupMCP, tr.GroupL0]
    for make in [*kinds, tr.ExclusiveLasso]:
        penalty = make(0.25, tr.rows)
        with pytest.raises(ValueError, match="strength must be"):
            penalty.strength = -1.0
        penalty.strength = 0.5
        assert repr(penalty).startswith(f"{make.__name__}(0.5, groups=rows")


def regression() -> tuple[Tensor, Tensor]:
    """Ten groups of four features, three of which matter."""
    torch.manual_seed(3)
    x = torch.randn(120, 40, dtype=torch.float64)
    truth = torch.zeros(10, 4, dtype=torch.float64)
    truth[[1, 4, 7]] = torch.randn(3, 4, dtype=torch.float64)
    return x, x @ truth.flatten() + 0.3 * torch.randn(120, dtype=torch.float64)


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_adam_reaches_the_optimum_of_an_outside_solver(share: float) -> None:
    x, y = regression()
    strength, groups = 0.1, tr.adjacent(4)
    penalty: tr.Penalty = tr.GroupLasso(strength, groups)
    if share:
        penalty = tr.SparseGroupLasso(strength, groups, l1_share=share)

    cp: Any = cvxpy  # its types name no function
    outside = cp.Variable(40)
    norms = sum(cp.norm2(outside[4 * i : 4 * i + 4]) for i in range(10))
    cost = cp.sum_squares(x.numpy() @ outside - y.numpy()) / (2 * len(y))
    cost += strength * (share * cp.norm1(outside) + (1 - share) * 2 * norms)
    tight = {"tol_gap_abs": 1e-9, "tol_gap_rel": 1e-9, "tol_feas": 1e-9}
    optimum = cp.Problem(cp.Minimize(cost)).solve(solver="CLARABEL", **tight)
    expected = torch.from_numpy(outside.value)

    linear = nn.Linear(40, 1, bias=False, dtype=torch.float64)
    regularizer = tr.Regularizer(linear, penalty)
    optimizer = tr.ProximalOptimizer(torch.optim.Adam(linear.parameters(), lr=0.05), regularizer)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2000)

    def loss() -> Tensor:
        error: Tensor = linear(x).squeeze(1) - y
        return error.square().mean() / 2

    for _ in range(2000):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        schedule.step()
    found = linear.weight.detach().flatten()
    kept = (groups(found.view(1, -1)) != 0).any(dim=1)
    outside_kept = groups(expected.view(1, -1)).norm(dim=1) > 1e-4
    assert float((loss() + regularizer()).detach()) == pytest.approx(optimum, rel=1e-6)
    assert torch.equal(kept, outside_kept)
    assert torch.equal(found != 0, expected.abs() > 1e-4)
    assert 0 < int(kept.sum()) < 10
    assert tr.stationarity(regularizer, loss()).residual < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "penalty", [tr.GroupLasso(1.0, tr.rows), tr.SparseGroupLasso(1.0, tr.rows)], ids=repr
)
def test_sizes_whose_squares_are_no_numbers(penalty: tr.Penalty, dtype: torch.dtype) -> None:
    """Norms that overflow or underflow: hardly shrunk, and at a step of 0 not at all."""
    tiny, huge = torch.finfo(dtype).tiny ** 0.8, torch.finfo(dtype).max ** 0.8
    w = torch.tensor([[tiny, tiny], [huge, huge], [0.0, 0.0]], dtype=dtype)
    for none in (0.0, torch.tensor(0.0), torch.zeros_like(w)):
        assert torch.equal(penalty.prox(w, none), w)
    for one in (1.0, torch.rand_like(w) + 0.5):
        torch.testing.assert_close(penalty.prox(w, one)[1], w[1])


def test_a_member_below_the_rounding_of_its_group_is_kept_by_the_exclusive_lasso() -> None:
    w, step = torch.tensor([[1000.0, 1e-5]]), torch.tensor([[1e-12, 1e-9]])
    exact = tr.ExclusiveLasso(1.0, tr.rows).prox(w.double(), step.double())
    found = tr.ExclusiveLasso(1.0, tr.rows).prox(w, step)
    torch.testing.assert_close(found, exact.float(), rtol=1e-4, atol=0)


def test_a_grouping_shows_the_call_that_makes_it() -> None:
    made = [tr.heads(2), tr.heads(4, parts=3), tr.heads(4, dim=1), tr.tiles(2, 4), tr.gates(3)]
    for grouping in made:
        assert eval(repr(grouping), vars(tr)) == grouping
