"""The small model in use: saved, exported, timed, and stored sparsely."""

import copy
import io
import itertools
import time
import warnings
from collections.abc import Callable
from typing import Any

import onnx
import onnx.reference
import pytest
import torch
from torch import Tensor, nn

import torchreg as tr
from experiments import models
from tests.compaction import alive, hooks, untouched, zero_inputs
from torchreg.compaction import CSRLinear
from torchreg.compaction.timing import in_turns


def test_the_small_model_is_saved_exported_and_read_by_onnx() -> None:
    model = zero_inputs(alive(models.LeNet5Caffe()))
    x = torch.randn(2, 1, 28, 28)
    small, _ = tr.compact(model, x)
    file = io.BytesIO()
    torch.save(small.state_dict(), file)
    file.seek(0)
    small.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(torch.export.export(small, (x,)).module()(x), expected)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own making
            program = torch.onnx.export(small, (x,), dynamo=True, verbose=False)
    assert program is not None
    onnx.checker.check_model(program.model_proto)
    session = onnx.reference.ReferenceEvaluator(program.model_proto)
    (found,) = session.run(None, {session.input_names[0]: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected)


class Seen(nn.Linear):
    """A layer that notes every batch it is given, and whether gradients were on."""

    def __init__(self, outputs: int, log: list[tuple[int, int, bool]]) -> None:
        super().__init__(6, outputs)
        self.log = log

    def forward(self, x: Tensor) -> Tensor:
        self.log.append((self.out_features, len(x), torch.is_grad_enabled()))
        return super().forward(x)


def test_latency_is_measured_at_each_batch_size() -> None:
    log: list[tuple[int, int, bool]] = []
    before, after = Seen(9, log).eval(), Seen(2, log).eval()
    x = torch.randn(3, 6)
    with untouched(before, after, x):
        timed = tr.latency(before, after, x, (1, 16), seconds=0.003)
    assert [one.batch for one in timed] == [1, 16]
    assert all(one.before > 0 and one.after > 0 for one in timed)
    assert [batch for batch, _ in itertools.groupby(log, key=lambda seen: seen[1])] == [1, 16]
    assert len(log) % 2 == 0
    assert all(seen == (2 if i % 2 else 9, seen[1], False) for i, seen in enumerate(log))
    assert str(tr.compaction.Latency(8, 0.004, 0.001)) == (
        "batch 8: 4 ms -> 1 ms (4 times as fast)"
    )


def test_calls_are_timed_in_turns_for_as_long_as_asked() -> None:
    calls: list[str] = []

    def slow() -> None:
        calls.append("slow")
        time.sleep(0.02)

    began = time.perf_counter()
    turns = in_turns([slow, lambda: calls.append("quick")], 0.05)
    assert time.perf_counter() - began >= 0.1
    assert calls == ["slow", "quick"] * len(turns[0])
    assert len(turns[0]) == len(turns[1])
    assert min(turns[0]) >= 0.02
    assert [len(times) for times in in_turns([slow], 1e-9)] == [1]


@pytest.mark.parametrize(
    ("spoil", "error", "told"),
    [
        (lambda m, x: (m, m, (x, torch.randn(2))), ValueError, "no batch dimension in common"),
        (lambda m, x: (copy.deepcopy(m).train(), m, x), ValueError, r"call model.eval\(\)"),
        (lambda m, x: (m, copy.deepcopy(m).train(), x), ValueError, r"call model.eval\(\)"),
        (lambda m, x: (m, "small", x), TypeError, "expected a torch.nn.Module"),
        (lambda m, _: (m, m, None), TypeError, "expected an example input"),
        (lambda m, x: (m, m, x[:, :3]), ValueError, "does not run on the example, shaped"),
    ],
)
def test_latency_of_what_cannot_be_timed(
    spoil: Callable[[Any, Any], tuple[Any, Any, Any]], error: type[Exception], told: str
) -> None:
    model, x = nn.Linear(6, 2).eval(), torch.randn(3, 6)
    spoilt = spoil(model, x)
    with untouched(model, x), pytest.raises(error, match=told):
        tr.latency(*spoilt, seconds=0.001)


def test_a_sparse_layer_under_autocast_computes_in_its_own_type() -> None:
    layer = nn.Linear(8, 4)
    x = torch.randn(3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = CSRLinear(layer)(x.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, layer(x.bfloat16().float()))


def test_sparse_layers_compute_the_same_and_are_chosen_by_the_clock() -> None:
    model: Any = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 8)).eval()
    with torch.no_grad():
        model[0].weight.mul_(torch.rand(512, 512) < 0.002)
    x = torch.randn(4, 16, 512)
    with untouched(model, x):
        small, measured = tr.to_csr(model, x, seconds=0.02)
    assert not any(m.training or hooks(m) for m in small.modules())
    assert measured["0"].density < 0.004
    for name, one in measured.items():
        assert isinstance(small.get_submodule(name), CSRLinear) == (one.sparse < one.dense)
    with torch.no_grad():
        torch.testing.assert_close(small(x), model(x))
        assert isinstance(model[0], nn.Linear)
        sparse = CSRLinear(model[0])
        torch.testing.assert_close(sparse(x[0, 0]), model[0](x[0, 0]))


def test_a_sparse_layer_can_be_copied_and_met_again() -> None:
    layer = nn.Linear(64, 64)
    with torch.no_grad():
        layer.weight.mul_(torch.rand(64, 64) < 0.1)
    sparse, x = CSRLinear(layer), torch.randn(3, 64)
    again = copy.deepcopy(sparse)
    assert torch.equal(again(x), sparse(x))
    assert again.weight.values().data_ptr() != sparse.weight.values().data_ptr()
    model = nn.Sequential(sparse, nn.Linear(64, 4)).eval()
    small, _ = tr.to_csr(model, x, seconds=0.01)
    torch.testing.assert_close(small(x), model(x))


def test_the_model_that_does_not_run_is_named() -> None:
    narrow, wide = nn.Linear(3, 2).eval(), nn.Sequential(nn.Linear(4, 2)).eval()
    with pytest.raises(ValueError, match=r"the model \(Sequential\) does not run"):
        tr.latency(narrow, wide, torch.randn(1, 3), seconds=0.01)


def test_zeros_of_what_is_not_taken_apart_are_told() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.w = nn.Linear(6, 8), nn.Parameter(torch.randn(8, 8))
            self.norm, self.cell = nn.LayerNorm(8), nn.LSTMCell(8, 8)
            self.last = nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.norm(torch.relu(torch.relu(self.first(x)) @ self.w))
            out: Tensor = self.last(self.cell(h)[0])
            return out

    model = Mixed().eval()
    with torch.no_grad():
        model.w[:4] = 0
        model.w[:, 6:] = 0
        model.norm.weight[:3] = 0
        model.cell.weight_ih[:, :2] = 0
    _, report = tr.compact(model, torch.randn(2, 6))
    told = {(stay.layer, stay.zeros): stay.count for stay in report.stays}
    assert told["norm.weight", "scales"] == 3
    assert told["cell.weight_ih", "columns"] == 2
    assert told["w", "rows"] == 4
    assert told["w", "columns"] == 2
