"""A wrapped optimizer is stepped through its wrapper, and through one wrapper only."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

from torch.optim import Optimizer


class StepGuard:
    """A step hook on the wrapped optimizer that stops whatever would step past the wrapper.

    Such a step would leave the penalty out and tell nobody. It is stopped before anything
    moves. The wrapper is held weakly: once it is gone, or has released it, the optimizer is as
    free as before, and so is a copy of the optimizer. A step at lr = 0, by which the distributed
    checkpoint makes a cold optimizer's state, moves nothing and may pass.
    """

    def __init__(self) -> None:
        self._wrapper: Callable[[], Optimizer | None] = lambda: None
        self._open = False

    @classmethod
    def take(cls, optimizer: Optimizer, wrapper: Optimizer) -> Self:
        """Make ``wrapper`` the one through which ``optimizer`` is stepped from now on."""
        hooks = optimizer._optimizer_step_pre_hooks.values()
        guard = next((hook for hook in hooks if isinstance(hook, cls)), None)
        if guard is None:
            guard = cls()
            optimizer.register_step_pre_hook(guard)
        guard._wrapper = weakref.ref(wrapper)
        return guard

    @contextmanager
    def stepping(self, wrapper: Optimizer) -> Iterator[None]:
        """Let the wrapper step.

        Raises:
            RuntimeError: another wrapper has taken the optimizer since.
        """
        if self._wrapper() is None:
            self._wrapper = weakref.ref(wrapper)
        if self._wrapper() is not wrapper:
            raise RuntimeError(
                "the optimizer inside has been given to another ProximalOptimizer since; stepping "
                "both would take each step twice. Step the newer one, whose Regularizer holds all "
                "penalties: a mapping gives each layer its own."
            )
        self._open = True
        try:
            yield
        finally:
            self._open = False

    def release(self, wrapper: Optimizer) -> None:
        """Let the optimizer be stepped on its own again, unless another wrapper has it."""
        if self._wrapper() is wrapper:
            self._wrapper = lambda: None

    def __call__(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        """Raise unless the wrapper is stepping, or nothing would move."""
        if self._open or self._wrapper() is None:
            return
        if any(group.get("lr", 1.0) != 0 for group in optimizer.param_groups):
            raise RuntimeError(
                f"{type(optimizer).__name__} would step without the penalty. Step the "
                "ProximalOptimizer around it (in Lightning, what self.optimizers() returns); to "
                "leave the penalty out for a while, set its strength to 0; to have the optimizer "
                "back, call release() on the ProximalOptimizer."
            )
