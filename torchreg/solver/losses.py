"""Losses that know their data: what lets a solver see columns, duals and an intercept."""

from abc import ABC, abstractmethod
from typing import Self, final

import torch
from torch import Tensor, nn

from torchreg.solver.columns import Columns

ALL = slice(None)


class SampleLoss(ABC):
    """A mean loss over samples, as a function of a model: ``sum_i s_i f_i(z_i)``.

    ``z = model(x) + offset`` are the outputs, (samples, outputs), and s the sample weights over
    their sum, so that strengths mean the same with and without weights. Called with a model it
    is a loss like any other closure; over one ``nn.Linear`` :func:`torchreg.solve` sees its
    structure and takes a far quicker way.
    """

    x: Tensor
    y: Tensor
    """The targets, (samples, outputs): what the gradient at the outputs is measured from."""

    share: Tensor
    """The weight of each sample, summing to 1: (samples,)."""

    offset: Tensor | None
    """A known part of the outputs, (samples, outputs)."""

    def __init__(
        self, x: Tensor, targets: Tensor, sample_weight: Tensor | None, offset: Tensor | None
    ) -> None:
        if not isinstance(x, Tensor) or x.dim() < 2 or not x.is_floating_point():
            raise ValueError(
                "x must be a floating-point tensor shaped (samples, ...), found "
                f"{_told(x)}. A table of features is (samples, features)."
            )
        if not len(x) or len(x) != len(targets):
            raise ValueError(
                f"expected one target per sample and at least one, found {len(x)} samples in x "
                f"and {len(targets)} targets."
            )
        weight = torch.ones(len(x), dtype=x.dtype, device=x.device)
        if sample_weight is not None:
            weight = torch.as_tensor(sample_weight, dtype=x.dtype, device=x.device)
            if weight.shape != (len(x),) or not bool((weight >= 0).all() and weight.sum() > 0):
                raise ValueError(
                    f"sample_weight must be {len(x)} numbers of at least 0, not all 0, found "
                    f"{_told(weight)}."
                )
        if offset is not None:
            offset = torch.as_tensor(offset, dtype=x.dtype, device=x.device).detach()
            offset = offset.unsqueeze(1) if offset.dim() == 1 else offset
            if len(offset) != len(x):
                raise ValueError(f"expected {len(x)} offsets, found {len(offset)}.")
        for name, found in (("x", x), ("the targets", targets), ("offset", offset)):
            if found is not None and not _finite(found):
                raise ValueError(f"{name} must be finite, found NaN or infinity.")
        self.x, self.y, self.offset = x.detach(), targets, offset
        self.share = weight / weight.sum()
        self._columns: dict[bool, Columns] = {}

    def __call__(self, model: nn.Module) -> Tensor:
        """The loss of a model on all samples: a differentiable scalar."""
        outputs: Tensor = model(self.x)
        outputs = outputs.unsqueeze(1) if outputs.dim() == 1 else outputs
        if outputs.shape != self.y.shape:
            raise ValueError(
                f"the model's outputs are shaped {tuple(outputs.shape)}, {type(self).__name__} "
                f"expects {tuple(self.y.shape)}{self._hint}."
            )
        return self.value(outputs if self.offset is None else outputs + self.offset)

    _hint = ""

    def columns(self, *, centred: bool) -> Columns:
        """The columns of x that a solver has asked for so far; kept from one solve to the next."""
        if centred not in self._columns:
            self._columns[centred] = Columns(self.x, self.share, centred=centred)
        return self._columns[centred]

    def outputs(self, weight: Tensor | None, intercept: Tensor | None) -> Tensor:
        """The outputs of a linear model, offset included; only its nonzero columns are read."""
        z = torch.zeros_like(self.y) if self.offset is None else self.offset.expand_as(self.y)
        if weight is not None:
            used = weight.ne(0).any(dim=0).nonzero().squeeze(1)
            some = len(used) < weight.shape[1]
            z = z + (self.x[:, used] @ weight[:, used].T if some else self.x @ weight.T)
        return z if intercept is None else z + intercept

    @abstractmethod
    def rows(self, index: Tensor) -> Self:
        """The same loss on some of the samples."""

    def value(self, outputs: Tensor) -> Tensor:
        """The loss at outputs (samples, outputs)."""
        return (self.share * self.each(outputs)).sum()

    @abstractmethod
    def each(self, outputs: Tensor, rows: Tensor | slice = ALL) -> Tensor:
        """``f_i(z_i)``, the loss of each sample, or of the rows whose outputs these are."""

    @abstractmethod
    def slope(self, outputs: Tensor) -> Tensor:
        """The gradient of each sample's loss at its outputs: (samples, outputs), unweighted."""

    @abstractmethod
    def conjugate(self, theta: Tensor) -> Tensor:
        """``sum_i s_i f_i*(theta_i)``; f* is the convex conjugate, theta a gradient over s."""

    @abstractmethod
    def hessian(
        self, outputs: Tensor, columns: Columns, outs: Tensor, at: Tensor, *, intercept: bool
    ) -> Tensor:
        """The second derivative in the weights (outs[i], column at[i]), then the intercepts.

        Args:
            outputs: where, (samples, outputs).
            columns: of which ``at`` counts the cached ones.
            outs: the output of each weight, in ascending order.
            at: its cached column.
            intercept: whether one intercept per output follows.
        """

    @abstractmethod
    def fit_intercept(self, outputs: Tensor) -> Tensor:
        """What to add to the outputs, one number each, to minimise the loss: (outputs,)."""


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
        >>> model = nn.Linear(2, 1, bias=False)
        >>> _ = nn.init.zeros_(model.weight)
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
        y = torch.as_tensor(y, device=x.device).to(x.dtype)
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
        self, outputs: Tensor, columns: Columns, outs: Tensor, at: Tensor, *, intercept: bool
    ) -> Tensor:
        """``X' S X`` within each output, the same wherever it is taken."""
        count, extra = len(at), outputs.shape[1] if intercept else 0
        h = torch.eye(count + extra, dtype=columns.dtype, device=columns.device)
        gram = columns.gram[at[:, None], at]
        same = outs[:, None] == outs if outputs.shape[1] > 1 else None
        h[:count, :count] = gram if same is None else gram * same
        return h

    def fit_intercept(self, outputs: Tensor) -> Tensor:
        """The weighted mean of what is left."""
        return ((self.y - outputs) * self.share.unsqueeze(1)).sum(dim=0)


@final
class Logistic(SampleLoss):
    """The mean cross-entropy of logistic regression: multinomial, or two classes on one output.

    Args:
        x: features (samples, features); anything that the model takes.
        y: class labels 0, 1, ..., integers shaped (samples,).
        outputs: how many outputs the model has: one per class (the default where there are
            more than two), or 1 for two classes, whose output is the logit of class 1.
        sample_weight: (samples,); the mean is a weighted one.
        offset: a known part of the outputs, (samples,) or (samples, outputs).

    Raises:
        ValueError: labels of one class only, or outside the classes; shapes that do not fit.

    Example:
        >>> loss = Logistic(torch.eye(3), torch.tensor([0, 1, 2]))
        >>> loss(nn.Linear(3, 3)).item() > 0
        True
    """

    _hint = ": one output per class, or outputs=1 for two classes"

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        *,
        outputs: int | None = None,
        sample_weight: Tensor | None = None,
        offset: Tensor | None = None,
    ) -> None:
        labels = torch.as_tensor(y, device=x.device)
        if labels.dim() != 1 or labels.is_floating_point() or labels.is_complex():
            raise ValueError(
                f"y must be integer class labels shaped (samples,), found {_told(labels)}."
            )
        labels = labels.long()
        counted = labels if sample_weight is None else labels[torch.as_tensor(sample_weight) > 0]
        seen = counted.unique()
        if len(seen) < 2:
            raise ValueError(
                f"labels of one class only ({seen.tolist()}): there is nothing to tell apart."
            )
        last = int(seen[-1])
        outputs = outputs or (1 if last == 1 else last + 1)
        if int(seen[0]) < 0 or last > max(outputs - 1, 1):
            raise ValueError(
                f"expected labels from 0 to {max(outputs - 1, 1)} for {outputs} outputs, found "
                f"{int(seen[0])} to {last}."
            )
        hot = labels.unsqueeze(1) if outputs == 1 else nn.functional.one_hot(labels, outputs)
        super().__init__(x, hot.to(x.dtype), sample_weight, offset)
        self.labels = labels

    def rows(self, index: Tensor) -> Self:
        """The same loss on some of the samples; the outputs stay."""
        offset = None if self.offset is None else self.offset[index]
        return type(self)(
            self.x[index], self.labels[index], outputs=self.y.shape[1],
            sample_weight=self.share[index], offset=offset,
        )  # fmt: skip

    def probabilities(self, outputs: Tensor) -> Tensor:
        """The probability of each class; of class 1 where there is one output."""
        return torch.sigmoid(outputs) if outputs.shape[1] == 1 else torch.softmax(outputs, dim=1)

    def each(self, outputs: Tensor, rows: Tensor | slice = ALL) -> Tensor:
        """``log sum_k exp(z_ik) - z_i,y_i``."""
        labels = self.labels[rows]
        if outputs.shape[1] == 1:
            z = outputs[:, 0]
            return nn.functional.softplus(torch.where(labels == 1, -z, z))
        away = outputs - outputs.gather(1, labels.unsqueeze(1))
        each: Tensor = torch.logsumexp(away, dim=1)
        return each

    def slope(self, outputs: Tensor) -> Tensor:
        """``p_i - y_i``."""
        return self.probabilities(outputs) - self.y

    def conjugate(self, theta: Tensor) -> Tensor:
        """``f*(t) = sum_k p_k log p_k`` with ``p = y + t``, and of 1 - p for one output."""
        p = (self.y + theta).clamp(0, 1)
        entropy: Tensor = torch.special.entr(p)
        if theta.shape[1] == 1:
            entropy = entropy + torch.special.entr(1 - p)
        return -(entropy * self.share.unsqueeze(1)).sum()

    def hessian(
        self, outputs: Tensor, columns: Columns, outs: Tensor, at: Tensor, *, intercept: bool
    ) -> Tensor:
        """``X' S (diag(p) - p p') X``."""
        p, share, kinds = self.probabilities(outputs), self.share, outputs.shape[1]
        a = columns.block[:, at]
        if intercept:
            ones = torch.ones(len(a), kinds, dtype=a.dtype, device=a.device)
            a = torch.cat([a, ones], dim=1)
            outs = torch.cat([outs, torch.arange(kinds, device=outs.device)])
        if kinds == 1:
            return a.T @ (a * (share.unsqueeze(1) * p * (1 - p)))
        mixed = a * (p * share.sqrt().unsqueeze(1))[:, outs]
        h = -(mixed.T @ mixed)
        for k in range(kinds):
            mine = (outs == k).nonzero().squeeze(1)
            b = a[:, mine]
            h[mine[:, None], mine] += b.T @ (b * (share * p[:, k]).unsqueeze(1))
        if intercept:  # a shift of all intercepts changes nothing: hold it where it is
            h[-kinds:, -kinds:] += 1 / kinds
        return h

    def fit_intercept(self, outputs: Tensor) -> Tensor:
        """Newton's method in the intercepts alone, halved where it does not descend."""
        z, share = outputs.double(), self.share.double().unsqueeze(1)
        b = torch.zeros(z.shape[1], dtype=z.dtype, device=z.device)
        for _ in range(100):
            p = self.probabilities(z + b)
            gradient = (share * (p - self.y)).sum(dim=0)
            if float(gradient.abs().max()) < 1e-15:
                break
            weighed = share * p
            h = weighed.sum(dim=0).diag() - weighed.T @ p  # p (1 - p) for one output
            step = torch.linalg.pinv(h, hermitian=True) @ gradient
            now, t = self.value(z + b), 1.0
            while t > 1e-8 and bool(self.value(z + b - t * step) > now):
                t /= 2
            if t <= 1e-8:
                break
            b = b - t * step
        return b.to(outputs.dtype)


def _told(found: object) -> str:
    if isinstance(found, Tensor):
        return f"{found.dtype} shaped {tuple(found.shape)}"
    return type(found).__name__


def _finite(found: Tensor) -> bool:
    """Whether all numbers are finite: by their sum, which is quick, unless that overflows."""
    return bool(torch.isfinite(found.sum())) or bool(torch.isfinite(found).all())
