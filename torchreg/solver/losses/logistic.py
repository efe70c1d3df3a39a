"""The mean cross-entropy, over data that it knows."""

from typing import Self, final

import torch
from torch import Tensor, nn

from torchreg.solver.columns import Columns
from torchreg.solver.losses.base import ALL, SampleLoss, beside, told, weights


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
        ValueError: labels of one class only, or outside the classes (of samples with a weight);
            shapes that do not fit, numbers that are not finite, negative weights.

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
        if outputs is not None and not (isinstance(outputs, int) and outputs >= 1):
            raise ValueError(f"outputs must be an integer of at least 1, found {outputs!r}.")
        labels = beside(x, y)
        if labels.dim() != 1 or labels.is_floating_point():
            raise ValueError(
                f"y must be integer class labels shaped (samples,), found {told(labels)}."
            )
        labels = labels.long()
        seen = labels[weights(x, sample_weight) > 0].unique()
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
        labels = labels.clamp(0, max(outputs - 1, 1))  # of a sample without weight it may be any
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
        self, outputs: Tensor | None, columns: Columns, outs: Tensor, at: Tensor, *, intercept: bool
    ) -> Tensor:
        """``X' S (diag(p) - p p') X``.

        Source: D. Boehning, "Multinomial logistic regression algorithm" (1992), for the bound:
        the one at equal probabilities, times half the number of classes.
        """
        share, kinds = self.share, self.y.shape[1]
        if outputs is None:
            outputs, share = torch.zeros_like(self.y), share * max(1.0, kinds / 2)
        p = self.probabilities(outputs)
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
        """Newton's method in the intercepts alone, damped where it does not descend.

        It begins at what would be best if the outputs were all alike, or at 0: far from both
        there is next to no curvature. Damping of 1, more than any curvature, always descends.

        Raises:
            ValueError: a class without a sample: its best intercept is minus infinity.
        """
        counts = (self.share.unsqueeze(1) * self.y).sum(dim=0)
        if not bool((counts > 0).all()):
            absent = (counts <= 0).nonzero().squeeze(1).tolist()
            raise ValueError(
                f"no sample of class {absent}, so its intercept has no finite best value: number "
                "the classes that there are from 0, or leave the intercept out (bias=False)."
            )
        z, share = outputs.double(), self.share.double().unsqueeze(1)
        b = torch.zeros(z.shape[1], dtype=z.dtype, device=z.device)
        alike = counts.double().log() - (share * z).sum(dim=0)
        alike = alike - ((1 - counts.double()).log() if len(b) == 1 else alike.mean())
        b = alike if bool(self.value(z + alike) < self.value(z)) else b
        one, damp = torch.eye(len(b), dtype=z.dtype, device=z.device), 0.0
        for _ in range(100):
            p = self.probabilities(z + b)
            gradient = (share * (p - self.y)).sum(dim=0)
            if float(gradient.abs().max()) < 1e-15:
                break
            weighed = share * p
            h = weighed.sum(dim=0).diag() - weighed.T @ p  # p (1 - p) for one output
            now = self.value(z + b) * (1 + 4e-16)
            while True:
                step = torch.linalg.pinv(h + damp * one, hermitian=True) @ gradient
                if damp >= 1 or bool(self.value(z + b - step) <= now):
                    break
                damp = max(10 * damp, 1e-6)
            b = b - step
            if float(step.abs().max()) <= 1e-15 * (1 + float(b.abs().max())):
                break
            damp = damp / 100 if damp > 1e-6 else 0.0
        return b.to(outputs.dtype)
