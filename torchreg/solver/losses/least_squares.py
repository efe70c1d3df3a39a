"""Half the mean squared error, over data that it knows."""

from typing import Self, final

import torch
from torch import Tensor

from torchreg.solver.columns import Columns
from torchreg.solver.losses.base import ALL, SampleLoss, beside


@final
class LeastSquares(SampleLoss):
    """Half the mean squared error, ``1/(2n) ||y - f(x)||^2``, the loss of the lasso.

    Args:
        x: features (samples, features); anything that the model takes.
        y: (samples,) or (samples, outputs), whose squares are summed.
        sample_weight: (samples,); the mean is a weighted one.
        offset: a known part of the outputs, (samples,) or (samples, outputs).

    Raises:
        ValueError: shapes that do not fit, numbers that are not finite, negative weights.

    Example:
        >>> loss = LeastSquares(torch.eye(2), torch.tensor([1.0, 3.0]))
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> _ = torch.nn.init.zeros_(model.weight)
        >>> loss(model)
        tensor(2.5000, grad_fn=<SumBackward0>)
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        *,
        sample_weight: Tensor | None = None,
        offset: Tensor | None = None,
    ) -> None:
        y = beside(x, y).to(x.dtype)
        y = y.unsqueeze(1) if y.dim() == 1 else y
        super().__init__(x, y.detach(), sample_weight, offset)

    def rows(self, index: Tensor) -> Self:
        """The same loss on some of the samples."""
        offset = None if self.offset is None else self.offset[index]
        return type(self)(
            self.x[index], self.y[index], sample_weight=self.share[index], offset=offset
        )

    def each(self, outputs: Tensor, rows: Tensor | slice = ALL) -> Tensor:
        """``1/2 ||z_i - y_i||^2``."""
        return (outputs - self.y[rows]).square().sum(dim=1) / 2

    def slope(self, outputs: Tensor) -> Tensor:
        """``z_i - y_i``."""
        return outputs - self.y

    def conjugate(self, theta: Tensor) -> Tensor:
        """``f*(t) = t^2 / 2 + t y``."""
        return ((theta / 2 + self.y) * theta * self.share.unsqueeze(1)).sum()

    def hessian(
        self,
        outputs: Tensor | None,  # noqa: ARG002
        columns: Columns,
        outs: Tensor,
        at: Tensor,
        *,
        intercept: bool,
    ) -> Tensor:
        """``X' S X`` within each output, the same wherever it is taken."""
        count, kinds = len(at), self.y.shape[1]
        whole = kinds == 1 and count == len(columns.index)
        gram = columns.gram if whole else columns.gram.index_select(0, at).index_select(1, at)
        if kinds == 1 and not intercept:
            return gram
        extra = kinds if intercept else 0
        h = torch.eye(count + extra, dtype=columns.dtype, device=columns.device)
        same = None if kinds == 1 else outs[:, None] == outs
        h[:count, :count] = gram if same is None else gram * same
        return h

    def fit_intercept(self, outputs: Tensor) -> Tensor:
        """The weighted mean of what is left."""
        return ((self.y - outputs) * self.share.unsqueeze(1)).sum(dim=0)
