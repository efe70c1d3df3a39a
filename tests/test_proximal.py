"""The proximal optimizer's step: what it moves, what it leaves alone, what it refuses."""

import warnings
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

import torchreg as tr

MAKERS: dict[str, Callable[[Any], Optimizer]] = {
    "SGD": lambda p: SGD(p, lr=0.1),
    "momentum": lambda p: SGD(p, lr=0.1, momentum=0.9),
    "Nesterov": lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "Adam": lambda p: Adam(p, lr=0.01),
    "AMSGrad": lambda p: Adam(p, lr=0.01, amsgrad=True),
    "AdamW": lambda p: AdamW(p, lr=0.01),
    "AdamW fused": lambda p: AdamW(p, lr=0.01, fused=True),
}
each_optimizer = pytest.mark.parametrize("name", MAKERS)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 5)
        self.last = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.last(self.first(x).tanh()))


def network() -> Network:
    torch.manual_seed(0)
    return Network()


def batch(seed: int) -> Tensor:
    return torch.randn(16, 6, generator=torch.Generator().manual_seed(seed))


def loss_of(model: nn.Module, seed: int) -> Tensor:
    x = batch(seed)
    return nn.functional.mse_loss(model(x), x[:, :2].sin())


def wrapped(model: nn.Module, name: str, strength: float = 0.05) -> tr.ProximalOptimizer:
    return tr.ProximalOptimizer(
        MAKERS[name](model.parameters()), tr.Regularizer(model, tr.L1(strength))
    )


def train(model: nn.Module, optimizer: Optimizer, steps: range) -> None:
    for seed in steps:
        optimizer.zero_grad()
        loss_of(model, seed).backward()
        optimizer.step()


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def identical(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@each_optimizer
def test_zeros_are_exact_and_biases_free(name: str) -> None:
    model = network()
    train(model, wrapped(model, name, strength=0.2), range(100))
    assert tr.sparsity(model).exact > 20
    assert int((model.first.bias == 0).sum()) == 0


@each_optimizer
def test_strength_zero_is_the_plain_optimizer_bit_for_bit(name: str) -> None:
    model, plain = network(), network()
    with pytest.warns(UserWarning, match="penalises nothing: every strength is 0"):
        optimizer = wrapped(model, name, strength=0.0)
    train(model, optimizer, range(20))
    train(plain, MAKERS[name](plain.parameters()), range(20))
    assert identical(weights(model), weights(plain))


@each_optimizer
def test_lr_zero_changes_nothing(name: str) -> None:
    model = network()
    optimizer = wrapped(model, name)
    optimizer.param_groups[0]["lr"] = 0.0
    before = weights(model)
    train(model, optimizer, range(3))
    assert identical(weights(model), before)


@each_optimizer
def test_storage_stays_where_it_is(name: str) -> None:
    model = network()
    optimizer = wrapped(model, name)
    pointers = [p.data_ptr() for p in model.parameters()]
    train(model, optimizer, range(3))
    assert [p.data_ptr() for p in model.parameters()] == pointers


def adamw_reference(w: Tensor, gradients: list[Tensor], l1: float, decay: float) -> Tensor:
    """AdamW and its prox, written out coordinate by coordinate in float64."""
    lr, b1, b2, eps = 0.01, 0.9, 0.999, 1e-8
    result = w.clone()
    for i in range(w.numel()):
        z, m, v = w[i].item(), 0.0, 0.0
        for t, gradient in enumerate(gradients, start=1):
            g = gradient[i].item()
            z *= 1 - lr * decay
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            root = (v / (1 - b2**t)) ** 0.5 + eps
            z -= lr * m / (1 - b1**t) / root
            threshold = lr / max(root, 0.1 * l1) * l1
            z = max(abs(z) - threshold, 0.0) * (1.0 if z > 0 else -1.0)
        result[i] = z
    return result


def test_adamw_with_its_decoupled_decay_against_a_written_out_reference() -> None:
    torch.manual_seed(1)
    layer = nn.Linear(8, 1, bias=False, dtype=torch.float64)
    start = layer.weight.detach()[0].clone()
    gradients = [torch.randn(8, dtype=torch.float64) * 10.0 ** -(i % 4) for i in range(40)]
    expected = adamw_reference(start, gradients, l1=0.3, decay=0.5)
    optimizer = tr.ProximalOptimizer(
        AdamW(layer.parameters(), lr=0.01, weight_decay=0.5), tr.Regularizer(layer, tr.L1(0.3))
    )
    for gradient in gradients:
        layer.weight.grad = gradient[None].clone()
        optimizer.step()
    torch.testing.assert_close(layer.weight.detach()[0], expected, rtol=1e-12, atol=1e-14)
    assert torch.equal(layer.weight[0] == 0, expected == 0)


@each_optimizer
def test_a_closure_runs_once_under_grad_at_the_sparse_point(name: str) -> None:
    model, other = network(), network()
    optimizer, reference = wrapped(model, name), wrapped(other, name)
    seen: list[list[Tensor]] = []

    def closure() -> float:
        assert torch.is_grad_enabled()
        seen.append(weights(model))
        optimizer.zero_grad()
        loss = loss_of(model, len(seen) - 1)
        loss.backward()
        return loss.detach().item()

    for seed in range(5):
        before = weights(model)
        with torch.no_grad():
            expected = loss_of(model, seed).item()
        assert optimizer.step(closure) == pytest.approx(expected)
        assert len(seen) == seed + 1
        assert identical(seen[-1], before)
    train(other, reference, range(5))
    assert identical(weights(model), weights(other))


def test_a_parameter_without_gradient_is_not_moved_and_a_late_one_starts_afresh() -> None:
    for name in MAKERS:
        late = network()
        optimizer = wrapped(late, name)
        before = late.last.weight.detach().clone()
        for seed in range(5):  # the second layer gets no gradient
            optimizer.zero_grad()
            late.first(batch(seed)).square().mean().backward()
            optimizer.step()
        assert torch.equal(late.last.weight, before)
        gradient = torch.full_like(before, 0.3)
        late.last.weight.grad = gradient.clone()
        late.first.weight.grad = None
        optimizer.step()
        fresh = network()
        first = wrapped(fresh, name)
        fresh.last.weight.grad = gradient.clone()
        first.step()
        assert torch.equal(late.last.weight, fresh.last.weight)


def test_a_frozen_parameter_is_left_alone() -> None:
    model = network()
    regularizer = tr.Regularizer(model, tr.L1(0.5))
    optimizer = tr.ProximalOptimizer(Adam(model.parameters(), lr=0.01), regularizer)
    model.first.weight.requires_grad_(False)
    before = model.first.weight.detach().clone()
    train(model, optimizer, range(5))
    assert torch.equal(model.first.weight, before)


def test_a_group_that_is_added_takes_part_with_its_own_lr() -> None:
    model = network()
    regularizer = tr.Regularizer(model, tr.L1(0.5))
    optimizer = tr.ProximalOptimizer(SGD(model.first.parameters(), lr=0.1), regularizer)
    before = model.last.weight.detach().clone()
    optimizer.add_param_group({"params": list(model.last.parameters()), "lr": 0.01})
    assert optimizer.param_groups is optimizer.optimizer.param_groups
    model.last.weight.grad = torch.zeros_like(before)
    optimizer.step()
    torch.testing.assert_close(model.last.weight.detach(), tr.L1(0.5).prox(before, 0.01))


def test_two_optimizers_share_one_regularizer() -> None:
    model = network()
    regularizer = tr.Regularizer(model, tr.L1(0.5))
    first = tr.ProximalOptimizer(SGD(model.first.parameters(), lr=0.1), regularizer)
    second = tr.ProximalOptimizer(Adam(model.last.parameters(), lr=0.1), regularizer)
    before = weights(model)
    loss_of(model, 0).backward()
    first.step()
    assert torch.equal(model.last.weight, before[2])
    assert not torch.equal(model.first.weight, before[0])
    second.step()
    assert not torch.equal(model.last.weight, before[2])


def cosine(optimizer: Optimizer) -> LRScheduler:
    return CosineAnnealingLR(optimizer, 10)


def one_cycle(optimizer: Optimizer) -> LRScheduler:
    return OneCycleLR(optimizer, max_lr=0.2, total_steps=11)


def plateau(optimizer: Optimizer) -> LRScheduler:
    return ReduceLROnPlateau(optimizer, patience=0)


@pytest.mark.parametrize("make", [cosine, one_cycle, plateau])
@pytest.mark.parametrize("on_the_inner_one", [False, True])
def test_lr_schedulers_on_either_optimizer(
    make: Callable[[Optimizer], LRScheduler], on_the_inner_one: bool
) -> None:
    model = network()
    inner = SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer = tr.ProximalOptimizer(inner, tr.Regularizer(model, tr.L1(0.05)))
    scheduler = make(inner if on_the_inner_one else optimizer)
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(10):
            train(model, optimizer, range(seed, seed + 1))
            arguments = (1.0,) if make is plateau else ()
            scheduler.step(*arguments)
            rates.append(optimizer.param_groups[0]["lr"])
    assert len(set(rates)) > 3
    assert inner.param_groups[0]["lr"] == rates[-1]


def test_threshold_and_gradient_use_the_same_lr() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.ones_(layer.weight)
    optimizer = tr.ProximalOptimizer(
        SGD(layer.parameters(), lr=1.0), tr.Regularizer(layer, tr.L1(1.0))
    )
    for lr in (0.25, 0.5):
        optimizer.param_groups[0]["lr"] = lr
        layer.weight.grad = torch.zeros(1, 1)
        optimizer.step()
    assert layer.weight.item() == 0.25


def test_gradient_accumulation_is_one_step() -> None:
    model, whole = network(), network()
    optimizer, reference = wrapped(model, "Adam"), wrapped(whole, "Adam")
    for seed in (0, 1):
        (loss_of(model, seed) / 2).backward()
    optimizer.step()
    ((loss_of(whole, 0) + loss_of(whole, 1)) / 2).backward()
    reference.step()
    for one, other in zip(weights(model), weights(whole), strict=True):
        torch.testing.assert_close(one, other)


def test_refusals_name_the_mend() -> None:
    model = network()
    regularizer = tr.Regularizer(model, tr.L1(0.1))
    inner = SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match="already a ProximalOptimizer"):
        tr.ProximalOptimizer(tr.ProximalOptimizer(inner, regularizer), regularizer)
    with pytest.raises(TypeError, match=r"Regularizer\(model, penalty\)"):
        tr.ProximalOptimizer(inner, tr.L1(0.1))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"expected a torch\.optim optimizer"):
        tr.ProximalOptimizer(model.parameters(), regularizer)  # type: ignore[arg-type]
    both = tr.Regularizer(model, {"*.weight": tr.L1(0.1), "first.weight": tr.L2(0.1)})
    with pytest.raises(
        ValueError, match=r"more than one penalty acts on first\.weight.*ElasticNet"
    ):
        tr.ProximalOptimizer(inner, both)
    with pytest.raises(ValueError, match="none of the penalised parameters is in the optimizer"):
        tr.ProximalOptimizer(inner, tr.Regularizer(network(), tr.L1(0.1)))
    differentiable = SGD(model.parameters(), lr=0.1, differentiable=True)
    with pytest.raises(ValueError, match="differentiable=True"):
        tr.ProximalOptimizer(differentiable, regularizer)


def test_what_changes_after_construction_is_checked_at_the_step() -> None:
    other = network()
    optimizer = wrapped(other, "SGD")
    other.load_state_dict(network().state_dict(), assign=True)
    with pytest.raises(ValueError, match="none of the penalised parameters is in the optimizer"):
        optimizer.step()


def test_a_penalty_whose_prox_changes_the_shape_is_refused() -> None:
    class Mean(tr.Penalty):
        formula = "wrong"
        strength = 1.0

        def value(self, w: Tensor) -> Tensor:
            return w.sum()

        def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
            return w.mean() * step

        def distance(self, w: Tensor, grad: Tensor) -> Tensor:
            return w - grad

        def critical_strength(self, grad: Tensor) -> float:
            return float(grad.sum())

        def slope(self, w: Tensor) -> Tensor:
            return w

    model = network()
    optimizer = tr.ProximalOptimizer(SGD(model.parameters(), lr=0.1), tr.Regularizer(model, Mean()))
    loss_of(model, 0).backward()
    with pytest.raises(ValueError, match="the prox of Mean is shaped"):
        optimizer.step()
