"""Classes that a linear model separates: without a penalty there are no best weights then."""

import torch
from torch import Tensor, nn

from torchreg.solver.losses import Logistic

ENTRIES = 20_000_000
"""Numbers that the constraints may take; fewer constraints can only miss a separation."""


def separates(loss: Logistic, model: nn.Linear) -> bool:
    """Whether a part of these weights lowers the loss for ever as it grows.

    Such a part, a direction d of weights and intercepts, puts no sample on the wrong side of any
    class and some strictly on the right side. Its existence is proved by showing one: the
    model's own weights, less what moves the classes that it has not told apart. Where there is
    none, nothing is claimed of other weights; but those of a solver that chased the least loss
    grow along it.

    Args:
        loss: samples and labels.
        model: where the solver stopped.

    Source: A. Albert and J. Anderson, "On the existence of maximum likelihood estimates in
    logistic regression models" (1984): complete and quasi-complete separation.
    """
    used = loss.share > 0
    x, w, labels = loss.x[used].double(), model.weight.detach().double(), loss.labels[used]
    if model.bias is not None:
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        w = torch.cat([w, model.bias.detach().double().unsqueeze(1)], dim=1)
    w = torch.cat([torch.zeros_like(w), w]) if len(w) == 1 else w
    scale = x.abs().amax(dim=0).clamp(min=1e-300)
    x, w = x / scale, w * scale
    others = torch.ones(len(x), len(w), dtype=torch.bool, device=x.device)
    others.scatter_(1, labels.unsqueeze(1), False)

    def margins(z: Tensor) -> Tensor:
        return z.gather(1, labels.unsqueeze(1)) - z

    ahead = margins(x @ w.T)
    size = float(ahead.abs().max())
    if loss.offset is not None:
        known = loss.offset[used].double()
        known = torch.cat([torch.zeros_like(known), known], dim=1) if known.shape[1] == 1 else known
        near = ahead + margins(known)
    else:
        near = ahead
    sample, other = (others & (near < 2)).nonzero(as_tuple=True)  # not told apart
    most = max(1, ENTRIES // w.numel())
    sample, other = sample[:most], other[:most]
    rows = torch.zeros(len(sample), *w.shape, dtype=x.dtype, device=x.device)
    each = torch.arange(len(sample), device=x.device)
    rows[each, labels[sample]] = x[sample]
    rows[each, other] = -x[sample]
    rows = rows.flatten(1)
    values, vectors = torch.linalg.eigh(rows.T @ rows)
    still = vectors[:, values <= 1e-12 * values.amax().clamp(min=1e-300)]
    d = (still @ (still.T @ w.flatten())).view_as(w)
    found = margins(x @ d.T)[others]
    return bool(found.min() >= -1e-6 * size) and bool(found.max() > 1e-3 * size)
