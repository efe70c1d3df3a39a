"""The proximal map of the weights of joint groups, in the metric of the step just taken."""

from collections.abc import Callable

import torch
from torch import Tensor

from torchreg import checks
from torchreg.bundle import Bundle
from torchreg.distributed import is_sharded, local
from torchreg.metrics import StepSize
from torchreg.penalties.base import check_step

Found = StepSize | float | Tensor


def joint_step_(bundle: Bundle, found: Callable[[Tensor], Found], *, trusted: bool) -> None:
    """Replace the weights of joint groups by their proximal point.

    A weight that the optimizer has not moved stays as it is, and counts in its groups: its step
    size is 0.

    Args:
        bundle: of several parameters, as the wrapped optimizer's step has left them.
        found: what the metric returns for a parameter; a step size of 0 for one without a grad.
        trusted: whether the metric is one of this package.
    """
    if bundle.penalty.idle:
        return
    w = bundle.see({name: p.detach() for name, p in bundle.parameters.items()})
    step = checks.as_step(joint_step_size(bundle, found), bundle.penalty, w, trusted=trusted)
    for name, part in bundle.parts(bundle.penalty.prox(w, step)).items():
        if bundle.parameters[name].grad is not None:
            local(bundle.parameters[name]).copy_(bundle.view(name).part(part))


def joint_step_size(bundle: Bundle, found: Callable[[Tensor], Found]) -> StepSize:
    """The step sizes of the parameters of a bundle, gathered as its penalty sees them."""
    sizes: dict[str, StepSize] = {}
    for name, parameter in bundle.parameters.items():
        one = found(parameter)
        if not isinstance(one, StepSize):
            one = StepSize(checks.as_step(one, bundle.penalty, parameter, trusted=True))
        sizes[name] = one
    scales = [one.scale for one in sizes.values()]
    curved = any(one.denominator is not None for one in sizes.values())
    if not curved and all(not isinstance(s, Tensor) and s == scales[0] for s in scales):
        return StepSize(scales[0])
    parameters = bundle.parameters
    scale = {name: _spread(one.scale, parameters[name]) for name, one in sizes.items()}
    if not curved:
        return StepSize(bundle.see(scale))
    # Of a weight that was not moved, the 0 is divided by 1.
    denominators = {
        name: _spread(1.0 if one.denominator is None else one.denominator, parameters[name])
        for name, one in sizes.items()
    }
    return StepSize(bundle.see(scale), bundle.see(denominators))


def _spread(value: float | Tensor, parameter: Tensor) -> Tensor:
    """One number for each element of a parameter."""
    check_step(parameter, value)
    if isinstance(value, Tensor) and value.dim() > 0:
        return value if is_sharded(value) else value.to(local(parameter).device)
    kind, device = parameter.dtype, local(parameter).device
    if isinstance(value, Tensor) and value.device == device:
        return value.to(kind).expand(parameter.shape)
    value = float(value)  # of the host, if it is a tensor
    return torch.full(parameter.shape, value, dtype=kind, device=device)
