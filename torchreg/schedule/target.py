"""Ask for a sparsity instead of a strength."""

import warnings
from collections.abc import Mapping
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from torchreg.distributed import View, local
from torchreg.proximal import ProximalOptimizer
from torchreg.schedule.parts import Part, jumping, parts
from torchreg.schedule.ranking import Ranked, ranked, smallest_factor
from torchreg.schedule.shapes import cubic
from torchreg.schedule.strength import own_penalties, same_strengths, strengths


class TargetSparsity:
    """Bring a training to a density, and hold it there, without a strength to tune.

    Attached to a :class:`torchreg.ProximalOptimizer` it acts in each of its steps; nothing else
    is to be called. The density of the penalised weights follows a cubic ramp from 1 down to the
    one asked for. Every few steps, between the wrapped optimizer's move and the proximal map, it
    sets the strength to the smallest that leaves the wanted number of weights. At the end of the
    ramp (or at ``hold``) the support is fixed and the penalty is lifted from it: the rest of the
    training recovers what shrinkage has cost, and the density stays.

    - Under :class:`torchreg.L0` (and LHalf, which jumps as well) the ranking is the proximal map
      in the optimizer's own metric: the largest ``w^2 / D`` stay, under Adam ``w^2 * sqrt(v)``.
    - A penalty that shrinks (L1, elastic net, groups, ...) is given ``horizon`` steps to zero
      what is in excess, so that one noisy step does not shrink what it keeps.

    The strengths that the penalties have at first say how they compare with each other, and
    nothing else: all are multiplied by one factor, 0 before ``begin``.

    Weights that are sharded (FSDP2, tensor parallelism) are gathered on every rank to be ranked, at
    every so many steps; their checkpointed support is sharded like them.

    Args:
        optimizer: holds all of the penalised parameters.
        density: nonzero weights over all penalised weights, above 0 and below 1; a group counts
            whole. Or a mapping from what to select (as in :func:`torchreg.select`) to a density
            each, such as :func:`torchreg.schedule.layer_densities`: a selection must be exactly
            what one or more of the regularizer's penalties act on, and 1 asks nothing of it.
        end: the optimizer step at which the ramp has come down.
        begin: the step at which it starts, after a dense warm-up.
        hold: the step from which the support is fixed. Default: ``end``.
        every: set the strength at every so many steps. 1 costs a selection over all weights
            (and one host synchronisation) per step.
        horizon: in how many steps a penalty that shrinks is to reach the density.
        cost: what one nonzero weight counts, by parameter name; the density is then a share of
            the total cost. With :func:`torchreg.schedule.multiply_adds` it is a budget of FLOPs.
        at_most: take the strengths as given for the least, raise them only where the density
            would be above the one asked for, and keep them when the support is fixed.

    Raises:
        TypeError: the optimizer is not proximal; a cost that is no mapping.
        ValueError: a density out of its range, or below one weight; a penalty that makes no zeros
            (L2) or has strength 0; steps out of order; a parameter that the optimizer lacks; a
            cost that is missing or negative; a selection that cuts through a penalty's.
        RuntimeError: from ``step``, no strength reaches the density, or groups are so large that
            it leaves none; something else has set the strengths as well, or has replaced the
            penalties before the density was held.

    Warns:
        UserWarning: from ``step``, the density that is held is more than 2 % (relative) below the
            one asked for: groups are too large, or weights were zero already.

    Example:
        >>> import torch
        >>> import torchreg as tr
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Linear(50, 2)
        >>> x = torch.randn(256, 50)
        >>> y = x[:, :2] + x[:, 2:4]
        >>> regularizer = tr.Regularizer(model, tr.L0(1.0))
        >>> optimizer = tr.ProximalOptimizer(
        ...     torch.optim.Adam(model.parameters(), lr=0.05), regularizer
        ... )
        >>> target = TargetSparsity(optimizer, density=0.04, end=200)
        >>> for _ in range(300):
        ...     optimizer.zero_grad()
        ...     torch.nn.functional.mse_loss(model(x), y).backward()
        ...     optimizer.step()
        >>> model.weight.nonzero().tolist()
        [[0, 0], [0, 2], [1, 1], [1, 3]]

    Source: M. Zhu and S. Gupta, "To prune, or not to prune" (2017) for the ramp; the ranking is
    the proximal map of l0 in a diagonal metric (J. Yun, A. Lozano and E. Yang, 2021).
    """

    def __init__(
        self,
        optimizer: ProximalOptimizer,
        density: float | Mapping[Any, float],
        *,
        end: int,
        begin: int = 0,
        hold: int | None = None,
        every: int = 16,
        horizon: int = 100,
        cost: Mapping[str, float] | None = None,
        at_most: bool = False,
    ) -> None:
        if not isinstance(optimizer, ProximalOptimizer):
            raise TypeError(
                f"expected a torchreg.ProximalOptimizer, found {type(optimizer).__name__}: only "
                "its proximal map makes exact zeros."
            )
        hold = end if hold is None else hold
        whole = all(isinstance(n, Integral) for n in (begin, end, hold, every, horizon))
        if not (whole and 0 <= begin <= end <= hold and every >= 1 and horizon >= 1):
            raise ValueError(
                f"expected integers 0 <= begin <= end <= hold, every >= 1 and horizon >= 1; found "
                f"begin={begin}, end={end}, hold={hold}, every={every}, horizon={horizon}."
            )
        self.optimizer = optimizer
        self.begin, self.end, self.hold = begin, end, hold
        self.every, self.horizon, self.at_most = every, horizon, at_most
        if cost is not None and not isinstance(cost, Mapping):
            raise TypeError(
                f"cost must be a mapping from parameter names to numbers, such as "
                f"torchreg.schedule.multiply_adds returns; found {cost!r}."
            )
        self.cost = None if cost is None else dict(cost)
        self.steps = 0
        """Optimizer steps taken so far."""
        self._bases = {p: strengths(p) for p in own_penalties(optimizer.regularizer)}
        self._zeroed: dict[str, Tensor] = {}
        jump = jumping(optimizer.regularizer)
        self._ahead = {p: 0 if p in jump else horizon for p in self._bases}
        self._parts = list(parts(optimizer, density, self.cost))
        self._asking = [part for part in self._parts if part.density < 1]
        for part in self._parts:
            self._bases |= part.bases  # the same dicts: a state is loaded into both
            self._set(part, 0.0)
        self._hook = optimizer.register_before_prox_hook(self._after_move)

    def detach(self) -> None:
        """Leave the optimizer alone from now on, with the strengths and weights as they are."""
        self._hook.remove()

    @property
    def holding(self) -> bool:
        """Whether the support is fixed; where nothing is to be zeroed it always is."""
        return bool(self._zeroed) or not self._asking

    @property
    def strength(self) -> list[float]:
        """The strength of each penalty of the regularizer as it is set now."""
        return [penalty.strength for penalty in self._bases]

    @torch.no_grad()
    def _after_move(self) -> None:
        """The wrapped optimizer has moved, the proximal map is yet to act."""
        for part in self._parts:
            part.check_untouched()
        step, self.steps = self.steps, self.steps + 1
        if self._zeroed:
            self._project()
        elif step >= self.hold:
            # All of the parts or, where one of them fails, none.
            found = [self._support(part) for part in self._asking]
            self._zeroed = {name: zeroed for one in found for name, zeroed in one.items()}
            for part in self._asking:
                self._set(part, 0.0)
            self._project()
        elif step >= self.begin and (step - self.begin) % self.every == 0:
            for part in self._asking:
                self._solve(part, step - self.begin)

    def _solve(self, part: Part, step: int) -> None:
        """Set the strength that leads to the density of the ramp."""
        ahead = min(self._ahead[penalty] for penalty in part.bases)
        wanted = cubic(self.end - self.begin, start=1.0, end=part.density)(step + ahead)
        *_, factor = self._found(part, wanted)
        self._set(part, part.factor if factor == float("inf") else factor)

    def _found(self, part: Part, density: float) -> tuple[list[Ranked], list[Tensor | None], float]:
        """The smallest factor for a density, and what it was found from; the strengths stay."""
        try:
            found = list(ranked(self.optimizer, part, self.cost, self._ahead))
            if not found:
                raise RuntimeError(
                    "the penalties that TargetSparsity steers are bound to the optimizer no more: "
                    "fix_support or Debias has taken their place before the density was held, at "
                    f"step {self.hold}. Let it come after that step."
                )
            scores = [one.score() for one in found]
            factor = smallest_factor(found, scores, density * part.total, part.factor)
            return found, scores, factor
        finally:
            part.set(part.factor)

    def _support(self, part: Part) -> dict[str, Tensor]:
        """Choose what is to stay at zero, by the names of the parameters; the strengths stay."""
        found, scores, factor = self._found(part, part.density)
        budget = part.density * part.total
        if factor == float("inf"):
            raise RuntimeError(
                f"no strength brings the density to {part.density:g}: it takes parameters that do "
                "not move (frozen, or without a gradient) or a learning rate of 0 into account."
            )
        spent, selection = 0.0, self.optimizer.regularizer.selection()
        zeroed: dict[str, Tensor] = {}
        for one, score in zip(found, scores, strict=True):
            kept = one.kept(factor, score)
            spent += one.spent(kept)
            for name, gone in one.bundle.parts((~kept).to(one.weight.dtype)).items():
                zeroed[name] = View.of_all(selection[name]).placed(gone != 0)
        part.set(part.factor)
        if spent == 0:
            raise RuntimeError(
                f"no weight is left at a density of {part.density:g}: the smallest group of the "
                "penalty is larger than that. Ask for a higher density, or give smaller groups."
            )
        slack = max(one.dearest() for one in found)  # one weight more may be one too many
        if spent < 0.98 * budget and budget - spent >= slack:
            warnings.warn(
                f"the density is held at {spent / part.total:.4g}, below the {part.density:g} "
                "that was asked for: whole groups go at once, or too many weights were zero "
                "already (at_most=True with a large strength).",
                stacklevel=2,
            )
        return zeroed

    def _project(self) -> None:
        held = self.optimizer.regularizer.selection()
        for name, zeroed in self._zeroed.items():
            local(held[name]).masked_fill_(local(zeroed), 0.0)

    def _set(self, part: Part, factor: float) -> None:
        part.set(max(factor, 1.0) if self.at_most else factor)

    def state_dict(self) -> dict[str, Any]:
        """Steps, strengths and the fixed support: all that a resumed training needs."""
        return {
            "steps": self.steps,
            "factors": [part.factor for part in self._parts],
            "bases": [dict(base) for base in self._bases.values()],
            "zeroed": dict(self._zeroed),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a ``state_dict`` of a target that was made with the same arguments.

        Raises:
            ValueError: it is of other penalties, another model, or of something else.
        """
        if missing := {"steps", "factors", "bases", "zeroed"} - set(state_dict or {}):
            raise ValueError(
                f"this is no state of a TargetSparsity: it lacks {', '.join(sorted(missing))}."
            )
        factors, bases = state_dict["factors"], state_dict["bases"]
        if len(factors) != len(self._parts) or len(bases) != len(self._bases):
            raise ValueError(
                f"this state is of {len(factors)} densities and {len(bases)} penalties, the target "
                f"has {len(self._parts)} and {len(self._bases)}."
            )
        same_strengths(self._bases.values(), bases)
        held = self.optimizer.regularizer.selection()
        for name, zeroed in state_dict["zeroed"].items():
            if name not in held or held[name].shape != zeroed.shape:
                raise ValueError(
                    f"this state holds the support of {name}, shaped {tuple(zeroed.shape)}, which "
                    "is not what is penalised here: it is of another model or selection."
                )
        self.steps = state_dict["steps"]
        for mine, base in zip(self._bases.values(), bases, strict=True):
            mine.update(base)
        self._zeroed = {n: z.to(held[n].device) for n, z in state_dict["zeroed"].items()}
        for part, factor in zip(self._parts, factors, strict=True):
            self._set(part, factor)
