"""A density for each layer by itself, in channels that a processor's vectors are filled by."""

import math
from numbers import Real
from typing import Any

import torch

from torchreg.groups.dealing import positive
from torchreg.penalties import Penalty
from torchreg.penalties.grouped import Grouped
from torchreg.regularizer import Regularizer


def layer_densities(
    regularizer: Regularizer, density: float, *, multiple_of: int = 1
) -> dict[str, float]:
    """The density of every penalised tensor, as :class:`torchreg.TargetSparsity` takes them.

    Weights in front of a normalisation have no scale of their own, so that one ranking over all
    layers compares what does not compare; with a density each, no layer is ranked against another.
    And a layer of 22 channels takes about as long as one of 32, where a processor computes 16 at a
    time: ``multiple_of=16`` rounds what each layer keeps.

    Args:
        regularizer: with a penalty of its own for every tensor, see the example.
        density: of each tensor, before it is rounded; above 0 and below 1.
        multiple_of: what is kept is the nearest multiple of so many groups of the penalty (weights,
            where it has none), and at least one multiple; all of them where there are no more.

    Raises:
        ValueError: a density outside (0, 1), a multiple below 1.

    Returns:
        By the name of each parameter, above 0 and at most 1.

    Example:
        >>> import torchreg as tr
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)
        ... )
        >>> groups = tr.removable_groups(model, torch.zeros(2, 8))
        >>> regularizer = tr.Regularizer(
        ...     model, {name: tr.GroupL0(1.0, groups=one) for name, one in groups.items()}
        ... )
        >>> layer_densities(regularizer, 0.4, multiple_of=16)
        {'2.weight': 0.5}
    """
    given: Any = density
    number = isinstance(given, Real) and not isinstance(given, bool)
    if not number or not 0 < density < 1:
        raise ValueError(f"expected a density above 0 and below 1, found {density!r}.")
    multiple_of = positive("multiple_of", multiple_of)
    found = {}
    for name, weight, penalty in regularizer.items():
        if count := _groups(penalty, weight.shape):
            multiples = max(1, math.floor(density * count / multiple_of + 0.5))
            found[name] = min(1.0, multiples * multiple_of / count)
    return found


def _groups(penalty: Penalty, shape: torch.Size) -> int:
    if isinstance(penalty, Grouped):
        return len(penalty.members(torch.empty(shape, device="meta")))
    return shape.numel()
