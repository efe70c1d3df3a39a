"""What scripts/bench measures: functions that each do one thing once, by name."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adam, Optimizer

import torchreg as tr

Case = Callable[[], Any]

STRENGTH = 1e-9  # thresholds below any weight: the time does not depend on it, the weights stay
ADAPTIVE = {"SGD": SGD, "Adam": Adam}


def model_of(name: str, device: torch.device) -> nn.Module:
    """ResNet-18 or ViT-B/16 of torchvision at its initial weights, with random gradients."""
    from torchvision import models

    makers: dict[str, Callable[[], nn.Module]] = {
        "resnet18": models.resnet18,
        "vit_b_16": models.vit_b_16,
    }
    model = makers[name]().to(device)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) * 1e-3
    return model


def weights_of(model: nn.Module) -> list[nn.Parameter]:
    """The weights that are penalised by default."""
    return list(tr.select(model).values())


def copy_case(model: nn.Module) -> Case:
    """A plain copy of the penalised weights: the unit."""
    weights = [w.detach() for w in weights_of(model)]
    copies = [torch.empty_like(w) for w in weights]

    def copy() -> None:
        for to, w in zip(copies, weights, strict=True):
            to.copy_(w)

    return copy


def penalty_cases(model: nn.Module) -> dict[str, Case]:
    """L1's gradient by autograd, by the loop that one writes first, and directly."""
    regularizer = tr.Regularizer(model, tr.L1(STRENGTH))
    weights = weights_of(model)

    def naive() -> None:
        loss: Any = 0.0
        for w in weights:
            loss = loss + STRENGTH * torch.norm(w, 1)
        loss.backward()

    return {
        "L1 by autograd": lambda: regularizer().backward(),
        "L1 by a naive loop": naive,
        "L1 by add_gradients_": regularizer.add_gradients_,
    }


def step_cases(model: nn.Module, compiled: bool) -> dict[str, Case]:
    """The optimizers' own steps (foreach and fused) and the proximal part after them."""
    cases: dict[str, Case] = {}
    on_cpu = weights_of(model)[0].device.type == "cpu"
    for name, kind in ADAPTIVE.items():
        weights = weights_of(model)
        first = kind(weights, lr=1e-9)
        first.step()

        def another(kind: Any = kind, first: Any = first, **options: bool) -> Any:
            made = kind(weights_of(model), lr=1e-9, **options)
            if on_cpu:  # one state for all: six of ViT-B's would fill a small machine
                made.state = first.state
            return made

        cases[f"{name} step, foreach"] = another(foreach=True).step
        cases[f"{name} step, fused"] = another(fused=True).step
        if on_cpu:  # where torch's default is neither
            cases[f"{name} step, default"] = first.step
        for how in ("", ", compiled") if compiled else ("",):
            regularizer = tr.Regularizer(model, tr.L1(STRENGTH))
            optimizer = tr.ProximalOptimizer(another(), regularizer, compile=bool(how))
            optimizer.step()
            cases[f"prox of {name}{how}"] = optimizer._apply_prox
    return cases


def rival_cases(model: nn.Module) -> dict[str, Case]:
    """Whole steps in torchao's ``prototype/pat``, whose proximal part is no function."""
    try:
        from torchao.prototype.pat import PruneOptimizer
    except ImportError:
        return {}
    cases: dict[str, Case] = {}
    for name, kind in ADAPTIVE.items():
        group = {
            "params": weights_of(model),
            "prox_type": "ProxLasso",
            "group_type": "ElemGrouper",
            "reg_lambda": STRENGTH,
        }
        cases[f"{name} step in torchao's pat"] = PruneOptimizer(kind([group], lr=1e-9)).step
    return cases


def training_cases(device: torch.device) -> dict[str, Case]:
    """One training step of ResNet-18 on 64 images of 32 x 32, without and with the prox."""
    from experiments.models import resnet18

    x = torch.randn(64, 3, 32, 32, device=device)
    y = torch.randint(10, (64,), device=device)

    def case(kind: Any, proximal: bool) -> Case:
        model = resnet18().to(device)
        optimizer: Optimizer = kind(model.parameters(), lr=1e-6)
        if proximal:
            optimizer = tr.ProximalOptimizer(optimizer, tr.Regularizer(model, tr.L1(STRENGTH)))

        def step() -> None:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()

        return step

    return {
        f"training step, {name}{', proximal' if proximal else ''}": case(kind, proximal)
        for name, kind in ADAPTIVE.items()
        for proximal in (False, True)
    }


def extra_memory(case: Case, device: torch.device) -> int:
    """The most bytes that a case holds at once beyond what it found."""
    case()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        case()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        case()
    held = most = 0
    for event in sorted(_allocations(profile), key=lambda e: e[0]):
        held += event[1]
        most = max(most, held)
    return most


def _allocations(profile: Any) -> list[tuple[int, int]]:
    """(time, bytes) of every allocation and, negative, of every release."""
    return [
        (event.start_ns(), event.nbytes())
        for event in profile.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]


def bytes_of(tensors: list[nn.Parameter]) -> int:
    """What the tensors hold."""
    return sum(t.numel() * t.element_size() for t in tensors)
