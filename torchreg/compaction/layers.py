"""Which layers hold channels, and what a layer reads."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

Layer = nn.Module | nn.Parameter


def is_reader(layer: Layer) -> bool:
    """Whether a layer mixes its inputs by a weight that can be cut: linear and convolution."""
    return isinstance(layer, nn.Linear | _ConvNd) and not is_depthwise(layer)


def is_depthwise(layer: Layer) -> bool:
    """Whether a layer is a convolution of each channel by itself."""
    return (
        isinstance(layer, _ConvNd) and 1 < layer.groups == layer.out_channels == layer.in_channels
    )


def is_through(layer: Layer) -> bool:
    """Whether a layer or parameter keeps channels apart, one position for each."""
    if isinstance(layer, nn.PReLU):
        return layer.num_parameters > 1
    return isinstance(layer, _NormBase | nn.Parameter) or is_depthwise(layer)


def is_table(layer: Layer) -> bool:
    """Whether a layer is an embedding whose columns do not depend on each other."""
    return isinstance(layer, nn.Embedding) and layer.max_norm is None


def reads(layer: nn.Module) -> Tensor:
    """Which outputs of a linear or convolution layer read which inputs: bool, (outputs, inputs)."""
    weight: Any = layer.weight
    nonzero: Tensor = (weight.detach() != 0).reshape(*weight.shape[:2], -1).any(2).cpu()
    if not isinstance(layer, _ConvNd):
        return nonzero
    blocks = [b.T if layer.transposed else b for b in nonzero.chunk(layer.groups)]
    joined: Tensor = torch.block_diag(*blocks)
    return joined > 0


def column(layer: nn.Module, position: int) -> Tensor:
    """A view of the weights by which a linear or convolution layer reads one of its inputs."""
    held: Any = layer
    weight: Tensor = held.weight.data
    if isinstance(layer, _ConvTransposeNd):
        return weight[position]
    groups = held.groups if isinstance(layer, _ConvNd) else 1
    width, height = weight.shape[1], weight.shape[0] // groups
    group = position // width
    return weight[group * height : (group + 1) * height, position % width]
