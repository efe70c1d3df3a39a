"""Scattered zeros: linear layers that store only their nonzero weights, where that is faster."""

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from torchreg.compaction.running import Example, check_model, copied, run_once
from torchreg.compaction.timing import check_seconds, in_turns


class CSRLinear(nn.Module):
    """A linear layer for inference whose weight is a sparse CSR matrix.

    Args:
        layer: the dense layer; its nonzero weights are copied.

    Raises:
        TypeError: another layer than ``nn.Linear``; on a CPU, another precision than float32 and
            float64.

    Example:
        >>> layer = nn.Linear(4, 3)
        >>> _ = nn.init.eye_(layer.weight)
        >>> sparse = CSRLinear(layer)
        >>> sparse
        CSRLinear(in_features=4, out_features=3, nonzero=3 of 12)
        >>> x = torch.randn(2, 4)
        >>> torch.allclose(sparse(x), layer(x))
        True
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        if not isinstance(layer, nn.Linear):
            raise TypeError(
                f"expected a torch.nn.Linear, found {type(layer).__name__}: of a convolution "
                "nothing is stored sparse; compact removes its channels."
            )
        if layer.weight.device.type == "cpu" and layer.weight.dtype not in (
            torch.float32,
            torch.float64,
        ):
            raise TypeError(
                f"the weight is held in {layer.weight.dtype}, for which torch has no sparse "
                "product on a CPU: call .float() on the model first."
            )
        self.in_features, self.out_features = layer.in_features, layer.out_features
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            weight = layer.weight.detach().to_sparse_csr()
        bias = layer.bias
        self.register_buffer("weight", weight)
        self.register_buffer(
            "bias", layer.weight.new_zeros(self.out_features) if bias is None else bias.detach()
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy; torch has none of a sparse tensor."""
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        own = {k: v for k, v in vars(self).items() if k != "_buffers"}
        vars(made).update(copy.deepcopy(own, memo))
        made._buffers = {"weight": self.weight.clone(), "bias": self.bias.clone()}
        return made

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features); under autocast in the weight's type."""
        flat = x.reshape(x.shape[:-1].numel(), self.in_features)
        if torch.is_autocast_enabled(x.device.type):
            flat = flat.to(self.weight.dtype)
        with torch.autocast(x.device.type, enabled=False):  # it has no sparse product
            out = torch.addmm(self.bias.unsqueeze(1), self.weight, flat.T).T
        return out.reshape(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Show the sizes and how many weights are left."""
        size = self.in_features * self.out_features
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"nonzero={self.weight.values().numel():,} of {size:,}"
        )


class Measured(NamedTuple):
    """One linear layer: its share of nonzero weights, and the seconds of a call either way."""

    density: float
    dense: float
    sparse: float


def to_csr(
    model: nn.Module, example: Any, *, seconds: float = 0.1
) -> tuple[nn.Module, dict[str, Measured]]:
    """Store linear layers as sparse CSR matrices where that is faster, measured here and now.

    For zeros that are scattered, which :func:`compact` cannot remove. Every linear layer inside the
    model that the example passes through (but those of ``nn.TransformerEncoderLayer``, whose fused
    kernel takes dense weights alone) is timed on what it gets there, dense and sparse, and replaced
    if the sparse one is faster; so pass an example of the batch size that will be used. On one core
    of a server it pays below a fifth of nonzero weights at batch 128, with 512 to 2,048 units; at
    batch 1 below a seventh with 2,048, below a twentieth with 1,024, and not with 512. The result
    is for inference on this kind of machine: its layers cannot be trained, and its outputs differ
    by rounding.

    Args:
        model: in evaluation mode. It is left untouched.
        example: an input as the model takes it.
        seconds: how long each layer is timed, either way.

    Returns:
        A copy with the faster layers, and what was measured, by the name of each layer.

    Raises:
        TypeError, ValueError: as :func:`compact`; on a CPU, another precision than float32 and
            float64; seconds that are not above 0 and finite.
    """
    check_model(model)
    check_seconds(seconds)
    small = copied(model)
    inputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            inputs.setdefault(name, args[0].detach())

        return hook

    fused = {  # in inference it hands these weights to a kernel that takes dense ones
        linear
        for m in small.modules()
        if isinstance(m, nn.TransformerEncoderLayer)
        for linear in (m.linear1, m.linear2)
    }
    layers = {
        name: m
        for name, m in small.named_modules()
        if type(m) is nn.Linear and name and m not in fused
    }
    hooks = [layer.register_forward_pre_hook(keep(name)) for name, layer in layers.items()]
    run_once(small, Example(example))
    for hook in hooks:
        hook.remove()
    measured: dict[str, Measured] = {}
    for name, x in inputs.items():
        dense, sparse = layers[name], CSRLinear(layers[name]).eval()
        density = sparse.weight.values().numel() / max(1, dense.weight.numel())
        with torch.no_grad():
            calls = [partial(dense, x), partial(sparse, x)]
            for call in calls:
                call()
            # The shortest: what else the machine does only makes a call longer.
            measured[name] = Measured(density, *map(min, in_turns(calls, seconds, waiting=[x])))
        if measured[name].sparse < measured[name].dense:
            small.set_submodule(name, sparse)
    return small, measured
