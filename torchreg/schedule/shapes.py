"""Shapes: functions of the number of steps done, for strengths and for densities.

Each constructor returns a function from a step, counted from 0, to a number. Ramps go from
``start`` to ``end`` over ``steps`` steps and stay there.
"""

import math
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any

Shape = Callable[[int], float]


def linear(steps: int, start: float = 0.0, end: float = 1.0) -> Shape:
    """A straight line from ``start`` to ``end``.

    Raises:
        ValueError: ``steps`` is not a non-negative integer.

    Example:
        >>> [linear(4)(step) for step in range(6)]
        [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    """
    return _ramp(steps, start, end, lambda t: t)


def cosine(steps: int, start: float = 0.0, end: float = 1.0) -> Shape:
    """Half a period of a cosine: slow at both ends.

    Example:
        >>> [round(cosine(4)(step), 3) for step in range(5)]
        [0.0, 0.146, 0.5, 0.854, 1.0]
    """
    return _ramp(steps, start, end, lambda t: (1 - math.cos(math.pi * t)) / 2)


def cubic(steps: int, start: float = 0.0, end: float = 1.0) -> Shape:
    """``end + (start - end) * (1 - t)^3``: fast at first, slow towards the end.

    As a ramp of the density it removes weights fast while many are idle, and the last ones with
    care. Source: M. Zhu and S. Gupta, "To prune, or not to prune" (2017).

    Example:
        >>> [round(cubic(4, start=1.0, end=0.1)(step), 3) for step in range(5)]
        [1.0, 0.48, 0.213, 0.114, 0.1]
    """
    return _ramp(steps, start, end, lambda t: 1 - (1 - t) ** 3)


def warmup(steps: int, then: Shape | None = None) -> Shape:
    """A straight line from 0 to 1 over ``steps``, times 1 or another shape begun after it.

    Args:
        steps: the length of the line.
        then: what follows; its steps count from the end of the line. None stays at 1.

    Example:
        >>> [warmup(2, then=linear(2, 1.0, 0.5))(step) for step in range(5)]
        [0.0, 0.5, 1.0, 0.75, 0.5]
    """
    rise = linear(steps)
    return lambda step: rise(step) * (1.0 if then is None else then(max(step - steps, 0)))


def piecewise(values: Mapping[int, float]) -> Shape:
    """Constants: each value holds from its step on, until the next one's.

    Args:
        values: by the step from which they hold; step 0 must be among them.

    Raises:
        ValueError: no value for step 0.

    Example:
        >>> [piecewise({0: 1.0, 2: 0.5, 3: 0.0})(step) for step in range(5)]
        [1.0, 1.0, 0.5, 0.0, 0.0]
    """
    if 0 not in values:
        raise ValueError(f"piecewise needs a value for step 0, found steps {sorted(values)}.")
    begins = sorted(values.items())
    return lambda step: next(value for begin, value in reversed(begins) if begin <= step)


def _ramp(steps: int, start: float, end: float, along: Callable[[float], float]) -> Shape:
    given: Any = steps
    if not isinstance(given, Integral) or int(given) < 0:
        raise ValueError(f"steps must be a non-negative integer, found {steps!r}.")

    def shape(step: int) -> float:
        if step >= steps:
            return end
        return start + (end - start) * along(step / steps)

    return shape
