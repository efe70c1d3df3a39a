"""Groups inside a dimension: heads, gates, tiles, runs of neighbours."""

from torch import Tensor

from torchreg.groups.dealing import at_least, dealt, positive
from torchreg.groups.grouping import Dealt, Grouping


def heads(count: int, *, parts: int = 1, dim: int = 0) -> Grouping:
    """The part of an attention projection that belongs to one head.

    Args:
        count: the number of heads.
        parts: how many projections are stacked along ``dim``, each with all the heads: 3 for
            ``in_proj_weight`` (query, key, value), 1 for a projection of its own.
        dim: 0 where heads are outputs (query, key, value), 1 where they are inputs (out_proj).

    Example:
        >>> import torch
        >>> attention = torch.nn.MultiheadAttention(16, num_heads=4)
        >>> heads(4, parts=3)(attention.in_proj_weight).shape  # of query, key and value 4 rows each
        torch.Size([4, 192])
        >>> heads(4, dim=1)(attention.out_proj.weight).shape
        torch.Size([4, 64])
    """
    if dim not in (0, 1):
        raise ValueError(f"dim must be 0 (heads are outputs) or 1 (inputs), found {dim!r}.")
    given = positive("count", count), positive("parts", parts), dim
    return Dealt(_heads, given, "heads", ("parts", "dim"))


def gates(count: int) -> Grouping:
    """A hidden unit of an LSTM (4 gates) or a GRU (3): the rows of its gates, wherever stacked.

    For ``weight_ih_l*``, ``weight_hh_l*`` and their biases. Zero in all of them, the unit is a
    constant; what reads it is a column of ``weight_hh`` and of the next layer.

    Example:
        >>> import torch
        >>> lstm = torch.nn.LSTM(5, 7)
        >>> gates(4)(lstm.weight_ih_l0).shape
        torch.Size([7, 20])
    """
    return Dealt(_gates, (positive("count", count),), "gates")


def tiles(height: int, width: int) -> Grouping:
    """Tiles of a matrix, such as 4 x 4; of a convolution, tiles of (outputs, inputs * kernel).

    Example:
        >>> import torch
        >>> tiles(2, 2)(torch.arange(8).view(2, 4)).tolist()
        [[0, 1, 4, 5], [2, 3, 6, 7]]
    """
    return Dealt(_tiles, (positive("height", height), positive("width", width)), "tiles")


def adjacent(count: int) -> Grouping:
    """Runs of ``count`` neighbours along a row, as in 2:4 patterns (``adjacent(4)``).

    Example:
        >>> import torch
        >>> adjacent(2)(torch.arange(8).view(2, 4)).tolist()
        [[0, 1], [2, 3], [4, 5], [6, 7]]
    """
    return Dealt(_adjacent, (positive("count", count),), "adjacent")


def _heads(w: Tensor, count: int, parts: int, dim: int) -> Tensor:
    moved = at_least(w, dim + 1, f"heads({count}, dim={dim})").movedim(dim, 0)
    return dealt(dealt(moved, 0, parts), 1, count).transpose(0, 1).flatten(1)


def _gates(w: Tensor, count: int) -> Tensor:
    return dealt(at_least(w, 1, f"gates({count})"), 0, count).transpose(0, 1).flatten(1)


def _tiles(w: Tensor, height: int, width: int) -> Tensor:
    matrix = at_least(w, 2, f"tiles({height}, {width})").flatten(1)
    high, wide = (size // one for size, one in zip(matrix.shape, (height, width), strict=True))
    tiles = dealt(dealt(matrix, 1, wide, width), 0, high, height)
    return tiles.transpose(1, 2).flatten(0, 1).flatten(1)


def _adjacent(w: Tensor, count: int) -> Tensor:
    matrix = at_least(w, 2, f"adjacent({count})").flatten(1)
    return dealt(matrix, 1, matrix.shape[1] // count, count).flatten(0, 1)
