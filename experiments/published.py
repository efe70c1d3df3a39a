"""Accuracy at sparsity as papers report it, to stand beside ours in a picture.

Points are (exact zeros as a fraction of the weights, test accuracy), read from the papers named.
Most count nonzero weights over all weights of the network, as we do; sparse variational dropout
reports compression by its own count.

Sources: S. Han, H. Mao and W. Dally, "Deep compression" (2016); Y. Guo, A. Yao and Y. Chen,
"Dynamic network surgery" (DNS, 2016); K. Ullrich, E. Meeds and M. Welling, "Soft weight-sharing
for neural network compression" (2017); D. Molchanov, A. Ashukha and D. Vetrov, "Variational
dropout sparsifies deep neural networks" (2017); N. Lee, T. Ajanthan and P. Torr, "SNIP" (2019);
T. Dettmers and L. Zettlemoyer, "Sparse networks from scratch" (sparse momentum, 2019); L.
Bungert et al., "A Bregman learning framework for sparse neural networks" (2022); T. Chen et al.,
"OTOv2" (DHSPG, 2023).
"""

from collections.abc import Mapping

Point = tuple[float, float]


def _at(*error_at_density: tuple[float, float]) -> list[Point]:
    """From (error %, density %), the form in which the papers print them."""
    return [(1 - density / 100, 1 - error / 100) for error, density in error_at_density]


LENET_300_100: Mapping[str, list[Point]] = {
    "Deep Compression (2016)": _at((1.59, 8.3)),
    "DNS (2016)": _at((1.99, 1.8)),
    "soft weight sharing (2017)": _at((1.94, 4.4)),
    "variational dropout (2017)": _at((1.92, 1.5)),
    "SNIP (2019)": _at((1.6, 5), (2.4, 2)),
    "sparse momentum (2019)": _at((1.53, 5), (1.55, 4.4), (1.98, 1.8), (2.05, 1.5), (2.36, 1)),
}

LENET_5_CAFFE: Mapping[str, list[Point]] = {
    "DNS (2016)": _at((0.91, 0.9)),
    "variational dropout (2017)": _at((0.75, 0.36)),
    "soft weight sharing (2017)": _at((0.97, 0.5)),
    "sparse momentum (2019)": _at((0.69, 5), (0.76, 2), (0.83, 1), (1.14, 0.5), (1.40, 0.4)),
}

RESNET18: Mapping[str, list[Point]] = {
    "Bregman learning (2022)": [(1 - 0.034, 0.902)],
    "DHSPG (2023)": [(1 - 0.088, 0.9286)],
}

VGG16_BN: Mapping[str, list[Point]] = {"DHSPG (2023)": [(1 - 0.05, 0.9327)]}

BY_TASK: Mapping[tuple[str, str], Mapping[str, list[Point]]] = {
    ("mnist", "lenet-300-100"): LENET_300_100,
    ("mnist", "lenet-5-caffe"): LENET_5_CAFFE,
    ("cifar10", "resnet18"): RESNET18,
    ("cifar10", "vgg16-bn"): VGG16_BN,
}
