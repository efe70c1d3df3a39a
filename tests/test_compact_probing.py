"""Models in which one example does not show what a channel is for."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchreg as tr
from tests.compaction import compacted, images, untouched, zero


class Between(nn.Module):
    """Two layers over the last dimension, and what a user's code does between them."""

    def __init__(self, between: Callable[[Tensor], Tensor], act: Callable[[Tensor], Tensor]):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.between, self.act = between, act

    def forward(self, x: Tensor) -> Tensor:
        h = self.between(self.act(self.first(x)))
        out: Tensor = self.third(torch.relu(self.second(h)))
        return out


MIXING: dict[str, Callable[[Tensor], Tensor]] = {
    "amax": lambda h: h * h.amax(-1, keepdim=True),
    "max": lambda h: h * h.max(-1, keepdim=True)[0],
    "detached": lambda h: h * h.detach().amax(-1, keepdim=True),
    "sum": lambda h: h * h.sum(-1, keepdim=True),
    "normalize": lambda h: nn.functional.normalize(h, dim=-1),
    "topk": lambda h: h * (h >= h.topk(3, dim=-1)[0][..., -1:]),
    "sort": lambda h: h.sort(dim=-1)[0],
    "cumsum": lambda h: h.cumsum(-1),
    "flip": lambda h: h.flip(-1),
    "roll": lambda h: h.roll(1, -1),
    "outer": lambda h: (h[..., None] * h[..., None, :]).amax(-1),
}


@pytest.mark.parametrize("kind", ["unread", "never made"])
@pytest.mark.parametrize("act", [torch.relu, torch.tanh])
@pytest.mark.parametrize("name", MIXING)
def test_what_mixes_channels_reads_them(
    name: str, act: Callable[[Tensor], Tensor], kind: str
) -> None:
    for seed in range(8):
        torch.manual_seed(seed)
        model, x = Between(MIXING[name], act).eval(), torch.randn(4, 6)
        assert "second.weight" not in tr.removable_groups(model, x)
        if kind == "unread":
            zero(model.second.weight, (slice(None), slice(5, 8)))
        else:
            zero(model.first.weight, slice(5, 8))
            zero(model.first.bias, slice(5, 8))
        compacted(model, x, [torch.randn(100, 6), 30 * torch.randn(100, 6)])


POOLING: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda h: h.sum(1),
    "norm": lambda h: h.norm(dim=1),
    "logsumexp": lambda h: h.logsumexp(1),
    "by the length": lambda h: h.mean(1) / h.shape[1],
    "by the batch": lambda h: h.mean(1) * len(h),
}


@pytest.mark.parametrize("name", POOLING)
def test_a_constant_that_grows_with_the_input_is_none(name: str) -> None:
    class Sets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.phi, self.rho = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.rho(POOLING[name](torch.relu(self.phi(x))))
            return out

    model = Sets().eval()
    zero(model.phi.weight, slice(4))
    with torch.no_grad():
        model.phi.bias[:4] = 1
    _, report = compacted(model, torch.randn(2, 5, 4), [torch.randn(2, 9, 4), torch.randn(7, 5, 4)])
    assert [(stay.layer, stay.count) for stay in report.stays] == [("phi", 4)]
    assert "no single constant" in report.stays[0].reason


def test_padding_that_does_nothing_at_the_size_of_the_example() -> None:
    class Up(nn.Module):
        """The decoder of a U-Net: padded to the size of what it joins."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.down = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 2, stride=2)
            self.up, self.join = nn.ConvTranspose2d(8, 6, 2, stride=2), nn.Conv2d(12, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            skip = self.first(x).relu()
            up = self.up(self.down(skip).relu())
            size = [skip.shape[-1] - up.shape[-1], skip.shape[-2] - up.shape[-2]]
            up = nn.functional.pad(up, [0, size[0], 0, size[1]])
            out: Tensor = self.join(torch.cat([skip, up], 1))
            return out

    model = Up().eval()
    zero(model.up.weight, (slice(None), slice(3)))
    with torch.no_grad():
        assert model.up.bias is not None
        model.up.bias[:3] = 1
    compacted(model, torch.randn(2, 3, 8, 8), [torch.randn(2, 3, 9, 9), *images(1, 3, 8, 8)])


def test_layers_that_the_example_does_not_reach_are_named() -> None:
    class Auxiliary(nn.Module):
        """A head for training alone, as GoogLeNet has."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
            self.auxiliary, self.last = nn.Linear(8, 4), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Any:
            h = self.first(x).relu()
            y = self.last(self.second(h).relu().mean((2, 3)))
            return (y, self.auxiliary(h.mean((2, 3)))) if self.training else y

    model = Auxiliary().eval()
    zero(model.second.weight, (slice(None), slice(4)))
    small, report = compacted(model, torch.randn(2, 3, 12, 12), images(2, 3, 12, 12))
    assert small.first.out_channels == 4
    assert report.unreached == ("auxiliary",)
    assert "left as they were, and may not fit what is smaller now: auxiliary" in str(report)


def test_channels_last_stays() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)
    ).eval()
    zero(model[2].weight, (slice(None), slice(4)))
    zero(model[4].weight, (slice(None), slice(3)))
    small, _ = compacted(
        model.to(memory_format=torch.channels_last), torch.randn(2, 3, 12, 12),
        images(2, 3, 12, 12),
    )  # fmt: skip
    weights = [w for w in small.parameters() if w.dim() == 4]
    assert [w.shape[1] for w in weights] == [3, 4, 5]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


class Keeping(nn.Module):
    """Leaves its features on itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)
        self.kept: Any = None

    def forward(self, x: Tensor) -> Tensor:
        self.kept = {"features": torch.relu(self.first(x))}
        out: Tensor = self.second(self.kept["features"])
        return out


def test_a_model_that_keeps_its_features_is_compacted() -> None:
    model, x = Keeping().eval(), torch.randn(3, 4)
    zero(model.second.weight, (slice(None), slice(3)))
    model(x)
    kept = model.kept["features"]
    for reads in (tr.compact, tr.to_csr):
        with untouched(model, x):
            small, _ = reads(model, x)
        torch.testing.assert_close(small(x), model(x))
    assert list(tr.removable_groups(model, x)) == ["second.weight"]
    model.kept = kept
    tr.compact(model, x)
    assert model.kept is kept


def test_what_cannot_be_copied_or_followed_is_named() -> None:
    class Silent(Keeping):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                return super().forward(x)

    with pytest.raises(ValueError, match=r"take torch\.no_grad\(\) off its forward"):
        tr.compact(Silent().eval(), torch.randn(2, 4))
    with pytest.raises(ValueError, match="return logits where it returns their argmax"):
        tr.removable_groups(Chosen(), torch.randn(2, 4))
    model = Keeping().eval()
    model.kept = (n for n in range(3))
    for reads in (tr.compact, tr.to_csr, tr.removable_groups):
        with pytest.raises(TypeError, match=r"Keeping cannot be copied .*: take what holds it up"):
            reads(model, torch.randn(2, 4))


class Chosen(Keeping):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).argmax(1)


def test_the_columns_of_an_embedding_whose_rows_are_renormalised_belong_together() -> None:
    class Tokens(nn.Module):
        def __init__(self, most: float | None) -> None:
            super().__init__()
            self.table, self.last = nn.Embedding(10, 4, max_norm=most), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.last(self.table(x)).sum(1)
            return out

    x, others = torch.tensor([[0, 1]]), torch.tensor([[5, 6], [7, 8]])
    for most, width in ((None, 3), (1.0, 4)):
        model = Tokens(most).eval()
        with torch.no_grad():
            model.table.weight.mul_(3)
            model.table.weight[:, 3] = 5
            model.last.weight[:, 3] = 0
        before = copy.deepcopy(model)
        with untouched(model):  # running it would renormalise its rows
            small, _ = tr.compact(model, x)
        assert small.table.embedding_dim == width  # type: ignore[union-attr]
        torch.testing.assert_close(small(others), before(others))


def test_a_fused_encoder_layer_keeps_its_dense_weights() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 512, batch_first=True)
    model = nn.Sequential(layer, nn.Linear(16, 2048), nn.Linear(2048, 2048)).eval()
    with torch.no_grad():
        for name, w in model.named_parameters():
            if (w.dim() == 2 and "linear" in name) or name == "2.weight":
                w.mul_(torch.rand_like(w) < 0.002)
    x = torch.randn(2, 4, 16)
    small, measured = tr.to_csr(model, x, seconds=0.02)
    assert measured.keys() == {"1", "2"}
    with torch.no_grad():
        torch.testing.assert_close(small(x), model(x), rtol=1e-4, atol=1e-5)


HARMLESS: dict[str, Callable[[Tensor], Tensor]] = {
    "normalised": lambda h: nn.functional.normalize(h, dim=-1),
    "by the sum": lambda h: h / (1 + h.sum(-1, keepdim=True)),
    "by the largest": lambda h: h / (1 + h.amax(-1, keepdim=True)),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_channels_that_are_always_zero_go_where_nothing_notices(name: str) -> None:
    model = Between(HARMLESS[name], torch.relu).eval()
    zero(model.first.weight, slice(5, 8))
    zero(model.first.bias, slice(5, 8))
    small, _ = compacted(model, torch.randn(4, 6), [9 * torch.randn(99, 6)])
    assert small.first.out_features == 5


class Particular(nn.Module):
    """A function that takes some numbers only, of features that are all above 0."""

    def __init__(self, function: Callable[[Tensor], Tensor], scale: float = 1.0) -> None:
        super().__init__()
        self.first, self.second, self.function = nn.Linear(6, 16), nn.Linear(16, 4), function
        with torch.no_grad():
            self.first.weight.abs_().mul_(scale)
            self.first.bias.abs_().add_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.function(self.first(x.abs())))
        return out


def checked(h: Tensor) -> Tensor:
    if not bool((h > 0).all()):
        raise ValueError("features must be positive")
    return h.log()


@pytest.mark.parametrize(
    ("function", "scale"),
    [(checked, 1.0), (torch.log, 1.0), (torch.rsqrt, 1.0), (torch.exp, 0.1), (torch.exp, 20.0)],
)
def test_functions_that_do_not_take_every_number(
    function: Callable[[Tensor], Tensor], scale: float
) -> None:
    model = Particular(function, scale).eval()
    assert list(tr.removable_groups(model, torch.randn(2, 6))) == ["second.weight"]
    zero(model.second.weight, (slice(None), slice(8)))
    small, _ = compacted(model, torch.randn(2, 6), [torch.randn(20, 6)])
    assert small.first.out_features == 8


def test_an_input_that_must_be_positive() -> None:
    class Logs(Keeping):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.log())

    model = Logs().eval()
    zero(model.second.weight, (slice(None), slice(3)))
    small, _ = compacted(model, torch.rand(4, 4) + 0.1, [torch.rand(9, 4) + 0.1])
    assert small.first.out_features == 5


@pytest.mark.parametrize("length", [1, 5, 8])
def test_a_sequence_of_any_length_up_to_the_longest(length: int) -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = nn.Embedding(20, 8), nn.Embedding(8, 8)
            self.wide, self.last = nn.Linear(8, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.words(x) + self.places(torch.arange(x.shape[1]))
            out: Tensor = self.last(self.wide(h).relu().sum(1))
            return out

    model = Tokens().eval()
    zero(model.wide.weight, slice(8, 16))
    with torch.no_grad():
        model.wide.bias.abs_()
    small, report = tr.compact(model, torch.randint(20, (2, length)))
    for other in (2, 8):
        x = torch.randint(20, (3, other))
        torch.testing.assert_close(small(x), model(x))
    assert "no single constant" in str(report)


def test_a_mask_as_long_as_the_sequence_twice() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            out: Tensor = self.last((mask @ self.first(x).relu()).sum(1))
            return out

    model = Masked().eval()
    zero(model.first.weight, slice(4))
    with torch.no_grad():
        model.first.bias[:4] = 1
    small, _ = tr.compact(model, (torch.randn(2, 7, 4), torch.ones(2, 7, 7)))
    longer = torch.randn(2, 9, 4), torch.ones(2, 9, 9)
    torch.testing.assert_close(small(*longer), model(*longer))


def test_a_parameter_of_whole_numbers_is_no_hindrance() -> None:
    model = Keeping().eval()
    model.steps = nn.Parameter(torch.zeros(2, dtype=torch.long), requires_grad=False)
    zero(model.second.weight, (slice(None), slice(3)))
    small, _ = tr.compact(model, torch.randn(3, 4))
    assert small.get_parameter("first.weight").shape == (5, 4)


def test_an_output_whose_shape_depends_on_what_is_read_keeps_it() -> None:
    class Some(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x)
            out: Tensor = self.last(h)[h.amax(1) > 1.0]
            return out

    model = Some().eval()
    with torch.no_grad():
        model.first.weight[5:] *= 1e-3
        model.last.weight[:, 5:] = 0
    small, report = tr.compact(model, torch.randn(64, 6))
    assert small.get_parameter("first.weight").shape == (8, 6)
    assert sum(stay.count for stay in report.stays) == 3


def test_why_other_zeros_stay() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.slope = nn.Embedding(9, 4, max_norm=1.0), nn.PReLU(init=0.0)
            self.last = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.last(self.slope(self.table(x).sum(1)))
            return out

    model = Odd().eval()
    zero(model.table.weight, (slice(None), slice(2)))
    _, report = tr.compact(model, torch.randint(9, (3, 5)))
    told = {stay.layer: stay.reason for stay in report.stays}
    assert told == {"table": "max_norm divides its rows by their size"}
