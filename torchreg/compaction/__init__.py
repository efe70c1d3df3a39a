"""The smaller model with the same outputs, and groups whose zeros can be removed."""

try:
    import torch_pruning as _torch_pruning  # noqa: F401
except ModuleNotFoundError as error:  # pragma: no cover
    raise ModuleNotFoundError(
        "torchreg.compact needs the package torch-pruning: pip install 'torchreg-prox[compact]'.",
        name=error.name,
    ) from error

from torchreg.compaction.compacting import compact
from torchreg.compaction.grouping import removable_groups
from torchreg.compaction.report import Change, Compaction, Stay
from torchreg.compaction.sparse import CSRLinear, to_csr
from torchreg.compaction.timing import Latency, latency

__all__ = [
    "CSRLinear",
    "Change",
    "Compaction",
    "Latency",
    "Stay",
    "compact",
    "latency",
    "removable_groups",
    "to_csr",
]
