"""RegularizedMixin: layers that are unfrozen during the fit."""

from typing import Any, cast

import pytest
from torch.optim import Optimizer

import torchreg as tr
from tests.lightning_modules import (
    FEW_WORKERS,
    L1,
    MODES,
    Batch,
    Plain,
    Proximal,
    Unfreezes,
    backbone,
    data,
    fit,
    of_the_trainable,
    same,
)

pytestmark = FEW_WORKERS


def named(_: Any) -> Any:
    return {"net.*.weight": tr.L1(L1)}


@MODES
@pytest.mark.parametrize("configure", [lambda _: tr.L1(L1), named, backbone])
def test_an_unfrozen_layer_is_penalised(kind: type[Proximal], configure: Any) -> None:
    module = type("Net", (kind,), {"configure_regularizer": configure})(of_the_trainable)
    fit(module, callbacks=[Unfreezes(0)], max_epochs=3)

    expected = Plain()
    expected.net[0].requires_grad_(requires_grad=False)
    optimizer: Optimizer = of_the_trainable(expected)
    penalised = {"net.0.weight": tr.L1(L1)} if configure is backbone else named(None)
    regularizer = tr.Regularizer(expected, penalised)
    proximal = kind is Proximal
    for epoch in range(3):
        if epoch == 1:
            expected.net[0].requires_grad_()
            optimizer.add_param_group({"params": list(expected.net[0].parameters())})
            if proximal and configure is backbone:
                optimizer = tr.ProximalOptimizer(optimizer, regularizer)
        if epoch == 0 and proximal and configure is not backbone:
            optimizer = tr.ProximalOptimizer(optimizer, regularizer)
        for batch in data():
            optimizer.zero_grad()
            expected.loss(batch).backward()
            for name, p in expected.named_parameters():
                if not proximal and name in regularizer.selection() and p.grad is not None:
                    p.grad += L1 * p.detach().sign()
            optimizer.step()
    assert same(module, expected)
    assert set(module.regularizer.selection()) == set(regularizer.selection())


def test_unfreezing_past_a_regularizer_of_the_default_selection_warns() -> None:
    class Own(Proximal):
        def configure_regularizer(self) -> tr.Regularizer:
            return tr.Regularizer(self, tr.L1(L1))

    with pytest.warns(UserWarning, match=r"net.0.weight was frozen when the Regularizer"):
        fit(Own(of_the_trainable), callbacks=[Unfreezes(0)])


def test_penalised_parameters_that_come_too_late_are_refused() -> None:
    class Late(Proximal):
        configure_regularizer = backbone

        def training_step(self, batch: Batch, index: int) -> Any:
            if index == 1:
                self.net[0].requires_grad_()
                optimizer = cast(Optimizer, self.optimizers())
                optimizer.add_param_group({"params": list(self.net[0].parameters())})
            return super().training_step(batch, index)

    module = Late(of_the_trainable)
    module.net[0].requires_grad_(requires_grad=False)
    with pytest.raises(RuntimeError, match="its first penalised parameters before a batch begins"):
        fit(module)
