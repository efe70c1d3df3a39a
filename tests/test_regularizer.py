"""Penalties bound to a model: the loss term, the late look-up, copies and the fixed support."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

import torchreg as tr


class Net(nn.Module):
    """Two layers and a norm; takes a regularizer as a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.norm(self.fc(x)))
        return y


class Model(Net):
    """A model that holds its own regularizer."""

    def __init__(self) -> None:
        super().__init__()
        self.regularizer = tr.Regularizer(self, tr.L1(0.1))


def test_the_loss_term_and_its_gradient_equal_the_hand_formula() -> None:
    model = Net()
    term = tr.Regularizer(model, tr.ElasticNet(0.1, 0.2))()
    weights = [model.fc.weight, model.head.weight]
    expected = sum(0.1 * w.abs().sum() + 0.2 * (w * w).sum() for w in weights)
    torch.testing.assert_close(term, expected)
    term.backward()
    for w in weights:
        torch.testing.assert_close(w.grad, 0.1 * w.sign() + 0.4 * w)
    assert [name for name, p in model.named_parameters() if p.grad is None] == [
        "fc.bias",
        "norm.weight",
        "norm.bias",
        "head.bias",
    ]


def test_a_mapping_gives_each_selection_its_own_penalty() -> None:
    model = Net()
    regularizer = tr.Regularizer(
        model, {"fc.*": tr.L1(0.1), nn.BatchNorm1d: tr.L2(0.2), ("head.bias",): tr.L2(0.3)}
    )
    names = ["fc.weight", "fc.bias", "norm.weight", "head.bias"]
    assert [name for name, _, _ in regularizer.items()] == names
    assert list(regularizer.selection()) == names
    assert set(regularizer.unpenalised()) == {"norm.bias", "head.weight"}
    assert regularizer.overlap() == []
    l1 = model.fc.weight.abs().sum() + model.fc.bias.abs().sum()
    l2 = 0.2 * model.norm.weight.square().sum() + 0.3 * model.head.bias.square().sum()
    torch.testing.assert_close(regularizer(), 0.1 * l1 + l2)


def test_overlapping_penalties_add_up_in_a_loss() -> None:
    model = Net()
    both = tr.Regularizer(model, {"*.weight": tr.L1(0.1), "fc.weight": tr.L2(0.2)})
    assert both.overlap() == ["fc.weight"]
    alone = tr.Regularizer(model, tr.L1(0.1), "*.weight")()
    torch.testing.assert_close(both(), alone + 0.2 * model.fc.weight.square().sum())
    assert list(both.selection()) == ["fc.weight", "norm.weight", "head.weight"]


def test_where_and_exclude_select_as_select_does() -> None:
    model = Net()
    regularizer = tr.Regularizer(model, tr.L1(0.1), "*.weight", exclude="norm.*")
    assert regularizer.selection() == tr.select(model, "*.weight", exclude="norm.*")
    assert tr.Regularizer(model, tr.L1(0.1)).selection() == tr.select(model)


def test_a_later_strength_counts_at_once() -> None:
    penalty = tr.L1(0.1)
    regularizer = tr.Regularizer(Net(), penalty)
    before = regularizer()
    penalty.l1 = 0.2
    torch.testing.assert_close(regularizer(), 2 * before)


def test_tied_weights_are_penalised_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    regularizer = tr.Regularizer(model, tr.L1(1.0), "*")
    torch.testing.assert_close(regularizer(), model.get_parameter("0.weight").abs().sum())
    assert regularizer.unpenalised() == {}


def test_repr_is_the_resolved_table_with_a_note_on_biases() -> None:
    regularizer = tr.Regularizer(
        Net(), {"fc.*": tr.L1(1e-4), "norm.weight": tr.L2(0.5), "head.weight": tr.L1(0.0)}
    )
    assert repr(regularizer).splitlines() == [
        "Regularizer: 24 of 29 parameters penalised",
        "  name         shape  count  penalty",
        "  fc.weight    3 x 4     12  L1(l1=0.0001): l1*sum|w|",
        "  fc.bias          3      3  L1(l1=0.0001): l1*sum|w|",
        "  norm.weight      3      3  L2(l2=0.5): l2*sum(w^2)",
        "  head.weight  2 x 3      6  L1(l1=0): l1*sum|w|",
        "  note: among them biases or normalisation: fc.bias, norm.weight",
    ]
    assert "note" not in repr(tr.Regularizer(Net(), tr.L1(0.1)))


@pytest.mark.parametrize(
    ("model", "penalties", "told"),
    [
        (nn.ReLU(), tr.L1(0.1), "no weight of ReLU was selected"),
        (nn.Linear(2, 2), {}, "the mapping is empty"),
        (nn.Linear(2, 2), tr.L1(0.0), "every strength is 0"),
        (nn.Linear(2, 2), {"weight": tr.L1(0.0), "bias": tr.L2(0)}, "every strength is 0"),
    ],
)
def test_penalising_nothing_warns(model: nn.Module, penalties: Any, told: str) -> None:
    with pytest.warns(UserWarning, match=f"penalises nothing: {told}"):
        tr.Regularizer(model, penalties)


def test_an_empty_regularizer_is_zero_in_a_loss_and_warns_each_time() -> None:
    with pytest.warns(UserWarning, match="no weight of ReLU"):
        regularizer = tr.Regularizer(nn.ReLU(), tr.L1(0.1))
    with pytest.warns(UserWarning, match="this regularizer penalises nothing"):
        assert regularizer() == 0


@pytest.mark.parametrize("wrong", [tr.L1, 0.1, None, [tr.L1(0.1)], {"fc.*": 0.1}])
def test_what_is_no_penalty_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="expected a penalty such as"):
        tr.Regularizer(Net(), wrong)


@pytest.mark.parametrize("both", [{"where": "fc.*"}, {"exclude": "fc.*"}])
def test_where_beside_a_mapping_is_refused(both: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="a mapping says itself"):
        tr.Regularizer(Net(), {"fc.*": tr.L1(0.1)}, **both)


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'fc\.wieght' matches no parameter"):
        tr.Regularizer(Net(), {"fc.wieght": tr.L1(0.1)})


def test_a_model_that_holds_its_regularizer_keeps_its_checkpoint() -> None:
    model, old = Model(), Net()
    assert list(model.state_dict()) == list(old.state_dict())
    assert len(list(model.parameters())) == len(list(old.parameters()))
    model.load_state_dict(old.state_dict(), strict=True)
    torch.testing.assert_close(model.regularizer(), tr.L1(0.1)(tr.select(old)))


def test_parameters_are_looked_up_late() -> None:
    model, other = Net(), Net()
    regularizer = tr.Regularizer(model, tr.L1(0.1))
    replaced = model.fc.weight
    model.load_state_dict(other.state_dict(), assign=True)
    assert model.fc.weight is not replaced
    torch.testing.assert_close(regularizer(), tr.L1(0.1)(tr.select(other)))
    model.head.weight = nn.Parameter(torch.ones(2, 3))
    assert regularizer.selection()["head.weight"] is model.head.weight
    torch.testing.assert_close(regularizer(), 0.1 * model.fc.weight.abs().sum() + 0.6)


@pytest.mark.parametrize("how", ["deleted", "parametrised", "set to None"])
def test_a_parameter_that_is_gone_is_a_clear_error(how: str) -> None:
    model = Net()
    regularizer = tr.Regularizer(model, tr.L1(0.1))
    if how == "deleted":
        del model.fc.weight
    elif how == "parametrised":
        nn.utils.parametrizations.orthogonal(model.fc)
    else:
        model.fc.register_parameter("weight", None)
    with pytest.raises(RuntimeError, match=r"'fc\.weight' is no longer in the model.*again"):
        regularizer()


def saved_and_loaded(model: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


TWINS: list[Callable[[Any], Any]] = [
    copy.deepcopy,
    lambda it: pickle.loads(pickle.dumps(it)),
    saved_and_loaded,
]


@pytest.mark.parametrize("twin", TWINS)
def test_a_copied_model_takes_its_regularizer_along(twin: Callable[[Any], Any]) -> None:
    model = Model()
    copied = twin(model)
    assert copied.regularizer.model is copied
    assert copied.regularizer.selection()["fc.weight"] is copied.fc.weight
    before = model.regularizer()
    with torch.no_grad():
        copied.fc.weight.zero_()
    torch.testing.assert_close(copied.regularizer(), 0.1 * copied.head.weight.abs().sum())
    assert model.regularizer() == before


@pytest.mark.parametrize("twin", TWINS)
def test_a_copied_regularizer_takes_its_model_along(twin: Callable[[Any], Any]) -> None:
    regularizer = tr.Regularizer(Net(), {"fc.*": tr.L1(0.1), "head.weight": tr.L2(0.2)})
    copied = twin(regularizer)
    assert repr(copied) == repr(regularizer)
    assert copied() == regularizer()
    assert copied.model is not regularizer.model
    assert copied.selection()["fc.weight"] is copied.model.fc.weight


def test_fix_support_holds_the_present_zeros_of_each_tensor() -> None:
    model = Net()
    with torch.no_grad():
        model.fc.weight[0] = 0
        model.head.weight[:, 1] = 0
    regularizer = tr.Regularizer(model, {"head.weight": tr.L2(0.1), "fc.weight": tr.L1(0.1)})
    before = repr(regularizer)
    fixed = tr.fix_support(regularizer)
    assert repr(regularizer) == before
    assert list(fixed.selection()) == ["head.weight", "fc.weight"]
    for _, w, penalty in fixed.items():
        assert isinstance(penalty, tr.FixedSupport)
        assert torch.equal(penalty.kept, w != 0)
    assert fixed() == 0


def test_fix_support_takes_names_as_they_are_not_as_globs() -> None:
    model = nn.ParameterDict({"w[0]": torch.ones(2, 2), "w*": torch.zeros(2, 2)})
    fixed = tr.fix_support(tr.Regularizer(model, tr.L1(0.1)))
    kept = {name: p.kept.all() for name, _, p in fixed.items() if isinstance(p, tr.FixedSupport)}
    assert kept == {"w[0]": True, "w*": False}
    assert fixed.overlap() == []


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], Optimizer]] = {
    "Adam": lambda p: Adam(p, lr=0.05),
    "AdamW, decay": lambda p: AdamW(p, lr=0.05, weight_decay=0.1),
    "AMSGrad, coupled decay": lambda p: Adam(p, lr=0.05, weight_decay=0.1, amsgrad=True),
    "SGD": lambda p: SGD(p, lr=0.05),
    "SGD, momentum, decay": lambda p: SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1),
    "SGD, Nesterov": lambda p: SGD(p, lr=0.05, momentum=0.9, nesterov=True),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_fixed_support_stays_and_the_rest_follows_the_plain_optimizer(
    make: Callable[[list[nn.Parameter]], Optimizer],
) -> None:
    """The loss is a sum over single weights, so each kept one moves as if it were alone."""
    models = [nn.Linear(8, 4, bias=False), nn.Linear(8, 4, bias=False)]
    target, curvature = 3 * torch.randn(4, 8), 0.1 + torch.rand(4, 8)
    kept = torch.rand(4, 8) > 0.5
    start = torch.randn(4, 8) * kept
    for model in models:
        model.weight.data.copy_(start)
    plain = make(list(models[0].parameters()))
    fixed = tr.fix_support(tr.Regularizer(models[1], tr.L1(0.1)))
    proximal = tr.ProximalOptimizer(make(list(models[1].parameters())), fixed)
    for _ in range(50):
        for model, optimizer in zip(models, (plain, proximal), strict=True):
            optimizer.zero_grad()
            (curvature * (model.weight - target).square()).sum().backward()
            optimizer.step()
        assert torch.equal(models[1].weight, models[0].weight * kept)
    assert bool((models[0].weight[~kept] != 0).all())  # without it, every zero would be lost


def test_a_layer_that_is_replaced_later_is_penalised_in_its_place() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    regularizer = tr.Regularizer(model, tr.L1(0.5))
    model[2] = nn.Linear(3, 7)
    optimizer = tr.ProximalOptimizer(torch.optim.SGD(model.parameters(), lr=10.0), regularizer)
    model(torch.zeros(1, 4)).sum().backward()
    optimizer.step()
    report = tr.sparsity(regularizer)
    assert report.tensors["2.weight"].count == 21
    assert report.exact == report.count == 33


def test_weights_that_are_tied_later_count_once_and_overlap_by_identity() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    one = tr.Regularizer(model, tr.L1(0.1))
    two = tr.Regularizer(model, {"0.weight": tr.L1(0.1), "1.weight": tr.L2(0.1)})
    optimizer = tr.ProximalOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), two)
    model[1].weight = model[0].weight
    torch.testing.assert_close(one(), 0.1 * model.get_parameter("0.weight").abs().sum())
    assert tr.sparsity(one).count == 16
    assert repr(one).startswith("Regularizer: 16 of 16 parameters penalised")
    assert two.overlap() == ["0.weight"]
    with pytest.raises(ValueError, match=r"more than one penalty acts on 0\.weight"):
        optimizer.step()
    with pytest.raises(ValueError, match=r"more than one penalty acts on 0\.weight"):
        tr.stationarity(two, model(torch.ones(1, 4)).sum())
