"""Dimensions dealt into equal parts, and what is said where they cannot be."""

from torch import Tensor


def dealt(w: Tensor, dim: int, count: int, size: int | None = None) -> Tensor:
    """Dimension dim as two, (count, size).

    Raises:
        ValueError: its length is no multiple.
    """
    divisor, size = (count, w.shape[dim] // count) if size is None else (size, size)
    if count * size != w.shape[dim]:
        raise ValueError(
            f"a dimension of {w.shape[dim]} cannot be dealt into groups of equal size: it is no "
            f"multiple of {divisor}. Select only the weights that are meant."
        )
    return w.reshape(*w.shape[:dim], count, size, *w.shape[dim + 1 :])


def at_least(w: Tensor, dims: int, name: str) -> Tensor:
    """Return w, or raise that it has too few dimensions for the grouping of this name."""
    if w.dim() < dims:
        raise ValueError(
            f"{name} needs a weight of at least {dims} dimensions, found one shaped "
            f"{tuple(w.shape)}: select others, or use torchreg.rows."
        )
    return w


def positive(name: str, value: object) -> int:
    """Return a count, or raise that it is no whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        if isinstance(value, Tensor) and value.dim() > 0:  # a maker of groupings used as one
            raise ValueError(
                f"{name} must be a whole number of at least 1, found a tensor shaped "
                f"{tuple(value.shape)}: call it with numbers first, as in torchreg.heads(4)."
            )
        raise ValueError(f"{name} must be a whole number of at least 1, found {value!r}.")
    return value
