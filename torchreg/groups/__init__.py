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

``joint`` unites the groups of several weights.
"""

from torchreg.groups.dimensions import (
    columns,
    filters,
    grouped_channels,
    input_channels,
    kernel_positions,
    rows,
    transposed,
)
from torchreg.groups.grouping import Dealt, Grouping, as_grouping, check_cover, name_of, split
from torchreg.groups.joint import Joint, joint
from torchreg.groups.patterns import adjacent, gates, heads, tiles

__all__ = [
    "Dealt",
    "Grouping",
    "Joint",
    "adjacent",
    "as_grouping",
    "check_cover",
    "columns",
    "filters",
    "gates",
    "grouped_channels",
    "heads",
    "input_channels",
    "joint",
    "kernel_positions",
    "name_of",
    "rows",
    "split",
    "tiles",
    "transposed",
]
