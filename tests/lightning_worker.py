"""What each process does in ``test_lightning_sharded``: a fit under FSDP2, and one resumed.

torchrun --nproc-per-node 2 -m tests.lightning_worker FOLDER
"""

import sys
import warnings
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, DistributedSampler

from tests.lightning_modules import InLoss, Proximal, data, loader, trainer
from tests.processes import leave
from torchreg import distributed
from torchreg.lightning import Debias, SparsityMonitor


class Sharded(Proximal):
    """Its layers sharded over the processes where a strategy says so."""

    def configure_model(self) -> None:
        if isinstance(self.trainer.strategy, ModelParallelStrategy):
            mesh = self.device_mesh["data_parallel"]  # type: ignore[index]
            fully_shard(self.net[0], mesh=mesh)
            fully_shard(self.net, mesh=mesh)


class ShardedInLoss(Sharded, InLoss):
    pass


def fit(module: Sharded, *callbacks: Callback, resume: str | None = None) -> dict[str, Any]:
    """Three epochs over this rank's samples; Lightning's own default shards nothing on one node."""
    dataset = loader(data()).dataset
    rank, ranks = dist.get_rank(), dist.get_world_size()
    sampler: DistributedSampler[Any] = DistributedSampler(
        dataset, num_replicas=ranks, rank=rank, shuffle=False
    )
    running = trainer(
        devices=ranks,
        strategy=ModelParallelStrategy(
            data_parallel_size=ranks, tensor_parallel_size=1, process_group_backend="gloo"
        ),
        accumulate_grad_batches=2,
        use_distributed_sampler=False,
        max_epochs=3,
        enable_checkpointing=True,
        callbacks=[SparsityMonitor(), *callbacks],
    )
    running.fit(module, DataLoader(dataset, batch_size=2, sampler=sampler), ckpt_path=resume)
    weights = {n: distributed.whole(p.detach()) for n, p in module.named_parameters()}
    metrics = {name: float(value) for name, value in running.callback_metrics.items()}
    return {"weights": weights, "metrics": metrics}


def main(folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    every = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
    never = ModelCheckpoint(folder, save_top_k=0)
    found = {
        "loss": fit(ShardedInLoss(), never),
        "proximal": fit(Sharded(), Debias(epoch=2), every),
        "resumed": fit(Sharded(), Debias(epoch=2), never, resume=f"{folder}/epoch=1.ckpt"),
    }
    torch.save(found, f"{folder}/{dist.get_rank()}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    main(sys.argv[1])
    leave()
