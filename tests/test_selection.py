"""What a selection takes, what it leaves out, what it sees through and how it fails."""

import warnings
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import orthogonal, weight_norm
from torch.optim.swa_utils import AveragedModel

import torchreg as tr


class Same(nn.Module):
    """The simplest parametrization."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class Window(nn.Module):
    """Two-dimensional biases as vision transformers have them, beside a plain weight."""

    def __init__(self) -> None:
        super().__init__()
        self.relative_position_bias_table = nn.Parameter(torch.zeros(9, 2))
        self.attention_bias = nn.Parameter(torch.zeros(1, 4, 4))
        self.scale = nn.Parameter(torch.ones(3))
        self.codes = nn.Parameter(torch.zeros(3, 2))
        self.absent = nn.Parameter(torch.zeros(3, 2))
        self.register_parameter("absent", None)


def net() -> nn.Sequential:
    layers = [("conv", nn.Conv2d(1, 2, 3)), ("norm", nn.BatchNorm2d(2)), ("fc", nn.Linear(2, 3))]
    return nn.Sequential(OrderedDict[str, nn.Module]([*layers, ("head", nn.Linear(3, 2))]))


class Tied(nn.Module):
    """A language model's embedding that is its output weight too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.mix = nn.Linear(3, 3, bias=False)
        self.head = nn.Linear(3, 5)
        self.head.weight = self.embed.weight


def test_the_default_takes_weights_in_the_order_of_the_model() -> None:
    model = net()
    selection = tr.select(model)
    assert list(selection) == ["conv.weight", "fc.weight", "head.weight"]
    assert all(model.get_parameter(name) is p for name, p in selection.items())


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm1d(4),
        nn.BatchNorm2d(4),
        nn.InstanceNorm2d(4, affine=True),
        nn.LayerNorm((4, 3)),
        nn.GroupNorm(2, 4),
        nn.RMSNorm((4, 3)),
        parametrize.register_parametrization(nn.LayerNorm((4, 3)), "weight", Same()),
    ],
    ids=lambda norm: type(norm).__name__,
)
def test_the_default_leaves_normalisation_out_and_a_type_or_glob_takes_it(norm: nn.Module) -> None:
    model = nn.Sequential(norm, nn.Linear(2, 2))
    assert list(tr.select(model)) == ["1.weight"]
    assert len(tr.select(model, type(norm))) == 1
    assert len(tr.select(model, "0.*")) == len(list(norm.parameters()))


def test_the_default_leaves_biases_out_also_large_ones() -> None:
    assert list(tr.select(Window())) == ["codes"]
    attention = nn.MultiheadAttention(4, 2, add_bias_kv=True, kdim=3, vdim=5)
    weights = ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"]
    assert list(tr.select(attention)) == weights
    assert "bias_k" in tr.select(attention, "*bias*")


def test_the_default_leaves_frozen_parameters_out_and_a_name_takes_them() -> None:
    model = net()
    model.fc.requires_grad_(False)
    assert list(tr.select(model)) == ["conv.weight", "head.weight"]
    assert list(tr.select(model, "fc.weight")) == ["fc.weight"]


def test_a_tied_tensor_appears_once_and_is_found_by_either_name() -> None:
    model = Tied()
    assert list(tr.select(model)) == ["embed.weight", "mix.weight"]
    for name in ("embed.weight", "head.weight", "*e*d.weight"):
        assert tr.select(model, name) == {"embed.weight": model.embed.weight}
    assert list(tr.select(model, nn.Linear)) == ["embed.weight", "mix.weight"]
    assert list(tr.select(model, exclude="head.*")) == ["mix.weight"]


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ("fc.weight", ["fc.weight"]),
        ("*.weight", ["conv.weight", "norm.weight", "fc.weight", "head.weight"]),
        ("*c*.bias", ["conv.bias", "fc.bias"]),
        ("[fh]*.weight", ["fc.weight", "head.weight"]),
        (["head.weight", "conv.weight"], ["conv.weight", "head.weight"]),
        (("fc.*", nn.Conv2d), ["conv.weight", "fc.weight", "fc.bias"]),
        (lambda name, p: p.dim() == 1 and "fc" in name, ["fc.bias"]),
        ([lambda _, p: p.dim() == 4, "fc.weight"], ["conv.weight", "fc.weight"]),
        (nn.Linear, ["fc.weight", "head.weight"]),
        (nn.BatchNorm2d, ["norm.weight"]),
        (nn.Sequential, ["conv.weight", "fc.weight", "head.weight"]),
    ],
)
def test_where_takes_exactly_what_it_says(where: Any, names: list[str]) -> None:
    assert list(tr.select(net(), where)) == names


def test_globs_mind_the_case() -> None:
    with pytest.raises(ValueError, match="matches no parameter"):
        tr.select(net(), "FC.*")


@pytest.mark.parametrize(
    ("model", "kind", "count"),
    [
        (nn.LSTM(2, 3, num_layers=2, bidirectional=True), nn.LSTM, 8),
        (nn.GRU(2, 3), nn.RNNBase, 2),
        (nn.MultiheadAttention(4, 2), nn.MultiheadAttention, 2),
        (nn.TransformerEncoderLayer(4, 2, 8), nn.TransformerEncoderLayer, 4),
        (nn.TransformerEncoderLayer(4, 2, 8), nn.LayerNorm, 2),
    ],
)
def test_a_module_type_takes_the_weights_inside(
    model: nn.Module, kind: type[nn.Module], count: int
) -> None:
    selection = tr.select(model, kind)
    assert len(selection) == count
    assert not [name for name in selection if "bias" in name]


@pytest.mark.parametrize("exclude", ["fc.*", nn.Conv2d, lambda name, _: "head" in name])
def test_exclude_takes_the_same_forms(exclude: Any) -> None:
    model = net()
    left_out = tr.select(model, exclude)
    assert list(tr.select(model, exclude=exclude)) == [
        name for name in tr.select(model) if name not in left_out
    ]
    assert list(tr.select(model, ["fc.*", "head.*"], exclude=["*.bias", "fc.*"])) == ["head.weight"]


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("conv.wieght", r"'conv\.wieght' matches no parameter\. The nearest: 'conv\.weight'"),
        ("fc", r"The nearest: 'fc\.weight', 'fc\.bias'\. The model has: 'conv\.weight'"),
        ("fc.", r"The nearest: 'fc\.weight', 'fc\.bias'\."),
        (["fc.weight", "nowhere"], "'nowhere' matches no parameter"),
        (nn.LSTM, r"type LSTM; the model has modules of type BatchNorm2d, Conv2d, Linear"),
        (lambda _, p: p.dim() == 9, "selected none of these parameters: 'conv.weight'"),
        ([], "empty collection"),
        ((), "empty collection"),
    ],
)
def test_what_matches_nothing_is_an_error_with_the_names(where: Any, told: str) -> None:
    for arguments in ({"where": where}, {"where": "*", "exclude": where}):
        with pytest.raises(ValueError, match=told):
            tr.select(net(), **arguments)


@pytest.mark.parametrize(
    ("where", "told"),
    [
        (3, "expected a glob, a module type, a callable .* found 3"),
        ([3], "found 3"),
        (dict, "expected a module type such as torch.nn.Linear, found dict"),
        (nn.Linear(2, 2), "expected .*found .*Linear"),
        ([nn.Linear(2, 2)], "expected .*found .*Linear"),
    ],
)
def test_what_is_no_pattern_is_a_type_error(where: Any, told: str) -> None:
    with pytest.raises(TypeError, match=told):
        tr.select(net(), where)


def test_parameters_instead_of_a_model_are_a_type_error() -> None:
    parameters: Any = net().parameters()
    with pytest.raises(TypeError, match="pass the model itself, not its parameters"):
        tr.select(parameters)


def test_a_model_without_parameters_says_so() -> None:
    assert tr.select(nn.ReLU()) == {}
    with pytest.raises(ValueError, match="The model has: no parameters"):
        tr.select(nn.ReLU(), "*.weight")


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize(
    "wrap", [torch.compile, DataParallel, AveragedModel, DistributedDataParallel]
)
def test_names_are_those_of_the_plain_model_under_wrappers(wrap: Any) -> None:
    model = net()
    plain = tr.select(model)
    wrapped = wrap(model)
    assert list(tr.select(wrapped)) == list(plain)
    assert list(tr.select(wrapped, "fc.*")) == ["fc.weight", "fc.bias"]
    assert list(tr.select(wrapped, nn.Linear)) == ["fc.weight", "head.weight"]
    if wrap is not AveragedModel:  # which holds a copy
        assert all(p is plain[name] for name, p in tr.select(wrapped).items())


@pytest.mark.usefixtures("process_group")
def test_wrappers_are_seen_through_inside_one_another_and_inside_a_model() -> None:
    model: Any = net()
    names = list(tr.select(model))
    outer: Any = torch.compile(DistributedDataParallel(model))
    assert list(tr.select(outer)) == names
    model.fc = torch.compile(model.fc)
    assert list(tr.select(model)) == names


def test_a_child_that_is_called_module_keeps_its_name() -> None:
    model = nn.Sequential(OrderedDict(module=nn.Linear(2, 2)))
    assert list(tr.select(model)) == ["module.weight"]


@pytest.mark.parametrize("parametrization", [orthogonal, lambda fc: weight_norm(fc)])
def test_a_parametrised_weight_is_found_by_its_plain_name(parametrization: Any) -> None:
    model: Any = net()
    stored = set(map(id, parametrization(model.fc).parametrizations.weight.parameters()))
    assert {id(p) for p in tr.select(model, "fc.weight").values()} == stored
    assert {id(p) for p in tr.select(model, "fc.w*").values()} == stored
    assert stored.isdisjoint(id(p) for p in tr.select(model, exclude="fc.weight").values())
    assert list(tr.select(model, "fc.bias")) == ["fc.bias"]


def test_a_parametrised_bias_is_still_a_bias() -> None:
    model: Any = net()
    parametrize.register_parametrization(model.fc, "bias", Same())
    assert list(tr.select(model, nn.Linear)) == ["fc.weight", "head.weight"]
    table = parametrize.register_parametrization(Window(), "relative_position_bias_table", Same())
    assert list(tr.select(table)) == ["codes"]


def test_a_lazy_module_is_refused_until_it_has_a_shape() -> None:
    model = nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"'0\.weight' of a lazy module has no shape yet"):
        tr.select(model)
    assert list(tr.select(model, "1.weight")) == ["1.weight"]
    model(torch.zeros(1, 4))
    assert list(tr.select(model)) == ["0.weight", "1.weight"]


def test_a_selection_takes_any_name_that_the_model_has() -> None:
    model = nn.ParameterDict({"w[0]": torch.ones(2, 2), "w*": torch.ones(2, 2)})
    assert list(tr.select(model, "w[0]")) == ["w[0]"]


def test_weight_normalised_tensors_are_left_to_an_explicit_selection() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    model = nn.Sequential(layer, nn.Linear(3, 2))
    assert list(tr.select(model)) == ["1.weight"]
    assert list(tr.select(model, "0.weight")) == [
        "0.parametrizations.weight.original0",
        "0.parametrizations.weight.original1",
    ]


def test_an_exclusion_that_leaves_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="leaves nothing"):
        tr.select(nn.Linear(2, 2), "weight", exclude="*")


@pytest.mark.parametrize("where", [torch.ones(2, 2), [torch.ones(2)], {"weight": 0.5}, b"weight"])
def test_tensors_mappings_and_bytes_are_no_patterns(where: Any) -> None:
    with pytest.raises(TypeError, match="expected a glob"):
        tr.select(nn.Linear(2, 2), where)


@pytest.mark.parametrize("kind", ["older", "parametrised"])
@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm"])
def test_what_a_layer_divides_by_its_size_is_left_out(name: str, kind: str) -> None:
    home: Any = nn.utils if kind == "older" else nn.utils.parametrizations
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch announces the newer one
        model = nn.Sequential(getattr(home, name)(nn.Linear(4, 4)), nn.Linear(4, 3))
    assert list(tr.select(model)) == ["1.weight"]
    assert len(tr.select(model, "0.*")) > 1  # by name it is there
    bare = nn.Sequential(nn.utils.parametrizations.orthogonal(nn.Linear(4, 4)))
    assert list(tr.select(bare)) == ["0.parametrizations.weight.original"]
