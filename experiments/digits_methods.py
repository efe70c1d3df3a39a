"""The ways of applying a penalty that the digits compare, and the strengths that are tried."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

import torchreg as tr
from experiments.penalties import ALONE, GROUPED, PENALTY_CHOICES, SINGLE, groupings

STRENGTHS = (1e-6, 1e-5, 1e-4, 1e-3, 2e-3, 4e-3)


class Method(NamedTuple):
    """How a penalty is applied, and the strengths that are tried."""

    penalty: Callable[..., tr.Penalty] | None = None
    strengths: tuple[float, ...] = STRENGTHS
    proximal: bool = False
    groups: str | None = None
    """One of ``ALONE``, for a group penalty."""

    rise: bool = False
    """The strength rises from 0 over the first half of the steps. Under a penalty whose zeros are
    final, the loss has then spoken before anything is decided."""

    def regularizer(self, model: nn.Module, strength: float, example: Tensor) -> tr.Regularizer:
        """The penalty at a strength, bound to a model.

        Args:
            model: the network.
            strength: of the penalty.
            example: inputs, from which ``removable`` groups follow the channels.
        """
        assert self.penalty is not None
        if self.groups is None:
            return tr.Regularizer(model, self.penalty(strength))
        found = groupings(model, self.groups, example)
        return tr.Regularizer(
            model, {name: self.penalty(strength, groups=group) for name, group in found.items()}
        )


def elastic_net(strength: float) -> tr.ElasticNet:
    """Both parts of the elastic net grow together."""
    return tr.ElasticNet(l1=strength, l2=strength)


METHODS = {
    "no penalty": Method(strengths=(0.0,)),
    "L2 in the loss": Method(tr.L2, (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)),
    "L1 in the loss": Method(tr.L1),
    "Elastic Net in the loss": Method(elastic_net),
    "proximal L1": Method(tr.L1, proximal=True),
    "proximal Elastic Net": Method(elastic_net, proximal=True),
}
"""Those that are always compared."""

COMPARED = {
    "none": "no penalty",
    "l2": "L2 in the loss",
    "l1": "proximal L1",
    "elasticnet": "proximal Elastic Net",
}
"""What ``--penalty`` can name and is always compared."""


def method_name(penalty: str, groups: str | None) -> str:
    """What tables and pictures call the method of the flags ``--penalty`` and ``--groups``."""
    return penalty if groups is None else f"{penalty}, {groups}"


ASKED = {
    method_name(penalty, groups): Method(
        (SINGLE | GROUPED)[penalty],
        strengths=(1e-5, 1e-4, 1e-3, 4e-3, 1e-2),
        proximal=True,
        groups=groups,
        rise=True,
    )
    for penalty in PENALTY_CHOICES
    if penalty not in COMPARED
    for groups in (ALONE if penalty in GROUPED else (None,))
}
"""Those that stand beside them where the flags ask for one."""
