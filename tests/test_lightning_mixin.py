"""RegularizedMixin: what it counts, what it leaves and what it logs."""

import copy
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import (
    LearningRateFinder,
    Timer,
)
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.utils.data import DataLoader

import torchreg as tr
from tests.lightning_modules import (
    FEW_WORKERS,
    L1,
    MODES,
    Batch,
    InLoss,
    Plain,
    Proximal,
    by_hand,
    data,
    fit,
    loader,
    same,
    sgd,
    trainer,
    weights,
)
from torchreg import prox
from torchreg.lightning import RegularizedMixin

pytestmark = FEW_WORKERS


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
