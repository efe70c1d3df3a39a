"""Gradients of every kind in a proximal step: complex, sparse, empty, none, clipped, repeated."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, Optimizer

import torchreg as tr
from tests.test_proximal import (
    MAKERS,
    each_optimizer,
    identical,
    loss_of,
    network,
    train,
    weights,
    wrapped,
)


def test_complex_weights_shrink_in_modulus_under_sgd() -> None:
    weight = torch.tensor([[3 + 4j, 0.1 + 0.1j]])
    layer = nn.Linear(2, 1, bias=False, dtype=torch.complex64)
    with torch.no_grad():
        layer.weight.copy_(weight)
    regularizer = tr.Regularizer(layer, tr.L1(1.0))
    optimizer = tr.ProximalOptimizer(SGD(layer.parameters(), lr=1.0), regularizer)
    layer.weight.grad = torch.zeros_like(weight)
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), torch.tensor([[2.4 + 3.2j, 0j]]))
    with pytest.raises(ValueError, match="is complex"):
        tr.ProximalOptimizer(Adam(layer.parameters()), regularizer)


@pytest.mark.parametrize("in_a_closure", [False, True])
def test_a_sparse_gradient_is_refused_before_anything_moves(in_a_closure: bool) -> None:
    embedding = nn.Embedding(4, 2, sparse=True)
    regularizer = tr.Regularizer(embedding, tr.L1(0.1))
    optimizer = tr.ProximalOptimizer(SGD(embedding.parameters(), lr=0.1), regularizer)
    before = weights(embedding)

    def closure() -> float:
        loss = embedding(torch.tensor([1])).sum()
        loss.backward()
        return float(loss.detach())

    if not in_a_closure:
        closure()
    with pytest.raises(RuntimeError, match="sparse gradient"):
        optimizer.step(closure if in_a_closure else None)
    assert identical(weights(embedding), before)


@each_optimizer
def test_zero_weights_and_empty_tensors_never_become_nan(name: str) -> None:
    class Empty(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.none = nn.Parameter(torch.zeros(0, 3))
            self.one = nn.Parameter(torch.zeros(1, 1))
            self.some = nn.Parameter(torch.zeros(2, 3))

    model = Empty()
    optimizer = wrapped(model, name)
    for _ in range(3):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    assert all(torch.equal(p, torch.zeros_like(p)) for p in model.parameters())


@each_optimizer
def test_a_zero_of_the_gradient_and_one_of_the_weight_are_no_trap(name: str) -> None:
    """A zero weight leaves when its gradient outweighs the strength, and not before."""
    layer = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(layer.weight)
    optimizer = wrapped(layer, name, strength=0.05)
    for _ in range(20):
        layer.weight.grad = torch.tensor([[0.049, -1.0]])
        optimizer.step()
    assert layer.weight[0, 0] == 0
    assert layer.weight[0, 1] > 0


@each_optimizer
def test_gradient_clipping_is_between_backward_and_step(name: str) -> None:
    model, other = network(), network()
    optimizer, reference = wrapped(model, name), wrapped(other, name)
    for seed in range(4):
        optimizer.zero_grad()
        loss_of(model, seed).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            assert p.grad is not None
            q.grad = p.grad.clone()
        assert norm > 0.05
        optimizer.step()
        reference.step()
    assert identical(weights(model), weights(other))


@each_optimizer
def test_the_step_leaves_gradients_options_and_penalties_as_they_are(name: str) -> None:
    model = network()
    penalty = tr.ElasticNet(0.05, 0.01)
    regularizer = tr.Regularizer(model, penalty)
    optimizer = tr.ProximalOptimizer(MAKERS[name](model.parameters()), regularizer)
    loss_of(model, 0).backward()
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    objects = [p.grad for p in model.parameters()]
    options = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
    shown, versions = repr(regularizer), vars(penalty).copy()
    optimizer.step()
    for p, gradient, held in zip(model.parameters(), gradients, objects, strict=True):
        assert p.grad is held
        assert gradient is not None
        assert held is not None
        assert torch.equal(held, gradient)
    assert {k: v for k, v in optimizer.param_groups[0].items() if k != "params"} == options
    assert repr(regularizer) == shown
    assert vars(penalty) == versions
    assert [p.requires_grad for p in model.parameters()] == [True] * 4
    assert all(p.is_leaf for p in model.parameters())


def test_tied_weights_are_penalised_once_at_a_step() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(4, 3)
            self.head = nn.Linear(3, 4, bias=False)
            self.head.weight = self.embedding.weight

    model = Tied()
    penalty = tr.L1(0.5)
    for where in (None, "*"):
        regularizer = tr.Regularizer(model, penalty, where)
        optimizer = tr.ProximalOptimizer(SGD(model.parameters(), lr=0.1), regularizer)
        before = model.head.weight.detach().clone()
        model.head.weight.grad = torch.zeros_like(before)
        optimizer.step()
        assert torch.equal(model.embedding.weight, penalty.prox(before, 0.1))
        assert model.head.weight is model.embedding.weight


def test_each_group_has_its_own_lr_momentum_and_decay() -> None:
    def options(model: nn.Module) -> list[dict[str, Any]]:
        first, last = model.get_submodule("first"), model.get_submodule("last")
        return [
            {"params": list(first.parameters()), "lr": 0.2, "momentum": 0.9, "weight_decay": 0.1},
            {"params": list(last.parameters()), "lr": 0.01, "momentum": 0.5, "nesterov": True},
        ]

    model, other = network(), network()
    regularizer = tr.Regularizer(other, tr.L1(0.05))
    optimizer = tr.ProximalOptimizer(
        SGD(options(model), lr=9.0), tr.Regularizer(model, tr.L1(0.05))
    )
    alone = [tr.ProximalOptimizer(SGD([group]), regularizer) for group in options(other)]
    for seed in range(6):
        train(model, optimizer, range(seed, seed + 1))
        other.zero_grad()
        loss_of(other, seed).backward()
        for one in alone:
            one.step()
    assert identical(weights(model), weights(other))


@pytest.mark.parametrize("name", [name for name in MAKERS if "Adam" in name or name == "AMSGrad"])
def test_an_optimizer_that_is_warm_when_wrapped_goes_on(name: str) -> None:
    model, other = network(), network()
    inner = MAKERS[name](model.parameters())
    train(model, inner, range(5))
    train(model, tr.ProximalOptimizer(inner, tr.Regularizer(model, tr.L1(0.05))), range(5, 10))
    reference = wrapped(other, name)
    (penalty,) = (term.penalty for term in reference.regularizer.terms)
    assert isinstance(penalty, tr.L1)
    penalty.l1 = 0.0  # a proximal step without strength is the plain optimizer's
    train(other, reference, range(5))
    penalty.l1 = 0.05
    train(other, reference, range(5, 10))
    assert identical(weights(model), weights(other))


def test_a_layer_that_is_frozen_and_unfrozen_goes_on_where_it_was() -> None:
    for name in MAKERS:
        model = network()
        optimizer = wrapped(model, name)
        train(model, optimizer, range(3))
        model.first.requires_grad_(False)
        before, moving = model.first.weight.detach().clone(), model.last.weight.detach().clone()
        train(model, optimizer, range(3, 6))
        assert torch.equal(model.first.weight, before)
        assert not torch.equal(model.last.weight, moving)
        model.first.requires_grad_(True)
        train(model, optimizer, range(6, 7))
        assert not torch.equal(model.first.weight, before)


@pytest.mark.parametrize("kind", [SGD, Adam])
@pytest.mark.parametrize("option", ["foreach", "fused", "maximize", "lr"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_implementation_of_the_step_does_not_matter(
    kind: Any, option: str, dtype: torch.dtype
) -> None:
    def run(**options: Any) -> nn.Module:
        model = network().to(dtype)
        optimizer: Optimizer = kind(model.parameters(), **{"lr": 0.05, "foreach": False, **options})
        optimizer = tr.ProximalOptimizer(optimizer, tr.Regularizer(model, tr.L1(0.05)))
        sign = -1 if options.get("maximize") else 1
        for seed in range(10):
            optimizer.zero_grad()
            x = torch.randn(16, 6, generator=torch.Generator().manual_seed(seed)).to(dtype)
            (sign * nn.functional.mse_loss(model(x), x[:, :2].sin())).backward()
            optimizer.step()
        return model

    options: dict[str, dict[str, Any]] = {
        "foreach": {"foreach": True},
        "fused": {"fused": True, "foreach": None},
        "maximize": {"maximize": True},
        "lr": {"lr": torch.tensor(0.05, dtype=torch.float64)},
    }
    reference, found = run(), run(**options[option])
    for p, q in zip(reference.parameters(), found.parameters(), strict=True):
        torch.testing.assert_close(p, q)
        assert torch.equal(p == 0, q == 0)


def test_a_differentiable_group_is_refused_before_it_joins() -> None:
    model = network()
    optimizer = tr.ProximalOptimizer(
        SGD(model.first.parameters(), lr=0.1), tr.Regularizer(model, tr.L1(0.05))
    )
    with pytest.raises(ValueError, match="differentiable=True"):
        optimizer.add_param_group({"params": model.last.parameters(), "differentiable": True})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("penalty", [tr.L1(0.3), tr.L2(0.3), tr.ElasticNet(0.2, 0.1), tr.MCP(0.3)])
def test_a_negative_scale_takes_the_gradient_back(penalty: tr.Penalty) -> None:
    w = torch.randn(5, 4)
    grad = torch.zeros_like(w)
    penalty.add_gradient_(w, grad, 2.0)
    assert grad.any()
    penalty.add_gradient_(w, grad, -2.0)
    torch.testing.assert_close(grad, torch.zeros_like(w), rtol=0, atol=1e-6)
