import pytest
import torch
from torch import nn

from experiments.models import FOR_CIFAR, FOR_MNIST, MODELS, weights

COUNTS = {
    "lenet-300-100": 266_200,
    "lenet-5-caffe": 430_500,
    "small-vgg": 980_320,
    "resnet18": 11_164_352,
    "resnet56": 848_944,
    "vgg16-bn": 14_715_584,
}


@pytest.mark.parametrize("name", MODELS)
def test_weights_and_logits(name: str) -> None:
    model = MODELS[name](10)
    assert weights(model) == COUNTS[name]
    shape = (1, 28, 28) if name in FOR_MNIST else (3, 32, 32)
    x = torch.randn(2, *shape).contiguous(memory_format=torch.channels_last)
    assert model(x).shape == (2, 10)


def test_one_hundred_classes() -> None:
    model = FOR_CIFAR["small-vgg"](100)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 100)


def test_a_shortcut_without_weights_subsamples_and_pads() -> None:
    block = FOR_CIFAR["resnet56"](10).get_submodule("stage2.0")
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    x = torch.rand(1, 16, 4, 4)
    y = block(x)
    assert torch.equal(y[:, :16], x[:, :, ::2, ::2])
    assert not y[:, 16:].any()
