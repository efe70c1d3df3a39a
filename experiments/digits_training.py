"""One training run on the scanned digits: data, methods, and a result that survives on disk."""

import hashlib
import io
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import torchreg as tr
from experiments import digits_methods, penalties, results
from experiments.digits_methods import ASKED, METHODS

SHAPE = (8, 8)


class Split(NamedTuple):
    """Inputs (samples, 64) in [0, 1] and their digits."""

    x: Tensor
    y: Tensor


def load(seed: int) -> tuple[Split, Split, Split]:
    """The 1,797 digits as training, validation and test split: 1,077, 360 and 360 of them.

    Each has the same mix of digits; the seed draws them.
    """
    digits = load_digits()
    x = torch.tensor(digits.data / 16, dtype=torch.float32)
    y = torch.tensor(digits.target)
    rest, test = train_test_split(
        range(len(y)), test_size=360, stratify=digits.target, random_state=seed
    )
    train, validation = train_test_split(
        rest, test_size=360, stratify=digits.target[rest], random_state=seed
    )
    return Split(x[train], y[train]), Split(x[validation], y[validation]), Split(x[test], y[test])


def network() -> nn.Sequential:
    """The same MLP for every method."""
    return nn.Sequential(
        nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 10)
    )


@dataclass(frozen=True)
class Settings:
    """All that a run depends on: two runs with equal settings give equal numbers."""

    method: str
    strength: float
    seed: int
    steps: int
    code: str
    """A fingerprint of the program, so that a result of other code is never taken for this."""

    @property
    def key(self) -> str:
        """The name of the run's files."""
        digest = hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:12]
        return f"{self.method.replace(' ', '-').lower()}-{self.strength:g}-{digest}"


def fingerprint() -> str:
    """A short hash of torchreg, of the methods, of this file and of torch's version."""
    here = [Path(__file__), Path(digits_methods.__file__), Path(penalties.__file__)]
    digest = hashlib.sha256(torch.__version__.encode())
    for file in (*here, *sorted(Path(tr.__file__).parent.rglob("*.py"))):
        if file.parent.name != "plots":  # pictures change no number
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


@dataclass(frozen=True)
class Run:
    """What is known of a finished run, without any look at the test split."""

    settings: Settings
    validation: float
    exact: float
    near: float
    stationarity: float
    """The largest absolute distance to a stationary point of loss + penalty, over the whole
    training split; without a penalty the largest entry of the gradient."""
    residual: float | None
    """The same relative to the strength; None without a penalty."""
    seconds: float
    steps: list[int]
    losses: list[float]
    sparsities: list[float]
    weights: str
    """SHA-256 of the file of weights that belongs to it."""


def train(settings: Settings, folder: Path) -> None:
    """Train one network with full batches, and write its result and weights into the folder.

    Adam under a cosine that ends at zero, so that the weights settle. On one thread: the order
    of every sum, and so every digit of the result, is then the same on every run. The weights
    are written first: where the result stands, the run is complete.
    """
    torch.set_num_threads(1)
    torch.manual_seed(settings.seed)
    training, validation, _ = load(settings.seed)
    method = (METHODS | ASKED)[settings.method]
    model = network()
    regularizer = (
        method.regularizer(model, settings.strength, training.x[:2]) if method.penalty else None
    )
    # A full batch has no noise to average: a short memory of the curvature settles sooner. With
    # torch's eps of 1e-8 the network without a penalty, its gradient gone, is thrown about.
    optimizer: torch.optim.Optimizer = torch.optim.Adam(
        model.parameters(), lr=0.02, betas=(0.9, 0.95), eps=1e-6
    )
    if method.proximal and regularizer is not None:
        optimizer = tr.ProximalOptimizer(optimizer, regularizer)
    schedulers: list[torch.optim.lr_scheduler.LRScheduler | tr.StrengthSchedule] = [
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    ]
    if method.rise and regularizer is not None:
        rising = tr.schedule.linear(settings.steps // 2)
        schedulers.append(tr.StrengthSchedule(regularizer, rising))

    taken: list[tuple[int, float, float]] = []
    every = max(1, settings.steps // 100)
    start = time.perf_counter()
    for step in range(settings.steps):
        optimizer.zero_grad()
        loss = cross_entropy(model(training.x), training.y)
        if step % every == 0:
            taken.append((step, loss.item(), tr.sparsity(model).sparsity))
        if regularizer is not None and not method.proximal:
            loss = loss + regularizer()
        loss.backward()
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    seconds = time.perf_counter() - start

    final = cross_entropy(model(training.x), training.y)
    absolute = distance(model, regularizer, final)
    zeros = tr.sparsity(model)
    taken.append((settings.steps, final.item(), zeros.sparsity))
    weights = io.BytesIO()
    torch.save(model.state_dict(), weights)
    run = Run(
        settings=settings,
        validation=accuracy(model, validation),
        exact=zeros.sparsity,
        near=zeros.near_sparsity,
        stationarity=absolute,
        residual=absolute / settings.strength if settings.strength else None,
        seconds=seconds,
        steps=[step for step, _, _ in taken],
        losses=[value for _, value, _ in taken],
        sparsities=[share for _, _, share in taken],
        weights=hashlib.sha256(weights.getvalue()).hexdigest(),
    )
    results.write_bytes(folder / f"{settings.key}.pt", weights.getvalue())
    results.write_json(folder / f"{settings.key}.json", asdict(run))


def distance(model: nn.Module, regularizer: tr.Regularizer | None, loss: Tensor) -> float:
    """How far a model is from stationary, in units of the gradient of the mean loss."""
    if regularizer is not None:
        return tr.stationarity(regularizer, loss).absolute
    return max(float(g.abs().max()) for g in torch.autograd.grad(loss, list(model.parameters())))


def accuracy(model: nn.Module, split: Split) -> float:
    """The share of digits that are read correctly."""
    with torch.no_grad():
        return float((model(split.x).argmax(1) == split.y).double().mean())


def read(settings: Settings, folder: Path) -> Run | None:
    """The finished run with exactly these settings; None where there is none.

    Raises:
        ValueError: its files are there but damaged.
    """
    path = folder / f"{settings.key}.json"
    if not path.exists():
        return None
    found = results.read_json(path)
    try:
        run = Run(**{**found, "settings": Settings(**found["settings"])})
        stored = path.with_suffix(".pt").read_bytes()
    except (TypeError, KeyError, OSError) as error:
        raise ValueError(f"{path} is not a complete result ({error})") from error
    if run.settings != settings or hashlib.sha256(stored).hexdigest() != run.weights:
        raise ValueError(f"{path} and its weights do not belong together")
    return run


def trained(run: Run, folder: Path) -> nn.Sequential:
    """The network of a finished run."""
    model = network()
    model.load_state_dict(torch.load(folder / f"{run.settings.key}.pt", weights_only=True))
    return model
