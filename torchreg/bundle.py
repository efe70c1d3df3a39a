"""What one penalty acts on at once: a parameter, or those that share joint groups."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from torchreg import distributed
from torchreg.distributed import View, whole
from torchreg.groups import Joint
from torchreg.penalties.base import Penalty
from torchreg.penalties.grouped import Grouped
from torchreg.slots import Slot


def joint_of(penalty: Penalty) -> Joint | None:
    """The joint groups of a penalty; None if it acts on each weight by itself."""
    groups = penalty.groups if isinstance(penalty, Grouped) else None
    return groups if isinstance(groups, Joint) else None


class Bundle(NamedTuple):
    """One penalty, and the parameters that it sees together: one of them, but for joint groups.

    Of a bundle of several the penalty sees the gathered members (:meth:`Joint.gather`), of whole
    weights where they are sharded.
    """

    penalty: Penalty
    parameters: dict[str, nn.Parameter]
    """By name; of joint groups in their order."""

    @property
    def joint(self) -> Joint | None:
        """The groups that unite the parameters; None for one parameter by itself."""
        return joint_of(self.penalty)

    @property
    def name(self) -> str:
        """The names of the parameters, for messages."""
        return ", ".join(self.parameters)

    def see(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """What the penalty sees of tensors that are shaped and sharded like the parameters."""
        if self.joint is None:
            (name,) = self.parameters
            seen: Tensor = self.view(name)(tensors[name])
            return seen
        return self.whole(tensors)

    def whole(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The same of whole tensors, for whoever must see all shards whatever the penalty is."""
        full = {name: whole(tensor) for name, tensor in tensors.items()}
        return next(iter(full.values())) if self.joint is None else self.joint.gather(full)

    def parts(self, seen: Tensor) -> dict[str, Tensor]:
        """Take what is shaped like :meth:`see`'s result apart: what the penalty saw of each."""
        if self.joint is None:
            (name,) = self.parameters
            return {name: seen}
        return self.joint.scatter(seen, self.parameters)

    def view(self, name: str) -> View:
        """How the penalty sees one of the parameters."""
        return View.of(self.penalty, self.parameters[name])

    def value(self) -> Tensor:
        """The penalty now: a differentiable scalar, the same on every rank."""
        if self.joint is None:
            (parameter,) = self.parameters.values()
            return distributed.value(self.penalty, parameter)
        return self.penalty.value(self.see(self.parameters))

    def add_gradient_(self, scale: float, moved: Mapping[str, nn.Parameter]) -> None:
        """Add one subgradient of the penalty to the gradients of those parameters that have any."""
        if self.joint is None:
            (parameter,) = self.parameters.values()
            distributed.add_gradient_(self.penalty, parameter, scale)
            return
        w = self.see({name: p.detach() for name, p in self.parameters.items()})
        added = torch.zeros_like(w)
        self.penalty.add_gradient_(w, added, scale)
        parts = self.parts(added)
        for name, parameter in moved.items():
            assert parameter.grad is not None
            if distributed.is_sharded(parameter):
                parameter.grad = parameter.grad + self.view(name).placed(parts[name])
            else:
                parameter.grad.add_(parts[name])


@dataclass(frozen=True)
class Term:
    """One penalty and the places in the model where it acts."""

    penalty: Penalty
    slots: tuple[Slot, ...]

    @property
    def joint(self) -> Joint | None:
        """The groups that unite the places; None where the penalty acts on each by itself."""
        return joint_of(self.penalty)

    def __post_init__(self) -> None:
        if (joint := self.joint) is not None:
            joint.check({slot.name: slot.parameter for slot in self.slots})
            self.penalty.check_shape(joint.shape)
            return
        for slot in self.slots:
            try:
                self.penalty.check_shape(slot.parameter.shape)
            except ValueError as error:
                raise ValueError(f"{self.penalty!r} on {slot.name}: {error}") from None

    def bundles(self) -> Iterator[Bundle]:
        """What the penalty acts on at once. Tensors that were tied since come once."""
        if (joint := self.joint) is not None:
            found = {slot.name: slot.parameter for slot in self.slots}
            joint.check_quickly(found)
            yield Bundle(self.penalty, {name: found[name] for name in joint.names})
            return
        for name, parameter in self.items():
            yield Bundle(self.penalty, {name: parameter})

    def items(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The names and the parameters that they stand for now, each of these once."""
        seen: set[nn.Parameter] = set()
        for slot in self.slots:
            parameter = slot.parameter
            if parameter not in seen:
                seen.add(parameter)
                yield slot.name, parameter
