"""Groups whose zeros can be removed: what to give to a regularizer before training."""

import copy
import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from torchreg.compaction.channels import Channels, Side
from torchreg.compaction.compacting import Trial
from torchreg.compaction.layers import is_reader
from torchreg.compaction.removable import tied
from torchreg.compaction.running import Example, check_model, run_seen
from torchreg.groups import Grouping, columns, filters, input_channels


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


def removable_groups(
    model: nn.Module, example: Any, *, shared: bool = False
) -> dict[str, Grouping]:
    """Find the weights whose groups, once zero, let :func:`compact` remove a channel.

    The groups are what a layer reads from one channel: a zero group there means that nothing
    reads the channel, so the filter that makes it goes, with its bias and BatchNorm, whatever
    their values. (A zero *filter* is not enough: its BatchNorm still makes a constant of it.)

    By default the weights named are those of layers that are the only reader of each of their
    channels: all layers but the first of LeNet and VGG, the second layer of a residual block, of
    a transformer's MLP and of a dense layer's bottleneck. In residual streams and dense blocks
    several layers read a channel, and it goes when all of their groups happen to be zero.
    ``shared=True`` names these weights too; no penalty here acts on groups across tensors, so
    such zeros alone do not promise a smaller model. Left out are layers that read inputs of the
    model, the output of a layer that mixes channels (LayerNorm, attention), tied weights,
    grouped convolutions and what reads them, and layers behind code that needs its sizes or
    mixes channels itself (a view into heads, softmax, a channels-last flatten): two channels of
    each layer are cut on trial, and where one stays, or the model then fails or computes
    something else, its weight is not named.

    Args:
        model: any model that :func:`compact` takes; training mode is no fault here.
        example: an input as the model takes it.
        shared: include weights of layers that share their channels with others.

    Returns:
        A grouping for each weight, by the name that a Regularizer selects; empty if none fits.

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
    exact = copy.deepcopy(model).eval().double().requires_grad_()
    run_seen(exact, call.double())
    channels = Channels.of(exact, call.double())
    stuck = {*channels.blocked, *tied(channels), -1}
    readers = {
        name: channels.sides[Side(name, "in")].tolist()
        for name, layer in exact.named_modules()
        if is_reader(layer) and name in channels.layers
    }
    reading: dict[int, set[str]] = defaultdict(set)
    for name, numbers in readers.items():
        for channel in numbers:
            reading[channel].add(name)
    found: dict[str, Grouping] = {}
    named: list[str] = []
    for name, numbers in readers.items():
        alone = all(reading[channel] == {name} for channel in numbers)
        grouping = _grouping(channels.layers[name], numbers)
        if grouping and not stuck.intersection(numbers) and (alone or shared):
            found[f"{name}.weight" if name else "weight"] = grouping
            named.append(name)
    for share in (0.5, 1.0):  # the last channel alone tells nothing of a sum along the channels
        for name in _uncut(exact, call.double(), readers, named, share):
            del found[f"{name}.weight" if name else "weight"]
            named.remove(name)
    return found


def _uncut(
    exact: nn.Module,
    call: Example,
    readers: dict[str, list[int]],
    named: list[str],
    share: float,
) -> list[str]:
    """The layers of which a channel cannot be cut after all, though nothing reads it."""
    # Not the first one, which is kept of a layer that is all zero; an only channel stays.
    chosen = {
        name: readers[name][math.ceil(share * (len(readers[name]) - 1))]
        for name in named
        if len(set(readers[name])) > 1
    }
    if not chosen:
        return []
    for name, numbers in readers.items():
        layer: Any = exact.get_submodule(name)
        dimension = 0 if isinstance(layer, _ConvTransposeNd) else 1
        width = layer.weight.shape[dimension]  # of one group of a convolution
        lost = [j % width for j, number in enumerate(numbers) if number in set(chosen.values())]
        at = torch.tensor(lost, dtype=torch.long, device=layer.weight.device)
        layer.weight.data.index_fill_(dimension, at, 0.0)
    trial = Trial(exact, call)
    plan = trial.plan({})
    faulty = trial.faulty(plan) if trial.fault(plan) else {}
    stays = {*(~plan.removed).nonzero().flatten().tolist(), *faulty}
    sides = trial.channels.sides
    return [
        name
        for name, number in chosen.items()
        if int(sides[Side(name, "in")][readers[name].index(number)]) in stays
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
