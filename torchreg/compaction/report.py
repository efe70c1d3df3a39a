"""What a compaction removed, and what stays and why."""

import io
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from torchreg.compaction.channels import Channels, Side
from torchreg.compaction.layers import is_depthwise, is_reader, is_table, is_through, reads
from torchreg.compaction.removable import Plan
from torchreg.compaction.running import Example


class Change(NamedTuple):
    """A number before and after."""

    before: float
    after: float

    @property
    def kept(self) -> float:
        """What is left, as a fraction."""
        return self.after / self.before if self.before else 1.0


@dataclass(frozen=True)
class Stay:
    """Zeros of one layer that were not removed."""

    layer: str
    zeros: str
    """What is zero there: filters, input channels, scales or rows."""

    count: int
    reason: str


@dataclass(frozen=True)
class Compaction:
    """A compaction in numbers; ``str`` prints the table."""

    layers: dict[str, Change]
    """Output channels of every linear and convolution layer and embedding."""

    stays: tuple[Stay, ...]
    """Every group of zeros that is still there."""

    unreached: tuple[str, ...]
    """The layers on which no output depends for the example: they are left as they were."""

    parameters: Change
    multiply_adds: Change
    """Of one forward pass of the example."""

    file_bytes: Change
    """Of the saved ``state_dict``."""

    difference: tuple[float, float]
    """The largest difference of the outputs relative to the largest output: on the example in the
    model's own precision; on the example and on noise in float64."""

    def __str__(self) -> str:
        width = max([len("multiply-adds"), *(len(name) for name in self.layers)])
        rows = [f"{'channels':<{width}}  {'before':>15}  {'after':>15}  {'kept':>6}"]
        total = {
            "parameters": self.parameters,
            "multiply-adds": self.multiply_adds,
            "file, bytes": self.file_bytes,
        }
        for name, change in [*self.layers.items(), *total.items()]:
            before, after = f"{change.before:,.0f}", f"{change.after:,.0f}"
            rows.append(f"{name:<{width}}  {before:>15}  {after:>15}  {change.kept:>6.1%}")
        own, exact = self.difference
        rows.append(f"outputs differ by {own:.1e}, in float64 by {exact:.1e}")
        if all(change.before == change.after for change in self.layers.values()):
            rows.append(
                "nothing was removed. Train with groups whose zeros can be removed: "
                "torchreg.removable_groups(model, example)."
            )
        reasons: dict[tuple[str, str], list[Stay]] = defaultdict(list)
        for stay in self.stays:
            reasons[stay.zeros, stay.reason].append(stay)
        for (zeros, reason), stays in reasons.items():
            count = sum(stay.count for stay in stays)
            where = ", ".join(stay.layer for stay in stays)
            rows.append(f"{count} zero {zeros} stay, since {reason}: {where}")
        if self.unreached:
            rows.append(
                "no output depends on these for the example, so they are left as they were, and "
                "may not fit what is smaller now: "
                f"{', '.join(name or 'the model itself' for name in self.unreached)}"
            )
        return "\n".join(rows)


def report(
    model: nn.Module,
    small: nn.Module,
    channels: Channels,
    plan: Plan,
    example: Example,
    difference: tuple[float, float],
) -> Compaction:
    """Count both models."""
    layers = {}
    for name, layer in model.named_modules():
        if is_reader(layer) or is_depthwise(layer) or isinstance(layer, nn.Embedding):
            layers[name] = Change(_width(layer), _width(small.get_submodule(name)))
    return Compaction(
        layers,
        tuple(_stays(model, channels, plan)),
        tuple(channels.unreached),
        Change(*(sum(p.numel() for p in m.parameters()) for m in (model, small))),
        Change(*(_multiply_adds(m, example) for m in (model, small))),
        Change(*(_file_bytes(m) for m in (model, small))),
        difference,
    )


def _width(layer: Any) -> int:
    if isinstance(layer, nn.Embedding):
        return int(layer.embedding_dim)
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)


def _multiply_adds(model: nn.Module, example: Example) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        example(model)
    flops: int = counter.get_total_flops()
    return flops // 2


def _file_bytes(model: nn.Module) -> int:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return file.getbuffer().nbytes


def _stays(model: nn.Module, channels: Channels, plan: Plan) -> Iterator[Stay]:
    """Every zero filter, input channel, scale and row that is still in the model."""
    found: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for name, layer in model.named_modules():
        zeros: list[tuple[str, Side, Tensor]] = []
        if is_reader(layer):
            matrix = reads(layer)
            zeros = [
                ("filters", Side(name, "out"), ~matrix.any(1)),
                ("input channels", Side(name, "in"), ~matrix.any(0)),
            ]
        elif is_through(layer) and isinstance(layer.weight, Tensor):
            kind = "filters" if is_depthwise(layer) else "scales"
            flat = layer.weight.detach().reshape(len(layer.weight), -1)
            zeros = [(kind, Side(name, "through"), ~(flat != 0).any(1).cpu())]
        elif isinstance(layer, nn.Embedding):
            zeros = [("columns", Side(name, "out"), ~(layer.weight.detach() != 0).any(0).cpu())]
        for kind, side, zero in zeros:
            numbers = channels.sides.get(side, torch.full((len(zero),), -1))
            for channel in numbers[zero].tolist():
                if channel < 0:
                    found[name, kind][_unknown(model, side, channels)] += 1
                elif not plan.removed[channel]:
                    found[name, kind][plan.why[channel]] += 1
        if not zeros and not isinstance(layer, nn.PReLU):
            for key, parameter in layer.named_parameters(name, recurse=False):
                told = f"the channels of {type(layer).__name__} are not taken apart"
                for kind, zero in _zeros(key, parameter.detach().cpu(), channels, plan):
                    if count := int(zero.sum()):
                        found[key, kind][told] += count
    for (name, kind), reasons in found.items():
        for reason, count in reasons.items():
            yield Stay(name, kind, count, reason)


def _zeros(
    name: str, parameter: Tensor, channels: Channels, plan: Plan
) -> Iterator[tuple[str, Tensor]]:
    """Which rows and columns of any other parameter are zero and stay; of a norm, which scales."""
    if parameter.dim() == 1 and name.endswith("weight"):
        yield "scales", parameter == 0
    if parameter.dim() < 2 or (name in channels.layers and parameter.dim() > 2):
        return  # of a token or a table of positions
    for dimension, kind in enumerate(("rows", "columns")):
        zero = ~(parameter != 0).transpose(0, dimension).flatten(1).any(1)
        if name in channels.layers and channels.dimension(name) == dimension:
            numbers = channels.sides[Side(name, "through")]
            zero &= (numbers < 0) | ~plan.removed[numbers.clamp(min=0)]
        yield kind, zero


def _unknown(model: nn.Module, side: Side, channels: Channels) -> str:
    layer = model.get_submodule(side.layer)
    if isinstance(layer, nn.Embedding) and not is_table(layer):
        return "max_norm divides its rows by their size"
    if side not in channels.sides:
        user = model.get_submodule(side.layer.rpartition(".")[0])
        return f"{type(user).__name__} does not call it as a layer of its own"
    if side.end == "in":
        return "they are inputs of the model, or come from a layer that is not taken apart"
    return "nothing is known to be computed from them"
