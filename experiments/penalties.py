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
"""Besides ``removable``, which are those of :func:`torchreg.removable_groups`."""

JUMPING = {"l0", "lhalf", "group-l0"}
"""Those under which every zero is stationary: nothing returns, so the strength must rise slowly."""

PENALTY_CHOICES = ("none", *SINGLE, "elasticnet", *GROUPED)
GROUP_CHOICES = ("removable", *GROUPS)


def groupings(
    model: nn.Module, groups: str, example: Tensor, where: Sequence[str] | None = None
) -> Mapping[str, Grouping]:
    """The groups that a flag names, by the name of each parameter.

    Args:
        model: the network.
        groups: one of ``GROUP_CHOICES``.
        example: a batch for the model, from which ``removable`` follows the channels.
        where: parameters for all groups but ``removable``, which finds its own.
    """
    if groups == "removable":
        return tr.removable_groups(model, example)
    return dict.fromkeys(tr.select(model, where), GROUPS[groups])
