"""Groups whose zeros can be removed: found before training, gone after it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import torchreg as tr
from experiments import models
from tests.compaction import alive, compacted, images, transformer


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


def test_shared_channels_are_groups_on_request() -> None:
    model = models.ResNet([8, 16], 2, 10, projected=True)
    alone = tr.removable_groups(model, torch.randn(1, 3, 16, 16))
    shared = tr.removable_groups(model, torch.randn(1, 3, 16, 16), shared=True)
    assert list(alone) == [f"stage{s}.{b}.conv2.weight" for s in (1, 2) for b in (0, 1)]
    assert set(alone) < set(shared)
    assert "fc.weight" in shared
    assert "conv.weight" not in shared  # it reads the image


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
