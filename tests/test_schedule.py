"""Strength schedules: their shapes, their steps, their resumption, in a loop and in Lightning."""

import copy
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn
from torch.optim import Adam, Optimizer

import torchreg as tr
from tests.lightning_modules import Proximal, data, fit, loader, trainer
from torchreg.lightning import Strengths
from torchreg.schedule import cosine, cubic, linear, piecewise, warmup


def adam(module: nn.Module) -> Optimizer:
    return Adam(module.parameters(), lr=0.02)


def two_terms() -> tr.Regularizer:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    return tr.Regularizer(model, {"0.weight": tr.ElasticNet(0.4, 0.2), "1.weight": tr.L1(0.1)})


# Shapes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [linear, cosine, cubic])
@given(steps=st.integers(1, 50), start=st.floats(0, 2), end=st.floats(0, 2))
def test_a_ramp_goes_from_start_to_end_without_turning(
    shape: type, steps: int, start: float, end: float
) -> None:
    values = [shape(steps, start, end)(step) for step in range(steps + 3)]
    assert values[0] == pytest.approx(start)
    assert values[steps:] == [end] * 3
    moves = [(b - a) * (1 if end > start else -1) for a, b in pairwise(values)]
    assert min(moves) >= -1e-12


def test_the_shapes_at_half_way() -> None:
    assert linear(10, 1.0, 0.0)(5) == 0.5
    assert cosine(10, 1.0, 0.0)(5) == pytest.approx(0.5)
    assert cosine(10)(2) == pytest.approx((1 - math.cos(0.2 * math.pi)) / 2)
    assert cubic(10, 1.0, 0.2)(5) == pytest.approx(0.2 + 0.8 / 8)
    assert linear(0)(0) == 1.0  # no time at all: at the end already


def test_a_warmup_delays_what_follows() -> None:
    shape = warmup(3, then=linear(2, 1.0, 0.0))
    assert [shape(step) for step in range(7)] == pytest.approx([0, 1 / 3, 2 / 3, 1, 0.5, 0, 0])


def test_shapes_refuse_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="steps must be a non-negative integer, found -1"):
        cosine(-1)
    with pytest.raises(ValueError, match=r"non-negative integer, found 0\.5"):
        linear(0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"a value for step 0, found steps \[1\]"):
        piecewise({1: 0.5})
    counted: int = np.int64(4)  # type: ignore[assignment]
    assert linear(counted)(2) == 0.5


# The schedule ---------------------------------------------------------------------------------


def test_all_strengths_of_a_penalty_move_together() -> None:
    regularizer = two_terms()
    net, lasso = (term.penalty for term in regularizer.terms)
    schedule = tr.StrengthSchedule(regularizer, piecewise({0: 1.0, 1: 0.5, 2: 0.0}))
    assert schedule.get_last_strength() == [0.4, 0.1]
    schedule.step()
    assert isinstance(net, tr.ElasticNet)
    assert isinstance(lasso, tr.L1)
    assert (net.l1, net.l2, lasso.l1) == pytest.approx((0.2, 0.1, 0.05))
    schedule.step()
    assert (net.l1, net.l2, lasso.l1) == (0, 0, 0)
    assert regularizer().item() == 0


def test_each_term_may_have_a_shape_of_its_own() -> None:
    schedule = tr.StrengthSchedule(two_terms(), [warmup(2), linear(4, 1.0, 0.0)])
    found = []
    for _ in range(3):
        found.append(schedule.get_last_strength())
        schedule.step()
    assert found == [[0.0, 0.1], [0.2, pytest.approx(0.075)], [0.4, pytest.approx(0.05)]]


def test_a_schedule_resumes_in_the_middle() -> None:
    def made() -> tr.StrengthSchedule:
        return tr.StrengthSchedule(two_terms(), [cosine(7), cubic(5, 1.0, 0.1)])

    whole, first = made(), made()
    for _ in range(6):
        whole.step()
    for _ in range(3):
        first.step()
    state = copy.deepcopy(first.state_dict())
    second = made()
    second.step()  # somewhere else before it is loaded
    second.load_state_dict(state)
    assert second.get_last_strength() == first.get_last_strength()
    for _ in range(3):
        second.step()
    assert second.get_last_strength() == whole.get_last_strength()


def test_a_schedule_refuses_what_it_cannot_follow() -> None:
    regularizer = two_terms()
    with pytest.raises(ValueError, match="found 1 shapes for 2 penalties"):
        tr.StrengthSchedule(regularizer, [linear(2)])
    with pytest.raises(TypeError, match=r"a function from a step to a factor, found 0\.5"):
        tr.StrengthSchedule(regularizer, [linear(2), 0.5])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"Regularizer\(model, penalty\)"):
        tr.StrengthSchedule(tr.L1(1.0), linear(2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has no strength that could be set"):
        tr.StrengthSchedule(tr.fix_support(regularizer), linear(2))
    with pytest.raises(ValueError, match=r"a factor must be a finite .*, found -1"):
        tr.StrengthSchedule(regularizer, lambda step: -1.0)  # noqa: ARG005
    other = tr.StrengthSchedule(tr.Regularizer(nn.Linear(2, 2), tr.L1(1.0)), linear(2))
    with pytest.raises(ValueError, match="of 2 penalties, the schedule has 1"):
        other.load_state_dict(tr.StrengthSchedule(two_terms(), linear(2)).state_dict())


# Lightning ------------------------------------------------------------------------------------


class Notes(Callback):
    """The strength that each batch is trained with."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):  # type: ignore[no-untyped-def]  # noqa: ARG002
        self.found.append(module.regularizer.terms[0].penalty.l1)


@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_the_callback_counts_epochs_or_optimizer_steps(interval: str) -> None:
    notes, module = Notes(), Proximal(adam)
    strength = module.configure_regularizer().l1
    shape = linear(4, 1.0, 0.0)
    strengths = Strengths(shape, interval)  # type: ignore[arg-type]
    fit(module, max_epochs=3, accumulate_grad_batches=2, callbacks=[strengths, notes])
    per_epoch = len(notes.found) // 3
    steps = -(-per_epoch // 2)  # the last batch of an epoch always steps
    expected = [
        strength * shape(batch // per_epoch)
        if interval == "epoch"
        else strength * shape(batch // per_epoch * steps + batch % per_epoch // 2)
        for batch in range(3 * per_epoch)
    ]
    assert notes.found == pytest.approx(expected)


def test_the_callback_resumes(tmp_path: Path) -> None:
    shape = cubic(5, 1.0, 0.2)
    whole = Notes()
    fit(Proximal(adam), max_epochs=6, callbacks=[Strengths(shape), whole])

    first, second = Notes(), Notes()
    kept = ModelCheckpoint(tmp_path / "first", save_last=True)
    fit(
        Proximal(adam),
        max_epochs=3,
        enable_checkpointing=True,
        callbacks=[Strengths(shape), first, kept],
    )
    resuming = trainer(
        max_epochs=6,
        enable_checkpointing=True,
        callbacks=[Strengths(shape), second, ModelCheckpoint(tmp_path / "first", save_top_k=0)],
    )
    resuming.fit(Proximal(adam), loader(data()), ckpt_path=tmp_path / "first" / "last.ckpt")
    assert first.found + second.found == whole.found


def test_the_callback_refuses_what_it_cannot_count() -> None:
    with pytest.raises(ValueError, match="'epoch' or 'step', found 'batch'"):
        Strengths(linear(2), "batch")  # type: ignore[arg-type]


def test_a_schedule_in_a_loop_leaves_the_solution_of_its_last_strength() -> None:
    x = torch.randn(64, 8, dtype=torch.float64)
    y = x[:, :2].sum(1, keepdim=True)

    def solved(steps: int, strength: float, shape: object) -> torch.Tensor:
        torch.manual_seed(1)
        model = nn.Linear(8, 1, dtype=torch.float64)
        regularizer = tr.Regularizer(model, tr.L1(strength))
        schedule = tr.StrengthSchedule(regularizer, shape)  # type: ignore[arg-type]
        optimizer = tr.ProximalOptimizer(torch.optim.SGD(model.parameters(), lr=0.2), regularizer)
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
            schedule.step()
        return model.weight.detach()

    constant = solved(600, 0.3, linear(0))
    ramped = solved(600, 0.6, linear(100, 0.0, 0.5))
    assert torch.equal(constant == 0, ramped == 0)
    assert int((constant == 0).sum()) > 0
    assert torch.allclose(constant, ramped, atol=1e-10)


def test_shapes_and_states_of_another_kind_are_refused() -> None:
    regularizer = tr.Regularizer(torch.nn.Linear(4, 2), tr.L1(0.1))
    for shape in (0.5, "cosine", None):
        with pytest.raises(TypeError, match="a shape is a function"):
            tr.StrengthSchedule(regularizer, shape)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must return a number"):
        tr.StrengthSchedule(regularizer, lambda _: None)  # type: ignore[arg-type,return-value]
    schedule = tr.StrengthSchedule(regularizer, tr.schedule.linear(4))
    with pytest.raises(ValueError, match="it lacks bases, steps"):
        schedule.load_state_dict({})
    with pytest.raises(ValueError, match="a penalty with l1, l2"):
        schedule.load_state_dict({"steps": 1, "bases": [{"l1": 1.0, "l2": 1.0}]})
    assert regularizer.terms[0].penalty.strength == 0  # the beginning of the line
    again = tr.StrengthSchedule(regularizer, tr.schedule.linear(4))
    with pytest.warns(UserWarning, match="every strength was 0"):
        again.step()


def test_multiply_adds_needs_a_batch() -> None:
    model = torch.nn.Linear(4, 2)
    for inputs in ((), ({"x": 1},), (torch.zeros(0, 4),), (torch.zeros(4),)):
        with pytest.raises(ValueError, match="batch"):
            tr.schedule.multiply_adds(model, *inputs)
    with pytest.raises(ValueError, match="batch"):
        tr.schedule.multiply_adds(torch.nn.Conv2d(1, 2, 3), torch.zeros(1, 8, 8))


def test_a_shape_that_fails_leaves_the_schedule_where_it_was() -> None:
    regularizer = two_terms()
    schedule = tr.StrengthSchedule(regularizer, [lambda _: 0.5, lambda step: 1.0 - 2 * step])
    before = schedule.state_dict(), schedule.get_last_strength()
    for _ in range(2):
        with pytest.raises(ValueError, match="a factor must be a finite number of at least 0"):
            schedule.step()
    assert (schedule.state_dict(), schedule.get_last_strength()) == before
    with pytest.raises(ValueError, match="a factor must be"):
        schedule.load_state_dict(
            {**before[0], "steps": 1, "bases": [{"l1": 9.0, "l2": 9.0}, {"l1": 9.0}]}
        )
    assert (schedule.state_dict(), schedule.get_last_strength()) == before


def test_multiply_adds_has_the_names_of_a_selection() -> None:
    tied = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    tied[2].weight = tied[0].weight
    assert tr.schedule.multiply_adds(tied, torch.zeros(3, 4)) == {"0.weight": 2.0}
    made = nn.Sequential(nn.utils.parametrizations.orthogonal(nn.Linear(4, 4)), nn.Linear(4, 3))
    assert list(tr.schedule.multiply_adds(made, torch.zeros(3, 4))) == list(tr.select(made))
    alone = nn.utils.parametrizations.orthogonal(nn.Linear(4, 4))
    assert list(tr.schedule.multiply_adds(alone, torch.zeros(3, 4))) == list(tr.select(alone))
    compiled: Any = torch.compile(nn.Sequential(nn.Linear(4, 2)))
    assert tr.schedule.multiply_adds(compiled, torch.zeros(3, 4)) == {"0.weight": 1.0}
