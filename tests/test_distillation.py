"""Runs that are taught by another run: the loss, whom it reaches, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.datasets import CIFAR10

from experiments import cifar10, distillation, mnist
from experiments.artifacts import claim
from experiments.data import CIFAR10_SOURCE, Batches, hold_out, read
from experiments.frontier_teacher import Teacher
from experiments.models import MODELS
from tests.datasets import write_cifar
from tests.test_experiments_run import assert_same_run, data, full_for, main, state

__all__ = ["data"]

COMMON = "--batch-size 50 --validation 100"
FLAGS = f"--strength 1e-3 --epochs 2 --debias-epochs 2 --shift 1 {COMMON}"


@pytest.fixture(scope="module")
def teacher(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished dense run, of another network than those that it teaches."""
    out = tmp_path_factory.mktemp("teacher") / "run"
    main(data, out, f"--model lenet-5-caffe --penalty none --epochs 2 {COMMON}")
    return out


def by_hand(outputs: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    own, asked = ((z / 2).exp() for z in (outputs, logits))
    own, asked = own / own.sum(1, keepdim=True), asked / asked.sum(1, keepdim=True)
    soft = -(asked * own.log()).sum(1).mean()
    rows = torch.arange(len(labels))
    hard = -(outputs.exp() / outputs.exp().sum(1, keepdim=True)).log()[rows, labels].mean()
    return 0.2 * hard + 0.8 * 4 * soft


def test_the_loss_is_that_of_its_formula() -> None:
    outputs, logits = torch.randn(2, 6, 5, dtype=torch.float64)
    labels = torch.tensor([0, 3, 1, 1, 2, 4])
    found = distillation.loss(outputs, logits, labels)
    torch.testing.assert_close(found, by_hand(outputs, logits, labels), rtol=1e-12, atol=0)
    assert torch.equal(found, Teacher().loss(outputs, logits, labels))


def test_the_function_of_a_network_moves_nothing_of_it() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    options: dict[str, Any] = {"logger": False, "enable_checkpointing": False}
    trainer = pl.Trainer(accelerator="cpu", precision="64-true", **options)
    outputs = distillation.taught_by(network, trainer)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    first = outputs(x)
    assert first.dtype == torch.float64
    assert not first.requires_grad
    assert torch.equal(first, outputs(x))  # no dropout
    assert all(torch.equal(before[name], now) for name, now in network.state_dict().items())

    class Student(nn.Module):
        def __init__(self, teacher: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.teacher = teacher

    assert not Student(outputs).state_dict()
    Student(outputs).train()
    assert not network.training


def test_a_step_is_that_of_a_loop_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same augmented images for both, the teacher's running statistics, plain validation."""
    write_cifar(tmp_path, CIFAR10, monkeypatch)
    places = ["--data-dir", str(tmp_path), "--device", "cpu", "--precision", "32-true"]
    common = "--penalty none --validation 20 --warmup 0 --epochs 1"
    teacher, out = tmp_path / "teacher", tmp_path / "taught"
    cifar10.main([*f"{common} --batch-size 20 --lr 1e-2 --out {teacher}".split(), *places])
    step = "--batch-size 80 --optimizer sgd --momentum 0 --lr 0.5 --shift 3 --flip"
    cifar10.main([*f"{common} {step} --teacher {teacher} --out {out}".split(), *places])

    images = read(CIFAR10_SOURCE, tmp_path, train=True)
    fitted, held_out = hold_out(images, 20, 0)
    ((x, y),) = Batches(fitted, CIFAR10_SOURCE, 80, seed=0, shift=3, flip=True)
    pl.seed_everything(0, verbose=False)
    model, network = MODELS["small-vgg"](10), MODELS["small-vgg"](10)
    for trained, run in ((network, teacher), (model, out)):
        saved = state(run, "dense")["state_dict"]
        assert list(saved) == [f"model.{name}" for name in model.state_dict()]
        if trained is network:
            network.load_state_dict({k.removeprefix("model."): v for k, v in saved.items()})
    by_hand(model(x), network.eval()(x).detach(), y).backward()
    for name, w in model.named_parameters():
        assert w.grad is not None
        torch.testing.assert_close(
            saved[f"model.{name}"], w.detach() - 0.5 * w.grad, rtol=1e-4, atol=1e-5
        )
    model.load_state_dict({k.removeprefix("model."): v for k, v in saved.items()})
    ((x, y),) = Batches(held_out, CIFAR10_SOURCE, 1000)
    plain = F.cross_entropy(model.eval()(x), y).item()
    assert state(out, "dense")["rows"][-1]["val_loss"] == pytest.approx(plain, rel=1e-4)


def test_a_taught_run_goes_on_as_if_it_was_never_interrupted(
    data: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = f"{FLAGS} --teacher {teacher}"
    main(data, tmp_path / "whole", flags)
    for after in (1, 3):  # inside the first phase, and inside the second
        with monkeypatch.context() as patch:
            full_for(patch, "last.ckpt", after=after)
            with pytest.raises(SystemExit, match="No space left"):
                main(data, tmp_path / f"cut-{after}", flags)
        main(data, tmp_path / f"cut-{after}", flags)
        assert_same_run(tmp_path / f"cut-{after}", tmp_path / "whole")
    main(data, tmp_path / "untaught", FLAGS)
    for phase in ("penalised", "debiased"):
        taught, untaught = (state(tmp_path / run, phase) for run in ("whole", "untaught"))
        assert taught.keys() == untaught.keys()
        assert list(taught["state_dict"]) == list(untaught["state_dict"])
        for key in taught["state_dict"]:
            assert not torch.equal(taught["state_dict"][key], untaught["state_dict"][key])
        (own,), (plain,) = taught["optimizer_states"], untaught["optimizer_states"]
        assert own["param_groups"][0]["params"] == plain["param_groups"][0]["params"]


def test_one_run_may_start_and_teach_and_teaches_the_debiased_weights_too(
    data: Path, teacher: Path, tmp_path: Path
) -> None:
    flags = f"--model lenet-5-caffe --start {teacher} --strength 1e-9 --lr 1e-9 --epochs 1 {COMMON}"
    flags += " --debias-epochs 1 --debias-lr 1e-3"
    main(data, tmp_path / "taught", f"{flags} --teacher {teacher}")
    main(data, tmp_path / "untaught", flags)
    apart = {}
    for phase in ("penalised", "debiased"):
        one, other = (state(tmp_path / run, phase) for run in ("taught", "untaught"))
        key = "model.fc2.weight"
        apart[phase] = (one["state_dict"][key] - other["state_dict"][key]).abs().max()
    assert apart["penalised"] < 1e-6 < 1e-4 < apart["debiased"]


@pytest.mark.parametrize(
    "flags",
    [
        "--strength 1e-3 --precision bf16-mixed",
        "--strength 1e-3 --precision 64-true --mode loss",
        "--penalty group-l0 --density 0.5 --ramp 0 0.5 0.5",
    ],
)
def test_every_way_of_training_may_be_taught(
    data: Path, teacher: Path, tmp_path: Path, flags: str
) -> None:
    main(data, tmp_path / "run", f"{flags} --epochs 1 {COMMON} --teacher {teacher}")
    assert (tmp_path / "run" / "result.json").exists()


def changed(run: Path, to: Path, **settings: Any) -> Path:
    """A copy of a run with other flags."""
    shutil.copytree(run, to)
    noted = json.loads((run / "settings.json").read_text())
    (to / "settings.json").write_text(json.dumps(noted | settings))
    return to


def test_refusals(data: Path, teacher: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    base = f"--penalty none --epochs 1 {COMMON}"
    main(data, out, base)
    before = sorted(out.iterdir())

    def refused(run: Path, told: str, flags: str = base) -> None:
        with pytest.raises(SystemExit) as caught:
            main(data, out, f"{flags} --teacher {run} --fresh")
        assert told in str(caught.value)
        assert sorted(out.iterdir()) == before  # nothing was set aside for it
        assert not (tmp_path / "run.1").exists()

    refused(tmp_path / "none", "none holds no trained run of these scripts. Train one first")
    other = changed(teacher, tmp_path / "other", task="cifar10")
    refused(other, "is a run with task cifar10, and this one has mnist: they must have the task")
    refused(teacher, "is a run with seed 0, and this one has 3", f"{base} --seed 3")
    refused(teacher, "is a run with limit None, and this one has 300", f"{base} --limit 300")
    refused(teacher, "with validation 100, and this one has 90", f"{base} --validation 90")
    unfinished = changed(teacher, tmp_path / "unfinished")
    (unfinished / "result.json").unlink()
    refused(unfinished, "is a run that is not finished (it has no result.json). Give its command")
    diverged = changed(teacher, tmp_path / "diverged")
    saved = state(diverged, "dense")
    saved["state_dict"]["model.fc2.bias"][3] = float("nan")
    torch.save(saved, diverged / "dense" / "last.ckpt")
    refused(diverged, "is a run that diverged (fc2.bias is not finite)")
    refused(out, f"--fresh would set {out} aside, and --teacher names it. Give another --out")
    with pytest.raises(SystemExit, match=r"other flags \(--teacher None there, .*teacher.* here"):
        main(data, out, f"{base} --teacher {teacher}")
    out = tmp_path / "new"
    with pytest.raises(SystemExit, match="is not finished"):
        main(data, out, f"{base} --teacher {unfinished}")
    assert not out.exists()


def test_a_run_from_before_the_flag_goes_on(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "old"
    flags = f"--penalty none --epochs 1 {COMMON}"
    main(data, out, flags)
    last, settings = (out / "dense" / "last.ckpt").read_bytes(), out / "settings.json"
    noted = json.loads(settings.read_text())
    assert noted.pop("teacher", "absent") is None
    settings.write_text(json.dumps(noted))
    result = (out / "result.json").read_bytes()
    (out / "result.json").unlink()
    main(data, out, flags)
    assert (out / "dense" / "last.ckpt").read_bytes() == last
    assert json.loads((out / "result.json").read_text())["phases"] == json.loads(result)["phases"]
    capsys.readouterr()
    main(data, out, flags)
    assert "is finished (--fresh" in capsys.readouterr().out


def test_a_taught_run_has_a_folder_of_its_own(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for flags in ("--penalty none", "--strength 1e-3"):
        names = []
        for more in ("", f" --teacher {teacher}"):
            _, parsed = mnist.parse(f"{flags} {COMMON}{more}".split())
            names.append(claim("mnist", parsed).name)
        assert names[1] == names[0].replace("-seed0", "-taught-seed0") != names[0]
