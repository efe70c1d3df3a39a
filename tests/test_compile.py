"""torch.compile, wrapped models, and what a CUDA graph asks: no value is read on the host."""

from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn.utils.parametrize import register_parametrization
from torch.optim import SGD, Adam, AdamW, Optimizer

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


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@each_optimizer
def test_a_compiled_model_trains_as_the_plain_one(name: str) -> None:
    model, other = network(), network()
    compiled = cast(nn.Module, torch.compile(model, backend="eager"))
    optimizer, reference = wrapped(compiled, name), wrapped(other, name)
    assert list(optimizer.regularizer.selection()) == ["first.weight", "last.weight"]
    train(compiled, optimizer, range(10))
    train(other, reference, range(10))
    assert identical(weights(model), weights(other))


def compiled_step(name: str, backend: str) -> None:
    """Steps inside a compiled function equal steps outside, to rounding, with the same zeros."""
    model, other = network(), network()
    optimizer, reference = wrapped(model, name, 0.5), wrapped(other, name, 0.5)

    @torch.compile(backend=backend)
    def step() -> None:
        optimizer.step()

    for seed in range(20):
        optimizer.zero_grad()
        loss_of(model, seed).backward()
        step()
        train(other, reference, range(seed, seed + 1))
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-5)
    assert tr.sparsity(model).exact == tr.sparsity(other).exact > 10


@pytest.mark.parametrize("name", ["Nesterov", "AdamW"])
def test_a_compiled_function_may_step(name: str) -> None:
    compiled_step(name, "eager")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["AdamW fused"])
def test_a_function_compiled_to_machine_code_may_step(name: str) -> None:
    compiled_step(name, "inductor")


FAKE_CUDA: dict[str, Callable[[Any], Optimizer]] = {
    "SGD": lambda p: SGD(p, lr=0.1),
    "momentum": lambda p: SGD(p, lr=0.1, momentum=0.9),
    "momentum foreach": lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True, foreach=True),
    "Adam": lambda p: Adam(p, lr=0.1),
    "Adam capturable": lambda p: Adam(p, lr=0.1, capturable=True, weight_decay=0.1),
    "AMSGrad capturable": lambda p: Adam(p, lr=0.1, capturable=True, amsgrad=True),
    "AdamW capturable foreach": lambda p: AdamW(p, lr=0.1, capturable=True, foreach=True),
    "AdamW fused": lambda p: AdamW(p, lr=0.1, fused=True),
}
PENALTIES = [tr.L1(0.1), tr.ElasticNet(0.1, 0.1), tr.L2(0.1)]


def fake_steps(make: Callable[[Any], Optimizer], penalty: tr.Penalty, *, lr: bool) -> None:
    """Step on CUDA tensors that have no values: whatever reads one on the host raises."""
    with FakeTensorMode():
        model = nn.Linear(4, 3, device="cuda")
        optimizer = tr.ProximalOptimizer(
            make(model.parameters()), tr.Regularizer(model, penalty, "*")
        )
        if lr:
            optimizer.param_groups[0]["lr"] = torch.tensor(0.1, device="cuda")
        for _ in range(3):
            for parameter in model.parameters():
                parameter.grad = torch.empty_like(parameter)
            optimizer.step()
        state = optimizer.state[model.weight]
        if optimizer.param_groups[0].get("capturable"):
            assert all(value.device.type == "cuda" for value in state.values())


@pytest.mark.parametrize("name", FAKE_CUDA)
@pytest.mark.parametrize("penalty", PENALTIES, ids=repr)
def test_no_step_on_cuda_waits_for_a_value(name: str, penalty: tr.Penalty) -> None:
    fake_steps(FAKE_CUDA[name], penalty, lr=False)


@pytest.mark.parametrize("name", [name for name in FAKE_CUDA if "capturable" in name])
@pytest.mark.parametrize("penalty", PENALTIES, ids=repr)
def test_nor_with_an_lr_on_cuda(name: str, penalty: tr.Penalty) -> None:
    fake_steps(FAKE_CUDA[name], penalty, lr=True)


def test_a_step_that_reads_a_value_is_seen() -> None:
    class Reads(Adam):
        def step(self, closure: Any = None) -> Any:
            float(self.param_groups[0]["params"][0].sum())
            return super().step(closure)

    def make(parameters: Any) -> Optimizer:
        return Reads(parameters, lr=0.1)

    with pytest.raises(TypeError, match="no diagonal step size is known for Reads"):
        fake_steps(make, PENALTIES[0], lr=False)
    with pytest.raises(DataDependentOutputException), FakeTensorMode():
        make(nn.Linear(2, 1, device="cuda").parameters()).step()


class Halved(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 2


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.recurrent = nn.LSTM(6, 4, batch_first=True)
        self.head = nn.Linear(4, 2)
        register_parametrization(self.head, "weight", Halved())

    def forward(self, x: Tensor) -> Tensor:
        sequence = x.reshape(4, 4, 6)
        mixed, _ = self.attention(sequence, sequence, sequence)
        out: Tensor = self.head(self.recurrent(mixed)[0]).reshape(16, 2)
        return out


@pytest.mark.parametrize("name", ["momentum", "Adam"])
def test_names_of_every_make_are_seen_through_and_reach_exact_zeros(name: str) -> None:
    plain = Attends()
    model = cast(nn.Module, torch.compile(plain, backend="eager"))  # for its names alone
    selected = {
        "attention.in_proj_weight": tr.L1(0.3),
        "recurrent.weight_ih_l0": tr.L1(0.3),
        "head.weight": tr.L1(0.3),
    }
    regularizer = tr.Regularizer(model, selected)
    optimizer = tr.ProximalOptimizer(MAKERS[name](model.parameters()), regularizer)
    train(plain, optimizer, range(60))
    for one in tr.sparsity(regularizer).tensors.values():
        assert one.exact > 0
