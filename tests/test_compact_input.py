"""What is refused, with the mend, and that the model of the caller is left alone."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchreg as tr
from experiments import models
from tests.compaction import alive, compacted, images, untouched, zero, zero_inputs


@pytest.mark.parametrize(
    ("spoil", "error", "told"),
    [
        (lambda m, x: (m.train(), x), ValueError, r"call model.eval\(\)"),
        (lambda m, x: (m, x[:, :, :20, :20]), ValueError, "does not run on the example"),
        (lambda m, _: (m, "image"), TypeError, "expected an example input"),
        (lambda m, x: (m.state_dict(), x), TypeError, "expected a torch.nn.Module"),
        (lambda m, x: (m, torch.full_like(x, torch.nan)), ValueError, "not finite"),
        (lambda m, x: (torch.compile(m), x), TypeError, "_orig_mod"),
        (lambda m, x: (nn.DataParallel(m).eval(), x), TypeError, "model.module"),
        (
            lambda m, x: (m.fc1.register_forward_hook(lambda *_: None) and m, x),
            ValueError,
            "has hooks",
        ),
        (
            lambda m, x: (nn.utils.parametrizations.weight_norm(m.fc1) and m, x),
            ValueError,
            "remove_parametrizations",
        ),
    ],
)
def test_bad_input_is_told_and_leaves_the_model_alone(
    spoil: Callable[[Any, Any], tuple[Any, Any]], error: type[Exception], told: str
) -> None:
    model = zero_inputs(alive(models.LeNet5Caffe()))
    x = torch.randn(2, 1, 28, 28)
    spoilt, given = spoil(model, x)
    for reads in (tr.compact, tr.removable_groups, tr.to_csr):
        if reads is tr.removable_groups and "eval" in told:
            continue  # which is asked for before training
        if reads is not tr.compact and "not finite" in told:
            continue  # which compares no outputs
        with untouched(model, x), pytest.raises(error, match=told):
            reads(spoilt, given)


def test_a_model_that_changes_its_input_is_given_a_copy() -> None:
    class Centred(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.sub_(0.5))

    for dtype in (torch.float32, torch.float64):
        model = nn.Sequential(Centred(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 2)).eval()
        zero(model.get_parameter("2.weight"), (slice(None), slice(3)))
        x = torch.randn(5, 4, dtype=dtype)
        with untouched(x):
            small, report = tr.compact(model.to(dtype), x)
            assert list(tr.removable_groups(model, x)) == ["2.weight"]
            tr.latency(model, small, x, (1,), seconds=0.001)
            tr.to_csr(model, x, seconds=0.001)
        assert tuple(report.layers["0"]) == (8, 5)
        with torch.no_grad():
            torch.testing.assert_close(small(x.clone()), model(x.clone()))


def test_what_is_random_is_refused() -> None:
    class Noisy(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.dropout(super().forward(x), training=True)

    with pytest.raises(ValueError, match="other outputs for the same input"):
        tr.compact(nn.Sequential(Noisy(4, 8), nn.Linear(8, 2)).eval(), torch.randn(16, 4))


@pytest.mark.parametrize("first", [0, 1])
def test_frozen_parameters_stay_frozen_and_gradients_are_not_carried_over(first: int) -> None:
    model = zero_inputs(alive(models.small_vgg()))
    for parameter in list(model.parameters())[first::2]:
        parameter.requires_grad_(False)
    model(torch.randn(1, 3, 32, 32)).sum().backward()
    small, _ = compacted(model, torch.randn(1, 3, 32, 32), images(2, 3, 32, 32))
    frozen = {name: p.requires_grad for name, p in model.named_parameters()}
    assert {name: p.requires_grad for name, p in small.named_parameters()} == frozen
    assert all(p.grad is None for p in small.parameters())


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        (lambda w: w[:, :2], "must be in exactly one group"),
        (lambda w: torch.cat([w, w]).flatten(1), "must not overlap"),
        (lambda w: w.sum(), "must return a matrix"),
        (lambda w: w.view(7, 11), r"on fc1.weight: .* fails on a weight shaped \(300, 784\)"),
        ("filters", "must be a function from a weight"),
    ],
)
def test_groups_that_do_not_cover_the_weight(groups: Any, told: str) -> None:
    model = models.LeNet300_100()
    with untouched(model), pytest.raises((TypeError, ValueError), match=told):
        tr.Regularizer(model, tr.GroupLasso(1e-3, groups=groups))


@pytest.mark.parametrize(
    ("given", "error", "told"),
    [
        (torch.zeros(0, 4), ValueError, r"at least one sample, found one shaped \(0, 4\)"),
        (torch.zeros(2, 4).numpy(), TypeError, "found a ndarray"),
    ],
)
def test_an_example_that_is_none(given: Any, error: type[Exception], told: str) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    for reads in (tr.compact, tr.removable_groups, tr.to_csr):
        with untouched(model), pytest.raises(error, match=told):
            reads(model, given)
    with untouched(model), pytest.raises(error, match=told):
        tr.latency(model, model, given)


class Returning(nn.Module):
    """A model that hands over its logits in some way."""

    def __init__(self, way: Callable[[Any], Any]) -> None:
        super().__init__()
        self.first, self.last, self.way = nn.Linear(4, 8), nn.Linear(8, 2), way

    def forward(self, x: Any) -> Any:
        return self.way(self.last(self.first(x).relu()))


@dataclass
class Output:
    logits: Any


@pytest.mark.parametrize(
    ("way", "told"),
    [
        (lambda _: None, "returns a NoneType in which no tensor is seen"),
        (lambda y: y.tolist(), "returns a list in which"),
        (Output, "returns a Output in which"),
    ],
)
def test_an_output_without_a_tensor(way: Callable[[Any], Any], told: str) -> None:
    model, x = Returning(way).eval(), torch.randn(2, 4)
    for reads in (tr.compact, tr.removable_groups):
        with untouched(model, x), pytest.raises(TypeError, match=told):
            reads(model, x)


@pytest.mark.parametrize(
    ("spoil", "error", "told"),
    [
        (lambda _, x: (nn.Sequential(nn.LazyLinear(3)).eval(), x), ValueError, "is lazy"),
        (lambda m, x: (m.to("meta"), x.to("meta")), ValueError, "load the weights first"),
        (lambda m, x: (m, x.to_sparse()), TypeError, r"call \.to_dense\(\)"),
    ],
)
def test_what_holds_no_plain_numbers(
    spoil: Callable[[Any, Any], tuple[Any, Any]], error: type[Exception], told: str
) -> None:
    for reads in (tr.compact, tr.removable_groups, tr.to_csr):
        model, x = spoil(nn.Linear(4, 2).eval(), torch.randn(2, 4))
        with pytest.raises(error, match=told):
            reads(model, x)


def test_in_inference_mode_there_is_nothing_to_trace() -> None:
    model, x = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).eval(), torch.randn(2, 4)
    for reads in (tr.compact, tr.removable_groups):
        with torch.inference_mode(), pytest.raises(RuntimeError, match="outside of it"):
            reads(model, x)


def test_a_layer_without_inputs_has_a_density() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of its initialisation
        model = nn.Sequential(nn.Linear(4, 0), nn.Linear(0, 2)).eval()
    _, measured = tr.to_csr(model, torch.randn(2, 4), seconds=0.001)
    assert [one.density for one in measured.values()] == [0, 0]


def test_outputs_that_are_not_finite_are_told_with_their_cause() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)).eval()
    with pytest.raises(ValueError, match=r"Its weights are finite: pass an example"):
        tr.compact(model, torch.full((2, 4), torch.inf))
    with torch.no_grad():
        model.get_parameter("1.weight")[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"1\.weight hold NaN or infinity: load weights"):
        tr.compact(model, torch.randn(2, 4))


def test_a_model_that_is_one_layer_keeps_its_inputs_and_outputs() -> None:
    model = nn.Linear(4, 3).eval()
    small, report = tr.compact(model, torch.randn(2, 4))
    assert small.weight.shape == (3, 4)
    assert tuple(report.layers[""]) == (3, 3)
    assert tr.removable_groups(model, torch.randn(2, 4)) == {}


def test_what_the_graph_cannot_follow_is_told() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.rnn = nn.Linear(6, 8), nn.LSTM(8, 5, batch_first=True)
            self.last = nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.last(self.rnn(self.first(x))[0])
            return out

    model, x = Recurrent().eval(), torch.randn(2, 4, 6)
    for reads in (tr.compact, tr.removable_groups):
        with untouched(model, x), pytest.raises(RuntimeError, match="at a recurrent layer"):
            reads(model, x)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"batches": 4}, "batches must be batch sizes"),
        ({"batches": ()}, "batches must be batch sizes"),
        ({"batches": (0,)}, "batch size must be a whole number"),
        ({"batches": (1.5,)}, "batch size must be a whole number"),
        ({"seconds": -1.0}, "seconds must be above 0"),
    ],
)
def test_a_latency_of_nothing_is_refused(options: dict[str, Any], told: str) -> None:
    model = nn.Linear(4, 3).eval()
    with pytest.raises(ValueError, match=told):
        tr.latency(model, model, torch.randn(1, 4), **options)


def test_what_has_no_sparse_product_is_refused() -> None:
    model, x = nn.Sequential(nn.Linear(4, 3)).eval().bfloat16(), torch.randn(2, 4).bfloat16()
    with untouched(model, x), pytest.raises(TypeError, match=r"call \.float\(\) on the model"):
        tr.to_csr(model, x)
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.Linear, found Conv2d"):
        tr.compaction.CSRLinear(nn.Conv2d(1, 1, 1))  # type: ignore[arg-type]


class Beside(nn.Module):
    """Two hidden layers, and an input that autograd does not follow."""

    def __init__(self, enter: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.enter, self.bag = enter, nn.EmbeddingBag(9, 6)
        self.table = nn.Parameter(torch.randn(9, 6))
        self.one, self.two, self.head = nn.Linear(4, 6), nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        hidden = self.enter(self.one(x), self.table, ids)
        if hidden.dim() == 3:
            hidden = self.bag(ids)
        out: Tensor = self.head(self.two(hidden).relu())
        return out


def in_place(hidden: Tensor, ids: Tensor, part: slice) -> Tensor:
    hidden[:, part].mul_(ids[:, :1] == 1)
    return hidden


@pytest.mark.parametrize(
    "enter",
    [
        lambda hidden, _, ids: hidden * (ids[:, :1] == 1),
        lambda hidden, _, ids: hidden.masked_fill(ids[:, :1] != 1, 0.0),
        lambda hidden, _, ids: in_place(hidden, ids, slice(None)),
        lambda hidden, _, ids: in_place(hidden, ids, slice(3)),
        lambda _, table, ids: table[ids[:, 0]],
        lambda hidden, *_: hidden[None],
        lambda hidden, _, ids: hidden / (1 + int(ids.max())),
        lambda hidden, _, ids: hidden * ids.sum().item(),
    ],
    ids=[
        "product",
        "fill",
        "in place",
        "in place, in part",
        "table",
        "embedding bag",
        "int",
        "item",
    ],
)
def test_an_input_without_gradients_is_no_constant(
    enter: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> None:
    """A mask that is one all over the example, or a token that is alone in it, says nothing."""
    model = Beside(enter).eval()
    zero(model.one.weight, slice(1, 4))
    zero(model.two.weight, (slice(None), 0))
    zero(model.head.weight, (slice(None), 2))
    x, ids = torch.randn(5, 4), torch.tensor([[1, 1], [1, 1], [5, 2], [0, 7], [8, 3]])
    with untouched(model, x, ids):
        small, _ = tr.compact(model, (x[:2], ids[:2]))
    assert small.get_submodule("two").out_features == 7
    with torch.no_grad():
        torch.testing.assert_close(small(x, ids), model(x, ids))
