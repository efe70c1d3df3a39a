"""Flags: wrong ones are refused before anything is trained; help explains every one."""

from pathlib import Path

import pytest
import torch

from experiments import cifar10, compare, mnist
from experiments.errors import told


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("", "needs a --strength above 0"),
        ("--strength 1e-3 --groups filters", "--penalty l1 has no groups: leave --groups out"),
        ("--penalty none --groups removable", "or give --penalty group-lasso"),
        ("--penalty lasso", "invalid choice: 'lasso'"),
        ("--penalty none --strength 1e-3", "do nothing under --penalty none"),
        ("--strength -1", "not a finite number of at least 0"),
        ("--strength nan", "not a finite number of at least 0"),
        ("--strength much", "invalid amount value: 'much'"),
        ("--strength 1e-3 --l2 1e-3", "--l2 belongs to --penalty elasticnet"),
        ("--penalty elasticnet --strength 1e-3", "needs an --l2 above 0"),
        ("--strength 1e-3 --epochs 0", "--epochs must be at least 1"),
        ("--penalty none --debias-epochs 3", "under --penalty none give --epochs alone"),
        ("--penalty none --density 0.1", "leave them out"),
        ("--strength 1e-3 --density 0.1", "leave --strength out"),
        ("--density 0", "0 is not above 0"),
        ("--density 1", "--density must be below 1"),
        ("--density 0.1 --mode loss", "leaves any: leave it out"),
        ("--density 0.1 --ramp 0.5 0.1 0.6", "BEGIN <= END <= HOLD"),
        ("--strength 1e-3 --multiply-adds", "--multiply-adds needs --density"),
        ("--strength 1e-3 --each-layer", "--each-layer needs --density"),
        ("--density 0.1 --each-layer --multiply-adds", "exclude each other"),
        ("--density 0.1 --multiple 8", "--multiple needs --each-layer"),
        ("--density 0.1 --each-layer --multiple 8", "--multiple counts channels, and --penalty l1"),
        (
            "--density 0.1 --each-layer --multiple 8 --penalty sparse-group-lasso",
            "give --penalty group-l0",
        ),
        ("--penalty l0 --strength 1e-3", "so its strength must rise slowly"),
        ("--penalty mcp --strength 1e-3 --penalty group-mcp --where fc1*", "leave --where out"),
        ("--strength 1e-3 --debias-lr 1e-3", "--debias-lr needs --debias-epochs"),
        ("--strength 1e-3 --penalty l2 --debias-epochs 1", "leaves any: leave it out"),
        ("--strength 1e-3 --mode loss --debias-epochs 1", "leaves any: leave it out"),
        ("--strength 1e-3 --lr 0", "0 is not above 0"),
        ("--strength 1e-3 --limit 1", "--limit must be at least 2"),
        ("--strength 1e-3 --device cuda", "--device cuda: torch finds none here"),
        ("--strength 1e-3 --batch-size 0", "0 is below 1"),
        ("--strength 1e-3 --seed -1", "-1 is below 0"),
        ("--strength 1e-3 --sede 1", "unrecognized arguments: --sede"),
    ],
)
def test_wrong_flags(
    flags: str, told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as caught:
        mnist.parse(flags.split())
    assert caught.value.code == 2
    assert told in capsys.readouterr().err


def test_a_pattern_that_matches_nothing_lists_the_names(tmp_path: Path) -> None:
    from tests.datasets import write_mnist

    write_mnist(tmp_path / "data")
    flags = ["--strength", "1e-3", "--where", "conv*", "--device", "cpu"]
    places = ["--data-dir", str(tmp_path / "data"), "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit, match=r"'conv\*' matches no parameter.*fc1.weight"):
        told(lambda: mnist.main([*flags, *places]))
    # Nothing was trained, so the folder is free for other flags.
    flags = ["--strength", "1e-3", "--limit", "100", "--epochs", "1", "--device", "cpu"]
    told(lambda: mnist.main([*flags, *places]))
    assert (tmp_path / "run" / "result.json").exists()


def test_a_missing_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.test_data import offline

    offline(monkeypatch)
    places = ["--data-dir", str(tmp_path / "none"), "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit, match=r"error: could not read CIFAR100"):
        told(lambda: cifar10.main(["--cifar100", "--penalty", "none", *places]))
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "result.json").write_text("{}")
    with pytest.raises(SystemExit, match=r"error: could not read CIFAR100"):
        told(lambda: cifar10.main(["--cifar100", "--penalty", "none", "--fresh", *places]))
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["result.json"]


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(SystemExit, match="is no run of these scripts"):
        told(lambda: mnist.main(["--strength", "1e-3", "--out", str(tmp_path)]))
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("script", [mnist, cifar10, compare])
def test_help_explains(script: object, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        script.main(["--help"])  # type: ignore[attr-defined]
    assert caught.value.code == 0
    assert "usage: python -m experiments." in capsys.readouterr().out
