"""Groups that reach over several weights: all that is to become zero together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchreg.groups.grouping import Grouping, as_grouping, check_cover, split
from torchreg.selection import slots


@dataclass(frozen=True)
class Joint:
    """Group i of several weights together, as one group; made by :func:`joint`.

    As a grouping it takes what :meth:`gather` returns, and returns it as it is: a penalty acts on
    the gathered matrix as on one weight.
    """

    groupings: tuple[tuple[str, Grouping], ...]
    """The name of each weight, and how it is grouped by itself."""

    shape: torch.Size
    """(groups, members of all weights)."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the weights, in order."""
        return tuple(name for name, _ in self.groupings)

    def __call__(self, matrix: Tensor) -> Tensor:
        """The gathered matrix itself.

        Raises:
            ValueError: it is something else, such as one of the weights.
        """
        if matrix.shape != self.shape:
            raise ValueError(
                f"{self!r} is of {tuple(self.shape)} members over all of its weights together, "
                f"found a tensor shaped {tuple(matrix.shape)}. Bind the penalty to those weights: "
                "Regularizer(model, {groups.names: penalty})."
            )
        return matrix

    def gather(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Put the members of all weights beside each other.

        Args:
            tensors: by the name of the weight, and shaped like it.

        Returns:
            Shaped :attr:`shape`.
        """
        return torch.cat([grouping(tensors[name]) for name, grouping in self.groupings], dim=1)

    def scatter(self, matrix: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Take a gathered matrix apart: for each weight its own elements, in its shape.

        Args:
            matrix: floating or complex, shaped :attr:`shape`.
            like: the weights, or tensors shaped like them, by name.
        """
        found: dict[str, Tensor] = {}
        begin = 0
        for name, grouping in self.groupings:
            members, back = split(grouping, matrix.new_empty(like[name].shape))
            end = begin + members.shape[1]
            found[name] = back(matrix[:, begin:end])
            begin = end
        return found

    def check(self, weights: Mapping[str, Tensor]) -> None:
        """Raise a ValueError unless these are the weights, of one type and device, none twice."""
        if weights.keys() != set(self.names):
            raise ValueError(
                f"the groups are those of {', '.join(self.names)} together, and the penalty is "
                f"bound to {', '.join(weights) or 'nothing'}: bind it to exactly those weights of "
                "the model that the groups were made from, Regularizer(model, {groups.names: "
                "penalty}). (In Lightning, configure_regularizer may return that.)"
            )
        empty = {n: torch.empty(w.shape, device="meta") for n, w in weights.items()}
        try:
            same = self.gather(empty).shape == self.shape
        except (RuntimeError, ValueError, IndexError):
            same = False
        if not same or len(set(weights.values())) < len(weights):
            raise ValueError(
                f"{self!r} is of {tuple(self.shape)} members, which these weights no longer have: "
                "make the groups again, after what has changed or tied them."
            )
        kinds = {(w.dtype, w.device) for w in weights.values()}
        if len(kinds) > 1 or next(iter(weights.values())).is_complex():
            told = ", ".join(f"{n} is {w.dtype} on {w.device}" for n, w in weights.items())
            raise ValueError(f"weights of joint groups need one real type, on one device: {told}.")

    def check_quickly(self, weights: Mapping[str, Tensor]) -> None:
        """What :meth:`check` raises, looked for by counting: before every use."""
        parts = set(weights.values())
        kinds = {(w.dtype, w.device) for w in parts}
        if len(kinds) > 1 or sum(w.numel() for w in parts) != self.shape.numel():
            self.check(weights)

    def __repr__(self) -> str:
        more = len(self.names) - 1
        return f"joint({self.names[0]} and {more} more)"


def joint(model: nn.Module, groupings: Mapping[str, Grouping]) -> Joint:
    """Unite the groups of several weights: group i of each becomes part of one group.

    What reads one channel is often more than one layer: in a residual stream every block, in a
    squeeze-and-excitation block the gate too. The channel can be removed when all of it is zero,
    and a penalty that acts on the joint group makes it so at once. (:func:`removable_groups` with
    ``shared=True`` finds such groups.) A filter with the scale and shift of its normalisation is
    another.

    Args:
        model: whose weights are meant.
        groupings: how each weight is grouped, by the name of the weight; all have one number of
            groups. A vector has ``lambda w: w[:, None]``.

    Returns:
        A grouping for one penalty. Bind that to exactly these weights, by ``groups.names``.

    Raises:
        TypeError: no mapping, or a grouping that cannot be called.
        ValueError: fewer than two weights, a name that is none or is a pattern, groups that do not
            take each element once, or another number of groups.

    Example:
        >>> import torchreg as tr
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> groups = tr.joint(model, {"0.weight": tr.rows, "2.weight": tr.columns})
        >>> groups.shape  # each hidden unit: 3 weights into it, 2 out of it
        torch.Size([4, 5])
        >>> tr.Regularizer(model, {groups.names: tr.GroupLasso(0.1, groups=groups)})
        Regularizer: 20 of 26 parameters penalised
          name      shape  count  penalty
          0.weight  4 x 3     12  GroupLasso(0.1, groups=joint(0.weight and 1 more)): strength*sum(sqrt(size)*norm(group))
          2.weight  2 x 4      8  GroupLasso(0.1, groups=joint(0.weight and 1 more)): strength*sum(sqrt(size)*norm(group))

    Source: T. Chen et al., "Only train once" (2021) for groups over the layers that share a
    channel.
    """  # noqa: E501
    given: Any = groupings
    if not isinstance(given, Mapping):
        raise TypeError(
            f"expected a mapping from the names of weights to their groups, found {given!r}."
        )
    if len(given) < 2:
        raise ValueError(
            f"joint groups are those of two weights or more, found {len(given)}: give the "
            "grouping of one weight to its penalty as it is."
        )
    sizes: dict[str, tuple[int, int]] = {}
    for name, grouping in given.items():
        found = slots(model, name)
        if [slot.name for slot in found] != [name]:
            raise ValueError(
                f"expected the name of one parameter, found {name!r}, which stands for "
                f"{', '.join(slot.name for slot in found)}."
            )
        shape = found[0].parameter.shape
        check_cover(as_grouping(grouping), shape)
        groups, members = grouping(torch.empty(shape, device="meta")).shape
        sizes[name] = groups, members
    if len({groups for groups, _ in sizes.values()}) > 1:
        told = ", ".join(f"{groups} in {name}" for name, (groups, _) in sizes.items())
        raise ValueError(
            f"the weights have different numbers of groups: {told}. Group i of each is to be one "
            "group together."
        )
    members_of_all = sum(members for _, members in sizes.values())
    return Joint(tuple(given.items()), torch.Size([groups, members_of_all]))
