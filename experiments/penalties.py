"""The penalties, and the groups for them, that flags can name."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

import torchreg as tr
from torchreg.groups import Grouping

SINGLE: dict[str, Callable[[float], tr.Penalty]] = {
    "l1": tr.L1,
    "l2": tr.L2,
    "l0": tr.L0,
    "lhalf": tr.LHalf,
    "mcp": tr.MCP,
    "scad": tr.SCAD,
}
GROUPED: dict[str, Any] = {
    "group-lasso": tr.GroupLasso,
    "sparse-group-lasso": tr.SparseGroupLasso,
    "group-mcp": tr.GroupMCP,
    "group-l0": tr.GroupL0,
}
COUNTABLE = {name for name, penalty in GROUPED.items() if penalty.whole}
"""Those whose zeros are whole groups, so that channels can be counted."""

GROUPS: dict[str, Callable[[Tensor], Tensor]] = {
    "filters": tr.filters,
    "input-channels": tr.input_channels,
}
"""Those of a weight by itself."""

FOUND = {"removable": False, "shared": True}
"""Those of :func:`torchreg.removable_groups`, and whether they are joint over several weights."""

JUMPING = {"l0", "lhalf", "group-l0"}
"""Those under which every zero is stationary: nothing returns, so the strength must rise slowly."""

PENALTY_CHOICES = ("none", *SINGLE, "elasticnet", *GROUPED)
GROUP_CHOICES = (*FOUND, *GROUPS)
ALONE = tuple(groups for groups in GROUP_CHOICES if not FOUND.get(groups))
"""Those of networks in which no channel is read by several layers."""


def groupings(
    model: nn.Module, groups: str, example: Tensor, where: Sequence[str] | None = None
) -> Mapping[str | tuple[str, ...], Grouping]:
    """The groups that a flag names, by the name of each parameter or the names of joint ones.

    Args:
        model: the network.
        groups: one of ``GROUP_CHOICES``.
        example: a batch for the model, from which ``removable`` and ``shared`` follow the channels.
        where: parameters for all other groups: these two find their own.
    """
    if groups in FOUND:
        return tr.removable_groups(model, example, shared=FOUND[groups])
    return dict.fromkeys(tr.select(model, where), GROUPS[groups])
