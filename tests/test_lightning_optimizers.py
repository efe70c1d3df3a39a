"""RegularizedMixin: what configure_optimizers may return, and optimizers beside its own."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from lightning.pytorch.callbacks import (
    LearningRateMonitor,
)
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.optim import SGD, Optimizer, RMSprop
from torch.optim import lr_scheduler as schedulers

import torchreg as tr
from tests.lightning_modules import (
    FEW_WORKERS,
    L1,
    MODES,
    Batch,
    InLoss,
    Plain,
    Proximal,
    add_subgradient,
    by_hand,
    data,
    fit,
    loader,
    same,
    sgd,
    trainer,
)

pytestmark = FEW_WORKERS


def stepped(
    module: Plain, make: Callable[[Optimizer], Any], **options: Any
) -> tuple[Optimizer, dict[str, Any]]:
    optimizer = sgd(module)
    return optimizer, {"scheduler": make(optimizer), "interval": "step", **options}


def halving(optimizer: Optimizer) -> schedulers.LRScheduler:
    return schedulers.StepLR(optimizer, step_size=2, gamma=0.5)


def sequential(optimizer: Optimizer) -> schedulers.LRScheduler:
    parts = [
        schedulers.LinearLR(optimizer, total_iters=3),
        schedulers.CosineAnnealingLR(optimizer, T_max=7),
    ]
    return schedulers.SequentialLR(optimizer, parts, milestones=[3])


def one_cycle(optimizer: Optimizer) -> schedulers.LRScheduler:
    return schedulers.OneCycleLR(optimizer, max_lr=0.1, total_steps=20)  # cycles the momentum too


def pair(module: Plain) -> Any:
    optimizer, configuration = stepped(module, halving)
    return [optimizer], [configuration]


def scheduler_alone(module: Plain) -> Any:
    optimizer = sgd(module)
    return {"optimizer": optimizer, "lr_scheduler": halving(optimizer)}


def in_a_dict(make: Callable[[Optimizer], Any]) -> Callable[[Plain], Any]:
    def configure(module: Plain) -> Any:
        optimizer, configuration = stepped(module, make)
        return {"optimizer": optimizer, "lr_scheduler": configuration}

    return configure


FORMS: dict[str, tuple[Callable[[Plain], Any], Callable[[Optimizer], Any] | None]] = {
    "one": (sgd, None),
    "list": (lambda m: [sgd(m)], None),
    "tuple": (lambda m: (sgd(m),), None),
    "dict": (lambda m: {"optimizer": sgd(m)}, None),
    "dicts": (lambda m: [{"optimizer": sgd(m)}], None),
    "pair of lists": (pair, halving),
    "dict with a configuration": (in_a_dict(halving), halving),
    "list of dicts": (lambda m: [in_a_dict(halving)(m)], halving),
    "sequential": (in_a_dict(sequential), sequential),
    "one cycle": (in_a_dict(one_cycle), one_cycle),
}


@MODES
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_optimizers_and_schedulers(form: str, kind: type[Proximal]) -> None:
    configure, make = FORMS[form]
    module = kind(configure)
    fit(module)
    expected = Plain()
    optimizer: Optimizer = sgd(expected)
    if kind is Proximal:
        optimizer = tr.ProximalOptimizer(optimizer, tr.Regularizer(expected, tr.L1(L1)))
    scheduler = make(optimizer) if make else None
    for _ in range(2):
        for batch in data():
            optimizer.zero_grad()
            expected.loss(batch).backward()
            if kind is InLoss:
                add_subgradient(expected)
            optimizer.step()
            if scheduler:
                scheduler.step()
    assert same(module, expected)


@MODES
def test_a_scheduler_alone_steps_once_per_epoch(kind: type[Proximal]) -> None:
    module = kind(scheduler_alone)
    running = fit(module, max_epochs=4)
    assert running.optimizers[0].param_groups[0]["lr"] == 0.1 / 4


@MODES
def test_reduce_on_plateau_watches_the_logged_task_loss(kind: type[Proximal]) -> None:
    def configure(module: Plain) -> Any:
        optimizer = sgd(module)
        scheduler = schedulers.ReduceLROnPlateau(optimizer, threshold=1e9, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": scheduler, "monitor": "train/task_loss"}

    running = fit(kind(configure), max_epochs=3)
    assert running.optimizers[0].param_groups[0]["lr"] < 0.1


@MODES
def test_the_learning_rate_monitor_sees_one_optimizer(kind: type[Proximal]) -> None:
    class Memory(Logger):
        name = version = "memory"
        seen: set[str] = set()  # noqa: RUF012

        def log_hyperparams(self, *_: Any) -> None: ...
        def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:  # noqa: ARG002
            self.seen |= set(metrics)

    logger = Memory()
    logger.seen = set()
    fit(
        kind(in_a_dict(halving)),
        logger=logger,
        callbacks=[LearningRateMonitor()],
        log_every_n_steps=1,
    )
    assert {name for name in logger.seen if name.startswith("lr")} == {"lr-SGD"}


@MODES
@pytest.mark.filterwarnings("ignore:.LightningModule.configure_optimizers. returned .None.")
def test_no_optimizer_for_what_is_penalised_is_refused(kind: type[Proximal]) -> None:
    module = kind()
    module.configure_optimizers = lambda: None  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"no optimizer of \w+ holds the penalised net.0.weight"):
        fit(module)


class ThirdParty(RMSprop):
    """One with a step of its own, of which nothing is known."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


def third_party(module: nn.Module) -> Optimizer:
    return ThirdParty(module.parameters(), lr=0.01)


def rms_metric(group: Any, _: Tensor, state: Any) -> tr.StepSize:
    return tr.StepSize(group["lr"], state["square_avg"].sqrt() + group["eps"])


def test_the_metric_of_another_optimizer() -> None:
    class Told(Proximal):
        def proximal_metric(self, group: Any, parameter: Tensor, state: Any) -> tr.StepSize:
            return rms_metric(group, parameter, state)

    with pytest.raises(TypeError, match=r"give Proximal the method proximal_metric\(self, group"):
        fit(Proximal(third_party))
    module, expected = Told(third_party), Plain()
    fit(module)
    optimizer = tr.ProximalOptimizer(
        third_party(expected), tr.Regularizer(expected, tr.L1(L1)), metric=rms_metric
    )
    for _ in range(2):
        for batch in data():
            optimizer.zero_grad()
            expected.loss(batch).backward()
            optimizer.step()
    assert same(module, expected)


@MODES
def test_a_raw_optimizer_that_was_not_returned_is_refused(kind: type[Proximal]) -> None:
    class Manual(kind):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.raw = sgd(self)

        def training_step(self, batch: Batch, _: int) -> None:
            self.raw.zero_grad()
            self.manual_backward(self.loss(batch))
            self.raw.step()

    module = Manual()
    with pytest.raises(RuntimeError, match="SGD has stepped without the penalty"):
        fit(module)
    module.raw.step()  # after the fit it is the user's own


@MODES
def test_an_optimizer_may_step_another_inside(kind: type[Proximal]) -> None:
    class Outer(SGD):
        """As ZeroRedundancyOptimizer does."""

        def step(self, closure: Any = None) -> Any:
            loss = closure()
            inner = SGD([p for g in self.param_groups for p in g["params"]], lr=0.1)
            inner.step()
            return loss

    class Told(kind):  # type: ignore[misc, valid-type]
        def proximal_metric(self, group: Any, *_: Any) -> Any:
            return group["lr"]

    module = Told(lambda m: Outer(m.parameters(), lr=0.1))
    fit(module)

    def plain(m: nn.Module) -> Optimizer:
        return SGD(m.parameters(), lr=0.1)

    assert same(module, by_hand(mode=module.regularization, optimizer=plain))


def test_a_plain_module_after_a_sparse_one() -> None:
    running = trainer(max_epochs=1)
    running.fit(Proximal(), loader(data()))
    running.fit_loop.max_epochs = 2
    module = Plain()
    running.fit(module, loader(data()))
    expected = Plain()
    fit(expected, max_epochs=1)
    assert same(module, expected)


def test_the_regularizer_is_watched_where_it_was_the_users_own() -> None:
    class Own(Proximal):
        def __init__(self) -> None:
            super().__init__()
            self.own = tr.Regularizer(self, tr.L1(L1))

        def configure_regularizer(self) -> tr.Regularizer:
            return self.own

        def training_step(self, batch: Batch, index: int) -> Any:
            return super().training_step(batch, index) + self.regularizer()

    module = Own()
    with pytest.raises(RuntimeError, match="the penalty would count twice"):
        fit(module)
    assert type(module.own) is tr.Regularizer  # and theirs is left as it was
