"""What the compaction tests share: planted zeros, and the comparison of both models."""

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

import torchreg as tr


def alive(model: nn.Module) -> nn.Module:
    """Statistics and shifts as training leaves them: nothing is 0 or 1 by default."""
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                assert layer.running_mean is not None
                assert layer.running_var is not None
                layer.running_mean.normal_()
                layer.running_var.uniform_(0.5, 2)
                layer.weight.uniform_(0.5, 1.5)
                layer.bias.normal_()
            elif isinstance(layer, nn.Linear) and not layer.weight.any():
                layer.weight.normal_()  # torchvision starts the head of a transformer at zero
    return model.eval()


def zero(tensor: Any, index: Any) -> None:
    with torch.no_grad():
        tensor[index] = 0


def zero_inputs(model: nn.Module, share: float = 1 / 3) -> nn.Module:
    """The first third of what each layer reads, but of images."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and layer.weight.shape[1] > 3:
            zero(layer.weight, (slice(None), slice(int(layer.weight.shape[1] * share))))
    return model


@contextmanager
def untouched(*given: nn.Module | Tensor) -> Iterator[None]:
    """Hold models and examples to what they were: values bit for bit and in place, flags, modes,
    hooks; and torch's generator with them."""
    before = [_all_of(one) for one in given]
    copies = [[t.clone() for t in _tensors(one)] for one in given]
    generator = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), generator)
    for one, told, values in zip(given, before, copies, strict=True):
        assert _all_of(one) == told
        assert all(map(torch.equal, _tensors(one), values))


def _tensors(one: nn.Module | Tensor) -> list[Tensor]:
    return [one] if isinstance(one, Tensor) else [*one.parameters(), *one.buffers()]


def _all_of(one: nn.Module | Tensor) -> Any:
    flags = [(t.data_ptr(), t.shape, t.requires_grad, t.grad is None) for t in _tensors(one)]
    if isinstance(one, Tensor):
        return flags
    return flags, [(name, m.training, hooks(m)) for name, m in one.named_modules()]


def hooks(module: nn.Module) -> int:
    """How many hooks a module has, of every kind."""
    return sum(len(kind) for name, kind in vars(module).items() if name.endswith("_hooks"))


def multiply_adds(model: nn.Module, x: Tensor) -> int:
    """Of linear layers and convolutions, from the shapes of their weights and outputs."""
    counted = 0

    def count(layer: Any, args: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal counted
        last = args[0] if getattr(layer, "transposed", False) else out
        counted += last.numel() * layer.weight[0].numel()

    model = copy.deepcopy(model)
    for layer in model.modules():
        if isinstance(layer, nn.Linear | _ConvNd):
            layer.register_forward_hook(count)
    with torch.no_grad():
        model(x)
    return counted


def compacted(model: nn.Module, example: Tensor, inputs: Iterable[Tensor]) -> tuple[Any, Any]:
    """Compact, and compare on inputs that the compaction has not seen, in both precisions."""
    with untouched(model, example):
        small, report = tr.compact(model, example)
    assert not any(m.training or hooks(m) for m in small.modules())
    assert {t.data_ptr() for t in _tensors(small)}.isdisjoint(t.data_ptr() for t in _tensors(model))
    wide, narrow = copy.deepcopy(model).double(), copy.deepcopy(small).double()
    with torch.no_grad():
        for x in inputs:
            exact = wide(x.double())
            # Of a deep network float32 itself is off by more than 1e-5: no more than that twice.
            own = float((model(x) - exact).abs().max())
            torch.testing.assert_close(small(x), model(x), rtol=1e-5, atol=max(1e-5, 2 * own))
            # A constant that was moved into a bias is rounded as the bias is.
            torch.testing.assert_close(narrow(x.double()), exact, rtol=1e-6, atol=1e-6)
        first, other = model(example), small(example)
    apart = float((first - other).abs().max() / first.abs().max())
    assert report.difference[0] == pytest.approx(apart, rel=1e-3, abs=1e-12)
    assert report.difference[1] <= 1e-9
    # The report's numbers, counted again.
    both = (model, small)
    assert report.parameters == tuple(sum(p.numel() for p in m.parameters()) for m in both)
    if not any(isinstance(m, nn.MultiheadAttention) for m in model.modules()):
        assert report.multiply_adds == tuple(multiply_adds(m, example) for m in both)
    for name, change in report.layers.items():
        assert change == tuple(_width(m.get_submodule(name)) for m in both), name
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Linear | _ConvNd)]
    assert set(layers) <= set(report.layers) | _inside_attention(model)
    # Every layer with zeros that are left is told, and of the zeros no more than there are: a
    # constant that is moved into a bias can leave new ones.
    told = {(stay.layer, stay.zeros): 0 for stay in report.stays}
    for stay in report.stays:
        told[stay.layer, stay.zeros] += stay.count
    for name, layer in small.named_modules():
        if isinstance(layer, nn.Linear | _ConvNd) and layer.weight.numel():
            first, second = (0, 1) if not getattr(layer, "transposed", False) else (1, 0)
            groups = getattr(layer, "groups", 1)
            rows = int((layer.weight == 0).movedim(first, 0).flatten(1).all(1).sum())
            assert groups > 1 or told.get((name, "filters"), 0) <= rows, name
            columns = int((layer.weight == 0).movedim(second, 0).flatten(1).all(1).sum())
            assert groups > 1 or told.get((name, "input channels"), 0) <= columns, name
            assert not (rows or columns) or name in {layer for layer, _ in told}, name
    return small, report


def _width(layer: Any) -> int:
    kinds = ("out_features", "out_channels", "embedding_dim")
    return next(int(getattr(layer, kind)) for kind in kinds if hasattr(layer, kind))


def _inside_attention(model: nn.Module) -> set[str]:
    return {
        f"{name}.out_proj" for name, m in model.named_modules()
        if isinstance(m, nn.MultiheadAttention)
    }  # fmt: skip


def images(*shape: int) -> list[Tensor]:
    return [torch.randn(*shape) for _ in range(2)]


def transformer() -> nn.Module:
    model: nn.Module = torchvision.models.VisionTransformer(
        image_size=16, patch_size=8, num_layers=2, num_heads=2, hidden_dim=12, mlp_dim=24,
        num_classes=5,
    )  # fmt: skip
    return model
