"""A sparse linear probe: the last layer of a deep model, solved on frozen features."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from torchreg.debiasing import fix_support
from torchreg.penalties import Penalty
from torchreg.regularizer import Regularizer
from torchreg.solver.losses import Logistic, SampleLoss
from torchreg.solver.result import Solution
from torchreg.solver.solver import solve


def polish(
    model: nn.Module,
    penalty: Penalty,
    batches: Iterable[tuple[Any, Any]],
    *,
    layer: str | None = None,
    loss: Callable[[Tensor, Tensor], SampleLoss] | None = None,
    tolerance: float | None = None,
    gap: float | None = None,
) -> Solution:
    """Solve a deep model's last layer to its optimum on the features that the rest computes.

    The features that enter the layer are collected in one pass, in ``eval`` mode and without
    gradients; the layer is then a linear model with a convex loss, solved to a certificate. All
    else stays as it was, training mode included.

    Args:
        model: any module.
        penalty: acts on the layer's weight; its bias is free.
        batches: pairs (input, labels), a DataLoader for example.
        layer: the name of the ``nn.Linear``; by default the last one.
        loss: makes the loss from features (samples, features) and targets. By default
            :class:`torchreg.Logistic`, the cross-entropy of integer labels.
        tolerance: as in :func:`torchreg.solve`.
        gap: as in :func:`torchreg.solve`.

    Raises:
        ValueError: no such layer, a frozen one, one that sees other than (samples, features), no
            batches.

    Example:
        >>> import torchreg as tr
        >>> _ = torch.manual_seed(0)
        >>> x, y = torch.randn(90, 8), torch.arange(90) % 3
        >>> model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
        >>> tr.polish(model, tr.L1(0.02), [(x, y)]).converged
        True

    Source: E. Wong, S. Santurkar and A. Madry, "Leveraging sparse linear layers for debuggable
    deep networks" (2021).
    """
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    if not layers or (layer is not None and layer not in layers):
        raise ValueError(f"no nn.Linear named {layer!r} in the model; it has {list(layers)}.")
    head = layers[layer if layer is not None else list(layers)[-1]]
    if not head.weight.requires_grad:
        raise ValueError(
            "the weight of the layer is frozen, so it cannot be solved for: call "
            "requires_grad_() on the layer first."
        )
    features: list[Tensor] = []
    targets: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0].detach()))
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            for x, y in batches:
                model(x.to(head.weight.device) if isinstance(x, Tensor) else x)
                targets.append(torch.as_tensor(y, device=head.weight.device))
    finally:
        handle.remove()
        for module, mode in modes:
            module.training = mode
    if not targets:
        raise ValueError("there are no batches to take features from (an exhausted iterator?).")
    x, y = torch.cat(features), torch.cat(targets)
    if x.dim() != 2 or len(x) != len(y):
        raise ValueError(
            f"the layer saw inputs shaped {tuple(x.shape)} for {len(y)} targets; expected one row "
            "of features per target, in one call per batch."
        )
    made = loss(x, y) if loss is not None else Logistic(x, y, outputs=head.out_features)
    regularizer = Regularizer(head, penalty, "weight")
    return solve(regularizer, made, tolerance=tolerance, gap=gap)


def refit(
    regularizer: Regularizer,
    loss: Callable[[], Tensor] | SampleLoss,
    *,
    tolerance: float | None = None,
) -> Solution:
    """Minimise the loss alone over the nonzero weights: the lasso's shrinkage is undone.

    Args:
        regularizer: its model's zeros stay zero. Its penalties are lifted.
        loss: as in :func:`torchreg.solve`.
        tolerance: the largest gradient that may be left; absolute, since there is no strength.

    Example:
        >>> import torchreg as tr
        >>> x, model = torch.eye(3), nn.Linear(3, 1, bias=False)
        >>> loss, regularizer = tr.LeastSquares(x, 3 * x[:, 0]), tr.Regularizer(model, tr.L1(0.5))
        >>> _ = tr.solve(regularizer, loss), tr.refit(regularizer, loss)
        >>> model.weight.data.round(decimals=3)
        tensor([[3., 0., 0.]])

    Source: A. Belloni and V. Chernozhukov, "Least squares after model selection in
    high-dimensional sparse models" (2013).
    """
    return solve(fix_support(regularizer), loss, tolerance=tolerance)
