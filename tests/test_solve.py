"""The certified solver, beside outside solvers and its own certificates."""

import copy
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.linear_model import ElasticNet, Ridge
from torch import Tensor, nn

import torchreg as tr
from tests.convex import fista
from torchreg.solver.active import active_set
from torchreg.solver.factor import Factor
from torchreg.solver.gap import duality_gap


def table(load: object) -> tuple[Tensor, Tensor]:
    x, y = load(return_X_y=True)  # type: ignore[operator]
    x = torch.from_numpy(np.asarray(x, dtype=np.float64))
    deviation = x.std(dim=0)
    x = (x - x.mean(dim=0)) / torch.where(deviation > 0, deviation, 1.0)
    return x, torch.from_numpy(y)


def zeros(features: int, outputs: int = 1, *, bias: bool = True) -> nn.Linear:
    model = nn.Linear(features, outputs, bias=bias, dtype=torch.float64)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1])
@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_least_squares_agrees_with_scikit_learn(share: float, shift: float) -> None:
    x, y = table(load_diabetes)
    y = y.double() + shift
    weight = torch.rand(len(y), dtype=torch.float64)
    theirs = ElasticNet(2.0, l1_ratio=share, tol=1e-14, max_iter=100_000)
    theirs.fit(x.numpy(), y.numpy(), sample_weight=weight.numpy())
    model = zeros(x.shape[1])
    regularizer = tr.Regularizer(model, tr.ElasticNet.from_alpha(2.0, share))
    loss = tr.LeastSquares(x, y, sample_weight=weight)
    found = tr.solve(regularizer, loss, tolerance=1e-9)
    np.testing.assert_allclose(model.weight[0].detach(), theirs.coef_, atol=1e-6)
    np.testing.assert_allclose(model.bias.item(), theirs.intercept_, rtol=1e-9)
    certified = tr.stationarity(regularizer, lambda: loss(model)).residual
    assert found.converged
    assert certified <= 1e-8
    assert found.gap is not None
    assert found.gap <= 1e-6 * found.objective


@pytest.mark.parametrize("quick", [True, False])
def test_multinomial_agrees_with_the_oracle(quick: bool) -> None:
    from experiments.exactness import digits

    x, y = digits()
    optimum, weight = fista(5e-3, 0.0)
    model = zeros(64, 10)
    loss = tr.Logistic(x, y)
    found = tr.solve(
        tr.Regularizer(model, tr.L1(5e-3)), loss if quick else lambda: loss(model), tolerance=1e-7
    )
    assert found.converged
    assert found.objective == pytest.approx(optimum, abs=1e-10)
    torch.testing.assert_close(model.weight.detach(), weight, atol=1e-5, rtol=0)
    assert torch.equal(model.weight == 0, weight == 0)


@pytest.mark.parametrize("load", [load_breast_cancer, load_wine, load_digits])
def test_both_ways_and_their_certificates_agree(load: object) -> None:
    x, y = table(load)
    rows = torch.randperm(len(x))[:150]
    loss = tr.Logistic(x[rows], y[rows])
    for penalty in (tr.L1(0.02), tr.ElasticNet(0.02, 0.01), tr.L2(0.05)):
        quick, slow = zeros(x.shape[1], loss.y.shape[1]), zeros(x.shape[1], loss.y.shape[1])
        one = tr.solve(tr.Regularizer(quick, penalty), loss, tolerance=1e-9)
        other = tr.solve(tr.Regularizer(slow, penalty), lambda: loss(slow), tolerance=1e-7)  # noqa: B023
        assert one.objective == pytest.approx(other.objective, rel=1e-9)
        assert one.gap is not None
        assert -1e-12 <= one.gap <= 1e-7
        torch.testing.assert_close(quick.weight, slow.weight, atol=2e-5, rtol=0)


def test_the_gap_bounds_the_distance_from_the_optimum() -> None:
    x, y = table(load_wine)
    offset = torch.randn(len(y), 3, dtype=torch.float64)
    loss = tr.Logistic(x, y, sample_weight=torch.rand(len(y)), offset=offset)
    for l1, l2 in ((0.03, 0.0), (0.03, 0.01), (0.0, 0.02)):
        model = zeros(13, 3)
        best = tr.solve(tr.Regularizer(model, tr.ElasticNet(l1, l2)), loss, tolerance=1e-10)
        for size in (0.0, 1e-3, 0.1):
            noise = size * torch.randn_like(model.weight)
            weight = model.weight.detach() + noise
            z = x @ weight.T + offset
            z = z + loss.fit_intercept(z)
            gradient = (loss.share[:, None] * loss.slope(z)).T @ x
            objective, gap = duality_gap(loss, z, gradient, weight, l1, l2)
            assert gap is not None
            assert objective - best.objective <= gap + 1e-12


def test_more_features_than_samples() -> None:
    x = torch.randn(60, 400, dtype=torch.float64)
    x[:, 7] = x[:, 3]  # a column twice: no unique solution, but one optimum
    y = x[:, 3] * 3 - x[:, 50] + 0.1 * torch.randn(60, dtype=torch.float64) + 5
    theirs = ElasticNet(0.05, l1_ratio=1.0, tol=1e-14, max_iter=1_000_000).fit(x, y)
    optimum = 0.5 * np.mean((y.numpy() - theirs.predict(x)) ** 2) + 0.05 * abs(theirs.coef_).sum()
    found = tr.solve(tr.Regularizer(zeros(400), tr.L1(0.05)), tr.LeastSquares(x, y))
    assert found.objective == pytest.approx(optimum, rel=1e-9)
    assert found.converged


def test_ridge_has_its_closed_form() -> None:
    x, y = table(load_diabetes)
    theirs = Ridge(3.0 * len(y)).fit(x.numpy(), y.numpy())
    model = zeros(10)
    tr.solve(tr.Regularizer(model, tr.L2.from_weight_decay(3.0)), tr.LeastSquares(x, y.double()))
    np.testing.assert_allclose(model.weight[0].detach(), theirs.coef_, atol=1e-6)


def test_any_penalty_and_a_model_of_several_layers() -> None:
    x, y = table(load_wine)
    model = nn.Sequential(nn.Linear(13, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    regularizer = tr.Regularizer(
        model, {"0.weight": tr.GroupLasso(0.02, groups=tr.columns), "2.weight": tr.L2(1e-2)}
    )
    found = tr.solve(regularizer, tr.Logistic(x, y), tolerance=1e-3)
    assert found.converged
    assert found.gap is None
    residual = tr.stationarity(regularizer, lambda: nn.functional.cross_entropy(model(x), y))
    assert residual.residual <= 1e-3


def test_float32_comes_within_its_rounding() -> None:
    x, y = table(load_breast_cancer)
    wide, narrow = zeros(30), zeros(30).float()
    best = tr.solve(tr.Regularizer(wide, tr.L1(0.01)), tr.Logistic(x, y))
    found = tr.solve(tr.Regularizer(narrow, tr.L1(0.01)), tr.Logistic(x.float(), y))
    assert found.converged
    assert found.objective == pytest.approx(best.objective, rel=1e-6)


def test_the_active_set_reaches_the_optimum_of_a_singular_quadratic() -> None:
    a = torch.randn(15, 40, dtype=torch.float64)
    h, q = a.T @ a, a.T @ torch.randn(15, dtype=torch.float64)
    l1 = torch.full((40,), 0.5, dtype=torch.float64)
    l1[0] = 0.0
    b = active_set(h, q, l1, torch.zeros_like(q), tolerance=1e-10, eps=1e-16)
    slope = h @ b - q
    far = torch.where(b == 0, (slope.abs() - l1).clamp(min=0), (slope + l1 * b.sgn()).abs())
    assert float(far.max()) < 1e-8


def test_a_held_factor_solves_the_choices_that_follow() -> None:
    a = torch.randn(80, 60, dtype=torch.float64)
    h, right = a.T @ a, torch.randn(60, dtype=torch.float64)
    factor = Factor(h, 1e-16)
    chosen, near, held = torch.arange(60) < 40, torch.zeros(60, dtype=torch.float64), []
    for round_ in range(12):
        found = factor.solve(right, chosen, near)
        at = chosen.nonzero().squeeze(1)
        exact = torch.linalg.solve(h[at][:, at], right[at])
        torch.testing.assert_close(found[at], exact, rtol=1e-9, atol=1e-12)
        assert not bool(found[~chosen].any())
        held.append(factor.rows)
        chosen[(7 * round_) % 40] ^= True  # one goes,
        chosen[40 + round_] ^= True  # and another comes
    assert 1 < len({id(rows) for rows in held}) < 6  # a factor serves some choices, not all
    # A row twice: the one of the many solutions that is nearest to a given point.
    h[:, 1], h[1] = h[:, 0], h[0]
    h[1, 1], right[1] = h[0, 0], right[0]
    near[:2] = torch.tensor([3.0, 1.0])
    factor = Factor(h, 1e-16)
    for pair in (torch.arange(60) < 40, torch.arange(60) < 41):
        found = factor.solve(right, pair, near)
        # The damping is 4 n times the rounding, which may move it by as much as one part in 4 n.
        assert float(found[0] - found[1]) == pytest.approx(2.0, abs=2 / 160)
        torch.testing.assert_close((h @ found)[pair], right[pair], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_separable_classes_without_a_penalty_have_no_solution(dtype: torch.dtype) -> None:
    x = torch.randn(80, 3, generator=torch.Generator().manual_seed(0), dtype=dtype)
    two, three = (x[:, 0] > 0.2).long(), x.argmax(dim=1)
    exchanged = torch.cat([two[:6] ^ 1, two[6:]]), torch.cat([three[:6].roll(1), three[6:]])

    def found(x: Tensor, y: Tensor, outputs: int, penalty: tr.penalties.Penalty) -> tr.Solution:
        model = zeros(3, outputs).to(dtype)
        return tr.solve(tr.Regularizer(model, penalty), tr.Logistic(x, y, outputs=outputs))

    for outputs, separable, mixed in ((1, two, exchanged[0]), (3, three, exchanged[1])):
        free = tr.FixedSupport(torch.ones(outputs, 3, dtype=torch.bool))
        with pytest.warns(tr.NotConverged, match="separable"):
            assert not found(x, separable, outputs, free).converged
        assert found(x, mixed, outputs, free).converged
        assert found(x, separable, outputs, tr.L2(1e-3)).converged  # held by a penalty


def test_separation_is_what_a_linear_program_says() -> None:
    """Complete and quasi-complete separation, over random small sets with ties."""
    seen = []
    for seed in range(40):
        draws = torch.Generator().manual_seed(seed)
        x = torch.randint(-2, 3, (8 + seed % 5, 2), generator=draws).double()
        y = (x[:, 0] + torch.randn(len(x), generator=draws) > 0).long()
        if len(y.unique()) == 1:
            continue
        ones = torch.ones_like(x[:, :1])
        signed = (torch.cat([x, ones], dim=1) * (2 * y - 1).unsqueeze(1)).numpy()
        program = linprog(
            -signed.sum(axis=0), A_ub=-signed, b_ub=np.zeros(len(x)), bounds=[(-1, 1)] * 3
        )
        endless = program.fun < -1e-9  # a direction that hurts no sample and helps one
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", tr.NotConverged)
            free = tr.FixedSupport(torch.ones(1, 2, dtype=torch.bool))
            found = tr.solve(tr.Regularizer(zeros(2), free), tr.Logistic(x, y))
        assert found.converged == (not endless), seed
        assert ["separable" in str(w.message) for w in said] == [True] * endless
        seen.append(endless)
    assert 5 < sum(seen) < len(seen) - 5


def test_a_class_without_samples_has_no_intercept() -> None:
    x, y = table(load_wine)
    y = 2 * (y == 1).long()  # classes 0 and 2 of three
    loss = tr.Logistic(x, y, outputs=3)
    regularizer = tr.Regularizer(zeros(13, 3), tr.L1(0.01))
    for call in (tr.solve, tr.critical_strength):
        with pytest.raises(ValueError, match=r"no sample of class \[1\]"):
            call(regularizer, loss)
    assert tr.solve(tr.Regularizer(zeros(13, 3, bias=False), tr.L1(0.01)), loss).converged


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_float32_stops_where_rounding_does(share: float) -> None:
    x, y = table(load_digits)
    for strength in (4e-3, 3e-4):  # the second is below what float32 resolves
        penalty = tr.ElasticNet.from_alpha(strength, share)
        wide, narrow = zeros(64, 10), zeros(64, 10).float()
        best = tr.solve(tr.Regularizer(wide, penalty), tr.Logistic(x, y))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = tr.solve(tr.Regularizer(narrow, penalty), tr.Logistic(x.float(), y))
        assert found.converged == (found.residual <= 1e-4)
        assert [w.category for w in said] == ([] if found.converged else [tr.NotConverged])
        assert found.residual < 1e-3
        assert found.objective == pytest.approx(best.objective, rel=1e-6)
        assert found.iterations <= best.iterations + 6  # and does not go round and round there


def test_refit_lifts_the_shrinkage_and_keeps_the_zeros() -> None:
    x, y = table(load_diabetes)
    model = zeros(10)
    regularizer, loss = tr.Regularizer(model, tr.L1(5.0)), tr.LeastSquares(x, y.double())
    tr.solve(regularizer, loss)
    kept = (model.weight[0] != 0).detach()
    assert 0 < int(kept.sum()) < 10
    tr.refit(regularizer, loss)
    columns = torch.cat([x[:, kept], torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
    exact = torch.linalg.lstsq(columns, y.double().unsqueeze(1)).solution[:, 0]
    torch.testing.assert_close(model.weight[0, kept], exact[:-1], atol=1e-6, rtol=0)
    assert not bool(model.weight[0, ~kept].any())


def test_polish_solves_the_last_layer_alone() -> None:
    x, y = table(load_wine)
    model = nn.Sequential(
        nn.Linear(13, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.Dropout(), nn.Linear(30, 3)
    ).double()
    before = copy.deepcopy(model.state_dict())
    found = tr.polish(model, tr.L1(0.02), [(x[:100], y[:100]), (x[100:], y[100:])])
    assert found.converged
    assert model.training
    model.eval()
    head = tr.Regularizer(model[-1], tr.L1(0.02))
    features = model[:-1](x).detach()
    loss = nn.functional.cross_entropy(model[-1](features), y)
    assert tr.stationarity(head, loss).residual < 1e-5
    for name, tensor in model.state_dict().items():
        assert name.startswith("4.") or torch.equal(tensor, before[name])


def test_polish_takes_labels_in_a_list_and_refuses_a_frozen_layer() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    batches = [(torch.randn(20, 4), [0, 1] * 10)]
    assert tr.polish(model, tr.L1(0.02), batches).converged
    model.requires_grad_(False)
    with pytest.raises(ValueError, match=r"is frozen.*requires_grad_\(\) on the layer"):
        tr.polish(model, tr.L1(0.02), batches)


def test_it_says_what_is_wrong() -> None:
    x, y = table(load_wine)
    model = zeros(13, 3)
    regularizer = tr.Regularizer(model, tr.L1(1e-3))
    with pytest.warns(tr.NotConverged, match="stopped before its tolerance"):
        assert not tr.solve(regularizer, tr.Logistic(x, y), iterations=1).converged
    with pytest.warns(tr.NotConverged):
        tr.solve(regularizer, lambda: nn.functional.cross_entropy(model(x), y), iterations=2)
    with pytest.raises(ValueError, match="not finite"):
        tr.solve(regularizer, lambda: model.weight.sum() * float("nan"))
    with pytest.raises(ValueError, match="finite"):
        tr.LeastSquares(x * float("inf"), y.double())
    with pytest.raises(ValueError, match="one class"):
        tr.Logistic(x, torch.ones_like(y))
    with pytest.raises(ValueError, match="one class"):
        tr.Logistic(x, y, sample_weight=(y == 1).double())
    with pytest.raises(ValueError, match="float64"):
        tr.solve(tr.Regularizer(zeros(13, 3).float(), tr.L1(1e-3)), tr.Logistic(x, y))
    with pytest.raises(ValueError, match="duality gap is known"):
        tr.solve(regularizer, lambda: nn.functional.cross_entropy(model(x), y), gap=1e-6)
    with pytest.raises(TypeError, match="Regularizer"):
        tr.solve(tr.L1(0.1), tr.Logistic(x, y))  # type: ignore[arg-type]


def test_the_objective_falls_along_the_rounds() -> None:
    x, y = table(load_digits)
    objectives = []
    for rounds in (1, 2, 3, 4):
        model = zeros(64, 10)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", tr.NotConverged)
            found = tr.solve(
                tr.Regularizer(model, tr.L1(0.01)), tr.Logistic(x, y), iterations=rounds
            )
        objectives.append(found.objective)
    assert all(after <= before for before, after in pairwise(objectives))


def test_a_loss_that_has_no_minimum_or_no_model_is_an_error() -> None:
    x, _ = table(load_diabetes)
    model, other = zeros(10), zeros(10)
    nn.init.ones_(model.weight)
    regularizer = tr.Regularizer(model, tr.L1(0.1))
    with pytest.raises(ValueError, match="no minimum"):
        tr.solve(regularizer, lambda: -model(x).square().mean())
    assert bool(torch.isfinite(model.weight).all())
    with pytest.raises(ValueError, match="depends on no parameter"):
        tr.solve(regularizer, lambda: other(x).square().mean())
    with pytest.raises(ValueError, match="gap must be above 0"):
        tr.solve(regularizer, tr.LeastSquares(x, x[:, 0]), gap=float("nan"))
    with pytest.raises(ValueError, match="iterations must be an integer"):
        tr.solve(regularizer, tr.LeastSquares(x, x[:, 0]), iterations=1.5)  # type: ignore[arg-type]
    counted: int = np.int64(50)  # type: ignore[assignment]
    assert tr.solve(regularizer, tr.LeastSquares(x, x[:, 0]), iterations=counted).converged


def test_losses_refuse_data_that_is_none() -> None:
    x, y = torch.randn(6, 3), torch.arange(6) % 2
    for targets in (["a"] * 6, np.array(["a"] * 6), torch.ones(()), torch.ones(6) * 1j):
        with pytest.raises(ValueError, match="the targets must be"):
            tr.LeastSquares(x, targets)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="targets shaped"):
        tr.LeastSquares(x, torch.ones(6, 1, 1))
    with pytest.raises(ValueError, match="at least one feature"):
        tr.LeastSquares(x[:, :0], y)
    with pytest.raises(ValueError, match="floating-point tensor"):
        tr.LeastSquares(x.numpy(), y)  # type: ignore[arg-type]
    for loss in (tr.LeastSquares, tr.Logistic):
        for weight in (torch.full((6,), torch.inf), -torch.ones(6), torch.zeros(6)):
            with pytest.raises(ValueError, match="finite numbers of at least 0"):
                loss(x, y, sample_weight=weight)
        for weight in (torch.ones(3), torch.ones(6, 1)):
            with pytest.raises(ValueError, match=r"sample_weight must be shaped \(6,\)"):
                loss(x, y, sample_weight=weight)
        for offset in (torch.ones(3), torch.ones(6, 2), torch.ones(()), torch.ones(6, 1, 1)):
            with pytest.raises(ValueError, match="expected offsets shaped"):
                loss(x, y, offset=offset)
        with pytest.raises(ValueError, match="offset must be numbers"):
            loss(x, y, offset="a")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="one target per sample"):
            loss(x, y[:5], sample_weight=torch.ones(6))
    for outputs in (0, -1, 2.0):
        with pytest.raises(ValueError, match="outputs must be"):
            tr.Logistic(x, y, outputs=outputs)  # type: ignore[arg-type]


def test_a_sample_without_weight_takes_no_part_whatever_its_label() -> None:
    x, y = table(load_wine)
    odd, weight = y.clone(), torch.ones(len(y))
    odd[0], odd[1], weight[:2] = 9, -1, 0.0
    model, other = zeros(13, 3), zeros(13, 3)
    tr.solve(tr.Regularizer(model, tr.L1(0.02)), tr.Logistic(x, odd, sample_weight=weight))
    tr.solve(tr.Regularizer(other, tr.L1(0.02)), tr.Logistic(x[2:], y[2:]))
    torch.testing.assert_close(model.weight, other.weight, atol=1e-6, rtol=0)


@pytest.mark.parametrize("load", [load_wine, load_breast_cancer])
def test_a_start_far_out_does_not_lead_further_out(load: object) -> None:
    data = load(return_X_y=True)  # type: ignore[operator]
    x, y = torch.from_numpy(data[0]), torch.from_numpy(data[1])  # not scaled: logits of hundreds
    kinds = 1 if int(y.max()) == 1 else 3
    best = tr.solve(tr.Regularizer(zeros(x.shape[1], kinds), tr.L1(0.01)), tr.Logistic(x, y))
    for bias in (True, False):
        for seed in range(2):
            torch.manual_seed(seed)
            model = nn.Linear(x.shape[1], kinds, bias=bias).double()
            found = tr.solve(tr.Regularizer(model, tr.L1(0.01)), tr.Logistic(x, y))
            assert found.converged
            assert not bias or found.objective == pytest.approx(best.objective, rel=1e-6)
    model = zeros(x.shape[1], kinds)
    with torch.no_grad():
        model.bias[0] = 300.0
    found = tr.solve(tr.Regularizer(model, tr.L1(0.01)), tr.Logistic(x, y))
    assert found.objective == pytest.approx(best.objective, rel=1e-6)


@pytest.mark.parametrize("load", [load_wine, load_breast_cancer])
def test_large_offsets_leave_a_solution_to_be_found(load: object) -> None:
    x, y = table(load)
    kinds = 1 if int(y.max()) == 1 else 3
    regularizer = tr.Regularizer(zeros(x.shape[1], kinds), tr.L1(0.01))
    best = tr.solve(regularizer, tr.Logistic(x, y))
    far = torch.zeros(len(x), kinds, dtype=x.dtype)
    far[:, 0] = 300.0  # the intercept takes it back
    regularizer = tr.Regularizer(zeros(x.shape[1], kinds), tr.L1(0.01))
    found = tr.solve(regularizer, tr.Logistic(x, y, offset=far))
    assert found.objective == pytest.approx(best.objective, rel=1e-6)
    wild = 30 * torch.randn(far.shape, dtype=x.dtype, generator=torch.manual_seed(0))
    regularizer = tr.Regularizer(zeros(x.shape[1], kinds), tr.L1(0.01))
    assert tr.solve(regularizer, tr.Logistic(x, y, offset=wild)).converged


def test_one_offset_for_all_classes_changes_nothing() -> None:
    x, y = torch.randn(40, 2, dtype=torch.float64), torch.arange(40) % 3
    free = tr.FixedSupport(torch.ones(3, 2, dtype=torch.bool))
    with_it = tr.solve(tr.Regularizer(zeros(2, 3), free), tr.Logistic(x, y, offset=torch.rand(40)))
    without = tr.solve(tr.Regularizer(zeros(2, 3), free), tr.Logistic(x, y))
    assert with_it.objective == pytest.approx(without.objective, rel=1e-9)


def test_the_bound_is_above_the_curvature_anywhere() -> None:
    torch.manual_seed(0)
    for kinds in (1, 2, 3, 7):
        loss = tr.Logistic(
            torch.randn(20, 4, dtype=torch.float64), torch.arange(20) % max(kinds, 2), outputs=kinds
        )
        columns = loss.columns(centred=False)
        columns.gather(torch.arange(4))
        outs, at = torch.ones(kinds, 4).nonzero(as_tuple=True)
        bound = loss.hessian(None, columns, outs, at, intercept=False)
        for size in (0.0, 1.0, 30.0):
            z = size * torch.randn(20, kinds, dtype=torch.float64)
            rest = bound - loss.hessian(z, columns, outs, at, intercept=False)
            assert float(torch.linalg.eigvalsh(rest).min()) > -1e-12
