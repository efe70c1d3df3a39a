"""Groups whose zeros can be removed: what to give to a regularizer before training."""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from torchreg.compaction.channels import Channels, Side
from torchreg.compaction.compacting import Trial
from torchreg.compaction.layers import column, is_reader
from torchreg.compaction.removable import tied
from torchreg.compaction.running import Example, check_model, differentiable, run_seen
from torchreg.groups import Grouping, columns, filters, input_channels, joint


@dataclass(frozen=True)
class FlattenedChannels:
    """The columns of a linear layer that read one channel, which was flattened before it.

    Args:
        positions: how many columns each channel has, height times width.

    Example:
        >>> FlattenedChannels(4)(torch.zeros(10, 12)).shape  # 3 channels of 2 x 2 positions
        torch.Size([3, 40])
    """

    positions: int

    def __call__(self, weight: Tensor) -> Tensor:
        """Rearrange (outputs, channels * positions) as (channels, outputs * positions)."""
        split: Tensor = weight.unflatten(1, (-1, self.positions))
        return split.transpose(0, 1).flatten(1)


@overload
def removable_groups(
    model: nn.Module, example: Any, *, shared: Literal[False] = False
) -> dict[str, Grouping]: ...
@overload
def removable_groups(
    model: nn.Module, example: Any, *, shared: bool
) -> dict[str | tuple[str, ...], Grouping]: ...
def removable_groups(
    model: nn.Module, example: Any, *, shared: bool = False
) -> Mapping[Any, Grouping]:
    """Find the weights whose groups, once zero, let :func:`compact` remove a channel.

    The groups are what a layer reads from one channel: a zero group there means that nothing
    reads the channel, so the filter that makes it goes, with its bias and BatchNorm, whatever
    their values. (A zero *filter* is not enough: its BatchNorm still makes a constant of it.)

    By default the weights named are those of layers that are the only reader of each of their
    channels: all layers but the first of LeNet and VGG, the second layer of a residual block, of
    a transformer's MLP and of a dense layer's bottleneck. ``shared=True`` names those too that
    read the same channels together, by the tuple of their names: residual streams, and what a
    squeeze-and-excitation block reads as well. Their groups are joint (:func:`torchreg.joint`):
    a channel goes when all that is read from it is zero, and one penalty makes it so.

    Left out are layers whose readers differ from channel to channel (dense blocks, the
    concatenations of a U-Net), layers that read inputs of the model, the output of a layer that
    mixes channels (LayerNorm, attention), tied weights, grouped convolutions and what reads them,
    and layers behind code that needs its sizes or mixes channels itself (a view into heads,
    softmax, a channels-last flatten): two channels of each are cut on trial, and where one stays,
    or the model then fails or computes something else, it is not named.

    Args:
        model: any model that :func:`compact` takes; training mode is no fault here.
        example: an input as the model takes it.
        shared: include layers that read the same channels, with joint groups.

    Returns:
        A grouping for each weight, by the name that a Regularizer selects, or by the names of
        joint groups; empty if none fits.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`compact`.

    Example:
        >>> import torchreg as tr
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
        ...                       nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> groups = tr.removable_groups(model, torch.randn(2, 1, 4, 4))
        >>> {name: tuple(group(model.get_parameter(name)).shape) for name, group in groups.items()}
        {'4.weight': (4, 32), '6.weight': (8, 2)}
        >>> regularizer = tr.Regularizer(
        ...     model, {name: tr.GroupLasso(1e-3, groups=group) for name, group in groups.items()}
        ... )
    """
    check_model(model, training=True)
    call = Example(example)
    exact = differentiable(model).eval()
    run_seen(exact, call.double())
    channels = Channels.of(exact, call.double())
    stuck = {*channels.blocked, *tied(channels), -1}
    readers = {
        name: channels.sides[Side(name, "in")].tolist()
        for name, layer in exact.named_modules()
        if is_reader(layer) and name in channels.layers
    }
    found: dict[tuple[str, ...], Grouping] = {}
    for together in _readers_of_the_same(readers):
        groupings = {name: _grouping(channels.layers[name], readers[name]) for name in together}
        stays = any(stuck.intersection(readers[name]) for name in together)
        if stays or not all(groupings.values()) or (len(together) > 1 and not shared):
            continue
        weights = {_weight(name): grouping for name, grouping in groupings.items() if grouping}
        one = next(iter(weights.values()))
        found[tuple(together)] = one if len(weights) == 1 else joint(exact, weights)
    for share in (0.5, 1.0):  # the last channel alone tells nothing of a sum along the channels
        for uncut in _uncut(exact, call.double(), readers, list(found), share):
            del found[uncut]
    return {
        _weight(together[0]) if len(together) == 1 else tuple(map(_weight, together)): grouping
        for together, grouping in found.items()
    }


def _weight(layer: str) -> str:
    return f"{layer}.weight" if layer else "weight"


def _readers_of_the_same(readers: dict[str, list[int]]) -> list[list[str]]:
    """The layers that read the same channels in the same order, and no others read any of them."""
    sets: dict[tuple[int, ...], list[str]] = defaultdict(list)
    reading: dict[int, set[str]] = defaultdict(set)
    for name, numbers in readers.items():
        sets[tuple(dict.fromkeys(numbers))].append(name)
        for channel in numbers:
            reading[channel].add(name)
    return [
        together
        for channels, together in sets.items()
        if all(reading[channel] == set(together) for channel in channels)
    ]


def _uncut(
    exact: nn.Module,
    call: Example,
    readers: dict[str, list[int]],
    named: list[tuple[str, ...]],
    share: float,
) -> list[tuple[str, ...]]:
    """The layers of which a channel cannot be cut after all, though nothing reads it."""
    # Not the first one, which is kept of a layer that is all zero; an only channel stays.
    chosen = {
        together: readers[together[0]][math.ceil(share * (len(readers[together[0]]) - 1))]
        for together in named
        if len(set(readers[together[0]])) > 1
    }
    if not chosen:
        return []
    unread = set(chosen.values())
    for name, numbers in readers.items():
        for position, number in enumerate(numbers):
            if number in unread:
                column(exact.get_submodule(name), position).zero_()
    trial = Trial(exact, call)
    plan = trial.plan({})
    faulty = trial.faulty(plan) if trial.fault(plan) else {}
    stays = {*(~plan.removed).nonzero().flatten().tolist(), *faulty}
    sides = trial.channels.sides
    return [
        together
        for together, number in chosen.items()
        if int(sides[Side(together[0], "in")][readers[together[0]].index(number)]) in stays
    ]


def _grouping(layer: object, numbers: list[int]) -> Grouping | None:
    """How the weight of a layer is grouped by channel; None if its groups are no equal blocks."""
    distinct = len(set(numbers))
    if isinstance(layer, _ConvNd):
        if layer.groups > 1 or distinct < len(numbers):
            return None
        return filters if isinstance(layer, _ConvTransposeNd) else input_channels
    positions = len(numbers) // distinct
    first = torch.tensor(numbers[::positions])
    if first.repeat_interleave(positions).tolist() != numbers or len(first.unique()) < len(first):
        return None
    return columns if positions == 1 else FlattenedChannels(positions)
