"""D is the linear response of the update to a constant gradient: measured, not recomputed."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adam, AdamW, Optimizer, RMSprop, Rprop

import torchreg as tr
from torchreg.metrics import CURVATURE_FLOOR, StepSize, metric_of

Make = Callable[[list[nn.Parameter]], Optimizer]

CASES: dict[str, Make] = {
    "SGD": lambda p: SGD(p, lr=0.1),
    "SGD maximize": lambda p: SGD(p, lr=0.1, maximize=True),
    "SGD foreach": lambda p: SGD(p, lr=0.1, momentum=0.9, foreach=True),
    "SGD fused": lambda p: SGD(p, lr=0.1, momentum=0.9, fused=True),
    "SGD tensor lr": lambda p: SGD(p, lr=torch.tensor(0.1, dtype=torch.float64), momentum=0.5),
    "momentum": lambda p: SGD(p, lr=0.1, momentum=0.9),
    "momentum 1": lambda p: SGD(p, lr=0.1, momentum=1.0),
    "dampened": lambda p: SGD(p, lr=0.1, momentum=0.8, dampening=0.3),
    "Nesterov": lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "Adam": lambda p: Adam(p, lr=0.1),
    "Adam betas": lambda p: Adam(p, lr=0.1, betas=(0.5, 0.7), eps=1e-3),
    "Adam maximize": lambda p: Adam(p, lr=0.1, maximize=True),
    "AMSGrad": lambda p: Adam(p, lr=0.1, amsgrad=True),
    "AdamW": lambda p: AdamW(p, lr=0.1, weight_decay=0.0),
    "AdamW fused": lambda p: AdamW(p, lr=0.1, weight_decay=0.0, fused=True),
}


def step_size(optimizer: Optimizer, parameter: Tensor) -> float | Tensor:
    found = metric_of(optimizer)(
        optimizer.param_groups[0], parameter, optimizer.state.get(parameter, {})
    )
    assert isinstance(found, StepSize)
    return found.bounded(0.0)


@pytest.mark.parametrize("name", CASES)
def test_a_constant_gradient_moves_a_coordinate_by_d_times_it(name: str) -> None:
    gradient = torch.tensor([1.0, -0.01, 30.0], dtype=torch.float64)
    parameter = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = CASES[name]([parameter])
    sign = -1 if optimizer.param_groups[0]["maximize"] else 1
    for _ in range(8):
        before = parameter.detach().clone()
        parameter.grad = gradient.clone()
        optimizer.step()
        moved = before - parameter.detach()
        expected = sign * step_size(optimizer, parameter) * gradient
        torch.testing.assert_close(moved, expected, rtol=1e-12, atol=1e-14)


def test_a_momentum_that_a_scheduler_changes_is_followed() -> None:
    parameter = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = SGD([parameter], lr=0.1, momentum=0.5)
    for momentum in (0.5, 0.9, 0.7, 0.95, 0.0, 0.3):
        optimizer.param_groups[0]["momentum"] = momentum
        before = parameter.item()
        parameter.grad = torch.ones(1, dtype=torch.float64)
        optimizer.step()
        assert step_size(optimizer, parameter) == pytest.approx(before - parameter.item())


def test_a_buffer_that_warmed_up_without_us_counts_as_settled() -> None:
    layer = nn.Linear(3, 1, bias=False)
    nn.init.constant_(layer.weight, 1000.0)
    inner = SGD(layer.parameters(), lr=0.1, momentum=0.9, dampening=0.5)
    optimizer = tr.ProximalOptimizer(inner, tr.Regularizer(layer, tr.L1(0.1)))
    for _ in range(500):  # stepped past the wrapper
        layer.weight.grad = torch.ones(1, 3)
        inner.step()
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.ones(1, 3)
    optimizer.step()
    moved = (before - layer.weight.detach()).mean().item()
    # The step and the threshold, both by lr * (1 - d) / (1 - m) = 0.5.
    assert moved == pytest.approx(0.5 + 0.5 * 0.1, rel=1e-3)


def adam_after(gradients: list[list[float]], penalty: tr.Penalty, start: list[float]) -> Tensor:
    layer = nn.Linear(len(start), 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([start], dtype=torch.float64))
    optimizer = tr.ProximalOptimizer(
        Adam(layer.parameters(), lr=1e-3), tr.Regularizer(layer, penalty)
    )
    for gradient in gradients:
        layer.weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
    return layer.weight.detach()[0]


@pytest.mark.parametrize("penalty", [tr.L1(0.1), tr.L2(0.1), tr.ElasticNet(0.1, 0.1)], ids=repr)
def test_a_live_weight_without_gradient_history_is_not_lost(penalty: tr.Penalty) -> None:
    # Without the floor D would be lr / eps = 1e5 and the weight gone in one step.
    kept = adam_after([[0.0]], penalty, [1.0])
    assert 1 - 1e-3 / CURVATURE_FLOOR * 1.001 <= kept.item() < 1


def test_the_floor_is_idle_at_a_stationary_kept_weight() -> None:
    # Stationary for L1(0.1): a kept positive weight has a gradient of -0.1.
    kept = adam_after([[-0.1]] * 2000, tr.L1(0.1), [1.0])
    assert kept.item() == pytest.approx(1.0, abs=1e-9)


def test_a_stationary_zero_stays_zero_and_another_leaves() -> None:
    gradients = [[0.099, -1e-9, 0.0, 0.101]] * 200
    weights = adam_after(gradients, tr.L1(0.1), [0.0] * 4)
    assert weights[:3].tolist() == [0.0, 0.0, 0.0]
    assert weights[3].item() < 0


def test_the_floor_is_the_stated_fraction_of_the_slope() -> None:
    step = StepSize(1.0, torch.tensor([0.0, 1.0]))
    slope = torch.tensor([2.0, 2.0])
    torch.testing.assert_close(step.bounded(slope), torch.tensor([1 / (2 * CURVATURE_FLOOR), 1.0]))
    assert StepSize(0.5).bounded(1e9) == 0.5


class Mine(Adam):
    """Keeps Adam's step, so it has Adam's metric."""


class Other(Adam):
    """Takes another step, of which nothing is known."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


def test_a_subclass_counts_as_its_parent_while_it_keeps_its_step() -> None:
    parameter = [nn.Parameter(torch.ones(1))]
    assert metric_of(Mine(parameter)) is metric_of(Adam(parameter))
    with pytest.raises(TypeError, match="no diagonal step size is known for Other"):
        metric_of(Other(parameter))


@pytest.mark.parametrize("kind", [LBFGS, Rprop])
def test_another_optimizer_is_refused_with_the_way_out(kind: type[Optimizer]) -> None:
    layer = nn.Linear(2, 1)
    regularizer = tr.Regularizer(layer, tr.L1(0.1))
    inner = kind(layer.parameters())  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"Supported: Adam, AdamW, SGD.*metric=lambda"):
        tr.ProximalOptimizer(inner, regularizer)


def test_the_metric_that_the_refusal_shows_is_right() -> None:
    gradient = torch.tensor([1.0, -0.01, 30.0], dtype=torch.float64)
    parameter = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = RMSprop([parameter], lr=0.1)
    with pytest.raises(TypeError) as refused:
        metric_of(optimizer)
    shown = re.search(r"metric=(lambda.*\))\. The lr", str(refused.value))
    assert shown is not None
    metric = eval(shown[1], {"torchreg": tr})
    before = parameter.detach().clone()
    parameter.grad = gradient.clone()
    optimizer.step()
    step = metric(optimizer.param_groups[0], parameter, optimizer.state[parameter]).bounded(0.0)
    torch.testing.assert_close(before - parameter.detach(), step * gradient)


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (None, TypeError, "metric returned None"),
        ("lr", TypeError, "metric returned 'lr'"),
        (-1.0, ValueError, "a step of at least 0"),
        (torch.tensor(float("nan")), ValueError, "negative or NaN step size"),
        (torch.full((1, 2), -0.1), ValueError, "negative or NaN step size"),
        (torch.ones(2), ValueError, r"shaped like w, \(1, 2\)"),
    ],
)
def test_a_callers_metric_is_checked(returned: Any, error: type[Exception], message: str) -> None:
    layer = nn.Linear(2, 1, bias=False)
    optimizer = tr.ProximalOptimizer(
        Rprop(layer.parameters()),
        tr.Regularizer(layer, tr.L1(1.0)),
        metric=lambda _group, _parameter, _state: returned,
    )
    layer.weight.grad = torch.zeros(1, 2)
    with pytest.raises(error, match=message):
        optimizer.step()


def test_a_metric_that_is_no_function_is_refused() -> None:
    layer = nn.Linear(2, 1)
    with pytest.raises(TypeError, match="metric must be a callable"):
        tr.ProximalOptimizer(
            Rprop(layer.parameters()),
            tr.Regularizer(layer, tr.L1(1.0)),
            metric=0.1,  # type: ignore[arg-type]
        )


def test_a_callers_metric_is_used() -> None:
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0.4]]))
    optimizer = tr.ProximalOptimizer(
        Rprop(layer.parameters(), lr=0.0, step_sizes=(0.0, 1.0)),
        tr.Regularizer(layer, tr.L1(1.0)),
        metric=lambda _group, parameter, _state: torch.full_like(parameter, 0.5),
    )
    layer.weight.grad = torch.zeros(1, 2)
    optimizer.step()
    assert layer.weight.tolist() == [[0.5, 0.0]]
