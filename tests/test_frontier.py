"""The frontier script: lands on the density, resumes to the same weights, reads the test once."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments import frontier
from experiments.data import Images, Source, read
from experiments.errors import told
from experiments.frontier_teacher import Teacher
from experiments.frontier_training import Training
from experiments.results import read_json
from tests.datasets import write_mnist


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_mnist(folder, train=1200)
    return folder


def run(data: Path, out: Path, *more: str, model: str = "lenet-300-100") -> None:
    flags = ["--data-dir", str(data), "--out", str(out), "--model", model, "--epochs", "7"]
    frontier.main([*flags, "--density", "0.04", "--seed", "0", *more])


def plan_at(lr: float, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [part._replace(recipe=replace(part.recipe, lr=lr)) for part in frontier.PLAN]
    monkeypatch.setattr(frontier, "PLAN", parts)


def folders(out: Path) -> Sequence[Path]:
    return sorted(path.parent for path in out.glob("*/seed*/result.json"))


@pytest.fixture
def splits(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Which split was read, in order: True is the training images."""
    found: list[bool] = []

    def noted(source: Source, data_dir: Path, *, train: bool) -> Images:
        found.append(train)
        return read(source, data_dir, train=train)

    monkeypatch.setattr(frontier, "read", noted)
    return found


@pytest.mark.parametrize("model", sorted({part.model for part in frontier.PLAN}))
def test_a_run_lands_on_its_density_and_is_not_repeated(
    model: str,
    data: Path,
    tmp_path: Path,
    splits: list[bool],
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(data, tmp_path, "--shift", "0", model=model)
    (folder,) = folders(tmp_path)
    found = read_json(folder / "result.json")
    assert found["density"] == pytest.approx(0.04, rel=0.02)
    kept = torch.load(folder / "model.pt", weights_only=True)
    weights = {n: int(w.count_nonzero()) for n, w in kept.items() if n.endswith("weight")}
    assert sum(weights.values()) == found["nonzero"] == sum(found["by_layer"].values())
    assert found["error"] < 0.5  # of ten classes that differ plainly
    assert splits == [True, False]
    run(data, tmp_path, "--shift", "0", model=model)
    assert splits == [True, False]
    assert (tmp_path / f"{model}.png").read_bytes().startswith(b"\x89PNG")
    header, line = (tmp_path / "table.csv").read_text().splitlines()
    assert dict(zip(header.split(","), line.split(","), strict=True))["error"] == str(
        found["error"]
    )
    assert f"{found['nonzero']:,} of {found['weights']:,}" in capsys.readouterr().out


def test_a_validation_run_leaves_the_test_images_be(
    data: Path, tmp_path: Path, splits: list[bool], capsys: pytest.CaptureFixture[str]
) -> None:
    run(data, tmp_path, "--shift", "2", "--validate", "--epochs", "1")
    assert splits == [True]
    assert "validation error %" in capsys.readouterr().out
    assert not (tmp_path / "table.csv").exists()


def test_an_interrupted_run_ends_where_an_unbroken_one_does(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(data, tmp_path / "whole", "--shift", "2")
    epoch = Training.run_epoch

    def cut(training: Training) -> float:
        if training.epoch == 6:  # one epoch after the checkpoint
            raise KeyboardInterrupt
        return epoch(training)

    monkeypatch.setattr(Training, "run_epoch", cut)
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path / "cut", "--shift", "2")
    assert not folders(tmp_path / "cut")
    monkeypatch.setattr(Training, "run_epoch", epoch)
    run(data, tmp_path / "cut", "--shift", "2")
    (one,), (other,) = folders(tmp_path / "whole"), folders(tmp_path / "cut")
    whole, resumed = (torch.load(f / "model.pt", weights_only=True) for f in (one, other))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not (other / "last.ckpt").exists()


def test_a_run_by_another_recipe_is_left_alone(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(data, tmp_path, "--shift", "0", "--epochs", "1")
    (folder,) = folders(tmp_path)
    before = (folder / "result.json").read_bytes()
    plan_at(0.5, monkeypatch)
    run(data, tmp_path, "--shift", "0", "--epochs", "1")
    assert "holds a run by another recipe" in capsys.readouterr().out
    assert (folder / "result.json").read_bytes() == before


def test_each_density_is_planned_once_by_the_part_that_lists_it() -> None:
    def planned(*densities: float) -> list[tuple[float, int, float]]:
        flags = Namespace(
            model="lenet-300-100",
            shift=2,
            density=densities,
            seed=[0],
            epochs=None,
            validate=False,
        )
        return [(one.density, one.epochs, recipe.end) for one, recipe in frontier.plan(flags)]

    whole = planned()
    assert [density for density, *_ in whole] == [0.04, 0.015, 0.01]
    assert [planned(density) for density, *_ in whole] == [[one] for one in whole]
    assert planned(0.02) == [(0.02, *whole[0][1:])]


def test_a_loss_that_is_not_finite_ends_a_run_before_it_is_kept(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_at(1e30, monkeypatch)
    with pytest.raises(SystemExit):
        told(lambda: run(data, tmp_path, "--shift", "0"))
    assert not folders(tmp_path)


def test_a_dense_network_teaches_all_densities_of_a_seed(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(data, tmp_path, "--shift", "0", "--epochs", "1")
    (file,) = (tmp_path / "teachers").iterdir()
    before = file.read_bytes()
    run(data, tmp_path, "--shift", "0", "--epochs", "1", "--density", "0.05")
    assert len(folders(tmp_path)) == 2
    assert [file] == list((tmp_path / "teachers").iterdir())
    assert file.read_bytes() == before
    run(data, tmp_path, "--shift", "0", "--epochs", "1", "--density", "0.06", "--limit", "600")
    assert "was trained by another recipe" in capsys.readouterr().out
    assert len(folders(tmp_path)) == 2


def test_the_loss_of_a_taught_network_is_that_of_its_formula() -> None:
    teacher = Teacher(temperature=3.0, share=0.7)
    outputs, logits = torch.randn(2, 5, 4, dtype=torch.float64)
    labels = torch.tensor([0, 3, 1, 1, 2])
    own, asked = ((z / 3).exp() for z in (outputs, logits))
    own, asked = own / own.sum(1, keepdim=True), asked / asked.sum(1, keepdim=True)
    soft = -(asked * own.log()).sum(1).mean()
    hard = -(outputs.exp() / outputs.exp().sum(1, keepdim=True)).log()[range(5), labels].mean()
    found = teacher.loss(outputs, logits, labels)
    torch.testing.assert_close(found, 0.3 * hard + 0.7 * 9 * soft)
