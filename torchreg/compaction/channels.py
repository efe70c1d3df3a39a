"""The channels of a model: which positions of which layers live and vanish together.

Read from the dependency graph of Torch-Pruning, which follows autograd through residual
connections, concatenation, flattening and normalisation.
"""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, Self

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from torchreg.compaction.entering import Entering
from torchreg.compaction.layers import Layer, is_depthwise, is_reader, is_table, is_through
from torchreg.compaction.running import Example
from torchreg.compaction.tracing import NothingFollowed, trace
from torchreg.compaction.varying import find_varying
from torchreg.compaction.walking import walk


class Side(NamedTuple):
    """The inputs or the outputs of a layer; both at once for a layer that maps one to one."""

    layer: str
    end: Literal["in", "out", "through"]


def with_none(flags: Tensor) -> Tensor:
    """One flag per channel, and a last one, False, which positions of no channel (-1) find."""
    return torch.cat([flags, flags.new_zeros(1)])


class Channels:
    """The channels of a model, found by one traced forward pass. The model is not changed.

    Args:
        model: in evaluation mode, every parameter requiring gradients; it is run once.
        example: a call of the model, in the model's precision.

    Attributes:
        layers: what holds channels, by name: layers and free parameters.
        sides: for every side, the number of the channel at each position, -1 where none is known.
        count: the number of channels.
        blocked: for some channels, why they can never be removed.
        unreached: the modules on whose own parameters no output depends.
        varying: for each reader, whether each of its inputs depends on the example at all.
    """

    def __init__(self, model: nn.Module, example: Example) -> None:
        # Floating inputs become nodes of the graph, so that what depends on them can be told.
        live = example.map(
            lambda x: x.detach().clone().requires_grad_() * 1 if x.is_floating_point() else x
        )
        self._inputs = {x.grad_fn for x in live.tensors() if x.is_floating_point()}
        with Entering(live.tensors()) as self._entering:
            self.graph, reached = trace(model, live)
        self.unreached = [
            name
            for name, module in model.named_modules()
            if (own := set(module.parameters(recurse=False))) and own.isdisjoint(reached)
        ]
        names: dict[Any, str] = {module: name for name, module in model.named_modules()}
        names |= {parameter: name for name, parameter in model.named_parameters()}
        self.layers: dict[str, Layer] = {
            names[module]: module
            for module in self.graph.module2node
            if module in names and (is_reader(module) or is_through(module) or is_table(module))
        }
        self._names = names
        self._start: dict[Side, int] = {}
        self._size: dict[Side, int] = {}
        self._parent: list[int] = []
        for name, layer in self.layers.items():
            for side, size in self._sizes(name, layer):
                self._start[side], self._size[side] = len(self._parent), size
                self._parent += range(len(self._parent), len(self._parent) + size)
        self._produced: set[int] = set()
        self._why: dict[int, str] = {}
        self._join()
        self._number()
        self.varying = find_varying(
            self.graph,
            names,
            self._inputs | self._entering.nodes,
            lambda name: len(self.sides[Side(name, "through")]),
        )

    @classmethod
    def of(cls, model: nn.Module, example: Example) -> Self:
        """The channels of a model, or an error that says what to do."""
        if torch.is_inference_mode_enabled():
            raise RuntimeError(
                "the model is traced by autograd, which torch.inference_mode() switches off: call "
                "this outside of it."
            )
        try:
            return cls(model, example)
        except NothingFollowed:
            raise ValueError(
                f"no output of {type(model).__name__} depends on its weights by gradients, so "
                "nothing can be followed: take torch.no_grad() off its forward, and return logits "
                "where it returns their argmax."
            ) from None
        except Exception as error:
            raise RuntimeError(
                f"torch-pruning could not follow {type(model).__name__} from its outputs back to "
                f"its inputs ({type(error).__name__}: {error}): compact a part of it instead. "
                "It is known to fail at a recurrent layer among others, and where an input of the "
                "model is concatenated with channels: leave those outside the part."
            ) from error

    def _sizes(self, name: str, layer: Layer) -> Iterator[tuple[Side, int]]:
        if isinstance(layer, nn.Linear):
            yield from (
                (Side(name, "in"), layer.in_features),
                (Side(name, "out"), layer.out_features),
            )
        elif isinstance(layer, nn.Embedding):
            yield Side(name, "out"), layer.embedding_dim
        elif isinstance(layer, nn.PReLU):
            yield Side(name, "through"), layer.num_parameters
        elif isinstance(layer, _NormBase):
            yield Side(name, "through"), layer.num_features
        elif isinstance(layer, nn.Parameter):
            yield Side(name, "through"), layer.shape[self.dimension(name)]
        elif isinstance(layer, _ConvNd) and is_depthwise(layer):
            yield Side(name, "through"), layer.out_channels
        elif isinstance(layer, _ConvNd):
            yield Side(name, "in"), layer.in_channels
            yield Side(name, "out"), layer.out_channels

    def dimension(self, name: str) -> int:
        """The dimension along which a free parameter holds its channels."""
        found: int = self.graph.module2node[self.layers[name]].pruning_dim
        return found

    def _join(self) -> None:
        """Unite the positions that torch-pruning removes together, root by root."""
        for name, layer in self.layers.items():
            side = Side(name, "out") if Side(name, "out") in self._start else Side(name, "through")
            root, size = self._start[side], self._size[side]
            if isinstance(layer, _NormBase | nn.PReLU) or self._produced.issuperset(
                range(root, root + size)
            ):
                continue
            for dependency, positions in walk(self.graph, layer, size, self._room):
                self._unite(dependency, [(root + p.root_idx, p.idx) for p in positions])

    def _reached(self, dependency: Any) -> Side | None:
        """The side that a dependency leads to, if it is one of a layer that holds channels."""
        module = dependency.target.module
        name = self._names.get(module)  # of a model that is one layer: ""
        if name is None:
            return None
        side = Side(name, "through")
        if side not in self._size:
            reading = self.graph.is_in_channel_pruning_fn(dependency.handler)
            side = Side(name, "in" if reading and is_reader(module) else "out")
        return side if side in self._size else None

    def _room(self, dependency: Any) -> int:
        """How many positions there are where a dependency leads; a bound, if that is no layer."""
        side = self._reached(dependency)
        return len(self._parent) if side is None else self._size[side]

    def _unite(self, dependency: Any, pairs: list[tuple[int, int]]) -> None:
        """Unite each root position with its position in one layer, or note why it is stuck."""
        module = dependency.target.module
        side, room = self._reached(dependency), self._room(dependency)
        for root, position in pairs:
            if position >= room:
                self._why[root] = (
                    f"torch-pruning's graph leads beyond the {room} channels of "
                    f"{side.layer if side else 'the model'}: padding or reshaping there is not "
                    "followed"
                )
            elif side is not None:
                place = self._start[side] + position
                self._parent[self._find(place)] = self._find(root)
                self._produced.add(place)
        if side is not None:
            return
        why = ""
        if isinstance(module, tp.ops._OutputOp):
            why = "it is part of the model's output"
        elif dependency.target.grad_fn in self._inputs:
            why = "it is combined with an input of the model"
        elif dependency.target.grad_fn in self._entering.written:
            why = "the model's code writes into a part of it in place"
        elif module in self._names and not isinstance(module, nn.PReLU):
            kind = type(module).__name__
            why = f"it passes through {self._names[module]} ({kind}), which mixes channels"
        if why:
            self._why |= dict.fromkeys((root for root, _ in pairs), why)

    def _find(self, position: int) -> int:
        parent = self._parent
        while parent[position] != position:
            parent[position] = position = parent[parent[position]]
        return position

    def _number(self) -> None:
        numbers: dict[int, int] = {}
        self.sides: dict[Side, Tensor] = {}
        for side, start in self._start.items():
            self.sides[side] = torch.tensor(
                [
                    numbers.setdefault(self._find(at), len(numbers)) if at in self._produced else -1
                    for at in range(start, start + self._size[side])
                ],
                dtype=torch.long,
            )
        self.count = len(numbers)
        self.blocked = {numbers[self._find(root)]: why for root, why in self._why.items()}
