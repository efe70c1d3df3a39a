"""How far a model is from a stationary point of loss + penalty: the KKT certificate."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchreg import distributed
from torchreg.distributed import largest, local
from torchreg.regularizer import Regularizer, check_regularizer


@dataclass(frozen=True)
class Stationarity:
    """How far a model is from a stationary point of loss + penalty (the KKT certificate)."""

    residual: float
    """The largest distance of any coordinate, relative to the strength. 0 is optimal."""

    absolute: float
    """The largest distance, in units of the gradient."""

    worst: str
    """The parameter in which the largest residual is found."""

    parameters: dict[str, float]
    """The largest absolute distance in each parameter, unpenalised ones too."""

    def __float__(self) -> float:
        return self.residual

    def __str__(self) -> str:
        return (
            f"stationarity residual {self.residual:.3g} of the strength, "
            f"{self.absolute:.3g} absolute, largest in {self.worst}"
        )


def stationarity(
    regularizer: Regularizer,
    loss: Tensor | Callable[..., Tensor],
    batches: Iterable[Any] | None = None,
) -> Stationarity:
    """Certify a solution: how far ``-grad(loss)`` is from the subdifferential of the penalty.

    At a stationary point the residual is 0; for a convex loss and penalty that point is the
    optimum. The residual is the largest distance over all coordinates, divided by the
    strength of the penalty that acts there. Trainable parameters of the model that no penalty
    acts on must have a gradient of zero, and count as well, relative to the largest strength.
    Where the strength is 0 a residual is infinite unless the distance is 0: read ``absolute``.

    The loss is the mean task loss *without* the penalty, over all of the data: on one batch
    the residual measures that batch's noise. Call ``model.eval()`` first where dropout or
    BatchNorm would make the loss another one. Coupled ``weight_decay`` of the optimizer is
    part of the objective: add ``weight_decay / 2 * sum(w^2)`` to the loss. No ``.grad`` is
    touched.

    In several processes all ranks call this together and get the same answer. Where the
    regularizer's model is wrapped in DDP or by ``fully_shard``, give the loss as a function: each
    rank's is that of its own data, and the objective is their mean, as in training. A plain
    model is certified for the loss that its rank was given.

    Args:
        regularizer: the penalties and their model.
        loss: a scalar tensor with its graph; or a function that returns one, called without
            arguments, or with each batch where ``batches`` is given.
        batches: an iterable of batches (a DataLoader). The loss of a batch is its mean; batches
            are weighted by their length, the first dimension of their first tensor. Under
            DDP and FSDP2 every rank needs the same number of them.

    Raises:
        ValueError: the loss or its gradient is not finite; the loss is not scalar or has no graph
            to the model; there are no batches; two penalties act on one parameter.
        TypeError: no Regularizer; a batch in which no tensor is found; a loss tensor beside
            ``batches``, or under DDP or FSDP2.

    Example:
        >>> import torchreg as tr
        >>> model = nn.Linear(2, 1, bias=False)
        >>> _ = nn.init.zeros_(model.weight)
        >>> x, y = torch.eye(2), torch.tensor([[3.0], [0.5]])
        >>> regularizer = tr.Regularizer(model, tr.L1(1.0))
        >>> result = tr.stationarity(regularizer, nn.functional.mse_loss(model(x), y))
        >>> result.residual  # the gradient is (-3, -0.5), the set at zero [-1, 1]
        2.0
    """
    check_regularizer(regularizer)
    if doubly := regularizer.overlap():
        raise ValueError(
            f"more than one penalty acts on {', '.join(doubly)}: their distances do not add up. "
            "Use one composite penalty such as torchreg.ElasticNet(l1, l2)."
        )
    distributed.reshard(regularizer.model)
    bundles = list(regularizer.bundles())
    penalised = {n: p for n, p in regularizer.selection().items() if p.requires_grad}
    free = regularizer.unpenalised()
    parameters = [*penalised.values(), *free.values()]
    gradients = iter(_mean_gradient(regularizer.model, parameters, loss, batches))
    slopes = {name: next(gradients) for name in penalised}
    acting = [b for b in bundles if not slopes.keys().isdisjoint(b.parameters)]
    strongest = max((bundle.penalty.strength for bundle in acting), default=0.0)
    rows: dict[str, tuple[float, float]] = {}
    for bundle in acting:
        w = {name: p.detach() for name, p in bundle.parameters.items()}
        slope = {name: slopes.get(name, torch.zeros_like(one)) for name, one in w.items()}
        distance = bundle.penalty.distance(bundle.see(w), bundle.see(slope))
        for name, part in bundle.parts(distance).items():
            if name in slopes:  # what is frozen takes part in joint groups, and cannot move
                over = bundle.parameters[name]
                rows[name] = largest(part, over=over), bundle.penalty.strength
    for name, parameter in free.items():
        rows[name] = largest(local(next(gradients)).abs(), over=parameter), strongest
    residuals = {name: _relative(distance, to) for name, (distance, to) in rows.items()}
    worst = max(residuals, key=lambda name: residuals[name], default="")
    return Stationarity(
        residual=residuals.get(worst, 0.0),
        absolute=max((distance for distance, _ in rows.values()), default=0.0),
        worst=worst,
        parameters={name: distance for name, (distance, _) in rows.items()},
    )


def _mean_gradient(
    model: nn.Module,
    parameters: list[nn.Parameter],
    loss: Tensor | Callable[..., Tensor],
    batches: Iterable[Any] | None,
) -> list[Tensor]:
    """The gradient of the loss averaged over all batches, in float64 where there are several."""
    if batches is None:
        return _gradient(model, parameters, loss)
    if isinstance(loss, Tensor):
        raise TypeError("with batches, loss must be a function of a batch, found a tensor.")
    sums = [
        torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float64)) for p in parameters
    ]
    seen = 0
    for batch in batches:
        length = _length(batch)
        # Scaled before it is averaged over the ranks, whose batches may differ in length.
        gradients = _gradient(model, parameters, lambda: loss(batch), scale=length)  # noqa: B023
        for total, gradient in zip(sums, gradients, strict=True):
            total.add_(gradient)
        seen += length
    mean_seen = distributed.mean_over_ranks(seen, model)
    if not mean_seen:
        raise ValueError("there are no batches to take the gradient over (an exhausted iterator?)")
    return [(total / mean_seen).to(p.dtype) for total, p in zip(sums, parameters, strict=True)]


def _gradient(
    model: nn.Module,
    parameters: list[nn.Parameter],
    loss: Tensor | Callable[[], Tensor],
    scale: float = 1.0,
) -> list[Tensor]:
    """The gradient of ``scale * loss``, averaged over the ranks as the model's training does."""
    averaged = distributed.averages_gradients(model)
    given = isinstance(loss, Tensor)
    if given and averaged:
        raise TypeError(
            "under DDP and FSDP2 the gradients of one forward pass can be averaged once, and the "
            "loss that was handed over may still be trained on: pass a function that returns it."
        )
    if not given and not callable(loss):
        raise TypeError(
            f"the loss must be a scalar tensor or a function that returns one: {loss!r}."
        )
    with torch.enable_grad():
        value = loss if isinstance(loss, Tensor) else loss()
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
        raise ValueError(
            f"the loss must be a scalar tensor with a graph to the model's parameters, found "
            f"{value!r}. Compute it from the model, outside torch.no_grad()."
        )
    if distributed.mean_over_ranks(bool(torch.isfinite(value)), model) < 1:
        where = " on this rank, or not on another" if averaged else ""
        raise ValueError(f"the loss is not finite: {value.item()}{where}.")
    if not parameters:
        return []
    with torch.enable_grad():
        value = scale * value
    found: Sequence[Tensor | None]
    if averaged:
        found = _backward(parameters, value)
    else:
        # A loss that was handed over may still be trained on: its graph is left whole.
        found = torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=given)
    if all(gradient is None for gradient in found):
        raise ValueError(
            "the loss must be a scalar tensor with a graph to the model's parameters, found one "
            "that depends on none of them: compute it from the regularizer's own model (after "
            "copy.deepcopy(model) build the Regularizer again)."
        )
    gradients = [
        torch.zeros_like(parameter) if gradient is None else gradient
        for parameter, gradient in zip(parameters, found, strict=True)
    ]
    if any(largest((~local(g).isfinite()).int(), over=g) > 0 for g in gradients):
        raise ValueError(
            "the gradient of the loss is not finite, though the loss is: nothing can be certified."
        )
    return gradients


def _backward(parameters: list[nn.Parameter], value: Tensor) -> list[Tensor | None]:
    """The gradients that DDP and FSDP2 average in a backward pass; ``.grad`` stays as it was."""
    before = [(p, p.grad, None if p.grad is None else p.grad.clone()) for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    try:
        value.backward()
        return [None if p.grad is None else p.grad.clone() for p in parameters]
    finally:
        # DDP may have written into the memory of the old gradients, its buckets.
        for parameter, grad, kept in before:
            if grad is not None and kept is not None:
                grad.copy_(kept)
            parameter.grad = grad


def _length(batch: Any) -> int:
    """The first dimension of the first tensor in a batch."""
    if isinstance(batch, Tensor) and batch.dim() > 0:
        return len(batch)
    parts = batch.values() if isinstance(batch, Mapping) else batch
    if isinstance(parts, Iterable) and not isinstance(parts, str | Tensor):
        for part in parts:
            if isinstance(part, Tensor) and part.dim() > 0:
                return len(part)
    raise TypeError(
        f"found no tensor in a batch of type {type(batch).__name__} to take its length from; "
        "expected a tensor, or a tuple, list or mapping that holds one."
    )


def _relative(distance: float, strength: float) -> float:
    if strength > 0:
        return distance / strength
    return float("inf") if distance > 0 else 0.0
