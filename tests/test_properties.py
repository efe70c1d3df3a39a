"""A thousand random cases: the fast path, the reference and what no prox may do."""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD, Adam, RMSprop

import torchreg as tr
from torchreg import blocks as fast
from torchreg import metrics
from torchreg.penalties.elastic import Elastic

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
strengths = st.sampled_from([0.0, 1e-30, 1e-6, 1e-3, 0.5, 30.0])
steps = st.sampled_from([0.0, 1e-30, 1e-4, 0.7, 1e4])


@st.composite
def weights(draw: Any, dtypes: tuple[torch.dtype, ...] = DTYPES) -> Tensor:
    """Any shape of up to four small dimensions, in any order of memory, with or without gaps."""
    sizes = draw(st.lists(st.integers(0, 4), max_size=4))
    gap = draw(st.sampled_from([1, 1, 2]))
    order = draw(st.permutations(range(len(sizes))))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    w = torch.randn([n * gap for n in sizes], generator=generator, dtype=torch.float64)
    w = (w * draw(st.sampled_from([1e-3, 1.0, 40.0]))).to(draw(st.sampled_from(dtypes)))
    w[w.abs() < draw(st.sampled_from([0.0, 0.3]))] = 0
    cut: Tensor = w[tuple(slice(None, None, gap) for _ in sizes)]
    return cut.permute(order)


@st.composite
def penalties(draw: Any) -> tr.Penalty:
    """One of the three, of any strength."""
    made: list[tr.Penalty] = [
        tr.L1(draw(strengths)),
        tr.L2(draw(strengths)),
        tr.ElasticNet(draw(strengths), draw(strengths)),
    ]
    chosen: int = draw(st.integers(0, 2))
    return made[chosen]


@settings(max_examples=600)
@given(weights(), penalties(), steps, st.sampled_from(["float", "0-d", "per coordinate"]))
def test_prox(w: Tensor, penalty: tr.Penalty, step: float, kind: str) -> None:
    size: float | Tensor = step
    if kind == "0-d":
        size = torch.tensor(step, dtype=w.dtype)
    elif kind == "per coordinate":
        size = torch.rand(w.shape).to(w.dtype) * step
    before = w.clone()
    z = penalty.prox(w, size).to(w.dtype)
    assert torch.equal(w, before)  # the reference is pure
    assert z.shape == w.shape
    assert not z.isnan().any()
    assert (z.abs() <= w.abs()).all()
    assert (z * w >= 0).all()  # never across zero
    assert (z[w == 0] == 0).all()
    assert penalty.value(w) >= 0
    assert (penalty.distance(w, torch.ones_like(w)) >= 0).all()
    if step == 0:
        assert torch.equal(z, w)
    l1 = penalty.elastic_net[0] if isinstance(penalty, Elastic) else 0
    if l1 > 0 and kind != "0-d":
        threshold = size * l1
        assert (z[(w.abs() <= threshold)] == 0).all()
    penalty.prox_(w, size)
    assert torch.equal(w, z)


@settings(max_examples=200)
@given(weights((torch.float64, torch.float32)), penalties(), st.sampled_from([1.0, 0.5, 1024.0]))
def test_direct_gradient(w: Tensor, penalty: tr.Penalty, scale: float) -> None:
    leaf = w.clone().requires_grad_()
    (expected,) = torch.autograd.grad(penalty.value(leaf), leaf)
    grad = torch.ones_like(w)
    penalty.add_gradient_(w, grad, scale)
    torch.testing.assert_close(grad, 1 + scale * expected)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    weights((torch.float64, torch.float32)),
    penalties(),
    st.sampled_from([SGD, Adam, RMSprop]),
    st.sampled_from([0.0, 1e-4, 0.1]),
    st.booleans(),
)
def test_step(
    monkeypatch: pytest.MonkeyPatch,
    w: Tensor,
    penalty: tr.Penalty,
    optimizer: Any,
    lr: float,
    as_tensor: bool,
) -> None:
    monkeypatch.setattr(fast, "BLOCK", 5)
    model = nn.ParameterDict({"w": w.clone(), "twin": w.clone()})
    if penalty.strength == 0:
        return
    rate = torch.tensor(lr) if as_tensor and optimizer is not RMSprop else lr
    plain = optimizer([model["twin"]], lr=rate)
    proximal = tr.ProximalOptimizer(
        optimizer([model["w"]], lr=rate), tr.Regularizer(model, penalty, "w")
    )
    for scale in (1.0, 0.0, 1e-20):
        model["w"].grad = scale * torch.randn_like(w)
        model["twin"].grad = model["w"].grad.clone()
        proximal.step()
        metrics.before_step(plain)
        plain.step()
        metrics.advance(plain)
        found: Any = metrics.metric_of(plain)(
            plain.param_groups[0], model["twin"], plain.state[model["twin"]]
        )
        with torch.no_grad():
            twin = model["twin"]
            twin.copy_(penalty.prox(twin, found.bounded(penalty.slope(twin))))
        assert not model["w"].isnan().any()
        assert torch.equal(model["w"], model["twin"])
