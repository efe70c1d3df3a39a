"""SparsityMonitor, Debias and RestoreSupport, in real fits."""

import csv
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch import callbacks
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, StochasticWeightAveraging
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

import torchreg as tr
from tests.lightning_modules import (
    FEW_WORKERS,
    L1,
    Batch,
    InLoss,
    Plain,
    Proximal,
    Unfreezes,
    backbone,
    data,
    fit,
    loader,
    of_the_trainable,
    same,
    trainer,
    weights,
)
from torchreg.lightning import Debias, RegularizedMixin, RestoreSupport, SparsityMonitor

pytestmark = FEW_WORKERS

EMA = getattr(callbacks, "EMAWeightAveraging", None)


def adam(module: nn.Module) -> Optimizer:
    return Adam(module.parameters(), lr=0.02)


def zeros(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() == 0 for name, p in module.named_parameters()}


# SparsityMonitor ------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")
def test_the_monitor_in_tensorboard(tmp_path: Path) -> None:
    events = import_module("tensorboard.backend.event_processing.event_accumulator")
    module, logger = Proximal(adam), TensorBoardLogger(tmp_path, name="run", version=0)
    running = fit(
        module,
        max_epochs=5,
        logger=logger,
        callbacks=[SparsityMonitor(every_n_epochs=2)],
        log_every_n_steps=1,
    )
    found = events.EventAccumulator(logger.log_dir, {"histograms": 0}).Reload()
    report = tr.sparsity(module.regularizer)
    assert 0 < report.exact < report.count

    scalars = {tag: found.Scalars(tag) for tag in found.Tags()["scalars"]}
    assert {"train/task_loss", "train/penalty", "train/sparsity"} <= scalars.keys()
    # After the epochs 2, 4 and the last one; 5 steps each, logged at their last step.
    assert [event.step for event in scalars["sparsity/total"]] == [9, 19, 24]
    assert scalars["sparsity/total"][-1].value == pytest.approx(report.sparsity)
    tables = found.Tensors("sparsity/table/text_summary")
    assert [event.step for event in tables] == [9, 19, 24]
    for name, tensor in report.tensors.items():
        assert [event.step for event in found.Histograms(f"nonzero_weights/{name}")] == [9, 19, 24]
        assert scalars[f"sparsity/{name}"][-1].value == pytest.approx(tensor.sparsity)
        histogram = found.Histograms(f"nonzero_weights/{name}")[-1].histogram_value
        assert histogram.num == tensor.count - tensor.exact
    table = found.Tensors("sparsity/table/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert f"{report.exact:,} ({report.sparsity:.1%})" in table
    assert running.progress_bar_metrics["sparsity/total"] == pytest.approx(report.sparsity)


def test_the_monitor_with_a_logger_of_scalars_only(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    # A module without a regularizer of any kind: its default selection is counted.
    fit(Plain(), logger=logger, callbacks=[SparsityMonitor()], log_every_n_steps=1)
    with open(Path(logger.log_dir) / "metrics.csv") as file:
        assert [row["sparsity/total"] for row in csv.DictReader(file)] == ["0.0", "0.0"]


class Stops(Callback):
    """Ends the training after its third epoch, which no callback before it can know."""

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:  # noqa: ARG002
        trainer.should_stop = trainer.current_epoch == 2


@pytest.mark.parametrize("ended", ["before", "after", "max_steps"])
def test_the_monitor_reports_the_last_epoch_however_it_ends(ended: str, tmp_path: Path) -> None:
    monitor, logger = SparsityMonitor(every_n_epochs=10), CSVLogger(tmp_path)
    order = {"before": [Stops(), monitor], "after": [monitor, Stops()], "max_steps": [monitor]}
    module = Proximal(adam)
    fit(
        module,
        max_epochs=50,
        max_steps=13 if ended == "max_steps" else -1,
        logger=logger,
        callbacks=order[ended],
        log_every_n_steps=1,
    )
    with open(Path(logger.log_dir) / "metrics.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["sparsity/total"]]
    assert [(row["epoch"], row["step"]) for row in rows] == [
        ("2", "12" if ended == "max_steps" else "14")
    ]
    assert float(rows[0]["sparsity/total"]) == pytest.approx(
        tr.sparsity(module.regularizer).sparsity
    )


def test_the_monitor_refuses_a_wrong_interval() -> None:
    with pytest.raises(ValueError, match="positive integer, found 0"):
        SparsityMonitor(0)


# Debias ---------------------------------------------------------------------------------------


def debiased_by_hand(epochs: int, first: int) -> Plain:
    module = Plain()
    regularizer = tr.Regularizer(module, tr.L1(L1))
    optimizer = tr.ProximalOptimizer(adam(module), regularizer)
    for epoch in range(epochs):
        if epoch == first:
            optimizer.regularizer = tr.fix_support(regularizer)
        for batch in data():
            optimizer.zero_grad()
            module.loss(batch).backward()
            optimizer.step()
    return module


def test_debias_lifts_the_penalty_and_keeps_the_zeros() -> None:
    module, callback = Proximal(adam), Debias(epoch=4)
    running = fit(module, max_epochs=8, callbacks=[callback])
    assert callback.begun
    assert same(module, debiased_by_hand(8, first=4))
    before = zeros(debiased_by_hand(4, first=4))
    assert sum(int(mask.sum()) for mask in before.values()) > 0
    assert all(torch.equal(before[name], zero) for name, zero in zeros(module).items())
    assert running.callback_metrics["train/penalty"] == 0


def test_debias_works_with_proximal_optimizers_of_ones_own() -> None:
    def configure(module: Plain) -> Optimizer:
        return tr.ProximalOptimizer(adam(module), tr.Regularizer(module, tr.L1(L1)))

    module = Plain(configure)
    fit(module, max_epochs=6, callbacks=[Debias(epoch=4), SparsityMonitor()])
    assert same(module, debiased_by_hand(6, first=4))


class ZeroesAKeptWeight(Callback):
    """In the second phase one kept weight happens to pass through zero."""

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.current_epoch == 4:
            w = dict(module.named_parameters())["net.0.weight"]
            with torch.no_grad():
                w[tuple(w.nonzero()[0].tolist())] = 0.0


@pytest.mark.parametrize("until", [2, 4, 5, 6])
def test_debias_resumes_from_either_phase(until: int, tmp_path: Path) -> None:
    def extra() -> list[Callback]:
        return [ZeroesAKeptWeight(), Debias(epoch=4)]

    whole, resumed = Proximal(adam), Proximal(adam)
    fit(whole, max_epochs=8, callbacks=extra())
    saving = ModelCheckpoint(tmp_path, every_n_epochs=until, save_top_k=-1, filename="{epoch}")
    fit(Proximal(adam), max_epochs=8, callbacks=[*extra(), saving], enable_checkpointing=True)
    path = tmp_path / f"epoch={until - 1}.ckpt"
    with pytest.warns(UserWarning, match="callbacks used to create the checkpoint"):
        trainer(max_epochs=8, callbacks=extra()).fit(
            resumed, loader(data()), ckpt_path=path, weights_only=True
        )
    assert same(whole, resumed)


def test_debias_is_refused_where_there_are_no_exact_zeros() -> None:
    with pytest.raises(TypeError, match="no optimizer makes any"):
        fit(InLoss(adam), callbacks=[Debias(epoch=1)])
    with pytest.raises(ValueError, match="non-negative integer, found -1"):
        Debias(-1)
    with pytest.warns(UserWarning, match="does not begin in a fit of 2 epochs"):
        fit(Proximal(adam), callbacks=[Debias(epoch=2)])


# RestoreSupport -------------------------------------------------------------------------------


class Iterate(Callback):
    """The last iterate of the optimizer, before any average is put in its place."""

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        if not trainer.fit_loop._skip_backward:
            self.weights = weights(module)


def ema() -> Callback:
    if EMA is None:
        pytest.skip("this Lightning has no weight averaging")
    return cast(Callback, EMA(decay=0.9))


def swa() -> Callback:
    return StochasticWeightAveraging(swa_lrs=0.02, swa_epoch_start=4)


@pytest.mark.parametrize("averaging", [ema, swa])
@pytest.mark.filterwarnings("ignore:Detected call of .lr_scheduler.step\\(\\). before")
def test_restore_support_after_averaging(averaging: Any, tmp_path: Path) -> None:
    dense, sparse, iterate = Proximal(adam), Proximal(adam), Iterate()
    fit(dense, max_epochs=10, callbacks=[averaging()])
    running = fit(sparse, max_epochs=10, callbacks=[averaging(), RestoreSupport(), iterate])
    lost = 0
    for name, average in dense.named_parameters():
        zero = iterate.weights[name] == 0
        lost += int((zero & (average != 0)).sum())
        expected = average.where(~zero, 0.0) if name.endswith("weight") else average
        assert torch.equal(dict(sparse.named_parameters())[name], expected)
    assert lost > 0  # the average alone had lost zeros
    running.save_checkpoint(tmp_path / "end.ckpt")
    saved = torch.load(tmp_path / "end.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(saved[name], p) for name, p in sparse.named_parameters())


def test_batch_norm_statistics_are_those_of_the_sparse_average() -> None:
    class Norm(RegularizedMixin, L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.norm = nn.Linear(6, 5).double(), nn.BatchNorm1d(5).double()
            self.second = nn.Linear(5, 1).double()

        def training_step(self, batch: Batch, _: int) -> Tensor:
            hidden = self.norm(self.first(batch[0]))
            return nn.functional.mse_loss(self.second(hidden), batch[1])

        def configure_optimizers(self) -> Optimizer:
            return adam(self)

        def configure_regularizer(self) -> tr.Penalty:
            return tr.L1(L1)

    class Pass(Callback):
        """SWA's last pass, which trains nothing until Lightning takes a stale step at its end."""

        means: list[Tensor] = []  # noqa: RUF012

        def on_train_batch_start(
            self, trainer: L.Trainer, module: L.LightningModule, batch: Batch, _: int
        ) -> None:
            if trainer.fit_loop._skip_backward:
                first = cast(Norm, module).first
                assert torch.equal(first.weight == 0, iterate.weights["first.weight"] == 0)
                self.means.append(first(batch[0]).detach().mean(0))

    module, iterate = Norm(), Iterate()
    fit(module, max_epochs=12, callbacks=[swa(), RestoreSupport(), iterate, Pass()])
    zero = iterate.weights["first.weight"] == 0
    assert zero.any()
    assert bool((module.first.weight[zero] == 0).all())
    assert len(Pass.means) == 5
    torch.testing.assert_close(module.norm.running_mean, torch.stack(Pass.means).mean(0))


@pytest.mark.parametrize("averaging", [ema, swa])
def test_restore_support_comes_after_the_average(averaging: Any) -> None:
    with pytest.raises(ValueError, match=r"List it after: \[\w+Averaging"):
        fit(Proximal(adam), callbacks=[RestoreSupport(), averaging()])


def test_restore_support_is_refused_where_it_would_do_nothing() -> None:
    with pytest.raises(ValueError, match="no callback of the trainer averages any"):
        fit(Proximal(adam), callbacks=[RestoreSupport()])
    for dense in (InLoss(adam), Plain(adam)):
        with pytest.raises(TypeError, match="RestoreSupport brings back exact zeros, and no optim"):
            fit(dense, callbacks=[swa(), RestoreSupport()])


def test_debias_fixes_a_layer_whose_optimizer_was_wrapped_late() -> None:
    class Backbone(Proximal):
        configure_regularizer = backbone

    module = Backbone(of_the_trainable)
    fit(module, max_epochs=8, callbacks=[Unfreezes(0), Debias(epoch=6)])
    [(_, _, penalty)] = module.regularizer.items()
    assert isinstance(penalty, tr.FixedSupport)
    zero = cast(Any, module.net[0]).weight == 0
    assert zero.any()
    assert torch.equal(zero, ~penalty.kept)
