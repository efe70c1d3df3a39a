"""The proximal optimizer as a torch optimizer: hooks, checkpoints, copies."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

import torchreg as tr
from tests.test_proximal import MAKERS, each_optimizer, identical, network, train, weights, wrapped


def through_a_file(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@each_optimizer
def test_a_resumed_run_equals_one_that_went_on(name: str) -> None:
    model = network()
    optimizer = wrapped(model, name)
    train(model, optimizer, range(7))
    checkpoint = through_a_file({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    train(model, optimizer, range(7, 14))
    other = network()
    resumed = wrapped(other, name)
    other.load_state_dict(checkpoint["model"])
    resumed.load_state_dict(state_dict=checkpoint["optimizer"])
    train(other, resumed, range(7, 14))
    assert identical(weights(model), weights(other))


@each_optimizer
def test_checkpoints_pass_between_plain_and_proximal(name: str) -> None:
    model = network()
    plain = MAKERS[name](model.parameters())
    train(model, plain, range(5))
    other = network()
    optimizer = wrapped(other, name)
    other.load_state_dict(model.state_dict())
    optimizer.load_state_dict(through_a_file(plain.state_dict()))
    assert set(optimizer.state_dict()) == {"state", "param_groups"}
    train(other, optimizer, range(5, 8))
    back = MAKERS[name](other.parameters())
    back.load_state_dict(through_a_file(optimizer.state_dict()))
    train(other, back, range(8, 10))


def test_the_state_of_a_cold_optimizer_is_empty_and_never_made_early() -> None:
    for name in MAKERS:
        model = network()
        optimizer = wrapped(model, name)
        assert optimizer.state_dict()["state"] == {}
        train(model, optimizer, range(1))


@each_optimizer
@pytest.mark.parametrize("copier", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copy_carries_the_regularisation_along(name: str, copier: Any) -> None:
    model = network()
    optimizer = wrapped(model, name, strength=0.2)
    CosineAnnealingLR(optimizer, 10)  # patches step on the instance
    train(model, optimizer, range(3))
    twin, copied = copier((model, optimizer))
    assert copied.regularizer.model is twin
    train(model, optimizer, range(3, 60))
    train(twin, copied, range(3, 60))
    assert tr.sparsity(twin).exact > 10
    assert identical(weights(model), weights(twin))


def test_a_metric_that_cannot_be_pickled_fails_loudly() -> None:
    model = network()
    optimizer = tr.ProximalOptimizer(
        Adam(model.parameters()),
        tr.Regularizer(model, tr.L1(0.1)),
        metric=lambda group, _parameter, _state: group["lr"],
    )
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(optimizer)


def test_it_is_a_torch_optimizer_that_shares_everything() -> None:
    model = network()
    inner = SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer = tr.ProximalOptimizer(inner, tr.Regularizer(model, tr.L1(0.1)))
    assert isinstance(optimizer, Optimizer)
    assert optimizer.param_groups is inner.param_groups
    assert optimizer.state is inner.state
    assert optimizer.defaults is inner.defaults
    train(model, optimizer, range(2))
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.param_groups is inner.param_groups
    assert optimizer.state is inner.state
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())
    assert "ProximalOptimizer around SGD" in repr(optimizer)
    assert "L1(l1=0.1)" in repr(optimizer)


def test_every_hook_is_called_once_on_the_wrapper_and_on_the_wrapped() -> None:
    model = network()
    inner = SGD(model.parameters(), lr=0.1)
    optimizer = tr.ProximalOptimizer(inner, tr.Regularizer(model, tr.L1(0.1)))
    called: list[str] = []

    def note(name: str) -> Any:
        return lambda *_: called.append(name)

    for label, target in (("outer", optimizer), ("inner", inner)):
        target.register_step_pre_hook(note(f"{label} before step"))
        target.register_step_post_hook(note(f"{label} after step"))
        target.register_state_dict_pre_hook(note(f"{label} before save"))
        target.register_state_dict_post_hook(note(f"{label} after save"))
        target.register_load_state_dict_pre_hook(note(f"{label} before load"))
        target.register_load_state_dict_post_hook(note(f"{label} after load"))
    train(model, optimizer, range(1))
    optimizer.load_state_dict(optimizer.state_dict())
    for moment in ("step", "save", "load"):
        assert [line for line in called if line.endswith(moment)] == [
            f"outer before {moment}",
            f"inner before {moment}",
            f"inner after {moment}",
            f"outer after {moment}",
        ]


def test_a_state_dict_hook_may_replace_what_is_saved_and_loaded() -> None:
    model = network()
    optimizer = wrapped(model, "SGD")
    optimizer.register_state_dict_post_hook(lambda _, packed: {**packed, "extra": 1})
    saved = optimizer.state_dict()
    assert saved["extra"] == 1

    def strip(_: Optimizer, packed: dict[str, Any]) -> dict[str, Any]:
        packed["param_groups"] = [{**packed["param_groups"][0], "lr": 0.7}]
        return packed

    optimizer.register_load_state_dict_pre_hook(strip)
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 0.7
    assert saved["param_groups"][0]["lr"] == 0.1


def test_the_models_own_checkpoint_has_no_key_of_ours() -> None:
    model = network()
    keys = list(model.state_dict())
    model.regularizer = tr.Regularizer(model, tr.L1(0.1))  # type: ignore[assignment]
    wrapped(model, "Adam")
    assert list(model.state_dict()) == keys
    nn.Sequential.load_state_dict(model, network().state_dict(), strict=True)
