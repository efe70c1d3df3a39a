"""The KKT certificate: by hand, against a float64 oracle, in batches, and what it refuses."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

import torchreg as tr


def linear(weight: list[list[float]], bias: list[float] | None = None) -> nn.Linear:
    model = nn.Linear(len(weight[0]), len(weight), bias=bias is not None)
    model.weight.data = torch.tensor(weight)
    if bias is not None:
        model.bias.data = torch.tensor(bias)
    return model


def test_a_case_by_hand() -> None:
    model = linear([[2.0, -1.0, 0.0, 0.0]], [0.0])
    gradient = torch.tensor([[-0.5, 0.8, 0.3, -0.9]])
    result = tr.stationarity(
        tr.Regularizer(model, tr.L1(0.5)), (model.weight * gradient).sum() - 0.6 * model.bias.sum()
    )
    # |-0.5 + 0.5|, |0.8 - 0.5|, max(0.3 - 0.5, 0), max(0.9 - 0.5, 0); and |-0.6| at the bias
    assert result.parameters == pytest.approx({"weight": 0.4, "bias": 0.6})
    assert result.absolute == pytest.approx(0.6)
    assert result.residual == pytest.approx(0.6 / 0.5)
    assert result.worst == "bias"
    assert float(result) == result.residual
    assert str(result) == "stationarity residual 1.2 of the strength, 0.6 absolute, largest in bias"


def test_each_distance_is_relative_to_the_strength_that_acts_there() -> None:
    model = nn.Sequential(linear([[0.0]], [0.0]), linear([[0.0]]))
    regularizer = tr.Regularizer(model, {"0.weight": tr.L1(0.1), "1.weight": tr.L1(1.0)})
    weights = [p.sum() for p in model.parameters()]
    result = tr.stationarity(regularizer, 0.3 * weights[0] + 0.4 * weights[1] + 1.5 * weights[2])
    assert result.parameters == pytest.approx({"0.weight": 0.2, "1.weight": 0.5, "0.bias": 0.4})
    # 2 of 0.1, 0.5 of 1.0, and a bias relative to the largest strength
    assert result.residual == pytest.approx(2.0)
    assert result.worst == "0.weight"
    assert result.absolute == pytest.approx(0.5)


def test_a_converged_lasso_is_certified_and_another_strength_is_not() -> None:
    model = nn.Linear(6, 1).double()
    x = torch.randn(40, 6, dtype=torch.float64)
    y = x[:, :1] * 2 + 0.3 * torch.randn(40, 1, dtype=torch.float64)
    penalty = tr.L1(0.4)
    regularizer = tr.Regularizer(model, penalty)
    optimizer = tr.ProximalOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), regularizer)
    for _ in range(1000):
        optimizer.zero_grad()
        mse_loss(model(x), y).backward()
        optimizer.step()
    # Gradient descent contracts to the rounding of a gradient of size 1.
    assert tr.stationarity(regularizer, mse_loss(model(x), y)).residual < 1e-13
    penalty.l1 = 0.2
    assert tr.stationarity(regularizer, mse_loss(model(x), y)).residual == pytest.approx(1.0)


class Classifier(nn.Module):
    """A small network with a frozen layer and an unpenalised bias."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 7)
        self.frozen = nn.Linear(7, 7).requires_grad_(False)
        self.head = nn.Linear(7, 3, bias=False)
        self.fc.weight.data[:, :2] = 0

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.frozen(self.fc(x)).tanh())
        return y


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    return torch.randn(23, 5), torch.randint(3, (23,))


def test_it_equals_a_float64_oracle(data: tuple[Tensor, Tensor]) -> None:
    model, (x, y) = Classifier(), data
    regularizer = tr.Regularizer(model, {"head.*": tr.L2(0.1), "fc.weight": tr.L1(0.01)})
    result = tr.stationarity(regularizer, cross_entropy(model(x), y))
    double = Classifier().double()
    double.load_state_dict(model.state_dict())
    cross_entropy(double(x.double()), y).backward()
    weights = {name: p.detach() for name, p in double.named_parameters()}
    grads = {name: p.grad for name, p in double.named_parameters() if p.grad is not None}
    w, g = weights["fc.weight"], grads["fc.weight"]
    at_zero, kept = (g.abs() - 0.01).clamp(min=0), (g + 0.01 * w.sign()).abs()
    expected = {
        "head.weight": float((grads["head.weight"] + 0.2 * weights["head.weight"]).abs().max()),
        "fc.weight": float(torch.where(w == 0, at_zero, kept).max()),
        "fc.bias": float(grads["fc.bias"].abs().max()),
    }
    # A float32 gradient through three layers, of size 0.1: some tens of its eps of 1.2e-7.
    assert result.parameters == pytest.approx(expected, rel=1e-5, abs=1e-6)
    strengths = {"head.weight": 0.1, "fc.weight": 0.01, "fc.bias": 0.1}
    relative = {name: value / strengths[name] for name, value in expected.items()}
    assert result.residual == pytest.approx(max(relative.values()), rel=1e-5, abs=1e-4)
    assert result.worst == max(relative, key=lambda name: relative[name])


def batch_tuple(x: Tensor, y: Tensor) -> Any:
    return x, y


def batch_dict(x: Tensor, y: Tensor) -> Any:
    return {"label": "text before the tensors", "x": x, "y": y}


def batch_tensor(x: Tensor, y: Tensor) -> Any:
    return torch.cat([x, y[:, None]], dim=1)


@pytest.mark.parametrize("form", [batch_tuple, batch_dict, batch_tensor])
@pytest.mark.parametrize("sizes", [[10, 10, 3], [23], [1, 22]])
def test_uneven_batches_give_the_full_batch(
    data: tuple[Tensor, Tensor], form: Callable[[Tensor, Tensor], Any], sizes: list[int]
) -> None:
    model, (x, y) = Classifier(), data
    regularizer = tr.Regularizer(model, tr.L1(0.01))

    def loss(batch: Any) -> Tensor:
        if isinstance(batch, Tensor):
            batch = batch[:, :-1], batch[:, -1].long()
        inputs, labels = (batch["x"], batch["y"]) if isinstance(batch, dict) else batch
        return cross_entropy(model(inputs), labels)

    batches = [form(*pair) for pair in zip(x.split(sizes), y.split(sizes), strict=True)]
    full = tr.stationarity(regularizer, lambda: cross_entropy(model(x), y))
    split = tr.stationarity(regularizer, loss, batches)
    # The same gradients in another order of summation, in float32.
    assert split.parameters == pytest.approx(full.parameters, rel=1e-5, abs=1e-6)
    assert split.worst == full.worst
    assert tr.stationarity(regularizer, loss, iter(batches)) == split


def test_batches_are_weighted_by_their_length() -> None:
    """Weighted by their length the gradients cancel; as a mean of means they would not."""
    model = linear([[0.0]])
    regularizer = tr.Regularizer(model, tr.L1(1e-6))
    batches = [torch.ones(1, 1), torch.full((4, 1), -0.25)]
    assert tr.stationarity(regularizer, lambda x: model(x).mean(), batches).absolute == 0
    assert tr.stationarity(regularizer, lambda x: model(x).mean(), batches[:1]).absolute > 0.9


def test_unpenalised_parameters_count_and_frozen_ones_do_not() -> None:
    model = nn.Sequential(linear([[0.0]], [0.0]), linear([[0.0]], [0.0]))
    model[1].requires_grad_(False)
    regularizer = tr.Regularizer(model, tr.L1(1.0), "*.weight")
    bias = model.get_parameter("0.bias")
    result = tr.stationarity(regularizer, 5 * bias.sum())
    assert result.parameters == {"0.weight": 0.0, "0.bias": 5.0}
    assert (result.residual, result.worst) == (5.0, "0.bias")


def test_under_strength_zero_only_a_distance_of_zero_is_optimal() -> None:
    model = linear([[1.0, 0.0]])
    with pytest.warns(UserWarning, match="every strength is 0"):
        regularizer = tr.Regularizer(model, tr.L1(0.0))
    off = tr.stationarity(regularizer, 0.25 * model.weight.sum())
    assert (off.residual, off.absolute) == (math.inf, 0.25)
    optimal = tr.stationarity(regularizer, (model.weight - model.weight.detach()).square().sum())
    assert (optimal.residual, optimal.absolute) == (0.0, 0.0)


def test_a_fixed_support_is_optimal_where_its_kept_gradients_vanish() -> None:
    model = linear([[0.0, 2.0, 0.0]])
    fixed = tr.fix_support(tr.Regularizer(model, tr.L1(0.1)))
    weights = model.weight[0]
    assert tr.stationarity(fixed, 9 * weights[0] + (weights[1] - 2) ** 2).residual == 0
    assert tr.stationarity(fixed, 9 * weights[0] + (weights[1] - 1) ** 2).residual == 2


def test_nothing_is_touched_and_no_grad_is_lifted_for_a_function() -> None:
    model = Classifier()
    x = torch.randn(4, 5)
    model.fc.weight.grad = torch.full_like(model.fc.weight, 7.0)
    before = {name: p.clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        result = tr.stationarity(tr.Regularizer(model, tr.L1(0.1)), lambda: model(x).sum())
        assert not torch.is_grad_enabled()
    assert result.residual > 0
    assert bool((model.fc.weight.grad == 7).all())
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["fc.weight"]
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_loss_that_is_certified_can_still_be_trained_on() -> None:
    model = linear([[1.0, 0.0]])
    loss = model(torch.ones(3, 2)).square().mean()
    tr.stationarity(tr.Regularizer(model, tr.L1(0.1)), loss)
    loss.backward()
    assert model.weight.grad is not None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_refused(value: float) -> None:
    model = linear([[1.0]])
    regularizer = tr.Regularizer(model, tr.L1(0.1))
    with pytest.raises(ValueError, match="the loss is not finite"):
        tr.stationarity(regularizer, model.weight.sum() * value)
    with pytest.raises(ValueError, match="the loss is not finite"):
        tr.stationarity(regularizer, lambda _: model.weight.sum() * value, [torch.ones(1)])


@pytest.mark.parametrize("strength", [0.1, 0.0])
def test_a_gradient_that_is_not_finite_is_never_certified(strength: float) -> None:
    """sqrt has a finite value and an infinite slope at 0: the chain rule makes inf * 0 = NaN."""
    model = nn.Sequential(linear([[1.0]]), linear([[0.0]]))
    regularizer = tr.Regularizer(model, {"0.*": tr.L1(0.1), "1.*": tr.L1(strength)})
    first, second = model.parameters()
    with pytest.raises(ValueError, match="not finite"):
        tr.stationarity(regularizer, first.sum() + second.square().sum().sqrt())


@pytest.mark.parametrize(
    "loss",
    [
        lambda model: torch.tensor(1.0),  # noqa: ARG005
        lambda model: model.weight.detach().sum(),
        lambda model: model.weight.square(),
        lambda model: model.weight.sum().item(),
        lambda model: None,  # noqa: ARG005
        lambda model: torch.ones(1, requires_grad=True).sum(),  # noqa: ARG005
    ],
    ids=["constant", "detached", "not scalar", "a float", "None", "of another model"],
)
def test_a_loss_without_a_graph_to_the_model_is_refused(loss: Callable[[Any], Any]) -> None:
    model = linear([[1.0, 0.0]])
    regularizer = tr.Regularizer(model, tr.L1(0.1))
    with pytest.raises(ValueError, match="a scalar tensor with a graph to the model's parameters"):
        tr.stationarity(regularizer, lambda: loss(model))


def test_a_loss_made_under_no_grad_is_refused() -> None:
    model = linear([[1.0, 0.0]])
    with torch.no_grad():
        loss = model(torch.ones(1, 2)).sum()
    with pytest.raises(ValueError, match=r"outside torch\.no_grad"):
        tr.stationarity(tr.Regularizer(model, tr.L1(0.1)), loss)


def test_no_batches_are_refused() -> None:
    model = linear([[1.0, 0.0]])
    regularizer = tr.Regularizer(model, tr.L1(0.1))
    exhausted = iter([torch.ones(1, 2)])
    next(exhausted)
    empty: list[Iterable[Tensor]] = [[], exhausted]
    for batches in empty:
        with pytest.raises(ValueError, match="there are no batches"):
            tr.stationarity(regularizer, lambda x: model(x).mean(), batches)


def test_a_loss_tensor_beside_batches_is_refused() -> None:
    model = linear([[1.0, 0.0]])
    with pytest.raises(TypeError, match="loss must be a function of a batch"):
        tr.stationarity(tr.Regularizer(model, tr.L1(0.1)), model.weight.sum(), [torch.ones(1, 2)])


@pytest.mark.parametrize("batch", [3.0, "text", torch.tensor(1.0), [], {"x": 1}, [torch.tensor(1)]])
def test_a_batch_without_a_tensor_is_refused(batch: Any) -> None:
    model = linear([[1.0, 0.0]])
    regularizer = tr.Regularizer(model, tr.L1(0.1))
    with pytest.raises(TypeError, match="found no tensor in a batch of type"):
        tr.stationarity(regularizer, lambda _: model.weight.sum(), [batch])


def test_overlapping_penalties_are_refused() -> None:
    model = linear([[1.0, 0.0]])
    overlapping = tr.Regularizer(model, {"weight": tr.L1(0.1), "w*": tr.L2(0.1)})
    with pytest.raises(ValueError, match="more than one penalty acts on weight"):
        tr.stationarity(overlapping, model.weight.sum())
