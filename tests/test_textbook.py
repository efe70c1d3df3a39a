"""The textbook cases are exact: scikit-learn's coefficients, and the same zeros."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.model_selection import train_test_split
from torch import Tensor

import torchreg as tr
from experiments import classify, linear, textbook
from experiments.textbook_report import Comparison


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def diabetes() -> tuple[Tensor, Tensor]:
    data = load_diabetes(scaled=False)
    return torch.tensor(data.data), torch.tensor(data.target)[:, None]


def tumours() -> tuple[Tensor, Tensor]:
    data = load_breast_cancer()
    return torch.tensor(data.data), torch.tensor(data.target, dtype=torch.float64)[:, None]


@pytest.fixture(scope="module")
def linear_rows() -> dict[str, Comparison]:
    return {row.penalty: row for row in linear.run(*diabetes(), folds=2)}


@pytest.fixture(scope="module")
def classify_rows() -> dict[str, Comparison]:
    return {row.penalty: row for row in classify.run(*tumours(), folds=2)}


@pytest.fixture(params=["linear_rows", "classify_rows"])
def rows(request: pytest.FixtureRequest) -> dict[str, Comparison]:
    found: dict[str, Comparison] = request.getfixturevalue(request.param)
    return found


def test_every_coefficient_and_every_zero_is_that_of_scikit_learn(
    rows: dict[str, Comparison],
) -> None:
    assert list(rows) == ["L2", "L1", "Elastic Net"]
    for row in rows.values():
        np.testing.assert_allclose(row.ours, row.reference, rtol=0, atol=1e-5)
        assert [w == 0 for w in row.ours] == [w == 0 for w in row.reference]
        assert row.same_zeros
        assert row.difference <= 1e-5
        assert row.residual <= 1e-6
        assert row.score == pytest.approx(row.reference_score, abs=1e-6)


def test_l1_has_zeros_and_l2_has_none(rows: dict[str, Comparison]) -> None:
    assert rows["L2"].ours.count(0.0) == 0
    assert 0 < rows["L1"].ours.count(0.0) < len(rows["L1"].ours) - 1


def test_the_strength_has_the_smallest_validation_loss_inside_the_range(
    rows: dict[str, Comparison],
) -> None:
    for row in rows.values():
        assert row.strength == row.strengths[int(np.argmin(row.validation))]
        assert not row.at_edge


def test_ridge_is_its_closed_form(linear_rows: dict[str, Comparison]) -> None:
    ridge = linear_rows["L2"]
    assert ridge.closed_form is not None
    np.testing.assert_allclose(ridge.ours, ridge.closed_form, rtol=0, atol=1e-6)


def test_the_scores_are_better_than_guessing(
    linear_rows: dict[str, Comparison], classify_rows: dict[str, Comparison]
) -> None:
    assert all(row.score > 0.3 for row in linear_rows.values())
    assert all(row.score > 0.9 for row in classify_rows.values())


def test_the_test_part_changes_nothing_but_the_score(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "STRENGTHS", [5.0, 1.0, 0.5])
    x, y = diabetes()
    test = train_test_split(np.arange(len(x)), test_size=0.25, random_state=0)[1]
    spoiled_x, spoiled_y = x.clone(), y.clone()
    spoiled_x[test] = 1e3 * x[test] + 7
    spoiled_y[test] = -y[test]
    clean = linear.run(x, y, folds=2)
    spoiled = linear.run(spoiled_x, spoiled_y, folds=2)
    for a, b in zip(clean, spoiled, strict=True):
        assert (a.strength, a.validation, a.ours) == (b.strength, b.validation, b.ours)
        assert a.score != b.score


def test_each_fold_is_standardised_by_its_own_training_part() -> None:
    torch.manual_seed(0)
    x, y = 5 + 3 * torch.randn(30, 4, dtype=torch.float64), torch.randn(30, 1).double()
    outside = np.arange(10)
    inside = np.arange(10, 30)
    [(fitted, y_in, held, y_out)] = textbook.standardised_folds(x, y, [(inside, outside)])
    torch.testing.assert_close(fitted.mean(0), torch.zeros(4).double())
    torch.testing.assert_close(fitted.std(0, correction=0), torch.ones(4).double())
    scale, shift = x[inside].std(0, correction=0), x[inside].mean(0)
    torch.testing.assert_close(held * scale + shift, x[outside])
    assert torch.equal(y_in, y[inside])
    assert torch.equal(y_out, y[outside])
    spoiled = x.clone()
    spoiled[outside] *= 100
    [(again, *_)] = textbook.standardised_folds(spoiled, y, [(inside, outside)])
    assert torch.equal(fitted, again)


def test_a_fit_that_is_not_certified_is_an_error_not_a_result() -> None:
    x, y = diabetes()
    x, _ = textbook.standardise(x, x)
    with pytest.raises(ArithmeticError, match=r"not solved after 5 steps.*--steps"):
        textbook.solve(x, y, linear.LOSS, tr.L1(1.0), steps=5)


def test_a_warm_start_is_not_changed_and_reaches_the_same_solution() -> None:
    x, y = diabetes()
    x, _ = textbook.standardise(x, x)
    first = textbook.solve(x, y, linear.LOSS, tr.L1(5.0), steps=5_000)
    before = first.coefficients.clone()
    warm = textbook.solve(x, y, linear.LOSS, tr.L1(1.0), steps=5_000, start=first.model)
    cold = textbook.solve(x, y, linear.LOSS, tr.L1(1.0), steps=5_000)
    assert torch.equal(first.coefficients, before)
    torch.testing.assert_close(warm.coefficients, cold.coefficients, rtol=0, atol=1e-6)


def test_main_prints_the_table_and_writes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "folder"
    linear.main(["--out", str(out), "--folds", "2"])
    printed = capsys.readouterr().out
    assert "closed form" in printed
    heads = printed.split("\n\n")[2].splitlines()[0].split()
    assert " ".join(heads[:5]) == "penalty strength zeros sklearn zeros"
    assert " ".join(heads[-3:]) == "R^2 sklearn R^2"
    assert "Exactly zero under L1: " in printed
    assert "Exactly zero under L2: none" in printed
    assert (out / "table.txt").read_text().strip() in printed
    content = json.loads((out / "results.json").read_text())
    assert content["folds"] == 2
    assert [row["penalty"] for row in content["penalties"]] == ["L2", "L1", "Elastic Net"]
    assert all(row["same_zeros"] for row in content["penalties"])
    assert len(content["coefficients"]) == len(content["penalties"][0]["ours"]) == 11
    assert sorted(path.name for path in out.iterdir()) == ["results.json", "table.txt"]


@pytest.mark.parametrize("main", [linear.main, classify.main], ids=["linear", "classify"])
@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--folds", "1"], "--folds: expected a number from 2 to 20, found 1"),
        (["--folds", "two"], "--folds: invalid int value: 'two'"),
        (["--steps", "-5"], "--steps: expected a number of at least 1, found -5"),
        (["--seed", "-1"], "--seed: expected a number from 0"),
        (["--l1-ratio", "1.5"], "--l1-ratio: expected a number strictly between 0 (L2)"),
        (["--l1-ratio", "0"], "expected a number strictly between 0 (L2) and 1 (L1), found 0.0"),
        (["--l1-ratio", "nan"], "--l1-ratio: expected a number strictly between 0"),
    ],
)
def test_a_bad_flag_is_told_at_once(
    main: object, flags: list[str], told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert callable(main)
    with pytest.raises(SystemExit) as stopped:
        main([*flags, "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_cannot_be_made_is_told_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SystemExit) as stopped:
        linear.main(["--out", str(tmp_path / "file" / "runs")])
    assert stopped.value.code == 2
    assert "--out: cannot make" in capsys.readouterr().err


def test_an_empty_output_folder_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        linear.main(["--out", ""])
    assert stopped.value.code == 2
    assert "--out: expected the name of a folder, found ''" in capsys.readouterr().err


def test_too_few_steps_end_with_the_reason_and_write_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        classify.main(["--out", str(tmp_path), "--steps", "3"])
    assert stopped.value.code == 1
    told = capsys.readouterr().err
    assert "L2 at strength 0.1 is not solved" in told
    assert "Allow more with --steps" in told
    assert list(tmp_path.iterdir()) == []


def test_help_explains(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        classify.main(["--help"])
    assert stopped.value.code == 0
    told = capsys.readouterr().out
    for word in ("logistic regression", "--folds", "--seed", "--steps", "--out", "default"):
        assert word in told
