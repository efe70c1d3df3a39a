"""The proximal step as one compiled kernel: each weight and each statistic is read once.

In the metric of Adam and its kin the step is a chain of some ten operations on as many numbers
as the model has weights. Compiled it costs little more than a copy of the weights; to compile
takes seconds, once for each kind of penalty. The lr, the step count and the strengths reach the
kernel as plain numbers, so that no schedule compiles it again.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from torchreg.blocks import flat
from torchreg.metrics import Metric, StepSize, adagrad, adam, nadam, radam, rmsprop
from torchreg.prox import ClosedForm


def proximal_step_(
    metric: Metric,
    form: ClosedForm,
    group: Mapping[str, Any],
    w: Tensor,
    state: Mapping[str, Any],
) -> bool:
    """Take a penalty's proximal step in the metric ``scale / (factor * sqrt(v) + eps)``, in place.

    Args:
        metric: of any optimizer.
        form: of the penalty.
        group: the options of the wrapped optimizer for this parameter.
        w: real, with any dense layout.
        state: the optimizer's state of the parameter, its tensors laid out as w is.

    Returns:
        False where nothing was done: the metric has another form, w lies on an accelerator
        (launching a compiled kernel for each weight takes longer there than the plain operations,
        measured on an H100), or it has fewer than two elements (compiled apart) or no dense layout.
    """
    name = _second_moment(metric, group)
    if name is None or w.numel() < 2 or w.device.type != "cpu":
        return False
    lines = flat(w.detach(), state[name])
    # The denominator is affine in sqrt(v): the metric itself, at v = 0 and 1, tells both numbers.
    at_0, at_1 = (
        metric(dict(group), w, {**state, name: torch.tensor(v, dtype=torch.float64)})
        for v in (0.0, 1.0)
    )
    assert isinstance(at_0, StepSize)
    assert isinstance(at_1, StepSize)
    if lines is None or at_0.denominator is None or at_1.denominator is None:
        return False
    eps = float(at_0.denominator)
    numbers = form.numbers
    kernel = _kernel(form.prox, form.slope, tuple(n > 0 for n in numbers), w.dtype)
    kernel(*lines, float(at_0.scale), float(at_1.denominator) - eps, eps, *numbers)
    return True


def _second_moment(metric: Metric, group: Mapping[str, Any]) -> str | None:
    """The name of v in the state, where D has the form that is compiled."""
    if metric is adam:
        return "max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"
    if metric in (nadam, radam):
        return "exp_avg_sq"
    if metric is rmsprop:
        return None if group["centered"] else "square_avg"
    return "sum" if metric is adagrad else None


@cache
def _kernel(
    prox: Callable[..., Tensor],
    slope: Callable[..., float | Tensor],
    positive: tuple[bool, ...],
    dtype: torch.dtype,
) -> Callable[..., None]:
    def step_(
        w: Tensor, v: Tensor, scale: float, factor: float, eps: float, *numbers: float
    ) -> None:
        step = StepSize(scale, v.sqrt() * factor + eps)
        # A tensor, since torch may keep the first float bound of a clamp for good (issue 194976).
        least = slope(w, *numbers) + v.new_zeros(())
        w.copy_(prox(w, step.bounded(least), *numbers))

    # The compiler counts compilations, of which it allows few, by code object: one for each.
    kind = "".join(str(int(n)) for n in positive)
    name = f"{prox.__name__}_step_{kind}_{dtype}".replace(".", "_")
    step_.__code__ = step_.__code__.replace(co_name=name)
    return torch.compile(step_, dynamic=True)
