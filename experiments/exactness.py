"""Does a proximal optimizer solve the problem that was written? Measured on a convex one.

    python -m experiments.exactness

L1 multinomial logistic regression on scikit-learn's 1,797 digits, standardised, full batch,
float64, strength 5e-3, unpenalised intercept: convex, so there is one optimum, and it is known
to twelve digits. Each optimizer runs 3,000 steps under a cosine lr, once with the step size that
torchreg reads from it, and once thresholding by the lr alone, as the obvious wrapper does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

import torchreg as tr
from experiments.results import table
from torchreg.metrics import Metric

STRENGTH = 5e-3
OPTIMUM = 0.463774519256

OPTIMIZERS: dict[str, Callable[[nn.Linear], Optimizer]] = {
    "Adam": lambda m: Adam(m.parameters(), lr=0.05),
    "AdamW, weight_decay=0": lambda m: AdamW(m.parameters(), lr=0.05, weight_decay=0),
    "Adam, amsgrad": lambda m: Adam(m.parameters(), lr=0.05, amsgrad=True),
    "SGD": lambda m: SGD(m.parameters(), lr=0.5),
    "SGD, momentum 0.9": lambda m: SGD(m.parameters(), lr=0.1, momentum=0.9),
    "SGD, Nesterov 0.9": lambda m: SGD(m.parameters(), lr=0.1, momentum=0.9, nesterov=True),
}


@dataclass(frozen=True)
class Solution:
    """Where an optimizer ended."""

    objective: float
    linear: nn.Linear
    certificate: tr.Stationarity


@cache
def digits() -> tuple[Tensor, Tensor]:
    """Load the 1,797 digits: features (1797, 64), standardised, in float64; and labels."""
    x, y = load_digits(return_X_y=True)
    features = torch.tensor(x, dtype=torch.float64)
    scale = features.std(0, correction=0)
    return (features - features.mean(0)) / torch.where(scale > 0, scale, 1.0), torch.tensor(y)


def task_loss(linear: nn.Linear) -> Tensor:
    """Return the mean cross-entropy over all digits."""
    x, y = digits()
    return nn.functional.cross_entropy(linear(x), y)


def lr_alone(group: dict[str, float], _parameter: Tensor, _state: object) -> float:
    """Return the step size of the obvious wrapper, which other libraries ship."""
    return group["lr"]


def solve(
    make: Callable[[nn.Linear], Optimizer],
    penalty: tr.Penalty,
    *,
    steps: int,
    metric: Metric | None = None,
) -> Solution:
    """Minimise loss + penalty from zero with a wrapped optimizer, under a cosine lr."""
    linear = nn.Linear(64, 10, dtype=torch.float64)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    regularizer = tr.Regularizer(linear, penalty)
    optimizer = tr.ProximalOptimizer(make(linear), regularizer, metric=metric)
    scheduler = CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        task_loss(linear).backward()
        optimizer.step()
        scheduler.step()
    loss = task_loss(linear)
    certificate = tr.stationarity(regularizer, loss)
    return Solution(float((loss + regularizer()).detach()), linear, certificate)


def main() -> None:
    """Solve it with every optimizer, both ways, and print the Markdown table."""
    torch.set_num_threads(1)
    rows = []
    for name, make in OPTIMIZERS.items():
        print(f"solving with {name} ...", flush=True)
        ours = solve(make, tr.L1(STRENGTH), steps=3000)
        naive = solve(make, tr.L1(STRENGTH), steps=3000, metric=lr_alone)
        rows.append(
            [
                name,
                f"{ours.objective:.12f}",
                f"{tr.sparsity(ours.linear).density:.1%}",
                f"{float(ours.certificate):.0e}",
                f"{naive.objective:.4f}",
                f"{tr.sparsity(naive.linear).density:.1%}",
            ]
        )
    header = ["optimizer", "torchreg", "nonzero", "residual", "step, then lr * strength", "nonzero"]
    print(f"\nobjective after 3,000 steps (optimum {OPTIMUM}, 23.9% nonzero)\n")
    print(table(header, rows, markdown=True))


if __name__ == "__main__":
    main()
