"""How long a forward pass takes."""

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torchreg.compaction.running import Example, check_model, run_once


def in_turns(
    calls: Sequence[Callable[[], object]], seconds: float, *, waiting: Iterable[Tensor] = ()
) -> list[list[float]]:
    """Time calls one after the other, again and again, so that all meet the same machine.

    Each was called before, so that nothing is made ready in what is timed.

    Args:
        calls: what to time.
        seconds: how long to go on, for each call. Each is timed at least once.
        waiting: tensors whose accelerators are waited for, before and after each call.

    Returns:
        The seconds of every call.
    """
    # torch's own benchmark.timer asks for an accelerator each time, which can take 50 microseconds.
    devices = {x.device for x in waiting if not x.is_cpu}

    def wait() -> None:
        for device in devices:
            torch.accelerator.synchronize(device)

    turns: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds * len(calls)
    while not turns[0] or time.perf_counter() < end:
        for call, times in zip(calls, turns, strict=True):
            wait()
            began = time.perf_counter()
            call()
            wait()
            times.append(time.perf_counter() - began)
    return turns


def check_seconds(seconds: float) -> None:
    """Raise a ValueError unless it is a time to measure for."""
    if not 0 < seconds < float("inf"):
        raise ValueError(f"seconds must be above 0 and finite, found {seconds!r}.")


class Latency(NamedTuple):
    """Seconds of one forward pass at one batch size, the median of many."""

    batch: int
    before: float
    after: float

    def __str__(self) -> str:
        return (
            f"batch {self.batch}: {self.before * 1e3:.3g} ms -> {self.after * 1e3:.3g} ms "
            f"({self.before / self.after:.2g} times as fast)"
        )


def latency(
    before: nn.Module,
    after: nn.Module,
    example: Any,
    batches: Sequence[int] = (1, 128),
    *,
    seconds: float = 1.0,
) -> list[Latency]:
    """Measure the forward passes of two models on this machine, as it is set up now.

    Both run in turns without gradients, on torch's present number of threads; an accelerator is
    waited for.

    Args:
        before: a model in evaluation mode.
        after: another one, such as its compact form.
        example: an input of both. Its first sample is repeated to each batch size.
        batches: the batch sizes.
        seconds: how long to measure each model at each size.

    Raises:
        TypeError, ValueError: as :func:`compact`; the tensors of the example have no batch
            dimension in common; a batch size that is no whole number of at least 1; seconds that
            are not above 0.

    Example:
        >>> for one in latency(nn.Linear(256, 256).eval(), nn.Linear(256, 8).eval(),
        ...                    torch.randn(1, 256), seconds=0.01):
        ...     assert one.before > 0 and one.after > 0
    """
    check_model(before)
    check_model(after)
    call = Example(example)
    check_seconds(seconds)
    if not isinstance(batches, Sequence) or not batches:
        raise ValueError(f"batches must be batch sizes such as (1, 128), found {batches!r}.")
    timings = []
    for batch in batches:
        run = call.repeated(batch)
        for model in (before, after):
            run_once(model, run)
        with torch.no_grad():
            calls = [partial(run.direct, model) for model in (before, after)]
            involved = [*run.tensors(), *before.parameters(), *after.parameters()]
            turns = in_turns(calls, seconds, waiting=involved)
        timings.append(Latency(batch, *map(median, turns)))
    return timings
