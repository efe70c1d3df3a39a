"""scikit-learn estimators over the certified solver; the only part that imports scikit-learn."""

try:
    import sklearn.base as _sklearn  # noqa: F401
except ModuleNotFoundError as error:  # pragma: no cover
    raise ModuleNotFoundError(
        "torchreg.estimators needs scikit-learn: pip install 'torchreg-prox[sklearn]'.",
        name=error.name,
    ) from error

from torchreg.estimators.classification import LogisticClassifier, LogisticClassifierCV
from torchreg.estimators.regression import ElasticNetRegressor, ElasticNetRegressorCV

__all__ = [
    "ElasticNetRegressor",
    "ElasticNetRegressorCV",
    "LogisticClassifier",
    "LogisticClassifierCV",
]
