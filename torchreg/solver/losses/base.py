"""What a solver asks of a loss that knows its data: columns, duals and an intercept."""

from abc import ABC, abstractmethod
from typing import Self

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
        if targets.dim() != 2 or not x[0].numel():
            raise ValueError(
                "expected x shaped (samples, features), with at least one feature, and targets "
                f"shaped (samples,) or (samples, outputs); found {told(x)} and {told(targets)}."
            )
        weight = weights(x, sample_weight)
        if offset is not None:
            offset = _numbers("offset", offset, x).detach()
            offset = offset.unsqueeze(1) if offset.dim() == 1 else offset
            outputs = targets.shape[1]
            if offset.shape not in ((len(x), 1), (len(x), outputs)):
                raise ValueError(
                    f"expected offsets shaped ({len(x)},) or ({len(x)}, {outputs}), as the "
                    f"outputs are; found {told(offset)}."
                )
            offset = offset.expand_as(targets)
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

    def start(self, intercept: Tensor | None) -> Tensor:
        """The outputs of a linear model whose weights are all 0: offset and intercept."""
        z = torch.zeros_like(self.y) if self.offset is None else self.offset
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
        self, outputs: Tensor | None, columns: Columns, outs: Tensor, at: Tensor, *, intercept: bool
    ) -> Tensor:
        """The second derivative in the weights (outs[i], column at[i]), then the intercepts.

        Args:
            outputs: where, (samples, outputs); None for what is at least as large anywhere.
            columns: of which ``at`` counts the cached ones.
            outs: the output of each weight, in ascending order.
            at: its cached column.
            intercept: whether one intercept per output follows.
        """

    @abstractmethod
    def fit_intercept(self, outputs: Tensor) -> Tensor:
        """What to add to the outputs, one number each, to minimise the loss: (outputs,)."""


def beside(x: Tensor, y: object) -> Tensor:
    """The targets as a tensor on the device of x.

    Raises:
        ValueError: x is no table of floating-point numbers, the targets are no real numbers, or
            they are not one per sample.
    """
    if not isinstance(x, Tensor) or x.dim() < 2 or not x.is_floating_point():
        raise ValueError(
            "x must be a floating-point tensor shaped (samples, ...), found "
            f"{told(x)}: torch.as_tensor(x).float(). A table of features is (samples, features)."
        )
    try:
        targets = torch.as_tensor(y, device=x.device)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the targets must be numbers, found {told(y)}: {error}. Number the classes from 0, "
            "numpy.unique(y, return_inverse=True)[1]."
        ) from error
    if targets.is_complex() or not targets.dim():
        raise ValueError(f"the targets must be real, one per sample, found {told(targets)}.")
    if not len(x) or len(x) != len(targets):
        raise ValueError(
            f"expected one target per sample and at least one, found {len(x)} samples in x "
            f"and {len(targets)} targets."
        )
    return targets


def weights(x: Tensor, given: object) -> Tensor:
    """The sample weights as a tensor like x; ones for None.

    Raises:
        ValueError: not one finite number of at least 0 per sample, or all are 0.
    """
    if given is None:
        return torch.ones(len(x), dtype=x.dtype, device=x.device)
    weight = _numbers("sample_weight", given, x)
    if weight.shape != (len(x),):
        raise ValueError(f"sample_weight must be shaped ({len(x)},), found {told(weight)}.")
    if not bool((weight >= 0).all() and weight.sum() > 0) or not _finite(weight):
        raise ValueError(
            f"sample_weight must be {len(x)} finite numbers of at least 0, not all 0; found "
            f"{float(weight.min()):g} to {float(weight.max()):g}."
        )
    return weight


def _numbers(name: str, given: object, x: Tensor) -> Tensor:
    try:
        return torch.as_tensor(given, dtype=x.dtype, device=x.device)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers, found {told(given)}: {error}.") from error


def told(found: object) -> str:
    """What an error says of something found."""
    if isinstance(found, Tensor):
        return f"{found.dtype} shaped {tuple(found.shape)}"
    return type(found).__name__


def _finite(found: Tensor) -> bool:
    """Whether all numbers are finite: by their sum, which is quick, unless that overflows."""
    return bool(torch.isfinite(found.sum())) or bool(torch.isfinite(found).all())
