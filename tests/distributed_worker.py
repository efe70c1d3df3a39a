"""What one process, or each of several, does in ``test_distributed``: the same training.

    torchrun --nproc-per-node N -m tests.distributed_worker FOLDER

Each rank trains under each layout and writes what it found to ``FOLDER/N-rank.pt``; the tests
call the same functions without any process group and compare.
"""

import math
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.checkpoint import state_dict as dcp
from torch.distributed.checkpoint.state_dict_loader import load as load_checkpoint
from torch.distributed.checkpoint.state_dict_saver import save as save_checkpoint
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import torchreg as tr
from tests.processes import leave
from torchreg import distributed, prox

L1, L2 = 0.02, 0.01

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.2),
    "Nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.02),
    "AMSGrad": lambda p: torch.optim.Adam(p, lr=0.02, foreach=False, amsgrad=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
}

LAYOUTS = ["ddp", "fsdp", "hybrid", "tensor"]
TRAININGS = [("fsdp", kind) for kind in OPTIMIZERS] + [
    (layout, kind) for layout in ("ddp", "hybrid", "tensor") for kind in ("Nesterov", "Adam")
]


class Weighted(tr.Penalty):
    """``sum(factors * |w|)``, a penalty that knows its weight's whole shape."""

    formula = "sum(factors*|w|)"
    strength = L1

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.factors = torch.linspace(0, 2 * L1, shape[0] * shape[1]).double().reshape(shape)

    def value(self, w: Tensor) -> Tensor:
        return (self.factors * w.abs()).sum()

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return prox.soft_threshold(w, step * self.factors)

    def distance(self, w: Tensor, grad: Tensor) -> Tensor:
        kept, zeroed = grad + self.factors * w.sign(), (grad.abs() - self.factors).clamp(min=0)
        return torch.where(w == 0, zeroed, kept.abs())

    def critical_strength(self, grad: Tensor) -> float:
        return float((grad / self.factors).abs().max())

    def slope(self, w: Tensor) -> Tensor:  # noqa: ARG002
        return self.factors


def network() -> nn.Sequential:
    """Over 2 and 4 ranks: 10 rows are uneven, of 3 rows a rank is left with none."""
    torch.manual_seed(0)
    layers = {
        "first": nn.Linear(6, 10),
        "one": nn.Tanh(),
        "second": nn.Linear(10, 7),
        "two": nn.Tanh(),
        "head": nn.Linear(7, 3),
    }
    return nn.Sequential(OrderedDict(layers)).double()


def penalties() -> dict[str, tr.Penalty]:
    return {
        "first.weight": tr.L1(L1),
        "second.weight": Weighted(7, 10),
        "head.weight": tr.GroupLasso(L1, tr.rows),
        "head.bias": tr.ElasticNet(L1, L2),
    }


def samples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(24, 6, dtype=torch.float64, generator=generator)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()


def own(x: Tensor, rank: int, ranks: int) -> Tensor:
    return x.chunk(ranks)[rank]


class Layout:
    """A model as it is held by the processes, and the part of the data that this one sees."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.model: nn.Module = network()
        self.rank, self.ranks = 0, 1
        if name == "single":
            return
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        if name == "ddp":
            self.model = DistributedDataParallel(self.model, gradient_as_bucket_view=True)
        elif name == "fsdp":
            self._shard(None)
        elif name == "hybrid":
            shape = (2, self.ranks // 2)
            self._shard(init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard")))
        elif name == "tensor":
            mesh = init_device_mesh("cpu", (self.ranks // 2, 2), mesh_dim_names=("data", "tensor"))
            plan = {"first": ColwiseParallel(), "second": RowwiseParallel()}
            parallelize_module(self.model, mesh["tensor"], plan)
            self._shard(mesh["data"])
            self.rank, self.ranks = mesh.get_local_rank("data"), mesh.size(0)

    def _shard(self, mesh: Any) -> None:
        assert isinstance(self.model, nn.Sequential)
        fully_shard(self.model.get_submodule("first"), mesh=mesh)
        fully_shard(self.model.get_submodule("second"), mesh=mesh)
        fully_shard(self.model, mesh=mesh)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(self.model(x), y)

    def batch(self) -> tuple[Tensor, Tensor]:
        x, y = samples()
        return own(x, self.rank, self.ranks), own(y, self.rank, self.ranks)

    def batches(self) -> list[tuple[Tensor, Tensor]]:
        """Two, of different lengths from rank to rank."""
        x, y = self.batch()
        cut = 1 + self.rank
        return [(x[:cut], y[:cut]), (x[cut:], y[cut:])]

    def train(self, optimizer: torch.optim.Optimizer, steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            self.loss(*self.batch()).backward()
            optimizer.step()

    def weights(self) -> dict[str, Tensor]:
        return plain(self.model.state_dict())

    def gradients(self) -> dict[str, Tensor]:
        return plain({n: p.grad for n, p in self.model.named_parameters() if p.grad is not None})


def plain(state: dict[str, Any]) -> dict[str, Any]:
    """Full tensors by the names of the plain model."""
    return {
        name.removeprefix("module."): plain(value)
        if isinstance(value, dict)
        else distributed.whole(value.detach()).clone()
        if isinstance(value, Tensor)
        else value
        for name, value in state.items()
    }


def stationarity(found: tr.Stationarity) -> dict[str, Any]:
    return {**found.parameters, "residual": found.residual, "worst": found.worst}


def proximal(layout: Layout, kind: str) -> tr.ProximalOptimizer:
    regularizer = tr.Regularizer(layout.model, penalties())
    return tr.ProximalOptimizer(OPTIMIZERS[kind](layout.model.parameters()), regularizer)


def state(layout: Layout, optimizer: tr.ProximalOptimizer) -> dict[str, Any]:
    """Of each parameter; the seal of a sharded momentum buffer is open, and left out."""
    packed: Any = dcp.get_optimizer_state_dict(layout.model, optimizer)["state"]
    return plain(
        {
            name: {key: value for key, value in entries.items() if key != "momentum_sealed"}
            for name, entries in packed.items()
        }
    )


def training(name: str, kind: str) -> dict[str, Any]:
    """Train, report, fix the support, train on."""
    layout = Layout(name)
    optimizer = proximal(layout, kind)
    regularizer = optimizer.regularizer
    layout.train(optimizer, 12)
    with torch.no_grad():
        layout.model(samples()[0])  # FSDP2 leaves the outermost parameters gathered
    found: dict[str, Any] = {
        "weights": layout.weights(),
        "zeros": tr.sparsity(regularizer).exact,
        "sparsity": str(tr.sparsity(regularizer, tolerance=0.01)),
        "value": regularizer().detach(),
        "stationarity": stationarity(
            tr.stationarity(regularizer, lambda: layout.loss(*layout.batch()))
        ),
        "in batches": stationarity(
            tr.stationarity(regularizer, lambda batch: layout.loss(*batch), layout.batches())
        ),
        "state": state(layout, optimizer),
        "repr": repr(regularizer),
    }
    found["support"] = tr.support(regularizer.selection()["first.weight"]).mask
    optimizer.regularizer = tr.fix_support(regularizer)
    layout.train(optimizer, 3)
    found["debiased"] = layout.weights()
    found["fixed value"] = optimizer.regularizer().detach()
    found["fixed residual"] = tr.stationarity(
        optimizer.regularizer, lambda: layout.loss(*layout.batch())
    ).residual
    return found


def gradients(name: str) -> dict[str, Any]:
    """The penalty in the loss: its value and its gradient, by autograd and directly."""
    layout = Layout(name)
    regularizer = tr.Regularizer(layout.model, penalties())
    found: dict[str, Any] = {}
    for form in ("before", "after", "direct"):
        layout.model.zero_grad()
        value = regularizer() if form == "before" else torch.zeros(())
        loss = layout.loss(*layout.batch())
        if form == "after":
            value = regularizer()
        (loss + value).backward()
        if form == "direct":
            regularizer.add_gradients_()
        found[form] = layout.gradients()
        found[f"value {form}"] = value.detach()
    found["bare"] = tr.L1(L1)(tr.select(layout.model)).detach()
    critical = {}
    for parameter, penalty in [(p, q) for _, p, q in regularizer.items()]:
        assert parameter.grad is not None
        edge = penalty.critical_strength(distributed.whole(parameter.grad))
        critical[str(tuple(parameter.shape))] = edge
    found["critical"] = critical
    before = layout.gradients()
    tr.stationarity(regularizer, lambda: layout.loss(*layout.batch()))
    found["untouched"] = all(torch.equal(before[n], g) for n, g in layout.gradients().items())
    return found


def save(folder: str, kind: str, layout: Layout, steps: int) -> None:
    optimizer = proximal(layout, kind)
    layout.train(optimizer, steps)
    model, state = dcp.get_state_dict(layout.model, optimizer)
    save_checkpoint({"model": model, "optimizer": state}, checkpoint_id=f"{folder}/{kind}")


def resume(folder: str, kind: str, layout: Layout, steps: int) -> dict[str, Tensor]:
    with torch.no_grad():
        for parameter in layout.model.parameters():
            parameter.zero_()
    optimizer = proximal(layout, kind)
    model, state = dcp.get_state_dict(layout.model, optimizer)
    loaded: dict[str, Any] = {"model": model, "optimizer": state}
    load_checkpoint(loaded, checkpoint_id=f"{folder}/{kind}")
    dcp.set_state_dict(
        layout.model,
        optimizer,
        model_state_dict=loaded["model"],
        optim_state_dict=loaded["optimizer"],
    )
    layout.train(optimizer, steps)
    return layout.weights()


def through_full(kind: str, layout: Layout) -> dict[str, Tensor]:
    """Train, carry everything over through rank 0's full state_dict, train on."""
    optimizer = proximal(layout, kind)
    layout.train(optimizer, 4)
    gather = dcp.StateDictOptions(full_state_dict=True, cpu_offload=True)
    model, state = dcp.get_state_dict(layout.model, optimizer, options=gather)
    fresh = Layout(layout.name)
    optimizer = proximal(fresh, kind)
    spread = dcp.StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    # One after the other: set_state_dict takes an empty dict, as ranks other than 0 have, to mean
    # that there is nothing to set, and then rank 0 waits for the others for ever.
    dcp.set_model_state_dict(fresh.model, model, options=spread)
    dcp.set_optimizer_state_dict(fresh.model, optimizer, state, options=spread)
    fresh.train(optimizer, 4)
    return fresh.weights()


def hidden(model: nn.Module, make: Callable[..., tr.Penalty], strength: float) -> Any:
    """A penalty on the hidden units of the first layer: what goes into each, and out of it."""
    groups = tr.joint(model, {"first.weight": tr.rows, "second.weight": tr.columns})
    return {groups.names: make(strength, groups)}


TARGETS: dict[str, Callable[[nn.Module], Any]] = {
    "l0": lambda _: tr.L0(1.0),
    "l1": lambda _: tr.L1(1.0),
    "group l0": lambda _: tr.GroupL0(1.0, tr.columns),
    "joint l0": lambda model: {**hidden(model, tr.GroupL0, 1.0), "head.weight": tr.L0(1.0)},
}


def together(name: str, kind: str) -> dict[str, Any]:
    """Groups over two weights: a training, its certificate, and the penalty in a loss."""
    layout = Layout(name)
    strength = {"Nesterov": 3 * L1, "Adam": L1}[kind]  # some of the units go
    regularizer = tr.Regularizer(layout.model, hidden(layout.model, tr.GroupLasso, strength))
    optimizer = tr.ProximalOptimizer(OPTIMIZERS[kind](layout.model.parameters()), regularizer)
    layout.train(optimizer, 12)
    certificate = tr.stationarity(regularizer, lambda: layout.loss(*layout.batch()))
    found = {
        "weights": layout.weights(),
        "zeros": tr.sparsity(regularizer).exact,
        "value": regularizer().detach(),
        "stationarity": stationarity(certificate),
    }
    for form in ("autograd", "direct"):
        layout.model.zero_grad()
        value = regularizer() if form == "autograd" else torch.zeros(())
        (layout.loss(*layout.batch()) + value).backward()
        if form == "direct":
            regularizer.add_gradients_()
        found[form] = layout.gradients()
    return found


def targeted(name: str, kind: str) -> dict[str, Any]:
    """Bring the weights to a density, resume half-way through the ramp, and hold the support."""
    layout = Layout(name)
    states: tuple[dict[str, Any], dict[str, Any]] | None = None
    for steps in (5, 9):
        regularizer = tr.Regularizer(layout.model, TARGETS[kind](layout.model))
        optimizer = tr.ProximalOptimizer(
            torch.optim.Adam(layout.model.parameters(), lr=0.02), regularizer
        )
        target = tr.TargetSparsity(optimizer, 0.44, begin=1, end=8, hold=9, every=2, horizon=3)
        if states is not None:
            optimizer.load_state_dict(states[0])
            target.load_state_dict(states[1])
        layout.train(optimizer, steps)
        states = optimizer.state_dict(), target.state_dict()
    assert states is not None
    held = {f"{n} held": distributed.whole(z) for n, z in states[1]["zeroed"].items()}
    return {"zeros": tr.sparsity(regularizer).exact, **held, **layout.weights()}


def refusals() -> dict[str, str]:
    """What is said to a loss that cannot be used twice, and to the older FSDP."""
    layout, found = Layout("fsdp"), {}
    regularizer = tr.Regularizer(layout.model, penalties())
    try:
        tr.stationarity(regularizer, layout.loss(*layout.batch()))
    except TypeError as error:
        found["a loss with its graph"] = str(error)
    try:
        tr.stationarity(
            regularizer, lambda: math.nan ** dist.get_rank() * layout.loss(*layout.batch())
        )
    except ValueError as error:
        found["not finite on the other ranks"] = str(error)
    try:
        tr.Regularizer(
            FullyShardedDataParallel(network(), device_id=torch.device("cpu")), tr.L1(L1)
        )
    except TypeError as error:
        found["older"] = str(error)
    return found


def main(folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    found: dict[Any, Any] = {}
    for name in LAYOUTS:
        found["gradients", name] = gradients(name)
    for name, kind in TRAININGS:
        found["training", name, kind] = training(name, kind)
    for name in LAYOUTS:
        for kind in TARGETS:
            found["targeted", name, kind] = targeted(name, kind)
    for name in LAYOUTS:
        for kind in ("Nesterov", "Adam"):
            found["together", name, kind] = together(name, kind)
    found["refusals"] = refusals()
    shards = [p.to_local() for p in Layout("fsdp").model.parameters() if isinstance(p, DTensor)]
    found["sizes"] = [len(shard) for shard in shards]
    for kind in ("Nesterov", "Adam"):
        found["full", kind] = through_full(kind, Layout("fsdp"))
        if ranks == 2:
            save(folder, kind, Layout("fsdp"), 4)
        found["resumed", kind] = resume(folder, kind, Layout("fsdp"), 4)
    torch.save(found, f"{folder}/{ranks}-{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    warnings.filterwarnings("error", module="torchreg")
    main(sys.argv[1])
    leave()
