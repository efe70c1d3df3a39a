"""Which channels can be removed without changing an output, and why the others cannot."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from torchreg.compaction.channels import Channels, Side
from torchreg.compaction.layers import is_reader, reads
from torchreg.compaction.running import Example


class Arriving(NamedTuple):
    """The smallest and largest value seen at each input of a layer: float64, (inputs,)."""

    low: Tensor
    high: Tensor


class Plan(NamedTuple):
    """What goes and what stays."""

    removed: Tensor
    """One bool per channel."""

    why: dict[int, str]
    """For channels that stay, the reason."""


def observe(model: nn.Module, inputs: Iterable[Example]) -> tuple[list[Any], dict[str, Arriving]]:
    """Run a model; return its outputs and what arrived at its linear and convolution layers."""
    seen: dict[str, Arriving] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(layer: nn.Module, args: tuple[Any, ...]) -> None:
            x = args[0].detach()
            x = x.movedim(-len(layer.kernel_size) - 1, -1) if isinstance(layer, _ConvNd) else x
            low, high = x.flatten(0, -2).aminmax(dim=0) if x.dim() > 1 else (x, x)
            low, high = low.cpu(), high.cpu()
            if name in seen:
                low, high = low.minimum(seen[name].low), high.maximum(seen[name].high)
            seen[name] = Arriving(low, high)

        return hook

    layers = [(name, layer) for name, layer in model.named_modules() if is_reader(layer)]
    hooks = [layer.register_forward_pre_hook(keep(name)) for name, layer in layers]
    try:
        with torch.no_grad():
            return [run(model) for run in inputs], seen
    finally:
        for hook in hooks:
            hook.remove()


def decide(channels: Channels, arriving: dict[str, Arriving], pinned: dict[int, str]) -> Plan:
    """Find every channel that can go.

    A channel goes if, at every layer that reads it, either the weights that read it are zero
    (for the outputs that stay), or what arrives is one constant whatever the input of the model,
    and that constant is zero or can be moved into the layer's bias.

    Args:
        channels: of the model.
        arriving: what was seen at the inputs of its layers.
        pinned: channels that have to stay, with the reason.
    """
    readers = [n for n, layer in channels.layers.items() if is_reader(layer) and n in arriving]
    matrices = {name: reads(_module(channels, name)) for name in readers}
    held = {name: _held(channels, name, arriving[name]) for name in readers}
    pinned = {**_unread(channels, readers), **tied(channels), **channels.blocked, **pinned}
    while True:
        removed, why = _closure(channels, readers, matrices, held, pinned)
        surplus = {**_emptied(channels, removed), **_unbalanced(channels, removed)}
        if not surplus:
            return Plan(removed, why)
        pinned |= surplus


def _closure(
    channels: Channels,
    readers: list[str],
    matrices: dict[str, Tensor],
    held: dict[str, list[str]],
    pinned: dict[int, str],
) -> tuple[Tensor, dict[int, str]]:
    """Remove what is not read, then what is no longer read since its readers went."""
    removed = torch.zeros(channels.count + 1, dtype=torch.bool)  # the last: of no channel
    while True:
        why = dict(pinned)
        for name in readers:
            stays = ~removed[channels.sides[Side(name, "out")]]
            read = matrices[name][stays].any(0)
            for j in read.nonzero().flatten().tolist():
                channel = int(channels.sides[Side(name, "in")][j])
                if held[name][j] and channel >= 0:
                    why.setdefault(channel, held[name][j])
        now = torch.ones_like(removed)
        now[[*why, -1]] = False
        if torch.equal(now, removed):
            return removed[:-1], why
        removed = now


def _held(channels: Channels, name: str, arriving: Arriving) -> list[str]:
    """For each input of a layer, why a nonzero weight there has to stay; "" if it need not."""
    layer = _module(channels, name)
    varying = channels.varying.get(name, torch.ones_like(arriving.low, dtype=torch.bool))
    told = []
    for varies, low, high in zip(
        varying.tolist(), arriving.low.tolist(), arriving.high.tolist(), strict=True
    ):
        if varies:
            told.append(f"{name} reads it")
        elif low != high:
            told.append(f"{name} reads it, and it is no single constant there")
        elif low != 0 and not takes_constant(layer):
            told.append(
                f"{name} reads the constant {low:.3g} there, which its zero padding cuts off at "
                "the borders: no bias equals that"
            )
        else:
            told.append("")
    return told


def takes_constant(layer: nn.Module) -> bool:
    """Whether a constant at an input adds the same to every position of the output."""
    if isinstance(layer, _ConvNd):
        padded = layer.padding != "valid" and any(
            p != 0 for p in ([1] if isinstance(layer.padding, str) else layer.padding)
        )
        return not isinstance(layer, _ConvTransposeNd) and (
            not padded or layer.padding_mode != "zeros"
        )
    return True


def tied(channels: Channels) -> dict[int, str]:
    """The channels of layers that share a parameter under two names."""
    owners: dict[int, list[str]] = defaultdict(list)
    for name, layer in channels.graph.model.named_modules(remove_duplicate=False):
        for key, parameter in layer.named_parameters(recurse=False, remove_duplicate=False):
            owners[id(parameter)].append(f"{name}.{key}" if name else key)
    shared = {
        layer: places
        for places in owners.values()
        if len(places) > 1
        for layer in [*places, *(place.rpartition(".")[0] for place in places)]
    }
    return {
        int(channel): f"it belongs to tied weights ({' and '.join(shared[side.layer])})"
        for side, numbers in channels.sides.items()
        if side.layer in shared
        for channel in numbers.tolist()
        if channel >= 0
    }


def _unread(channels: Channels, readers: list[str]) -> dict[int, str]:
    """Channels that no known layer reads, and those of layers that the example did not reach."""
    read: set[int] = set()
    for name in readers:
        read.update(channels.sides[Side(name, "in")].tolist())
    return {c: "no layer is known to read it" for c in range(channels.count) if c not in read}


def _emptied(channels: Channels, removed: Tensor) -> dict[int, str]:
    """One channel for each layer of which nothing would be left."""
    return {
        int(numbers[0]): f"{side.layer} would be left without a channel"
        for side, numbers in channels.sides.items()
        if len(numbers) and bool((numbers >= 0).all()) and bool(removed[numbers].all())
    }


def _unbalanced(channels: Channels, removed: Tensor) -> dict[int, str]:
    """The channels too many in some group of a grouped convolution, whose groups have one size."""
    told: dict[int, str] = {}
    for name, layer in channels.layers.items():
        if not (isinstance(layer, _ConvNd) and is_reader(layer) and layer.groups > 1):
            continue
        ends = [channels.sides[Side(name, end)].reshape(layer.groups, -1) for end in ("in", "out")]
        gone = [removed[numbers] & (numbers >= 0) for numbers in ends]
        alive = ~(gone[0].all(1) & gone[1].all(1))
        for numbers, lost in zip(ends, gone, strict=True):
            most = int(lost[alive].sum(1).min()) if bool(alive.any()) else 0
            for row in alive.nonzero().flatten().tolist():
                for channel in numbers[row][lost[row]][most:].tolist():
                    told[channel] = f"the groups of {name} would differ in size"
    return told


def _module(channels: Channels, name: str) -> nn.Module:
    layer = channels.layers[name]
    assert isinstance(layer, nn.Module)
    return layer
