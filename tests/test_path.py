"""Paths and cross-validation, beside scikit-learn at every point."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.linear_model import LogisticRegression, enet_path
from torch import nn

import torchreg as tr
from tests.test_solve import table, zeros
from torchreg.paths import scaled


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1])
@pytest.mark.parametrize("load", [load_diabetes, load_breast_cancer, load_wine, load_digits])
def test_it_agrees_with_enet_path_at_every_point(load: object, share: float) -> None:
    x, y = table(load)
    y = y.double() + 100  # an offset target: the critical strength is that of the centred one
    centred = (y - y.mean()).numpy()
    model = zeros(x.shape[1])
    regularizer = tr.Regularizer(model, tr.ElasticNet.from_alpha(1.0, share))
    found = tr.path(regularizer, tr.LeastSquares(x, y), points=12, ratio=0.01, tolerance=1e-9)
    assert found.strengths[0] == pytest.approx(abs(x.numpy().T @ centred).max() / len(x) / share)
    alphas, theirs, _ = enet_path(
        x.numpy(), centred, l1_ratio=share, alphas=found.strengths, tol=1e-13, max_iter=1_000_000
    )
    np.testing.assert_allclose(alphas, found.strengths)
    ours = found.coefficients()[:, 0].numpy()
    np.testing.assert_allclose(ours, theirs.T, atol=1e-6)
    assert all(point.solution.converged for point in found)


@pytest.mark.slow
@pytest.mark.parametrize("share", [1.0, 0.5, 0.1])
@pytest.mark.parametrize("load", [load_breast_cancer, load_wine, load_digits])
def test_it_agrees_with_tight_logistic_regression(load: object, share: float) -> None:
    x, y = table(load)
    if load is load_digits:  # three of its digits, one pixel in three: saga is slow
        x, y = x[y < 3][:, 2::3], y[y < 3]
    model = zeros(x.shape[1], 1 if int(y.max()) == 1 else int(y.max()) + 1)
    regularizer = tr.Regularizer(model, tr.ElasticNet.from_alpha(1.0, share))
    ratio = 0.3 if load is load_digits else 0.1  # below, saga takes too long
    found = tr.path(regularizer, tr.Logistic(x, y), points=3, ratio=ratio, tolerance=1e-10)
    theirs = LogisticRegression(
        solver="saga", tol=1e-10, max_iter=100_000, l1_ratio=share, random_state=0
    )
    for point in found.points[1:]:  # at the first, all is near zero, and saga's tolerance relative
        theirs.set_params(C=1 / (len(x) * point.strength)).fit(x.numpy(), y.numpy())
        np.testing.assert_allclose(point.state["weight"], theirs.coef_, atol=1e-6)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1])
@pytest.mark.parametrize("load", [load_diabetes, load_breast_cancer, load_wine, load_digits])
def test_the_critical_strength_is_the_edge(load: object, share: float) -> None:
    x, y = table(load)
    weight = torch.rand(len(y), dtype=torch.float64) + 0.1
    if load is load_diabetes:
        offset = 100 * torch.randn(len(y), dtype=torch.float64)
        loss: tr.LeastSquares | tr.Logistic = tr.LeastSquares(
            x, y.double() + 1e4, sample_weight=weight, offset=offset
        )
    else:
        width = 1 if int(y.max()) == 1 else int(y.max()) + 1
        offset = torch.randn(len(y), width, dtype=torch.float64)
        loss = tr.Logistic(x, y, sample_weight=weight, offset=offset)
    model = zeros(x.shape[1], loss.y.shape[1])
    regularizer = tr.Regularizer(model, tr.ElasticNet.from_alpha(1.0, share))
    edge = tr.critical_strength(regularizer, loss)
    above, below = tr.path(regularizer, loss, strengths=[1.001 * edge, 0.999 * edge])
    assert above.nonzero == 0
    assert below.nonzero > 0
    # The general way, from a closure, finds the same edge.
    closed = tr.critical_strength(regularizer, lambda: loss(model))
    assert closed == pytest.approx(edge, rel=1e-6)


@pytest.mark.parametrize("shift", [30.0, 300.0, 3000.0])
@pytest.mark.parametrize("load", [load_breast_cancer, load_wine])
def test_an_offset_that_the_intercept_takes_back_does_not_move_the_edge(
    load: object, shift: float
) -> None:
    x, y = table(load)
    x = x + 2  # centred columns would forgive a wrong intercept
    width = 1 if int(y.max()) == 1 else 3
    offset = torch.zeros(len(y), width, dtype=x.dtype)
    offset[:, 0] = shift
    model = zeros(x.shape[1], width)
    regularizer = tr.Regularizer(model, tr.L1(1.0))
    edge = tr.critical_strength(regularizer, tr.Logistic(x, y))
    moved = tr.critical_strength(regularizer, tr.Logistic(x, y, offset=offset))
    assert moved == pytest.approx(edge, rel=1e-9)


def test_a_group_penalty_and_a_closure() -> None:
    x, y = table(load_wine)
    model = zeros(13, 3)
    regularizer = tr.Regularizer(model, tr.GroupLasso(1.0, groups=tr.columns))
    found = tr.path(
        regularizer, lambda: nn.functional.cross_entropy(model(x), y), points=4, ratio=0.2,
        tolerance=1e-5,
    )  # fmt: skip
    assert found.points[0].nonzero == 0
    used = [len(tr.support(point.state["weight"])) for point in found]
    assert used == sorted(used)
    assert used[1] > 0
    assert all(point.nonzero == 3 * n for point, n in zip(found, used, strict=True))


def test_cross_validation_chooses_and_is_never_weaker_than_the_best() -> None:
    x, y = table(load_diabetes)
    model = zeros(10)
    regularizer = tr.Regularizer(model, tr.L1(1.0))
    loss = tr.LeastSquares(x, y.double())
    found = tr.cross_validate(regularizer, loss, folds=4, points=8)
    assert found.losses.shape == (4, 8)
    assert found.strengths[found.one_standard_error] >= found.strengths[found.best]
    limit = found.mean[found.best] + found.standard_error[found.best]
    assert found.mean[found.one_standard_error] <= limit
    assert torch.equal(model.weight.detach(), found.path.points[found.best].state["weight"])
    # One fold by hand.
    inside, outside = torch.arange(0, 300), torch.arange(300, 442)
    other = tr.cross_validate(
        regularizer, loss, folds=[(inside, outside), (outside, inside)], strengths=[5.0, 1.0]
    )
    fresh = zeros(10)
    tr.solve(tr.Regularizer(fresh, tr.L1(1.0)), tr.LeastSquares(x[inside], y[inside].double()))
    by_hand = 0.5 * (fresh(x[outside])[:, 0] - y[outside]).square().mean()
    assert float(other.losses[0, 1]) == pytest.approx(by_hand.item(), rel=1e-6)


def test_folds_of_classes_keep_their_mix() -> None:
    x, y = table(load_wine)
    seen = []

    def fit(_: tr.Regularizer, loss: tr.Logistic) -> None:
        seen.append(torch.bincount(loss.labels).tolist())

    model = zeros(13, 3)
    with pytest.raises(ValueError, match="folds"):
        tr.cross_validate(tr.Regularizer(model, tr.L1(1.0)), tr.Logistic(x, y), folds=1)
    tr.cross_validate(
        tr.Regularizer(model, tr.L1(1.0)), tr.Logistic(x, y), folds=3, strengths=[1.0], fit=fit
    )
    whole = np.array(seen[0])
    for fold in seen[1:]:
        assert abs(np.array(fold) - whole * 2 / 3).max() <= 1


def test_a_network_goes_from_dense_to_sparse_and_resumes(tmp_path: Path) -> None:
    x, y = table(load_wine)

    def network() -> tr.Regularizer:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(13, 8), nn.ReLU(), nn.Linear(8, 3)).double()
        return tr.Regularizer(model, tr.L1(1.0))

    def closure(regularizer: tr.Regularizer) -> torch.Tensor:
        return nn.functional.cross_entropy(regularizer.model(x), y)

    trained: list[float] = []

    def fit(regularizer: tr.Regularizer, _: object) -> None:
        trained.append(regularizer.terms[0].penalty.strength)
        optimizer = tr.ProximalOptimizer(
            torch.optim.Adam(regularizer.model.parameters(), lr=0.01), regularizer
        )
        for _ in range(60):
            optimizer.zero_grad()
            closure(regularizer).backward()
            optimizer.step()

    grid = [0.1, 0.001, 0.01]
    straight = network()
    whole = tr.path(straight, lambda: closure(straight), strengths=grid, fit=fit)
    assert trained == [0.001, 0.01, 0.1]
    counts = [point.nonzero for point in whole]
    assert counts == sorted(counts, reverse=True)
    last = whole.points[-1].solution  # its certificate is that of the weights as they are
    here = tr.stationarity(scaled(straight, 0.1), closure(straight)).residual
    assert last.residual == pytest.approx(here)
    asked = [
        tr.path(straight, lambda: closure(straight), strengths=[0.1], fit=lambda *_: None,
                tolerance=tolerance)
        for tolerance in (None, 1.01 * here, 0.99 * here)
    ]  # fmt: skip
    assert [found.points[0].solution.converged for found in asked] == [here <= 0.1, True, False]
    with pytest.raises(ValueError, match="convex"):
        tr.path(straight, lambda: closure(straight), strengths=grid, fit=fit, gap=1e-6)

    class Stopped(Exception):
        pass

    def interrupted(regularizer: tr.Regularizer, loss: object) -> None:
        if regularizer.terms[0].penalty.strength > 0.05:
            raise Stopped
        fit(regularizer, loss)

    file = tmp_path / "path.pt"
    first = network()
    with pytest.raises(Stopped):
        tr.path(first, lambda: closure(first), strengths=grid, fit=interrupted, resume=file)
    again = network()
    trained.clear()
    found = tr.path(again, lambda: closure(again), strengths=grid, fit=fit, resume=file)
    assert trained == [0.1]
    for a, b in zip(found, whole, strict=True):
        assert all(torch.equal(a.state[name], b.state[name]) for name in a.state)
    assert [file.name for file in tmp_path.iterdir()] == ["path.pt"]
    with pytest.raises(ValueError, match="other strengths"):
        tr.path(again, lambda: closure(again), strengths=[0.5], fit=fit, resume=file)


def test_progress_is_one_line_a_point_and_off_by_default(
    capsys: pytest.CaptureFixture[str],
) -> None:
    x, y = table(load_diabetes)
    regularizer, loss = tr.Regularizer(zeros(10), tr.L1(1.0)), tr.LeastSquares(x, y.double())
    tr.path(regularizer, loss, points=3)
    tr.path(regularizer, loss, points=3, progress=None)  # no terminal here
    assert capsys.readouterr().err == ""
    tr.path(regularizer, loss, points=3, progress=True)
    assert [line.split(" ")[1] for line in capsys.readouterr().err.splitlines()] == [
        "1/3", "2/3", "3/3",
    ]  # fmt: skip


def unheard() -> torch.Tensor:
    raise AssertionError("solved before the file was found to be impossible")


def test_it_says_what_is_wrong() -> None:
    x, y = table(load_diabetes)
    loss = tr.LeastSquares(x, y.double())
    regularizer = tr.Regularizer(zeros(10), tr.L1(1.0))
    with pytest.raises(ValueError, match="empty"):
        tr.path(regularizer, loss, strengths=[])
    with pytest.raises(ValueError, match="at least one point"):
        tr.path(regularizer, loss, points=0)
    with pytest.raises(ValueError, match="finite and at least 0"):
        tr.path(regularizer, loss, strengths=[-1.0])
    for ratio in (2.0, "a"):
        with pytest.raises(ValueError, match=f"below 1, found {ratio!r}"):
            tr.path(regularizer, loss, ratio=ratio)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no finite strength"):
        tr.critical_strength(tr.Regularizer(zeros(10), tr.L2(1.0)), loss)
    with pytest.raises(ValueError, match="no finite strength"):
        tr.critical_strength(tr.Regularizer(zeros(10), tr.ElasticNet.from_alpha(1.0, 0.0)), loss)
    with pytest.raises(ValueError, match="gradient vanishes"):
        tr.critical_strength(regularizer, tr.LeastSquares(x, torch.zeros(len(x))))
    with pytest.raises(ValueError, match="list of numbers"):
        tr.path(regularizer, loss, strengths=0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="l0 and its kin"):
        tr.critical_strength(tr.Regularizer(zeros(10), tr.L0(1.0)), loss)
    frozen = tr.Regularizer(zeros(10), tr.L1(1.0), "weight")
    for parameter in frozen.model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable"):
        tr.critical_strength(frozen, loss)
    with pytest.raises(ValueError, match=r"an integer; found points=2\.5"):
        tr.path(regularizer, loss, points=2.5)  # type: ignore[arg-type]
    counted: int = np.int64(2)  # type: ignore[assignment]
    assert len(tr.path(regularizer, loss, points=counted)) == 2
    with pytest.raises(ValueError, match="has no 'bais'; along this path it has weight, bias"):
        tr.path(regularizer, loss, points=2).coefficients("bais")
    plain = zeros(10, bias=False)
    for wrong, told in (
        (lambda: plain(x).sum() * float("nan"), "not finite"),
        (lambda: zeros(10)(x).sum(), "depends on no parameter"),
        (lambda: plain(x), "scalar tensor"),
    ):
        with pytest.raises(ValueError, match=told):
            tr.critical_strength(tr.Regularizer(plain, tr.L1(1.0)), wrong)
    calls: list[Any] = [tr.path, tr.critical_strength, tr.cross_validate]
    for call in calls:
        with pytest.raises(TypeError, match=r"expected a torchreg\.Regularizer"):
            call(plain, loss)
    with pytest.raises(FileNotFoundError, match="no folder"):
        tr.path(regularizer, unheard, points=2, strengths=[1.0], resume="no/such/folder/file")
    with pytest.raises(TypeError, match="must know them"):
        tr.cross_validate(regularizer, lambda: torch.zeros(()))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("target", [0.0, 0.1, 104.0, 1e6])
def test_rounding_is_no_critical_strength(kind: torch.dtype, target: float) -> None:
    x = table(load_diabetes)[0].to(kind)
    y, weight = torch.full((len(x),), target, dtype=kind), torch.rand(len(x))
    model = zeros(10).to(kind)
    regularizer = tr.Regularizer(model, tr.ElasticNet.from_alpha(1.0, 0.5))
    constant = torch.full_like(x, 0.1)
    for loss in (
        tr.LeastSquares(x, y),
        tr.LeastSquares(x + 100, y, sample_weight=weight),
        tr.LeastSquares(constant, torch.rand(len(x)) + target),
        tr.Logistic(constant, torch.arange(len(x)) % 2),
        lambda: (model(x)[:, 0] - y).square().mean(),
    ):
        with pytest.raises(ValueError, match="gradient vanishes"):
            tr.critical_strength(regularizer, loss)
    small = tr.LeastSquares(x, y + 1e-5 * max(target, 1) * x[:, 0])  # small, and no rounding
    assert tr.critical_strength(regularizer, small) > 0


def test_a_file_of_another_problem_is_not_resumed(tmp_path: Path) -> None:
    x, y = table(load_diabetes)
    loss, file = tr.LeastSquares(x, y.double()), tmp_path / "path.pt"
    regularizer = tr.Regularizer(zeros(10), tr.L1(1.0))
    grid = [2.0, 1.0, 0.0]
    whole = tr.path(regularizer, loss, strengths=grid, resume=file)
    again = tr.path(tr.Regularizer(zeros(10), tr.L1(1.0)), loss, strengths=grid, resume=file)
    assert torch.equal(again.coefficients(), whole.coefficients())
    other = tr.LeastSquares(x[torch.randperm(len(x))], y.double())
    with pytest.raises(ValueError, match="another problem"):
        tr.path(regularizer, other, strengths=grid, resume=file)
    elastic = tr.Regularizer(zeros(10), tr.ElasticNet(1.0, 0.1))
    with pytest.raises(ValueError, match="another problem"):
        tr.path(elastic, loss, strengths=grid, resume=file)
    narrow = tr.Regularizer(zeros(9), tr.L1(1.0))
    with pytest.raises(ValueError, match="another model"):
        tr.path(narrow, tr.LeastSquares(x[:, 1:], y.double()), strengths=grid, resume=file)
    file.unlink()
    tr.path(regularizer, loss, strengths=[2.0], resume=file, gap=0.1)
    least = min(1e-16, tr.path(regularizer, loss, strengths=[2.0]).points[0].solution.residual / 2)
    with pytest.raises(ValueError, match="is asked for"):
        tr.path(regularizer, loss, strengths=[2.0], resume=file, tolerance=least or 1e-300)
    for content in (b"junk", b""):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="holds no path"):
            tr.path(regularizer, loss, strengths=grid, resume=file)
    torch.save({"strengths": grid}, file)
    with pytest.raises(ValueError, match="holds no path"):
        tr.path(regularizer, loss, strengths=grid, resume=file)


def test_folds_and_measures_that_make_no_sense_are_refused() -> None:
    x, y = table(load_diabetes)
    loss, regularizer = tr.LeastSquares(x, y.double()), tr.Regularizer(zeros(10), tr.L1(1.0))
    half, rest = torch.arange(221), torch.arange(221, 442)
    for folds, told in (
        ([(half, half), (rest, half)], "disjoint"),
        ([(half, rest + 1), (rest, half)], "row indices"),
        ([(half, rest - 300), (rest, half)], "row indices"),
        ([(half, rest[:0]), (rest, half)], "row indices"),
        ("5", "must be a number"),
    ):
        with pytest.raises(ValueError, match=told):
            tr.cross_validate(regularizer, loss, folds=folds, strengths=[1.0])  # type: ignore[arg-type]
    kept = torch.arange(442) < 221
    for folds, weight, told in (
        ([(half, rest), (rest, half)], kept, r"fold 0.*holds out have weight 0"),
        ([(rest, half), (half, rest)], kept, r"fold 0, which learns from 221 of 442.*not all 0"),
    ):
        weighted = tr.LeastSquares(x, y.double(), sample_weight=weight)
        with pytest.raises(ValueError, match=told):
            tr.cross_validate(regularizer, weighted, folds=folds, strengths=[1.0])
    rare = tr.Logistic(x, (torch.arange(442) == 7).long())
    with pytest.raises(ValueError, match=r"fold 0.*one class"):
        tr.cross_validate(regularizer, rare, folds=[(rest, half), (half, rest)], strengths=[1.0])
    counted: int = np.int64(3)  # type: ignore[assignment]
    assert len(tr.cross_validate(regularizer, loss, folds=counted, strengths=[1.0]).losses) == 3
    masks = [(y < 100, y >= 100), (y >= 100, y < 100)]
    assert tr.cross_validate(regularizer, loss, folds=masks, strengths=[1.0]).best == 0
    for measure in (lambda z, y: (z - y).square(), lambda z, y: (z - y).square().mean()):
        with pytest.raises(ValueError, match="one number per sample"):
            tr.cross_validate(regularizer, loss, strengths=[1.0], measure=measure)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("share", [1.0, 0.5, 0.1])
def test_it_agrees_with_tight_logistic_regression_on_all_digits(share: float) -> None:
    x, y = table(load_digits)
    model = zeros(x.shape[1], 10)
    regularizer = tr.Regularizer(model, tr.ElasticNet.from_alpha(1.0, share))
    loss = tr.Logistic(x, y)
    edge = tr.critical_strength(regularizer, loss)
    found = tr.path(regularizer, loss, strengths=[0.3 * edge, 0.1 * edge, 0.03 * edge])
    theirs = LogisticRegression(
        solver="saga", tol=1e-6, max_iter=20_000, l1_ratio=share, random_state=0, warm_start=True
    )
    for point in found:
        theirs.set_params(C=1 / (len(x) * point.strength)).fit(x.numpy(), y.numpy())
        with torch.no_grad():
            model.weight.copy_(torch.from_numpy(theirs.coef_))
            model.bias.copy_(torch.from_numpy(theirs.intercept_))
            objective = float(loss(model) + scaled(regularizer, point.strength)())
        assert point.solution.objective == pytest.approx(objective, rel=1e-6)
        assert point.nonzero == np.count_nonzero(theirs.coef_)
