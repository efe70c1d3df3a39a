"""The penalties, and the groups for them, that flags can name."""

from collections.abc import Callable

from torch import Tensor

import torchreg as tr

SINGLE: dict[str, Callable[[float], tr.Penalty]] = {
    "l1": tr.L1,
    "l2": tr.L2,
    "l0": tr.L0,
    "lhalf": tr.LHalf,
    "mcp": tr.MCP,
    "scad": tr.SCAD,
}
GROUPED: dict[str, Callable[..., tr.Penalty]] = {
    "group-lasso": tr.GroupLasso,
    "sparse-group-lasso": tr.SparseGroupLasso,
    "group-mcp": tr.GroupMCP,
    "group-l0": tr.GroupL0,
}
GROUPS: dict[str, Callable[[Tensor], Tensor]] = {
    "filters": tr.filters,
    "input-channels": tr.input_channels,
}
"""Besides ``removable``, which are those of :func:`torchreg.removable_groups`."""

JUMPING = {"l0", "lhalf", "group-l0"}
"""Those under which every zero is stationary: nothing returns, so the strength must rise slowly."""
