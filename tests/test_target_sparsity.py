"""TargetSparsity: it arrives at the density, by the right ranking, holds it, and resumes."""

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback as LightningCallback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

import torchreg as tr
from tests.lightning_modules import Proximal, data, fit, loader, same, trainer, weights
from torchreg.groups import rows
from torchreg.lightning import TargetSparsity as Callback
from torchreg.penalties.group import GroupLasso, SparseGroupLasso
from torchreg.schedule import cubic, linear, multiply_adds
from torchreg.schedule.ranking import _between

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "Adam": lambda p: torch.optim.Adam(p, lr=5e-3),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.2),
    "SGD with momentum": lambda p: torch.optim.SGD(p, lr=0.03, momentum=0.9),
}


class Problem:
    """A small network that is taught by a sparse one, by mini-batches."""

    def __init__(self, penalties: Any, optimizer: str = "Adam", batch: int = 32) -> None:
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(40, 30), nn.Linear(30, 5)
        self.model = nn.Sequential(self.first, nn.Tanh(), self.last)
        self.x = torch.randn(512, 40)
        seen = nn.Linear(8, 6)
        with torch.no_grad():
            self.y = nn.Linear(6, 5)(seen(self.x[:, :8]).tanh()).argmax(1)
        self.regularizer = tr.Regularizer(self.model, penalties)
        self.optimizer = tr.ProximalOptimizer(
            OPTIMIZERS[optimizer](self.model.parameters()), self.regularizer
        )
        self.batch = batch
        self.done = 0

    def train(self, steps: int) -> None:
        for _ in range(steps):
            chosen = torch.arange(self.batch) + self.done * self.batch
            x, y = self.x[chosen % 512], self.y[chosen % 512]
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(x), y).backward()
            self.optimizer.step()
            self.done += 1

    def nonzero(self) -> list[int]:
        return [int((w != 0).sum()) for w in self.regularizer.selection().values()]

    def loss(self) -> float:
        with torch.no_grad():
            return nn.functional.cross_entropy(self.model(self.x), self.y).item()


SIZE = 40 * 30 + 30 * 5


# Where it arrives -----------------------------------------------------------------------------

SEPARABLE: dict[str, Callable[[float], tr.Penalty]] = {
    "L0": tr.L0,
    "L1": tr.L1,
    "ElasticNet": lambda strength: tr.ElasticNet(strength, 0.3 * strength),
    "MCP": tr.MCP,
    "SCAD": tr.SCAD,
    "LogSum": lambda strength: tr.LogSum(strength, width=0.1),
    "LHalf": tr.LHalf,
}


@pytest.mark.parametrize(
    ("penalty", "optimizer"),
    [
        pytest.param(p, o, marks=[] if o == "Adam" or p in ("L0", "L1") else pytest.mark.slow)
        for p in SEPARABLE
        for o in OPTIMIZERS
    ],
)
def test_every_penalty_arrives_at_the_density_and_stays(penalty: str, optimizer: str) -> None:
    problem = Problem(SEPARABLE[penalty](1.0), optimizer)
    target = tr.TargetSparsity(problem.optimizer, 0.1, end=100, every=4)
    problem.train(100)
    holding = [target.holding]
    for _ in range(2):
        problem.train(20)
        holding.append(target.holding)
        assert sum(problem.nonzero()) == pytest.approx(0.1 * SIZE, rel=0.02)
    assert holding == [False, True, True]
    assert target.strength == [0.0]  # what is kept is free
    assert problem.loss() < 0.8  # 1.6 is chance
    zeros = torch.cat([w.flatten() for w in problem.regularizer.selection().values()]).detach()
    assert not zeros[zeros == 0].signbit().any()


@pytest.mark.parametrize("strength", [1e-9, 1e6])
@pytest.mark.parametrize("penalty", ["L0", "L1", "MCP"])
def test_the_first_strength_does_not_matter(penalty: str, strength: float) -> None:
    problem = Problem(SEPARABLE[penalty](strength))
    tr.TargetSparsity(problem.optimizer, 0.1, end=100)
    problem.train(110)
    assert sum(problem.nonzero()) == pytest.approx(0.1 * SIZE, rel=0.02)
    assert problem.loss() < 1.2


@pytest.mark.parametrize(
    "make",
    [
        lambda: GroupLasso(1.0, groups=rows),
        lambda: SparseGroupLasso(1.0, groups=rows, l1_share=0.3),
    ],
    ids=["GroupLasso", "SparseGroupLasso"],
)
def test_groups_arrive_at_the_density(make: Callable[[], tr.Penalty]) -> None:
    problem = Problem({"0.weight": make()})
    tr.TargetSparsity(problem.optimizer, 0.5, end=100, every=8)
    problem.train(130)
    (kept,) = problem.nonzero()
    assert kept == pytest.approx(0.5 * 1200, rel=0.02)  # 15 of 30 rows
    if isinstance(problem.regularizer.terms[0].penalty, GroupLasso):
        w = problem.regularizer.selection()["0.weight"]
        assert set((w != 0).sum(1).tolist()) == {0, 40}


def test_groups_too_large_for_the_density_are_told() -> None:
    problem = Problem({"0.weight": GroupLasso(1.0, groups=rows)})
    tr.TargetSparsity(problem.optimizer, 0.11, end=40)  # 3.3 of 30 rows
    with pytest.warns(UserWarning, match=r"held at 0\.1, below the 0\.11"):
        problem.train(60)
    assert problem.nonzero() == [3 * 40]


# The ranking ----------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_l0_keeps_the_largest_squares_over_the_step_size(optimizer: str) -> None:
    """At every step: the nonzero weights are the top of ``w^2 / D`` before the proximal map."""
    problem = Problem(tr.L0(1.0), optimizer)
    before: dict[str, Tensor] = {}

    def look() -> None:
        for name, w in problem.regularizer.selection().items():
            group, state = problem.optimizer.param_groups[0], problem.optimizer.state[w]
            if optimizer == "Adam":
                t = state["step"].item()
                root = (state["exp_avg_sq"].double() / (1 - 0.999**t)).sqrt() + 1e-8
                step: Any = group["lr"] / root
            else:
                step = 1.0  # the same everywhere
            before[name] = w.detach().double().square() / step

    problem.optimizer.register_before_prox_hook(look)
    tr.TargetSparsity(problem.optimizer, 0.05, begin=5, end=60, hold=80, every=1)
    ramp = cubic(55, 1.0, 0.05)
    for step in range(100):
        problem.train(1)
        held = problem.regularizer.selection()
        kept = torch.cat([(held[n] != 0).flatten() for n in before])
        if step < 5:
            assert bool(kept.all())
            continue
        wanted = int(ramp(step - 5) * SIZE + 1e-6)
        assert int(kept.sum()) == wanted
        if step <= 80:
            scores = torch.cat([score.flatten() for score in before.values()])
            top = scores.sort(descending=True).values
            assert bool((scores[kept] >= top[wanted - 1] * (1 - 1e-5)).all())


def test_l1_at_one_step_keeps_the_largest_sizes_over_the_step_size() -> None:
    problem = Problem(tr.L1(1.0), "SGD")
    target = tr.TargetSparsity(problem.optimizer, 0.3, end=0, hold=1000, every=1, horizon=1)
    before: list[Tensor] = []

    def look() -> None:
        before[:] = [w.detach().clone() for w in problem.regularizer.selection().values()]

    problem.optimizer.register_before_prox_hook(look)
    problem.train(1)
    flat = torch.cat([w.flatten() for w in before]).abs()
    largest = flat.topk(int(0.3 * SIZE)).values
    # soft(w, lr * strength) has that many nonzeros for strengths between these two.
    assert 0.2 * target.strength[0] < largest[-1]
    assert int((flat > 0.2 * target.strength[0]).sum()) == int(0.3 * SIZE)
    assert sum(problem.nonzero()) == int(0.3 * SIZE)


# What is asked --------------------------------------------------------------------------------


def test_each_selection_has_a_density_of_its_own() -> None:
    problem = Problem({"0.weight": tr.L1(1.0), "2.weight": tr.L0(1.0)})
    tr.TargetSparsity(problem.optimizer, {"0.*": 0.05, "2.weight": 0.4}, end=100)
    problem.train(120)
    assert problem.nonzero() == [60, 60]


def test_a_selection_without_a_density_keeps_its_strength() -> None:
    problem = Problem({"0.weight": tr.L0(1.0), "2.weight": tr.L1(1e-4)})
    tr.TargetSparsity(problem.optimizer, {"0.weight": 0.05}, end=50)
    problem.train(70)
    assert problem.nonzero()[0] == 60
    assert problem.regularizer.terms[1].penalty.strength == 1e-4


@pytest.mark.parametrize("penalty", ["L0", "L1", "SCAD"])
def test_a_budget_counts_what_weights_cost(penalty: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 4))
    x, y = torch.randn(64, 1, 8, 8), torch.randint(4, (64,))
    cost = multiply_adds(model, x)
    assert cost == {"0.weight": 36, "3.weight": 1}
    regularizer = tr.Regularizer(model, SEPARABLE[penalty](1.0))
    optimizer = tr.ProximalOptimizer(torch.optim.Adam(model.parameters(), lr=5e-3), regularizer)
    tr.TargetSparsity(optimizer, 0.25, end=60, cost=cost)
    for _ in range(80):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    spent = sum(cost[n] * int((w != 0).sum()) for n, w in regularizer.selection().items())
    every = 36 * 54 + 6 * 36 * 4
    assert 0.25 * every - 36 <= spent <= 0.25 * every


def test_multiply_adds_are_those_of_a_forward_pass() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 4, 3, stride=2, padding=1)
            self.shared = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x).flatten(2).transpose(1, 2)  # (batch, positions, channels)
            twice: Tensor = self.shared(self.shared(y))
            return twice

    model = Twice()
    model.train()
    assert multiply_adds(model, torch.randn(3, 2, 8, 8)) == {"conv.weight": 16, "shared.weight": 32}
    assert model.training


def test_at_most_leaves_a_strength_that_is_enough() -> None:
    """Training by an L1 that is strong enough by itself is not touched."""
    plain, limited = Problem(tr.L1(0.02), "SGD"), Problem(tr.L1(0.02), "SGD")
    target = tr.TargetSparsity(limited.optimizer, 0.999, end=0, hold=10_000, every=1, at_most=True)
    for problem in (plain, limited):
        problem.train(60)
    assert target.strength == [0.02]
    assert all(torch.equal(a, b) for a, b in
               zip(plain.model.parameters(), limited.model.parameters(), strict=True))  # fmt: skip
    assert 0 < sum(plain.nonzero()) < SIZE


def test_at_most_raises_a_strength_that_is_not_enough_and_keeps_it() -> None:
    problem = Problem(tr.L1(1e-4))
    target = tr.TargetSparsity(problem.optimizer, 0.1, end=60, at_most=True)
    problem.train(60)
    assert target.strength[0] > 1e-4
    problem.train(60)
    assert target.strength == [1e-4]
    assert 0 < sum(problem.nonzero()) <= 0.1 * SIZE


# State ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", ["L0", "L1"])
@pytest.mark.parametrize("until", [10, 45, 60, 75])
def test_it_resumes_bit_for_bit(penalty: str, until: int) -> None:
    def made() -> tuple[Problem, tr.TargetSparsity]:
        problem = Problem(SEPARABLE[penalty](1.0))
        return problem, tr.TargetSparsity(problem.optimizer, 0.1, begin=8, end=40, hold=60, every=7)

    whole, _ = made()
    whole.train(90)
    first, target = made()
    first.train(until)
    packed = io.BytesIO()
    parts = (first.model, first.optimizer, target)
    torch.save([part.state_dict() for part in parts], packed)
    packed.seek(0)
    saved = torch.load(packed, weights_only=True)
    second, again = made()
    second.model.load_state_dict(saved[0])
    second.optimizer.load_state_dict(saved[1])
    again.load_state_dict(saved[2])
    assert again.strength == target.strength
    second.done = until
    second.train(90 - until)
    assert all(torch.equal(a, b) for a, b in
               zip(whole.model.parameters(), second.model.parameters(), strict=True))  # fmt: skip


def test_the_support_is_part_of_the_state() -> None:
    problem = Problem(tr.L0(1.0))
    target = tr.TargetSparsity(problem.optimizer, 0.1, end=20)
    problem.train(30)
    support = problem.first.weight != 0
    again = Problem(tr.L0(1.0))
    resumed = tr.TargetSparsity(again.optimizer, 0.1, end=20)
    resumed.load_state_dict(target.state_dict())
    with torch.no_grad():
        again.first.weight.fill_(1.0)  # whatever the weights are, the support is known
    again.train(1)
    assert torch.equal(again.first.weight != 0, support)


def test_detached_it_acts_no_more_and_a_copy_has_none() -> None:
    problem = Problem(tr.L0(1.0))
    target = tr.TargetSparsity(problem.optimizer, 0.1, end=20, hold=100)
    problem.train(5)
    copied = copy.deepcopy(problem)
    strength = target.strength
    target.detach()
    problem.train(30)
    copied.train(30)
    assert problem.regularizer.terms[0].penalty.strength == strength[0]
    assert target.steps == 5


def test_a_frozen_layer_counts_as_it_is() -> None:
    problem = Problem(tr.L0(1.0))
    problem.last.weight.requires_grad_(False)
    tr.TargetSparsity(problem.optimizer, 0.2, end=40)
    problem.train(60)
    assert problem.nonzero() == [int(0.2 * SIZE) - 150, 150]


def test_a_closure_and_a_learning_rate_of_zero() -> None:
    problem = Problem(tr.L1(1.0))
    tr.TargetSparsity(problem.optimizer, 0.1, end=5, hold=100, every=1)
    problem.optimizer.param_groups[0]["lr"] = 0.0
    before = copy.deepcopy(problem.model.state_dict())

    def closure() -> float:
        problem.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(problem.model(problem.x), problem.y)
        loss.backward()
        return loss.item()

    for _ in range(8):
        problem.optimizer.step(closure)
    assert all(torch.equal(before[n], w) for n, w in problem.model.state_dict().items())


# What cannot be reached -----------------------------------------------------------------------


def refused(penalties: Any, match: str, error: type[Exception] = ValueError, **asked: Any) -> None:
    problem = Problem(penalties)
    with pytest.raises(error, match=match):
        tr.TargetSparsity(problem.optimizer, **{"density": 0.1, "end": 10, **asked})


def test_it_refuses_what_cannot_be_reached() -> None:
    refused(tr.L2(1.0), "at no strength")
    refused({"0.weight": tr.L1(0.0), "2.weight": tr.L1(1.0)}, "strength 0, and no multiple")
    for density in (0.0, 1.0, -0.1, float("nan"), True):
        refused(tr.L1(1.0), "above 0 and below 1", density=density)
    refused(tr.L1(1.0), "less than one of the 1,350 weights", density=1e-4)
    refused(tr.L1(1.0), "begin <= end <= hold", begin=20)
    refused(tr.L1(1.0), "every >= 1", every=0)
    refused(tr.L1(1.0), "cost has no finite number .* for 2.weight", cost={"0.weight": 1.0})
    refused(tr.L1(1.0), "also acts on 2.weight", density={"0.weight": 0.1})
    two = {"0.weight": tr.L1(1.0), "2.weight": tr.L1(1.0)}
    refused(two, "two densities", density={"0.weight": 0.1, "*.weight": 0.2})
    refused({"0.weight": tr.L1(1.0)}, "no penalty acts there", density={"2.weight": 0.1})


@pytest.mark.parametrize("at_most", [False, True])
def test_a_schedule_of_the_same_strength_is_told_instead_of_followed(at_most: bool) -> None:
    problem = Problem(tr.L1(1e-3))
    schedule = tr.StrengthSchedule(problem.regularizer, linear(30, 1.0, 0.5))
    tr.TargetSparsity(problem.optimizer, density=0.1, end=10, at_most=at_most)
    problem.train(12)
    schedule.step()
    with pytest.raises(RuntimeError, match="leave one of the two out"):
        problem.train(1)
    again = Problem(tr.L1(1.0))
    tr.TargetSparsity(again.optimizer, density=0.1, end=10)
    with pytest.raises(ValueError, match="detach that, and set the strength again"):
        tr.TargetSparsity(again.optimizer, density=0.1, end=10)


def test_steps_may_be_numpy_integers() -> None:
    problem = Problem(tr.L0(1.0))
    end: int = np.int64(5)  # type: ignore[assignment]
    tr.TargetSparsity(problem.optimizer, density=0.1, end=end)
    problem.train(6)
    assert sum(problem.nonzero()) == SIZE // 10


def test_it_refuses_other_optimizers_and_states() -> None:
    problem = Problem(tr.L1(1.0))
    with pytest.raises(TypeError, match="only its proximal map makes exact zeros"):
        tr.TargetSparsity(problem.optimizer.optimizer, 0.1, end=1)  # type: ignore[arg-type]
    part = tr.ProximalOptimizer(torch.optim.Adam(problem.first.parameters()), problem.regularizer)
    with pytest.raises(ValueError, match=r"does not hold 2\.weight"):
        tr.TargetSparsity(part, 0.1, end=1)
    two = Problem({"0.weight": tr.L1(1.0), "2.weight": tr.L1(1.0)})
    state = tr.TargetSparsity(two.optimizer, 0.1, end=1).state_dict()
    with pytest.raises(ValueError, match="1 densities and 2 penalties"):
        tr.TargetSparsity(problem.optimizer, 0.1, end=1).load_state_dict(state)


def test_frozen_weights_alone_exceed_the_density() -> None:
    problem = Problem(tr.L0(1.0))
    problem.first.weight.requires_grad_(False)
    tr.TargetSparsity(problem.optimizer, 0.2, end=5)
    with pytest.raises(RuntimeError, match=r"no strength brings the density to 0\.2"):
        problem.train(10)


def test_diverged_weights_are_not_ranked() -> None:
    problem = Problem(tr.L0(1.0))
    tr.TargetSparsity(problem.optimizer, 0.1, end=5)
    with torch.no_grad():
        problem.first.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        problem.train(10)


# Lightning ------------------------------------------------------------------------------------


def lightning_module() -> Proximal:
    return Proximal(lambda module: torch.optim.Adam(module.parameters(), lr=0.02))


def test_the_callback_is_the_target_in_a_loop() -> None:
    module, callback = lightning_module(), Callback(0.3, begin=0.1, end=0.5, hold=0.6, every=2)
    fit(module, max_epochs=10, callbacks=[callback])

    torch.manual_seed(0)
    ours = lightning_module()
    optimizer = tr.ProximalOptimizer(
        torch.optim.Adam(ours.parameters(), lr=0.02),
        tr.Regularizer(ours, ours.configure_regularizer()),
    )
    tr.TargetSparsity(optimizer, 0.3, begin=5, end=25, hold=30, every=2)
    for _ in range(10):
        for batch in data():
            optimizer.zero_grad()
            ours.loss(batch).backward()
            optimizer.step()
    assert same(module, ours)
    assert sum(int((w != 0).sum()) for w in module.regularizer.selection().values()) == 10  # of 35


@pytest.mark.parametrize("until", [2, 4, 8])
def test_the_callback_resumes(until: int, tmp_path: Path) -> None:
    def callback() -> Callback:
        return Callback(0.3, end=0.4, hold=0.6, every=2)

    whole = lightning_module()
    fit(whole, max_epochs=10, callbacks=[callback()])
    kept = ModelCheckpoint(tmp_path / "first", save_top_k=-1, filename="{epoch}")
    fit(lightning_module(), max_epochs=10, callbacks=[callback(), kept], enable_checkpointing=True)
    again = lightning_module()
    running = trainer(
        max_epochs=10,
        enable_checkpointing=True,
        callbacks=[callback(), ModelCheckpoint(tmp_path / "first", save_top_k=0)],
    )
    running.fit(again, loader(data()), ckpt_path=tmp_path / "first" / f"epoch={until - 1}.ckpt")
    assert weights(again).keys() == weights(whole).keys()
    assert same(again, whole)


def test_the_callback_refuses_what_it_cannot_steer() -> None:
    with pytest.raises(ValueError, match="shares 0 <= begin <= end"):
        Callback(0.1, end=2.0)
    with pytest.raises(ValueError, match="a fit of known length"):
        fit(lightning_module(), max_epochs=-1, max_steps=-1, callbacks=[Callback(0.3)])


def test_an_end_at_the_last_step_is_reached() -> None:
    module = lightning_module()
    fit(module, max_epochs=10, callbacks=[Callback(0.3, end=1.0)])
    assert sum(int((w != 0).sum()) for w in module.regularizer.selection().values()) == 10  # of 35


def test_a_fit_that_stops_before_the_density_is_held_says_so() -> None:
    class Stops(LightningCallback):
        def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:  # noqa: ARG002
            trainer.should_stop = trainer.current_epoch == 2

    with pytest.warns(UserWarning, match="ended after 15 steps, before the density of 0.3 was to"):
        fit(lightning_module(), max_epochs=10, callbacks=[Callback(0.3, end=0.5), Stops()])


@pytest.mark.parametrize("density", [None, "0.1", {}, float("nan"), 0, 1, True])
def test_a_density_that_is_none_is_refused(density: object) -> None:
    model = nn.Linear(8, 4)
    optimizer = tr.ProximalOptimizer(
        torch.optim.Adam(model.parameters()), tr.Regularizer(model, tr.L0(1.0))
    )
    with pytest.raises(ValueError, match=r"density|densities"):
        tr.TargetSparsity(optimizer, density, end=10)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="finite number"):
        tr.TargetSparsity(optimizer, 0.5, end=10, cost={"weight": float("inf")})


@pytest.mark.parametrize("penalty", [tr.L0(1.0), tr.L1(1.0), tr.MCP(1.0, concavity=3.0)])
def test_training_that_diverges_is_named(penalty: tr.Penalty) -> None:
    model = nn.Linear(8, 4)
    optimizer = tr.ProximalOptimizer(
        torch.optim.Adam(model.parameters()), tr.Regularizer(model, penalty)
    )
    tr.TargetSparsity(optimizer, 0.5, end=10)
    (model(torch.randn(3, 8)).sum() * torch.nan).backward()

    def steps() -> None:
        for _ in range(11):  # it is seen at once, or when the support is fixed
            optimizer.step()

    with pytest.raises(ValueError, match="diverged"):
        steps()


def test_groups_larger_than_the_density_are_refused_and_do_not_empty_the_network() -> None:
    model = nn.Linear(8, 4)
    penalty = tr.GroupL0(1.0, groups=tr.rows)  # a quarter of the weights each
    optimizer = tr.ProximalOptimizer(
        torch.optim.Adam(model.parameters()), tr.Regularizer(model, penalty)
    )
    tr.TargetSparsity(optimizer, 0.2, end=1)

    def steps() -> None:
        for _ in range(3):
            model(torch.randn(3, 8)).square().mean().backward()
            optimizer.step()

    with pytest.raises(RuntimeError, match=r"smallest group .* is larger"):
        steps()


def test_a_state_of_another_model_is_refused() -> None:
    def target(width: int) -> tuple[nn.Module, tr.ProximalOptimizer, tr.TargetSparsity]:
        model = nn.Linear(8, width)
        optimizer = tr.ProximalOptimizer(
            torch.optim.Adam(model.parameters()), tr.Regularizer(model, tr.L0(1.0))
        )
        return model, optimizer, tr.TargetSparsity(optimizer, 0.5, end=1)

    model, optimizer, first = target(4)
    for _ in range(3):
        model(torch.randn(3, 8)).square().sum().backward()
        optimizer.step()
    assert first.holding
    with pytest.raises(ValueError, match="another model"):
        target(5)[2].load_state_dict(first.state_dict())
    with pytest.raises(ValueError, match="it lacks"):
        target(4)[2].load_state_dict({})


def test_a_support_that_cannot_be_fixed_fixes_none() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    penalties = {"0.weight": tr.L0(1.0), "1.weight": tr.GroupL0(1.0, rows)}
    optimizer = tr.ProximalOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.01), tr.Regularizer(model, penalties)
    )
    target = tr.TargetSparsity(optimizer, {"0.weight": 0.5, "1.weight": 0.05}, end=3)
    for step in range(5):
        optimizer.zero_grad()
        model(torch.randn(4, 8)).square().mean().backward()
        if step < 3:
            optimizer.step()
            continue
        with pytest.raises(RuntimeError, match=r"no weight is left at a density of 0\.05"):
            optimizer.step()
        assert not target.holding
        assert not target.state_dict()["zeroed"]
        assert all(p.all() for p in model[1].parameters())


def test_a_penalty_that_only_shrinks_is_refused_at_once() -> None:
    refused(tr.ElasticNet(0.0, 1.0), "zeroes .* at no strength", density=0.5, end=5)


def test_an_empty_weight_does_not_take_the_horizon_away() -> None:
    model = nn.ModuleList([nn.Linear(6, 3), nn.Linear(4, 4)])
    model[0].weight = nn.Parameter(torch.zeros(0, 3))
    optimizer = tr.ProximalOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.1), tr.Regularizer(model, tr.L1(1.0))
    )
    assert list(tr.TargetSparsity(optimizer, 0.5, end=9, horizon=7)._ahead.values()) == [7]


def test_neighbours_in_float32_are_told_apart() -> None:
    one = 1.0
    scores = torch.tensor([one, one, one], dtype=torch.float32)
    scores[1] = torch.nextafter(scores[0], torch.tensor(2.0))
    scores[2] = torch.nextafter(scores[1], torch.tensor(2.0))
    for keep in (1, 2):
        factor = _between([scores], [1.0], keep)
        assert int((scores > factor).sum()) == keep
        priced = _between([scores[:1], scores[1:]], [1.0, 1.0 + 1e-9], keep + 0.5)
        assert int((scores > priced).sum()) == keep


def test_a_cost_or_a_state_that_is_none_says_so() -> None:
    problem = Problem(tr.L0(1.0))
    with pytest.raises(TypeError, match="cost must be a mapping from parameter names"):
        tr.TargetSparsity(problem.optimizer, 0.5, end=5, cost="a")  # type: ignore[arg-type]
    target = tr.TargetSparsity(problem.optimizer, 0.5, end=5)
    with pytest.raises(ValueError, match="no state of a TargetSparsity"):
        target.load_state_dict(None)  # type: ignore[arg-type]


def test_after_a_fit_that_failed_another_begins() -> None:
    class Fails(Proximal):
        fails = True

        def training_step(self, batch: Any, index: int) -> Any:
            if self.fails and index == 2:
                raise ArithmeticError("of the user's own")
            return super().training_step(batch, index)

    module = Fails()
    callback = Callback(0.5, end=0.5)
    with pytest.raises(ArithmeticError):
        fit(module, callbacks=[callback])
    module.fails = False
    fit(module, callbacks=[callback])
    assert callback.target is not None
    assert callback.target.holding


def test_a_density_that_fails_fails_in_the_same_words_again() -> None:
    linear_ = nn.Linear(8, 8)
    whole = tr.GroupMCP(1.0, lambda w: w.reshape(1, -1))
    optimizer = tr.ProximalOptimizer(
        torch.optim.SGD(linear_.parameters(), lr=0.01), tr.Regularizer(linear_, whole)
    )
    tr.TargetSparsity(optimizer, 0.5, end=0)
    for _ in range(3):
        optimizer.zero_grad()
        linear_(torch.randn(4, 8)).square().mean().backward()
        with pytest.raises(RuntimeError, match=r"no weight is left at a density of 0\.5"):
            optimizer.step()
