"""What belongs together: sums, concatenations, groups, constants, tied weights."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchreg as tr
from tests.compaction import alive, compacted, images, zero


def chain(padding: int = 0, flat: bool = False) -> nn.Sequential:
    behind = [nn.Flatten(), nn.Linear(6 * 8 * 8, 5)] if flat else [
        nn.Conv2d(6, 5, 3, padding=padding, bias=False)
    ]  # fmt: skip
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), *behind)


def planted(layer: Any, rows: list[int], *, shift: float) -> None:
    """Filters of zeros, whose BatchNorm makes the constant ``shift`` of them."""
    norm = layer[1]
    with torch.no_grad():
        layer[0].weight[rows] = 0
        norm.bias[rows] = shift + (norm.running_mean - layer[0].bias)[rows] * norm.weight[
            rows
        ] / torch.sqrt(norm.running_var[rows] + norm.eps)


@pytest.mark.parametrize(
    ("padding", "flat", "shift", "kept"),
    [
        (0, False, 0.7, 4),  # a constant, moved into a bias that was not there
        (0, True, 0.7, 4),
        (1, False, -0.7, 4),  # ReLU makes it zero, whatever the padding
        (1, False, 0.7, 6),  # cut off at the borders: no bias equals that
    ],
)
def test_the_constant_of_a_zero_filter(padding: int, flat: bool, shift: float, kept: int) -> None:
    model = alive(chain(padding, flat))
    planted(model, [1, 4], shift=shift)
    small, report = compacted(model, torch.randn(2, 3, 8, 8), images(3, 3, 8, 8))
    assert small.get_submodule("0").out_channels == kept
    assert ("zero padding cuts off" in str(report)) == (kept == 6)
    if kept == 6:
        (stay,) = report.stays
        assert (stay.layer, stay.zeros, stay.count) == ("0", "filters", 2)


def test_a_dead_relu_is_no_zero_filter() -> None:
    model: Any = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    with torch.no_grad():
        model[0].bias[:2] = -1e3  # silent on the example, not on every input
    small, report = compacted(model, torch.randn(8, 4), [1e5 * torch.randn(8, 4)])
    assert small.get_submodule("0").out_features == 6
    assert "nothing was removed" in str(report)
    assert "removable_groups" in str(report)


class Rolled(nn.Module):
    """Channels that move: no graph of dependencies knows."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.one = nn.Linear(4, 6, bias)
        self.two, self.head = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.two(self.one(x).roll(1, dims=-1)).relu())
        return out


def test_an_example_of_zeros_hides_no_fault() -> None:
    model = Rolled(bias=False).eval()
    zero(model.two.weight, (slice(None), 3))
    _, report = compacted(model, torch.zeros(4, 4), [torch.randn(4, 4)])
    assert report.layers["one"] == (6, 6)


def test_an_output_layer_of_zeros_hides_no_fault() -> None:
    model = Rolled().eval()
    zero(model.two.weight, (slice(None), 3))
    zero(model.head.weight, slice(None))
    small, report = compacted(model, torch.randn(4, 4), [torch.randn(4, 4)])
    assert small.get_submodule("one").out_features == 6
    assert any(stay.layer == "two" and "differ" in stay.reason for stay in report.stays)


class Branches(nn.Module):
    """A residual sum, a concatenation and a grouped convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.left = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.right = nn.Conv2d(8, 4, 1)
        self.grouped = nn.Conv2d(12, 12, 3, groups=3, padding=1)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = torch.cat([x + self.left(x), self.right(x)], 1)
        out: Tensor = self.head(self.grouped(x).relu().mean((2, 3)))
        return out


def test_groups_of_a_convolution_stay_of_one_size() -> None:
    model = alive(Branches())
    for layer in ("head", "left.0", "right"):  # nothing reads the first group or what it reads
        zero(model.get_submodule(layer).weight, (slice(None), slice(4)))
    small, report = compacted(model, torch.randn(2, 3, 6, 6), images(2, 3, 6, 6))
    assert small.get_submodule("grouped").groups == 2
    assert report.layers["stem"] == (8, 4)

    model = alive(Branches())
    for part in range(3):  # one output of each group, two of the first
        zero(model.get_submodule("head").weight, (slice(None), 4 * part + 1))
    zero(model.get_submodule("head").weight, (slice(None), 0))
    small, report = compacted(model, torch.randn(2, 3, 6, 6), images(2, 3, 6, 6))
    assert small.get_submodule("grouped").out_channels == 9
    assert "differ in size" in str(report)


def test_a_residual_channel_goes_when_no_layer_reads_it() -> None:
    model = alive(Branches())
    for layer in ("left.0", "right"):
        zero(model.get_submodule(layer).weight, (slice(None), [2, 3]))
    _, report = compacted(model, torch.randn(2, 3, 6, 6), images(2, 3, 6, 6))
    assert all("grouped reads it" in stay.reason for stay in report.stays)
    for group in range(3):  # of each group two inputs; of the concatenation channels 2, 3, 6, ...
        rows = slice(4 * group, 4 * group + 4)
        zero(model.get_submodule("grouped").weight, (rows, [2, 3]))
    for layer in ("left.0", "right"):
        zero(model.get_submodule(layer).weight, (slice(None), [6, 7]))
    small, report = compacted(model, torch.randn(2, 3, 6, 6), images(2, 3, 6, 6))
    assert report.layers["stem"] == report.layers["left.0"] == (8, 4)
    assert small.get_submodule("grouped").in_channels == 6
    assert report.stays == ()


def test_the_last_channel_of_a_layer_that_cannot_be_cut_stays_too() -> None:
    """All can go but the last; then none can, and the last is no exception."""
    model = nn.Sequential(nn.Linear(4, 6), nn.Softmax(1), nn.Linear(6, 5), nn.ReLU())
    model.append(nn.Linear(5, 2))
    zero(model.get_parameter("2.weight"), slice(None))
    small, report = compacted(model.eval(), torch.randn(3, 4), [torch.randn(3, 4)])
    assert small.get_submodule("0").out_features == 6
    assert any(stay.layer == "2" and "differ" in stay.reason for stay in report.stays)


def test_a_layer_used_twice_with_its_channels_swapped_between_is_left_alone() -> None:
    class Swapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(8)
            self.cell, self.one, self.two = nn.GRUCell(8, 6), nn.Linear(4, 8), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(torch.cat(self.norm(self.one(x)).chunk(2, 1)[::-1], 1))
            out: Tensor = self.two(self.cell(x, self.cell(x)))
            return out

    model = Swapped().eval()  # around which torch-pruning's walk goes for ever
    zero(model.two.weight, (slice(None), 1))
    zero(model.one.weight, 1)
    x = torch.randn(3, 4)
    small, report = tr.compact(model, x)
    assert all(change.kept == 1 for change in report.layers.values())
    assert torch.equal(small(x), model(x))
    assert tr.removable_groups(model, x) == {}


def test_tied_weights_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
            self.second.weight = self.first.weight
            self.head = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.second(self.first(x).relu()).relu())
            return out

    model = Tied().eval()
    zero(model.head.weight, (slice(None), 0))
    zero(model.first.weight, (slice(None), 1))
    small, report = compacted(model, torch.randn(4, 6), [torch.randn(4, 6)])
    assert small.get_parameter("first.weight") is small.get_parameter("second.weight")
    assert "tied weights" in str(report)


def test_several_inputs_and_outputs_and_keywords() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.a, self.b = nn.Embedding(9, 6), nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, tokens: Tensor, x: Tensor) -> dict[str, Tensor]:
            hidden = (self.embed(tokens) + self.a(x)).relu()
            return {"out": self.b(hidden), "mean": x.mean()}

    model = Two().eval()
    zero(model.b.weight, (slice(None), [0, 5]))
    tokens, x = torch.randint(9, (3,)), torch.randn(3, 4)
    for example in ((tokens, x), {"x": x, "tokens": tokens}):
        small, report = tr.compact(model, example)
        assert report.layers == {"embed": (6, 4), "a": (6, 4), "b": (3, 3)}
        with torch.no_grad():
            torch.testing.assert_close(small(tokens, x), model(tokens, x))


def test_a_layer_keeps_a_channel_at_the_least() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    zero(model.get_parameter("4.weight"), slice(None))
    _, report = compacted(model.eval(), torch.randn(3, 4), [torch.randn(3, 4)])
    assert [report.layers[name].after for name in "024"] == [6, 1, 2]
    assert "would be left without a channel" in str(report)


def pair(one: nn.Module, *between: nn.Module, other: nn.Module) -> nn.Sequential:
    return nn.Sequential(one, *between, other)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (pair(nn.Conv1d(2, 6, 3), nn.BatchNorm1d(6), other=nn.Conv1d(6, 4, 2)), (3, 2, 9)),
        (pair(nn.Conv3d(2, 6, 2), nn.PReLU(6), other=nn.Conv3d(6, 4, 2)), (3, 2, 4, 4, 4)),
        (pair(nn.Conv2d(3, 6, 3), nn.ELU(), other=nn.ConvTranspose2d(6, 4, 3)), (3, 3, 5, 5)),
        (pair(nn.ConvTranspose2d(3, 6, 3), nn.ReLU(), other=nn.Conv2d(6, 4, 3)), (3, 3, 4, 4)),
        (pair(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, groups=6), other=nn.Conv2d(6, 4, 1)),
         (3, 3, 6, 6)),
        (pair(nn.Conv2d(3, 6, 3), nn.MaxPool2d(2), nn.Flatten(), other=nn.Linear(24, 4)),
         (3, 3, 6, 6)),
        (pair(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.GELU(), other=nn.Linear(6, 4)), (3, 5)),
    ],
)  # fmt: skip
def test_scattered_channels_of_every_kind_of_layer(model: Any, shape: tuple[int, ...]) -> None:
    """Those in the middle too: an index that is off keeps the count but not the outputs."""
    for parameter in alive(model).parameters():
        nn.init.uniform_(parameter, 0.1, 1.0)
    last = model[-1].weight
    dead = torch.tensor([0, 3, 4])
    blocks = last.unflatten(1, (6, -1)) if isinstance(model[-2], nn.Flatten) else last
    index = (dead,) if getattr(model[-1], "transposed", False) else (slice(None), dead)
    zero(blocks, index)
    small, report = compacted(model, torch.randn(shape), images(*shape))
    assert report.layers["0"] == (6, 3)
    assert report.stays == ()
    kept = [1, 2, 5]
    dim = int(getattr(model[0], "transposed", False))
    assert torch.equal(small[0].weight, model[0].weight.index_select(dim, torch.tensor(kept)))
    for layer, before in zip(small, model, strict=True):
        if isinstance(layer, nn.BatchNorm1d):
            for name, value in before.state_dict().items():
                expected = value[kept] if value.dim() else value
                assert torch.equal(layer.state_dict()[name], expected), name
