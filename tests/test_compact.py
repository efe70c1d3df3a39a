"""The smaller model: the same outputs, planted zeros gone, everything that stays told."""

import copy
import io
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import onnx
import onnx.reference
import pytest
import torch
import torchvision
from torch import Tensor, nn

import torchreg as tr
from experiments import models
from torchreg.compaction import CSRLinear


def alive(model: nn.Module) -> nn.Module:
    """Statistics and shifts as training leaves them: nothing is 0 or 1 by default."""
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                assert layer.running_mean is not None
                assert layer.running_var is not None
                layer.running_mean.normal_()
                layer.running_var.uniform_(0.5, 2)
                layer.weight.uniform_(0.5, 1.5)
                layer.bias.normal_()
            elif isinstance(layer, nn.Linear) and not layer.weight.any():
                layer.weight.normal_()  # torchvision starts the head of a transformer at zero
    return model.eval()


def zero(tensor: Any, index: Any) -> None:
    with torch.no_grad():
        tensor[index] = 0


def zero_inputs(model: nn.Module, share: float = 1 / 3) -> nn.Module:
    """The first third of what each layer reads, but of images."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and layer.weight.shape[1] > 3:
            zero(layer.weight, (slice(None), slice(int(layer.weight.shape[1] * share))))
    return model


def compacted(model: nn.Module, example: Any, inputs: Iterable[Tensor]) -> tuple[nn.Module, Any]:
    """Compact, and compare on inputs that the compaction has not seen, in both precisions."""
    before = copy.deepcopy(model.state_dict())
    small, report = tr.compact(model, example)
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    wide, narrow = copy.deepcopy(model).double(), copy.deepcopy(small).double()
    with torch.no_grad():
        for x in inputs:
            exact = wide(x.double())
            # Of a deep network float32 itself is off by more than 1e-5: no more than that twice.
            own = float((model(x) - exact).abs().max())
            torch.testing.assert_close(small(x), model(x), rtol=1e-5, atol=max(1e-5, 2 * own))
            # A constant that was moved into a bias is rounded as the bias is.
            torch.testing.assert_close(narrow(x.double()), exact, rtol=1e-6, atol=1e-6)
    assert report.difference[1] <= 1e-9
    # Every zero that is left is told, and nothing else is.
    assert report.parameters.after == sum(p.numel() for p in small.parameters())
    told = {stay.layer for stay in report.stays}
    for name, layer in small.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and layer.weight.numel():
            nonzero = (layer.weight != 0).flatten(2).any(2) if layer.weight.dim() > 2 else (
                layer.weight != 0
            )  # fmt: skip
            if not bool(nonzero.any(1).all()) or (
                getattr(layer, "groups", 1) == 1 and not bool(nonzero.any(0).all())
            ):
                assert name in told, name
    return small, report


def images(*shape: int) -> list[Tensor]:
    return [torch.randn(*shape) for _ in range(2)]


OURS: list[tuple[Callable[[], nn.Module], tuple[int, ...], float]] = [
    (models.LeNet300_100, (2, 1, 28, 28), 0.9),
    (models.LeNet5Caffe, (2, 1, 28, 28), 0.5),
    (models.small_vgg, (2, 3, 32, 32), 0.5),
    (lambda: models.ResNet([8, 16], 2, 10, projected=True), (2, 3, 16, 16), 0.7),
    (lambda: models.ResNet([8, 16], 2, 10, projected=False), (2, 3, 16, 16), 0.8),
]


@pytest.mark.parametrize(("make", "shape", "kept"), OURS)
def test_networks_of_the_experiments(
    make: Callable[[], nn.Module], shape: tuple[int, ...], kept: float
) -> None:
    model = zero_inputs(alive(make()))
    small, report = compacted(model, torch.randn(shape), images(*shape))
    assert report.parameters.kept < kept
    again, unchanged = tr.compact(small, torch.randn(shape))
    assert unchanged.parameters.kept == 1
    assert [type(m) for m in again.modules()] == [type(m) for m in model.modules()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "kept"),
    [
        ("resnet18", 64, 0.5),
        ("mobilenet_v3_small", 64, 0.6),
        ("densenet121", 32, 0.65),
        ("googlenet", 64, 0.6),
    ],
)
def test_networks_of_torchvision(name: str, size: int, kept: float) -> None:
    extra = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    model = zero_inputs(alive(getattr(torchvision.models, name)(**extra)))
    _, report = compacted(model, torch.randn(1, 3, size, size), images(2, 3, size, size))
    assert report.parameters.kept < kept


def test_a_network_that_cannot_be_followed_is_an_error_and_stays_as_it_is() -> None:
    model = zero_inputs(alive(torchvision.models.shufflenet_v2_x0_5()))
    before = {name: p.clone() for name, p in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="torch-pruning could not follow ShuffleNetV2"):
        tr.compact(model, torch.randn(1, 3, 64, 64))
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "size", "kept"), [("vgg16_bn", 32, 0.5), ("vit_b_16", 224, 0.9), ("resnet56", 32, 0.7)]
)
def test_large_networks(name: str, size: int, kept: float) -> None:
    source = models if name == "resnet56" else torchvision.models
    model = zero_inputs(alive(getattr(source, name)()))
    _, report = compacted(model, torch.randn(1, 3, size, size), images(2, 3, size, size))
    assert report.parameters.kept < kept


def transformer() -> nn.Module:
    model: nn.Module = torchvision.models.VisionTransformer(
        image_size=16, patch_size=8, num_layers=2, num_heads=2, hidden_dim=12, mlp_dim=24,
        num_classes=5,
    )  # fmt: skip
    return model


def test_a_transformer_loses_hidden_neurons_and_the_rest_is_named() -> None:
    model = zero_inputs(alive(transformer()))
    small, report = compacted(model, torch.randn(1, 3, 16, 16), images(2, 3, 16, 16))
    assert small.get_submodule("encoder.layers.encoder_layer_0.mlp.0").out_features == 16
    told = str(report)
    assert "LayerNorm" in told
    assert "MultiheadAttention" in told


def chain(padding: int = 0, flat: bool = False) -> nn.Sequential:
    behind = [nn.Flatten(), nn.Linear(6 * 8 * 8, 5)] if flat else [
        nn.Conv2d(6, 5, 3, padding=padding, bias=False)
    ]  # fmt: skip
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), *behind)


def planted(layer: Any, rows: list[int], *, shift: float) -> None:
    """Filters of zeros, whose BatchNorm makes the constant ``shift`` of them."""
    norm = layer[1]
    with torch.no_grad():
        layer[0].weight[rows] = 0
        norm.bias[rows] = shift + (norm.running_mean - layer[0].bias)[rows] * norm.weight[
            rows
        ] / torch.sqrt(norm.running_var[rows] + norm.eps)


@pytest.mark.parametrize(
    ("padding", "flat", "shift", "kept"),
    [
        (0, False, 0.7, 4),  # a constant, moved into a bias that was not there
        (0, True, 0.7, 4),
        (1, False, -0.7, 4),  # ReLU makes it zero, whatever the padding
        (1, False, 0.7, 6),  # cut off at the borders: no bias equals that
    ],
)
def test_the_constant_of_a_zero_filter(padding: int, flat: bool, shift: float, kept: int) -> None:
    model = alive(chain(padding, flat))
    planted(model, [1, 4], shift=shift)
    small, report = compacted(model, torch.randn(2, 3, 8, 8), images(3, 3, 8, 8))
    assert small.get_submodule("0").out_channels == kept
    assert ("zero padding cuts off" in str(report)) == (kept == 6)
    if kept == 6:
        (stay,) = report.stays
        assert (stay.layer, stay.zeros, stay.count) == ("0", "filters", 2)


def test_a_dead_relu_is_no_zero_filter() -> None:
    model: Any = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    with torch.no_grad():
        model[0].bias[:2] = -1e3  # silent on the example, not on every input
    small, report = compacted(model, torch.randn(8, 4), [1e5 * torch.randn(8, 4)])
    assert small.get_submodule("0").out_features == 6
    assert "nothing was removed" in str(report)
    assert "removable_groups" in str(report)


def test_an_output_layer_of_zeros_hides_no_fault() -> None:
    class Rolled(nn.Module):
        """Channels that move: no graph of dependencies knows."""

        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.two(self.one(x).roll(1, dims=-1)).relu())
            return out

    model = Rolled().eval()
    zero(model.two.weight, (slice(None), 3))
    zero(model.head.weight, slice(None))
    small, report = compacted(model, torch.randn(4, 4), [torch.randn(4, 4)])
    assert small.get_submodule("one").out_features == 6
    assert any(stay.layer == "two" and "differ" in stay.reason for stay in report.stays)


class Branches(nn.Module):
    """A residual sum, a concatenation and a grouped convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.left = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.right = nn.Conv2d(8, 4, 1)
        self.grouped = nn.Conv2d(12, 12, 3, groups=3, padding=1)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = torch.cat([x + self.left(x), self.right(x)], 1)
        out: Tensor = self.head(self.grouped(x).relu().mean((2, 3)))
        return out


def test_groups_of_a_convolution_stay_of_one_size() -> None:
    model = alive(Branches())
    for layer in ("head", "left.0", "right"):  # nothing reads the first group or what it reads
        zero(model.get_submodule(layer).weight, (slice(None), slice(4)))
    small, report = compacted(model, torch.randn(2, 3, 6, 6), images(2, 3, 6, 6))
    assert small.get_submodule("grouped").groups == 2
    assert report.layers["stem"] == (8, 4)

    model = alive(Branches())
    for part in range(3):  # one output of each group, two of the first
        zero(model.get_submodule("head").weight, (slice(None), 4 * part + 1))
    zero(model.get_submodule("head").weight, (slice(None), 0))
    small, report = compacted(model, torch.randn(2, 3, 6, 6), images(2, 3, 6, 6))
    assert small.get_submodule("grouped").out_channels == 9
    assert "differ in size" in str(report)


def test_a_residual_channel_goes_when_no_layer_reads_it() -> None:
    model = alive(Branches())
    for layer in ("left.0", "right"):
        zero(model.get_submodule(layer).weight, (slice(None), [2, 3]))
    _, report = compacted(model, torch.randn(2, 3, 6, 6), images(2, 3, 6, 6))
    assert all("grouped reads it" in stay.reason for stay in report.stays)
    for group in range(3):  # of each group two inputs; of the concatenation channels 2, 3, 6, ...
        rows = slice(4 * group, 4 * group + 4)
        zero(model.get_submodule("grouped").weight, (rows, [2, 3]))
    for layer in ("left.0", "right"):
        zero(model.get_submodule(layer).weight, (slice(None), [6, 7]))
    small, report = compacted(model, torch.randn(2, 3, 6, 6), images(2, 3, 6, 6))
    assert report.layers["stem"] == report.layers["left.0"] == (8, 4)
    assert small.get_submodule("grouped").in_channels == 6
    assert report.stays == ()


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (models.LeNet300_100, (2, 1, 28, 28)),
        (models.LeNet5Caffe, (2, 1, 28, 28)),
        (models.small_vgg, (2, 3, 32, 32)),
        (lambda: models.ResNet([8, 16], 2, 10, projected=True), (2, 3, 16, 16)),
        (transformer, (2, 3, 16, 16)),
    ],
)
def test_a_removable_group_is_removed_with_its_channel(
    make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    model = alive(make()).train()  # as a user asks, before training
    groups = tr.removable_groups(model, torch.randn(shape))
    assert groups
    inputs = {name: model.get_parameter(name).shape[1] for name in groups}
    for name, grouping in groups.items():
        weight = model.get_parameter(name).detach()
        grouping(weight)[0].mul_(0)  # a view, so that the weight itself is changed
        if grouping(weight)[0].any():
            rows = grouping(torch.arange(weight.numel()).view(weight.shape))[0]
            weight.view(-1)[rows] = 0
    model.eval()
    small, _ = compacted(model, torch.randn(shape), images(*shape))
    for name in groups:
        assert small.get_parameter(name).shape[1] < inputs[name], name


def test_shared_channels_are_groups_on_request() -> None:
    model = models.ResNet([8, 16], 2, 10, projected=True)
    alone = tr.removable_groups(model, torch.randn(1, 3, 16, 16))
    shared = tr.removable_groups(model, torch.randn(1, 3, 16, 16), shared=True)
    assert list(alone) == [f"stage{s}.{b}.conv2.weight" for s in (1, 2) for b in (0, 1)]
    assert set(alone) < set(shared)
    assert "fc.weight" in shared
    assert "conv.weight" not in shared  # it reads the image


def test_trained_groups_make_a_smaller_model() -> None:
    model = models.LeNet5Caffe()
    x, y = torch.randn(64, 1, 28, 28), torch.randint(10, (64,))
    groups = tr.removable_groups(model, x[:2])
    regularizer = tr.Regularizer(
        model, {name: tr.GroupLasso(3e-3, groups=group) for name, group in groups.items()}
    )
    optimizer = tr.ProximalOptimizer(torch.optim.Adam(model.parameters(), lr=3e-3), regularizer)
    for _ in range(25):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    _, report = compacted(model.eval(), x[:2], [x])
    assert report.parameters.kept < 0.9
    assert report.multiply_adds.kept < 1
    assert report.file_bytes.kept < 0.9


def test_tied_weights_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
            self.second.weight = self.first.weight
            self.head = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.second(self.first(x).relu()).relu())
            return out

    model = Tied().eval()
    zero(model.head.weight, (slice(None), 0))
    zero(model.first.weight, (slice(None), 1))
    small, report = compacted(model, torch.randn(4, 6), [torch.randn(4, 6)])
    assert small.get_parameter("first.weight") is small.get_parameter("second.weight")
    assert "tied weights" in str(report)


def test_frozen_parameters_stay_frozen_and_gradients_are_not_carried_over() -> None:
    model = zero_inputs(alive(models.LeNet5Caffe()))
    model.get_parameter("conv1.weight").requires_grad_(False)
    model(torch.randn(1, 1, 28, 28)).sum().backward()
    small, _ = compacted(model, torch.randn(1, 1, 28, 28), images(2, 1, 28, 28))
    frozen = {name: p.requires_grad for name, p in model.named_parameters()}
    assert {name: p.requires_grad for name, p in small.named_parameters()} == frozen
    assert all(p.grad is None for p in small.parameters())
    assert model.get_parameter("conv2.weight").grad is not None


def test_several_inputs_and_outputs_and_keywords() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.a, self.b = nn.Embedding(9, 6), nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, tokens: Tensor, x: Tensor) -> dict[str, Tensor]:
            hidden = (self.embed(tokens) + self.a(x)).relu()
            return {"out": self.b(hidden), "mean": x.mean()}

    model = Two().eval()
    zero(model.b.weight, (slice(None), [0, 5]))
    tokens, x = torch.randint(9, (3,)), torch.randn(3, 4)
    for example in ((tokens, x), {"x": x, "tokens": tokens}):
        small, report = tr.compact(model, example)
        assert report.layers == {"embed": (6, 4), "a": (6, 4), "b": (3, 3)}
        with torch.no_grad():
            torch.testing.assert_close(small(tokens, x), model(tokens, x))


@pytest.mark.parametrize(
    ("spoil", "error", "told"),
    [
        (lambda m, x: (m.train(), x), ValueError, r"call model.eval\(\)"),
        (lambda m, x: (m, x[:, :, :20, :20]), ValueError, "does not run on the example"),
        (lambda m, _: (m, "image"), TypeError, "expected an example input"),
        (lambda m, x: (m.state_dict(), x), TypeError, "expected a torch.nn.Module"),
        (lambda m, x: (m, torch.full_like(x, torch.nan)), ValueError, "not finite"),
        (lambda m, x: (torch.compile(m), x), TypeError, "_orig_mod"),
        (lambda m, x: (nn.DataParallel(m).eval(), x), TypeError, "model.module"),
        (
            lambda m, x: (m.fc1.register_forward_hook(lambda *_: None) and m, x),
            ValueError,
            "has hooks",
        ),
        (
            lambda m, x: (nn.utils.parametrizations.weight_norm(m.fc1) and m, x),
            ValueError,
            "remove_parametrizations",
        ),
    ],
)
def test_bad_input_is_told_and_leaves_the_model_alone(
    spoil: Callable[[Any, Any], tuple[Any, Any]], error: type[Exception], told: str
) -> None:
    model = zero_inputs(alive(models.LeNet5Caffe()))
    spoilt, x = spoil(model, torch.randn(2, 1, 28, 28))
    before = copy.deepcopy(model.state_dict())
    training = model.training
    with pytest.raises(error, match=told):
        tr.compact(spoilt, x)
    assert model.training == training
    assert all(torch.equal(before[name], w) for name, w in model.state_dict().items())


def test_what_is_random_is_refused() -> None:
    class Noisy(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.dropout(super().forward(x), training=True)

    with pytest.raises(ValueError, match="other outputs for the same input"):
        tr.compact(nn.Sequential(Noisy(4, 8), nn.Linear(8, 2)).eval(), torch.randn(16, 4))


def test_the_small_model_is_saved_exported_and_read_by_onnx() -> None:
    model = zero_inputs(alive(models.LeNet5Caffe()))
    x = torch.randn(2, 1, 28, 28)
    small, _ = tr.compact(model, x)
    file = io.BytesIO()
    torch.save(small.state_dict(), file)
    file.seek(0)
    small.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(torch.export.export(small, (x,)).module()(x), expected)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own making
            program = torch.onnx.export(small, (x,), dynamo=True, verbose=False)
    assert program is not None
    onnx.checker.check_model(program.model_proto)
    session = onnx.reference.ReferenceEvaluator(program.model_proto)
    (found,) = session.run(None, {session.input_names[0]: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected)


def test_latency_is_measured_at_each_batch_size() -> None:
    wide = nn.Sequential(nn.Linear(64, 2048), nn.Linear(2048, 2048)).eval()
    narrow = nn.Sequential(nn.Linear(64, 8), nn.Linear(8, 8)).eval()
    timed = tr.latency(wide, narrow, torch.randn(3, 64), (1, 16), seconds=0.02)
    assert [one.batch for one in timed] == [1, 16]
    assert all(one.before > one.after for one in timed)  # 500 times the work
    with pytest.raises(ValueError, match="no batch dimension"):
        tr.latency(wide, narrow, (torch.randn(3, 64), torch.randn(2)))


def test_sparse_layers_compute_the_same_and_are_chosen_by_the_clock() -> None:
    model: Any = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 8)).eval()
    with torch.no_grad():
        model[0].weight.mul_(torch.rand(512, 512) < 0.002)
    x = torch.randn(4, 16, 512)
    small, measured = tr.to_csr(model, x, seconds=0.02)
    assert measured["0"].density < 0.004
    for name, one in measured.items():
        assert isinstance(small.get_submodule(name), CSRLinear) == (one.sparse < one.dense)
    with torch.no_grad():
        torch.testing.assert_close(small(x), model(x))
        assert isinstance(model[0], nn.Linear)
        sparse = CSRLinear(model[0])
        torch.testing.assert_close(sparse(x[0, 0]), model[0](x[0, 0]))
