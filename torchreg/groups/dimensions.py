"""Groups along the dimensions of a weight: rows, columns, filters, channels, positions."""

from torch import Tensor

from torchreg.groups.dealing import at_least, dealt, positive
from torchreg.groups.grouping import Dealt, Grouping, as_grouping


def rows(w: Tensor) -> Tensor:
    """All that one output neuron reads, or one entry of an embedding: dimension 0.

    Of a vector, such as a bias, each element is a group.

    Example:
        >>> import torch
        >>> rows(torch.arange(6).view(2, 3)).tolist()
        [[0, 1, 2], [3, 4, 5]]
    """
    return _along(w, 0) if w.dim() > 0 else w.view(1, 1)


def columns(w: Tensor) -> Tensor:
    """All that is read from one input: dimension 1. A zero column drops that input feature.

    Example:
        >>> import torch
        >>> columns(torch.arange(6).view(2, 3)).tolist()
        [[0, 3], [1, 4], [2, 5]]
    """
    return _along(at_least(w, 2, "columns"), 1)


def filters(w: Tensor) -> Tensor:
    """One filter of a convolution, that is, all that makes one output channel: dimension 0.

    The same as :func:`rows`, for weights shaped (outputs, inputs, ...); a grouped convolution
    as well, where a filter reads only its own part of the inputs. A transposed convolution
    stores its outputs second: :func:`transposed`.

    Example:
        >>> import torch
        >>> filters(torch.zeros(8, 3, 5, 5)).shape
        torch.Size([8, 75])
    """
    return _along(at_least(w, 2, "filters"), 0)


def input_channels(w: Tensor) -> Tensor:
    """All that a convolution reads from one input channel: dimension 1.

    A zero group means that no filter reads that channel, so that whatever makes it can go. In a
    *grouped* convolution, whose weight is (outputs, inputs / n, ...), index j of dimension 1 is
    the j-th channel of each of the n parts, n channels at once: use :func:`grouped_channels`.

    Example:
        >>> import torch
        >>> input_channels(torch.zeros(8, 3, 5, 5)).shape
        torch.Size([3, 200])
    """
    return _along(at_least(w, 2, "input_channels"), 1)


def kernel_positions(w: Tensor) -> Tensor:
    """One position of the kernel, over all channels: zero groups make a smaller or sparser kernel.

    Example:
        >>> import torch
        >>> kernel_positions(torch.zeros(8, 3, 5, 5)).shape
        torch.Size([25, 24])
    """
    return _along(at_least(w, 3, "kernel_positions").flatten(2), 2)


def grouped_channels(groups: int) -> Grouping:
    """The input channels of a convolution with ``groups=n``, each with the filters that read it.

    The weight is (outputs, inputs / n, ...); the result has one row per input channel. Of a
    grouped *transposed* convolution, (inputs, outputs / n, ...), it has one row per output
    channel: its filters.

    Example:
        >>> import torch
        >>> conv = torch.nn.Conv1d(4, 6, 3, groups=2)
        >>> grouped_channels(2)(conv.weight).shape  # 4 channels, read by 3 filters of width 3
        torch.Size([4, 9])
    """
    return Dealt(_grouped_channels, (positive("groups", groups),), "grouped_channels")


def transposed(grouping: Grouping) -> Grouping:
    """A grouping with the first two dimensions of the weight swapped.

    For a transposed convolution, (inputs, outputs, ...): ``transposed(filters)`` are what makes
    each output channel.

    Example:
        >>> import torch
        >>> transposed(filters)(torch.nn.ConvTranspose2d(3, 8, 5).weight).shape
        torch.Size([8, 75])
    """
    return Dealt(_transposed, (as_grouping(grouping),), "transposed")


def _along(w: Tensor, dim: int) -> Tensor:
    moved = w.movedim(dim, 0)
    return moved.flatten(1) if w.dim() > 1 else moved.unsqueeze(1)


def _grouped_channels(w: Tensor, groups: int) -> Tensor:
    apart = dealt(at_least(w, 2, f"grouped_channels({groups})"), 0, groups)
    return apart.transpose(1, 2).flatten(0, 1).flatten(1)


def _transposed(w: Tensor, grouping: Grouping) -> Tensor:
    return grouping(at_least(w, 2, "transposed").transpose(0, 1))
