"""The curvature floor under group penalties: what has no gradient history is not lost."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam

import torchreg as tr
from tests.cases import sample
from torchreg.metrics import CURVATURE_FLOOR, StepSize, metric_of

LR = 1e-3
KINDS: dict[str, Any] = {
    "GroupLasso": tr.GroupLasso,
    "SparseGroupLasso": tr.SparseGroupLasso,
    "GroupMCP": tr.GroupMCP,
    "GroupMCP steep": lambda strength, groups: tr.GroupMCP(strength, groups, concavity=0.5),
    "ExclusiveLasso": tr.ExclusiveLasso,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("groups", [tr.rows, tr.columns], ids=["whole group", "inside groups"])
def test_an_entry_that_is_not_seen_outlives_a_step_of_adam(kind: str, groups: Any) -> None:
    """A whole group without a gradient, or a member of each of the groups that have one."""
    torch.manual_seed(0)
    embedding = nn.Embedding(6, 8)
    # Inside a group that costs nothing more nothing is lost: there, strengths that still slope.
    strength = {"GroupMCP": 0.5, "GroupMCP steep": 3.0}.get(kind, 0.1)
    penalty: tr.Penalty = KINDS[kind](0.1 if groups is tr.rows else strength, groups)
    before = embedding.weight.detach().clone()
    optimizer = tr.ProximalOptimizer(
        Adam(embedding.parameters(), lr=LR), tr.Regularizer(embedding, penalty, "weight")
    )
    embedding(torch.tensor([0, 1, 2, 3, 4])).square().sum().backward()
    optimizer.step()
    kept = embedding.weight.detach()[5].norm() / before[5].norm()
    assert 0.5 < float(kept) <= 1
    # Without the floor it is gone, in the same metric.
    inner = optimizer.optimizer
    found = metric_of(inner)(inner.param_groups[0], embedding.weight, inner.state[embedding.weight])
    assert isinstance(found, StepSize)
    lost = penalty.prox(before, found.bounded(0.0))[5]
    assert float(lost.norm() / before[5].norm()) < 1e-3


def adam_after(gradients: list[Tensor], penalty: tr.Penalty, start: Tensor) -> Tensor:
    outputs, inputs = start.shape
    layer = nn.Linear(inputs, outputs, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(start)
    optimizer = tr.ProximalOptimizer(
        Adam(layer.parameters(), lr=LR), tr.Regularizer(layer, penalty)
    )
    for gradient in gradients:
        layer.weight.grad = gradient.clone()
        optimizer.step()
    return layer.weight.detach()


@pytest.mark.parametrize("kind", KINDS)
def test_the_floor_is_idle_at_a_stationary_kept_group(kind: str) -> None:
    penalty: tr.Penalty = KINDS[kind](0.1, tr.rows)
    start = torch.tensor([[0.05, -0.1, 2e-3, 0.02], [3.0, 1e-3, -0.3, 2.0]], dtype=torch.float64)
    w = start.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(penalty(w), w)
    assert not penalty.distance(start, -gradient).gt(1e-15).any()
    ends = adam_after([-gradient] * 60, penalty, start)
    torch.testing.assert_close(ends, start, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["GroupLasso", "SparseGroupLasso", "GroupMCP"])
def test_a_stationary_zero_group_stays_zero_and_another_leaves(kind: str) -> None:
    penalty: tr.Penalty = KINDS[kind](0.1, tr.rows)
    even, uneven, small, large = (torch.rand(4, dtype=torch.float64) for _ in range(4))
    uneven[1:] *= 1e-9
    gradient = torch.stack([even, uneven, small, large])
    edges = [penalty.critical_strength(row.view(1, 4)) for row in gradient]
    sizes = torch.tensor([0.99, 0.99, 1e-7, 1.01], dtype=torch.float64)
    gradient *= (sizes * 0.1 / torch.tensor(edges, dtype=torch.float64)).view(4, 1)
    ends = adam_after([gradient] * 60, penalty, torch.zeros(4, 4, dtype=torch.float64))
    assert (ends != 0).any(dim=1).tolist() == [False, False, False, True]


@pytest.mark.parametrize("groups", [tr.rows, tr.columns], ids=["rows", "columns"])
def test_the_slope_is_the_gradient_and_holds_at_most_its_fraction_of_the_radius(
    groups: Any,
) -> None:
    """So a stationary zero group, whose gradient is inside the ball, is never let out."""
    w, penalty = sample(6, 4), tr.GroupLasso(0.3, groups)
    slope = penalty.slope(w)
    assert isinstance(slope, Tensor)
    norm = groups(slope).norm(dim=1)
    radius = 0.3 * groups(w).shape[1] ** 0.5
    some = groups(w).any(dim=1)
    torch.testing.assert_close(norm[some], torch.full_like(norm[some], radius))
    held = StepSize(1.0, torch.zeros_like(w)).bounded(slope)
    assert isinstance(held, Tensor)
    torch.testing.assert_close(1 / held, CURVATURE_FLOOR * slope)
