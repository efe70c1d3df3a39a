"""RegularizedMixin: what it counts, what configure_optimizers may return, what it refuses."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    LearningRateFinder,
    LearningRateMonitor,
    Timer,
)
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer, RMSprop
from torch.optim import lr_scheduler as schedulers
from torch.utils.data import DataLoader, TensorDataset

import torchreg as tr
from torchreg import prox
from torchreg.lightning import RegularizedMixin

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '\\w+' does not have many workers"),
]
torch.set_num_threads(1)

L1 = 0.05
Batch = tuple[Tensor, Tensor]


class Plain(L.LightningModule):
    """An existing module, which knows of no penalty."""

    def __init__(self, configure: Callable[["Plain"], Any] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1)).double()
        self.configure = configure

    def loss(self, batch: Batch) -> Tensor:
        x, y = batch
        return nn.functional.mse_loss(self.net(x), y)

    def training_step(self, batch: Batch, _: int) -> Any:
        return self.loss(batch)

    def configure_optimizers(self) -> Any:
        return self.configure(self) if self.configure else sgd(self)


class Proximal(RegularizedMixin, Plain):
    """The existing module, regularised."""

    def configure_regularizer(self) -> Any:
        return tr.L1(L1)


class InLoss(Proximal):
    regularization: Literal["proximal", "loss"] = "loss"


def sgd(module: nn.Module, **kwargs: Any) -> Optimizer:
    return SGD(module.parameters(), lr=0.1, momentum=0.9, **kwargs)


def data(batches: int = 5, size: int = 4, dtype: torch.dtype = torch.float64) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batches * size, 6, generator=generator, dtype=torch.float64).to(dtype)
    return [(part, part[:, :1] * 2) for part in x.split(size)]


def loader(batches: list[Batch], size: int = 4) -> DataLoader[Any]:
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return DataLoader(TensorDataset(x, y), batch_size=size)


def trainer(**kwargs: Any) -> L.Trainer:
    quiet = dict.fromkeys(
        ["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False
    )
    return L.Trainer(**{"accelerator": "cpu", "devices": 1, "max_epochs": 2, **quiet, **kwargs})


def fit(module: L.LightningModule, batches: list[Batch] | None = None, **kwargs: Any) -> L.Trainer:
    running = trainer(**kwargs)
    running.fit(module, loader(batches or data()))
    return running


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


def add_subgradient(module: Plain) -> None:
    """One subgradient of ``L1 * sum|w|`` over the weights, by hand."""
    for name, p in module.named_parameters():
        if name.endswith("weight"):
            assert p.grad is not None
            p.grad += L1 * p.detach().sign()


def by_hand(
    *,
    mode: str,
    accumulate: int = 1,
    clip: float | None = None,
    batches: list[Batch] | None = None,
    optimizer: Callable[[nn.Module], Optimizer] = sgd,
) -> Plain:
    """Two epochs in plain torch: the penalty counts once per optimizer step."""
    module = Plain()
    stepper = optimizer(module)
    if mode == "proximal":
        stepper = tr.ProximalOptimizer(stepper, tr.Regularizer(module, tr.L1(L1)))
    batches = batches or data()
    for _ in range(2):
        for start in range(0, len(batches), accumulate):
            stepper.zero_grad()
            for batch in batches[start : start + accumulate]:
                (module.loss(batch) / accumulate).backward()
            if mode == "loss":
                add_subgradient(module)
            if clip:
                nn.utils.clip_grad_norm_(module.parameters(), clip)
            stepper.step()
    return module


MODES = pytest.mark.parametrize("kind", [Proximal, InLoss])


@MODES
@pytest.mark.parametrize("clip", [None, 0.3])
@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_the_penalty_counts_once_per_step(
    kind: type[Proximal], accumulate: int, clip: float | None
) -> None:
    # 5 batches: the last window is whole, 1 of 2, and 2 of 3.
    module = kind()
    fit(module, accumulate_grad_batches=accumulate, gradient_clip_val=clip)
    expected = by_hand(mode=module.regularization, accumulate=accumulate, clip=clip)
    assert same(module, expected)


@MODES
def test_an_epoch_of_unknown_length_counts_the_same(kind: type[Proximal]) -> None:
    class Endless(torch.utils.data.IterableDataset[Batch]):
        def __iter__(self) -> Any:
            return iter(data())

    module, running = kind(), trainer(accumulate_grad_batches=3)
    running.fit(module, DataLoader(Endless(), batch_size=None))
    assert same(module, by_hand(mode=module.regularization, accumulate=3))


def test_the_gradient_is_that_of_loss_plus_penalty() -> None:
    # One SGD step with lr 1 moves by exactly the gradient that reached the optimizer.
    module = InLoss(lambda m: SGD(m.parameters(), lr=1.0))
    before, batch = weights(module), data(1)
    reference = copy.deepcopy(module)
    (reference.loss(batch[0]) + reference.regularizer()).backward()
    fit(module, batch, max_epochs=1)
    for name, p in module.named_parameters():
        gradient = dict(reference.named_parameters())[name].grad
        torch.testing.assert_close(before[name] - p, gradient, rtol=1e-13, atol=1e-15)


def test_one_proximal_step_is_one_soft_threshold() -> None:
    module = Proximal(lambda m: SGD(m.parameters(), lr=0.5))
    plain = Plain(lambda m: SGD(m.parameters(), lr=0.5))
    fit(module, data(3), max_epochs=1, accumulate_grad_batches=3)
    fit(plain, data(3), max_epochs=1, accumulate_grad_batches=3)
    for name, w in plain.named_parameters():
        expected = prox.soft_threshold(w, 0.5 * L1) if name.endswith("weight") else w
        assert torch.equal(dict(module.named_parameters())[name], expected)


@MODES
@pytest.mark.filterwarnings("ignore:.training_step. returned .None.")
def test_what_training_step_returns(kind: type[Proximal]) -> None:
    class Returns(kind):  # type: ignore[misc, valid-type]
        def training_step(self, batch: Batch, index: int) -> Any:
            return None if index == 2 else {"loss": self.loss(batch), "extra": index}

    module = Returns()
    fit(module)
    without = [batch for index, batch in enumerate(data()) if index != 2]
    assert same(module, by_hand(mode=module.regularization, batches=without))


@MODES
def test_every_way_to_inherit(kind: type[Proximal]) -> None:
    class Own(RegularizedMixin, L.LightningModule):
        regularization = kind.regularization

        def __init__(self) -> None:
            super().__init__()
            self.net = Plain().net

        def training_step(self, batch: Batch, _: int) -> Tensor:
            return nn.functional.mse_loss(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Optimizer:
            return sgd(self)

        def configure_regularizer(self) -> tr.Penalty:
            return tr.L1(L1)

    class Deeper(Own):
        def training_step(self, batch: Batch, index: int) -> Tensor:
            return super().training_step(batch, index)

        def configure_callbacks(self) -> Any:
            return super().configure_callbacks()

        def on_fit_start(self) -> None:
            """Hooks of one's own need no super()."""

        def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
            """Nor does this one."""

    class Last(Plain, RegularizedMixin):
        regularization = kind.regularization

        def configure_regularizer(self) -> tr.Penalty:
            return tr.L1(L1)

    expected = by_hand(mode=kind.regularization)
    for module in (Own(), Deeper(), Last()):
        fit(module)
        assert same(module, expected)


@MODES
def test_callbacks_of_ones_own_do_not_displace_the_penalty(kind: type[Proximal]) -> None:
    class Own(kind):  # type: ignore[misc, valid-type]
        def configure_callbacks(self) -> Any:
            return Timer()

    module = Own()
    running = fit(module)
    assert any(isinstance(c, Timer) for c in cast(Any, running).callbacks)
    assert same(module, by_hand(mode=module.regularization))


@MODES
@pytest.mark.parametrize("first", [True, False])
def test_callbacks_configured_on_the_instance_do_not_displace_the_penalty(
    kind: type[Proximal], first: bool
) -> None:
    class Mixed(*((RegularizedMixin, Plain) if first else (Plain, RegularizedMixin))):  # type: ignore[misc]
        regularization = kind.regularization
        configure_regularizer = kind.configure_regularizer

    module: Any = Mixed()
    module.configure_callbacks = Timer
    running = fit(module)
    assert any(isinstance(c, Timer) for c in cast(Any, running).callbacks)
    assert same(module, by_hand(mode=module.regularization))
    fit(copy.deepcopy(module))


@MODES
def test_training_step_replaced_on_the_instance_is_penalised_too(kind: type[Proximal]) -> None:
    module = kind()

    def replaced(batch: Batch, batch_idx: int) -> Tensor:  # noqa: ARG001
        return module.loss(batch)

    module.training_step = replaced  # type: ignore[assignment, method-assign]
    fit(module)
    assert same(module, by_hand(mode=module.regularization))


@MODES
def test_fitting_again_and_testing_attach_one_penalty(kind: type[Proximal]) -> None:
    module, running = kind(), trainer(max_epochs=1)
    running.fit(module, loader(data()))
    running.fit_loop.max_epochs = 2  # the momentum starts anew
    running.fit(module, loader(data()))
    assert sum(type(c).__name__ == "Penalise" for c in cast(Any, running).callbacks) == 1
    other = kind()
    for _ in range(2):
        fit(other, max_epochs=1)
    assert same(module, other)


# What configure_optimizers may return ---------------------------------------------------------


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


# Layers that are unfrozen during the fit ------------------------------------------------------


class Unfreezes(BaseFinetuning):
    """Unfreezes a layer in the second epoch, with a parameter group of its own."""

    def __init__(self, *layers: int) -> None:
        super().__init__()
        self.layers = layers

    def freeze_before_training(self, module: L.LightningModule) -> None:
        self.freeze([cast(Plain, module).net[layer] for layer in self.layers])

    def finetune_function(self, module: L.LightningModule, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            layers = [cast(Plain, module).net[layer] for layer in self.layers]
            self.unfreeze_and_add_param_group(layers, optimizer, lr=0.1)


def of_the_trainable(module: nn.Module) -> Optimizer:
    return SGD([p for p in module.parameters() if p.requires_grad], lr=0.1)


def named(_: Any) -> Any:
    return {"net.*.weight": tr.L1(L1)}


def backbone(_: Any) -> Any:
    return {"net.0.weight": tr.L1(L1)}


@MODES
@pytest.mark.parametrize("configure", [lambda _: tr.L1(L1), named, backbone])
def test_an_unfrozen_layer_is_penalised(kind: type[Proximal], configure: Any) -> None:
    module = type("Net", (kind,), {"configure_regularizer": configure})(of_the_trainable)
    fit(module, callbacks=[Unfreezes(0)], max_epochs=3)

    expected = Plain()
    expected.net[0].requires_grad_(requires_grad=False)
    optimizer: Optimizer = of_the_trainable(expected)
    penalised = {"net.0.weight": tr.L1(L1)} if configure is backbone else named(None)
    regularizer = tr.Regularizer(expected, penalised)
    proximal = kind is Proximal
    for epoch in range(3):
        if epoch == 1:
            expected.net[0].requires_grad_()
            optimizer.add_param_group({"params": list(expected.net[0].parameters())})
            if proximal and configure is backbone:
                optimizer = tr.ProximalOptimizer(optimizer, regularizer)
        if epoch == 0 and proximal and configure is not backbone:
            optimizer = tr.ProximalOptimizer(optimizer, regularizer)
        for batch in data():
            optimizer.zero_grad()
            expected.loss(batch).backward()
            for name, p in expected.named_parameters():
                if not proximal and name in regularizer.selection() and p.grad is not None:
                    p.grad += L1 * p.detach().sign()
            optimizer.step()
    assert same(module, expected)
    assert set(module.regularizer.selection()) == set(regularizer.selection())


def test_unfreezing_past_a_regularizer_of_the_default_selection_warns() -> None:
    class Own(Proximal):
        def configure_regularizer(self) -> tr.Regularizer:
            return tr.Regularizer(self, tr.L1(L1))

    with pytest.warns(UserWarning, match=r"net.0.weight was frozen when the Regularizer"):
        fit(Own(of_the_trainable), callbacks=[Unfreezes(0)])


def test_penalised_parameters_that_come_too_late_are_refused() -> None:
    class Late(Proximal):
        configure_regularizer = backbone

        def training_step(self, batch: Batch, index: int) -> Any:
            if index == 1:
                self.net[0].requires_grad_()
                optimizer = cast(Optimizer, self.optimizers())
                optimizer.add_param_group({"params": list(self.net[0].parameters())})
            return super().training_step(batch, index)

    module = Late(of_the_trainable)
    module.net[0].requires_grad_(requires_grad=False)
    with pytest.raises(RuntimeError, match="its first penalised parameters before a batch begins"):
        fit(module)


# An optimizer whose step size is not known ----------------------------------------------------


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


# Optimizers and modules beside the mixin's ----------------------------------------------------


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


# What is refused, and how it says so ----------------------------------------------------------


def refused(error: type[Exception], match: str, regularizer: Any = None, **attributes: Any) -> None:
    body = dict(attributes)
    if regularizer is not None:
        body["configure_regularizer"] = regularizer
    module = type("Net", (Proximal,), body)()
    with pytest.raises(error, match=match):
        fit(module)


def test_a_missing_or_wrong_regularizer_is_refused() -> None:
    class Missing(RegularizedMixin, Plain):
        pass

    with pytest.raises(NotImplementedError, match="Missing does not say what is penalised"):
        fit(Missing())
    refused(TypeError, "returned None. Expected a penalty such as", lambda _: None)
    refused(TypeError, "returned 0.1", lambda _: 0.1)
    refused(ValueError, "of another model", lambda _: tr.Regularizer(Plain(), tr.L1(1)))
    refused(RuntimeError, "has no attribute 'layers'", lambda self: self.layers)
    refused(ValueError, "regularization is 'prox'; expected", regularization="prox")


def test_doubly_counted_penalties_are_refused() -> None:
    def wrapped(self: Proximal) -> Optimizer:
        return tr.ProximalOptimizer(sgd(self), tr.Regularizer(self, tr.L1(L1)))

    def added(self: Proximal, batch: Batch, _: int) -> Tensor:
        return self.loss(batch) + self.regularizer()

    for mode in ("proximal", "loss"):
        refused(TypeError, "act once more", configure_optimizers=wrapped, regularization=mode)
        refused(RuntimeError, "would count twice", training_step=added, regularization=mode)


def test_reading_the_penalty_in_training_step_is_fine() -> None:
    class Reads(Proximal):
        def training_step(self, batch: Batch, _: int) -> Tensor:
            self.log("penalty", self.regularizer())
            return self.loss(batch)

    module = Reads()
    fit(module)
    assert same(module, by_hand(mode="proximal"))
    (module.loss(data()[0]) + module.regularizer()).backward()  # a loop of one's own


def test_a_penalised_parameter_that_is_not_trained_is_refused() -> None:
    def half(self: Proximal) -> Optimizer:
        return sgd(self.net[0])

    for mode in ("proximal", "loss"):
        refused(
            ValueError, "holds the penalised net.2.weight", configure_optimizers=half,
            regularization=mode,
        )  # fmt: skip


def test_a_frozen_penalised_parameter_is_left_alone() -> None:
    class Frozen(Proximal):
        def configure_regularizer(self) -> Any:
            return {"net.*.weight": tr.L1(L1)}

    module = Frozen(lambda m: sgd(m.net[2]))
    module.net[0].requires_grad_(False)
    before = weights(module)
    fit(module)
    after = weights(module)
    assert torch.equal(after["net.0.weight"], before["net.0.weight"])
    assert not torch.equal(after["net.2.weight"], before["net.2.weight"])


def test_lbfgs_needs_the_value_of_the_penalty_for_its_line_search() -> None:
    def configure(self: Proximal) -> Optimizer:
        return torch.optim.LBFGS(self.parameters(), line_search_fn="strong_wolfe")

    refused(TypeError, "line search", configure_optimizers=configure, regularization="loss")


def test_lbfgs_without_line_search_minimises_the_sum() -> None:
    def configure(module: nn.Module) -> Optimizer:
        return torch.optim.LBFGS(module.parameters(), lr=0.5, max_iter=4)

    module, expected = InLoss(configure), Plain()
    fit(module, data(1))
    optimizer = configure(expected)

    def closure() -> float:
        optimizer.zero_grad()
        loss = expected.loss(data(1)[0])
        loss.backward()
        add_subgradient(expected)
        return loss.item()

    for _ in range(2):
        optimizer.step(closure)
    assert same(module, expected)


# What it leaves, and what it logs -------------------------------------------------------------


def test_the_regularizer_is_built_late_and_is_no_submodule() -> None:
    class Late(Proximal):
        def configure_model(self) -> None:
            self.net[2] = nn.Linear(5, 1).double()

        def configure_regularizer(self) -> tr.Regularizer:
            return tr.Regularizer(self.net, tr.L1(L1))  # of a submodule

    module = Late()
    early = module.regularizer
    keys = list(Plain().state_dict())
    fit(module)
    assert module.regularizer is not early
    assert module.regularizer.selection()["2.weight"] is module.net[2].weight
    assert list(module.state_dict()) == keys
    duplicate = copy.deepcopy(module)
    assert duplicate.regularizer.selection()["2.weight"] is duplicate.net[2].weight


@MODES
def test_it_logs_the_task_loss_the_penalty_and_the_sparsity(kind: type[Proximal]) -> None:
    seen: list[float] = []

    class Watched(kind):  # type: ignore[misc, valid-type]
        def training_step(self, batch: Batch, _: int) -> Tensor:
            loss: Tensor = self.loss(batch)
            seen.append(loss.item())
            return loss

        def validation_step(self, batch: Batch, _: int) -> None:
            self.log("val_loss", self.loss(batch))

    module, running = Watched(), trainer(accumulate_grad_batches=2, max_epochs=1)
    running.fit(module, loader(data()), loader(data()))
    logged = running.callback_metrics
    assert logged["train/task_loss"] == pytest.approx(sum(seen) / len(seen), rel=1e-6)
    penalty = sum(L1 * layer.weight.abs().sum().item() for layer in (module.net[0], module.net[2]))
    assert logged["train/penalty"] == pytest.approx(penalty, rel=1e-6)
    assert logged["train/sparsity"] == tr.sparsity(module.regularizer).sparsity
    free = sum(module.loss(batch).item() for batch in data()) / len(data())
    assert logged["val_loss"] == pytest.approx(free, rel=1e-6)


def test_barebones_logs_nothing_and_trains() -> None:
    module = Proximal()
    L.Trainer(barebones=True, accelerator="cpu", max_epochs=2).fit(module, loader(data()))
    assert same(module, by_hand(mode="proximal"))


def test_adam_reaches_exact_zeros() -> None:
    module = Proximal(lambda m: Adam(m.parameters(), lr=0.01))
    fit(module, max_epochs=20)
    report = tr.sparsity(module.regularizer)
    assert 0 < report.exact < report.count


class Steep(Proximal):
    lr = 0.1

    def configure_optimizers(self) -> Optimizer:
        return SGD(self.parameters(), lr=self.lr)


@pytest.mark.filterwarnings("ignore:The number of training batches")
def test_the_fit_after_a_learning_rate_finder_is_penalised(tmp_path: Path) -> None:
    module = Steep()
    finder = LearningRateFinder(num_training_steps=8, update_attr=True)
    running = fit(module, callbacks=[finder], default_root_dir=tmp_path)
    assert isinstance(running.optimizers[0], tr.ProximalOptimizer)
    assert running.global_step == 10
