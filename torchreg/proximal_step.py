"""The proximal map of one parameter, in place, in the metric of the step just taken."""

from typing import Any

from torch import Tensor

from torchreg import checks, distributed, fused
from torchreg.blocks import LONGER, blocks
from torchreg.metrics import Metric, is_elementwise, is_known, is_uniform
from torchreg.penalties.base import Penalty


def proximal_step_(
    penalty: Penalty,
    metric: Metric,
    group: dict[str, Any],
    parameter: Tensor,
    state: dict[str, Any],
    compile: bool,
) -> None:
    """Replace a parameter by its proximal point: the fastest way that its penalty allows.

    A penalty that is a sum over single weights, in the metric of a known optimizer, acts on the
    local shard in blocks of the size of a cache, or as one compiled kernel. Any other one sees
    the whole tensor.

    Args:
        penalty: of this parameter.
        metric: of the wrapped optimizer.
        group: the wrapped optimizer's options for it.
        parameter: as the wrapped optimizer's step has left it; changed in place.
        state: the wrapped optimizer's state of it.
        compile: whether to use the compiled kernel where there is one.
    """
    if penalty.idle:
        return
    view = distributed.View.of(penalty, parameter)
    w = view(parameter)
    if not (penalty.elementwise and is_elementwise(metric)):
        found = view(metric(group, parameter, state))
        step = checks.as_step(found, penalty, w, trusted=is_known(metric))
        z = penalty.prox_(w, step)
        if view.gathered:
            distributed.local(parameter).copy_(view.part(z))
        return
    state = {name: view(value) for name, value in state.items()}
    form = penalty.closed_form if compile else None
    if form and fused.proximal_step_(metric, form, group, w, state):
        return
    if is_uniform(metric):
        step = checks.as_step(metric(group, w, state), penalty, w, trusted=True)
        for part, _ in blocks(w, {}, times=LONGER):
            penalty.prox_(part, step)
        return
    for part, beside in blocks(w, state):
        step = checks.as_step(metric(group, part, beside), penalty, part, trusted=True)
        penalty.prox_(part, step)
