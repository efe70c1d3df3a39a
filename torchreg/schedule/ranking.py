"""Which weights a proximal map would keep, as a function of how strong the penalty is."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from torchreg.distributed import View
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
    """One penalised tensor, and what its proximal map at this step depends on."""

    name: str
    weight: Tensor
    step: float | Tensor
    """D, times the number of steps that the map is to act for."""

    penalty: Penalty
    base: Mapping[str, float]
    """The penalty's strengths at factor 1."""

    cost: float
    """What one nonzero weight counts."""

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
    groups = {p: group for group in optimizer.param_groups for p in group["params"]}
    for name, weight, penalty in optimizer.regularizer.items():
        if penalty not in part.bases:
            continue
        step: float | Tensor = 0.0
        view = View.of_all(weight)
        if weight.grad is not None:
            state = optimizer.state.get(weight, {})
            found = view(optimizer.metric(groups[weight], weight, state))
            step = found.bounded(0.0) if isinstance(found, StepSize) else found
            step = step * ahead[penalty] if ahead[penalty] else step
        price = 1.0 if cost is None else float(cost[name])
        yield Ranked(name, view(weight), step, penalty, part.bases[penalty], price)


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
        return sum(one.cost * int(one.kept(factor, score).sum()) for one, score in pairs)

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


def _between(scores: Sequence[Tensor], costs: Sequence[float], budget: float) -> float:
    """The middle between the last score to go and the first to stay."""
    every = torch.cat([score.to(scores[0]) for score in scores])
    if len(set(costs)) == 1:
        keep = min(int(budget / costs[0]), len(every))
        if keep == len(every):
            return 0.0
        last = every.kthvalue(len(every) - keep).values
    else:
        falling, order = every.sort(descending=True)
        cost = torch.cat(
            [every.new_full((len(s),), c, dtype=torch.float64)
             for s, c in zip(scores, costs, strict=True)]
        )  # fmt: skip
        over = cost[order].cumsum(0) > budget
        # The first that does not fit goes, and with it all that rank below.
        last = torch.where(over.any(), falling[over.to(torch.uint8).argmax()], 0.0)
    first = torch.where(every > last, every, torch.inf).min()
    low, high = (float(bound) for bound in torch.stack([last, first]).tolist())
    if math.isnan(low):
        raise ValueError(DIVERGED)
    if low == float("inf"):
        return low
    return low * 1.000001 if high == float("inf") else (low + high) / 2
