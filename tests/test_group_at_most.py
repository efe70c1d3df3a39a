"""At most N of M: the projection against every support, its stationary points, optimizers."""

import copy
import itertools
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

import torchreg as tr
from tests.cases import LAYOUTS, STEPS, rows_or_all, sample

METRICS: list[Any] = [
    optim.SGD,
    optim.ASGD,
    optim.Adam,
    optim.AdamW,
    optim.Adamax,
    optim.NAdam,
    optim.RAdam,
    optim.RMSprop,
    optim.Adagrad,
    optim.Adadelta,
    optim.Adafactor,
]


def cost(z: Tensor, w: Tensor, step: Tensor) -> Tensor:
    return torch.where(z == w, 0.0, (z - w).square() / step / 2).sum(dim=1)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("metric", ["float", "diagonal", "with infinite", "with zero", "zero"])
def test_prox_is_the_best_of_all_supports(count: int, metric: str) -> None:
    w = sample(60, 5)
    step = 10 ** (6 * torch.rand_like(w) - 3)
    if metric in ("float", "zero"):
        step = torch.full_like(w, 0.7)
    elif metric != "diagonal":
        step[:, 1] = 0.0 if metric == "with zero" else math.inf
    penalty = tr.AtMost(count, tr.rows)
    given: Any = 0.7 if metric == "float" else 0 * step if metric == "zero" else step
    z = penalty.prox(w, given)
    assert penalty(z) == 0
    assert bool(((z == w) | (z == 0)).all())
    least = torch.full((60,), math.inf, dtype=w.dtype)
    for kept in itertools.combinations(range(5), min(count, 5)):
        other = torch.zeros_like(w)
        other[:, kept] = w[:, kept]
        assert penalty(other) == 0
        least = torch.minimum(least, cost(other, w, step))
    torch.testing.assert_close(cost(z, w, step), least)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("metric", STEPS)
def test_it_keeps_the_laws_of_a_projection(dtype: torch.dtype, layout: str, metric: str) -> None:
    penalty, w = tr.AtMost(2, rows_or_all), LAYOUTS[layout](dtype)
    step = STEPS[metric](w)
    before = w.clone()
    z = penalty.prox(w, step)
    assert torch.equal(w, before)
    assert z.dtype == w.dtype
    assert z.shape == w.shape
    assert torch.equal(penalty.prox(z, step), z)  # inside it changes nothing
    assert not penalty.distance(z, (z - w) / step).any()
    assert not z[w == 0].any()
    assert penalty(z) == 0
    penalty.prox_(w, step)
    assert torch.equal(w, z)


def test_the_value_is_infinite_outside() -> None:
    penalty = tr.AtMost(2, tr.adjacent(4))
    assert penalty(torch.tensor([[1.0, 0.0, 0.0, 9.0, 1e-30, 0.0, 0.0, 0.0]])) == 0
    assert penalty(torch.tensor([[1.0, 0.0, 1e-30, 9.0, 0.0, 0.0, 0.0, 0.0]])) == math.inf
    assert penalty.strength == 1
    assert repr(penalty) == "AtMost(2, groups=adjacent(4))"
    assert penalty.formula == "0 with at most 2 nonzero in a group, else inf"
    assert penalty.critical_strength(torch.zeros(1, 4)) == 0
    assert penalty.critical_strength(torch.tensor([[0.0, 0.0, 1e-30, 0.0]])) == math.inf
    assert penalty.state_dict() == {}
    w = sample(3, 8)
    for twin in (copy.deepcopy(penalty), pickle.loads(pickle.dumps(penalty))):
        assert torch.equal(twin.prox(w, 0.1), penalty.prox(w, 0.1))


def test_distance_counts_what_could_move_without_leaving_the_pattern() -> None:
    penalty, grad = tr.AtMost(2, tr.rows), sample(40, 4) + 0.1
    w = penalty.prox(sample(40, 4) * (torch.rand(40, 4) > 0.3), 1.0)
    expected = torch.zeros_like(w)
    for i in range(w.numel()):
        moved = w.clone()
        moved.view(-1)[i] += 1e-3
        expected.view(-1)[i] = grad.view(-1)[i].abs() if penalty(moved) == 0 else 0.0
    assert torch.equal(penalty.distance(w, grad), expected)
    used = (w != 0).sum(dim=1)
    assert 0 < int((used < 2).sum()) < 40  # groups that are full, and groups that are not
    outside = penalty.distance(torch.tensor([[1.0, 2.0, 3.0, 0.0]]), torch.ones(1, 4))
    assert outside.tolist() == [[math.inf, math.inf, math.inf, 0.0]]


def test_complex_weights_are_ranked_by_their_modulus() -> None:
    w = torch.tensor([[3j, 1 + 1j, -2.0, 0.0]], dtype=torch.complex128)
    z = tr.AtMost(2, tr.rows).prox(w, 0.3)
    assert torch.equal(z, w * torch.tensor([[1, 0, 1, 0]]))


@pytest.mark.parametrize("kind", METRICS)
def test_every_optimizer_keeps_the_pattern(kind: Any) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(16, 6, dtype=torch.float64)
    regularizer = tr.Regularizer(layer, tr.AtMost(2, tr.adjacent(4)))
    optimizer = tr.ProximalOptimizer(kind(layer.parameters(), lr=0.01), regularizer)
    x, y = torch.randn(64, 16, dtype=torch.float64), torch.randn(64, 6, dtype=torch.float64)
    for _ in range(5):
        optimizer.zero_grad()
        (layer(x) - y).square().mean().backward()
        optimizer.step()
        assert torch.equal((tr.adjacent(4)(layer.weight) != 0).sum(1), torch.full((24,), 2))
    assert regularizer() == 0


def test_adam_finds_the_least_squares_solution_on_a_true_pattern() -> None:
    torch.manual_seed(1)
    x = torch.randn(300, 24, dtype=torch.float64)
    truth = torch.randn(6, 4, dtype=torch.float64).sign() * (1 + torch.rand(6, 4)).double()
    truth = tr.AtMost(2, tr.rows).prox(truth, 1.0).flatten()
    y = x @ truth + 0.1 * torch.randn(300, dtype=torch.float64)
    linear = nn.Linear(24, 1, bias=False, dtype=torch.float64)
    nn.init.zeros_(linear.weight)
    regularizer = tr.Regularizer(linear, tr.AtMost(2, tr.adjacent(4)))
    optimizer = tr.ProximalOptimizer(optim.Adam(linear.parameters(), lr=0.05), regularizer)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, 800)
    for _ in range(800):
        optimizer.zero_grad()
        (linear(x).squeeze(1) - y).square().mean().backward()
        optimizer.step()
        schedule.step()
    kept = truth != 0
    found = linear.weight.detach().flatten()
    assert torch.equal(found != 0, kept)
    torch.testing.assert_close(found[kept], torch.linalg.lstsq(x[:, kept], y).solution)
    loss = (linear(x).squeeze(1) - y).square().mean()
    assert tr.stationarity(regularizer, loss).residual < 1e-6


@pytest.mark.parametrize("bad", [0, -1, 2.0, True, "2"])
def test_bad_arguments_are_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match="count must be a whole number of at least 1"):
        tr.AtMost(bad, tr.adjacent(4))
    with pytest.raises(TypeError, match="groups must be a function"):
        tr.AtMost(2, "adjacent")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no multiple of 4"):
        tr.AtMost(2, tr.adjacent(4)).prox(torch.ones(3, 6), 1.0)
