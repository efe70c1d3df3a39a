"""Which optimizer has which metric, and what a metric promises."""

import inspect

from torch.optim import (
    ASGD,
    SGD,
    Adadelta,
    Adafactor,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
)

from torchreg.metrics.factored import adafactor
from torchreg.metrics.gradient import asgd, sgd
from torchreg.metrics.moments import adam, adamax, nadam, radam
from torchreg.metrics.squares import adadelta, adagrad, rmsprop
from torchreg.metrics.step_size import Metric

_KNOWN: dict[type[Optimizer], Metric] = {
    SGD: sgd,
    ASGD: asgd,
    Adam: adam,
    AdamW: adam,
    Adamax: adamax,
    NAdam: nadam,
    RAdam: radam,
    RMSprop: rmsprop,
    Adagrad: adagrad,
    Adadelta: adadelta,
    Adafactor: adafactor,
}


def metric_of(optimizer: Optimizer) -> Metric:
    """The metric of an optimizer, by its type.

    A subclass counts as its parent as long as it keeps the parent's ``step``.

    Raises:
        TypeError: no diagonal metric is known; the message names the supported optimizers and
            shows how to pass one.
    """
    step = inspect.unwrap(type(optimizer).step)
    for kind, metric in _KNOWN.items():
        if isinstance(optimizer, kind) and inspect.unwrap(kind.step) is step:
            return metric
    name = type(optimizer).__name__
    known = ", ".join(sorted(kind.__name__ for kind in _KNOWN))
    raise TypeError(
        f"no diagonal step size is known for {name}. Supported: {known}. If {name} moves each "
        "coordinate by a known factor per unit of gradient, pass that factor, as it was in the "
        "step just taken: ProximalOptimizer(optimizer, regularizer, metric=...). For one that "
        "moves by lr * grad / (sqrt(v) + eps), with v in its state, it is "
        "metric=lambda group, parameter, state: "
        "torchreg.StepSize(group['lr'], state['v'].sqrt() + group['eps']). The lr alone "
        "is right only for an optimizer that moves by lr * grad."
    )


def is_known(metric: Metric) -> bool:
    """Whether a metric is one of this package, and not a caller's."""
    return metric in _KNOWN.values()


def is_elementwise(metric: Metric) -> bool:
    """Whether D of a block of a tensor follows from that block of the parameter and its state.

    Such a metric is also pure: it writes no state and reads no gradient. False for Adafactor,
    and for a caller's own metric, of which nothing is known.
    """
    return is_known(metric) and metric is not adafactor


def is_uniform(metric: Metric) -> bool:
    """Whether D is one number for a whole tensor. False for a caller's own metric."""
    return metric in (sgd, asgd)
