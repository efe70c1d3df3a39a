"""Lightning: a mixin that regularises any LightningModule, and callbacks for sparse training."""

try:
    import lightning.pytorch as _lightning  # noqa: F401
except ModuleNotFoundError as error:  # pragma: no cover
    raise ModuleNotFoundError(
        "torchreg.lightning needs the package lightning: pip install 'torchreg-prox[lightning]'.",
        name=error.name,
    ) from error

from torchreg.lightning.averaging import RestoreSupport
from torchreg.lightning.debias import Debias
from torchreg.lightning.mixin import RegularizedMixin
from torchreg.lightning.monitor import SparsityMonitor
from torchreg.lightning.schedule import Strengths, TargetSparsity

__all__ = [
    "Debias",
    "RegularizedMixin",
    "RestoreSupport",
    "SparsityMonitor",
    "Strengths",
    "TargetSparsity",
]
