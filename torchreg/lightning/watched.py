"""The regularizer of a module that is trained: bound to it, and watched over."""

import copy
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, cast

import lightning.pytorch as pl
from torch import Tensor

from torchreg.penalties import Penalty
from torchreg.regularizer import Regularizer
from torchreg.selection import select

if TYPE_CHECKING:
    from torchreg.lightning.mixin import RegularizedMixin


class Watched(Regularizer):
    """A regularizer whose value must not reach the loss while the trainer counts it already."""

    module: "RegularizedMixin"
    follows: Literal["takes in", "warns", "nothing"]
    frozen: list[Tensor]

    def follow_unfrozen(self) -> None:
        """Take in the weights of the default selection that were frozen when it was resolved."""
        if self.follows == "nothing" or not any(p.requires_grad for p in self.frozen):
            return
        self.frozen = [p for p in self.frozen if not p.requires_grad]
        if self.follows == "takes in":
            self.terms = Regularizer(self.model, self.terms[0].penalty).terms
            return
        penalised = set(self.selection().values())
        late = [name for name, p in select(self.model).items() if p not in penalised]
        if late:
            warnings.warn(
                f"{', '.join(late)} was frozen when the Regularizer that configure_regularizer of "
                f"{type(self.module).__name__} returned was built, and is trained now without a "
                "penalty. To penalise it, return the penalty alone or a mapping that names it; to "
                "leave it out, return a mapping that does not.",
                stacklevel=2,
            )

    def __call__(self) -> Tensor:
        """The penalty's value; its gradient is refused while the trainer counts the penalty."""
        value = super().__call__()
        if value.requires_grad:
            value.register_hook(self._refuse)
        return value

    def _refuse(self, _: Tensor) -> None:
        trainer = getattr(self.module, "_trainer", None)
        if trainer is not None and trainer.training:
            raise RuntimeError(
                "the penalty would count twice: training_step adds self.regularizer() to the loss, "
                f"and regularization = {self.module.regularization!r} takes it into account as "
                "well. Return the task loss alone."
            )


def resolve(module: "RegularizedMixin") -> Regularizer:
    """What ``configure_regularizer`` returns, as a Regularizer that watches over its use."""
    found = module.configure_regularizer()
    whole = cast(pl.LightningModule, module)
    if not isinstance(found, Regularizer | Penalty | Mapping):
        raise TypeError(
            f"configure_regularizer of {type(module).__name__} returned {found!r}. Expected a "
            "penalty such as torchreg.L1(1e-4), a mapping from selections to penalties, or a "
            "torchreg.Regularizer."
        )
    bound = found if isinstance(found, Regularizer) else Regularizer(whole, found)
    own = set(whole.parameters())
    if strange := [name for name, p in bound.selection().items() if p not in own]:
        raise ValueError(
            f"configure_regularizer of {type(module).__name__} returned a Regularizer of another "
            f"model: {', '.join(strange)} is no parameter of this one. Bind it to self or to a "
            "submodule: Regularizer(self, penalty)."
        )
    watched = copy.copy(bound)
    watched.__class__ = Watched
    watched = cast(Watched, watched)
    watched.module = module
    watched.frozen = [p for p in bound.model.parameters() if not p.requires_grad]
    if isinstance(found, Penalty):
        watched.follows = "takes in"
    elif isinstance(found, Regularizer) and set(bound.selection()) == set(select(bound.model)):
        watched.follows = "warns"  # the default selection, or one that cannot be told from it
    else:
        watched.follows = "nothing"
    return watched
