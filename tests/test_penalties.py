"""The laws that every penalty keeps, each against its own value or another of its members."""

import copy
import math
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import sklearn.linear_model
import torch
from torch import Tensor, nn

from tests.cases import CASES, LAYOUTS, STEPS, STRENGTHS, Case, sample
from torchreg import L1, L2, ElasticNet, FixedSupport, Penalty, WeightedL1
from torchreg.penalties.grouped import Grouped

CONVEX = [case for case in CASES if case.convex]
QUADRATIC = [case for case in CASES if case.quadratic]
ZEROING = [case for case in CASES if case.zeroes]
SMALL = [[1.5, -0.2], [0.0, -3.0], [0.3, 0.25], [-40.0, 1e-3]]
PAIRED_STEPS = [0.7, torch.tensor([0.2, 3.0], dtype=torch.float64)]


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


@pytest.fixture(params=STRENGTHS)
def penalty(request: pytest.FixtureRequest, case: Case) -> Penalty:
    return case.make(request.param)


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    found: torch.dtype = request.param
    return found


@pytest.fixture(params=LAYOUTS)
def w(request: pytest.FixtureRequest, dtype: torch.dtype) -> Tensor:
    return LAYOUTS[request.param](dtype)


@pytest.fixture(params=STEPS)
def step(request: pytest.FixtureRequest, w: Tensor) -> float | Tensor:
    return STEPS[request.param](w)


def cost(value: Callable[[Tensor], Tensor], z: Tensor, w: Tensor, step: float | Tensor) -> Tensor:
    """The problem that a prox solves, for a batch of candidates z."""
    move = ((z - w).square() / step / 2).flatten(1).sum(1)
    return move + torch.func.vmap(value)(z)


def brute_force(value: Callable[[Tensor], Tensor], w: Tensor, step: float | Tensor) -> Tensor:
    """The prox of two weights: the best of a grid with 0 on its axes, refined seven times."""
    centre, radius = torch.zeros_like(w), 2 * w.abs().max() + 1
    line = torch.linspace(-1, 1, 101, dtype=w.dtype)
    for _ in range(7):
        axes = [torch.cat([line.new_zeros(1), c + radius * line]) for c in centre.flatten()]
        grid = torch.cartesian_prod(*axes).reshape(-1, *w.shape)
        centre, radius = grid[cost(value, grid, w, step).argmin()], radius / 20
    return centre


def assert_minimises(
    z: Tensor, value: Callable[[Tensor], Tensor], w: Tensor, step: float | Tensor
) -> None:
    best = brute_force(value, w, step)
    reached, least = cost(value, torch.stack([z, best]), w, step)
    # A few roundings in a cost: the minimum itself is only known to the root of that.
    assert reached <= least + 8 * torch.finfo(w.dtype).eps * (1 + least)
    assert torch.equal(z == 0, best == 0)


@pytest.mark.parametrize("weights", SMALL)
@pytest.mark.parametrize("metric", PAIRED_STEPS, ids=["float", "per coordinate"])
def test_prox_is_the_minimum_found_by_brute_force(
    penalty: Penalty, weights: list[float], metric: float | Tensor
) -> None:
    w = torch.tensor(weights, dtype=torch.float64)
    assert_minimises(penalty.prox(w, metric), penalty.value, w, metric)


def test_prox_is_stationary(penalty: Penalty, w: Tensor, step: float | Tensor) -> None:
    z = penalty.prox(w, step)
    distance = penalty.distance(z, (z - w) / step)
    assert distance.shape == w.shape
    # z - w and the slope both round at the size of w / step.
    assert bool((distance <= 4 * torch.finfo(w.dtype).eps * w.abs() / step).all())


@pytest.mark.parametrize("case", CONVEX, ids=str)
def test_prox_is_firmly_nonexpansive_in_its_metric(
    penalty: Penalty, w: Tensor, step: float | Tensor
) -> None:
    for spread in (0.1, 1.0, 10.0):
        other = w + spread * torch.randn_like(w)
        moved = penalty.prox(w, step) - penalty.prox(other, step)
        left, right = (moved * moved / step).sum(), (moved * (w - other) / step).sum()
        scale = ((w.abs() + other.abs()).square() / step).sum()  # of the terms that round
        assert left <= right + 4 * torch.finfo(w.dtype).eps * scale


def test_zero_stays_zero(penalty: Penalty, w: Tensor, step: float | Tensor) -> None:
    assert bool((penalty.prox(w, step)[w == 0] == 0).all())
    assert not penalty.prox(torch.zeros_like(w), step).any()


@pytest.mark.parametrize("zero", [0.0, torch.tensor(0.0), None], ids=["float", "0-d", "shaped"])
def test_a_step_of_zero_is_the_identity(penalty: Penalty, w: Tensor, zero: Any) -> None:
    assert torch.equal(penalty.prox(w, torch.zeros_like(w) if zero is None else zero), w)


@pytest.mark.parametrize("step", [0.7, 1e300, math.inf, torch.tensor(math.inf)], ids=str)
def test_strength_zero_is_the_identity(case: Case, w: Tensor, step: float | Tensor) -> None:
    assert torch.equal(case.make(0.0).prox(w, step), w)
    assert case.make(0.0)(w) == 0


@pytest.mark.parametrize("huge", [1e300, math.inf, torch.tensor(math.inf), None], ids=str)
def test_a_huge_step_gives_no_nan_and_the_minimum(case: Case, w: Tensor, huge: Any) -> None:
    step = torch.full_like(w, math.inf) if huge is None else huge
    z = case.make(0.3).prox(w, step)
    assert not z.isnan().any()
    if case.convex:  # all of them are smallest at 0; 1e-200 is what the ridge's 1e300 leaves
        assert bool((z.abs() <= 1e-200).all())


def test_prox_is_pure(penalty: Penalty, w: Tensor, step: float | Tensor) -> None:
    before, step_before = w.clone(), copy.deepcopy(step)
    for one in (step, 0.0):
        z = penalty.prox(w, one)
        assert z.shape == w.shape
        assert z.dtype == w.dtype
        z.fill_(7.0)
        assert torch.equal(w, before)
    assert torch.equal(torch.as_tensor(step), torch.as_tensor(step_before))


@pytest.mark.parametrize("case", QUADRATIC, ids=str)
def test_distance_equals_that_to_the_one_sided_derivatives(penalty: Penalty) -> None:
    """At one weight the subdifferential is the interval between them: no kink points down.

    Three-point differences are exact for quadratics: what is left is the rounding of P over h.
    """
    w, h = (8 * sample(5, 4)).round() / 8, 2.0**-10  # at a knot, or far from it
    grad = sample(5, 4)
    expected = torch.empty_like(w)
    for i in range(w.numel()):
        sides = []
        for sign in (-1, 1):
            p = []
            for far in (0, 1, 2):
                z = w.clone()
                z.view(-1)[i] += sign * far * h
                p.append(float(penalty.value(z)))
            sides.append(sign * (-3 * p[0] + 4 * p[1] - p[2]) / (2 * h))
        g = -float(grad.view(-1)[i])
        expected.view(-1)[i] = max(sides[0] - g, g - sides[1], 0.0)
    rounding = 16 * torch.finfo(w.dtype).eps * (1 + float(penalty.value(w))) / h
    torch.testing.assert_close(penalty.distance(w, grad), expected, rtol=0, atol=rounding)


def steepest(case: Case, penalty: Penalty) -> float:
    """What a slope that falls is a difference of: it rounds at the size of the slope at zero."""
    return 0.0 if case.convex else penalty.strength


def test_the_gradient_of_the_value_is_a_subgradient(
    case: Case, penalty: Penalty, w: Tensor
) -> None:
    w.requires_grad_()
    (grad,) = torch.autograd.grad(penalty(w), w)
    eps = torch.finfo(w.dtype).eps
    rounding = 4 * eps * (grad.abs() + steepest(case, penalty))
    assert bool((penalty.distance(w, -grad) <= rounding).all())


@pytest.mark.parametrize("case", CONVEX, ids=str)
def test_the_value_lies_above_its_tangents(penalty: Penalty) -> None:
    w = sample(4, 6).requires_grad_()
    (grad,) = torch.autograd.grad(penalty(w), w)
    for spread in (1e-3, 1.0, 100.0):
        z = w.detach() + spread * sample(4, 6)
        tangent = penalty.value(w) + (grad * (z - w)).sum()
        assert penalty.value(z) >= tangent - 1e-14 * (1 + tangent.abs())  # 64 eps


def test_slope_is_the_gradient_at_a_kept_stationary_weight(penalty: Penalty) -> None:
    w = sample(4, 6).requires_grad_()
    (grad,) = torch.autograd.grad(penalty(w), w)
    slope = torch.as_tensor(penalty.slope(w)).expand(w.shape)
    sloping = grad != 0
    torch.testing.assert_close(slope[sloping], grad.abs()[sloping], check_dtype=False)
    # A kept weight that costs nothing more: whatever the slope bounds, it stays as it is, or goes.
    for step in (1e-3, 0.7, 30.0):
        z = penalty.prox(w.detach(), step)
        assert bool(((z == w) | (z == 0))[~sloping].all())


@pytest.mark.parametrize("case", ZEROING, ids=str)
def test_critical_strength_is_the_edge(case: Case, step: float | Tensor, w: Tensor) -> None:
    """Of a prox that is convex: of concave penalties, where the step is small enough."""
    step = step if case.convex else 0.01 * step
    zero, grad = torch.zeros_like(w), torch.randn_like(w)
    edge = case.make(0.1).critical_strength(grad)
    assert edge == case.make(5.0).critical_strength(grad)
    above = case.make(1.001 * edge)
    assert not above.distance(zero, grad).any()
    assert not above.prox(zero - step * grad, step).any()
    if w.numel():
        below = case.make(0.999 * edge)
        assert below.distance(zero, grad).any()
        assert below.prox(zero - step * grad, step).any()


def test_critical_strength_without_a_gradient_is_zero(case: Case) -> None:
    assert case.make(0.3).critical_strength(torch.zeros(3)) == 0
    assert case.make(0.3).critical_strength(torch.zeros(0)) == 0


IN_CLOSED_FORM = {
    *("L1", "ElasticNet-l2-half-of-l1", "ElasticNet-l2-fourfold", "WeightedL1", "LHalf", "L0"),
    *("MCP", "MCP-steep", "SCAD", "SCAD-steep", "GroupLasso", "GroupL0"),
}


def test_the_zeroing_factor_is_the_edge_of_the_prox(
    case: Case, w: Tensor, step: float | Tensor
) -> None:
    step = torch.as_tensor(step, dtype=w.dtype)
    factors = case.make(0.3).zeroing_factor(w, step)
    assert (factors is not None) == (case.name in IN_CLOSED_FORM)
    if factors is None:
        return
    assert factors.shape == w.shape
    for i in (w != 0).flatten().nonzero().flatten().tolist():
        factor = factors.flatten()[i].item()
        below, above = (case.make(0.3 * factor * f).prox(w, step) for f in (1 - 1e-4, 1 + 1e-4))
        assert below.flatten()[i] != 0
        assert above.flatten()[i] == 0


def test_what_is_kept_is_nonzero_after_the_prox_and_groups_are_kept_whole(case: Case) -> None:
    w, step = torch.randn(8, 8), torch.rand(8, 8) + 0.1
    penalty = case.make(0.3)
    nonzero = penalty.prox(w, step) != 0
    assert torch.equal(penalty.keeps(w, step), nonzero)
    w[:, ::2] = 0.0
    nonzero = penalty.prox(w, step) != 0
    found = penalty.keeps(w, step)
    if not (isinstance(penalty, Grouped) and penalty.whole):
        assert torch.equal(found, nonzero)
        return
    by_group = penalty.groups(nonzero).any(1, keepdim=True)
    assert torch.equal(penalty.groups(found), by_group.expand_as(penalty.groups(found)))
    assert penalty.keeps(torch.zeros(4, 0), 1.0).shape == (4, 0)


@pytest.mark.parametrize("name", sorted(IN_CLOSED_FORM))
def test_the_zeroing_factor_is_infinite_at_a_step_of_zero(name: str) -> None:
    (case,) = (c for c in CASES if c.name == name)
    found = case.make(0.3).zeroing_factor(torch.ones(2, 3), torch.tensor(0.0))
    assert found is not None
    assert bool((found == torch.inf).all())


def test_the_zeroing_factor_of_held_and_free_weights() -> None:
    penalty = WeightedL1(0.5, torch.tensor([0.0, 1.0, torch.inf]))
    for step in (0.0, 2.0, torch.inf):
        found = penalty.zeroing_factor(torch.ones(3), torch.tensor(step)).tolist()
        assert found == [torch.inf, torch.inf if step == 0 else 1 / (0.5 * step), 0.0]


def test_no_finite_l2_makes_zero_stationary() -> None:
    assert L2(0.1).critical_strength(torch.tensor([0.0, 1e-30])) == math.inf
    assert L2(1e6).distance(torch.zeros(1), torch.ones(1)) == 1


def test_values_are_the_written_formulas() -> None:
    w = torch.tensor([[-2.0, 0.0, 0.5]])
    assert L1(0.5)(w) == 0.5 * 2.5
    assert L2(0.5)(w) == 0.5 * 4.25
    assert ElasticNet(0.5, 0.25)(w) == 0.5 * 2.5 + 0.25 * 4.25


def test_elastic_net_reduces_to_its_parts(w: Tensor, step: float | Tensor) -> None:
    grad = torch.randn_like(w)
    for part, whole in [(L1(0.4), ElasticNet(0.4, 0.0)), (L2(0.4), ElasticNet(0.0, 0.4))]:
        assert torch.equal(part.value(w), whole.value(w))
        assert torch.equal(part.prox(w, step), whole.prox(w, step))
        # L2 leaves out the additions of 0.
        torch.testing.assert_close(part.distance(w, grad), whole.distance(w, grad))
        assert part.strength == whole.strength


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_from_weight_decay_is_what_torch_adds(momentum: float) -> None:
    start, target, penalty = sample(7), sample(7), L2.from_weight_decay(0.3)
    ends = []
    for weight_decay, extra in [(0.3, None), (0.0, penalty)]:
        w = nn.Parameter(start.clone())
        sgd = torch.optim.SGD([w], lr=0.1, momentum=momentum, weight_decay=weight_decay)
        for _ in range(5):
            sgd.zero_grad()
            loss = (w - target).pow(4).sum() / 100
            (loss if extra is None else loss + extra(w)).backward()
            sgd.step()
        ends.append(w.detach())
    torch.testing.assert_close(*ends)
    assert penalty.weight_decay == 0.3
    assert penalty.l2 == 0.15


@pytest.mark.parametrize(("alpha", "l1_ratio"), [(0.3, 0.5), (0.1, 1.0), (0.2, 0.05)])
def test_from_alpha_has_the_optimum_of_scikit_learn(alpha: float, l1_ratio: float) -> None:
    x, y = sample(60, 8), sample(60)
    model = sklearn.linear_model.ElasticNet(
        alpha=alpha, l1_ratio=l1_ratio, fit_intercept=False, tol=1e-14, max_iter=100_000
    )
    w = torch.from_numpy(model.fit(x.numpy(), y.numpy()).coef_)
    grad = x.T @ (x @ w - y) / len(y)  # of 1/(2n) ||y - xw||^2
    # The tolerance bounds the duality gap relative to ||y||^2; w is known to its root.
    assert ElasticNet.from_alpha(alpha, l1_ratio).distance(w, grad).max() < 1e-6
    penalty = alpha * (l1_ratio * w.abs().sum() + (1 - l1_ratio) / 2 * w.square().sum())
    torch.testing.assert_close(ElasticNet.from_alpha(alpha, l1_ratio)(w), penalty)
    assert ElasticNet.from_alpha(alpha, l1_ratio).to_alpha() == pytest.approx((alpha, l1_ratio))


def test_from_keras_is_the_same_numbers_without_a_half() -> None:
    w = sample(9)
    expected = 0.01 * w.abs().sum() + 0.02 * w.square().sum()
    torch.testing.assert_close(ElasticNet.from_keras(l1=0.01, l2=0.02)(w), expected)
    assert ElasticNet.from_keras(l2=0.1)(w) == L2(0.1)(w)
    assert ElasticNet.from_keras(l1=0.1)(w) == L1(0.1)(w)


@pytest.mark.parametrize("bad", [(-0.1, 0.5), (0.1, 1.5), (0.1, -0.5), (math.nan, 0.5)])
def test_from_alpha_refuses_what_scikit_learn_refuses(bad: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"alpha|l1_ratio"):
        ElasticNet.from_alpha(*bad)


@pytest.mark.parametrize("weights", SMALL)
def test_complex_prox_is_the_minimum_over_both_parts(
    penalty: Penalty, weights: list[float]
) -> None:
    pair = torch.tensor(weights, dtype=torch.float64)
    z = torch.view_as_real(penalty.prox(torch.view_as_complex(pair), 0.7))
    assert_minimises(z, lambda v: penalty.value(torch.view_as_complex(v)), pair, 0.7)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_weights_keep_the_laws(case: Case, penalty: Penalty, dtype: torch.dtype) -> None:
    w = sample(4, 6, dtype=dtype)
    eps = torch.finfo(dtype).eps
    z = penalty.prox(w, 0.7)
    # As for real ones, with the roundings of a modulus and a phase.
    assert bool((penalty.distance(z, (z - w) / 0.7) <= 8 * eps * w.abs() / 0.7).all())
    assert torch.equal(penalty.prox(w, 0.0), w)
    assert not z[w == 0].any()
    w.requires_grad_()
    (grad,) = torch.autograd.grad(penalty(w), w)
    rounding = 8 * eps * (grad.abs() + steepest(case, penalty))
    assert bool((penalty.distance(w, -grad) <= rounding).all())


@pytest.mark.parametrize("steps", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64, torch.complex64])
def test_the_prox_has_the_precision_of_the_weight(
    case: Case, dtype: torch.dtype, steps: torch.dtype
) -> None:
    w, step = torch.randn(8, 8).to(dtype), (torch.rand(8, 8) + 0.1).to(steps)
    found = case.make(0.3).prox(w, step)
    assert found.dtype == dtype
    wide = torch.promote_types(dtype, torch.float64)
    exact = case.make(0.3).prox(w.to(wide), step.double())
    coarser = max(torch.finfo(kind).eps for kind in (dtype, steps))
    torch.testing.assert_close(found.to(wide), exact, atol=8 * coarser, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [0.1, 300.0])
def test_half_precision_is_summed_in_float32(case: Case, dtype: torch.dtype, size: float) -> None:
    w = torch.full((4096,), size).to(dtype).requires_grad_()
    value = case.make(0.3)(w)
    assert value.dtype == torch.float32
    # float32 roundings in each term and in a sum of 12 levels; a half has eps of 1e-3 and more.
    exact = float(case.make(0.3).value(w.detach().double()))
    assert float(value.detach()) == pytest.approx(exact, rel=16 * torch.finfo(torch.float32).eps)
    assert torch.autograd.grad(value, w)[0].dtype == dtype


@pytest.mark.parametrize("step", [-0.1, math.nan, torch.ones(3), torch.ones(1), torch.ones(3, 2)])
def test_bad_steps_are_refused(case: Case, step: float | Tensor) -> None:
    with pytest.raises(ValueError, match="expected a step"):
        case.make(0.3).prox(torch.ones(2, 3), step)


def strength(kind: type[Penalty], name: str, value: Any) -> Penalty:
    strengths: dict[str, Any] = {"l1": 0.1, "l2": 0.1} if kind is ElasticNet else {}
    return kind(**strengths | {name: value})


ATTRIBUTES = [(L1, "l1"), (L2, "l2"), (ElasticNet, "l1"), (ElasticNet, "l2")]
BAD = [(-0.1, ValueError), (math.nan, ValueError), (math.inf, ValueError), ("0.1", TypeError)]
BAD += [(None, TypeError), (True, TypeError), (torch.ones(2), TypeError), (1j, TypeError)]


@pytest.mark.parametrize(("kind", "name"), ATTRIBUTES)
@pytest.mark.parametrize(("bad", "error"), BAD)
def test_bad_strengths_are_refused_now_and_later(
    kind: type[Penalty], name: str, bad: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match=f"{name} must be"):
        strength(kind, name, bad)
    penalty = strength(kind, name, 0.25)
    with pytest.raises(error, match=f"{name} must be"):
        setattr(penalty, name, bad)
    assert getattr(penalty, name) == 0.25


@pytest.mark.parametrize(("kind", "name"), ATTRIBUTES)
@pytest.mark.parametrize("good", [2, torch.tensor(2.0), torch.tensor([2.0]), np.float32(2), 0])
def test_any_number_is_a_strength_and_can_be_assigned(
    kind: type[Penalty], name: str, good: Any
) -> None:
    penalty = strength(kind, name, 0.25)
    setattr(penalty, name, good)
    assert repr(penalty) == repr(strength(kind, name, good))
    assert type(getattr(penalty, name)) is float
    assert penalty(torch.tensor([3.0])) == strength(kind, name, float(good))(torch.tensor([3.0]))


def test_a_penalty_adds_nothing_to_a_checkpoint(case: Case) -> None:
    penalty = case.make(0.3)
    assert penalty.state_dict() == {}
    assert list(penalty.parameters()) == list(penalty.buffers()) == []


def test_a_penalty_is_copied_and_pickled_whole(case: Case) -> None:
    penalty, w = case.make(0.3), sample(3, 2)
    for twin in (copy.deepcopy(penalty), pickle.loads(pickle.dumps(penalty))):
        assert repr(twin) == repr(penalty)
        assert torch.equal(twin(w), penalty(w))


def test_forward_takes_a_tensor_a_mapping_and_any_iterable(case: Case) -> None:
    penalty, a, b = case.make(0.3), sample(3, 2), sample(4)
    both = penalty.value(a) + penalty.value(b)
    assert penalty(a) == penalty.value(a)
    for weights in ({"a": a, "b": b}, [a, b], (a, b), iter([a, b]), {"a": a, "b": b}.values()):
        assert penalty(weights) == both


def test_an_exhausted_generator_warns(case: Case) -> None:
    weights: Iterator[nn.Parameter] = nn.Linear(2, 2).parameters()
    assert case.make(0.3)(weights) > 0
    with pytest.warns(UserWarning, match="penalises nothing: it was given no tensor"):
        assert case.make(0.3)(weights) == 0


def test_what_is_no_tensor_is_refused_with_the_mend(case: Case) -> None:
    wrong: list[Any] = [nn.Linear(2, 2), nn.ModuleList([nn.Linear(2, 2)]), 3.0, None]
    for weights in wrong:
        with pytest.raises(TypeError, match=r"torchreg\.select\(model\)"):
            case.make(0.3)(weights)
    for weights in ([nn.Linear(2, 2)], [0.1], "abc", {"a": None}, nn.Linear(2, 2).named_parameters):
        with pytest.raises(TypeError, match="expected"):
            case.make(0.3)(weights)


def test_fixed_support_is_the_projection_in_every_metric(w: Tensor, step: float | Tensor) -> None:
    penalty = FixedSupport(torch.rand(w.shape) > 0.5)
    for one in (step, 0.0, math.inf):
        z = penalty.prox(w, one)
        assert torch.equal(z, w * penalty.kept)
        assert z.dtype == w.dtype
    assert penalty(z) == 0
    assert not penalty.distance(z, (z - w) / step).any()
    assert torch.equal(penalty.distance(z, w), w.abs() * penalty.kept)


@pytest.mark.parametrize("weights", SMALL)
@pytest.mark.parametrize("metric", PAIRED_STEPS, ids=["float", "per coordinate"])
@pytest.mark.parametrize("kept", [[True, False], [False, False], [False, True]])
def test_fixed_support_is_the_minimum_found_by_brute_force(
    weights: list[float], metric: float | Tensor, kept: list[bool]
) -> None:
    w, penalty = torch.tensor(weights, dtype=torch.float64), FixedSupport(torch.tensor(kept))
    assert_minimises(penalty.prox(w, metric), penalty.value, w, metric)


def test_fixed_support_costs_infinity_outside_and_nothing_inside() -> None:
    mask = torch.tensor([True, False])
    penalty = FixedSupport(mask)
    mask.fill_(True)  # its own copy: a mask that is changed later changes nothing
    assert penalty(torch.tensor([5.0, 0.0])) == 0
    assert penalty.prox(torch.tensor([5.0, math.inf]), 0.1).tolist() == [5.0, 0.0]
    assert penalty(torch.tensor([0.0, 1e-30])) == math.inf
    assert penalty.critical_strength(torch.tensor([0.0, 9.0])) == 0
    assert penalty.critical_strength(torch.tensor([1e-30, 0.0])) == math.inf
    assert torch.equal(copy.deepcopy(penalty).kept, penalty.kept)
    assert penalty.state_dict() == {}
    with pytest.raises(ValueError, match=r"shaped \(2,\), the weight \(2, 1\)"):
        penalty(torch.zeros(2, 1))


@pytest.mark.parametrize("bad", [torch.ones(2), [True, False], None])
def test_fixed_support_takes_bools_only(bad: Any) -> None:
    with pytest.raises(TypeError, match="tensor of bools"):
        FixedSupport(bad)
