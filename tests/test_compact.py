"""Whole networks: the same outputs, planted zeros gone, everything that stays told."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

import torchreg as tr
from experiments import models
from tests.compaction import alive, compacted, images, transformer, zero, zero_inputs

OURS: list[tuple[Callable[[], nn.Module], tuple[int, ...], float]] = [
    (models.LeNet300_100, (2, 1, 28, 28), 0.9),
    (models.LeNet5Caffe, (2, 1, 28, 28), 0.5),
    (models.small_vgg, (2, 3, 32, 32), 0.5),
    (lambda: models.ResNet([8, 16], 2, 10, projected=True), (2, 3, 16, 16), 0.7),
    (lambda: models.ResNet([8, 16], 2, 10, projected=False), (2, 3, 16, 16), 0.8),
]


@pytest.mark.parametrize(("make", "shape", "kept"), OURS)
def test_networks_of_the_experiments(
    make: Callable[[], nn.Module], shape: tuple[int, ...], kept: float
) -> None:
    model = zero_inputs(alive(make()))
    small, report = compacted(model, torch.randn(shape), images(*shape))
    assert report.parameters.kept < kept
    again, unchanged = tr.compact(small, torch.randn(shape))
    assert unchanged.parameters.kept == 1
    assert [type(m) for m in again.modules()] == [type(m) for m in model.modules()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "kept"),
    [
        ("resnet18", 64, 0.5),
        ("mobilenet_v3_small", 64, 0.6),
        ("densenet121", 32, 0.65),
        ("googlenet", 64, 0.6),
    ],
)
def test_networks_of_torchvision(name: str, size: int, kept: float) -> None:
    extra = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    model = zero_inputs(alive(getattr(torchvision.models, name)(**extra)))
    _, report = compacted(model, torch.randn(1, 3, size, size), images(2, 3, size, size))
    assert report.parameters.kept < kept


def test_a_network_that_cannot_be_followed_is_an_error_and_stays_as_it_is() -> None:
    model = zero_inputs(alive(torchvision.models.shufflenet_v2_x0_5()))
    before = {name: p.clone() for name, p in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="torch-pruning could not follow ShuffleNetV2"):
        tr.compact(model, torch.randn(1, 3, 64, 64))
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())


@pytest.mark.slow
def test_vgg16_bn() -> None:
    model: Any = torchvision.models.vgg16_bn(num_classes=10)
    model.avgpool = nn.AdaptiveAvgPool2d(1)  # of its 134 million weights, 30 are left so
    model.classifier[0] = nn.Linear(512, 4096)
    model = zero_inputs(alive(model))
    small, report = compacted(model, torch.randn(1, 3, 32, 32), images(2, 3, 32, 32))
    for before, after in zip(model.features, small.features, strict=True):
        if isinstance(before, nn.Conv2d):  # a third of what every layer but the first reads
            gone = before.in_channels // 3 if before.in_channels > 3 else 0
            assert after.in_channels == before.in_channels - gone
    assert report.stays == ()


@pytest.mark.slow
def test_vit_b_16() -> None:
    """Hidden neurons go; zeros of the heads and of the stream stay, and are named."""
    model = zero_inputs(alive(torchvision.models.vit_b_16(image_size=32, num_classes=10)))
    small, report = compacted(model, torch.randn(1, 3, 32, 32), images(1, 3, 32, 32))
    parts = [f"encoder.layers.encoder_layer_{i}" for i in range(12)]
    for part in parts:
        assert report.layers[f"{part}.mlp.0"] == (3072, 2048)
        assert small.get_submodule(f"{part}.mlp.3").in_features == 2048
    reasons: dict[str, set[str]] = {}
    for stay in report.stays:
        reasons.setdefault(stay.reason, set()).add(stay.layer)
    mixed = {f"{part}.mlp.0" for part in parts} | {"heads.head"}
    told = {
        layer for reason, layers in reasons.items() if "LayerNorm" in reason for layer in layers
    }
    assert told == mixed
    heads = {f"{part}.self_attention.out_proj" for part in parts}
    told = {
        layer for reason, of in reasons.items() if "MultiheadAttention" in reason for layer in of
    }
    assert heads <= told


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "size", "kept"), [("vgg16_bn", 32, 0.5), ("vit_b_16", 224, 0.9), ("resnet56", 32, 0.7)]
)
def test_large_networks(name: str, size: int, kept: float) -> None:
    source = models if name == "resnet56" else torchvision.models
    model = zero_inputs(alive(getattr(source, name)()))
    _, report = compacted(model, torch.randn(1, 3, size, size), images(2, 3, size, size))
    assert report.parameters.kept < kept


def test_a_transformer_loses_hidden_neurons_and_the_rest_is_named() -> None:
    model = zero_inputs(alive(transformer()))
    rows = "encoder.layers.encoder_layer_1.self_attention.in_proj_weight"
    zero(model.get_parameter(rows), slice(4, 7))
    small, report = compacted(model, torch.randn(1, 3, 16, 16), images(2, 3, 16, 16))
    assert small.get_submodule("encoder.layers.encoder_layer_0.mlp.0").out_features == 16
    told = str(report)
    assert "LayerNorm" in told
    assert "MultiheadAttention" in told
    assert [(stay.zeros, stay.count) for stay in report.stays if stay.layer == rows] == [
        ("rows", 3)
    ]
