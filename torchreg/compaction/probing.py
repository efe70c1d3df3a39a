"""What one example cannot show: other sizes of the input, and other values of what is removed."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from torchreg.compaction.channels import Channels, Side
from torchreg.compaction.layers import is_depthwise, is_reader
from torchreg.compaction.running import Example, copied, tensors


def other_sizes(model: nn.Module, example: Example) -> Iterator[Example]:
    """The example at other sizes: as many as the model takes, which it is run to find out.

    A sum over positions is no constant, though it is one at each size. Changed are the batch, the
    second dimension (a sequence's), and all that follow together (an image's); by one, and where
    the model does not take that, to twice the size.

    Args:
        model: in evaluation mode.
        example: in its precision.
    """
    most = max(x.dim() for x in example.tensors())
    for dimensions in ([0], [1], range(2, most)):
        for times in (1, 2):
            changed = example.map(
                partial(_longer, example=example, dimensions=dimensions, times=times)
            )
            if str(changed) != str(example) and _runs(model, changed):
                yield changed
                break


def _longer(x: Tensor, *, example: Example, dimensions: Sequence[int], times: int) -> Tensor:
    """More of a tensor along those dimensions in which it is as long as the first that has them."""
    for d in dimensions:
        first = next((one.shape[d] for one in example.tensors() if one.dim() > d), 0)
        if x.dim() > d and x.shape[d] == first > 1:
            x = torch.cat([x, x.narrow(d, 0, 1 if times == 1 else first)], d)
    return x


def _runs(model: nn.Module, example: Example) -> bool:
    try:
        with torch.no_grad():
            outputs = tensors(example(model))
    except Exception:  # the model's own code, at a size that it does not expect
        return False
    return all(bool(x.isfinite().all()) for x in outputs)


def unread(model: nn.Module, channels: Channels, removed: Tensor) -> tuple[nn.Module, nn.Module]:
    """Two copies of a model that differ in nothing but what its removed channels carry.

    No layer that is known to read them does. So their outputs are the same, unless something else
    reads them: a maximum over channels, for example, of which the dependency graph knows nothing.

    Args:
        model: the one that ``channels`` describes.
        channels: its channels.
        removed: one bool per channel.
    """
    gone = torch.cat([removed, removed.new_zeros(1)])  # the last: of no channel
    generator = torch.Generator().manual_seed(0)
    plain, changed = copied(model), copied(model)
    for side, numbers in channels.sides.items():
        lost = gone[numbers].nonzero().flatten().tolist()
        if lost and side.end != "in":
            for part in _carried(changed, channels, side, lost):
                size = max(1.0, float(part.abs().max())) if part.numel() else 1.0
                drawn = torch.randn(part.shape, generator=generator, dtype=torch.float64)
                part.copy_(3 * size * drawn)
    for one in (plain, changed):  # also in what makes another removed channel: nothing explodes
        for side, numbers in channels.sides.items():
            if side.end == "in":
                for position in gone[numbers].nonzero().flatten().tolist():
                    _column(one.get_submodule(side.layer), position).zero_()
    return plain, changed


def _carried(model: nn.Module, channels: Channels, side: Side, lost: list[int]) -> Iterator[Tensor]:
    """Views of the weights, scales and biases that make what these positions carry."""
    if isinstance(channels.layers[side.layer], nn.Parameter):
        parameter = model.get_parameter(side.layer).data
        dimension = channels.dimension(side.layer)
        yield from (parameter.select(dimension, position) for position in lost)
        return
    layer: Any = model.get_submodule(side.layer)
    bias: Tensor | None = getattr(layer, "bias", None)
    for position in lost:
        if isinstance(layer, nn.Embedding):
            yield layer.weight.data[:, position]
        elif isinstance(layer, _ConvTransposeNd) and not is_depthwise(layer):
            width, height = layer.out_channels // layer.groups, layer.in_channels // layer.groups
            group = position // width
            yield layer.weight.data[group * height : (group + 1) * height, position % width]
        elif layer.weight is not None:
            yield layer.weight.data[position]
        if bias is not None:
            yield bias.data[position]


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
