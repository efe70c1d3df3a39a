"""A wrapped optimizer is stepped through one wrapper: around it, beside it and after it."""

import copy
import pickle
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

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

PAST = r"would step without the penalty\. Step the ProximalOptimizer"


@each_optimizer
def test_a_step_past_the_wrapper_is_stopped_before_anything_moves(name: str) -> None:
    model = network()
    inner = MAKERS[name](model.parameters())
    optimizer = tr.ProximalOptimizer(inner, tr.Regularizer(model, tr.L1(0.05)))
    train(model, optimizer, range(3))
    before, state = weights(model), str(inner.state_dict())
    loss_of(model, 3).backward()
    with pytest.raises(RuntimeError, match=PAST):
        inner.step()
    assert identical(weights(model), before)
    assert str(inner.state_dict()) == state
    train(model, optimizer, range(3, 5))
    other = network()
    train(other, wrapped(other, name), range(5))
    assert identical(weights(model), weights(other))


def test_a_failing_closure_leaves_the_guard_standing() -> None:
    model = network()
    optimizer = wrapped(model, "SGD")
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 / 0)
    with pytest.raises(RuntimeError, match=PAST):
        optimizer.optimizer.step()


def test_a_scheduler_or_a_scaler_on_the_inner_one_does_not_hide_it() -> None:
    model = network()
    optimizer = wrapped(model, "SGD")
    CosineAnnealingLR(optimizer.optimizer, 10)
    loss_of(model, 0).backward()
    with pytest.raises(RuntimeError, match=PAST):
        optimizer.optimizer.step()
    scaler = torch.amp.GradScaler("cpu")
    optimizer.zero_grad()
    scaler.scale(loss_of(model, 0)).backward()
    with pytest.raises(RuntimeError, match=PAST):
        scaler.step(optimizer.optimizer)


def test_the_distributed_checkpoint_may_make_the_state_of_the_inner_one() -> None:
    for name in MAKERS:
        model = network()
        optimizer = wrapped(model, name)
        before = weights(model)
        get_optimizer_state_dict(model, optimizer.optimizer)
        assert identical(weights(model), before)


def test_the_newer_of_two_wrappers_steps_and_the_older_one_says_so() -> None:
    model, other = network(), network()
    inner = Adam(model.parameters(), lr=0.01)
    older = tr.ProximalOptimizer(inner, tr.Regularizer(model, tr.L1(0.05), "first*"))
    newer = tr.ProximalOptimizer(inner, tr.Regularizer(model, tr.L1(0.05)))
    train(model, newer, range(3))
    train(other, wrapped(other, "Adam"), range(3))
    assert identical(weights(model), weights(other))
    with pytest.raises(RuntimeError, match="given to another ProximalOptimizer since"):
        older.step()
    assert identical(weights(model), weights(other))


def test_an_optimizer_whose_wrapper_is_gone_is_free_again() -> None:
    model, plain = network(), network()
    inner = MAKERS["Adam"](model.parameters())
    tr.ProximalOptimizer(inner, tr.Regularizer(model, tr.L1(0.05)))
    train(model, inner, range(3))
    train(plain, MAKERS["Adam"](plain.parameters()), range(3))
    assert identical(weights(model), weights(plain))


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copy_guards_its_own_and_a_copied_inner_one_is_free(copier: Callable[..., Any]) -> None:
    model = network()
    optimizer = wrapped(model, "SGD")
    twin, copied = copier((model, optimizer))
    loss_of(twin, 0).backward()
    with pytest.raises(RuntimeError, match=PAST):
        copied.optimizer.step()
    copied.step()
    train(model, optimizer, range(2))
    plain, inner = copier((model, optimizer.optimizer))
    before = weights(plain)
    train(plain, inner, range(1))
    assert not identical(weights(plain), before)


def test_global_step_hooks_see_both_optimizers_once_the_wrapper_outside() -> None:
    model = network()
    optimizer = wrapped(model, "SGD")
    seen: list[tuple[str, Optimizer]] = []
    before = register_optimizer_step_pre_hook(lambda o, *_: seen.append(("before", o)))
    after = register_optimizer_step_post_hook(lambda o, *_: seen.append(("after", o)))
    train(model, optimizer, range(1))
    before.remove()
    after.remove()
    assert seen == [
        ("before", optimizer),
        ("before", optimizer.optimizer),
        ("after", optimizer.optimizer),
        ("after", optimizer),
    ]


class Outer(Optimizer):
    """Wraps another optimizer as accelerate does: shares its parts, patches and steps it."""

    def __init__(self, optimizer: Optimizer, scaler: torch.amp.GradScaler) -> None:
        self.optimizer, self.scaler = optimizer, scaler
        self.stepped = False
        state_dict = optimizer.state_dict()
        optimizer.load_state_dict(state_dict)

    param_groups = property(lambda self: self.optimizer.param_groups)
    state = property(lambda self: self.optimizer.state)
    defaults = property(lambda self: self.optimizer.defaults)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none=set_to_none)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        original = self.optimizer.step

        def patched(*args: Any, **kwargs: Any) -> Any:
            self.stepped = True
            return original(*args, **kwargs)

        self.optimizer.step = patched  # type: ignore[method-assign]
        self.scaler.step(self.optimizer, *([] if closure is None else [closure]))
        self.scaler.update()
        self.optimizer.step = original  # type: ignore[method-assign]


def test_a_wrapper_around_ours_in_the_manner_of_accelerate() -> None:
    for name in MAKERS:
        model, other = network(), network()
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
        outer = Outer(wrapped(model, name), scaler)
        scheduler = CosineAnnealingLR(outer.optimizer, 10)
        reference = wrapped(other, name)
        theirs = CosineAnnealingLR(reference, 10)
        for seed in range(5):
            outer.zero_grad()
            scaler.scale(loss_of(model, seed)).backward()
            outer.step()
            scheduler.step()
            train(other, reference, range(seed, seed + 1))
            theirs.step()
        assert outer.stepped
        assert identical(weights(model), weights(other))


def test_zero_redundancy_builds_its_own_optimizer_and_says_what_is_missing(
    one_process: None,  # noqa: ARG001
) -> None:
    model = network()
    regularizer = tr.Regularizer(model, tr.L1(0.05))
    with pytest.raises(TypeError, match=r"expected a torch\.optim optimizer to wrap, found list"):
        ZeroRedundancyOptimizer(
            model.parameters(),
            optimizer_class=tr.ProximalOptimizer,
            regularizer=regularizer,
        )
    zero = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=SGD, lr=0.1)
    with pytest.raises(TypeError, match=r"step size is known for ZeroRedundancyOptimizer.*metric="):
        tr.ProximalOptimizer(zero, regularizer)


def test_zero_redundancy_inside_ours_takes_the_plain_step(
    one_process: None,  # noqa: ARG001
) -> None:
    model, other = network(), network()
    zero = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=SGD, lr=0.1)
    optimizer = tr.ProximalOptimizer(
        zero,
        tr.Regularizer(model, tr.L1(0.05)),
        metric=lambda group, _parameter, _state: cast(float, group["lr"]),
    )
    train(model, optimizer, range(5))
    train(other, wrapped(other, "SGD"), range(5))
    assert identical(weights(model), weights(other))


@pytest.fixture
def one_process() -> Any:
    store = torch.distributed.HashStore()  # type: ignore[attr-defined]
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()
