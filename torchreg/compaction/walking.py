"""Walks along the dependency graph of Torch-Pruning, from the outputs of a layer."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from torch_pruning.dependency import Dependency
from torch_pruning.dependency.index_mapping import update_index_mapping

from torchreg.compaction.layers import Layer


class Position(NamedTuple):
    """A position of a layer and where the walk began, as torch-pruning's mappings read it."""

    idx: int
    root_idx: int


def mapped(dependency: Any, positions: list[Position]) -> list[Position]:
    """Take positions from one node of the graph to the next."""
    for mapping in dependency.index_mapping:
        if mapping is not None:
            positions = mapping(positions)
    return positions


def walk(
    graph: Any, layer: Layer, outputs: int, room: Callable[[Any], int]
) -> Iterator[tuple[Any, list[Position]]]:
    """Follow what has to be removed with each output of a layer.

    The walk of Torch-Pruning's own ``get_pruning_group``, but for each position by itself, so that
    it ends: around a layer or parameter that is used twice, with a split or concatenation between,
    that one goes on for ever with indices that move.

    Args:
        graph: of Torch-Pruning.
        layer: where to begin.
        outputs: how many it has.
        room: how many positions there are where a dependency leads; none is followed beyond.

    Yields:
        A dependency, and the positions of its target that are reached by it for the first time.
    """
    update_index_mapping(graph)
    node, cut = graph.module2node[layer], graph.get_pruner_of_module(layer).prune_out_channels
    first = (Dependency(cut, cut, node, node), [Position(i, i) for i in range(outputs)])
    seen: dict[tuple[Any, Any], set[Position]] = defaultdict(set)
    seen[node, cut].update(first[1])
    stack = [first]
    yield first
    while stack:
        dependency, positions = stack.pop()
        size = room(dependency)
        inside = [p for p in positions if p.idx < size]
        for following in dependency.target.dependencies:
            if following.is_triggered_by(dependency.handler):
                before = seen[following.target, following.handler]
                new = [p for p in mapped(following, inside) if p not in before]
                if new:
                    before.update(new)
                    stack.append((following, new))
                    yield following, new
