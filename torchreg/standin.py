"""An optimizer that stands in for another one, and is one with it to all who look."""

from abc import abstractmethod
from collections import OrderedDict
from typing import Any

from torch.optim import Optimizer

_HOOKS = (
    "_optimizer_step_pre_hooks",
    "_optimizer_step_post_hooks",
    "_optimizer_state_dict_pre_hooks",
    "_optimizer_state_dict_post_hooks",
    "_optimizer_load_state_dict_pre_hooks",
    "_optimizer_load_state_dict_post_hooks",
)


class StandIn(Optimizer):
    """Shares ``param_groups``, ``state`` and ``defaults`` with the optimizer it wraps.

    So schedulers, GradScaler and checkpoints see one optimizer. It has hooks of its own, which
    deepcopy and pickle leave behind, as they do torch's. A subclass steps, packs and unpacks.
    """

    optimizer: Optimizer
    """The wrapped optimizer."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for name in _HOOKS:
            setattr(self, name, OrderedDict())
        self._patch_step_function()

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The wrapped optimizer's groups: one list, shared."""
        return self.optimizer.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.optimizer.param_groups = groups

    @property
    def state(self) -> Any:
        """The wrapped optimizer's state: one mapping, shared."""
        return self.optimizer.state

    @state.setter
    def state(self, state: Any) -> None:
        self.optimizer.state = state

    @property
    def defaults(self) -> dict[str, Any]:
        """The wrapped optimizer's defaults: one mapping, shared."""
        return self.optimizer.defaults

    @defaults.setter
    def defaults(self, defaults: dict[str, Any]) -> None:
        self.optimizer.defaults = defaults

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients, as the wrapped optimizer does."""
        self.optimizer.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the wrapped optimizer."""
        self.optimizer.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's ``state_dict``: the keys ``state`` and ``param_groups``."""
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        packed = self._pack()
        for after in self._optimizer_state_dict_post_hooks.values():
            packed = after(self, packed) or packed
        return packed

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from the ``state_dict`` of this optimizer or of a plain one of its type.

        Raises:
            ValueError: it is of another type of optimizer or of another model, or none at all.
        """
        state_dict = dict(state_dict)
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = before(self, state_dict) or state_dict
        self._unpack(state_dict)
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    @abstractmethod
    def _pack(self) -> dict[str, Any]:
        """The state_dict, without the hooks' part."""

    @abstractmethod
    def _unpack(self, state_dict: dict[str, Any]) -> None:
        """Load a state_dict, without the hooks' part."""
