"""Pictures of what a penalty does; the only part that imports matplotlib.

Every function takes series by name, draws them in one style and returns a
``matplotlib.figure.Figure``, without pyplot and its global state: ``figure.savefig("a.png")``.
Series keep their colour, line and marker from one picture to the next as long as their names
come in the same order.
"""

try:
    import matplotlib.figure as _figure  # noqa: F401
except ImportError as error:
    raise ImportError(
        'torchreg.plots needs matplotlib: pip install "torchreg-prox[experiments]"'
    ) from error

from torchreg.plots.compaction import kept_channels
from torchreg.plots.curves import training_curves
from torchreg.plots.frontier import Points, frontier
from torchreg.plots.inputs import input_map
from torchreg.plots.path import regularization_path
from torchreg.plots.weights import weight_histograms

__all__ = [
    "Points",
    "frontier",
    "input_map",
    "kept_channels",
    "regularization_path",
    "training_curves",
    "weight_histograms",
]
