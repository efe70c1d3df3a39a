"""What a grouping is, how it is shown, checked against a weight, and undone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Grouping = Callable[[Tensor], Tensor]
"""A function that rearranges a weight as (groups, members), each element exactly once."""


@dataclass(frozen=True)
class Dealt:
    """A grouping with its arguments; its repr is the call that makes it. Compares by value."""

    function: Callable[..., Tensor]
    arguments: tuple[Any, ...]
    name: str
    keywords: tuple[str, ...] = ()
    """What the last of the arguments are called, where they have to be named."""

    def __call__(self, w: Tensor) -> Tensor:
        """Return w as (groups, members)."""
        return self.function(w, *self.arguments)

    def __repr__(self) -> str:
        shown = [name_of(argument) for argument in self.arguments]
        for i, keyword in enumerate(reversed(self.keywords), 1):
            shown[-i] = f"{keyword}={shown[-i]}"
        return f"{self.name}({', '.join(shown)})"


def name_of(grouping: object) -> str:
    """A grouping as a user would write it."""
    return str(getattr(grouping, "__name__", None) or repr(grouping))


def as_grouping(found: object) -> Grouping:
    """Return a grouping, or say why it is none.

    Raises:
        TypeError: it cannot be called.
    """
    if not callable(found):
        raise TypeError(
            f"groups must be a function from a weight to (groups, members), such as "
            f"torchreg.filters or lambda w: w.flatten(1); found "
            f"{'a tensor' if isinstance(found, Tensor) else repr(found)}."
        )
    return found


def check_cover(grouping: Grouping, shape: torch.Size) -> None:
    """Raise unless a grouping takes each element of a weight of this shape exactly once.

    Raises:
        ValueError: it fails on that shape, the result is no matrix, an element is missing or
            there twice, is not the weight's own (arithmetic), goes by its value (a sort), or is
            cut off from gradients (detach).

    Example:
        >>> check_cover(lambda w: w[:, :2], torch.Size([3, 4]))
        Traceback (most recent call last):
            ...
        ValueError: groups=<lambda> takes 6 of the 12 weights of a tensor shaped (3, 4); ...
    """
    positions = torch.arange(shape.numel()).view(shape)
    told = f"groups={name_of(grouping)}"
    try:
        found = grouping(positions)
    except ValueError:  # of a grouping that says itself what is wrong
        raise
    except Exception as error:  # whatever a function of the user's raises
        raise ValueError(
            f"{told} fails on a weight shaped {tuple(shape)} ({type(error).__name__}: {error}). "
            "Select only what it is meant for, or rearrange with view, transpose and flatten."
        ) from error
    if not isinstance(found, Tensor) or found.dim() != 2:
        shaped = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"{told} must return a matrix (groups, members) for a weight shaped {tuple(shape)}, "
            f"found {shaped}: end it with .flatten(1), or .reshape(groups, -1)."
        )
    taken = found.flatten().unique()
    if len(taken) != shape.numel():
        raise ValueError(
            f"{told} takes {len(taken)} of the {shape.numel()} weights of a tensor shaped "
            f"{tuple(shape)}; every weight must be in exactly one group. Select only what it is "
            "meant for, or rearrange with view, transpose and flatten, which leave nothing out."
        )
    if found.numel() != shape.numel():
        raise ValueError(
            f"{told} takes some weights of a tensor shaped {tuple(shape)} more than once "
            f"({found.numel()} members for {shape.numel()} weights). Groups must not overlap."
        )
    # In another order and with another sign, so that what looks at values shows.
    values = -1.0 - positions.double()
    try:
        members, back = split(grouping, values)
        same = torch.equal(members.double(), -1.0 - found) and torch.equal(back(members), values)
    except Exception as error:
        raise ValueError(
            f"{told} fails on a weight shaped {tuple(shape)} that requires gradients "
            f"({type(error).__name__}: {error}). Rearrange with view, transpose and flatten."
        ) from error
    if not same:
        raise ValueError(
            f"{told} does more to a weight shaped {tuple(shape)} than rearrange it: every element "
            "must be returned as it is, at a place that does not depend on the values, and with "
            "its gradient. Use view, transpose, flatten and fixed indices; no arithmetic, sorting "
            "or detach."
        )


def split(grouping: Grouping, w: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """See w as (groups, members), and get the function that puts such a matrix back into w's shape.

    A rearrangement's adjoint is its inverse, so no table of positions is kept.

    Example:
        >>> members, back = split(torch.t, torch.ones(2, 3))
        >>> back(members * torch.tensor([[1.0], [2.0], [3.0]]))
        tensor([[1., 2., 3.],
                [1., 2., 3.]])
    """
    members: Tensor
    adjoint: Callable[[Tensor], tuple[Tensor]]
    members, adjoint = torch.func.vjp(grouping, w.detach())  # type: ignore[misc]
    return members, lambda matrix: adjoint(matrix)[0]
