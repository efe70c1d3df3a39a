"""A run with removable groups, cut down: the same outputs, and files that can be read back."""

import io
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import shrink
from experiments.data import MNIST_SOURCE, Batches, read
from experiments.errors import told
from experiments.results import read_json
from tests.test_experiments_run import data, main

__all__ = ["data"]

pytestmark = pytest.mark.slow
FLAGS = (
    "--model lenet-5-caffe --penalty group-l0 --density 0.3 --multiply-adds --epochs 3 "
    "--ramp 0 0.5 0.6 --batch-size 50"
)


@pytest.mark.filterwarnings("ignore:the density is held at")
def test_a_shrunk_run_has_the_same_outputs(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    main(data, out, FLAGS)
    result = shrink.shrink(out, data, seconds=0.01)
    before, after = result["multiply_adds"]
    assert after < 0.6 * before
    assert result["parameters"][1] < result["parameters"][0]
    assert result["difference"] <= 1e-5 * result["largest_output"]
    assert result["test_error"] == result["test_error_small"]
    onnx = result["onnx_runtime"]
    assert onnx["difference"] <= 1e-5 * result["largest_output"]
    assert all(time > 0 for both in onnx["latency_seconds"].values() for time in both)
    assert "ms at batch 128, ONNX Runtime" in result["told"]
    kept = read_json(out / "shrunk.json")
    assert kept == {name: value for name, value in result.items() if name != "told"}
    assert (out / "channels.png").stat().st_size > 0
    assert "multiply-adds" in (out / "shrunk.txt").read_text()

    model, _ = shrink.load(out)
    small = torch.export.load(io.BytesIO((out / "small.pt2").read_bytes())).module()
    x = next(iter(Batches(read(MNIST_SOURCE, data, train=False), MNIST_SOURCE, 7)))[0]
    with torch.no_grad():
        torch.testing.assert_close(small(x), model(x), rtol=1e-5, atol=1e-5)


def test_a_folder_without_a_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="holds no trained run of these scripts"):
        told(lambda: shrink.main([str(tmp_path)]))


def test_an_output_that_is_not_a_number_is_not_lost() -> None:
    class Lost(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.nan

    batches: Any = [(torch.ones(2, 3), torch.zeros(2)), (torch.ones(2, 3), torch.zeros(2))]
    found = shrink.compare(torch.nn.Identity(), Lost(), batches)
    assert math.isnan(found["difference"])
