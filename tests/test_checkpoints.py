"""Checkpoints of others: torch's distributed helpers, other types, other models, other keys."""

import copy
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import SGD, Adam, AdamW, Optimizer, Rprop
from torch.optim.lr_scheduler import CosineAnnealingLR

import torchreg as tr
from tests.test_proximal import (
    MAKERS,
    each_optimizer,
    identical,
    network,
    train,
    weights,
    wrapped,
)

alone = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")


@each_optimizer
def test_the_distributed_helpers_make_a_cold_state_and_move_nothing(name: str) -> None:
    model = network()
    optimizer = wrapped(model, name)
    before = weights(model)
    rate = optimizer.param_groups[0]["lr"]
    packed = get_optimizer_state_dict(model, optimizer)
    assert set(packed) == {"state", "param_groups"}
    assert identical(weights(model), before)
    assert all(p.grad is None for p in model.parameters())
    assert optimizer.param_groups[0]["lr"] == rate


@alone
@each_optimizer
@pytest.mark.parametrize("flat", [False, True])
def test_a_run_resumed_through_the_distributed_checkpoint(
    name: str, flat: bool, tmp_path: Path
) -> None:
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    model = network()
    optimizer = wrapped(model, name)
    train(model, optimizer, range(5))
    saved: dict[str, Any] = dict(
        zip("mo", get_state_dict(model, optimizer, options=options), strict=True)
    )
    save(saved, checkpoint_id=tmp_path)
    train(model, optimizer, range(5, 10))

    other = network()
    resumed = wrapped(other, name)
    saved = dict(zip("mo", get_state_dict(other, resumed, options=options), strict=True))
    load(saved, checkpoint_id=tmp_path)
    set_state_dict(
        other, resumed, model_state_dict=saved["m"], optim_state_dict=saved["o"], options=options
    )
    train(other, resumed, range(5, 10))
    assert identical(weights(model), weights(other))


def test_a_scheduler_is_resumed_with_the_optimizer() -> None:
    model, other = network(), network()
    optimizer = wrapped(model, "Nesterov")
    scheduler = CosineAnnealingLR(optimizer, 10)
    for seed in range(4):
        train(model, optimizer, range(seed, seed + 1))
        scheduler.step()
    resumed = wrapped(other, "Nesterov")
    theirs = CosineAnnealingLR(resumed, 10)
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # torch shares tensors
    theirs.load_state_dict(scheduler.state_dict())
    for seed in range(4, 8):
        for one, by, plan in ((model, optimizer, scheduler), (other, resumed, theirs)):
            train(one, by, range(seed, seed + 1))
            plan.step()
    assert identical(weights(model), weights(other))


def refused(optimizer: tr.ProximalOptimizer, packed: dict[str, Any], match: str) -> None:
    """Refused, and the optimizer is as it was."""
    before = str(optimizer.state_dict())
    with pytest.raises(ValueError, match=match):
        optimizer.load_state_dict(packed)
    assert str(optimizer.state_dict()) == before


@pytest.mark.parametrize(
    ("ours", "theirs", "missing"),
    [
        ("momentum", "Adam", "another optimizer than SGD: it has no dampening, momentum"),
        ("Adam", "momentum", "another optimizer than Adam: it has no betas, eps"),
        ("AdamW fused", "SGD", "another optimizer than AdamW: it has no betas, eps"),
    ],
)
def test_the_checkpoint_of_another_type_is_refused(ours: str, theirs: str, missing: str) -> None:
    model = network()
    packed = MAKERS[theirs](model.parameters()).state_dict()
    refused(wrapped(model, ours), packed, missing)


def test_the_checkpoint_of_another_model_is_refused() -> None:
    model = network()
    optimizer = wrapped(model, "Adam")
    train(model, optimizer, range(2))
    fewer = Adam([*model.first.parameters()]).state_dict()
    refused(optimizer, fewer, r"groups hold \[2\] parameters, those of this Adam \[4\]")
    split = Adam([{"params": m.parameters()} for m in (model.first, model.last)]).state_dict()
    refused(optimizer, split, r"groups hold \[2, 2\] parameters, those of this Adam \[4\]")
    wider = nn.Sequential(nn.Linear(6, 7), nn.Linear(7, 2))
    other = Adam(wider.parameters())
    wider(torch.randn(3, 6)).sum().backward()
    other.step()
    shapes = r"exp_avg of parameter 0 is shaped \(7, 6\), the parameter \(5, 6\)"
    refused(optimizer, other.state_dict(), shapes)


@pytest.mark.parametrize("wrong", [{}, {"model": {}, "optimizer": {}}, {"param_groups": []}])
def test_what_is_no_optimizer_state_is_refused(wrong: dict[str, Any]) -> None:
    refused(wrapped(network(), "Adam"), wrong, "no optimizer's state_dict: expected the keys")
    model = network()
    refused(wrapped(model, "Adam"), model.state_dict(), r"found 'first\.weight'")


def test_a_checkpoint_of_an_older_torch_lacks_switches_and_loads() -> None:
    for name in MAKERS:
        model = network()
        optimizer = wrapped(model, name)
        train(model, optimizer, range(2))
        packed = optimizer.state_dict()
        younger = ("foreach", "maximize", "capturable", "differentiable", "fused")
        packed["param_groups"] = [
            {k: v for k, v in group.items() if k not in younger} for group in packed["param_groups"]
        ]
        optimizer.load_state_dict(packed)
        train(model, optimizer, range(2, 4))


def test_of_an_optimizer_with_a_metric_of_ones_own_only_the_counts_are_compared() -> None:
    model = network()
    optimizer = tr.ProximalOptimizer(
        Rprop(model.parameters()),
        tr.Regularizer(model, tr.L1(0.1)),
        metric=lambda _group, _parameter, state: state["step_size"],
    )
    train(model, optimizer, range(2))
    packed = optimizer.state_dict()
    del packed["param_groups"][0]["etas"]
    optimizer.load_state_dict(packed)
    assert "etas" not in optimizer.param_groups[0]


def test_parts_that_are_set_on_the_wrapper_reach_the_wrapped() -> None:
    model = network()
    optimizer = wrapped(model, "momentum")
    train(model, optimizer, range(1))
    inner = optimizer.optimizer
    groups, state, defaults = list(inner.param_groups), dict(inner.state), dict(inner.defaults)
    optimizer.param_groups = groups
    optimizer.state = state
    optimizer.defaults = defaults
    assert inner.param_groups is groups
    assert inner.state is state
    assert inner.defaults is defaults


def test_a_hook_may_be_put_before_the_others() -> None:
    optimizer = wrapped(network(), "SGD")
    called: list[int] = []
    for register in (
        optimizer.register_state_dict_pre_hook,
        optimizer.register_state_dict_post_hook,
        optimizer.register_load_state_dict_pre_hook,
        optimizer.register_load_state_dict_post_hook,
    ):
        called.clear()
        first, second = lambda *_: called.append(1), lambda *_: called.append(2)
        handles = [register(first), register(second, prepend=True)]
        optimizer.load_state_dict(optimizer.state_dict())
        assert called == [2, 1]
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("kind", [SGD, Adam, AdamW])
def test_the_order_of_hooks_is_kept_as_torch_keeps_it(kind: Callable[..., Optimizer]) -> None:
    model = network()
    optimizer = tr.ProximalOptimizer(kind(model.parameters()), tr.Regularizer(model, tr.L1(0.1)))
    hooks = [name for name in vars(kind(model.parameters())) if name.endswith("_hooks")]
    assert len(hooks) == 6
    assert all(type(vars(optimizer)[name]) is OrderedDict for name in hooks)
