"""The penalties, weights and step sizes that the contract tests run over.

A new penalty joins the contract with one line in ``CASES``.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from torchreg import L1, L2, ElasticNet, Penalty


@dataclass(frozen=True)
class Case:
    """A penalty as a function of its strength; at strength 0 it must penalise nothing."""

    name: str
    make: Callable[[float], Penalty]
    convex: bool = True
    separable: bool = True  # a sum over single weights
    zeroes: bool = True  # a finite strength makes zero stationary

    def __str__(self) -> str:
        return self.name


CASES = [
    Case("L1", L1),
    Case("L2", L2, zeroes=False),
    Case("ElasticNet-l2-half-of-l1", lambda strength: ElasticNet(strength, strength / 2)),
    Case("ElasticNet-l2-fourfold", lambda strength: ElasticNet(strength, 4 * strength)),
]

STRENGTHS = [0.0, 0.5]


def sample(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normal numbers, about a fifth of them exactly 0."""
    w = 2 * torch.randn(shape, dtype=dtype)
    return w * (torch.rand(shape) > 0.2)


LAYOUTS: dict[str, Callable[[torch.dtype], Tensor]] = {
    "contiguous": lambda dtype: sample(4, 6, dtype=dtype),
    "transposed": lambda dtype: sample(6, 4, dtype=dtype).t(),
    "strided": lambda dtype: sample(8, 12, dtype=dtype)[::2, ::2],
    "empty": lambda dtype: sample(0, 3, dtype=dtype),
    "0-d": lambda dtype: torch.randn((), dtype=dtype),
}

STEPS: dict[str, Callable[[Tensor], float | Tensor]] = {
    "float": lambda w: 0.7,  # noqa: ARG005
    "0-d tensor": lambda w: torch.tensor(0.7, dtype=w.dtype),
    "per coordinate": lambda w: 0.1 + torch.rand_like(w),
}
