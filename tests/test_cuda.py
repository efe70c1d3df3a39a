"""On a GPU: the CPU's results, no wait for a value, CUDA graphs. Skipped where there is none."""

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from sklearn.datasets import load_diabetes, load_wine
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.testing import assert_close

import torchreg as tr
from tests.cases import CASES, LAYOUTS, STEPS, Case
from tests.compaction import alive, zero
from tests.test_proximal import Network, identical, network, weights
from tests.test_solve import table, zeros

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

CUDA = torch.device("cuda")
MAKERS: dict[str, Callable[[Any], Optimizer]] = {
    "SGD": lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "SGD fused": lambda p: SGD(p, lr=0.1, momentum=0.9, fused=True),
    "Adam": lambda p: Adam(p, lr=0.01),
    "Adam amsgrad": lambda p: Adam(p, lr=0.01, amsgrad=True, foreach=False),
    "Adam fused": lambda p: Adam(p, lr=0.01, fused=True),
    "AdamW capturable": lambda p: AdamW(p, lr=0.01, capturable=True),
}
each_optimizer = pytest.mark.parametrize("name", MAKERS)


def on(device: torch.device | str, model: nn.Module) -> Any:
    return copy.deepcopy(model).double().to(device)


def wrapped(model: nn.Module, name: str, penalty: Any, **options: Any) -> Any:
    inner = MAKERS[name](model.parameters())
    if not next(model.parameters()).is_cuda:
        inner.defaults["capturable"] = False  # it is for accelerators
        for group in inner.param_groups:
            group["capturable"] = False
    return tr.ProximalOptimizer(inner, tr.Regularizer(model, penalty), **options)


def loss_of(model: Network, seed: int) -> Tensor:
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x.to(model.first.weight)
    return nn.functional.mse_loss(model(x), x[:, :2].sin())


def backward(model: Network, seed: int) -> None:
    model.zero_grad(set_to_none=False)  # a graph reads the gradients where they are
    loss_of(model, seed).backward()


def train(model: Network, optimizer: Optimizer, steps: range) -> None:
    for seed in steps:
        backward(model, seed)
        optimizer.step()


@contextmanager
def waits_refused() -> Iterator[None]:
    """Let whatever reads a value of the device raise."""
    torch.cuda.synchronize()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "strided", "empty", "0-d"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_penalty_is_what_it_is_on_the_cpu(
    case: Case, layout: str, step: str, dtype: torch.dtype
) -> None:
    w = LAYOUTS[layout](dtype)
    size = STEPS[step](w)
    there = size.to(CUDA) if isinstance(size, Tensor) else size
    penalty, close = case.make(0.5), partial(assert_close, rtol=2e-5, atol=2e-6)
    mine, other = penalty.prox(w.clone(), size), penalty.prox(w.to(CUDA), there)
    assert other.is_cuda
    close(other.cpu(), mine)
    assert torch.equal(other.cpu() == 0, mine == 0)
    close(penalty.value(w.to(CUDA)).cpu(), penalty.value(w))
    gradient = torch.randn_like(w)
    there = penalty.distance(w.to(CUDA), gradient.to(CUDA))
    close(there.cpu(), penalty.distance(w, gradient))


@each_optimizer
@pytest.mark.parametrize("case", CASES, ids=str)
def test_training_gives_the_weights_and_zeros_of_the_cpu(case: Case, name: str) -> None:
    host, device = on("cpu", network()), on(CUDA, network())
    for model in (host, device):
        train(model, wrapped(model, name, case.make(0.02)), range(40))
    # In a capturable step torch's own bias corrections are in float32.
    close = {"rtol": 1e-3, "atol": 1e-5} if "capturable" in name else {"rtol": 1e-7, "atol": 1e-9}
    for p, q in zip(host.parameters(), device.parameters(), strict=True):
        assert_close(q.cpu(), p, rtol=close["rtol"], atol=close["atol"])
        assert torch.equal(q.cpu() == 0, p == 0) or "capturable" in name


@each_optimizer
@pytest.mark.parametrize("case", [c for c in CASES if "Exclusive" not in c.name], ids=str)
def test_no_step_waits_for_the_gpu(case: Case, name: str) -> None:
    model = on(CUDA, network())
    optimizer = wrapped(model, name, case.make(0.02))
    train(model, optimizer, range(3))
    backward(model, 3)
    with waits_refused():
        optimizer.step()


@each_optimizer
@pytest.mark.parametrize("make", [tr.GroupLasso, tr.GroupL0])
def test_joint_groups_are_those_of_the_cpu_and_wait_for_nothing(make: Any, name: str) -> None:
    host, device = on("cpu", network()), on(CUDA, network())
    for model in (host, device):
        groups = tr.joint(model, {"first.weight": tr.rows, "last.weight": tr.columns})
        optimizer = wrapped(model, name, {groups.names: make(0.02, groups)})
        train(model, optimizer, range(40))
    close = {"rtol": 1e-3, "atol": 1e-5} if "capturable" in name else {"rtol": 1e-7, "atol": 1e-9}
    for p, q in zip(host.parameters(), device.parameters(), strict=True):
        assert_close(q.cpu(), p, rtol=close["rtol"], atol=close["atol"])
    backward(device, 40)
    with waits_refused():
        optimizer.step()


def test_a_wait_is_refused() -> None:
    with waits_refused(), pytest.raises(RuntimeError, match="synchronizing"):
        torch.ones((), device=CUDA).item()


def test_a_captured_step_replays() -> None:
    model, other = on(CUDA, network()), on(CUDA, network())
    optimizer = wrapped(model, "AdamW capturable", tr.L1(0.05))
    reference = wrapped(other, "AdamW capturable", tr.L1(0.05))
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        train(model, optimizer, range(3))
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    for seed in range(3, 40):
        backward(model, seed)
        graph.replay()
    train(other, reference, range(40))
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert_close(p, q, rtol=1e-7, atol=1e-9)
    assert tr.sparsity(model).exact == tr.sparsity(other).exact > 5


@each_optimizer
def test_a_grad_scaler_skips_an_overflow(name: str) -> None:
    model = on(CUDA, network()).float()
    optimizer = wrapped(model, name, tr.L1(0.05))
    scaler = torch.amp.GradScaler("cuda", init_scale=1024.0)
    for seed in range(5):
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.float16):
            loss = loss_of(model, seed)
        scaler.scale(loss).backward()
        if seed == 4:
            before = weights(model)
            model.first.weight.grad[0, 0] = torch.inf
        scaler.step(optimizer)
        scaler.update()
    assert tr.sparsity(model).exact > 0
    assert identical(weights(model), before)
    assert scaler.get_scale() == 512.0


@pytest.mark.parametrize("penalty", [tr.L0(1.0), tr.GroupL0(1.0, tr.rows), tr.L1(1.0)], ids=repr)
def test_target_sparsity_arrives(penalty: tr.Penalty) -> None:
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(40, 50), nn.Tanh(), nn.Linear(50, 40)).to(CUDA)
    x = torch.randn(256, 40, device=CUDA)
    optimizer = wrapped(model, "Adam", penalty)
    tr.TargetSparsity(optimizer, 0.2, end=150, hold=180)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), x.roll(1, 1)).backward()
        optimizer.step()
    assert 1 - tr.sparsity(optimizer.regularizer).sparsity == pytest.approx(0.2, rel=0.1)


def test_the_solver_and_its_path_agree_with_the_cpu() -> None:
    x, y = table(load_wine)
    found: list[tuple[list[float], Tensor, Tensor]] = []
    for device in (torch.device("cpu"), CUDA):
        model = zeros(x.shape[1], 3).to(device)
        regularizer = tr.Regularizer(model, tr.ElasticNet.from_alpha(1.0, 0.7))
        loss = tr.Logistic(x.to(device), y.to(device))
        path = tr.path(regularizer, loss, points=8, ratio=0.02, tolerance=1e-9)
        assert all(point.solution.converged for point in path)
        solved = tr.solve(regularizer, lambda m=model, f=loss: f(m), tolerance=1e-9)  # type: ignore[misc]
        assert solved.converged
        found.append((path.strengths, path.coefficients().cpu(), model.weight.detach().cpu()))
    assert found[0][0] == pytest.approx(found[1][0])
    assert_close(found[0][1], found[1][1], atol=1e-7, rtol=0)
    assert_close(found[0][2], found[1][2], atol=1e-7, rtol=0)


def test_the_estimators_agree_with_the_cpu() -> None:
    kinds: list[tuple[Any, Any]] = [
        (tr.estimators.ElasticNetRegressor, load_diabetes),
        (tr.estimators.LogisticClassifier, load_wine),
    ]
    for kind, load in kinds:
        x, y = load(return_X_y=True)
        host = kind(0.05, l1_ratio=0.5, tol=1e-9).fit(x / x.std(0), y)
        device = kind(0.05, l1_ratio=0.5, tol=1e-9, device="cuda").fit(x / x.std(0), y)
        assert abs(host.coef_ - device.coef_).max() < 1e-6
        assert (host.predict(x) == device.predict(x)).mean() > 0.99 or kind is kinds[0][0]


def test_reports_and_the_loss_term_agree_with_the_cpu() -> None:
    host, device = on("cpu", network()), on(CUDA, network())
    numbers = []
    for model in (host, device):
        regularizer = tr.Regularizer(model, tr.ElasticNet(0.1, 0.1))
        certificate = tr.stationarity(regularizer, lambda m=model: loss_of(m, 0))
        (loss_of(model, 0) + regularizer()).backward()
        regularizer.add_gradients_()
        gradients = [p.grad.norm().item() for p in model.parameters()]
        numbers.append([regularizer().item(), certificate.residual, *gradients])
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-9)


def test_a_compacted_network_has_the_same_outputs() -> None:
    model: Any = alive(
        nn.Sequential(
            nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(),
            nn.Conv2d(12, 8, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5),
        )
    ).to(CUDA)  # fmt: skip
    x = torch.randn(4, 3, 8, 8, device=CUDA)
    groups = tr.removable_groups(model, x)
    assert groups
    for tensor in (model[0].weight, model[1].weight, model[1].bias):
        zero(tensor, [1, 7])
    small, report = tr.compact(model, x)
    assert report.parameters.after < report.parameters.before
    with torch.no_grad():
        assert_close(small(x), model(x), rtol=1e-4, atol=1e-5)


def test_sparse_linear_layers_on_the_gpu() -> None:
    layer = nn.Linear(64, 32).to(CUDA)
    with torch.no_grad():
        layer.weight[torch.rand_like(layer.weight) < 0.9] = 0
    sparse = tr.compaction.CSRLinear(layer)
    x = torch.randn(5, 64, device=CUDA)
    assert_close(sparse(x), layer(x), rtol=1e-4, atol=1e-5)
