"""Groups of weights: a weight seen as (groups, members), so that whole structures become zero.

A grouping is any function that takes a tensor shaped like the weight and returns its elements
rearranged as a matrix, one row per group, each element exactly once. It must not depend on the
values. ``rows``, ``filters`` and their like are groupings; ``heads(8)`` and its like make one;
a function of your own is as good. A view is best: a copy costs a pass over the weight.

Which dimension is what, as torch stores them:

    nn.Linear                (outputs, inputs)             rows, columns
    nn.Embedding             (entries, features)           rows
    nn.Conv1d to Conv3d      (outputs, inputs, *kernel)    filters, input_channels
    the same, grouped n      (outputs, inputs / n, ...)    filters, grouped_channels(n)
    nn.ConvTranspose1d to 3d (inputs, outputs, *kernel)    transposed(filters)
    the same, grouped n      (inputs, outputs / n, ...)    grouped_channels(n): its filters
    nn.LSTM weight_ih, _hh   (4 * hidden, inputs)          gates(4), columns
    nn.GRU weight_ih, _hh    (3 * hidden, inputs)          gates(3), columns
    nn.MultiheadAttention    in_proj (3 * width, width)    heads(n, parts=3)
                             out_proj (width, width)       heads(n, dim=1)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Grouping = Callable[[Tensor], Tensor]
"""A function that rearranges a weight as (groups, members), each element exactly once."""


def rows(w: Tensor) -> Tensor:
    """All that one output neuron reads, or one entry of an embedding: dimension 0.

    Of a vector, such as a bias, each element is a group.

    Example:
        >>> rows(torch.arange(6).view(2, 3)).tolist()
        [[0, 1, 2], [3, 4, 5]]
    """
    return _along(w, 0) if w.dim() > 0 else w.view(1, 1)


def columns(w: Tensor) -> Tensor:
    """All that is read from one input: dimension 1. A zero column drops that input feature.

    Example:
        >>> columns(torch.arange(6).view(2, 3)).tolist()
        [[0, 3], [1, 4], [2, 5]]
    """
    return _along(_at_least(w, 2, "columns"), 1)


def filters(w: Tensor) -> Tensor:
    """One filter of a convolution, that is, all that makes one output channel: dimension 0.

    The same as :func:`rows`, for weights shaped (outputs, inputs, ...); a grouped convolution
    as well, where a filter reads only its own part of the inputs. A transposed convolution
    stores its outputs second: :func:`transposed`.

    Example:
        >>> filters(torch.zeros(8, 3, 5, 5)).shape
        torch.Size([8, 75])
    """
    return _along(_at_least(w, 2, "filters"), 0)


def input_channels(w: Tensor) -> Tensor:
    """All that a convolution reads from one input channel: dimension 1.

    A zero group means that no filter reads that channel, so that whatever makes it can go. In a
    *grouped* convolution, whose weight is (outputs, inputs / n, ...), index j of dimension 1 is
    the j-th channel of each of the n parts, n channels at once: use :func:`grouped_channels`.

    Example:
        >>> input_channels(torch.zeros(8, 3, 5, 5)).shape
        torch.Size([3, 200])
    """
    return _along(_at_least(w, 2, "input_channels"), 1)


def kernel_positions(w: Tensor) -> Tensor:
    """One position of the kernel, over all channels: zero groups make a smaller or sparser kernel.

    Example:
        >>> kernel_positions(torch.zeros(8, 3, 5, 5)).shape
        torch.Size([25, 24])
    """
    return _along(_at_least(w, 3, "kernel_positions").flatten(2), 2)


def grouped_channels(groups: int) -> Grouping:
    """The input channels of a convolution with ``groups=n``, each with the filters that read it.

    The weight is (outputs, inputs / n, ...); the result has one row per input channel. Of a
    grouped *transposed* convolution, (inputs, outputs / n, ...), it has one row per output
    channel: its filters.

    Example:
        >>> conv = torch.nn.Conv1d(4, 6, 3, groups=2)
        >>> grouped_channels(2)(conv.weight).shape  # 4 channels, read by 3 filters of width 3
        torch.Size([4, 9])
    """
    return Dealt(_grouped_channels, (_positive("groups", groups),), "grouped_channels")


def transposed(grouping: Grouping) -> Grouping:
    """A grouping with the first two dimensions of the weight swapped.

    For a transposed convolution, (inputs, outputs, ...): ``transposed(filters)`` are what makes
    each output channel.

    Example:
        >>> transposed(filters)(torch.nn.ConvTranspose2d(3, 8, 5).weight).shape
        torch.Size([8, 75])
    """
    return Dealt(_transposed, (as_grouping(grouping),), "transposed")


def heads(count: int, *, parts: int = 1, dim: int = 0) -> Grouping:
    """The part of an attention projection that belongs to one head.

    Args:
        count: the number of heads.
        parts: how many projections are stacked along ``dim``, each with all the heads: 3 for
            ``in_proj_weight`` (query, key, value), 1 for a projection of its own.
        dim: 0 where heads are outputs (query, key, value), 1 where they are inputs (out_proj).

    Example:
        >>> attention = torch.nn.MultiheadAttention(16, num_heads=4)
        >>> heads(4, parts=3)(attention.in_proj_weight).shape  # of query, key and value 4 rows each
        torch.Size([4, 192])
        >>> heads(4, dim=1)(attention.out_proj.weight).shape
        torch.Size([4, 64])
    """
    if dim not in (0, 1):
        raise ValueError(f"dim must be 0 (heads are outputs) or 1 (inputs), found {dim!r}.")
    return Dealt(_heads, (_positive("count", count), _positive("parts", parts), dim), "heads")


def gates(count: int) -> Grouping:
    """A hidden unit of an LSTM (4 gates) or a GRU (3): the rows of its gates, wherever stacked.

    For ``weight_ih_l*``, ``weight_hh_l*`` and their biases. Zero in all of them, the unit is a
    constant; what reads it is a column of ``weight_hh`` and of the next layer.

    Example:
        >>> lstm = torch.nn.LSTM(5, 7)
        >>> gates(4)(lstm.weight_ih_l0).shape
        torch.Size([7, 20])
    """
    return Dealt(_gates, (_positive("count", count),), "gates")


def tiles(height: int, width: int) -> Grouping:
    """Tiles of a matrix, such as 4 x 4; of a convolution, tiles of (outputs, inputs * kernel).

    Example:
        >>> tiles(2, 2)(torch.arange(8).view(2, 4)).tolist()
        [[0, 1, 4, 5], [2, 3, 6, 7]]
    """
    return Dealt(_tiles, (_positive("height", height), _positive("width", width)), "tiles")


def adjacent(count: int) -> Grouping:
    """Runs of ``count`` neighbours along a row, as in 2:4 patterns (``adjacent(4)``).

    Example:
        >>> adjacent(2)(torch.arange(8).view(2, 4)).tolist()
        [[0, 1], [2, 3], [4, 5], [6, 7]]
    """
    return Dealt(_adjacent, (_positive("count", count),), "adjacent")


@dataclass(frozen=True)
class Dealt:
    """A grouping with its arguments; its repr is the call that makes it. Compares by value."""

    function: Callable[..., Tensor]
    arguments: tuple[Any, ...]
    name: str

    def __call__(self, w: Tensor) -> Tensor:
        """Return w as (groups, members)."""
        return self.function(w, *self.arguments)

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(map(name_of, self.arguments))})"


def name_of(grouping: object) -> str:
    """A grouping as a user would write it."""
    return str(getattr(grouping, "__name__", None) or repr(grouping))


def as_grouping(found: object) -> Grouping:
    """Return a grouping, or say why it is none.

    Raises:
        TypeError: it cannot be called.
    """
    if not callable(found):
        raise TypeError(
            f"groups must be a function from a weight to (groups, members), such as "
            f"torchreg.filters or lambda w: w.flatten(1); found {found!r}."
        )
    return found


def check_cover(grouping: Grouping, shape: torch.Size) -> None:
    """Raise unless a grouping takes each element of a weight of this shape exactly once.

    Raises:
        ValueError: the result is no matrix, or some element is missing or there twice.

    Example:
        >>> check_cover(lambda w: w[:, :2], torch.Size([3, 4]))
        Traceback (most recent call last):
            ...
        ValueError: groups=<lambda> takes 6 of the 12 weights of a tensor shaped (3, 4); ...
    """
    positions = torch.arange(shape.numel()).view(shape)
    found = grouping(positions)
    told = f"groups={name_of(grouping)}"
    if not isinstance(found, Tensor) or found.dim() != 2:
        shaped = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"{told} must return a matrix (groups, members) for a weight shaped {tuple(shape)}, "
            f"found {shaped}: end it with .flatten(1), or .reshape(groups, -1)."
        )
    taken = found.flatten().unique()
    if len(taken) != shape.numel():
        raise ValueError(
            f"{told} takes {len(taken)} of the {shape.numel()} weights of a tensor shaped "
            f"{tuple(shape)}; every weight must be in exactly one group. Select only what it is "
            "meant for, or rearrange with view, transpose and flatten, which leave nothing out."
        )
    if found.numel() != shape.numel():
        raise ValueError(
            f"{told} takes some weights of a tensor shaped {tuple(shape)} more than once "
            f"({found.numel()} members for {shape.numel()} weights). Groups must not overlap."
        )


def split(grouping: Grouping, w: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """See w as (groups, members), and get the function that puts such a matrix back into w's shape.

    A rearrangement's adjoint is its inverse, so no table of positions is kept.

    Example:
        >>> members, back = split(columns, torch.ones(2, 3))
        >>> back(members * torch.tensor([[1.0], [2.0], [3.0]]))
        tensor([[1., 2., 3.],
                [1., 2., 3.]])
    """
    members: Tensor
    adjoint: Callable[[Tensor], tuple[Tensor]]
    members, adjoint = torch.func.vjp(grouping, w.detach())  # type: ignore[misc]
    return members, lambda matrix: adjoint(matrix)[0]


def _along(w: Tensor, dim: int) -> Tensor:
    moved = w.movedim(dim, 0)
    return moved.flatten(1) if w.dim() > 1 else moved.unsqueeze(1)


def _grouped_channels(w: Tensor, groups: int) -> Tensor:
    apart = _dealt(_at_least(w, 2, f"grouped_channels({groups})"), 0, groups)
    return apart.transpose(1, 2).flatten(0, 1).flatten(1)


def _transposed(w: Tensor, grouping: Grouping) -> Tensor:
    return grouping(_at_least(w, 2, "transposed").transpose(0, 1))


def _heads(w: Tensor, count: int, parts: int, dim: int) -> Tensor:
    moved = w.movedim(dim, 0)
    return _dealt(_dealt(moved, 0, parts), 1, count).transpose(0, 1).flatten(1)


def _gates(w: Tensor, count: int) -> Tensor:
    return _dealt(w, 0, count).transpose(0, 1).flatten(1)


def _tiles(w: Tensor, height: int, width: int) -> Tensor:
    matrix = _at_least(w, 2, f"tiles({height}, {width})").flatten(1)
    high, wide = (size // one for size, one in zip(matrix.shape, (height, width), strict=True))
    tiles = _dealt(_dealt(matrix, 1, wide, width), 0, high, height)
    return tiles.transpose(1, 2).flatten(0, 1).flatten(1)


def _adjacent(w: Tensor, count: int) -> Tensor:
    matrix = _at_least(w, 2, f"adjacent({count})").flatten(1)
    return _dealt(matrix, 1, matrix.shape[1] // count, count).flatten(0, 1)


def _dealt(w: Tensor, dim: int, count: int, size: int | None = None) -> Tensor:
    """Dimension dim as two, (count, size)."""
    divisor, size = (count, w.shape[dim] // count) if size is None else (size, size)
    if count * size != w.shape[dim]:
        raise ValueError(
            f"a weight shaped {tuple(w.shape)} cannot be dealt into groups of equal size: "
            f"{w.shape[dim]} is no multiple of {divisor}. Select only the weights that are meant."
        )
    return w.reshape(*w.shape[:dim], count, size, *w.shape[dim + 1 :])


def _at_least(w: Tensor, dims: int, name: str) -> Tensor:
    if w.dim() < dims:
        raise ValueError(
            f"{name} needs a weight of at least {dims} dimensions, found one shaped "
            f"{tuple(w.shape)}: select others, or use torchreg.rows."
        )
    return w


def _positive(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, found {value!r}.")
    return value
