"""The networks that sparsity papers report on, as plain modules in their usual forms.

Layers are attributes with short names, so that a glob such as ``"conv*"`` selects by hand. A
weight count in a docstring counts weights alone: no biases, no normalisation.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F


class LeNet300_100(nn.Sequential):
    """Classify 28 x 28 digits by two hidden layers of 300 and 100 units: 266,200 weights.

    Source: Y. LeCun et al., "Gradient-based learning applied to document recognition" (1998).
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__(
            OrderedDict(
                flatten=nn.Flatten(),
                fc1=nn.Linear(28 * 28, 300),
                relu1=nn.ReLU(),
                fc2=nn.Linear(300, 100),
                relu2=nn.ReLU(),
                fc3=nn.Linear(100, classes),
            )
        )


class LeNet5Caffe(nn.Sequential):
    """Classify 28 x 28 digits by two convolutions and two layers: 430,500 weights.

    The variant that pruning papers mean by LeNet-5: ReLU once, max pooling, no padding.
    Source: ``examples/mnist/lenet.prototxt`` of Caffe.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__(
            OrderedDict(
                conv1=nn.Conv2d(1, 20, 5),
                pool1=nn.MaxPool2d(2),
                conv2=nn.Conv2d(20, 50, 5),
                pool2=nn.MaxPool2d(2),
                flatten=nn.Flatten(),
                fc1=nn.Linear(50 * 4 * 4, 500),
                relu1=nn.ReLU(),
                fc2=nn.Linear(500, classes),
            )
        )


class VGG(nn.Sequential):
    """Classify 32 x 32 images by 3 x 3 convolutions with BatchNorm, and pooling between them.

    Args:
        blocks: the channels of each convolution; one tuple per resolution, halved after each.
        classes: the number of outputs.
    """

    def __init__(self, blocks: Sequence[Sequence[int]], classes: int) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        inputs = 3
        for b, channels in enumerate(blocks, start=1):
            for c, outputs in enumerate(channels, start=1):
                layers[f"conv{b}_{c}"] = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
                layers[f"norm{b}_{c}"] = nn.BatchNorm2d(outputs)
                layers[f"relu{b}_{c}"] = nn.ReLU(inplace=True)
                inputs = outputs
            layers[f"pool{b}"] = nn.MaxPool2d(2)
        layers["mean"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        layers["fc"] = nn.Linear(inputs, classes)
        super().__init__(layers)


def small_vgg(classes: int = 10) -> VGG:
    """A VGG that a CPU trains in minutes: 980,320 weights for ten classes.

    One convolution per resolution but the last: half of the time of a CPU goes into the first two.
    """
    return VGG([(32,), (64,), (128,), (256, 256)], classes)


def vgg16_bn(classes: int = 10) -> VGG:
    """VGG-16 with BatchNorm and one linear layer, as CIFAR papers use it: 14,715,584 weights.

    Source: K. Simonyan and A. Zisserman (2015), configuration D.
    """
    return VGG([(64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3], classes)


class Residual(nn.Module):
    """Add two 3 x 3 convolutions with BatchNorm to their own input.

    Where the shape changes the input is brought to it by a 1 x 1 convolution with BatchNorm
    (``projected``, option B of the paper), or subsampled and padded with zero channels, which
    costs no weight (option A).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, *, projected: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.added = outputs - inputs
        self.shortcut: nn.Module | None = None
        if projected and (self.added or stride != 1):
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, inputs, height, width) to (batch, outputs, height / stride, ...)."""
        y: Tensor = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        if self.shortcut is not None:
            x = self.shortcut(x)
        elif self.added:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))
        return F.relu(y + x)


class ResNet(nn.Sequential):
    """Classify 32 x 32 images by stages of residual blocks; each later stage halves the size.

    Args:
        channels: the channels of each stage; the stem has those of the first.
        depth: blocks in a stage.
        classes: the number of outputs.
        projected: option B of the paper at the shortcuts that change shape, else A.
    """

    def __init__(
        self, channels: Sequence[int], depth: int, classes: int, *, projected: bool
    ) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv=nn.Conv2d(3, channels[0], 3, padding=1, bias=False),
            norm=nn.BatchNorm2d(channels[0]),
            relu=nn.ReLU(inplace=True),
        )
        for s, (inputs, outputs) in enumerate(pairwise([channels[0], *channels]), start=1):
            first = Residual(inputs, outputs, 1 if s == 1 else 2, projected=projected)
            rest = (Residual(outputs, outputs, 1, projected=projected) for _ in range(depth - 1))
            layers[f"stage{s}"] = nn.Sequential(first, *rest)
        layers["mean"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        layers["fc"] = nn.Linear(channels[-1], classes)
        super().__init__(layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def resnet18(classes: int = 10) -> ResNet:
    """ResNet-18 with a 3 x 3 stem and no first pooling, for CIFAR: 11,164,352 weights.

    Source: K. He et al., "Deep residual learning for image recognition" (2016).
    """
    return ResNet([64, 128, 256, 512], depth=2, classes=classes, projected=True)


def resnet56(classes: int = 10) -> ResNet:
    """ResNet-56 of the paper's CIFAR section, with zero-padded shortcuts: 848,944 weights."""
    return ResNet([16, 32, 64], depth=9, classes=classes, projected=False)


def weights(model: nn.Module) -> int:
    """Count the weights of a model: tensors of two or more dimensions."""
    return sum(p.numel() for p in model.parameters() if p.dim() >= 2)


FOR_MNIST: dict[str, Callable[[int], nn.Module]] = {
    "lenet-300-100": LeNet300_100,
    "lenet-5-caffe": LeNet5Caffe,
}
FOR_CIFAR: dict[str, Callable[[int], nn.Module]] = {
    "small-vgg": small_vgg,
    "resnet18": resnet18,
    "resnet56": resnet56,
    "vgg16-bn": vgg16_bn,
}
MODELS = FOR_MNIST | FOR_CIFAR
"""The networks by the names of ``--model``, as functions of the number of classes."""
