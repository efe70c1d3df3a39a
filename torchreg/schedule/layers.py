"""A density for each layer by itself, in channels that a processor's vectors are filled by."""

import math

import torch

from torchreg.bundle import Bundle
from torchreg.groups.dealing import positive
from torchreg.penalties.grouped import Grouped
from torchreg.regularizer import Regularizer, check_regularizer
from torchreg.schedule.parts import check_density


def layer_densities(
    regularizer: Regularizer, density: float, *, multiple_of: int = 1
) -> dict[str | tuple[str, ...], float]:
    """The density of every penalised tensor, as :class:`torchreg.TargetSparsity` takes them.

    Weights in front of a normalisation have no scale of their own, so that one ranking over all
    layers compares what does not compare; with a density each, no layer is ranked against another.
    And processors compute 8 or 16 channels at a time, whether there are as many or not:
    ``multiple_of=16`` rounds what each layer keeps.

    Args:
        regularizer: with a penalty of its own for every tensor, see the example.
        density: of each tensor, before it is rounded; above 0 and below 1.
        multiple_of: what is kept is the nearest multiple of so many groups of the penalty (weights,
            where it has none), and at least one multiple; all of them where there are no more.

    Raises:
        TypeError: no Regularizer.
        ValueError: a density outside (0, 1); a multiple below 1, or at which every layer would
            stay whole; a multiple of groups from a penalty that also zeroes single weights.

    Returns:
        By the name of each parameter (the names of those of joint groups), above 0 and at most 1.

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
    check_density(density, whole=False)
    multiple_of = positive("multiple_of", multiple_of)
    check_regularizer(regularizer)
    counts = {
        _key(bundle): _count(bundle, multiple_of)
        for bundle in regularizer.bundles()
        if any(weight.numel() for weight in bundle.parameters.values())
    }
    found: dict[str | tuple[str, ...], float] = {}
    for name, count in counts.items():
        multiples = max(1, math.floor(float(density) * count / multiple_of + 0.5))
        found[name] = min(1.0, multiples * multiple_of / count)
    if found and all(share == 1 for share in found.values()):
        raise ValueError(
            f"with multiple_of={multiple_of} every layer would stay whole: there are "
            f"{', '.join(f'{count} in {name}' for name, count in counts.items())}. Ask for a "
            f"smaller density{' or multiple' if multiple_of > 1 else ''}."
        )
    return found


def _key(bundle: Bundle) -> str | tuple[str, ...]:
    return bundle.name if bundle.joint is None else tuple(bundle.parameters)


def _count(bundle: Bundle, multiple_of: int) -> int:
    penalty = bundle.penalty
    seen = {n: torch.empty(w.shape, device="meta") for n, w in bundle.parameters.items()}
    shape = bundle.whole(seen).shape
    if not isinstance(penalty, Grouped):
        return shape.numel()
    if penalty.whole:
        return len(penalty.members(torch.empty(shape, device="meta")))
    if multiple_of > 1:
        raise ValueError(
            f"{penalty!r} also zeroes single weights, so a density does not count groups. Use "
            "GroupL0, GroupLasso or GroupMCP, or multiple_of=1."
        )
    return shape.numel()
