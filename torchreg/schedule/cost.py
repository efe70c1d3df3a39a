"""What a weight costs: how often a forward pass multiplies by it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchreg.slots import walk


@torch.no_grad()
def multiply_adds(model: nn.Module, *inputs: Any) -> dict[str, float]:
    """Count the multiply-adds of a forward pass that each nonzero weight of a layer takes part in.

    One per sample in a linear layer, one per output position in a convolution. Given to
    :class:`torchreg.TargetSparsity` as ``cost`` it turns the density into a budget of FLOPs: the
    share of the multiply-adds that are left once zeros are skipped.

    Args:
        model: run once, in evaluation mode, without gradients.
        inputs: what the model takes; the first dimension of the first one is the batch.

    Raises:
        ValueError: the inputs are no batch.

    Returns:
        By the name of each weight of an ``nn.Linear`` or a convolution that ran: multiply-adds per
        weight and sample. A layer that ran several times counts each, and so does a weight that
        several layers share. The names are those of a selection (:func:`torchreg.select`).

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 26 * 26, 10))
        >>> multiply_adds(model, torch.zeros(2, 1, 28, 28))
        {'0.weight': 676.0, '2.weight': 1.0}
    """
    if not inputs or isinstance(inputs[0], Mapping) or not hasattr(inputs[0], "__len__"):
        raise ValueError(
            "the first input must be a tensor whose first dimension is the batch, found "
            f"{type(inputs[0]).__name__ if inputs else 'none'}."
        )
    if isinstance(inputs[0], Tensor) and not (inputs[0].dim() and len(inputs[0])):
        raise ValueError(f"expected a batch, found a first input {tuple(inputs[0].shape)}.")
    found: dict[str, float] = {}
    model = getattr(model, "_orig_mod", model)  # hooks are not heard inside torch.compile
    names = _names(model)

    def count(module: Any, _: Any, output: Tensor) -> None:
        # Linear: (batch, *, features). Convolution: (batch, channels, *positions).
        features = output.shape[-1] if isinstance(module, nn.Linear) else output.shape[1]
        plain = 2 if isinstance(module, nn.Linear) else module.weight.dim()
        if output.dim() < plain:
            raise ValueError(
                f"{names[module][0]} gave an output shaped {tuple(output.shape)}, without a batch: "
                "give the model a batch, x.unsqueeze(0)."
            )
        uses = output.numel() / features / len(inputs[0])
        for name in names[module]:
            found[name] = found.get(name, 0.0) + uses

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    hooks = [m.register_forward_hook(count) for m in names if isinstance(m, kinds)]
    training = {module: module.training for module in model.modules()}
    try:
        model.eval()(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
        for module, was in training.items():
            module.training = was
    return found


def _names(model: nn.Module) -> dict[nn.Module, list[str]]:
    """What a selection calls the weight of each layer: a tied one by its first name."""
    modules = dict(model.named_modules(remove_duplicate=False))
    first: dict[int, str] = {}
    names: dict[nn.Module, list[str]] = {}
    for slot in walk(model, model):
        name = first.setdefault(id(slot.parameter), slot.name)
        layer, _, role = f".{slot.path}".partition(".parametrizations.")
        layer = layer[1:] if role else slot.path.rpartition(".")[0]
        if slot.role == "weight" and name not in names.setdefault(modules[layer], []):
            names[modules[layer]].append(name)
    return names
