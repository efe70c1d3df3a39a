"""Sharded weights: what a penalty sees of a ``DTensor``, and numbers reduced over its shards.

FSDP2 (``fully_shard``) and tensor parallelism hold a weight as a ``DTensor``: each rank has one
shard of it, perhaps an empty one. A penalty that is a sum over single weights acts on the shard
alone. Any other one sees the whole weight, gathered on every rank, and the rank keeps its own
part of the result. Plain tensors pass through untouched, without a word between processes.

What reduces or gathers is collective: all ranks of the weight's mesh call it together. It
reduces over the mesh dimensions that shard alone, since replicas hold the same numbers.
"""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard, cast

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

    from torchreg.penalties.base import Penalty


def is_sharded(tensor: object) -> "TypeGuard[DTensor]":
    """Whether a tensor is a ``DTensor``.

    Example:
        >>> is_sharded(torch.ones(2))
        False
    """
    # None exists before its module is imported, which takes a second and is not done here.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """The shard that this rank holds, on the same storage; a plain tensor itself."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """The full tensor, gathered on every rank; a plain tensor itself."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


@dataclass(frozen=True)
class View:
    """What a penalty sees of one parameter, and of whatever is shaped like it.

    That is the local shard where the penalty is a sum over single weights, and the whole tensor
    where it is not.

    Example:
        >>> from torchreg import L1
        >>> w = nn.Parameter(torch.ones(2, 3))
        >>> view = View.of(L1(0.1), w)
        >>> view(w) is w, view((0.5, w))[1] is w
        (True, True)
    """

    parameter: Tensor
    gathered: bool

    @classmethod
    def of(cls, penalty: "Penalty", parameter: Tensor) -> "View":
        """The view that a penalty has of a parameter."""
        return cls(parameter, is_sharded(parameter) and not penalty.elementwise)

    @classmethod
    def of_all(cls, parameter: Tensor) -> "View":
        """The view of whoever must see the whole parameter."""
        return cls(parameter, is_sharded(parameter))

    def __call__(self, found: Any) -> Any:
        """The visible part of a tensor, or of each in a tuple; any other object itself."""
        if isinstance(found, tuple):
            seen = [self(one) for one in found]
            return type(found)(*seen) if hasattr(found, "_fields") else tuple(seen)
        if not is_sharded(found):
            return found
        if self.gathered:
            return found.full_tensor()
        placements = _placements(self.parameter)
        if found.placements != placements:
            found = found.redistribute(placements=placements)
        return found.to_local()

    def part(self, seen: Tensor) -> Tensor:
        """The part of this rank in a result that is shaped like what the penalty saw."""
        return local(self.placed(seen)) if self.gathered else seen

    def placed(self, seen: Tensor) -> Tensor:
        """A result that is shaped like what the penalty saw, sharded as the parameter is."""
        if not is_sharded(self.parameter):
            return seen
        from torch.distributed.tensor import DTensor, distribute_tensor

        mesh, placements = self.parameter.device_mesh, self.parameter.placements
        if self.gathered:
            # Every rank has computed the whole and cuts out its own part: no source rank.
            return distribute_tensor(seen.detach(), mesh, placements, src_data_rank=None)
        shape, stride = self.parameter.shape, self.parameter.stride()
        return DTensor.from_local(
            seen, mesh, placements, run_check=False, shape=shape, stride=stride
        )


def value(penalty: "Penalty", w: Tensor) -> Tensor:
    """P(w) over all shards: the same plain scalar on every rank.

    Its gradient with respect to the local shard is the local part of the gradient.
    """
    if not is_sharded(w):
        return penalty.value(w)
    seen = penalty.value(View.of(penalty, w)(w))
    return cast(Tensor, _Sum.apply(seen, _shard_groups(w))) if penalty.elementwise else seen


def add_gradient_(penalty: "Penalty", parameter: Tensor, scale: float) -> None:
    """Add one subgradient of the penalty to ``parameter.grad``, each rank in its own part."""
    view, grad = View.of(penalty, parameter), parameter.grad
    assert grad is not None
    w = view(parameter.detach())
    if not view.gathered and _placements(grad) == _placements(parameter):
        penalty.add_gradient_(w, local(grad), scale)
        return
    added = torch.zeros_like(w)
    penalty.add_gradient_(w, added, scale)
    # A gradient whose sum over the ranks is still to be taken is not added to in place.
    parameter.grad = grad + view.placed(added)


def summed(part: Tensor, over: Tensor) -> Tensor:
    """Add what each rank counted in its shard of a tensor."""
    return _reduced(part, _shard_groups(over), dist.ReduceOp.SUM)


def largest(part: Tensor, over: Tensor) -> float:
    """The largest element over all shards of a tensor; 0 where it has none. For part >= 0."""
    most = part.detach().max() if part.numel() else part.new_zeros(())
    return float(_reduced(most, _shard_groups(over), dist.ReduceOp.MAX))


def averages_gradients(model: nn.Module) -> bool:
    """Whether a backward pass averages this model's gradients over ranks: DDP or FSDP2."""
    return bool(_fsdp_modules(model)) or _ddp(model) is not None


def mean_over_ranks(number: float, model: nn.Module) -> float:
    """Average a rank's number over the ranks among which a model's gradients are averaged."""
    groups: list[Any] = []
    if (ddp := _ddp(model)) is not None:
        groups = [ddp.process_group]
    elif sharded := [p for p in model.parameters() if is_sharded(p)]:
        # Under tensor parallelism some parameters know one dimension of the mesh only; the
        # ranks of the others see the same batch, and leave the mean as it is.
        groups = max((p.device_mesh for p in sharded), key=lambda mesh: mesh.ndim).get_all_groups()
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    held = torch.tensor([number, 1.0], dtype=torch.float64, device=device)
    total, ranks = _reduced(held, groups, dist.ReduceOp.SUM).tolist()
    return float(total / ranks)


def reshard(model: nn.Module) -> None:
    """Put FSDP2's sharded parameters, those that an optimizer holds, back into a model.

    After a forward pass that no backward pass followed, the outermost ones stay gathered.
    """
    for module in _fsdp_modules(model):
        module.reshard()


def refuse_flat(model: nn.Module) -> None:
    """Raise for the older ``FullyShardedDataParallel``, whose parameters have lost their shapes.

    Raises:
        TypeError: a module of the model is wrapped in it.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is not None and any(
        isinstance(module, fsdp.FullyShardedDataParallel) for module in model.modules()
    ):
        raise TypeError(
            "FullyShardedDataParallel (FSDP1) flattens the parameters into pieces without shape, "
            "on which no penalty could tell a weight from a bias. Use fully_shard (FSDP2); in "
            "Lightning ModelParallelStrategy instead of FSDPStrategy."
        )


class _Sum(torch.autograd.Function):
    """Add a scalar over ranks, each of which then holds the same total.

    The gradient of the total with respect to a rank's term is 1, and the rank's own backward
    pass brings it there: nothing is left to add up.
    """

    @staticmethod
    def forward(ctx: Any, term: Tensor, groups: list[Any]) -> Tensor:  # noqa: ARG004
        return _reduced(term, groups, dist.ReduceOp.SUM)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return grad, None


def _reduced(part: Tensor, groups: list[Any], op: Any) -> Tensor:
    total = part.clone() if groups else part
    for group in groups:
        dist.all_reduce(total, op, group=group)
    return total


def _placements(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.placements if is_sharded(tensor) else ()


def _shard_groups(tensor: Tensor) -> list[Any]:
    """The process group of every mesh dimension that shards a tensor."""
    if not is_sharded(tensor):
        return []
    mesh = tensor.device_mesh
    return [
        mesh.get_group(dimension)
        for dimension, placement in enumerate(tensor.placements)
        if not placement.is_replicate()
    ]


def _fsdp_modules(model: nn.Module) -> "list[FSDPModule]":
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is None:
        return []
    return [module for module in model.modules() if isinstance(module, fsdp.FSDPModule)]


def _ddp(model: nn.Module) -> DistributedDataParallel | None:
    return next((m for m in model.modules() if isinstance(m, DistributedDataParallel)), None)
