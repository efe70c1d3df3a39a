"""D is the linear response of the update to a constant gradient: measured, not recomputed."""

import io
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import (
    ASGD,
    LBFGS,
    SGD,
    Adadelta,
    Adafactor,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Muon,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
    Rprop,
    SparseAdam,
)

import torchreg as tr
from torchreg import metrics
from torchreg.metrics import CURVATURE_FLOOR, StepSize, is_elementwise, metric_of

Make = Callable[[list[nn.Parameter]], Optimizer]
LR = torch.tensor(0.1, dtype=torch.float64)

CASES: dict[str, Make] = {
    "SGD": lambda p: SGD(p, lr=0.1),
    "SGD maximize": lambda p: SGD(p, lr=0.1, maximize=True),
    "SGD foreach": lambda p: SGD(p, lr=0.1, momentum=0.9, foreach=True),
    "SGD fused": lambda p: SGD(p, lr=0.1, momentum=0.9, fused=True),
    "SGD tensor lr": lambda p: SGD(p, lr=LR.clone(), momentum=0.5),
    "momentum": lambda p: SGD(p, lr=0.1, momentum=0.9),
    "momentum 1": lambda p: SGD(p, lr=0.1, momentum=1.0),
    "dampened": lambda p: SGD(p, lr=0.1, momentum=0.8, dampening=0.3),
    "Nesterov": lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "ASGD": lambda p: ASGD(p, lr=0.1, lambd=0.0),
    "ASGD foreach": lambda p: ASGD(p, lr=0.1, lambd=0.0, foreach=True),
    "ASGD maximize": lambda p: ASGD(p, lr=0.1, lambd=0.0, maximize=True),
    "ASGD tensor lr": lambda p: ASGD(p, lr=LR.clone(), lambd=0.0),
    "Adam": lambda p: Adam(p, lr=0.1),
    "Adam betas": lambda p: Adam(p, lr=0.1, betas=(0.5, 0.7), eps=1e-3),
    "Adam maximize": lambda p: Adam(p, lr=0.1, maximize=True),
    "Adam tensor lr": lambda p: Adam(p, lr=LR.clone(), foreach=False),
    "Adam foreach": lambda p: Adam(p, lr=0.1, foreach=True),
    "AMSGrad": lambda p: Adam(p, lr=0.1, amsgrad=True),
    "AMSGrad foreach": lambda p: Adam(p, lr=0.1, amsgrad=True, foreach=True),
    "AdamW": lambda p: AdamW(p, lr=0.1, weight_decay=0.0),
    "AdamW fused": lambda p: AdamW(p, lr=0.1, weight_decay=0.0, fused=True),
    "Adamax": lambda p: Adamax(p, lr=0.1, betas=(0.8, 0.9), eps=1e-3),
    "Adamax foreach": lambda p: Adamax(p, lr=0.1, foreach=True),
    "Adamax maximize": lambda p: Adamax(p, lr=0.1, maximize=True),
    "Adamax tensor lr": lambda p: Adamax(p, lr=LR.clone(), foreach=False),
    "NAdam": lambda p: NAdam(p, lr=0.1),
    "NAdam options": lambda p: NAdam(p, lr=0.1, betas=(0.7, 0.9), momentum_decay=0.1, eps=1e-3),
    "NAdam foreach": lambda p: NAdam(p, lr=0.1, foreach=True),
    "NAdam maximize": lambda p: NAdam(p, lr=0.1, maximize=True),
    "NAdam tensor lr": lambda p: NAdam(p, lr=LR.clone(), foreach=False),
    "RAdam": lambda p: RAdam(p, lr=0.1),
    "RAdam options": lambda p: RAdam(p, lr=0.1, betas=(0.7, 0.9), eps=1e-3),
    "RAdam never rectified": lambda p: RAdam(p, lr=0.1, betas=(0.7, 0.5)),
    "RAdam foreach": lambda p: RAdam(p, lr=0.1, foreach=True),
    "RAdam maximize": lambda p: RAdam(p, lr=0.1, maximize=True),
    "RAdam tensor lr": lambda p: RAdam(p, lr=LR.clone(), foreach=False),
    "RMSprop": lambda p: RMSprop(p, lr=0.1, eps=1e-3),
    "RMSprop momentum": lambda p: RMSprop(p, lr=0.1, momentum=0.9, eps=0.0),
    "RMSprop momentum alpha 0": lambda p: RMSprop(p, lr=0.1, momentum=0.9, alpha=0.0),
    "RMSprop foreach": lambda p: RMSprop(p, lr=0.1, momentum=0.8, eps=0.0, foreach=True),
    "RMSprop maximize": lambda p: RMSprop(p, lr=0.1, maximize=True),
    "RMSprop tensor lr": lambda p: RMSprop(p, lr=LR.clone(), foreach=False),
    "RMSprop centered": lambda p: RMSprop(p, lr=0.1, centered=True, eps=1e-3),
    "Adagrad": lambda p: Adagrad(p, lr=0.1),
    "Adagrad options": lambda p: Adagrad(p, 0.1, lr_decay=0.3, initial_accumulator_value=2.0),
    "Adagrad foreach": lambda p: Adagrad(p, lr=0.1, lr_decay=0.3, foreach=True),
    "Adagrad fused": lambda p: Adagrad(p, lr=0.1, lr_decay=0.3, fused=True),
    "Adagrad maximize": lambda p: Adagrad(p, lr=0.1, maximize=True),
    "Adagrad tensor lr": lambda p: Adagrad(p, lr=LR.clone(), foreach=False),
    "Adadelta": lambda p: Adadelta(p, lr=0.1),
    "Adadelta options": lambda p: Adadelta(p, lr=0.1, rho=0.6, eps=1e-2),
    "Adadelta foreach": lambda p: Adadelta(p, lr=0.1, foreach=True),
    "Adadelta maximize": lambda p: Adadelta(p, lr=0.1, maximize=True),
    "Adadelta tensor lr": lambda p: Adadelta(p, lr=LR.clone(), foreach=False),
    "Adafactor": lambda p: Adafactor(p, lr=0.1),
    "Adafactor options": lambda p: Adafactor(p, 0.05, d=1.2, eps=(1e-4, 0.1), beta2_decay=-0.5),
    "Adafactor foreach": lambda p: Adafactor(p, lr=0.1, foreach=True),
    "Adafactor maximize": lambda p: Adafactor(p, lr=0.1, maximize=True),
    "Adafactor tensor lr": lambda p: Adafactor(p, lr=LR.clone(), foreach=False),
}


def stepped(optimizer: Optimizer) -> None:
    """Step as ProximalOptimizer does, without the proximal map."""
    metrics.before_step(optimizer)
    optimizer.step()
    metrics.advance(optimizer)


def step_size(optimizer: Optimizer, parameter: Tensor, slope: float = 0.0) -> float | Tensor:
    found = metric_of(optimizer)(
        optimizer.param_groups[0], parameter, optimizer.state.get(parameter, {})
    )
    assert isinstance(found, StepSize)
    return found.bounded(slope)


def rows() -> Tensor:
    """A gradient over several orders of magnitude, of rank 1, as Adafactor's estimate is."""
    return torch.outer(torch.tensor([1.0, -0.01]), torch.tensor([1.0, -0.3, 30.0])).double()


@pytest.mark.parametrize("name", CASES)
def test_a_constant_gradient_moves_a_coordinate_by_d_times_it(name: str) -> None:
    gradient = rows()
    parameter = nn.Parameter(torch.ones_like(gradient))
    optimizer = CASES[name]([parameter])
    group = optimizer.param_groups[0]
    sign = -1 if group["maximize"] else 1
    for t in range(60):
        if t % 7 == 3:  # as a scheduler would
            group["lr"] = group["lr"] * 0.7
        if t > 20 and 0 < group.get("momentum", 0) < 1:
            group["momentum"] = (0.5, 0.95, 0.3)[t % 3]
        before = parameter.detach().clone()
        parameter.grad = gradient.clone()
        stepped(optimizer)
        moved = before - parameter.detach()
        expected = sign * step_size(optimizer, parameter) * gradient
        assert bool((moved.abs() > 0).all())
        torch.testing.assert_close(moved, expected, rtol=1e-9, atol=1e-12, msg=f"at step {t + 1}")


EXACT = ["Adagrad options", "RMSprop", "RMSprop centered", "Adafactor", "Adafactor options", "ASGD"]


@pytest.mark.parametrize("name", EXACT)
def test_without_a_buffer_of_gradients_d_is_exact_under_any_gradient(name: str) -> None:
    parameter = nn.Parameter(torch.randn(4, 3, dtype=torch.float64))
    optimizer = CASES[name]([parameter])
    for _ in range(30):
        before = parameter.detach().clone()
        parameter.grad = torch.randn_like(parameter)
        stepped(optimizer)
        expected = step_size(optimizer, parameter) * parameter.grad
        torch.testing.assert_close(before - parameter.detach(), expected, rtol=1e-8, atol=1e-11)


DECAYED: dict[str, Make] = {
    "Adam": lambda p: Adam(p, lr=0.1, weight_decay=0.5, decoupled_weight_decay=True),
    "NAdam": lambda p: NAdam(p, lr=0.1, weight_decay=0.5, decoupled_weight_decay=True),
    "RAdam": lambda p: RAdam(p, lr=0.1, weight_decay=0.5, decoupled_weight_decay=True),
    "AdamW": lambda p: AdamW(p, lr=0.1, weight_decay=0.5),
    "Adafactor": lambda p: Adafactor(p, lr=0.1, weight_decay=0.5),
    "ASGD lambd": lambda p: ASGD(p, lr=0.1, lambd=0.5),
}


@pytest.mark.parametrize("name", DECAYED)
def test_d_leaves_the_decay_that_multiplies_the_weight_out(name: str) -> None:
    gradient = rows()
    parameter = nn.Parameter(torch.ones_like(gradient))
    optimizer = DECAYED[name]([parameter])
    for _ in range(20):
        rate = 0.1 * 0.5
        if "ASGD" in name and parameter in optimizer.state:  # it decays by eta, in float32
            rate = float(optimizer.state[parameter]["eta"]) * 0.5
        before = parameter.detach() * (1 - rate)
        parameter.grad = gradient.clone()
        stepped(optimizer)
        expected = step_size(optimizer, parameter) * gradient
        torch.testing.assert_close(before - parameter.detach(), expected, rtol=1e-6, atol=1e-8)


COUPLED: dict[str, Make] = {
    "RMSprop": lambda p: RMSprop(p, lr=0.01, weight_decay=0.5),
    "Adagrad": lambda p: Adagrad(p, lr=0.01, weight_decay=0.5),
    "Adafactor, none": lambda p: Adafactor(p, lr=0.01),
}


@pytest.mark.parametrize("name", COUPLED)
def test_coupled_decay_is_a_part_of_the_gradient(name: str) -> None:
    parameter = nn.Parameter(torch.randn(4, 3, dtype=torch.float64))
    optimizer = COUPLED[name]([parameter])
    for _ in range(20):
        before = parameter.detach().clone()
        parameter.grad = torch.randn_like(parameter)
        stepped(optimizer)
        whole = parameter.grad + optimizer.param_groups[0]["weight_decay"] * before
        expected = step_size(optimizer, parameter) * whole
        torch.testing.assert_close(before - parameter.detach(), expected, rtol=1e-8, atol=1e-11)


def test_a_vector_under_adafactor_has_its_own_second_moment() -> None:
    parameter = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = Adafactor([parameter], lr=0.1)
    for _ in range(10):
        before = parameter.detach().clone()
        parameter.grad = torch.tensor([1.0, -0.01, 30.0], dtype=torch.float64)
        stepped(optimizer)
        expected = step_size(optimizer, parameter) * parameter.grad
        torch.testing.assert_close(before - parameter.detach(), expected)


# One of each metric, with the options that change its formula.
FORMULAS = ["Nesterov", "ASGD", "Adam", "AMSGrad", "Adamax", "NAdam options", "RAdam options",
            "RAdam never rectified", "RMSprop momentum", "RMSprop centered", "Adagrad options",
            "Adadelta"]  # fmt: skip


def warm(name: str, steps: int) -> tuple[Optimizer, nn.Parameter]:
    parameter = nn.Parameter(torch.randn(6, 4, dtype=torch.float64))
    optimizer = CASES[name]([parameter])
    for _ in range(steps):
        parameter.grad = torch.randn_like(parameter)
        stepped(optimizer)
    return optimizer, parameter


@pytest.mark.parametrize("name", FORMULAS)
def test_an_elementwise_metric_is_pure_and_acts_block_by_block(name: str) -> None:
    optimizer, parameter = warm(name, 9)
    metric, group, state = metric_of(optimizer), optimizer.param_groups[0], optimizer.state
    assert is_elementwise(metric)
    kept = {key: torch.as_tensor(value).clone() for key, value in state[parameter].items()}
    whole = metric(group, parameter, state[parameter])
    assert isinstance(whole, StepSize)
    expected = torch.as_tensor(whole.bounded(0.5)).expand(6, 4)
    parameter.grad = None  # it reads none
    for block in (slice(0, 2), slice(2, 6)):
        part = {
            key: value[block] if isinstance(value, Tensor) and value.shape == (6, 4) else value
            for key, value in state[parameter].items()
        }
        found = metric(group, parameter.detach()[block], part)
        assert isinstance(found, StepSize)
        found_here = torch.as_tensor(found.bounded(0.5)).expand(len(expected[block]), 4)
        assert torch.equal(found_here, expected[block])
    assert {key: torch.as_tensor(value) for key, value in state[parameter].items()}.keys() == (
        kept.keys()
    )
    assert all(torch.equal(torch.as_tensor(state[parameter][key]), kept[key]) for key in kept)


@pytest.mark.parametrize("steps", [1, 9])
@pytest.mark.parametrize("name", FORMULAS)
def test_a_metric_compiles_in_one_graph_with_lr_and_step_as_tensors(name: str, steps: int) -> None:
    optimizer, parameter = warm(name, steps)
    metric = metric_of(optimizer)
    group = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
    expected = step_size(optimizer, parameter, slope=0.5)
    group["lr"] = torch.tensor(group["lr"], dtype=torch.float64)
    state = {
        key: value.double() if isinstance(value, Tensor) else value
        for key, value in optimizer.state[parameter].items()
    }

    def bounded(group: dict[str, Any], parameter: Tensor, state: dict[str, Any]) -> float | Tensor:
        found = metric(group, parameter, state)
        assert isinstance(found, StepSize)
        return found.bounded(0.5)

    torch.compiler.reset()
    compiled = torch.compile(bounded, backend="eager", fullgraph=True)
    found = torch.as_tensor(compiled(group, parameter.detach(), state))
    expected = torch.as_tensor(expected).to(found).expand_as(found)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_what_cannot_be_taken_block_by_block_says_so() -> None:
    parameter = [nn.Parameter(torch.ones(2, 2))]
    assert not is_elementwise(metric_of(Adafactor(parameter)))
    assert not is_elementwise(lambda group, _parameter, _state: group["lr"])


def test_a_momentum_that_a_scheduler_changes_is_followed() -> None:
    parameter = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = SGD([parameter], lr=0.1, momentum=0.5)
    for momentum in (0.5, 0.9, 0.7, 0.95, 0.0, 0.3):
        optimizer.param_groups[0]["momentum"] = momentum
        before = parameter.item()
        parameter.grad = torch.ones(1, dtype=torch.float64)
        stepped(optimizer)
        assert step_size(optimizer, parameter) == pytest.approx(before - parameter.item())


WARM: dict[str, Callable[[Any], Optimizer]] = {
    "SGD": lambda p: SGD(p, lr=0.1, momentum=0.9, dampening=0.5),
    "RMSprop": lambda p: RMSprop(p, lr=0.1, momentum=0.8),
}


@pytest.mark.parametrize("name", WARM)
def test_a_buffer_that_warmed_up_without_us_counts_as_settled(name: str) -> None:
    layer = nn.Linear(3, 1, bias=False, dtype=torch.float64)
    nn.init.constant_(layer.weight, 1e4)
    inner = WARM[name](layer.parameters())
    for _ in range(2000):
        layer.weight.grad = torch.ones_like(layer.weight)
        inner.step()
    optimizer = tr.ProximalOptimizer(inner, tr.Regularizer(layer, tr.L1(0.1)))
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.ones_like(layer.weight)
    optimizer.step()
    moved = (before - layer.weight.detach()).mean().item()
    # The step and the threshold, both by lr * (1 - d) / (1 - m) = 0.5.
    assert moved == pytest.approx(0.5 + 0.5 * 0.1, rel=1e-6)


@pytest.mark.parametrize("name", WARM)
@pytest.mark.parametrize("loaded", [True, False])
def test_a_checkpoint_that_passed_through_a_plain_optimizer_counts_as_settled(
    name: str, loaded: bool
) -> None:
    def step(optimizer: Optimizer, layer: nn.Linear) -> float:
        before = layer.weight.detach().clone()
        layer.weight.grad = torch.ones(1, 3, dtype=torch.float64)
        optimizer.step()
        return float((before - layer.weight.detach()).mean())

    def saved(optimizer: Optimizer) -> dict[str, Any]:
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        loaded: dict[str, Any] = torch.load(file, weights_only=True)
        return loaded

    layer = nn.Linear(3, 1, bias=False, dtype=torch.float64)
    nn.init.constant_(layer.weight, 1e4)
    regularizer = tr.Regularizer(layer, tr.L1(0.1))
    first = tr.ProximalOptimizer(WARM[name](layer.parameters()), regularizer)
    for _ in range(2):
        step(first, layer)
    plain = WARM[name](layer.parameters())
    plain.load_state_dict(saved(first))
    for _ in range(2000):
        step(plain, layer)
    last = tr.ProximalOptimizer(WARM[name](layer.parameters()) if loaded else plain, regularizer)
    if loaded:
        last.load_state_dict(saved(plain))
        last.load_state_dict(saved(last))  # saved again before any step
    assert step(last, layer) == pytest.approx(0.5 + 0.5 * 0.1, rel=1e-6)
    # And one that comes straight back goes on with the weight that it had.
    weight = last.state[layer.weight]["momentum_weight"]
    last.load_state_dict(saved(last))
    metrics.before_step(last.optimizer)
    assert last.state[layer.weight]["momentum_weight"] == weight


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


@pytest.mark.parametrize("kind", [LBFGS, Rprop, SparseAdam, Muon])
def test_another_optimizer_is_refused_with_the_way_out(kind: type[Optimizer]) -> None:
    layer = nn.Linear(2, 1, bias=False)
    regularizer = tr.Regularizer(layer, tr.L1(0.1))
    inner = kind(layer.parameters())  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"Supported: ASGD, Adadelta, .*SGD\. If.*metric=lambda"):
        tr.ProximalOptimizer(inner, regularizer)


class Third(Optimizer):
    """A third party's: the gradient over the root of its last square."""

    def step(self, closure: Any = None) -> Any:  # noqa: ARG002
        for group in self.param_groups:
            for parameter in group["params"]:
                v = self.state[parameter]["v"] = parameter.grad.square()
                parameter.data.addcdiv_(parameter.grad, v.sqrt() + group["eps"], value=-group["lr"])


def test_the_metric_that_the_refusal_shows_is_right() -> None:
    gradient = torch.tensor([1.0, -0.01, 30.0], dtype=torch.float64)
    parameter = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = Third([parameter], {"lr": 0.1, "eps": 1e-3})
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
