"""RegularizedMixin: what it refuses, and how it says so."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import torchreg as tr
from tests.lightning_modules import (
    FEW_WORKERS,
    L1,
    Batch,
    InLoss,
    Plain,
    Proximal,
    add_subgradient,
    by_hand,
    data,
    fit,
    same,
    sgd,
    weights,
)
from torchreg.lightning import RegularizedMixin

pytestmark = FEW_WORKERS


def refused(error: type[Exception], match: str, regularizer: Any = None, **attributes: Any) -> None:
    body = dict(attributes)
    if regularizer is not None:
        body["configure_regularizer"] = regularizer
    module = type("Net", (Proximal,), body)()
    with pytest.raises(error, match=match):
        fit(module)


def test_a_missing_or_wrong_regularizer_is_refused() -> None:
    class Missing(RegularizedMixin, Plain):
        pass

    with pytest.raises(NotImplementedError, match="Missing does not say what is penalised"):
        fit(Missing())
    refused(TypeError, "returned None. Expected a penalty such as", lambda _: None)
    refused(TypeError, "returned 0.1", lambda _: 0.1)
    refused(ValueError, "of another model", lambda _: tr.Regularizer(Plain(), tr.L1(1)))
    refused(RuntimeError, "has no attribute 'layers'", lambda self: self.layers)
    refused(ValueError, "regularization is 'prox'; expected", regularization="prox")


def test_doubly_counted_penalties_are_refused() -> None:
    def wrapped(self: Proximal) -> Optimizer:
        return tr.ProximalOptimizer(sgd(self), tr.Regularizer(self, tr.L1(L1)))

    def added(self: Proximal, batch: Batch, _: int) -> Tensor:
        return self.loss(batch) + self.regularizer()

    for mode in ("proximal", "loss"):
        refused(TypeError, "act once more", configure_optimizers=wrapped, regularization=mode)
        refused(RuntimeError, "would count twice", training_step=added, regularization=mode)


def test_reading_the_penalty_in_training_step_is_fine() -> None:
    class Reads(Proximal):
        def training_step(self, batch: Batch, _: int) -> Tensor:
            self.log("penalty", self.regularizer())
            return self.loss(batch)

    module = Reads()
    fit(module)
    assert same(module, by_hand(mode="proximal"))
    (module.loss(data()[0]) + module.regularizer()).backward()  # a loop of one's own


def test_a_penalised_parameter_that_is_not_trained_is_refused() -> None:
    def half(self: Proximal) -> Optimizer:
        return sgd(self.net[0])

    for mode in ("proximal", "loss"):
        refused(
            ValueError, "holds the penalised net.2.weight", configure_optimizers=half,
            regularization=mode,
        )  # fmt: skip


def test_a_frozen_penalised_parameter_is_left_alone() -> None:
    class Frozen(Proximal):
        def configure_regularizer(self) -> Any:
            return {"net.*.weight": tr.L1(L1)}

    module = Frozen(lambda m: sgd(m.net[2]))
    module.net[0].requires_grad_(False)
    before = weights(module)
    fit(module)
    after = weights(module)
    assert torch.equal(after["net.0.weight"], before["net.0.weight"])
    assert not torch.equal(after["net.2.weight"], before["net.2.weight"])


def test_lbfgs_needs_the_value_of_the_penalty_for_its_line_search() -> None:
    def configure(self: Proximal) -> Optimizer:
        return torch.optim.LBFGS(self.parameters(), line_search_fn="strong_wolfe")

    refused(TypeError, "line search", configure_optimizers=configure, regularization="loss")


def test_lbfgs_without_line_search_minimises_the_sum() -> None:
    def configure(module: nn.Module) -> Optimizer:
        return torch.optim.LBFGS(module.parameters(), lr=0.5, max_iter=4)

    module, expected = InLoss(configure), Plain()
    fit(module, data(1))
    optimizer = configure(expected)

    def closure() -> float:
        optimizer.zero_grad()
        loss = expected.loss(data(1)[0])
        loss.backward()
        add_subgradient(expected)
        return loss.item()

    for _ in range(2):
        optimizer.step(closure)
    assert same(module, expected)
