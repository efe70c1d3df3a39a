"""One traced forward pass: Torch-Pruning's graph, and the parameters that outputs depend on."""

from collections.abc import Iterator
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from torchreg.compaction.running import Example


class NothingFollowed(Exception):
    """The outputs of a model have no graph."""


def trace(model: nn.Module, run: Example) -> tuple[Any, set[Tensor]]:
    """The dependency graph of a model, and the parameters on which its outputs depend."""
    reached: set[Tensor] = set()

    def mark(output: Any) -> list[Tensor]:
        # A node of its own for each output, so that its channels are known to leave the model.
        found = [t * 1 for t in tree_leaves(output) if isinstance(t, Tensor) and t.requires_grad]
        reached.update(_leaves(found))
        weights = set(model.parameters())
        if weights and weights.isdisjoint(reached):
            raise NothingFollowed
        return found

    with torch.enable_grad():
        graph = tp.DependencyGraph().build_dependency(
            model,
            example_inputs=(),
            forward_fn=lambda m, _: run.direct(m),
            output_transform=mark,
            verbose=False,
        )
    return graph, reached


def _leaves(outputs: list[Tensor]) -> Iterator[Tensor]:
    """The leaves of autograd's graph."""
    stack: list[Any] = [x.grad_fn for x in outputs]
    seen: set[Any] = set()
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            if hasattr(node, "variable"):
                yield node.variable
            stack += [following for following, _ in node.next_functions]
