"""RegularizedMixin over two real processes: one support, and the weights of one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.lightning_modules import L1, InLoss, Proximal, by_hand

SCRIPT = """
import os, sys, warnings
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader, DistributedSampler
from tests.processes import leave
from tests.lightning_modules import InLoss, Proximal, data, loader, trainer
from torchreg.lightning import SparsityMonitor

warnings.filterwarnings("ignore")
dataset = loader(data()).dataset
rank = int(os.environ.get("LOCAL_RANK", 0))
sampler = DistributedSampler(dataset, num_replicas=2, rank=rank, shuffle=False)
for module in (Proximal(), InLoss()):
    running = trainer(devices=2, strategy=DDPStrategy(process_group_backend="gloo"),
                      accumulate_grad_batches=2, use_distributed_sampler=False,
                      callbacks=[SparsityMonitor()])
    running.fit(module, DataLoader(dataset, batch_size=2, sampler=sampler))
    names = ["train/task_loss", "train/penalty", "train/sparsity", "sparsity/total"]
    metrics = {name: running.callback_metrics[name] for name in names}
    torch.save((module.state_dict(), metrics), f"{sys.argv[1]}/{type(module).__name__}{rank}.pt")
leave()
"""


def test_two_processes_equal_one_with_the_doubled_batch(tmp_path: Path) -> None:
    script = tmp_path / "ddp.py"
    script.write_text(SCRIPT)
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for kind in (Proximal, InLoss):
        (one, metrics), (two, others) = (
            torch.load(tmp_path / f"{kind.__name__}{rank}.pt") for rank in (0, 1)
        )
        assert all(torch.equal(one[name], two[name]) for name in one)
        assert metrics == others
        # Sample 2i goes to one rank and 2i + 1 to the other: two batches of size 2 are one of 4.
        expected = by_hand(mode=kind.regularization, accumulate=2).state_dict()
        for name, w in expected.items():
            torch.testing.assert_close(one[name], w, rtol=1e-10, atol=1e-12)
            assert torch.equal(one[name] == 0, w == 0)
        penalty = L1 * sum(w.abs().sum().item() for n, w in expected.items() if "weight" in n)
        assert metrics["train/penalty"] == pytest.approx(penalty, rel=1e-6)
