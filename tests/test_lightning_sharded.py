"""RegularizedMixin over real processes that share one model (FSDP2): as one process does it."""

from pathlib import Path

import pytest
import torch

from tests.lightning_modules import InLoss, Proximal, fit, weights
from tests.processes import torchrun
from tests.test_distributed import assert_equal
from torchreg.lightning import Debias, SparsityMonitor


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:The number of training batches")
def test_two_processes_that_share_a_model_equal_one(tmp_path: Path) -> None:
    torchrun(2, "tests.lightning_worker", str(tmp_path))
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for kind, keys in ((InLoss, ["loss"]), (Proximal, ["proximal", "resumed"])):
        module = kind()
        callbacks = [SparsityMonitor()] + ([Debias(epoch=2)] if kind is Proximal else [])
        # Sample 2i goes to one rank and 2i + 1 to the other: two batches of size 2 are one of 4.
        running = fit(module, max_epochs=3, accumulate_grad_batches=2, callbacks=callbacks)
        metrics = {name: float(value) for name, value in running.callback_metrics.items()}
        for found in (rank[key] for rank in ranks for key in keys):
            assert_equal(found["weights"], weights(module))
            assert found["metrics"].keys() == metrics.keys()
            assert found["metrics"] == pytest.approx(metrics, rel=1e-6)  # logged in float32
