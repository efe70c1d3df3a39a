"""The fast path's view of memory: parts of tensors that stay in a core's cache.

A chain of elementwise operations over a whole weight reads and writes main memory once per
operation; over a block that fits in the cache it does so once in all. On an accelerator, where
memory is fast and launches are dear, the one block is the whole tensor.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

BLOCK = 2**17
"""Numbers in a block, per thread, for a chain of operations that makes some four temporaries."""

LONGER = 2
"""How much longer a block may be where there is one temporary, or none: fewer calls."""


def blocks(
    w: Tensor, beside: Mapping[str, Any], *, times: int = 1
) -> Iterator[tuple[Tensor, dict[str, Any]]]:
    """Go through a tensor in parts that share its memory, each with the same part of others.

    Args:
        w: any shape and strides.
        beside: anything by name. Tensors shaped like w are cut as w is; all else is passed on.
        times: how many times as long as :data:`BLOCK` a part is.

    Yields:
        A part of w, and ``beside`` with the parts of its tensors. A part is 1-d, or all of w
        where that is small, lies on an accelerator, or has a layout that is not dense and the
        same for all of the tensors.

    Example:
        >>> w, moment = torch.arange(4.0), torch.ones(4)
        >>> for part, state in blocks(w, {"moment": moment, "step": 3}):
        ...     _ = part.add_(state["moment"] * state["step"])
        >>> w
        tensor([3., 4., 5., 6.])
    """
    size = times * BLOCK * torch.get_num_threads()
    if w.device.type != "cpu" or w.numel() <= size:
        yield w, dict(beside)
        return
    alike = {k: t for k, t in beside.items() if isinstance(t, Tensor) and t.shape == w.shape}
    lines = flat(w, *alike.values())
    if lines is None:
        yield w, dict(beside)
        return
    for part, *parts in zip(*(line.split(size) for line in lines), strict=True):
        yield part, {**beside, **dict(zip(alike, parts, strict=True))}


def flat(*alike: Tensor) -> list[Tensor] | None:
    """View tensors of one shape as 1-d, in one order of elements: that of the first's memory.

    Returns:
        None where a tensor has gaps or overlaps, or lies in another order than the first.

    Example:
        >>> [line.tolist() for line in flat(torch.tensor([[1, 2], [3, 4]]).t())]
        [[1, 2, 3, 4]]
        >>> flat(torch.ones(4, 4)[:, :2]) is None
        True
    """
    first = alike[0]
    order = sorted(range(first.dim()), key=first.stride, reverse=True)
    ordered = [t.permute(order) for t in alike]
    if not all(t.is_contiguous() for t in ordered):
        return None
    return [t.view(-1) for t in ordered]
