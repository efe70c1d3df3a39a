"""Which weights a proximal map would keep, as a function of how strong the penalty is."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from torchreg.bundle import Bundle
from torchreg.distributed import View
from torchreg.joint_step import joint_step_size
from torchreg.metrics import StepSize
from torchreg.penalties import Penalty
from torchreg.proximal import ProximalOptimizer
from torchreg.schedule.parts import Part
from torchreg.schedule.strength import scale

DIVERGED = (
    "the penalised weights are not finite: the training has diverged. Lower the learning rate, and "
    "look for NaN in the data."
)


class Ranked(NamedTuple):
    """What one penalty acts on at once, and what its proximal map at this step depends on."""

    bundle: Bundle
    weight: Tensor
    """Whole, where it is sharded; gathered, where its groups are joint."""

    step: float | Tensor
    """D, times the number of steps that the map is to act for."""

    base: Mapping[str, float]
    """The penalty's strengths at factor 1."""

    cost: float | Tensor
    """What one nonzero weight counts: one number, or one for each weight."""

    @property
    def penalty(self) -> Penalty:
        """The penalty."""
        return self.bundle.penalty

    def score(self) -> Tensor | None:
        """The factor at which each weight becomes zero, where that has a closed form."""
        scale(self.penalty, dict(self.base), 1.0)
        step = torch.as_tensor(self.step, dtype=self.weight.abs().dtype, device=self.weight.device)
        score = self.penalty.zeroing_factor(self.weight, step)
        if score is None:
            return None
        # Zero by itself is zero at any factor; zero within a group goes and stays as the group.
        return torch.where((self.weight == 0) & score.isnan(), 0.0, score)

    def kept(self, factor: float, score: Tensor | None) -> Tensor:
        """What the proximal map keeps, as bools shaped like the weight; a group counts whole.

        Args:
            factor: of the penalty's strengths; they are set to it where there is no score.
            score: of :meth:`score`.
        """
        if score is not None:
            return score > factor
        scale(self.penalty, dict(self.base), factor)
        return self.penalty.keeps(self.weight, self.step)

    def spent(self, kept: Tensor) -> float:
        """What the weights that are kept cost."""
        if isinstance(self.cost, Tensor):
            return float((self.cost * kept).sum())
        return self.cost * int(kept.sum())

    def dearest(self) -> float:
        """What the dearest weight costs."""
        return float(self.cost.max()) if isinstance(self.cost, Tensor) else self.cost


def ranked(
    optimizer: ProximalOptimizer,
    part: Part,
    cost: Mapping[str, float] | None,
    ahead: Mapping[Penalty, int],
) -> Iterator[Ranked]:
    """What the penalties of a part act on, after the optimizer's move.

    Args:
        optimizer: whose step sizes are meant; a parameter without a gradient does not move.
        part: penalties that share one factor.
        cost: by parameter name; None for 1 each.
        ahead: in how many steps each penalty is to zero what it should; 0 for one that jumps.
    """
    found = optimizer.step_sizes()
    for bundle in optimizer.regularizer.bundles():
        if bundle.penalty not in part.bases:
            continue
        step: StepSize | float | Tensor
        if bundle.joint is None:
            (parameter,) = bundle.parameters.values()
            step = View.of_all(parameter)(found(parameter))
        else:
            step = joint_step_size(bundle, found)
        step = step.bounded(0.0) if isinstance(step, StepSize) else step
        step = step * ahead[bundle.penalty] if ahead[bundle.penalty] else step
        weight = bundle.whole(bundle.parameters)
        yield Ranked(bundle, weight, step, part.bases[bundle.penalty], _cost(bundle, cost, weight))


def _cost(bundle: Bundle, cost: Mapping[str, float] | None, weight: Tensor) -> float | Tensor:
    """What a nonzero weight counts: a number where it is the same for all of the bundle."""
    prices = {name: 1.0 if cost is None else float(cost[name]) for name in bundle.parameters}
    if len(set(prices.values())) == 1:
        return next(iter(prices.values()))
    return bundle.whole(
        {
            name: torch.full(p.shape, prices[name], dtype=torch.float64, device=weight.device)
            for name, p in bundle.parameters.items()
        }
    )


def smallest_factor(
    among: Sequence[Ranked], scores: Sequence[Tensor | None], budget: float, guess: float
) -> float:
    """The smallest factor at which the nonzero weights cost at most the budget.

    It reads the device's values: once where every score has a closed form, else once for each
    step of a bisection.

    Args:
        among: tensors whose penalties share one factor; a bisection changes their strengths.
        scores: one of each.
        budget: the sum of the costs of what may be kept.
        guess: where a bisection begins.

    Returns:
        A factor between that of the last weight to go and that of the first to stay; infinite where
        no factor up to 1e30 suffices.
    """
    budget *= 1 + 1e-12  # a density times a count is rounded
    if all(score is not None for score in scores):
        flat = [score.flatten() for score in scores if score is not None]
        return _between(flat, [one.cost for one in among], budget)

    def spent(factor: float) -> float:
        pairs = zip(among, scores, strict=True)
        return sum(one.spent(one.kept(factor, score)) for one, score in pairs)

    if not all(bool(torch.isfinite(one.weight).all()) for one in among):
        raise ValueError(DIVERGED)
    high = guess if guess > 0 else 1.0
    while spent(high) > budget:
        high *= 4
        if high > 1e30:
            return float("inf")
    low = high / 4
    while low > 1e-30 and spent(low) <= budget:
        high, low = low, low / 4
    while high > low * (1 + 1e-6):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if spent(middle) > budget else (low, middle)
    return high


def _between(scores: Sequence[Tensor], costs: Sequence[float | Tensor], budget: float) -> float:
    """The middle between the last score to go and the first to stay."""
    every = torch.cat([score.to(scores[0]) for score in scores])
    prices = {cost for cost in costs if not isinstance(cost, Tensor)}
    if len(prices) == 1 and not any(isinstance(cost, Tensor) for cost in costs):
        keep = min(int(budget / prices.pop()), len(every))
        if keep == len(every):
            return 0.0
        last = every.kthvalue(len(every) - keep).values
    else:
        falling, order = every.sort(descending=True)
        cost = torch.cat(
            [c.flatten().to(every.device) if isinstance(c, Tensor)
             else every.new_full((len(s),), c, dtype=torch.float64)
             for s, c in zip(scores, costs, strict=True)]
        )  # fmt: skip
        over = cost[order].cumsum(0) > budget
        # The first that does not fit goes, and with it all that rank below.
        last = falling.masked_fill(~over, 0.0).max()
    first = torch.where(every > last, every, torch.inf).min()
    low, high = (float(bound) for bound in torch.stack([last, first]).tolist())
    if math.isnan(low):
        raise ValueError(DIVERGED)
    if low == float("inf"):
        return low
    if high == float("inf"):
        return low * 1.000001
    middle = (low + high) / 2
    return middle if float(torch.tensor(middle, dtype=every.dtype)) < high else low
