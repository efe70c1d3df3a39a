"""A network as it is deployed: exported to ONNX and run by ONNX Runtime, if that is installed.

PyTorch spends some ten microseconds on each operation of a network whatever its size, which is
most of the time of a small one at batch 1. A runtime without that cost shows what a smaller network
saves. It also folds the norms into the convolutions.
"""

import contextlib
import io
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from torchreg.compaction.timing import in_turns

NEEDED = ("onnx", "onnxscript", "onnxruntime")


def missing() -> list[str]:
    """The packages that are not installed and would be needed."""
    return [name for name in NEEDED if find_spec(name) is None]


def exported(model: nn.Module, example: Tensor) -> bytes:
    """An ONNX program of a network in evaluation mode, for any batch size.

    Args:
        model: with one input and one output.
        example: an input with at least two samples.
    """
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # of the exporter's own parts
        batch = {0: torch.export.Dim("batch", min=1)}
        program = torch.onnx.export(
            model, (example,), dynamo=True, dynamic_shapes=(batch,), verbose=False
        )
    assert program is not None
    packed: bytes = program.model_proto.SerializeToString()
    return packed


class Session:
    """An ONNX program, loaded on the CPU with torch's present number of threads."""

    def __init__(self, packed: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = onnxruntime.InferenceSession(
            packed, options, providers=["CPUExecutionProvider"]
        )
        (given,) = self._session.get_inputs()
        self._name = given.name

    def __call__(self, x: Tensor) -> Tensor:
        """The outputs for a batch."""
        (found,) = self._session.run(None, {self._name: x.contiguous().numpy()})
        return torch.from_numpy(found)


def latency(
    sessions: Sequence[Session], example: Tensor, batches: Sequence[int], *, seconds: float
) -> dict[str, list[float]]:
    """Seconds of a forward pass of each session, in turns: the median, by batch size."""
    found = {}
    for batch in batches:
        x = example[:1].expand(batch, *example.shape[1:]).contiguous()
        for session in sessions:
            session(x)
        turns = in_turns([partial(session, x) for session in sessions], seconds)
        found[str(batch)] = [median(times) for times in turns]
    return found


def compare(
    model: nn.Module, small: nn.Module, x: Tensor, batches: Sequence[int], *, seconds: float
) -> Mapping[str, Any]:
    """Export two networks, and say how fast they are and how far off their own outputs.

    Args:
        model: in evaluation mode.
        small: its compact form.
        x: at least two inputs, on which the outputs are compared.
        batches: sizes to time.
        seconds: for how long to time each network at each size.

    Returns:
        ``difference``, the largest of an output between PyTorch and ONNX Runtime, and
        ``latency_seconds`` by batch size, before and after.
    """
    networks = (model, small)
    sessions = [Session(exported(network, x[:2])) for network in networks]
    with torch.no_grad():
        off = [
            (session(x) - network(x)).abs().max()
            for session, network in zip(sessions, networks, strict=True)
        ]
    timed = latency(sessions, x, batches, seconds=seconds)
    return {"difference": float(torch.stack(off).max()), "latency_seconds": timed}
