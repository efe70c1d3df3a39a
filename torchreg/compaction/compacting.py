"""The smaller model with the same outputs."""

from collections import defaultdict
from typing import Any

import torch
from torch import nn

from torchreg.compaction.channels import Channels, Side, with_none
from torchreg.compaction.probing import (
    other_sizes,
    outcome,
    redrawn,
    shifted,
    silence,
)
from torchreg.compaction.removable import Plan, decide, observe
from torchreg.compaction.report import Compaction, report
from torchreg.compaction.running import (
    Example,
    check_model,
    copied,
    difference,
    differentiable,
    run_seen,
)
from torchreg.compaction.surgery import cut

_EQUAL = 1e-9  # of outputs in float64, where only the order of the sums differs


def compact(model: nn.Module, example: Any) -> tuple[nn.Module, Compaction]:
    """Remove the zeroed neurons, filters and channels of a model; keep its outputs.

    A channel goes if nothing that stays reads it (the weights of every layer behind it are zero
    there, whatever its own filter and BatchNorm), or if it always carries the same value since
    its filter is zero, and that value is zero or can be moved into the next layer's bias. A zero
    filter before a BatchNorm carries the constant ``bias - mean * weight / sqrt(var + eps)``;
    behind zero padding no bias equals a constant, and such a channel stays. So do channels that
    LayerNorm, GroupNorm or attention mix, and those of tied weights: the report names every zero
    filter and channel that stays, with the reason. What the graph cannot follow is refused: a
    recurrent layer among others, or an input of the model that is concatenated with channels.

    What belongs together across residual connections, concatenation, BatchNorm and flattening
    comes from Torch-Pruning's dependency graph. The result is compared with the model in
    float64, on the example, on noise of its shape and, where the model takes them, at other sizes
    (of the batch, a sequence, an image); and the model itself must not notice what the removed
    channels carry. Whatever would change an output is put back, and named. Nothing is approximated.
    What the example does not reach (an auxiliary head that is for training alone) is left as it is,
    and named. The result's layers are the model's own classes
    with smaller weights: train on, save or export it as you like. Its ``state_dict`` has the
    same names with smaller shapes (and a bias more, where a constant was moved).

    Args:
        model: in evaluation mode. It is left untouched.
        example: an input as the model takes it, a small batch: a tensor, a tuple of arguments or
            a mapping of keywords. The model has to run in float64 too, for the comparison.

    Returns:
        The smaller model, in evaluation mode, and a report to print.

    Raises:
        TypeError: no module; one that is scripted, or wrapped by ``torch.compile`` or DDP; an
            example, or an output, that holds no tensor.
        ValueError: training mode, hooks, parametrisations; the model does not run on the example,
            or gives outputs that are not finite or not the same twice.
        RuntimeError: Torch-Pruning's graph does not follow the model.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
        >>> with torch.no_grad():
        ...     _ = model[2].weight[:, 3:].zero_()      # five hidden neurons that nothing reads
        >>> small, report = compact(model, torch.randn(2, 4))
        >>> small
        Sequential(
          (0): Linear(in_features=4, out_features=3, bias=True)
          (1): ReLU()
          (2): Linear(in_features=3, out_features=2, bias=True)
        )
        >>> report.parameters
        Change(before=58, after=23)

    Source: G. Fang et al., "DepGraph: towards any structural pruning" (2023), for the graph.
    """
    first = Example(example)
    trial = Trial(model, first)
    pinned: dict[int, str] = {}
    plan = trial.plan(pinned)
    while fault := trial.fault(plan):
        # What has to stay can let another channel go, kept until then as the last of its layer.
        if not (faulty := trial.faulty(plan)):
            raise RuntimeError(
                f"a compact model was not found, for a reason that is not understood: {fault}. "
                "Please report the model."
            )
        pinned |= faulty
        plan = trial.plan(pinned)
    small = trial.smaller(plan, model)
    both = copied(model), copied(small)  # a model may count or renormalise when it is run
    with torch.no_grad():
        apart = difference(*map(first, both))
    return small, report(*both, trial.channels, plan, first, (apart, trial.apart))


class Trial:
    """A model in float64, its channels, and the comparison of what was cut from it."""

    def __init__(self, model: nn.Module, first: Example) -> None:
        check_model(model)
        self.apart = 0.0
        self.exact = exact = differentiable(model)
        self.inputs = [first.double()]
        run_seen(copied(model), first)
        once = run_seen(exact, self.inputs[0])
        noise = self.inputs[0].random(0)
        positive = noise.map(lambda x: x.abs() if x.is_floating_point() else x)
        self.inputs += [one for one in (noise, positive) if outcome(exact, one) is not None][:1]
        self.inputs += other_sizes(exact, self.inputs[0])
        self.outputs, self.arriving = observe(exact, self.inputs)
        apart = difference(self.outputs[0], once)
        if apart == float("inf"):
            raise ValueError(
                "the model's output on the example is not finite: nothing to compare. "
                + _cause(model)
            )
        if apart > _EQUAL:
            raise ValueError(
                "the model gives other outputs for the same input: switch off what is random in it."
            )
        self.channels = Channels.of(exact, self.inputs[0])

    def plan(self, pinned: dict[int, str]) -> Plan:
        """What goes, while some channels are held."""
        return decide(self.channels, self.arriving, pinned)

    def smaller(self, plan: Plan, model: nn.Module) -> nn.Module:
        """A copy of the model, in whichever precision, without what goes."""
        small = copied(model)
        cut(small, self.channels, plan.removed, self.arriving)
        return small

    def fault(self, plan: Plan) -> str:
        """What goes wrong in float64 without what goes; "" if the same is computed.

        Its outputs are compared, and the range of what arrives at every input that is left: a
        zero output layer would make all outputs equal.
        """
        try:
            outputs, arriving = observe(self.smaller(plan, self.exact), self.inputs)
            pairs = list(zip(self.outputs, outputs, strict=True))
            gone = with_none(plan.removed)
            for name in arriving:
                numbers = self.channels.sides.get(Side(name, "in"))
                kept = slice(None) if numbers is None else ~gone[numbers]
                pairs += [
                    (a[kept], b) for a, b in zip(self.arriving[name], arriving[name], strict=True)
                ]
            apart = max(difference(one, other) for one, other in pairs)
            told = self._read_elsewhere(plan) if apart <= _EQUAL else ""
        except Exception as error:  # the model's own code, at a size that it does not expect
            return f"without it the model's code fails ({type(error).__name__}: {error})"
        if apart > _EQUAL:
            return f"without it the outputs would differ by {apart:.2g}"
        self.apart = apart
        return told

    @torch.no_grad()
    def _read_elsewhere(self, plan: Plan) -> str:
        """Whether outputs depend on what goes by another way than the layers known to read it.

        With weights of ours in a model whose code does not take them, nothing can be told.
        """
        if not bool(plan.removed.any()):
            return ""
        call, apart = self.inputs[0], 0.0
        plain = copied(self.exact)
        silence(plain, self.channels, plan.removed)
        outputs = outcome(plain, call)
        for rolled in (False, True) if outputs is not None else ():
            changed = redrawn(plain, self.channels, plan.removed, rolled=rolled)
            if (others := outcome(changed, call)) is not None:
                apart = max(apart, difference(outputs, others))
        for up in (False, True):
            model = shifted(self.exact, self.channels, plan.removed, up=up)
            if outcome(model, call) is not None:
                (outputs,), arriving = observe(model, [call])
                cut(model, self.channels, plan.removed, arriving)
                if (others := outcome(model, call)) is not None:
                    apart = max(apart, difference(outputs, others))
        told = f"other layers than those that read it depend on it (outputs move by {apart:.2g})"
        return told if apart > _EQUAL else ""

    def faulty(self, plan: Plan) -> dict[int, str]:
        """Add one family of channels after the other, and tell which have to stay."""
        members: dict[int, list[Side]] = defaultdict(list)
        for side, numbers in self.channels.sides.items():
            for channel in numbers.unique().tolist():
                members[channel].append(side)
        families: dict[tuple[Side, ...], list[int]] = defaultdict(list)
        for channel in plan.removed.nonzero().flatten().tolist():
            families[tuple(members[channel])].append(channel)
        untried = dict.fromkeys(range(self.channels.count), "untried")
        faulty: dict[int, str] = {}
        for family in families.values():
            for channel in family:
                untried.pop(channel)
            trial = self.plan({**untried, **faulty})
            if told := self.fault(trial):
                faulty |= dict.fromkeys(family, told)
        return faulty


def _cause(model: nn.Module) -> str:
    """Where numbers that are not finite come from, and what to do."""
    held = [*model.named_parameters(), *model.named_buffers()]
    bad = [name for name, x in held if not bool(x.isfinite().all())]
    if bad:
        return f"{', '.join(bad)} hold NaN or infinity: load weights from before that happened."
    return "Its weights are finite: pass an example of finite numbers, at the scale of the data."
