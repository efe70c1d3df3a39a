"""The fast path against the slow reference: in place, in blocks, compiled, without autograd."""

import copy
import pickle
import shutil
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import (
    ASGD,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import torchreg as tr
from tests.cases import LAYOUTS, STEPS, sample
from torchreg import blocks as fast
from torchreg import metrics

PENALTIES: dict[str, Callable[[], tr.Penalty]] = {
    "L1": lambda: tr.L1(0.3),
    "L2": lambda: tr.L2(0.2),
    "ElasticNet": lambda: tr.ElasticNet(0.3, 0.2),
    "strength 0": lambda: tr.ElasticNet(0.0, 0.0),
    "L0": lambda: tr.L0(0.05),
}
each_penalty = pytest.mark.parametrize("make", PENALTIES.values(), ids=PENALTIES)

OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "SGD": lambda p: SGD(p, lr=0.1),
    "SGD tensor lr": lambda p: SGD(p, lr=torch.tensor(0.1)),
    "Nesterov": lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "Adam": lambda p: Adam(p, lr=0.05),
    "Adam tensor lr": lambda p: Adam(p, lr=torch.tensor(0.05)),
    "AMSGrad": lambda p: AdamW(p, lr=0.05, amsgrad=True),
    "Adamax": lambda p: Adamax(p, lr=0.05),
    "NAdam": lambda p: NAdam(p, lr=0.05),
    "RAdam": lambda p: RAdam(p, lr=0.05),
    "RMSprop": lambda p: RMSprop(p, lr=0.05),
    "RMSprop centered": lambda p: RMSprop(p, lr=0.05, centered=True, momentum=0.5),
    "Adagrad": lambda p: Adagrad(p, lr=0.1),
    "Adadelta": lambda p: Adadelta(p),
    "ASGD": lambda p: ASGD(p, lr=0.1),
}

SHAPES: dict[str, Callable[[], Tensor]] = {
    "contiguous": lambda: sample(5, 7),
    "channels last": lambda: sample(4, 3, 2, 2).to(memory_format=torch.channels_last),
    "transposed": lambda: sample(6, 5).t(),
    "one wide": lambda: sample(6, 1, 5).transpose(0, 2),
    "strided": lambda: sample(8, 12)[::2, ::2],
    "0-d": lambda: sample(1)[0],
    "empty": lambda: sample(0, 3),
}


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same bits, NaN and the sign of zero included."""
    bits = {torch.float64: torch.int64, torch.float32: torch.int32}.get(a.dtype, torch.int16)
    return a.shape == b.shape and torch.equal(
        a.contiguous().view(bits) if a.numel() else a, b.contiguous().view(bits) if b.numel() else b
    )


def tiny_blocks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fast, "BLOCK", 4)


@each_penalty
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_in_place_is_the_pure_prox_bit_for_bit(
    make: Any, step: Any, layout: Any, dtype: torch.dtype
) -> None:
    penalty, w = make(), layout(dtype)
    size = step(w)
    expected, pointer = penalty.prox(w, size).to(dtype), w.data_ptr()
    assert penalty.prox_(w, size) is w
    assert same(w, expected)
    assert w.data_ptr() == pointer


@each_penalty
@pytest.mark.parametrize("threshold", [0.0, 1.0, 1e300, float("inf")])
def test_in_place_at_the_edges(make: Any, threshold: float) -> None:
    edge = [0.0, -0.0, 0.3, -0.3, 1e-45, -1e-45, float("nan"), float("inf"), -float("inf")]
    for w in (torch.tensor(edge), torch.tensor(edge, dtype=torch.float64)):
        expected = make().prox(w, threshold)
        make().prox_(w, threshold)
        torch.testing.assert_close(w, expected, rtol=0, atol=0, equal_nan=True)
        zeros = (expected == 0)[2:]  # of weights that were not 0 before
        assert torch.equal(w[2:][zeros].signbit(), expected[2:][zeros].signbit())


@each_penalty
def test_in_place_for_a_complex_weight(make: Any) -> None:
    w = torch.randn(5, 3, dtype=torch.complex64)
    expected = make().prox(w, 0.7)
    make().prox_(w, 0.7)
    assert torch.equal(w, expected)


def test_a_fixed_support_in_place() -> None:
    w = torch.tensor([1.0, float("nan"), 3.0])
    tr.FixedSupport(torch.tensor([True, False, True])).prox_(w, 1.0)
    assert w.tolist() == [1.0, 0.0, 3.0]


class Single(nn.Module):
    """One parameter of any layout."""

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(w)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_blocks_cover_a_tensor_once_and_keep_others_beside_it(
    shape: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_blocks(monkeypatch)
    w = shape()
    before, moment, row = w.clone(), torch.empty_like(w).copy_(w), torch.ones(2)
    for part, beside in fast.blocks(w, {"moment": moment, "row": row, "step": 3}):
        assert torch.equal(part, beside["moment"])
        assert beside["row"] is row
        assert beside["step"] == 3
        part.add_(1)
    assert torch.equal(w, before + 1)


def test_tensors_in_another_order_are_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_blocks(monkeypatch)
    w, other = sample(6, 5), sample(5, 6).t()
    ((part, beside),) = fast.blocks(w, {"other": other})
    assert part is w
    assert beside["other"] is other
    assert fast.flat(torch.ones(1, 3).expand(4, 3)) is None


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_blockwise_step_is_the_reference_bit_for_bit(
    name: str, shape: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_blocks(monkeypatch)
    for make in (PENALTIES["L1"], PENALTIES["ElasticNet"], PENALTIES["L0"]):
        start, penalty = shape(), make()
        model = Single(torch.empty_like(start).copy_(start))
        twin = Single(torch.empty_like(start).copy_(start))
        regularizer = tr.Regularizer(model, penalty, where="w")
        optimizer = tr.ProximalOptimizer(OPTIMIZERS[name](model.parameters()), regularizer)
        plain = OPTIMIZERS[name](twin.parameters())
        pointer = model.w.data_ptr()
        for _ in range(4):
            model.w.grad = torch.empty_like(model.w).copy_(torch.randn(start.shape))
            twin.w.grad = model.w.grad.clone()
            optimizer.step()
            reference_step(plain, twin.w, penalty)
            assert same(model.w.detach(), twin.w.detach())
        assert model.w.data_ptr() == pointer


@torch.no_grad()
def reference_step(optimizer: Optimizer, w: nn.Parameter, penalty: tr.Penalty) -> None:
    """The wrapped step and the pure prox of the whole tensor in the optimizer's metric."""
    metrics.before_step(optimizer)
    optimizer.step()
    metrics.advance(optimizer)
    found = metrics.metric_of(optimizer)(optimizer.param_groups[0], w, optimizer.state[w])
    assert isinstance(found, tr.StepSize)
    w.copy_(penalty.prox(w, found.bounded(penalty.slope(w))))


class Largest(TorchDispatchMode):
    """The size of the largest tensor that is made, views and in-place results left out."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        storages = {t.untyped_storage().data_ptr() for t in given}
        result = func(*args, **(kwargs or {}))
        for t in tree_leaves(result):
            if isinstance(t, Tensor) and t.untyped_storage().data_ptr() not in storages:
                self.numel = max(self.numel, t.numel())
        return result


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_temporary_is_larger_than_a_block(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "BLOCK", 64)
    model = nn.Linear(50, 40)
    regularizer = tr.Regularizer(model, tr.ElasticNet(0.1, 0.1))
    optimizer = tr.ProximalOptimizer(OPTIMIZERS[name](model.parameters()), regularizer)
    model.weight.grad = torch.randn(40, 50)
    optimizer.step()
    with Largest() as made:
        optimizer._apply_prox()
    assert made.numel <= fast.BLOCK
    with Largest() as made:
        regularizer.add_gradients_()
    assert made.numel <= fast.LONGER * fast.BLOCK


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_a_copy_keeps_the_choice_to_compile(copier: Any) -> None:
    model = nn.Linear(3, 2)
    regularizer = tr.Regularizer(model, tr.L1(0.1))
    optimizer = tr.ProximalOptimizer(SGD(model.parameters(), lr=0.1), regularizer, compile=True)
    assert copier(optimizer).compile is True


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("name", ["L1", "ElasticNet", "L0"])
def test_compiled_is_eager_to_rounding_and_compiles_once(name: str) -> None:
    torch.compiler.reset()
    compiled: list[int] = []
    zeros = 0
    kinds = ["Adam", "Adam tensor lr", "AMSGrad", "NAdam", "RAdam", "RMSprop", "Adagrad", "SGD"]
    for kind in [*kinds, "RMSprop centered"]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, 3)).to(
            memory_format=torch.channels_last
        )
        other, penalty = copy.deepcopy(model), PENALTIES[name]()
        eager, fast = (
            tr.ProximalOptimizer(
                OPTIMIZERS[kind](network.parameters()),
                tr.Regularizer(network, penalty),
                compile=compile_it,
            )
            for network, compile_it in ((model, False), (other, True))
        )
        for step in range(8):
            strength = "l0" if name == "L0" else "l1"
            setattr(penalty, strength, {"l0": 2e-4, "l1": 0.05}[strength] / (step + 1))
            for group in (*eager.param_groups, *fast.param_groups):
                group["lr"] = group["lr"] * 0.8
            model.zero_grad()
            model(torch.randn(2, 2, 6, 6)).square().mean().backward()
            # The same gradients: adaptive steps make much of a rounding in a small one.
            for p, q in zip(model.parameters(), other.parameters(), strict=True):
                assert p.grad is not None
                q.grad = p.grad.clone(memory_format=torch.preserve_format)
            eager.step()
            with torch._dynamo.config.patch(error_on_recompile=bool(compiled)):
                fast.step()
            compiled.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        results = [
            torch.cat([w.detach().flatten() for w in network.parameters()])
            for network in (model, other)
        ]
        torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)
        assert torch.equal(results[0] == 0, results[1] == 0)
        zeros += int((results[0] == 0).sum())
    assert zeros > 0
    assert set(compiled) == {compiled[0]}
    assert compiled[0] > 0


@each_penalty
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("scale", [1.0, 512.0])
def test_direct_gradients_are_those_of_autograd(
    make: Any, shape: Any, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_blocks(monkeypatch)
    model, penalty = Single(shape()), make()
    start = torch.empty_like(model.w).copy_(torch.randn(model.w.shape))
    (scale * penalty.value(model.w) + (start * model.w).sum()).backward()
    expected = model.w.grad
    model.w.grad = start.detach().clone()
    pointer = model.w.grad.data_ptr()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a strength of 0 penalises nothing
        regularizer = tr.Regularizer(model, penalty, where="w")
    regularizer.add_gradients_(scale)
    torch.testing.assert_close(model.w.grad, expected)
    assert model.w.grad.data_ptr() == pointer
    assert model.w.requires_grad
    assert not model.w.grad.requires_grad


def test_direct_gradients_of_a_complex_weight() -> None:
    w = torch.randn(3, 2, dtype=torch.complex128, requires_grad=True)
    penalty = tr.ElasticNet(0.3, 0.2)
    (expected,) = torch.autograd.grad(penalty.value(w), w)
    grad = torch.zeros_like(w, requires_grad=False)
    penalty.add_gradient_(w, grad)
    torch.testing.assert_close(grad, expected)


def test_a_penalty_without_a_direct_gradient_goes_through_autograd() -> None:
    w, grad = sample(4, 3), sample(4, 3)
    expected = grad + 2 * tr.L2(0.2).value(w.requires_grad_()).new_tensor(0.4) * w.detach()
    tr.Penalty.add_gradient_(tr.L2(0.2), w, grad, scale=2.0)
    torch.testing.assert_close(grad, expected)
    support = tr.FixedSupport(torch.ones(4, 3, dtype=torch.bool))
    before = grad.clone()
    tr.Penalty.add_gradient_(support, w, grad)
    support.add_gradient_(w, grad)
    assert torch.equal(grad, before)


def test_direct_gradients_leave_out_what_has_none_and_what_is_not_asked_for() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    regularizer = tr.Regularizer(model, tr.L1(0.5))
    first, second, third = regularizer.selection().values()
    second.grad, third.grad = torch.zeros(2, 2), torch.zeros(2, 2)
    regularizer.add_gradients_(parameters=[first, second])
    assert first.grad is None
    assert torch.equal(second.grad, 0.5 * second.detach().sign())
    assert not third.grad.any()


def test_a_sparse_gradient_is_refused() -> None:
    model = nn.Embedding(4, 2, sparse=True)
    model(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="weight has a sparse gradient"):
        tr.Regularizer(model, tr.L1(0.1)).add_gradients_()
