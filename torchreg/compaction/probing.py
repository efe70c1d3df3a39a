"""What one example cannot show: other sizes of the input, and other values of the channels."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from torchreg.compaction.channels import Channels, Side
from torchreg.compaction.layers import is_depthwise, is_reader
from torchreg.compaction.running import Example, copied, tensors

CHANGES = {"one more": 1, "twice": None, "one less": -1}
"""By how much a dimension is changed, until the model takes it."""


def runs(model: nn.Module, example: Example) -> bool:
    """Whether a model runs on an example, and gives finite numbers."""
    try:
        with torch.no_grad():
            outputs = tensors(example(model))
    except Exception:  # the model's own code, on what it does not expect
        return False
    return all(bool(x.isfinite().all()) for x in outputs)


def other_sizes(model: nn.Module, example: Example) -> Iterator[Example]:
    """The example at other sizes, where the model takes them: it is run to find out.

    A sum over positions is no constant, though it is one at each size. Changed are the batch, the
    second dimension (a sequence's), and those that follow (an image's), together or one by one.

    Args:
        model: in evaluation mode.
        example: in its precision.
    """
    most = max(x.dim() for x in example.tensors())
    later = range(2, most)
    for tried in ([[0]], [[1]], [later, *([d] for d in later)]):
        changes = (
            example.map(partial(_resized, example=example, dimensions=d, by=by, square=square))
            for d in tried
            for square in (False, True)  # a mask of a sequence has its length twice
            for by in CHANGES.values()
        )
        taken = (one for one in changes if str(one) != str(example) and runs(model, one))
        yield from islice(taken, 1)


def _resized(
    x: Tensor, *, example: Example, dimensions: Sequence[int], by: int | None, square: bool
) -> Tensor:
    """A tensor changed along those dimensions in which it is as long as the first that has them."""
    for d in dimensions:
        length = next((one.shape[d] for one in example.tensors() if one.dim() > d), 0)
        along = range(1, x.dim()) if square and d > 0 else range(d, min(d + 1, x.dim()))
        for dim in along:
            if x.shape[dim] != length:
                continue
            if by == -1 and length > 1:
                x = x.narrow(dim, 0, length - 1)
            elif by != -1 and length > 0:
                x = torch.cat([x, x.narrow(dim, 0, length if by is None else by)], dim)
    return x


def redrawn(
    model: nn.Module, channels: Channels, removed: Tensor, *, rolled: bool
) -> tuple[nn.Module, nn.Module]:
    """Two copies of a model that differ in nothing but what its removed channels carry.

    No layer that is known to read them does. So their outputs are the same, unless something else
    reads them: a maximum over channels, for example, of which the dependency graph knows nothing.
    Channels that carry a constant stay as they are.

    Args:
        model: the one that ``channels`` describes.
        channels: its channels.
        removed: one bool per channel.
        rolled: put the weights of the next position there, twice as large, instead of noise: what
            is positive by its weights stays so.
    """
    gone = torch.cat([removed, removed.new_zeros(1)])  # the last: of no channel
    drawn = gone & torch.cat([_varying(channels), removed.new_zeros(1)])
    generator = torch.Generator().manual_seed(0)
    plain, changed = copied(model), copied(model)
    for side, numbers in channels.sides.items():
        lost = drawn[numbers].nonzero().flatten().tolist()
        if not lost or side.end == "in":
            continue
        for parts in _carried(changed, channels, side):
            size = max(float(part.abs().max()) if part.numel() else 0.0 for part in parts)
            values = [part.clone() for part in parts]
            for position in lost:
                noise = torch.randn(parts[position].shape, generator=generator, dtype=torch.float64)
                following = 2 * values[(position + 1) % len(values)]
                parts[position].copy_(following if rolled else 3 * (size or 1.0) * noise)
    for one in (plain, changed):  # also in what makes another removed channel: nothing explodes
        for side, numbers in channels.sides.items():
            if side.end == "in":
                for position in gone[numbers].nonzero().flatten().tolist():
                    _column(one.get_submodule(side.layer), position).zero_()
    return plain, changed


def shifted(model: nn.Module, channels: Channels, removed: Tensor, *, up: bool) -> nn.Module:
    """A copy of a model in which the channels beside removed constants carry far other values.

    A constant may go unnoticed where the others happen to be on one side of it.

    Args:
        model: the one that ``channels`` describes.
        channels: its channels.
        removed: one bool per channel.
        up: whether the others are shifted up or down.
    """
    gone = torch.cat([removed, removed.new_zeros(1)])
    constant = gone & ~torch.cat([_varying(channels), removed.new_zeros(1)])
    changed = copied(model)
    for side, numbers in channels.sides.items():
        layer = changed if side.end == "in" else _module(changed, channels, side)
        bias = getattr(layer, "bias", None)
        if side.end == "in" or not isinstance(bias, Tensor) or not bool(constant[numbers].any()):
            continue
        weight: Any = getattr(layer, "weight", None)
        reach = float(weight.abs().max()) * weight[0].numel() ** 0.5 if weight is not None else 1.0
        far = 10 * (float(bias.abs().max()) + reach) * (1 if up else -1)
        bias.data += torch.where(gone[numbers], 0.0, far).to(bias)
    return changed


def _varying(channels: Channels) -> Tensor:
    """Whether each channel depends on the input of the model, where any layer reads it."""
    found = torch.zeros(channels.count, dtype=torch.bool)
    for name, flags in channels.varying.items():
        numbers = channels.sides[Side(name, "in")]
        varies = flags if len(flags) == len(numbers) else torch.ones_like(numbers, dtype=torch.bool)
        found[numbers[(numbers >= 0) & varies]] = True
    return found


def _module(model: nn.Module, channels: Channels, side: Side) -> nn.Module | None:
    holds = channels.layers[side.layer]
    return None if isinstance(holds, nn.Parameter) else model.get_submodule(side.layer)


def _carried(model: nn.Module, channels: Channels, side: Side) -> Iterator[list[Tensor]]:
    """Views of the weights and biases that make what each position carries, kind by kind."""
    positions = range(len(channels.sides[side]))
    layer: Any = _module(model, channels, side)
    if layer is None:
        parameter = model.get_parameter(side.layer).data
        yield list(parameter.unbind(channels.dimension(side.layer)))
        return
    if isinstance(layer, nn.Embedding):
        yield list(layer.weight.data.unbind(1))
    elif isinstance(layer, _ConvTransposeNd) and not is_depthwise(layer):
        width, height = layer.out_channels // layer.groups, layer.in_channels // layer.groups
        groups = layer.weight.data.split(height)
        yield [groups[position // width][:, position % width] for position in positions]
    elif layer.weight is not None:
        yield list(layer.weight.data.unbind(0))
    if isinstance(getattr(layer, "bias", None), Tensor):
        yield list(layer.bias.data.unbind(0))


def _column(layer: Any, position: int) -> Tensor:
    """A view of the weights by which a layer reads one of its inputs."""
    assert is_reader(layer)
    weight: Tensor = layer.weight.data
    if isinstance(layer, _ConvTransposeNd):
        return weight[position]
    groups = layer.groups if isinstance(layer, _ConvNd) else 1
    width, height = weight.shape[1], weight.shape[0] // groups
    group = position // width
    return weight[group * height : (group + 1) * height, position % width]
