"""What the proximal optimizer refuses: whatever would go wrong silently."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from torchreg import metrics
from torchreg.metrics import Metric, StepSize
from torchreg.penalties.base import Penalty
from torchreg.regularizer import Regularizer


def check_together(optimizer: Optimizer, regularizer: Regularizer, metric: Metric) -> None:
    """Raise if an optimizer cannot minimise loss + penalty as the two are now.

    Called before each step as well: a model may have been cast, tied or given other parameters
    in between. Reads no tensor's values.
    """
    doubly = regularizer.overlap()
    if doubly:
        raise ValueError(
            f"more than one penalty acts on {', '.join(doubly)}: the proximal map of a sum is not "
            "one map after the other. Select disjoint parameters, or use one composite penalty "
            "such as torchreg.ElasticNet(l1, l2)."
        )
    held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    selection = regularizer.selection()
    if selection and held.isdisjoint(selection.values()):
        raise ValueError(
            "none of the penalised parameters is in the optimizer. Build both from the same "
            "model; after copy.deepcopy(model), or a call that gives the model new parameters (a "
            "cast, load_state_dict(assign=True)), build the optimizer and the Regularizer again."
        )
    for name, parameter in selection.items():
        if parameter.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(
                f"{name} is held in {parameter.dtype}, which rounds small thresholds away. Hold "
                "the parameters in float32 and use torch.autocast for half precision."
            )
        if parameter.is_complex() and metric is metrics.adam:
            raise ValueError(
                f"{name} is complex: its modulus can be shrunk under SGD, which moves real and "
                "imaginary part alike. Use SGD, or torch.view_as_real for the parameter."
            )
        if parameter.grad is not None and parameter.grad.is_sparse:
            raise RuntimeError(
                f"{name} has a sparse gradient, whose step moves some rows only; a penalty acts on "
                "all of them. Use sparse=False in the embedding, or leave it out of the "
                "regularizer."
            )


def refuse_differentiable(group: dict[str, Any]) -> None:
    """Raise for ``differentiable=True``."""
    if group.get("differentiable"):
        raise ValueError(
            "differentiable=True is not supported: the proximal map is applied in place, outside "
            "autograd. Build the optimizer with differentiable=False."
        )


def as_metric(metric: object) -> Metric:
    """Take a caller's metric, whose results are checked at each step.

    On an accelerator their values are not read, which would wait for it.
    """
    if not callable(metric):
        raise TypeError(
            f"metric must be a callable (param_group, parameter, state) -> step size, found "
            f"{metric!r}. For a constant: metric=lambda group, parameter, state: {metric!r}."
        )
    return metric


def as_step(found: object, penalty: Penalty, parameter: Tensor, *, trusted: bool) -> float | Tensor:
    """Turn what a metric returned into a step size for a penalty's proximal map."""
    if isinstance(found, StepSize):
        found = found.bounded(penalty.slope(parameter))
    if not isinstance(found, Tensor | float | int):
        raise TypeError(
            f"metric returned {found!r}; expected a float, a tensor shaped like the parameter or a "
            "torchreg.StepSize."
        )
    if isinstance(found, Tensor):
        if parameter.is_complex() and found.dim() > 0:
            raise ValueError(
                "a complex parameter needs one step size for its real and imaginary parts: a "
                "number, not one per coordinate."
            )
        if not trusted and found.device.type == "cpu" and not bool((found >= 0).all()):
            raise ValueError(
                "metric returned a negative or NaN step size; a step size is how far the optimizer "
                "moves a coordinate per unit of gradient, at least 0."
            )
    return found
