"""RegularizedMixin under mixed precision, manual optimization, compilation, and resumed."""

from pathlib import Path
from typing import Any, Literal, cast

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

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
    trainer,
    weights,
)
from torchreg.lightning import RegularizedMixin

pytestmark = FEW_WORKERS


def single(kind: type[Plain], **kwargs: Any) -> Any:
    return kind(**kwargs).float()


# Mixed precision ------------------------------------------------------------------------------


@MODES
@pytest.mark.parametrize("accumulate", [1, 3])
def test_bf16_mixed(kind: type[Proximal], accumulate: int) -> None:
    batches = data(dtype=torch.float32)
    module, expected = single(kind), single(Plain)
    fit(module, batches, precision="bf16-mixed", accumulate_grad_batches=accumulate)
    optimizer: Optimizer = SGD(expected.parameters(), lr=0.1, momentum=0.9)
    if kind is Proximal:
        optimizer = tr.ProximalOptimizer(optimizer, tr.Regularizer(expected, tr.L1(L1)))
    for _ in range(2):
        for start in range(0, len(batches), accumulate):
            optimizer.zero_grad()
            for batch in batches[start : start + accumulate]:
                with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
                    loss = expected.loss(batch)
                (loss / accumulate).backward()
            if kind is InLoss:
                add_subgradient(expected)
            optimizer.step()
    assert same(module, expected)


@MODES
@pytest.mark.parametrize("fused", [False, True])
def test_16_mixed_with_a_step_that_overflows(kind: type[Proximal], fused: bool) -> None:
    batches = data(dtype=torch.float32)
    batches[2] = (batches[2][0], batches[2][1] * 1e5)  # its float16 gradients are infinite
    overflowed: list[int] = []

    class Watch(Callback):
        def on_train_batch_start(self, trainer: L.Trainer, module: Any, *_: Any) -> None:  # noqa: ARG002
            self.before = weights(module)

        def on_train_batch_end(self, trainer: L.Trainer, module: Any, *args: Any) -> None:  # noqa: ARG002
            if all(torch.equal(self.before[n], p) for n, p in module.named_parameters()):
                overflowed.append(args[-1])

    def configure(module: nn.Module) -> Optimizer:
        return Adam(module.parameters(), lr=0.05, fused=fused)

    def scaler() -> torch.amp.GradScaler:
        return torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=1000)

    module, expected = single(kind, configure=configure), single(Plain)
    plugin = MixedPrecision("16-mixed", "cpu", scaler())
    fit(module, batches, plugins=[plugin], callbacks=[Watch()])
    assert 2 in overflowed

    by_scaler, optimizer = scaler(), configure(expected)
    if kind is Proximal:
        optimizer = tr.ProximalOptimizer(optimizer, tr.Regularizer(expected, tr.L1(L1)))
    for _ in range(2):
        for batch in batches:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16, cache_enabled=False):
                loss = expected.loss(batch)
            if kind is InLoss:  # the penalty as a term of the loss, scaled with it
                loss = loss + L1 * (
                    expected.net[0].weight.abs().sum() + expected.net[2].weight.abs().sum()
                )
            by_scaler.scale(loss).backward()
            by_scaler.step(optimizer)
            by_scaler.update()
    for p, q in zip(module.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=2e-5, atol=2e-6)
    assert plugin.scaler is not None
    assert plugin.scaler.get_scale() == by_scaler.get_scale() < 256


# Manual optimization --------------------------------------------------------------------------


class Two(RegularizedMixin, L.LightningModule):
    """Two players with an optimizer each; every step takes the gradients of two passes."""

    toggle = False

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        torch.manual_seed(0)
        self.one, self.two = nn.Linear(6, 3).double(), nn.Linear(3, 1).double()
        self.three = nn.Linear(3, 1).double()  # an optimizer of its own, not penalised

    def configure_regularizer(self) -> Any:
        return {"one.weight": tr.L1(L1), "two.weight": tr.L1(2 * L1)}

    def configure_optimizers(self) -> list[Optimizer]:
        return [SGD(part.parameters(), lr=0.05) for part in (self.one, self.two, self.three)]

    def loss(self, batch: Batch) -> Tensor:
        hidden = self.one(batch[0])
        other: Tensor = self.three(hidden).square().mean()
        return nn.functional.mse_loss(self.two(hidden), batch[1]) + other

    def training_step(self, batch: Batch, _: int) -> dict[str, Tensor]:
        for optimizer in cast(list[Any], self.optimizers()):
            optimizer.zero_grad()
            if self.toggle:
                self.toggle_optimizer(optimizer)
            for _ in range(2):
                loss = self.loss(batch)
                self.manual_backward(loss / 2)
            optimizer.step()
            if self.toggle:
                self.untoggle_optimizer(optimizer)
        return {"loss": loss}


@pytest.mark.parametrize("toggle", [False, True])
@pytest.mark.parametrize("mode", ["proximal", "loss"])
def test_manual_optimization_counts_once_per_step_of_each_optimizer(
    mode: Literal["proximal", "loss"], toggle: bool
) -> None:
    module, expected = Two(), Two()
    module.regularization, module.toggle = mode, toggle
    running = fit(module)
    kinds = [type(optimizer) for optimizer in running.optimizers]
    wrapped = tr.ProximalOptimizer if mode == "proximal" else SGD
    assert kinds == [wrapped, wrapped, SGD]

    optimizers: list[Any] = expected.configure_optimizers()
    if mode == "proximal":
        regularizer = expected.regularizer
        optimizers[:2] = [tr.ProximalOptimizer(o, regularizer) for o in optimizers[:2]]
    parts = (expected.one, L1), (expected.two, 2 * L1), (expected.three, 0.0)
    for _ in range(2):
        for batch in data():
            for optimizer, (part, strength) in zip(optimizers, parts, strict=True):
                optimizer.zero_grad()
                (expected.loss(batch) / 2).backward()
                (expected.loss(batch) / 2).backward()
                if mode == "loss" and strength:
                    assert part.weight.grad is not None
                    part.weight.grad += strength * part.weight.detach().sign()
                optimizer.step()
    assert same(module, expected)


@pytest.mark.parametrize("mode", ["proximal", "loss"])
def test_a_step_past_the_penalty_is_refused(mode: Literal["proximal", "loss"]) -> None:
    class Past(Two):
        def configure_optimizers(self) -> list[Optimizer]:
            self.mine = super().configure_optimizers()
            return self.mine

        def training_step(self, batch: Batch, _: int) -> None:  # type: ignore[override]
            self.manual_backward(self.loss(batch))
            self.mine[0].step()

    module = Past()
    module.regularization = mode
    with pytest.raises(RuntimeError, match=r"without the penalty. Step the .* self.optimizers\(\)"):
        fit(module)


# torch.compile --------------------------------------------------------------------------------


@MODES
@pytest.mark.parametrize(
    "backend", ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore::FutureWarning:torch")
def test_a_compiled_module(kind: type[Proximal], backend: str) -> None:
    torch._dynamo.reset()
    module = kind()
    compiled = cast(L.LightningModule, torch.compile(module, backend=backend))
    fit(compiled)
    expected = by_hand(mode=module.regularization)
    for p, q in zip(module.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)
        assert torch.equal(p == 0, q == 0)


# Saving and resuming --------------------------------------------------------------------------


def with_schedule(module: nn.Module) -> Any:
    optimizer = Adam(module.parameters(), lr=0.05)
    schedule = CosineAnnealingLR(optimizer, T_max=20)
    return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Killed(Callback):
    """Stop the process's training in the middle of the third epoch."""

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.current_epoch == 2 and trainer.global_step == 12:
            raise ConnectionAbortedError("killed")


@MODES
def test_killed_and_resumed_equals_uninterrupted(kind: type[Proximal], tmp_path: Path) -> None:
    whole = kind(with_schedule)
    fit(whole, max_epochs=4)

    def saving(*more: Callback) -> L.Trainer:
        checkpoint = ModelCheckpoint(tmp_path, filename="last", enable_version_counter=False)
        return trainer(
            max_epochs=4, enable_checkpointing=True, callbacks=[checkpoint, *more], logger=False
        )

    with pytest.raises(ConnectionAbortedError):
        saving(Killed()).fit(kind(with_schedule), loader(data()))
    resumed = kind(with_schedule)
    running = trainer(max_epochs=4)
    with pytest.warns(UserWarning, match="callbacks used to create the checkpoint"):
        running.fit(resumed, loader(data()), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert running.global_step == 20
    assert same(whole, resumed)


@MODES
def test_a_checkpoint_is_that_of_the_plain_module(kind: type[Proximal], tmp_path: Path) -> None:
    saved = []
    for module in (kind(with_schedule), Plain(with_schedule)):
        fit(module).save_checkpoint(tmp_path / "a.ckpt")
        saved.append(torch.load(tmp_path / "a.ckpt", weights_only=True))
    ours, plain = saved
    assert ours.keys() == plain.keys()
    assert ours["state_dict"].keys() == plain["state_dict"].keys()
    assert ours["callbacks"] == plain["callbacks"] == {}
    # With SGD's momentum the proximal optimizer adds one number per tensor; with Adam nothing.
    for state, other in zip(ours["optimizer_states"], plain["optimizer_states"], strict=True):
        assert state["state"][0].keys() == other["state"][0].keys()
