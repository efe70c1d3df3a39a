"""What a model is now: its zeros, and the input features that it uses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchreg.distributed import local, summed, whole
from torchreg.regularizer import Regularizer
from torchreg.selection import select


@dataclass(frozen=True)
class Zeros:
    """The zeros of one tensor: exact ones, those within the tolerance, and all its elements."""

    exact: int
    near: int
    count: int

    @property
    def sparsity(self) -> float:
        """Exact zeros as a fraction of all elements; 0 for an empty tensor."""
        return self.exact / self.count if self.count else 0.0

    @property
    def near_sparsity(self) -> float:
        """Elements within the tolerance, exact zeros among them, as a fraction of all."""
        return self.near / self.count if self.count else 0.0

    @property
    def density(self) -> float:
        """Nonzero elements as a fraction of all."""
        return 1 - self.sparsity


@dataclass(frozen=True)
class Sparsity(Zeros):
    """Zeros in total, and tensor by tensor; ``str`` prints the table."""

    tensors: dict[str, Zeros]
    tolerance: float

    def __str__(self) -> str:
        width = max([len(name) for name in self.tensors] + [5])
        rows = [f"{'name':<{width}}  {'count':>12}  {'exact zeros':>20}  {'near zeros':>20}"]
        for name, zeros in [*self.tensors.items(), ("total", self)]:
            exact = f"{zeros.exact:,} ({zeros.sparsity:.1%})"
            near = f"{zeros.near:,} ({zeros.near_sparsity:.1%})"
            rows.append(f"{name:<{width}}  {zeros.count:>12,}  {exact:>20}  {near:>20}")
        return "\n".join([*rows, f"near: |w| <= {self.tolerance:g}, exact zeros among them"])


def sparsity(
    of: Regularizer | nn.Module | Mapping[str, Tensor], *, tolerance: float = 1e-3
) -> Sparsity:
    """Count the zeros of the penalised weights.

    An exact zero is 0.0, nothing else. The near zeros tell what a penalty in the loss leaves:
    small numbers that still cost as much as large ones. Of sharded weights (FSDP2, tensor
    parallelism) the shards of all ranks are counted, which must call this together.

    Args:
        of: a regularizer (its penalised parameters), a model (its default selection) or a
            selection. The denominator is the number of elements of these tensors.
        tolerance: the absolute size up to which a weight is near zero.

    Raises:
        ValueError: a negative tolerance.

    Example:
        >>> import torch
        >>> report = sparsity({"fc.weight": torch.tensor([[0.0, 1e-4], [1.0, -2.0]])})
        >>> report.sparsity, report.near_sparsity, report.exact, report.count
        (0.25, 0.5, 1, 4)
        >>> print(report)
        name              count           exact zeros            near zeros
        fc.weight             4             1 (25.0%)             2 (50.0%)
        total                 4             1 (25.0%)             2 (50.0%)
        near: |w| <= 0.001, exact zeros among them
    """
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be at least 0, found {tolerance}.")
    tensors = {name: _zeros(w, tolerance) for name, w in _tensors(of).items()}
    exact, near, count = (
        sum(getattr(zeros, field) for zeros in tensors.values())
        for field in ("exact", "near", "count")
    )
    return Sparsity(exact, near, count, tensors, tolerance)


def _zeros(w: Tensor, tolerance: float) -> Zeros:
    part = local(w)
    counts = torch.stack([(part == 0).sum(), (part.abs() <= tolerance).sum()])
    exact, near = summed(counts, over=w).tolist()
    return Zeros(exact, near, count=w.numel())


@dataclass(frozen=True)
class Support:
    """The input features that a first layer still uses."""

    mask: Tensor
    """One bool per feature: whether any weight from it is nonzero. On the CPU."""

    names: tuple[str, ...]

    @property
    def used(self) -> list[str]:
        """The names of the features that are used."""
        return [name for name, kept in zip(self.names, self.mask.tolist(), strict=True) if kept]

    @property
    def unused(self) -> list[str]:
        """The names of the features that could be left out without changing any output."""
        return [n for n, kept in zip(self.names, self.mask.tolist(), strict=True) if not kept]

    def __len__(self) -> int:
        return int(self.mask.sum())

    def __str__(self) -> str:
        return f"{len(self)} of {len(self.names)} input features used: {', '.join(self.used)}"


def support(layer: nn.Module | Tensor, names: Sequence[str] | None = None) -> Support:
    """Find the input features that a layer uses: those with a nonzero weight to any output.

    A sharded weight (FSDP2, tensor parallelism) is gathered: all of its ranks call this together.

    Args:
        layer: a linear or ungrouped convolution layer, or a weight shaped (outputs, inputs, ...).
        names: one per input feature; their indices by default.

    Raises:
        TypeError: a layer without such a weight.
        ValueError: the number of names is not that of the features.

    Example:
        >>> import torch
        >>> print(support(torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 1.0]]), names=["a", "b", "c"]))
        2 of 3 input features used: b, c
    """
    shaped = isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
    weight: Any = getattr(layer, "weight", None) if shaped else layer
    if not isinstance(weight, Tensor) or weight.dim() < 2 or getattr(layer, "groups", 1) != 1:
        raise TypeError(
            f"expected a linear or ungrouped convolution layer, or a weight shaped (outputs, "
            f"inputs, ...); found {layer!r}."
        )
    nonzero = (whole(weight.detach()) != 0).transpose(0, 1).flatten(1)
    mask = nonzero.any(dim=1).cpu()
    named = tuple(names) if names is not None else tuple(str(i) for i in range(len(mask)))
    if len(named) != len(mask):
        raise ValueError(f"expected {len(mask)} names, one per input feature; found {len(named)}.")
    return Support(mask, named)


def _tensors(of: Regularizer | nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    if isinstance(of, Regularizer):
        found: Mapping[str, Tensor] = of.selection()
    elif isinstance(of, nn.Module):
        found = select(of)
    elif isinstance(of, Mapping):
        found = of
    else:
        raise TypeError(
            f"expected a Regularizer, a model or a selection, found {type(of).__name__}."
        )
    for name, one in found.items():
        if not isinstance(one, Tensor):
            raise TypeError(f"expected tensors in the selection, found {one!r} under {name!r}.")
    return {name: tensor.detach() for name, tensor in found.items()}
