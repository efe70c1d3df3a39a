"""The few columns of a wide table that a solver works on, gathered once."""

import torch
from torch import Tensor


class Columns:
    """Columns of x gathered on demand, less their mean, and their Gram matrix.

    Where there is an intercept, centring changes nothing but the intercept, and keeps the
    curvature well conditioned. What was gathered stays, so the next point of a path begins with
    the columns of the one before.

    Args:
        x: (samples, features).
        share: the weight of each sample, summing to 1.
        centred: whether to take off the (weighted) column means.
    """

    def __init__(self, x: Tensor, share: Tensor, *, centred: bool) -> None:
        self.x, self.share = x, share
        self.dtype, self.device = x.dtype, x.device
        self.mean = share @ x if centred else torch.zeros_like(x[0])
        self.index = torch.empty(0, dtype=torch.long, device=x.device)
        """The features that were gathered, in that order."""
        self.place = torch.full((x.shape[1],), -1, dtype=torch.long, device=x.device)
        """Where each feature is in ``block``; -1 if it is not."""
        self._block = x.new_empty(len(x), 0)
        self._gram = x.new_empty(0, 0)

    def gather(self, features: Tensor) -> None:
        """Make sure that these features are in the block."""
        new = features[self.place[features] < 0]
        if not len(new):
            return
        held = len(self.index)
        self.place[new] = torch.arange(held, held + len(new), device=self.device)
        self.index = torch.cat([self.index, new])
        if held + len(new) > self._block.shape[1]:  # doubled, so that growing stays cheap
            room = min(2 * (held + len(new)), self.x.shape[1])
            block = self.x.new_empty(room, len(self.x)).T
            block[:, :held] = self._block[:, :held]
            self._block = block
        taken = self.x.T.index_select(0, new).T
        torch.sub(taken, self.mean[new], out=self._block[:, held : held + len(new)])

    @property
    def block(self) -> Tensor:
        """The gathered columns, (samples, gathered)."""
        return self._block[:, : len(self.index)]

    def times(self, weight: Tensor) -> Tensor:
        """``x weight'``, (samples, outputs), for weights that are 0 where nothing was gathered."""
        inside = weight[:, self.index]
        return self.block @ inside.T + inside @ self.mean[self.index]

    @property
    def gram(self) -> Tensor:
        """``block' S block``; only what was gathered since the last time is computed."""
        held, count = len(self._gram), len(self.index)
        if held < count:
            gram = self._gram.new_empty(count, count)
            gram[:held, :held] = self._gram
            new = self._block[:, held:count] * self.share.unsqueeze(1)
            cross = self.block.T @ new
            gram[:, held:] = cross
            gram[held:, :held] = cross[:held].T
            self._gram = gram
        return self._gram
