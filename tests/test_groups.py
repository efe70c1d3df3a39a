"""Groupings: what each group holds, against indices written out; coverage; the way back."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchreg as tr
from torchreg.groups import Grouping, check_cover, split

CONV = nn.Conv2d(6, 8, (3, 2), groups=2)  # its weight is (8, 3, 3, 2)
CONV_T = nn.ConvTranspose2d(6, 8, 3, groups=2)  # (6, 4, 3, 3)
GROUPINGS: list[tuple[Grouping, tuple[int, ...], int]] = [
    (tr.rows, (5, 3), 5),
    (tr.rows, (5,), 5),
    (tr.rows, (), 1),
    (tr.rows, (0, 3), 0),
    (tr.rows, (3, 0), 3),
    (tr.columns, (5, 3), 3),
    (tr.filters, (8, 3, 3, 2), 8),
    (tr.filters, (4, 3, 2, 2, 2), 4),
    (tr.input_channels, (8, 3, 5), 3),
    (tr.kernel_positions, (8, 3, 3, 2), 6),
    (tr.grouped_channels(2), (8, 3, 3, 2), 6),
    (tr.transposed(tr.filters), (3, 8, 5), 8),
    (tr.heads(4, parts=3), (48, 16), 4),
    (tr.heads(4, parts=3), (48,), 4),
    (tr.heads(4, dim=1), (16, 16), 4),
    (tr.gates(4), (28, 5), 7),
    (tr.gates(3), (21,), 7),
    (tr.tiles(4, 4), (8, 12), 6),
    (tr.tiles(4, 3), (8, 3, 3), 6),
    (tr.adjacent(4), (3, 8), 6),
    (lambda w: w.flip(0).reshape(2, -1), (6, 2), 2),
]


@pytest.mark.parametrize(("grouping", "shape", "count"), GROUPINGS)
def test_each_weight_is_in_one_group_and_goes_back(
    grouping: Grouping, shape: tuple[int, ...], count: int
) -> None:
    check_cover(grouping, torch.Size(shape))
    w = torch.randn(shape)
    members, back = split(grouping, w)
    assert members.shape == (count, w.numel() // count if count else 3)
    assert torch.equal(back(members), w)
    with torch.no_grad():
        assert torch.equal(split(grouping, nn.Parameter(w))[1](2 * members), 2 * w)


def together(grouping: Grouping, shape: tuple[int, ...], alike: Callable[..., Any]) -> None:
    """Two weights share a group exactly if what ``alike`` says of their indices is equal."""
    table = grouping(torch.arange(torch.Size(shape).numel()).view(shape))
    found = {int(i): g for g, row in enumerate(table) for i in row}
    names: dict[Any, int] = {}
    for flat in range(torch.Size(shape).numel()):
        index = tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), shape))
        assert names.setdefault(alike(*index), found[flat]) == found[flat]
    assert len(set(names.values())) == len(names) == len(table)


def test_groups_hold_what_they_are_named_after() -> None:
    together(tr.rows, (3, 4), lambda i, j: i)  # noqa: ARG005
    together(tr.columns, (3, 4), lambda i, j: j)  # noqa: ARG005
    together(tr.filters, (3, 4, 2), lambda o, i, k: o)  # noqa: ARG005
    together(tr.input_channels, (3, 4, 2), lambda o, i, k: i)  # noqa: ARG005
    together(tr.kernel_positions, (3, 4, 2, 2), lambda o, i, y, x: (y, x))  # noqa: ARG005
    together(tr.transposed(tr.filters), (3, 4, 2), lambda i, o, k: o)  # noqa: ARG005
    together(tr.heads(2, parts=3), (12, 2), lambda i, j: i % 4 // 2)  # noqa: ARG005
    together(tr.heads(2, dim=1), (3, 4), lambda i, j: j // 2)  # noqa: ARG005
    together(tr.gates(4), (12, 2), lambda i, j: i % 3)  # noqa: ARG005
    together(tr.tiles(2, 3), (4, 6), lambda i, j: (i // 2, j // 3))
    together(tr.adjacent(4), (3, 8), lambda i, j: (i, j // 4))


def silenced(layer: nn.Module, group: int, grouping: Grouping) -> None:
    weight: Any = layer.weight
    members, back = split(grouping, weight)
    members = members.clone()
    members[group] = 0
    with torch.no_grad():
        weight.copy_(back(members))


@pytest.mark.parametrize("channel", [0, 4])
def test_a_zero_group_of_a_grouped_convolution_ignores_that_input(channel: int) -> None:
    conv = copy.deepcopy(CONV)
    silenced(conv, channel, tr.grouped_channels(2))
    x = torch.randn(2, 6, 8, 8)
    other = x.clone()
    other[:, channel] = torch.randn(2, 8, 8)
    assert torch.equal(conv(x), conv(other))
    other[:, channel - 1] = torch.randn(2, 8, 8)
    assert not torch.equal(conv(x), conv(other))


@pytest.mark.parametrize("channel", [1, 6])
def test_a_zero_group_of_a_transposed_convolution_is_a_constant_output(channel: int) -> None:
    conv = copy.deepcopy(CONV_T)
    silenced(conv, channel, tr.grouped_channels(2))
    moving = conv(torch.randn(2, 6, 8, 8)).flatten(2).std(dim=(0, 2)) > 1e-6
    assert moving.tolist() == [i != channel for i in range(8)]


def test_a_zero_head_of_both_projections_is_no_head() -> None:
    attention = nn.MultiheadAttention(8, num_heads=2, bias=False, batch_first=True)
    x = torch.randn(3, 5, 8)
    silenced(attention.out_proj, 1, tr.heads(2, dim=1))
    before = attention(x, x, x)[0]
    members, back = split(tr.heads(2, parts=3), attention.in_proj_weight)
    with torch.no_grad():
        attention.in_proj_weight.copy_(back(members * torch.tensor([[1.0], [0.0]])))
    torch.testing.assert_close(attention(x, x, x)[0], before)


def test_a_hidden_unit_without_its_gates_is_constant() -> None:
    lstm = nn.LSTM(5, 7, batch_first=True)
    with torch.no_grad():
        for weight in lstm.parameters():
            members, back = split(tr.gates(4), weight)
            keep = torch.ones(7, 1)
            keep[2] = 0
            weight.copy_(back(members * keep))
    hidden = lstm(torch.randn(3, 4, 5))[0]
    assert (hidden[..., 2] == 0).all()
    assert (hidden[..., 3] != 0).all()


def test_views_where_strides_permit() -> None:
    w = torch.randn(8, 4)
    for grouping in (tr.rows, tr.columns, tr.adjacent(2)):
        assert grouping(w).data_ptr() == w.data_ptr()


def test_groupings_are_shown_as_written_compared_by_value_and_pickled() -> None:
    for grouping, shown in [
        (tr.heads(4, parts=3), "heads(4, parts=3, dim=0)"),
        (tr.transposed(tr.filters), "transposed(filters)"),
        (tr.tiles(4, 4), "tiles(4, 4)"),
    ]:
        assert repr(grouping) == shown
        assert pickle.loads(pickle.dumps(grouping)) == grouping
    assert tr.heads(4) != tr.heads(2)


@pytest.mark.parametrize(
    ("grouping", "shape", "told"),
    [
        (lambda w: w[:, :2], (3, 4), "takes 6 of the 12 weights"),
        (lambda w: w.repeat(1, 2), (3, 4), "more than once"),
        (lambda w: torch.cat([w[:2], w[:1]]), (3, 4), "takes 8 of the 12"),
        (lambda w: w, (3, 4, 2), r"must return a matrix .* end it with .flatten\(1\)"),
        (lambda w: w.flatten(), (3, 4), "must return a matrix"),
        (lambda w: None, (3, 4), "found NoneType"),  # noqa: ARG005
        (tr.tiles(4, 4), (6, 8), "no multiple of 4"),
        (tr.adjacent(4), (6, 6), "no multiple of 4"),
        (tr.heads(5), (16, 16), "no multiple of 5"),
        (tr.columns, (4,), "at least 2 dimensions"),
        (tr.kernel_positions, (4, 4), "at least 3 dimensions"),
    ],
)
def test_what_does_not_cover_the_weight_is_refused(
    grouping: Any, shape: tuple[int, ...], told: str
) -> None:
    w = torch.randn(shape)
    for penalty in (tr.GroupLasso(0.1, grouping), tr.GroupMCP(0.1, grouping)):
        before = w.clone()
        with pytest.raises(ValueError, match=told):
            penalty(w)
        with pytest.raises(ValueError, match=told):
            penalty.prox(w, 1.0)
        with pytest.raises(ValueError, match=told):
            penalty.critical_strength(w)
        assert torch.equal(w, before)


@pytest.mark.parametrize("bad", [0, -1, 2.0, True, "4"])
def test_counts_are_whole_numbers(bad: Any) -> None:
    for make in (tr.heads, tr.gates, tr.adjacent, tr.grouped_channels, lambda n: tr.tiles(4, n)):
        with pytest.raises(ValueError, match="whole number of at least 1"):
            make(bad)
    with pytest.raises(ValueError, match="dim must be 0"):
        tr.heads(4, dim=2)


def test_groups_must_be_a_function() -> None:
    for bad in ("filters", 3, None):
        with pytest.raises(TypeError, match="groups must be a function"):
            tr.GroupLasso(0.1, groups=bad)  # type: ignore[arg-type]


def members_of(w: Tensor) -> Tensor:
    return w.flatten(1)


def test_a_function_of_your_own_is_a_grouping() -> None:
    penalty = tr.GroupLasso(0.5, groups=members_of)
    assert repr(penalty) == "GroupLasso(0.5, groups=members_of)"
    assert repr(pickle.loads(pickle.dumps(penalty))) == repr(penalty)


@pytest.mark.parametrize(
    "grouping",
    [
        lambda w: w * 2,
        lambda w: -w,
        lambda w: w.abs(),
        lambda w: w.detach(),
        lambda w: w.sort(dim=1).values,
    ],
)
def test_a_function_that_does_more_than_rearrange_is_refused(grouping: Any) -> None:
    # detach would make the proximal map return zeros; sort would regroup at each step
    model = torch.nn.Linear(4, 3)
    with pytest.raises(ValueError, match=r"weight: .* does more .* than rearrange it"):
        tr.Regularizer(model, tr.GroupLasso(0.1, grouping))


@pytest.mark.parametrize(
    ("grouping", "told"),
    [
        (lambda w: w.rows, "AttributeError: .*rows"),
        (lambda w, n: w.view(n, -1), "TypeError: .*missing 1 required"),
        (lambda w: torch.from_numpy(w.numpy()), "requires gradients"),
        (tr.heads, r"call it with numbers first, as in torchreg.heads\(4\)"),
        (tr.heads(2, dim=1), "at least 2 dimensions"),
    ],
)
def test_whatever_a_grouping_raises_is_told_with_the_name_of_the_weight(
    grouping: Any, told: str
) -> None:
    vector = told == "at least 2 dimensions"
    model, name = torch.nn.Linear(4, 3), "bias" if vector else "weight"
    with pytest.raises(ValueError, match=f"on {name}: .*{told}"):
        tr.Regularizer(model, tr.GroupLasso(0.1, grouping), name)
