"""A slow outside solver for the convex problem of experiments.exactness: the oracle."""

from functools import cache

import torch
from torch import Tensor, nn

from experiments.exactness import digits


@cache
def fista(l1: float, l2: float) -> tuple[float, Tensor]:
    """Solve it by accelerated proximal gradient with restart, in plain tensors of its own.

    Returns the optimum and the weights. Shares no code with the library: the step is 1/L for
    the softmax loss, the threshold is written out.
    """
    x, y = digits()
    ones = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
    target = nn.functional.one_hot(y, 10).to(x.dtype)
    lipschitz = 0.5 * float(torch.linalg.matrix_norm(ones, 2)) ** 2 / len(x) + 2 * l2
    w = torch.zeros(65, 10, dtype=x.dtype)
    ahead, momentum = w.clone(), 1.0

    for _ in range(20_000):
        gradient = ones.T @ (torch.softmax(ones @ ahead, 1) - target) / len(x)
        gradient[:-1] += 2 * l2 * ahead[:-1]
        new = ahead - gradient / lipschitz
        shrunk = new[:-1].abs() - l1 / lipschitz
        new[:-1] = torch.where(shrunk > 0, shrunk * new[:-1].sign(), 0.0)
        moved = new - w
        done = float((new - ahead).abs().max()) * lipschitz < 1e-9  # the residual's own unit
        if float(((ahead - new) * moved).sum()) > 0:  # restart: the momentum points uphill
            momentum = 1.0
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead, w, momentum = new + (momentum - 1) / following * moved, new, following
        if done:
            break
    penalty = l1 * w[:-1].abs().sum() + l2 * w[:-1].square().sum()
    optimum = nn.functional.cross_entropy(ones @ w, y) + penalty
    return float(optimum), w[:-1].T.contiguous()
