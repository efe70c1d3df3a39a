"""Lightning: a mixin that regularises any LightningModule, and callbacks for sparse training."""

try:
    import lightning.pytorch as _lightning  # noqa: F401
except ModuleNotFoundError as error:  # pragma: no cover
    raise ModuleNotFoundError(
        "torchreg.lightning needs the package lightning: pip install 'torchreg-prox[lightning]'.",
        name=error.name,
    ) from error

from torchreg.lightning.callbacks import Debias, RestoreSupport, SparsityMonitor
from torchreg.lightning.mixin import RegularizedMixin

__all__ = ["Debias", "RegularizedMixin", "RestoreSupport", "SparsityMonitor"]
