"""What of a model depends on its inputs at all, and what is a constant."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from torchreg.compaction.layers import is_reader, is_through, reads
from torchreg.compaction.walking import Position, mapped


def find_varying(
    graph: Any, names: Mapping[Any, str], inputs: Collection[Any], width: Callable[[str], int]
) -> dict[str, Tensor]:
    """Follow from the inputs of a model onward what depends on them: a zero filter does not.

    Args:
        graph: of Torch-Pruning.
        names: of the layers and free parameters in it.
        inputs: the nodes of autograd that are inputs of the model, or where these enter.
        width: how many channels a layer or parameter holds that maps one to one, by its name.

    Returns:
        For each linear and convolution layer, by name, whether each of its inputs varies.
    """
    after: dict[Any, Tensor] = {}
    before: dict[str, Tensor] = {}
    for node in _in_order(graph.module2node.values()):
        layer = node.module
        arriving = torch.zeros(0, dtype=torch.bool)
        for source in node.inputs:
            # A module that is used in a loop: whatever it makes, it may vary.
            flags = after.get(source, torch.ones(1, dtype=torch.bool))
            arriving = _merge(arriving, _carry(source, node, flags))
        name = names.get(layer, "")
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
            after[node] = torch.zeros(width(name), dtype=torch.bool)
        elif is_through(layer):
            alive = torch.ones(width(name), dtype=torch.bool)
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
            varies = not known or node.grad_fn in inputs
            after[node] = torch.ones(1, dtype=torch.bool) if varies else arriving
    return before


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
    dependency = next(dep for dep in source.dependencies if dep.target is node)
    positions = mapped(dependency, [Position(i, i) for i in range(len(flags))])
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
