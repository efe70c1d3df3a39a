"""Attributes of penalties that hold a number, checked whenever they are set."""

import math
from abc import ABC, abstractmethod
from numbers import Real
from typing import Any, Self, overload

from torch import Tensor


class Checked(ABC):
    """An attribute that holds a float: assigning to it, as a schedule does, checks it too."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> float: ...
    def __get__(self, instance: object | None, owner: type) -> "Self | float":
        if instance is None:
            return self
        value: float = instance.__dict__["_" + self.name]
        return value

    def __set__(self, instance: object, value: Any) -> None:
        instance.__dict__["_" + self.name] = self.check(value)

    @abstractmethod
    def check(self, value: Any) -> float:
        """The value as a float, or an error that says what is wrong with it."""


class Strength(Checked):
    """A strength: finite and at least zero."""

    def check(self, value: Any) -> float:
        """:func:`as_strength`."""
        return as_strength(self.name, value)


class Above(Checked):
    """A finite number above a bound.

    Args:
        bound: the largest number that is refused.
    """

    def __init__(self, bound: float) -> None:
        self.bound = bound

    def check(self, value: Any) -> float:
        """Told with the bound that holds here, where :func:`as_strength` tells another."""
        odd = isinstance(value, int | float) and not 0 <= value < math.inf
        number = float(value) if odd else as_strength(self.name, value)
        if not self.bound < number < math.inf:
            raise ValueError(
                f"{self.name} must be above {self.bound} and finite, found {number:.12g}."
            )
        return number


class Share(Checked):
    """A number from 0 to 1."""

    def check(self, value: Any) -> float:
        """:func:`as_strength`, and no more than all."""
        number = as_strength(self.name, value)
        if number > 1:
            raise ValueError(f"{self.name} must be between 0 and 1, found {number:.12g}.")
        return number


def as_strength(name: str, value: Any) -> float:
    """Return value as a float, or say why it is no strength.

    Raises:
        TypeError: not a number (a bool, a string, a tensor of several elements).
        ValueError: negative, NaN or infinite.
    """
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f"{name} must be a number such as 1e-4, found {value!r} of type {type(value).__name__}."
        )
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or number < 0:
        raise ValueError(f"{name} must be a finite number of at least 0, found {number}.")
    return number
