"""Cut channels out of the layers of a model, in place."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from torchreg.compaction.channels import Channels, Side, with_none
from torchreg.compaction.layers import is_depthwise
from torchreg.compaction.removable import Arriving


def cut(
    model: nn.Module, channels: Channels, removed: Tensor, arriving: dict[str, Arriving]
) -> None:
    """Remove channels from a model, and move the constants they carried into biases.

    Args:
        model: a copy of the one that ``channels`` describes. It is changed.
        channels: its channels.
        removed: one bool per channel.
        arriving: what arrives at each layer's inputs; constant wherever it is still read.
    """
    gone = with_none(removed)
    kept = {side: (~gone[numbers]).nonzero().flatten() for side, numbers in channels.sides.items()}
    dimensions = {
        name: channels.dimension(name)
        for name, layer in channels.layers.items()
        if isinstance(layer, nn.Parameter)
    }
    for name in channels.layers:
        sides = {end: kept.get(Side(name, end)) for end in ("in", "out", "through")}
        if all(k is None or len(k) == len(channels.sides[Side(name, end)])  # type: ignore[arg-type]
               for end, k in sides.items()):  # fmt: skip
            continue
        if name in dimensions:
            owner, _, attribute = name.rpartition(".")
            _keep(model.get_submodule(owner), attribute, dimensions[name], sides["through"])
            continue
        layer = model.get_submodule(name)
        if sides["in"] is not None and name in arriving:
            _fold(layer, sides["in"], sides["out"], arriving[name])
        _cut_layer(layer, **sides)


def _cut_layer(layer: Any, *, through: Tensor | None, **ends: Tensor | None) -> None:
    inputs, outputs = ends["in"], ends["out"]
    if isinstance(layer, nn.Embedding):
        _keep(layer, "weight", 1, outputs)
        layer.embedding_dim = layer.weight.shape[1]
    elif isinstance(layer, nn.Linear):
        _keep(layer, "weight", 1, inputs)
        _keep(layer, "weight", 0, outputs)
        _keep(layer, "bias", 0, outputs)
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, _ConvNd) and is_depthwise(layer):
        for name in ("weight", "bias"):
            _keep(layer, name, 0, through)
        layer.in_channels = layer.out_channels = layer.groups = len(layer.weight)
    elif isinstance(layer, _ConvNd):
        _cut_convolution(layer, inputs, outputs)
    else:
        for name in ("weight", "bias", "running_mean", "running_var"):
            _keep(layer, name, 0, through)
        size = len(through) if through is not None else 0
        if isinstance(layer, _NormBase):
            layer.num_features = size
        else:
            layer.num_parameters = size


def _cut_convolution(layer: Any, inputs: Tensor | None, outputs: Tensor | None) -> None:
    """Cut each group of a convolution by itself; a group without inputs and outputs goes."""
    assert inputs is not None
    assert outputs is not None
    first, second = (outputs, inputs) if not layer.transposed else (inputs, outputs)
    totals = (layer.out_channels, layer.in_channels)
    rows, columns = totals if not layer.transposed else totals[::-1]
    height, width = rows // layer.groups, columns // layer.groups
    blocks = []
    for g in range(layer.groups):
        i = first[first // height == g]
        j = second[second // width == g] - g * width
        if len(i) and len(j):
            blocks.append(layer.weight.detach()[i.to(layer.weight.device)][
                :, j.to(layer.weight.device)])  # fmt: skip
    weight = layer.weight
    layer.weight = nn.Parameter(_laid_out(torch.cat(blocks), weight), weight.requires_grad)
    _keep(layer, "bias", 0, outputs)
    layer.in_channels, layer.out_channels, layer.groups = len(inputs), len(outputs), len(blocks)


def _fold(layer: Any, inputs: Tensor, outputs: Tensor | None, arriving: Arriving) -> None:
    """Move what the removed inputs bring to the kept outputs, always the same, into the bias."""
    lost = torch.ones(len(arriving.low), dtype=torch.bool)
    lost[inputs] = False
    constant = torch.where(lost & (arriving.low == arriving.high), arriving.low, 0.0)
    if isinstance(layer, _ConvTransposeNd) or not bool((constant != 0).any()):
        return
    weight = layer.weight.detach().double().cpu()
    if isinstance(layer, _ConvNd):
        per_group = constant.reshape(layer.groups, 1, -1)
        matrix = weight.flatten(2).sum(2).reshape(layer.groups, -1, per_group.shape[2])
        added = (matrix * per_group).sum(2).flatten()
    else:
        added = weight @ constant
    if not bool((added[outputs] != 0).any()):
        return
    if layer.bias is None:
        layer.bias = nn.Parameter(
            layer.weight.new_zeros(len(added)), requires_grad=layer.weight.requires_grad
        )
    bias = layer.bias.detach()
    folded = (bias.double().cpu() + added).to(bias)
    layer.bias = nn.Parameter(folded, requires_grad=layer.bias.requires_grad)


def _keep(owner: nn.Module, name: str, dimension: int, kept: Tensor | None) -> None:
    """Keep some positions of a parameter or buffer, if there is one."""
    old = getattr(owner, name, None)
    if old is None or kept is None:
        return
    new = _laid_out(old.detach().index_select(dimension, kept.to(old.device)), old)
    setattr(
        owner, name, nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
    )


def _laid_out(new: Tensor, old: Tensor) -> Tensor:
    """A tensor of its own memory, its channels last where those of the other are."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(old.dim())
    plain = last is None or old.is_contiguous() or not old.is_contiguous(memory_format=last)
    return new.clone(memory_format=torch.contiguous_format if plain else last)
