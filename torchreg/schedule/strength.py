"""Strengths that follow a shape over time, stepped like a learning rate."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

from torch import Tensor

from torchreg.penalties.attributes import Strength, as_strength
from torchreg.penalties.base import Penalty
from torchreg.regularizer import Regularizer, check_regularizer
from torchreg.schedule.shapes import Shape


def strengths(penalty: Penalty) -> dict[str, float]:
    """The strength attributes of a penalty by name: ``l1``, or ``l1`` and ``l2``, ..."""
    names = {n for kind in type(penalty).__mro__ for n, v in vars(kind).items()
             if isinstance(v, Strength)}  # fmt: skip
    return {name: getattr(penalty, name) for name in sorted(names)}


def scale(penalty: Penalty, base: dict[str, float], factor: float) -> None:
    """Make a penalty ``factor`` times what it was at the strengths ``base``."""
    for name, strength in base.items():
        setattr(penalty, name, strength * factor)


def own_penalties(regularizer: Regularizer) -> list[Penalty]:
    """The penalties of a regularizer's terms, each once, in order.

    Raises:
        TypeError: no Regularizer.
        ValueError: a penalty without a strength to set.
    """
    check_regularizer(regularizer)
    penalties = list(dict.fromkeys(term.penalty for term in regularizer.terms))
    for penalty in penalties:
        if not strengths(penalty):
            raise ValueError(f"{penalty!r} has no strength that could be set.")
    return penalties


def same_strengths(
    own: Iterable[Mapping[str, float]], others: Iterable[Mapping[str, float]]
) -> None:
    """Refuse a state whose penalties have other strengths than those here."""
    for mine, other in zip(own, others, strict=True):
        if mine.keys() != other.keys():
            raise ValueError(
                f"this state is of a penalty with {', '.join(other)}, the one here has "
                f"{', '.join(mine)}: give the same kind of penalty."
            )


class StrengthSchedule:
    """Multiply penalties by a shape over time, stepped like a learning-rate scheduler.

    The strengths that the penalties have when the schedule is made are its bases: from then on
    each is ``base * shape(steps)``, with the number of ``step()`` calls. Call it once per
    optimizer step or once per epoch, in whichever the shape counts. All strengths of a penalty
    move together, so the ratio of an elastic net stays. It works for a penalty in the loss and
    for one in the proximal optimizer.

    Args:
        regularizer: its penalties' strengths are set.
        shape: a function from the number of steps done to a factor, such as
            :func:`torchreg.schedule.cosine`; or one for each term of the regularizer, in order.

    Raises:
        TypeError: no Regularizer, or a shape that cannot be called.
        ValueError: another number of shapes than of penalties; a penalty without a strength; or,
            from ``step``, a factor that is negative or not finite.

    Example:
        >>> import torch
        >>> import torchreg as tr
        >>> regularizer = tr.Regularizer(torch.nn.Linear(4, 2), tr.L1(0.1))
        >>> schedule = StrengthSchedule(regularizer, tr.schedule.warmup(4))
        >>> found = schedule.get_last_strength()
        >>> for _ in range(4):
        ...     schedule.step()
        ...     found += schedule.get_last_strength()
        >>> [round(strength, 4) for strength in found]
        [0.0, 0.025, 0.05, 0.075, 0.1]
    """

    def __init__(self, regularizer: Regularizer, shape: Shape | Sequence[Shape]) -> None:
        self.penalties = own_penalties(regularizer)
        given: Any = shape
        if not callable(given) and (isinstance(given, str) or not isinstance(given, Sequence)):
            raise TypeError(
                "a shape is a function from a step to a factor, such as "
                f"torchreg.schedule.cosine(100), found {shape!r}."
            )
        shapes = [shape] * len(self.penalties) if callable(shape) else list(shape)
        if len(shapes) != len(self.penalties):
            raise ValueError(
                f"found {len(shapes)} shapes for {len(self.penalties)} penalties: give one shape "
                "for all, or one for each term of the regularizer, in order."
            )
        if wrong := [one for one in shapes if not callable(one)]:
            raise TypeError(f"a shape is a function from a step to a factor, found {wrong[0]!r}.")
        self.shapes = shapes
        self.bases = [strengths(penalty) for penalty in self.penalties]
        self._set(0)

    def step(self) -> None:
        """Count one step, and set the strengths of the next."""
        if not self.steps and not any(any(base.values()) for base in self.bases):
            warnings.warn(
                "every strength was 0 when the StrengthSchedule was made, and no factor changes "
                "that: set the strengths first.",
                stacklevel=2,
            )
        self._set(self.steps + 1)

    def _set(self, steps: int) -> None:
        """Set the strengths of a number of steps, all of them or, where a shape fails, none."""
        factors = []
        for shape in self.shapes:
            factor: Any = shape(steps)
            if not isinstance(factor, Real | Tensor):
                raise TypeError(f"a shape must return a number, found {factor!r}.")
            factors.append(as_strength("a factor", float(factor)))
        self.steps = steps
        for penalty, base, one in zip(self.penalties, self.bases, factors, strict=True):
            scale(penalty, base, one)

    def get_last_strength(self) -> list[float]:
        """The strength of each penalty as it is set now (``penalty.strength``)."""
        return [penalty.strength for penalty in self.penalties]

    def state_dict(self) -> dict[str, Any]:
        """The steps done and the bases; shapes are functions, and belong to the program."""
        return {"steps": self.steps, "bases": [dict(base) for base in self.bases]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a ``state_dict``, and set the strengths as they were."""
        if missing := {"steps", "bases"} - set(state_dict or {}):
            raise ValueError(
                f"this is no state of a StrengthSchedule: it lacks {', '.join(sorted(missing))}."
            )
        if len(state_dict["bases"]) != len(self.penalties):
            raise ValueError(
                f"this state is of {len(state_dict['bases'])} penalties, the schedule has "
                f"{len(self.penalties)}."
            )
        same_strengths(self.bases, state_dict["bases"])
        before = self.bases
        self.bases = [dict(base) for base in state_dict["bases"]]
        try:
            self._set(state_dict["steps"])
        except (TypeError, ValueError):
            self.bases = before
            raise
