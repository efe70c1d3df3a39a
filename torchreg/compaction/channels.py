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
from torch.utils._pytree import tree_leaves

from torchreg.compaction.running import Example

Layer = nn.Module | nn.Parameter


class Side(NamedTuple):
    """The inputs or the outputs of a layer; both at once for a layer that maps one to one."""

    layer: str
    end: Literal["in", "out", "through"]


class Position(NamedTuple):
    """A position of a layer and where the walk began, as torch-pruning's mappings read it."""

    idx: int
    root_idx: int


def is_reader(layer: Layer) -> bool:
    """Whether a layer mixes its inputs by a weight that can be cut: linear and convolution."""
    return isinstance(layer, nn.Linear | _ConvNd) and not is_depthwise(layer)


def is_depthwise(layer: Layer) -> bool:
    """Whether a layer is a convolution of each channel by itself."""
    return (
        isinstance(layer, _ConvNd) and 1 < layer.groups == layer.out_channels == layer.in_channels
    )


def is_through(layer: Layer) -> bool:
    """Whether a layer or parameter keeps channels apart, one position for each."""
    if isinstance(layer, nn.PReLU):
        return layer.num_parameters > 1
    return isinstance(layer, _NormBase | nn.Parameter) or is_depthwise(layer)


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
        varying: for each reader, whether each of its inputs depends on the example at all.
    """

    def __init__(self, model: nn.Module, example: Example) -> None:
        # Floating inputs become nodes of the graph, so that what depends on them can be told.
        live = example.map(
            lambda x: x.detach().clone().requires_grad_() * 1 if x.is_floating_point() else x
        )
        self._inputs = {x.grad_fn for x in live.tensors() if x.is_floating_point()}
        self.graph = _trace(model, live)
        names: dict[Any, str] = {module: name for name, module in model.named_modules()}
        names |= {parameter: name for name, parameter in model.named_parameters()}
        self.layers: dict[str, Layer] = {
            names[module]: module
            for module in self.graph.module2node
            if module in names
            and (is_reader(module) or is_through(module) or isinstance(module, nn.Embedding))
        }
        self._names = names
        self._start: dict[Side, int] = {}
        self._parent: list[int] = []
        for name, layer in self.layers.items():
            for side, size in self._sizes(name, layer):
                self._start[side] = len(self._parent)
                self._parent += range(len(self._parent), len(self._parent) + size)
        self._produced: set[int] = set()
        self._why: dict[int, str] = {}
        self._join()
        self._number()
        self.varying = self._find_varying()

    @classmethod
    def of(cls, model: nn.Module, example: Example) -> Self:
        """The channels of a model, or an error that says what to do."""
        try:
            return cls(model, example)
        except Exception as error:
            raise RuntimeError(
                f"torch-pruning could not follow {type(model).__name__} from its outputs back to "
                f"its inputs ({type(error).__name__}: {error}): compact a part of it instead."
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
            root = self._start[side]
            size = next(size for one, size in self._sizes(name, layer) if one == side)
            if isinstance(layer, _NormBase | nn.PReLU) or self._produced.issuperset(
                range(root, root + size)
            ):
                continue
            cut = self.graph.get_pruner_of_module(layer).prune_out_channels
            for item in self.graph.get_pruning_group(layer, cut, list(range(size))):
                pairs = [(root + r, i) for i, r in zip(item.idxs, item.root_idxs, strict=True)]
                self._unite(item.dep, pairs)

    def _unite(self, dependency: Any, pairs: list[tuple[int, int]]) -> None:
        """Unite each root position with its position in one layer, or note why it is stuck."""
        module = dependency.target.module
        name = self._names.get(module, "")
        side = Side(name, "through")
        if side not in self._start:
            reading = self.graph.is_in_channel_pruning_fn(dependency.handler)
            side = Side(name, "in" if reading and is_reader(module) else "out")
        if name and side in self._start:
            start = self._start[side]
            size = dict(self._sizes(name, self.layers[name]))[side]
            for root, position in pairs:
                if position < size:
                    self._parent[self._find(start + position)] = self._find(root)
                    self._produced.add(start + position)
                else:
                    self._why[root] = (
                        f"torch-pruning's graph leads beyond the {size} channels of {name}: "
                        "padding or reshaping there is not followed"
                    )
            return
        why = ""
        if isinstance(module, tp.ops._OutputOp):
            why = "it is part of the model's output"
        elif dependency.target.grad_fn in self._inputs:
            why = "it is combined with an input of the model"
        elif name and not isinstance(module, nn.PReLU):
            why = f"it passes through {name} ({type(module).__name__}), which mixes channels"
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
        for name, layer in self.layers.items():
            for side, size in self._sizes(name, layer):
                start = self._start[side]
                self.sides[side] = torch.tensor(
                    [
                        numbers.setdefault(self._find(at), len(numbers))
                        if at in self._produced
                        else -1
                        for at in range(start, start + size)
                    ],
                    dtype=torch.long,
                )
        self.count = len(numbers)
        self.blocked = {numbers[self._find(root)]: why for root, why in self._why.items()}

    def _find_varying(self) -> dict[str, Tensor]:
        """Follow from the inputs onward what depends on the example: a zero filter does not."""
        after: dict[Any, Tensor] = {}
        before: dict[str, Tensor] = {}
        for node in _in_order(self.graph.module2node.values()):
            layer = node.module
            arriving = torch.zeros(0, dtype=torch.bool)
            for source in node.inputs:
                # A module that is used in a loop: whatever it makes, it may vary.
                flags = after.get(source, torch.ones(1, dtype=torch.bool))
                arriving = _merge(arriving, _carry(source, node, flags))
            name = self._names.get(layer, "")
            if is_reader(layer):
                matrix = reads(layer)
                if len(arriving) != matrix.shape[1]:
                    arriving = torch.ones(matrix.shape[1], dtype=torch.bool)
                before[name] = _merge(before.get(name, arriving), arriving)
                after[node] = (matrix & before[name]).any(1)
            elif isinstance(layer, nn.Embedding):
                # Rows that differ: which one is read depends on the example.
                after[node] = (layer.weight != layer.weight[:1]).any(0).cpu()
            elif isinstance(layer, nn.Parameter):
                after[node] = torch.zeros(layer.shape[self.dimension(name)], dtype=torch.bool)
            elif is_through(layer):
                alive = torch.ones(len(self.sides[Side(name, "through")]), dtype=torch.bool)
                scale = layer.weight
                if scale is not None and not isinstance(layer, nn.PReLU):
                    alive = (scale != 0).reshape(len(alive), -1).any(1).cpu()
                after[node] = arriving & alive if len(arriving) == len(alive) else alive
            else:
                known = isinstance(
                    layer,
                    tp.ops._ElementWiseOp | tp.ops._ConcatOp | tp.ops._SplitOp | tp.ops._ReshapeOp
                    | tp.ops._SliceOp | tp.ops._OutputOp | tp.ops._UnbindOp | tp.ops._ExpandOp
                    | nn.PReLU,
                )  # fmt: skip
                varies = not known or node.grad_fn in self._inputs
                after[node] = torch.ones(1, dtype=torch.bool) if varies else arriving
        return before


def reads(layer: nn.Module) -> Tensor:
    """Which outputs of a linear or convolution layer read which inputs: bool, (outputs, inputs)."""
    weight: Any = layer.weight
    nonzero: Tensor = (weight.detach() != 0).reshape(*weight.shape[:2], -1).any(2).cpu()
    if not isinstance(layer, _ConvNd):
        return nonzero
    blocks = [b.T if layer.transposed else b for b in nonzero.chunk(layer.groups)]
    joined: Tensor = torch.block_diag(*blocks)
    return joined > 0


def _trace(model: nn.Module, run: Example) -> Any:
    def mark(output: Any) -> list[Tensor]:
        # A node of its own for each output, so that its channels are known to leave the model.
        return [t * 1 for t in tree_leaves(output) if isinstance(t, Tensor) and t.requires_grad]

    with torch.enable_grad():
        return tp.DependencyGraph().build_dependency(
            model,
            example_inputs=(),
            forward_fn=lambda m, _: run(m),
            output_transform=mark,
            verbose=False,
        )


def _in_order(nodes: Any) -> list[Any]:
    """Every node after those it reads from, as far as there is no cycle."""
    order: list[Any] = []
    seen: set[Any] = set()
    for first in nodes:
        stack = [(first, False)]
        while stack:
            node, done = stack.pop()
            if done:
                order.append(node)
            elif node not in seen:
                seen.add(node)
                stack.append((node, True))
                stack += [(source, False) for source in node.inputs if source not in seen]
    return order


def _carry(source: Any, node: Any, flags: Tensor) -> Tensor:
    """Take flags from the outputs of one node to the inputs of the next."""
    mappings = next(dep.index_mapping for dep in source.dependencies if dep.target is node)
    positions = [Position(i, i) for i in range(len(flags))]
    for mapping in mappings:
        if mapping is not None:
            positions = mapping(positions)
    carried = torch.zeros(max((p.idx for p in positions), default=-1) + 1, dtype=torch.bool)
    for p in positions:
        carried[p.idx] |= flags[p.root_idx]
    return carried


def _merge(one: Tensor, other: Tensor) -> Tensor:
    """Either flag; a single one counts for every position, a shorter one is filled up."""
    if len(one) == 0 or len(other) == 0:
        return one if len(other) == 0 else other
    if len(one) == 1 or len(other) == 1:
        return one | other
    size = max(len(one), len(other))
    one, other = (nn.functional.pad(f, (0, size - len(f))) for f in (one, other))
    return one | other
