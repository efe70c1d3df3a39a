"""Linear systems in changing rows of one symmetric matrix, from few factorisations."""

import torch
from torch import Tensor

BORDER = 4
"""A factor is made anew once more than one in so many of its rows have come or gone."""


class Factor:
    """Solves ``h[c, c] b[c] = right[c]`` for one choice c of rows after another.

    The Cholesky factor of one choice serves the next: rows that came and rows that went make a
    border around it, whose Schur complement is small. Where the rows are singular to rounding,
    the solution nearest to a given point is taken, as far as rounding allows.

    Args:
        h: positive semidefinite, (n, n).
        eps: the relative rounding with which h was computed: smaller pivots are noise.

    Source: G. Golub and C. Van Loan, "Matrix computations" (2013), sections 3.2 and 4.2; for the
    border, P. Gill et al., "Inertia-controlling methods for general quadratic programming" (1991).
    """

    def __init__(self, h: Tensor, eps: float) -> None:
        self.h, self.eps = h, eps
        self.scale = 1.0
        self.rows = torch.empty(0, dtype=torch.long, device=h.device)
        """The rows of the factor that is held; none after a singular choice."""
        self.lower = h[:0, :0]

    def solve(self, right: Tensor, chosen: Tensor, near: Tensor) -> Tensor:
        """Solve the chosen rows, zero elsewhere; nearest to ``near`` where they are singular."""
        came = chosen.clone()
        came[self.rows] = False
        gone = (~chosen[self.rows]).nonzero().squeeze(1)
        came = came.nonzero().squeeze(1)
        found = None
        if BORDER * (len(came) + len(gone)) <= len(self.rows):
            found = self._bordered(right, came, gone)
        return self._direct(right, chosen, near) if found is None else found

    def _noise(self, rows: int) -> float:
        return 4 * rows * self.eps * self.scale

    def _direct(self, right: Tensor, chosen: Tensor, near: Tensor) -> Tensor:
        at = chosen.nonzero().squeeze(1)
        found = torch.zeros_like(near)
        if not len(at):
            return found
        inner = self.h if len(at) == len(self.h) else self.h.index_select(0, at).index_select(1, at)
        self.scale = float(inner.diagonal().max()) or 1.0
        noise, damp, shifted = self._noise(len(at)), 0.0, inner
        for _ in range(12):
            lower, failed = torch.linalg.cholesky_ex(shifted)
            small = float(lower.diagonal().min()) ** 2 <= noise
            if not int(failed) and (damp or not small):
                break
            damp = max(100 * damp, noise)
            shifted = inner + damp * torch.eye(len(at), dtype=inner.dtype, device=inner.device)
        self.lower, self.rows = (lower[:0, :0], at[:0]) if damp else (lower, at)
        aim = right[at] + damp * near[at]
        found[at] = torch.cholesky_solve(aim.unsqueeze(1), lower).squeeze(1)
        return found

    def _bordered(self, right: Tensor, came: Tensor, gone: Tensor) -> Tensor | None:
        """Solve with the factor that is held; None where the border is singular to rounding.

        The rows that went are held at zero by multipliers: ``[h_ss B; B' C] [b; t] = [r; r_c]``
        with ``B = [h_sc, scale I_g]`` and ``C = diag(h_cc, 0)``.
        """
        count = len(came)
        border = self.h.new_zeros(len(self.rows), count + len(gone))
        border[:, :count] = self.h.index_select(0, self.rows).index_select(1, came)
        border[gone, count + torch.arange(len(gone), device=gone.device)] = self.scale
        both = torch.cat([border, right[self.rows].unsqueeze(1)], dim=1)
        both = torch.linalg.solve_triangular(self.lower, both, upper=False)
        border, aim = both[:, :-1], both[:, -1]
        found = torch.zeros_like(right)
        if border.shape[1]:
            inner = -(border.T @ border)
            inner[:count, :count] += self.h[came[:, None], came]
            factor, pivots, failed = torch.linalg.lu_factor_ex(inner)
            if int(failed) or float(factor.diagonal().abs().min()) <= self._noise(len(self.rows)):
                return None
            outer = -(border.T @ aim)
            outer[:count] += right[came]
            t = torch.linalg.lu_solve(factor, pivots, outer.unsqueeze(1)).squeeze(1)
            aim = aim - border @ t
            found[came] = t[:count]
        upper = torch.linalg.solve_triangular(self.lower.T, aim.unsqueeze(1), upper=True)
        found[self.rows] = upper.squeeze(1)
        found[self.rows[gone]] = 0.0
        return found
