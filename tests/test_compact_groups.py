"""Groups whose zeros can be removed: found before training, gone after it."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import efficientnet_b0, mobilenet_v3_small

import torchreg as tr
from experiments import models
from experiments.reach import share
from tests.compaction import alive, compacted, images, transformer
from torchreg.groups import split


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (models.LeNet300_100, (2, 1, 28, 28)),
        (models.LeNet5Caffe, (2, 1, 28, 28)),
        (models.small_vgg, (2, 3, 32, 32)),
        (lambda: models.ResNet([8, 16], 2, 10, projected=True), (2, 3, 16, 16)),
        (transformer, (2, 3, 16, 16)),
    ],
)
def test_a_removable_group_is_removed_with_its_channel(
    make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    model = alive(make()).train()  # as a user asks, before training
    groups = tr.removable_groups(model, torch.randn(shape))
    assert groups
    inputs = {name: model.get_parameter(name).shape[1] for name in groups}
    for name, grouping in groups.items():
        weight = model.get_parameter(name).detach()
        grouping(weight)[0].mul_(0)  # a view, so that the weight itself is changed
        if grouping(weight)[0].any():
            rows = grouping(torch.arange(weight.numel()).view(weight.shape))[0]
            weight.view(-1)[rows] = 0
    model.eval()
    small, _ = compacted(model, torch.randn(shape), images(*shape))
    for name in groups:
        assert small.get_parameter(name).shape[1] < inputs[name], name


class Squeezed(nn.Module):
    """A block as MobileNet has it: expand, gate by what all positions say, project."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.depth = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 12, 3, groups=12)
        self.norm = nn.BatchNorm2d(12)
        self.squeeze, self.gate = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.project, self.head = nn.Conv2d(12, 6, 1), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.depth(self.expand(x))).relu()
        seen = x.mean((2, 3), keepdim=True)
        x = x * self.gate(self.squeeze(seen).relu()).sigmoid()
        out: Tensor = self.head(self.project(x).mean((2, 3)))
        return out


def zero_last(model: nn.Module, groups: Mapping[Any, Any]) -> None:
    """The last group of each grouping, over all of its weights, by hand."""
    for names, grouping in groups.items():
        listed = names if isinstance(names, tuple) else (names,)
        weights = {name: model.get_parameter(name).data for name in listed}
        matrix = grouping.gather(weights) if len(listed) > 1 else grouping(weights[names])
        matrix = matrix.clone()
        matrix[-1] = 0
        if len(listed) > 1:
            parts = grouping.scatter(matrix, weights)
        else:
            parts = {names: split(grouping, weights[names])[1](matrix)}
        for name, w in weights.items():
            assert not torch.equal(w, parts[name])
            w.copy_(parts[name])


@pytest.mark.parametrize(
    ("make", "shape", "together"),
    [
        (
            lambda: models.ResNet([8, 16], 2, 10, projected=True),
            (2, 3, 16, 16),
            [
                {"stage1.0.conv1", "stage1.1.conv1", "stage2.0.conv1", "stage2.0.shortcut.0"},
                {"stage2.1.conv1", "fc"},
            ],
        ),
        (Squeezed, (2, 3, 8, 8), [{"squeeze", "project"}]),
        (lambda: mobilenet_v3_small(num_classes=10), (2, 3, 32, 32), None),
        (lambda: efficientnet_b0(num_classes=10), (2, 3, 32, 32), None),
    ],
)
def test_what_reads_a_channel_together_is_one_group(
    make: Callable[[], nn.Module], shape: tuple[int, ...], together: list[set[str]] | None
) -> None:
    model = alive(make()).eval()
    alone = tr.removable_groups(model, torch.randn(shape))
    groups = tr.removable_groups(model, torch.randn(shape), shared=True)
    assert alone.keys() == {names for names in groups if isinstance(names, str)}
    joint = [names for names in groups if not isinstance(names, str)]
    assert joint
    if together is not None:
        assert [{n.removesuffix(".weight") for n in names} for names in joint] == together
    listed = [n for names in groups for n in (names if isinstance(names, tuple) else (names,))]
    inputs = {name: model.get_parameter(name).shape[1] for name in listed}
    zero_last(model, groups)
    small, _ = compacted(model, torch.randn(shape), images(*shape))
    for name in listed:
        assert small.get_parameter(name).shape[1] < inputs[name], name


def test_the_share_of_a_network_in_groups_is_counted_by_weights() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6))
    groups = tr.removable_groups(model, torch.randn(2, 3, 5, 5))
    assert share(model, groups) == pytest.approx(100 * 24 / 36)
    assert share(model, [("0.weight", "2.weight")]) == 100


def test_readers_that_differ_from_channel_to_channel_are_left_out() -> None:
    class Skip(nn.Module):
        """As a U-Net: one layer reads what another reads, and more."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 1)
            self.third, self.last = nn.Conv2d(14, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x).relu()
            out: Tensor = self.last(self.third(torch.cat([x, self.second(x).relu()], 1)).relu())
            return out

    assert list(tr.removable_groups(Skip(), torch.randn(2, 3, 6, 6), shared=True)) == [
        "last.weight"
    ]


def test_a_trained_residual_stream_becomes_narrower() -> None:
    model = models.ResNet([8, 16], 2, 10, projected=True)
    x, y = torch.randn(32, 3, 16, 16), torch.randint(10, (32,))
    groups = tr.removable_groups(model, x[:2], shared=True)
    regularizer = tr.Regularizer(
        model, {names: tr.GroupL0(1.0, groups=one) for names, one in groups.items()}
    )
    optimizer = tr.ProximalOptimizer(torch.optim.Adam(model.parameters(), lr=3e-3), regularizer)
    density = tr.schedule.layer_densities(regularizer, 0.5)
    tr.TargetSparsity(optimizer, density, end=20, every=4)
    for _ in range(25):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    small, _ = compacted(model.eval(), x[:2], [x])
    widths = {name: w.shape[0] for name, w in small.named_parameters() if "conv" in name}
    assert widths == {
        name: w.shape[0] // 2 for name, w in model.named_parameters() if "conv" in name
    }


def test_trained_groups_make_a_smaller_model() -> None:
    model = models.LeNet5Caffe()
    x, y = torch.randn(64, 1, 28, 28), torch.randint(10, (64,))
    groups = tr.removable_groups(model, x[:2])
    regularizer = tr.Regularizer(
        model, {name: tr.GroupLasso(3e-3, groups=group) for name, group in groups.items()}
    )
    optimizer = tr.ProximalOptimizer(torch.optim.Adam(model.parameters(), lr=3e-3), regularizer)
    for _ in range(25):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    _, report = compacted(model.eval(), x[:2], [x])
    assert report.parameters.kept < 0.9
    assert report.multiply_adds.kept < 1
    assert report.file_bytes.kept < 0.9


class Through(nn.Module):
    """Two layers and what a user's code does between them."""

    def __init__(self, first: nn.Module, between: Callable[[Tensor], Tensor], second: nn.Module):
        super().__init__()
        self.first, self.between, self.second = first, between, second

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.between(self.first(x)))
        return out


@pytest.mark.parametrize(
    ("first", "between", "second", "named"),
    [
        (nn.Linear(6, 8), torch.relu, nn.Linear(8, 2), True),
        (nn.Linear(6, 8), lambda x: x.softmax(1), nn.Linear(8, 2), False),
        (nn.Linear(6, 8), lambda x: x.flip(1), nn.Linear(8, 2), False),
        (nn.Linear(6, 8), lambda x: x.cumsum(1), nn.Linear(8, 2), False),
        (nn.Linear(6, 8), lambda x: x[:, [3, 1, 0, 2]], nn.Linear(4, 2), False),
        (nn.Linear(6, 8), lambda x: x.view(-1, 4, 2).amax(2), nn.Linear(4, 2), False),
        (nn.Linear(6, 16), lambda x: nn.functional.glu(x, 1), nn.Linear(8, 2), False),
    ],
)
def test_only_what_can_be_cut_is_named(
    first: nn.Module, between: Callable[[Tensor], Tensor], second: nn.Module, named: bool
) -> None:
    model = Through(first, between, second)
    assert ("second.weight" in tr.removable_groups(model, torch.randn(3, 6))) is named


def test_a_channels_last_flatten_has_no_blocks_of_columns() -> None:
    def flat(x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)

    x = torch.randn(2, 1, 8, 8)
    model = Through(nn.Conv2d(1, 8, 3), flat, nn.Linear(288, 2))
    assert tr.removable_groups(model, x) == {}
    usual = Through(nn.Conv2d(1, 8, 3), lambda x: x.flatten(1), nn.Linear(288, 2))
    assert set(tr.removable_groups(usual, x)) == {"second.weight"}


def test_one_channel_of_a_grouped_convolution_cannot_go_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 6, 1))
    model.append(nn.Conv2d(6, 2, 1))
    assert list(tr.removable_groups(model, torch.randn(2, 3, 6, 6))) == ["3.weight"]
