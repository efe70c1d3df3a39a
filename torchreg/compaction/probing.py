"""What one example cannot show: other sizes of the input, and other values of the channels."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from torchreg.compaction.channels import Channels, Side, with_none
from torchreg.compaction.layers import column, is_depthwise
from torchreg.compaction.running import Example, copied, tensors

LENGTHS = (lambda n: n + 1, lambda n: 2 * n, lambda n: n - 1)
"""To what a dimension is changed, until the model takes it."""


def outcome(model: nn.Module, example: Example) -> Any:
    """What a model returns; None where it does not run, or gives numbers that are not finite."""
    try:
        with torch.no_grad():
            returned = example(model)
    except Exception:  # the model's own code, on what it does not expect
        return None
    return returned if all(bool(x.isfinite().all()) for x in tensors(returned)) else None


def other_sizes(model: nn.Module, example: Example) -> Iterator[Example]:
    """The example at other sizes, where the model takes them: it is run to find out.

    A sum over positions is no constant, though it is one at each size. Changed are the batch, the
    second dimension (a sequence's), and those that follow (an image's), together or one by one.

    Args:
        model: in evaluation mode.
        example: in its precision.
    """
    later = range(2, max(x.dim() for x in example.tensors()))
    for tried in ([[0]], [[1]], [later, *([d] for d in later)]):
        changes = [
            _resized(example, d, length, square=square)
            for d in tried
            for square in (False, True)  # a mask of a sequence has its length twice
            for length in LENGTHS
        ]
        changed = {str(one): one for one in changes}
        changed.pop(str(example), None)
        taken = (one for one in changed.values() if outcome(model, one) is not None)
        yield from islice(taken, 1)


def _resized(
    example: Example, dimensions: Sequence[int], length: Callable[[int], int], *, square: bool
) -> Example:
    """An example changed along dimensions where a tensor is as long as the first that has them."""

    def change(x: Tensor) -> Tensor:
        for d in dimensions:
            old = next((one.shape[d] for one in example.tensors() if one.dim() > d), 0)
            new = max(length(old), min(old, 1))
            for dim in range(1, x.dim()) if square and d > 0 else range(d, min(d + 1, x.dim())):
                if x.shape[dim] == old > 0:
                    x = x.index_select(dim, torch.arange(new, device=x.device) % old)
        return x

    return example.map(change)


def silence(model: nn.Module, channels: Channels, removed: Tensor) -> None:
    """Let no layer that is known to read removed channels read them. The model is changed."""
    gone = with_none(removed)
    for side, numbers in channels.sides.items():
        if side.end == "in":
            for position in gone[numbers].nonzero().flatten().tolist():
                column(model.get_submodule(side.layer), position).zero_()


def redrawn(silent: nn.Module, channels: Channels, removed: Tensor, *, rolled: bool) -> nn.Module:
    """A copy of a silenced model that differs in nothing but what its removed channels carry.

    So its outputs are the same, unless something else reads them: a maximum over channels, for
    example, of which the dependency graph knows nothing. Constants stay as they are.

    Args:
        silent: the model after :func:`silence`.
        channels: of the model.
        removed: one bool per channel.
        rolled: put the weights of the next position there, twice as large, instead of noise: what
            is positive by its weights stays so.
    """
    drawn = with_none(removed & _varying(channels))
    generator = torch.Generator().manual_seed(0)
    changed = copied(silent)
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
    # Also in what makes another removed channel: nothing explodes from layer to layer.
    silence(changed, channels, removed)
    return changed


def shifted(model: nn.Module, channels: Channels, removed: Tensor, *, up: bool) -> nn.Module:
    """A copy of a model in which the channels beside removed constants carry far other values.

    A constant may go unnoticed where the others happen to be on one side of it.

    Args:
        model: the one that ``channels`` describes.
        channels: its channels.
        removed: one bool per channel.
        up: whether the others are shifted up or down.
    """
    gone, constant = with_none(removed), with_none(removed & ~_varying(channels))
    changed = copied(model)
    for side, numbers in channels.sides.items():
        if side.end == "in" or not bool(constant[numbers].any()):
            continue
        layer = _module(changed, channels, side)
        bias, weight = getattr(layer, "bias", None), getattr(layer, "weight", None)
        if not isinstance(bias, Tensor):
            continue
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
