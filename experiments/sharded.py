"""Exact sparsity over several processes: FSDP2, a proximal optimizer, a sharded checkpoint.

    torchrun --nproc-per-node 2 -m experiments.sharded --checkpoint runs/sharded

On several machines, the same command on each (``--nnodes``, ``--rdzv-endpoint``; see
torchrun's help). The checkpoint may be resumed by another number of processes.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy

import torchreg as tr


def main(arguments: Sequence[str] | None = None) -> None:
    """Train on this rank's part of the digits, or go on with the training of a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder to resume and save")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--l1", type=float, default=1e-3)
    options = parser.parse_args(arguments)

    cuda = torch.cuda.is_available()
    dist.init_process_group("nccl" if cuda else "gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    device = torch.device("cuda", rank % torch.cuda.device_count()) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)

    torch.manual_seed(0)  # the same first weights on every rank
    model = nn.Sequential(nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(),
                          nn.Linear(100, 10)).to(device)  # fmt: skip
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer)
    fully_shard(model)
    # Both after fully_shard, which replaces the parameters.
    regularizer = tr.Regularizer(model, tr.L1(options.l1))
    optimizer = tr.ProximalOptimizer(torch.optim.Adam(model.parameters(), lr=1e-3), regularizer)

    if (options.checkpoint / ".metadata").is_file():
        weights, state = get_state_dict(model, optimizer)
        load({"model": weights, "optimizer": state}, checkpoint_id=options.checkpoint)
        set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state)

    digits = load_digits()
    x = torch.tensor(digits.data / 16, dtype=torch.float32, device=device)
    y = torch.tensor(digits.target, device=device)
    shuffle = torch.Generator().manual_seed(0)
    for _ in range(options.epochs):
        # The same order on every rank, and of each batch of 64 this rank's share.
        for batch in torch.randperm(len(x), generator=shuffle)[: len(x) // 64 * 64].split(64):
            own = batch[rank::ranks].to(device)
            optimizer.zero_grad()
            cross_entropy(model(x[own]), y[own]).backward()
            optimizer.step()

    # Each of these sees all shards, so all ranks call it.
    found = tr.sparsity(regularizer)
    certificate = tr.stationarity(regularizer, lambda: cross_entropy(model(x), y))
    weights, state = get_state_dict(model, optimizer)
    save({"model": weights, "optimizer": state}, checkpoint_id=options.checkpoint)
    if rank == 0:
        print(regularizer, found, certificate, sep="\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
    # The threads of gloo outlive their process group. One that still holds a tensor when Python
    # is torn down aborts a run that has succeeded (pytorch/pytorch#190489).
    sys.stdout.flush()
    os._exit(0)
