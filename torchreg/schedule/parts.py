"""Which penalties share a density, and whether that density can be reached at all."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import nn

from torchreg.penalties import Penalty
from torchreg.proximal import ProximalOptimizer
from torchreg.regularizer import Regularizer
from torchreg.schedule.strength import own_penalties, scale, strengths
from torchreg.selection import Where, slots

Acts = Mapping[Penalty, list[tuple[str, nn.Parameter]]]
"""Where each penalty acts."""


@dataclass
class Part:
    """What one density is asked of: penalties that share one factor."""

    density: float
    """1 asks for nothing: no strength is found, and no zero is held."""

    bases: dict[Penalty, dict[str, float]]
    """The penalties, with their strengths at factor 1."""

    total: float
    """The cost of all of their weights, zeros included."""

    factor: float = 0.0
    """By which their strengths are multiplied now."""

    def set(self, factor: float) -> None:
        """Multiply the strengths."""
        self.factor = factor
        for penalty, base in self.bases.items():
            scale(penalty, base, factor)

    def check_untouched(self) -> None:
        """Raise a RuntimeError if something else has set the strengths since."""
        for penalty, base in self.bases.items():
            own = {name: strength * self.factor for name, strength in base.items()}
            if (found := strengths(penalty)) != own:
                raise RuntimeError(
                    f"TargetSparsity has set a penalty's strengths to {own}, and something "
                    f"else (a StrengthSchedule?) to {found} since: leave one of the two out."
                )


def parts(
    optimizer: ProximalOptimizer,
    density: float | Mapping[Any, float],
    cost: Mapping[str, float] | None,
) -> Iterator[Part]:
    """Divide the penalties of an optimizer by the densities that are asked for.

    Raises:
        ValueError: what cannot be reached, see :class:`torchreg.TargetSparsity`.
    """
    regularizer = optimizer.regularizer
    selection = regularizer.selection()
    held = {p for group in optimizer.param_groups for p in group["params"]}
    if missing := [name for name, p in selection.items() if p not in held]:
        raise ValueError(
            f"the optimizer does not hold {', '.join(missing)}: the density of weights that it "
            "does not move cannot be brought anywhere. Leave them out of the regularizer."
        )
    lacking = [n for n in selection if cost is not None and not 0 <= cost.get(n, -1.0) < math.inf]
    if lacking:
        raise ValueError(f"cost has no finite number of at least 0 for {', '.join(lacking)}.")
    acts: Acts = {
        p: [(n, w) for n, w, q in regularizer.items() if q is p] for p in own_penalties(regularizer)
    }
    if not isinstance(density, Mapping):
        yield _part(density, list(acts), acts, cost, whole=False)
        return
    if not density:
        raise ValueError("the mapping of densities is empty: give a selection its density.")
    taken: set[Penalty] = set()
    for where, one in density.items():
        penalties = _exactly(regularizer, where, acts)
        if twice := taken.intersection(penalties):
            raise ValueError(f"two densities are asked of {next(iter(twice))!r}.")
        taken.update(penalties)
        yield _part(one, penalties, acts, cost, whole=True)


def _exactly(regularizer: Regularizer, where: Where, acts: Acts) -> list[Penalty]:
    """The penalties that act on a selection and nowhere else."""
    selected = {slot.parameter for slot in slots(regularizer.model, where)}
    found = [p for p, at in acts.items() if not selected.isdisjoint(w for _, w in at)]
    outside = [name for p in found for name, w in acts[p] if w not in selected]
    if not found or outside:
        also = f"its penalty also acts on {', '.join(outside)}"
        told = also if outside else "no penalty acts there"
        raise ValueError(
            f"a density is asked of {where!r}, but {told}. Give each selection that has a "
            "density a penalty of its own: Regularizer(model, {selection: penalty, ...})."
        )
    return found


def _part(
    density: float,
    penalties: list[Penalty],
    acts: Acts,
    cost: Mapping[str, float] | None,
    *,
    whole: bool,
) -> Part:
    check_density(density, whole=whole)
    costs = [(1.0 if cost is None else cost[n], w.numel()) for p in penalties for n, w in acts[p]]
    total = sum(cost * count for cost, count in costs)
    if total == 0:
        raise ValueError("there is nothing to make sparse: no weight, or none that costs anything.")
    if density * total < min(cost for cost, count in costs if count and cost > 0):
        raise ValueError(
            f"a density of {density:g} is less than one of the {sum(c for _, c in costs):,} "
            "weights: ask for more."
        )
    return Part(density, {p: strengths(p) for p in penalties}, total)


def check_density(density: float, *, whole: bool) -> None:
    """Raise a ValueError unless it is above 0 and below 1; 1 is one as well where ``whole`` is."""
    given: Any = density
    number = isinstance(given, Real | torch.Tensor) and not isinstance(given, bool)
    if not number or not 0 < density <= 1 or (density == 1 and not whole):
        most = "at most 1" if whole else "below 1"
        raise ValueError(f"expected a density above 0 and {most}, found {density!r}.")


def jumping(regularizer: Regularizer) -> set[Penalty]:
    """The penalties under which every zero is stationary: their maps remove a weight at once.

    Raises:
        ValueError: a penalty that makes no zeros, or has strength 0.
    """
    found = set()
    for bundle in regularizer.bundles():
        penalty = bundle.penalty
        if not any(weight.numel() for weight in bundle.parameters.values()):
            continue
        if not penalty.strength > 0:
            raise ValueError(
                f"{penalty!r} has strength 0, and no multiple of it makes zeros. Give it any "
                "positive one, such as 1.0: the strength is found from there. (A TargetSparsity "
                "on the same penalty sets it to 0: detach that, and set the strength again.)"
            )
        ones = bundle.whole(
            {name: torch.ones_like(w.detach()) for name, w in bundle.parameters.items()}
        )
        critical = penalty.critical_strength(ones)
        kept = penalty.keeps(ones, 1e30)  # elastic net without l1 shrinks, no more
        if critical == float("inf") or bool(kept.all()):
            raise ValueError(
                f"{penalty!r} zeroes {bundle.name} at no strength, so a density cannot be asked of "
                "it. Use L0, L1, ElasticNet, GroupLasso or GroupL0."
            )
        if critical == 0:
            found.add(penalty)
    return found
