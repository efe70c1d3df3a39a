"""Time the certified solver beside scikit-learn, skglm and celer, in one run on one thread.

    python -m experiments.bench_convex

Every solver is run at the loosest tolerance, in its own unit, that brings it within 1e-6 of the
optimum; the time is processor time, the least of several runs (one of saga). A library
that is not installed (``pip install ".[bench]"`` has them all) is named as missing. The last lines
say which targets hold.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import torchreg as tr
from experiments.exactness import digits

Timed = tuple[float, Any]
Table = tuple[list[str], list[str]]
"""The lines of a table, and those that say which targets hold."""

TOLERANCES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5, 1e-6, 1e-7)
"""In each solver's own unit; the loosest that is good enough is timed."""


def lasso_data(samples: int = 1000, features: int = 5000) -> tuple[Tensor, Tensor]:
    """Gaussian features, a hundred of which matter, and noise; columns lie together in memory."""
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(features, samples, generator=draws, dtype=torch.float64).T
    w = torch.zeros(features, dtype=torch.float64)
    w[:100] = torch.randn(100, generator=draws, dtype=torch.float64)
    y = x @ w
    return x, y + 0.5 * y.std() * torch.randn(samples, generator=draws, dtype=torch.float64)


def loosest(
    run: Callable[[float], Any], over: Callable[[Any], float], tolerances: Sequence[float]
) -> Callable[[], Any]:
    """The run at the first of falling tolerances whose result is within 1e-6 of the optimum."""
    for tolerance in tolerances:
        if over(run(tolerance)) <= 1e-6:
            break
    return partial(run, tolerance)


def timed(run: Callable[[], Any], repeats: int = 3) -> Timed:
    """The least processor time, and what the last run returned."""
    least = float("inf")
    for _ in range(repeats):
        begun = time.process_time()
        found = run()
        least = min(least, time.process_time() - begun)
    return least, found


def row(name: str, seconds: float, over: float, ours: float | None = None) -> str:
    """One line: who, how long, how far from the optimum, and the ratio to a time of ours."""
    ratio = "" if ours is None else f"{seconds / ours:>9.2f}x"
    mark = "" if over <= 1e-6 else "  NOT within 1e-6"
    return f"  {name:<28}{seconds:>9.3f} s{over:>12.1e}{ratio}{mark}"


def target(what: str, asked: float, found: float) -> str:
    """Whether the rival's time over ours is what was asked for, at least."""
    return f"  {what}: {asked:.3g}x, found {found:.3g}x: {'holds' if found >= asked else 'MISSED'}"


def zeros(features: int, outputs: int, dtype: torch.dtype, *, bias: bool) -> nn.Linear:
    """A linear model at zero."""
    model = nn.Linear(features, outputs, bias=bias, dtype=dtype)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


def multinomial() -> Table:
    """L1 multinomial logistic regression on the digits at a twentieth of the critical strength."""
    from sklearn.linear_model import LogisticRegression

    x, y = digits()
    model = zeros(64, 10, x.dtype, bias=True)
    loss = tr.Logistic(x, y)
    strength = tr.critical_strength(tr.Regularizer(model, tr.L1(1.0)), loss) / 20

    def ours(dtype: torch.dtype, tolerance: float) -> tuple[Tensor, Tensor]:
        fresh = zeros(64, 10, dtype, bias=True)
        tr.solve(tr.Regularizer(fresh, tr.L1(strength)), tr.Logistic(x.to(dtype), y),
                 tolerance=tolerance)  # fmt: skip
        return fresh.weight.detach(), fresh.bias.detach()

    def objective(weight: Tensor, bias: Tensor) -> float:
        z = x @ weight.double().T + bias.double()
        return float(nn.functional.cross_entropy(z, y) + strength * weight.double().abs().sum())

    optimum = objective(*ours(torch.float64, tolerance=1e-9))

    def over(found: tuple[Tensor, Tensor]) -> float:
        return objective(*found) / optimum - 1

    lines = ["multinomial L1, digits, critical strength / 20"]
    mine = {}
    for dtype in (torch.float64, torch.float32):
        mine[dtype], found = timed(loosest(partial(ours, dtype), over, TOLERANCES))
        lines.append(row(f"torchreg {dtype}", mine[dtype], over(found)))

    def saga(tolerance: float) -> tuple[Tensor, Tensor]:
        model = LogisticRegression(
            C=1 / (len(x) * strength), l1_ratio=1.0, solver="saga", tol=tolerance,
            max_iter=100_000, random_state=0,
        ).fit(x.numpy(), y.numpy())  # fmt: skip
        return torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)

    seconds, found = timed(loosest(saga, over, (1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 1e-6)), 1)
    lines.append(row("scikit-learn saga", seconds, over(found), mine[torch.float64]))
    return lines, [target("multinomial, saga over float64", 15, seconds / mine[torch.float64])]


def lasso() -> Table:
    """One lasso, then a path of 50 points, with more features than samples."""
    x, y = lasso_data()
    arrays = np.asfortranarray(x.numpy()), y.numpy()
    unit = tr.Regularizer(zeros(x.shape[1], 1, x.dtype, bias=False), tr.L1(1.0))
    highest = tr.critical_strength(unit, tr.LeastSquares(x, y))
    grid = [highest * 100 ** (-i / 49) for i in range(50)]

    def objective(w: Any, strength: float) -> float:
        w = np.asarray(w, dtype=np.float64).ravel()
        left = arrays[1] - arrays[0] @ w
        return float(left @ left / (2 * len(left)) + strength * np.abs(w).sum())

    def one(dtype: torch.dtype, tolerance: float) -> Any:
        model = zeros(x.shape[1], 1, dtype, bias=False)
        loss = tr.LeastSquares(x.to(dtype), y.to(dtype))
        tr.solve(tr.Regularizer(model, tr.L1(highest / 20)), loss, tolerance=tolerance)
        return model.weight.detach().numpy()

    def follow(dtype: torch.dtype, tolerance: float) -> Any:
        model = zeros(x.shape[1], 1, dtype, bias=False)
        loss = tr.LeastSquares(x.to(dtype), y.to(dtype))
        found = tr.path(
            tr.Regularizer(model, tr.L1(1.0)), loss, strengths=grid, tolerance=tolerance
        )
        return found.coefficients().squeeze(1).numpy()

    optimum = objective(one(torch.float64, 1e-9), highest / 20)
    optima = [objective(w, s) for w, s in zip(follow(torch.float64, 1e-9), grid, strict=True)]

    def worst(path: Sequence[Any]) -> float:
        return max(objective(w, s) / o - 1 for w, s, o in zip(path, grid, optima, strict=True))

    def over(w: Any) -> float:
        return objective(w, highest / 20) / optimum - 1

    lines = ["lasso, 1,000 x 5,000, critical strength / 20"]
    mine = {}
    for dtype in (torch.float64, torch.float32):
        seconds, w = timed(loosest(partial(one, dtype), over, TOLERANCES), 5)
        mine[dtype] = seconds
        lines.append(row(f"torchreg {dtype}", seconds, over(w)))
    targets = []
    try:
        import skglm

        def skglm_one(tolerance: float) -> Any:
            strength = highest / 20
            rival = skglm.Lasso(strength, fit_intercept=False, tol=tolerance * strength)
            return rival.fit(*arrays).coef_

        skglm_one(1e-2)  # compiles
        seconds, w = timed(loosest(skglm_one, over, TOLERANCES), 5)
        lines.append(row("skglm", seconds, over(w), mine[torch.float64]))
        targets.append(target("lasso, skglm over float64", 1 / 1.5, seconds / mine[torch.float64]))
    except ImportError:
        lines.append("  skglm is not installed")
    lines.append("lasso path, 50 points to critical strength / 100 (least precise point)")
    for dtype in (torch.float64, torch.float32):
        seconds, path = timed(loosest(partial(follow, dtype), worst, TOLERANCES))
        mine[dtype] = seconds
        lines.append(row(f"torchreg {dtype}", seconds, worst(path)))
    try:
        from celer import celer_path

        def theirs(tolerance: float) -> Any:
            return celer_path(*arrays, pb="lasso", alphas=np.array(grid), tol=tolerance)[1].T

        theirs(1e-2)  # compiles
        seconds, path = timed(loosest(theirs, worst, TOLERANCES))
        for dtype, asked in ((torch.float64, 0.5), (torch.float32, 1.0)):
            lines.append(row(f"celer, over {dtype}", seconds, worst(path), mine[dtype]))
            targets.append(target(f"path, celer over {dtype}", asked, seconds / mine[dtype]))
    except ImportError:
        lines.append("  celer is not installed")
    return lines, targets


def main() -> None:
    """Run and print all of it."""
    torch.set_num_threads(1)
    print("one thread, processor time; then the distance from the optimum, and theirs over ours")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        targets = []
        for part in (multinomial, lasso):
            lines, found = part()
            print(*lines, sep="\n", flush=True)
            targets += found
    print("targets, theirs over ours", *targets, sep="\n")


if __name__ == "__main__":
    main()
