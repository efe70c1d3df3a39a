"""Counts of zeros and used features, on tensors small enough to count by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchreg as tr

HAND_MADE = {
    "a": torch.tensor([[0.0, -0.0, 1e-30], [1e-3, -2e-3, 5.0]]),
    "empty": torch.zeros(0, 3),
    "b": torch.tensor([0.0, -0.5]),
}


def test_zeros_are_counted_per_tensor_and_in_total() -> None:
    report = tr.sparsity(HAND_MADE)
    # 1e-30 is no exact zero; 1e-3, rounded to float32, is within the tolerance or just above it.
    a = report.tensors["a"]
    assert (a.exact, a.count) == (2, 6)
    assert (report.exact, report.count) == (3, 8)
    assert report.sparsity == 3 / 8
    assert report.density == 5 / 8
    assert report.near == a.near + 1
    empty = report.tensors["empty"]
    assert (empty.sparsity, empty.near_sparsity, empty.count) == (0.0, 0.0, 0)
    assert list(report.tensors) == ["a", "empty", "b"]


@pytest.mark.parametrize(("tolerance", "near"), [(0, 3), (0.9e-3, 4), (3e-3, 6), (10, 8)])
def test_near_zeros_lie_within_the_tolerance(tolerance: float, near: int) -> None:
    report = tr.sparsity(HAND_MADE, tolerance=tolerance)
    assert (report.near, report.exact) == (near, 3)
    assert report.near_sparsity == near / 8


def test_a_regularizer_a_model_and_a_selection_state_their_denominator() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    nn.init.zeros_(model.get_parameter("0.bias"))
    regularizer = tr.Regularizer(model, {"0.bias": tr.L1(0.1), "*.weight": tr.L2(0.1)})
    assert tr.sparsity(model).count == 6
    assert tr.sparsity(regularizer).count == 10
    assert tr.sparsity(regularizer).exact == 2
    assert tr.sparsity(dict(model.named_parameters())).count == 12
    assert list(tr.sparsity(regularizer).tensors) == ["0.bias", "0.weight", "1.weight"]


def test_an_overlapped_parameter_is_counted_once() -> None:
    model = nn.Linear(3, 2)
    overlapping = tr.Regularizer(model, {"weight": tr.L1(0.1), "w*": tr.L2(0.1)})
    assert tr.sparsity(overlapping).count == 6


def test_nothing_to_count_is_no_division_by_zero() -> None:
    report = tr.sparsity({})
    assert (report.sparsity, report.near_sparsity, report.count) == (0.0, 0.0, 0)
    assert "total" in str(report)


def test_complex_zeros_are_counted_by_modulus() -> None:
    report = tr.sparsity({"w": torch.tensor([0j, 3e-4 - 4e-4j, 1j])})
    assert (report.exact, report.near, report.count) == (1, 2, 3)


def test_the_table_lines_up_and_ends_in_the_total() -> None:
    names = {"a.long.name": torch.zeros(1500), "b": torch.ones(2)}
    lines = str(tr.sparsity(names, tolerance=0.01)).splitlines()
    assert lines == [
        "name                count           exact zeros            near zeros",
        "a.long.name         1,500        1,500 (100.0%)        1,500 (100.0%)",
        "b                       2              0 (0.0%)              0 (0.0%)",
        "total               1,502         1,500 (99.9%)         1,500 (99.9%)",
        "near: |w| <= 0.01, exact zeros among them",
    ]


@pytest.mark.parametrize("tolerance", [-1e-9, float("nan")])
def test_a_bad_tolerance_is_refused(tolerance: float) -> None:
    with pytest.raises(ValueError, match="tolerance must be at least 0"):
        tr.sparsity(HAND_MADE, tolerance=tolerance)


@pytest.mark.parametrize("wrong", [torch.zeros(3), [torch.zeros(3)], None])
def test_what_has_no_names_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="expected a Regularizer, a model or a selection"):
        tr.sparsity(wrong)


def holding(layer: nn.Module, at: dict[tuple[int, ...], float]) -> nn.Module:
    weight = layer.get_parameter("weight")
    with torch.no_grad():
        weight.zero_()
        for index, value in at.items():
            weight[index] = value
    return layer


@pytest.mark.parametrize(
    "layer",
    [
        holding(nn.Linear(4, 2), {(0, 1): 1e-30, (1, 1): 2.0, (1, 3): -1.0}),
        holding(nn.Conv1d(4, 2, 3), {(0, 1, 2): 1.0, (1, 3, 0): -1.0}),
        holding(nn.Conv2d(4, 2, (1, 3)), {(1, 1, 0, 2): 1.0, (1, 3, 0, 0): -1.0}),
        torch.tensor([[0.0, 0.0, -0.0, 2.0], [0.0, 1.0, 0.0, 0.0]]),
    ],
    ids=["Linear", "Conv1d", "Conv2d", "tensor"],
)
def test_support_is_the_features_with_any_nonzero_weight(layer: nn.Module | Tensor) -> None:
    found = tr.support(layer)
    assert found.mask.tolist() == [False, True, False, True]
    assert (found.used, found.unused) == (["1", "3"], ["0", "2"])
    assert len(found) == 2
    named = tr.support(layer, names=["age", "sex", "bmi", "bp"])
    assert (named.used, named.unused) == (["sex", "bp"], ["age", "bmi"])
    assert str(named) == "2 of 4 input features used: sex, bp"


def test_the_unused_features_do_not_change_any_output() -> None:
    layer = nn.Linear(6, 3)
    layer.weight.data[:, [0, 4]] = 0
    x = torch.randn(5, 6)
    changed = torch.where(tr.support(layer).mask, x, torch.randn(5, 6))
    assert torch.equal(layer(x), layer(changed))
    assert not torch.equal(layer(x), layer(torch.randn(5, 6)))


@pytest.mark.parametrize(
    "wrong",
    [
        nn.Conv2d(4, 4, 3, groups=2),
        nn.ConvTranspose2d(3, 5, 2),  # its weight is shaped (inputs, outputs, ...)
        nn.Embedding(3, 5),  # whose inputs are indices, not features
        nn.Bilinear(2, 3, 4),
        nn.BatchNorm1d(3),
        nn.Sequential(nn.Linear(2, 2)),
        nn.ReLU(),
        torch.zeros(3),
        None,
    ],
    ids=lambda wrong: type(wrong).__name__,
)
def test_a_layer_without_weights_per_feature_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="expected a linear or ungrouped convolution"):
        tr.support(wrong)


@pytest.mark.parametrize("names", [[], ["a"], ["a", "b", "c", "d"]])
def test_names_of_another_number_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match=f"expected 3 names.*found {len(names)}"):
        tr.support(nn.Linear(3, 2), names=names)
