"""Cut the zeroed channels out of a finished run: the smaller network, measured.

    python -m experiments.mnist --model lenet-5-caffe --penalty group-l0 --density 0.4 --out runs/a
    python -m experiments.shrink runs/a

Outputs of both networks are compared on every test image. What a run of ``--groups removable``
or ``shared`` leaves is what can go; scattered zeros stay.
"""

import argparse
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import torchreg as tr
from experiments import deployed
from experiments.checkpoints import last_weights
from experiments.data import CIFAR10_SOURCE, CIFAR100_SOURCE, MNIST_SOURCE, Batches, read
from experiments.errors import told
from experiments.models import MODELS
from experiments.results import table, write_bytes, write_figure, write_json, write_text
from torchreg.plots import kept_channels

SOURCES = {"mnist": MNIST_SOURCE, "cifar10": CIFAR10_SOURCE, "cifar100": CIFAR100_SOURCE}
BATCHES = (1, 128)


def load(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a run with the last weights of its last phase, and the flags.

    Raises:
        FolderError: no run of these scripts, or one that has trained nothing yet.
    """
    state, flags = last_weights(folder)
    model = MODELS[flags["model"]](SOURCES[flags["task"]].classes)
    model.load_state_dict(state)
    return model.eval(), flags


@torch.no_grad()
def compare(model: nn.Module, small: nn.Module, test: Batches) -> dict[str, float]:
    """Errors of both on the test images, and the largest difference of an output."""
    wrong, wrong_small, count = 0, 0, 0
    apart, largest = [], []
    for x, y in test:
        one: Tensor = model(x)
        other: Tensor = small(x)
        wrong += int((one.argmax(1) != y).sum())
        wrong_small += int((other.argmax(1) != y).sum())
        apart.append((one - other).abs().max())
        largest.append(one.abs().max())
        count += len(y)
    return {
        "test_error": wrong / count,
        "test_error_small": wrong_small / count,
        "difference": float(torch.stack(apart).max()),  # NaN if any is, which max() would lose
        "largest_output": float(torch.stack(largest).max()),
    }


def shrink(folder: Path, data_dir: Path, *, seconds: float = 2.0) -> dict[str, Any]:
    """Compact the network of a run, measure both, and leave numbers, picture and network.

    Args:
        folder: of the run; ``shrunk.json``, ``shrunk.txt``, ``channels.png`` and ``small.pt2`` (a
            ``torch.export`` program for any batch size) are written to it.
        data_dir: where the data is.
        seconds: how long each latency is measured.
    """
    model, flags = load(folder)
    source = SOURCES[flags["task"]]
    test = Batches(read(source, data_dir, train=False), source, 1000)
    example = next(iter(test))[0][:2].clone()  # a view would be exported with all it is cut from
    small, report = tr.compact(model, example[:1])
    numbers = compare(model, small, test)
    timed = tr.latency(model, small, example[:1], batches=BATCHES, seconds=seconds)
    packages = deployed.missing()
    if packages:
        print(f"not timed under ONNX Runtime: pip install {' '.join(packages)}")
    result = {
        **numbers,
        "parameters": [report.parameters.before, report.parameters.after],
        "multiply_adds": [report.multiply_adds.before, report.multiply_adds.after],
        "file_bytes": [report.file_bytes.before, report.file_bytes.after],
        "latency_seconds": {str(one.batch): [one.before, one.after] for one in timed},
        "threads": torch.get_num_threads(),
    }
    if not packages:
        images = next(iter(test))[0]
        result["onnx_runtime"] = deployed.compare(model, small, images, BATCHES, seconds=seconds)
    packed = io.BytesIO()
    batch = {0: torch.export.Dim("batch", min=1)}
    torch.export.save(torch.export.export(small, (example,), dynamic_shapes=(batch,)), packed)
    write_bytes(folder / "small.pt2", packed.getvalue())
    write_figure(folder / "channels.png", kept_channels(report.layers))
    told = "\n".join([str(report), "", summary(result)])
    write_text(folder / "shrunk.txt", told + "\n")
    write_json(folder / "shrunk.json", result)
    return {"told": told, **result}


def summary(result: dict[str, Any]) -> str:
    """Before and after, as a table."""
    pairs = {
        "test error": [result["test_error"], result["test_error_small"]],
        "parameters": result["parameters"],
        "multiply-adds": result["multiply_adds"],
        "file, KiB": [size / 1024 for size in result["file_bytes"]],
    }
    timed = {"": result["latency_seconds"]}
    if "onnx_runtime" in result:
        timed[", ONNX Runtime"] = result["onnx_runtime"]["latency_seconds"]
    pairs |= {
        f"ms at batch {batch}{how}": [1e3 * one for one in both]
        for how, sizes in timed.items()
        for batch, both in sizes.items()
    }
    rows = []
    for name, (before, after) in pairs.items():
        form = "{:.2%}" if name == "test error" else "{:.3g}" if "ms" in name else "{:,.0f}"
        ratio = "" if name == "test error" else f"{after / before:.1%}"
        rows.append([name, form.format(before), form.format(after), ratio])
    return table(["", "before", "after", "left"], rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Shrink the runs that are named."""
    made = argparse.ArgumentParser(
        prog="python -m experiments.shrink",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of finished runs")
    made.add_argument("--data-dir", type=Path, default=Path("data"), help="where the data is")
    asked = made.parse_args(argv)
    torch.set_num_threads(1)  # what a latency of a small network is of
    for folder in asked.runs:
        print(folder)
        print(shrink(folder, asked.data_dir)["told"])


if __name__ == "__main__":
    told(main)
