"""What a metric must know of the past: kept in the optimizer's state, written here alone.

``before_step`` and ``advance`` frame each step of the wrapped optimizer, so that the metrics
themselves are pure functions. Neither waits for an accelerator.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import ASGD, SGD, Optimizer, RMSprop

from torchreg.distributed import is_sharded
from torchreg.metrics.step_size import number


def before_step(optimizer: Optimizer) -> None:
    """Set aside what the step is about to overwrite. Call it before the wrapped step."""
    settle_momentum(optimizer)
    if isinstance(optimizer, ASGD):
        for _, _, state in _entries(optimizer):
            if "eta" in state:  # a cold parameter has none, and takes its first step with the lr
                taken = state.setdefault("eta_taken", torch.empty_like(state["eta"]))
                taken.copy_(state["eta"])


@torch.no_grad()
def advance(optimizer: Optimizer) -> None:
    """Carry the weights of the momentum buffers over one step. Call it after the wrapped step.

    ``momentum_weight`` is W, what the buffer of a parameter has given to a constant gradient so
    far. SGD's recursion is W = 1 at first and then ``m * W + (1 - dampening)``. RMSprop's buffer
    adds up gradients that are already divided by that step's root of v, which under a constant
    gradient grows like ``sqrt(1 - alpha^t)``; in units of the present root,
    ``W = m * W * sqrt((1 - alpha^t) / (1 - alpha^(t-1))) + 1``. The recursion follows a momentum
    that a scheduler changes. A parameter without a gradient took no step.
    """
    if not isinstance(optimizer, SGD | RMSprop):
        return
    for group, parameter, state in _entries(optimizer):
        if group["momentum"] == 0 or parameter.grad is None:
            continue
        before = state.get("momentum_weight")
        if before is None:
            _set_weight(group, state, 1.0)
        else:
            kept = group["momentum"] * before * _growth(group, state)
            _set_weight(group, state, kept + 1 - group.get("dampening", 0))


def settle_momentum(optimizer: Optimizer) -> None:
    """Give every warm momentum buffer whose history is unknown the weight of a settled one.

    For an SGD or RMSprop that has stepped on its own, or whose plain checkpoint was loaded; also
    for one whose checkpoint came from here and has passed through a plain optimizer since.
    """
    if not isinstance(optimizer, SGD | RMSprop):
        return
    for group, _, state in _entries(optimizer):
        buffer, sealed = state.get("momentum_buffer"), state.pop("momentum_sealed", None)
        if buffer is None or not 0 < group["momentum"] < 1:
            continue
        # A cast or another device changes the size by rounding alone.
        known = sealed is not None and sealed >= 0 and not is_sharded(buffer)
        moved = known and not math.isclose(_size(buffer), sealed, rel_tol=1e-5)
        if moved or "momentum_weight" not in state:
            _set_weight(group, state, (1 - group.get("dampening", 0)) / (1 - group["momentum"]))


def seal(optimizer: Optimizer, packed: dict[str, Any]) -> None:
    """Note in a ``state_dict`` the size of each momentum buffer, beside its weight.

    A plain optimizer that loads it trains on and leaves both numbers as they are: then the size
    is no longer the buffer's, and :func:`settle_momentum` can tell. A seal that is there stays
    until then. That of a DTensor, whose size is not known to one rank, is -1 and tells nothing;
    the distributed checkpoint needs the same keys in any number of processes.
    """
    if not isinstance(optimizer, SGD | RMSprop):
        return
    for key, state in packed["state"].items():
        buffer = state.get("momentum_buffer")
        if "momentum_weight" in state and buffer is not None:
            size = -1.0 if is_sharded(buffer) else _size(buffer)
            packed["state"][key] = {"momentum_sealed": size, **state}


def _entries(optimizer: Optimizer) -> Iterator[tuple[dict[str, Any], Tensor, dict[str, Any]]]:
    """Each parameter that has a state, with its group: none is made here."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state.get(parameter)
            if state:
                yield group, parameter, state


def _set_weight(group: dict[str, Any], state: dict[str, Any], weight: float | Tensor) -> None:
    """Keep W as a float; with ``capturable`` in one tensor, which a CUDA graph goes on updating."""
    if not group.get("capturable"):
        state["momentum_weight"] = weight
        return
    held = state.get("momentum_weight")
    if not isinstance(held, Tensor):
        held = state["momentum_weight"] = torch.empty_like(state["step"])
    held.copy_(torch.as_tensor(weight))


def _growth(group: dict[str, Any], state: dict[str, Any]) -> float | Tensor:
    """The root of v now over the root of v a step ago, under a constant gradient; 1 for SGD.

    Also 1 if centered: that root is made of the noise alone, which does not grow.
    """
    alpha = group.get("alpha", 0.0)
    if group.get("centered") or not 0 < alpha < 1:
        return 1.0
    t = number(state["step"])
    growth: float | Tensor = ((1 - alpha**t) / (1 - alpha ** (t - 1))) ** 0.5
    return growth


def _size(buffer: Tensor) -> float:
    return float(torch.linalg.vector_norm(buffer))
