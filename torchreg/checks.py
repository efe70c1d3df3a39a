"""What the proximal optimizer refuses: whatever would go wrong silently."""

from collections.abc import Mapping
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
    for term in regularizer.terms:
        if term.joint is None:
            continue
        (bundle,) = term.bundles()
        if 0 < len(held.intersection(bundle.parameters.values())) < len(bundle.parameters):
            missing = [name for name, p in bundle.parameters.items() if p not in held]
            raise ValueError(
                f"the groups of {bundle.name} are joint, and the optimizer does not hold "
                f"{', '.join(missing)}: give all weights of joint groups to one optimizer."
            )
    for name, parameter in selection.items():
        if parameter.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(
                f"{name} is held in {parameter.dtype}, which rounds small thresholds away. Hold "
                "the parameters in float32 and use torch.autocast for half precision."
            )
        if parameter.is_complex() and metrics.is_known(metric) and not metrics.is_uniform(metric):
            raise ValueError(
                f"{name} is complex: its modulus can be shrunk under SGD and ASGD, which move real "
                "and imaginary part alike. Use one of them, or torch.view_as_real for the "
                "parameter."
            )
        if parameter.grad is not None and parameter.grad.is_sparse:
            raise RuntimeError(
                f"{name} has a sparse gradient, whose step moves some rows only; a penalty acts on "
                "all of them. Use sparse=False in the embedding, or leave it out of the "
                "regularizer."
            )


def check_checkpoint(optimizer: Optimizer, saved: Mapping[str, Any], *, trusted: bool) -> None:
    """Raise if a ``state_dict`` is of another optimizer, which torch notices late or not at all.

    Of an optimizer that is not trusted, only the numbers of parameters are compared.
    """
    if not {"state", "param_groups"} <= saved.keys():
        raise ValueError(
            "this is no optimizer's state_dict: expected the keys 'state' and 'param_groups', "
            f"found {', '.join(map(repr, list(saved)[:5])) or 'none'}. Pass the part of the "
            "checkpoint that optimizer.state_dict() returned."
        )
    groups, name = optimizer.param_groups, type(optimizer).__name__
    ours = [len(group["params"]) for group in groups]
    theirs = [len(group["params"]) for group in saved["param_groups"]]
    if ours != theirs:
        raise ValueError(
            f"the checkpoint's groups hold {theirs} parameters, those of this {name} {ours}. Build "
            "model and optimizer as they were when it was written, added groups included."
        )
    if not trusted:
        return
    # Switches and None are younger options, which torch fills in for an older checkpoint.
    needed = {k for k, v in optimizer.defaults.items() if v is not None and not isinstance(v, bool)}
    for group, packed in zip(groups, saved["param_groups"], strict=True):
        missing = sorted(needed - packed.keys())
        if missing:
            raise ValueError(
                f"the checkpoint is of another optimizer than {name}: it has no "
                f"{', '.join(missing)}. Resume with the type that wrote it, or load the model's "
                "weights alone and begin with a fresh optimizer."
            )
        for parameter, key in zip(group["params"], packed["params"], strict=True):
            for entry, value in saved["state"].get(key, {}).items():
                if isinstance(value, Tensor) and not _fits(value, parameter):
                    raise ValueError(
                        f"the checkpoint is of another model: {entry} of parameter {key} is shaped "
                        f"{tuple(value.shape)}, the parameter {tuple(parameter.shape)}. Build "
                        "model and optimizer as they were when it was written."
                    )


def _fits(value: Tensor, parameter: Tensor) -> bool:
    """Whether a state is a number, or shaped like a parameter or its sum over some dimensions."""
    if value.numel() == 1:
        return True
    return value.dim() == parameter.dim() and all(
        found in (1, size) for found, size in zip(value.shape, parameter.shape, strict=True)
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
        bare = found.denominator is None  # then there is nothing to hold a slope against
        found = found.scale if bare else found.bounded(penalty.slope(parameter))
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
