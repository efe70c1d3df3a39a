"""The pure proximal maps, on whatever hypothesis thinks of, against plain Python floats."""

import cmath
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from torchreg.prox import elastic_net, ridge, soft_threshold

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# Within float16, whose largest number is 65504.
numbers = st.floats(-1000, 1000) | st.sampled_from([0.0, -0.0, 1e-7, -1e-30, 0.5, -0.5, 1.0])
strengths = st.floats(0, 100) | st.sampled_from([0.0, 0.5, 1.0, 1e-12])


@st.composite
def tensors(draw: st.DrawFn, dtypes: list[torch.dtype] = DTYPES) -> Tensor:
    """Any shape of 0 to 3 dimensions, empty ones too, contiguous or not."""
    shape = draw(st.lists(st.integers(0, 2), max_size=3))
    layout = draw(st.sampled_from(["contiguous", "transposed", "strided"]))
    stored = [2 * size for size in shape] if layout == "strided" else shape
    count = math.prod(stored)
    values = draw(st.lists(numbers, min_size=count, max_size=count))
    w = torch.tensor(values, dtype=torch.float64).reshape(stored).to(draw(st.sampled_from(dtypes)))
    if layout == "strided":
        return w[tuple(slice(None, None, 2) for _ in shape)]
    return w.mT if layout == "transposed" and w.dim() >= 2 else w


@st.composite
def weights_and_steps(draw: st.DrawFn) -> tuple[Tensor, float | Tensor]:
    w = draw(tensors())
    kind = draw(st.sampled_from(["float", "0-d", "per coordinate"]))
    if kind == "per coordinate":
        count = w.numel()
        values = draw(st.lists(strengths, min_size=count, max_size=count))
        return w, torch.tensor(values, dtype=w.dtype).reshape(w.shape)
    step = draw(strengths)
    return w, torch.tensor(step, dtype=w.dtype) if kind == "0-d" else step


def soft(w: float, threshold: float) -> float:
    return math.copysign(max(abs(w) - threshold, 0.0), w)


def assert_equals_oracle(z: Tensor, w: Tensor, expected: list[float]) -> None:
    """A threshold, a difference, a factor and a quotient round once each, at the size of w."""
    assert z.shape == w.shape
    assert z.dtype == w.dtype
    finite = torch.finfo(w.dtype)
    error = (z.double().flatten() - torch.tensor(expected, dtype=torch.float64)).abs()
    smallest = finite.smallest_normal * finite.eps  # what a subnormal number is rounded to
    assert bool((error <= 4 * (finite.eps * w.double().abs().flatten() + smallest)).all())


def paired(w: Tensor, step: float | Tensor) -> list[tuple[float, float]]:
    steps = torch.as_tensor(step, dtype=torch.float64).expand(w.shape).flatten().tolist()
    return list(zip(w.double().flatten().tolist(), steps, strict=True))


@given(weights_and_steps())
def test_soft_threshold_equals_the_oracle(drawn: tuple[Tensor, float | Tensor]) -> None:
    w, threshold = drawn
    z = soft_threshold(w, threshold)
    assert_equals_oracle(z, w, [soft(x, t) for x, t in paired(w, threshold)])
    for (x, t), one in zip(paired(w, threshold), z.flatten().tolist(), strict=True):
        if abs(x) <= t:
            assert one == 0.0  # exactly, at the threshold itself too


@given(weights_and_steps(), strengths)
def test_ridge_equals_the_oracle(drawn: tuple[Tensor, float | Tensor], l2: float) -> None:
    w, step = drawn
    assert_equals_oracle(ridge(w, step, l2), w, [x / (1 + 2 * s * l2) for x, s in paired(w, step)])


@given(weights_and_steps(), strengths, strengths)
def test_elastic_net_equals_the_oracle(
    drawn: tuple[Tensor, float | Tensor], l1: float, l2: float
) -> None:
    w, step = drawn
    expected = [soft(x, s * l1) / (1 + 2 * s * l2) for x, s in paired(w, step)]
    assert_equals_oracle(elastic_net(w, step, l1, l2), w, expected)


@given(tensors(), strengths, strengths)
def test_thresholding_is_odd_and_never_changes_a_sign(w: Tensor, l1: float, l2: float) -> None:
    z = elastic_net(w, 0.7, l1, l2)
    assert torch.equal(elastic_net(-w, 0.7, l1, l2), -z)
    assert bool((z * w >= 0).all())
    assert bool((z.abs() <= w.abs()).all())


@given(
    tensors(),
    st.sampled_from([0.0, 1e-45, 1.0, 1e39, 1e300, math.inf]),
    st.sampled_from([0.0, 1e-7, 1.0, 1e4]),  # that float16 can hold
    st.sampled_from([0.0, 1e-7, 1.0, 1e4]),
)
def test_no_step_or_strength_makes_a_nan(w: Tensor, step: float, l1: float, l2: float) -> None:
    everywhere = torch.tensor(step, dtype=torch.float64).to(w.dtype).expand(w.shape)
    for one in (step, torch.tensor(step, dtype=torch.float64), everywhere):
        assert not elastic_net(w, one, l1, l2).isnan().any()


@given(tensors())
def test_nothing_to_do_is_the_identity(w: Tensor) -> None:
    assert torch.equal(soft_threshold(w, 0.0), w)
    assert torch.equal(ridge(w, 0.7, 0.0), w)
    assert torch.equal(elastic_net(w, 0.0, 0.3, 0.3), w)
    assert torch.equal(elastic_net(w, math.inf, 0.0, 0.0), w)


@given(tensors([torch.complex64, torch.complex128]), strengths)
def test_a_complex_weight_keeps_its_phase(real: Tensor, threshold: float) -> None:
    w = torch.complex(real.real, real.real.flip(0) if real.dim() else real.real)
    z = soft_threshold(w, threshold)
    eps = torch.finfo(w.dtype).eps
    for x, one in zip(w.flatten().tolist(), z.flatten().tolist(), strict=True):
        expected = cmath.rect(max(abs(x) - threshold, 0.0), cmath.phase(x))
        # A modulus, a difference, a quotient and a product round, and rect() itself.
        assert abs(one - expected) <= 8 * eps * abs(x)
        if abs(x) * (1 + eps) <= threshold:
            assert one == 0


@pytest.mark.parametrize("dtype", [*DTYPES, torch.complex64])
def test_nan_stays_nan(dtype: torch.dtype) -> None:
    w = torch.tensor([math.nan, 1.0, 0.0], dtype=dtype)
    for z in (soft_threshold(w, 0.5), elastic_net(w, 0.5, 1.0, 1.0)):
        assert z.isnan().tolist() == [True, False, False]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_threshold_itself_is_zeroed_and_the_next_number_is_not(dtype: torch.dtype) -> None:
    threshold = torch.tensor(0.3, dtype=dtype)
    above = torch.nextafter(threshold, torch.tensor(1.0, dtype=dtype))
    for t in (threshold, float(threshold)):
        assert soft_threshold(torch.stack([threshold, -threshold]), t).tolist() == [0.0, 0.0]
        assert soft_threshold(above, t) == above - threshold
        assert soft_threshold(-above, t) == threshold - above


def test_a_threshold_broadcasts_to_the_weights() -> None:
    w = torch.tensor([[3.0, -3.0], [1.0, -1.0]])
    rows = torch.tensor([[0.0], [2.0]])
    assert soft_threshold(w, rows).tolist() == [[3.0, -3.0], [0.0, 0.0]]
