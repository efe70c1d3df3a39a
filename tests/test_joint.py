"""Groups over several weights, against one weight that holds all of their members."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchreg as tr

MAKES: dict[str, Callable[..., tr.Penalty]] = {
    "GroupLasso": tr.GroupLasso,
    "SparseGroupLasso": tr.SparseGroupLasso,
    "GroupMCP": lambda strength, groups: tr.GroupMCP(strength, groups, concavity=3.0),
    "GroupL0": tr.GroupL0,
    "ExclusiveLasso": tr.ExclusiveLasso,
}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.02),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
}


class Two(nn.Module):
    """``x @ whole.T`` with the weight in two: features 0 to 5, and 6 to 11 transposed."""

    def __init__(self, whole: Tensor) -> None:
        super().__init__()
        self.first = nn.Linear(6, 4, bias=False).double()
        self.second = nn.Parameter(whole[:, 6:].T.clone())
        with torch.no_grad():
            self.first.weight.copy_(whole[:, :6])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.first(x[:, :6]) + x[:, 6:] @ self.second
        return out

    def groups(self) -> Any:
        """Feature i with feature 6 + i."""
        return tr.joint(self, {"first.weight": tr.columns, "second": tr.rows})

    def whole(self) -> Tensor:
        return torch.cat([self.first.weight, self.second.T], dim=1).detach()


def paired(w: Tensor) -> Tensor:
    """The same groups of the one weight (4, 12)."""
    return torch.cat([w[:, :6].T, w[:, 6:].T], dim=1)


def data() -> tuple[Tensor, Tensor]:
    x = torch.randn(60, 12, dtype=torch.float64)
    truth = torch.randn(12, 4, dtype=torch.float64)
    truth[[0, 2, 3, 6, 8, 9]] *= 0.05
    return x, x @ truth + 0.1 * torch.randn(60, 4, dtype=torch.float64)


def pair() -> tuple[Two, nn.Linear, Tensor, Tensor]:
    x, y = data()
    one = nn.Linear(12, 4, bias=False).double()
    return Two(one.weight.detach()), one, x, y


def train(
    optimizer: Any, model: nn.Module, x: Tensor, y: Tensor, steps: int, still: Tensor | None = None
) -> None:
    """Full batches; a parameter that is to be still is left without a gradient."""
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        if still is not None:
            still.grad = None
        optimizer.step()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("make", MAKES)
def test_joint_groups_are_those_of_one_weight(make: str, optimizer: str) -> None:
    two, one, x, y = pair()
    strength = 2.0 if make == "GroupL0" else 0.2
    groups = two.groups()
    joint = tr.Regularizer(two, {groups.names: MAKES[make](strength, groups)})
    single = tr.Regularizer(one, MAKES[make](strength, paired))
    train(tr.ProximalOptimizer(OPTIMIZERS[optimizer](two.parameters()), joint), two, x, y, 60)
    train(tr.ProximalOptimizer(OPTIMIZERS[optimizer](one.parameters()), single), one, x, y, 60)
    torch.testing.assert_close(two.whole(), one.weight.detach(), rtol=1e-9, atol=1e-12)
    assert torch.equal(two.whole() == 0, one.weight == 0)
    torch.testing.assert_close(joint(), single(), rtol=1e-10, atol=0)
    found = tr.stationarity(joint, nn.functional.mse_loss(two(x), y))
    expected = tr.stationarity(single, nn.functional.mse_loss(one(x), y))
    assert found.residual == pytest.approx(expected.residual, rel=1e-6)
    assert found.parameters.keys() == {"first.weight", "second"}


def test_some_of_these_groups_become_zero_together() -> None:
    two, _, x, y = pair()
    groups = two.groups()
    joint = tr.Regularizer(two, {groups.names: tr.GroupLasso(0.2, groups)})
    train(tr.ProximalOptimizer(OPTIMIZERS["Adam"](two.parameters()), joint), two, x, y, 400)
    zero = (groups.gather(dict(two.named_parameters())) == 0).all(dim=1)
    assert zero.tolist() == [True, False, True, True, False, False]
    for w in (two.first.weight.T, two.second):
        assert torch.equal((w == 0).all(dim=1), zero)


@pytest.mark.parametrize("make", MAKES)
def test_the_gradient_of_the_loss_term_is_that_of_autograd(make: str) -> None:
    two, one, _, _ = pair()
    groups = two.groups()
    joint = tr.Regularizer(two, {groups.names: MAKES[make](0.3, groups)})
    if joint().requires_grad:
        joint().backward()
        found = torch.cat([two.first.weight.grad, two.second.grad.T], dim=1)  # type: ignore[list-item, union-attr]
    else:
        found = torch.zeros_like(one.weight)
    for p in two.parameters():
        p.grad = torch.zeros_like(p)
    joint.add_gradients_(0.5)
    direct = torch.cat([two.first.weight.grad, two.second.grad.T], dim=1)  # type: ignore[list-item, union-attr]
    torch.testing.assert_close(direct, found / 2)
    before = two.second.grad.clone()  # type: ignore[union-attr]
    joint.add_gradients_(parameters=[two.first.weight])
    assert two.second.grad is not None
    assert torch.equal(two.second.grad, before)


@pytest.mark.parametrize("cost", [None, {"first.weight": 3.0, "second": 1.0}])
@pytest.mark.parametrize("make", ["GroupL0", "GroupLasso", "SparseGroupLasso"])
def test_a_density_is_that_of_one_weight(make: str, cost: dict[str, float] | None) -> None:
    two, one, x, y = pair()
    groups = two.groups()
    joint = tr.Regularizer(two, {groups.names: MAKES[make](1.0, groups)})
    optimizer = tr.ProximalOptimizer(OPTIMIZERS["Adam"](two.parameters()), joint)
    tr.TargetSparsity(optimizer, density=0.5, begin=5, end=40, hold=50, every=4, cost=cost)
    train(optimizer, two, x, y, 70)
    single = tr.Regularizer(one, MAKES[make](1.0, paired))
    optimizer = tr.ProximalOptimizer(OPTIMIZERS["Adam"](one.parameters()), single)
    tr.TargetSparsity(optimizer, density=0.5, begin=5, end=40, hold=50, every=4)
    train(optimizer, one, x, y, 70)
    if (
        cost is None or make != "SparseGroupLasso"
    ):  # whose zeros are single weights, of a price each
        torch.testing.assert_close(two.whole(), one.weight.detach(), rtol=1e-8, atol=1e-10)
    weights = joint.selection()
    prices = cost or dict.fromkeys(weights, 1.0)
    spent = sum(prices[n] * float((w != 0).sum()) for n, w in weights.items())
    assert 0.45 <= spent / sum(prices[n] * w.numel() for n, w in weights.items()) <= 0.5


@pytest.mark.parametrize("still", ["frozen", "without a gradient"])
def test_a_weight_that_does_not_move_counts_in_its_groups(still: str) -> None:
    two, _, x, y = pair()
    with torch.no_grad():
        two.second[:3] = 0
    groups = two.groups()
    joint = tr.Regularizer(two, {groups.names: tr.GroupLasso(2.0, groups)})
    optimizer = tr.ProximalOptimizer(OPTIMIZERS["SGD"](two.parameters()), joint)
    two.second.requires_grad = still != "frozen"
    held = two.second.detach().clone()
    train(optimizer, two, x, y, 30, still=two.second)
    assert torch.equal(two.second, held)
    zero = (two.first.weight == 0).all(dim=0)
    assert zero[:3].all()  # groups that hold nothing else
    assert not zero[3:].any()  # the norm of a group that stays does not have its kink
    two.second.requires_grad = False
    train(optimizer, two, x, y, 300)
    found = tr.stationarity(joint, nn.functional.mse_loss(two(x), y))
    assert found.residual < 1e-6
    assert found.parameters.keys() == {"first.weight"}


def test_two_parameter_groups_have_their_own_learning_rates() -> None:
    two, _, x, y = pair()
    groups = two.groups()
    joint = tr.Regularizer(two, {groups.names: tr.GroupLasso(0.5, groups)})
    rates = [{"params": [two.first.weight], "lr": 0.1}, {"params": [two.second], "lr": 0.02}]
    optimizer = tr.ProximalOptimizer(torch.optim.SGD(rates), joint)
    nn.functional.mse_loss(two(x), y).backward()
    first, second = two.first.weight, two.second
    assert first.grad is not None
    assert second.grad is not None
    moved = torch.cat([first - 0.1 * first.grad, (second - 0.02 * second.grad).T], dim=1).detach()
    step = torch.tensor([[0.1] * 6 + [0.02] * 6], dtype=torch.float64).repeat(4, 1)
    optimizer.step()
    expected = tr.GroupLasso(0.5, paired).prox(moved, step)
    torch.testing.assert_close(two.whole(), expected, rtol=1e-12, atol=1e-14)


def test_a_training_resumes_bit_for_bit_and_is_debiased() -> None:
    two, _, x, y = pair()

    def made(model: Two) -> tuple[tr.ProximalOptimizer, tr.TargetSparsity]:
        groups = model.groups()
        bound = tr.Regularizer(model, {groups.names: tr.GroupL0(1.0, groups)})
        optimizer = tr.ProximalOptimizer(OPTIMIZERS["Adam"](model.parameters()), bound)
        return optimizer, tr.TargetSparsity(optimizer, density=0.5, end=20, hold=30, every=3)

    optimizer, target = made(two)
    train(optimizer, two, x, y, 25)
    again = copy.deepcopy(two)
    resumed, other = made(again)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    other.load_state_dict(copy.deepcopy(target.state_dict()))
    for one, model in ((optimizer, two), (resumed, again)):
        train(one, model, x, y, 15)
    assert all(torch.equal(p, q) for p, q in zip(two.parameters(), again.parameters(), strict=True))
    zeros = two.whole() == 0
    assert int(zeros.sum()) == 24
    plain = torch.optim.SGD(two.parameters(), lr=0.1, momentum=0.9)
    train(tr.ProximalOptimizer(plain, tr.fix_support(optimizer.regularizer)), two, x, y, 20)
    assert torch.equal(two.whole() == 0, zeros)


def test_a_copy_and_a_pickle_are_whole() -> None:
    two, _, _, _ = pair()
    groups = two.groups()
    joint = tr.Regularizer(two, {groups.names: tr.GroupLasso(0.3, groups)})
    for other in (copy.deepcopy(joint), pickle.loads(pickle.dumps(joint))):
        assert torch.equal(other(), joint())
    assert repr(groups) == "joint(first.weight and 1 more)"


def test_a_filter_with_the_scale_and_shift_of_its_norm() -> None:
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 3, 1))
    one = {"1.weight": lambda w: w[:, None], "1.bias": lambda w: w[:, None]}
    groups = tr.joint(model, {"0.weight": tr.filters, "0.bias": one["1.bias"], **one})
    assert groups.shape == (6, 2 * 9 + 3)
    optimizer = tr.ProximalOptimizer(
        torch.optim.Adam(model.parameters(), lr=0.02),
        tr.Regularizer(model, {groups.names: tr.GroupL0(1.0, groups)}),
    )
    tr.TargetSparsity(optimizer, density=0.5, end=10)
    x = torch.randn(8, 2, 8, 8)
    for _ in range(20):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    small, _ = tr.compact(model.eval(), x)
    assert small.get_parameter("0.weight").shape[0] == 3
    torch.testing.assert_close(small(x), model(x))


def test_layer_densities_count_joint_groups_once() -> None:
    two, _, _, _ = pair()
    groups = two.groups()
    joint = tr.Regularizer(two, {groups.names: tr.GroupL0(1.0, groups)})
    found = tr.schedule.layer_densities(joint, 0.4, multiple_of=3)
    assert found == {("first.weight", "second"): 0.5}
    optimizer = tr.ProximalOptimizer(OPTIMIZERS["SGD"](two.parameters()), joint)
    tr.TargetSparsity(optimizer, found, end=5)


def test_bad_joint_groups_name_the_mend() -> None:
    two, one, x, y = pair()
    groups = two.groups()
    with pytest.raises(TypeError, match="expected a mapping"):
        tr.joint(two, ["first.weight", "second"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="two weights or more, found 1"):
        tr.joint(two, {"second": tr.rows})
    with pytest.raises(ValueError, match="matches no parameter"):
        tr.joint(two, {"second": tr.rows, "third": tr.rows})
    with pytest.raises(ValueError, match="the name of one parameter"):
        tr.joint(two, {"second": tr.rows, "first*": tr.rows})
    with pytest.raises(ValueError, match="6 in second, 4 in first"):
        tr.joint(two, {"second": tr.rows, "first.weight": tr.rows})
    with pytest.raises(ValueError, match="every weight must be in exactly one group"):
        tr.joint(two, {"second": tr.rows, "first.weight": lambda w: w[:, :6].T[:, 1:]})
    with pytest.raises(TypeError, match="must be a function"):
        tr.joint(two, {"second": tr.rows, "first.weight": 3})  # type: ignore[dict-item]
    penalty = tr.GroupLasso(0.1, groups)
    with pytest.raises(ValueError, match=r"Bind the penalty to those weights"):
        penalty(two.first.weight)
    for where in ("second", "first.weight"):
        with pytest.raises(ValueError, match="bind it to exactly those weights"):
            tr.Regularizer(two, penalty, where)
    with pytest.raises(ValueError, match="bind it to exactly those weights"):
        tr.Regularizer(one, penalty)
    joint = tr.Regularizer(two, {groups.names: penalty})
    with pytest.raises(ValueError, match=r"does not hold second: give all weights"):
        tr.ProximalOptimizer(torch.optim.SGD([two.first.weight], lr=0.1), joint)
    with pytest.raises(ValueError, match=r"torchreg\.ProximalOptimizer instead"):
        tr.solve(joint, lambda: nn.functional.mse_loss(two(x), y))
    two.first.float()
    with pytest.raises(ValueError, match="one real type"):
        joint()
    doubly = {groups.names: penalty, "second": tr.L1(0.1)}
    with pytest.raises(ValueError, match="more than one penalty acts on second"):
        tr.ProximalOptimizer(
            OPTIMIZERS["SGD"](two.double().parameters()), tr.Regularizer(two, doubly)
        )


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        ("much", TypeError, "metric returned 'much'"),
        (torch.ones(3).double(), ValueError, "found \\(3,\\)"),
        (-1.0, ValueError, "at least 0, found -1"),
    ],
)
def test_a_callers_metric_is_checked(returned: Any, error: type[Exception], message: str) -> None:
    two, _, x, y = pair()
    groups = two.groups()
    joint = tr.Regularizer(two, {groups.names: tr.GroupLasso(0.1, groups)})
    optimizer = tr.ProximalOptimizer(
        OPTIMIZERS["SGD"](two.parameters()), joint, metric=lambda *_: returned
    )
    with pytest.raises(error, match=message):
        train(optimizer, two, x, y, 1)


@pytest.mark.parametrize("make", [*MAKES.values(), lambda _, groups: tr.AtMost(3, groups)])
def test_a_weight_without_a_gradient_is_never_written(make: Callable[..., tr.Penalty]) -> None:
    two, _, x, y = pair()
    groups = two.groups()
    joint = tr.Regularizer(two, {groups.names: make(5.0, groups)})
    optimizer = tr.ProximalOptimizer(OPTIMIZERS["Adam"](two.parameters()), joint)
    held = two.second.detach().clone()
    train(optimizer, two, x, y, 5, still=two.second)
    assert torch.equal(two.second, held)


def test_a_metric_that_returns_nothing_and_weights_of_another_shape_are_told() -> None:
    two, _, x, y = pair()
    groups = two.groups()
    joint = tr.Regularizer(two, {groups.names: tr.GroupLasso(0.1, groups)})
    optimizer = tr.ProximalOptimizer(
        OPTIMIZERS["SGD"](two.parameters()), joint,
        metric=lambda *_: None,  # type: ignore[arg-type]
    )  # fmt: skip
    with pytest.raises(TypeError, match="metric returned None; expected a float"):
        train(optimizer, two, x, y, 1)
    two.second = nn.Parameter(torch.zeros(7, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match="which these weights no longer have"):
        joint()


def test_a_path_of_a_network_may_have_joint_groups() -> None:
    two, _, x, y = pair()
    groups = two.groups()
    joint = tr.Regularizer(two, {groups.names: tr.GroupLasso(1.0, groups)})

    def fit(at: tr.Regularizer, _: Any) -> None:
        train(tr.ProximalOptimizer(OPTIMIZERS["Adam"](two.parameters()), at), two, x, y, 300)

    def loss() -> Tensor:
        return nn.functional.mse_loss(two(x), y)

    found = tr.path(joint, loss, strengths=[0.01, 0.2, 5.0], fit=fit)
    counts = [point.nonzero for point in found]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == 0
    for refuses in (tr.critical_strength, tr.path, tr.solve):
        with pytest.raises(ValueError, match="takes one weight after another"):
            refuses(joint, loss)


@pytest.mark.parametrize("order", [1, -1])
def test_groups_of_one_price_and_of_several_share_a_budget(order: int) -> None:
    model = nn.Sequential(*(nn.Linear(6, 6) for _ in range(3)))
    groups = tr.joint(model, {"1.weight": tr.rows, "2.weight": tr.columns})
    penalties: list[tuple[Any, tr.Penalty]] = [
        ("0.weight", tr.GroupL0(1.0, tr.rows)),
        (groups.names, tr.GroupL0(1.0, groups)),
    ]
    optimizer = tr.ProximalOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.01),
        tr.Regularizer(model, dict(penalties[::order])),
    )
    cost = {"0.weight": 1.0, "1.weight": 1.0, "2.weight": 5.0}
    tr.TargetSparsity(optimizer, 0.5, end=3, cost=cost)
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.randn(9, 6)).square().mean().backward()
        optimizer.step()
    spent = sum(cost[n] * int((w != 0).sum()) for n, w in optimizer.regularizer.selection().items())
    assert 0.4 * 252 < spent <= 0.5 * 252
