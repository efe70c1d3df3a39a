"""The places of parameters in a model, read through the wrappers put around it."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import is_parametrized
from torch.optim.swa_utils import AveragedModel

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_NORMALISING = {parametrizations._WeightNorm, parametrizations._SpectralNorm}
_WRAPPING_NAMES = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_WRAPPING_MODULES = (DataParallel, DistributedDataParallel, AveragedModel)


@dataclass(frozen=True)
class Slot:
    """The place of one parameter in a model, looked up anew at each use.

    A new head, FSDP2 and ``load_state_dict(assign=True)`` put other objects in the same place,
    so neither the Parameter nor the layer that holds it is kept.
    """

    name: str
    model: nn.Module
    path: str
    """The way from the model to the parameter, wrappers and parametrizations included."""

    layer: type[nn.Module]
    """The type of the layer that uses it, be it through a parametrization."""

    role: str
    """What that layer calls it: ``weight``, ``bias``, ..."""

    alias: str
    """The name without its parametrization: ``fc.weight``."""

    normalised: bool
    """Whether the layer divides by its size: a weight or spectral normalisation acts on it."""

    @property
    def parameter(self) -> nn.Parameter:
        """The Parameter that is in this place now."""
        owner: nn.Module | None = self.model
        *modules, attribute = self.path.split(".")
        for name in modules:
            owner = owner._modules.get(name) if owner is not None else None
        found = owner._parameters.get(attribute) if owner is not None else None
        if found is None:
            raise RuntimeError(
                f"the parameter {self.name!r} is no longer in the model: found nothing under "
                f"{type(self.model).__name__}.{self.path}. Build the selection or the Regularizer "
                "again after the model's layers have been renamed, removed or parametrised."
            )
        return found


def is_normalisation(slot: Slot) -> bool:
    """Whether a slot belongs to a normalisation layer."""
    return issubclass(slot.layer, _NORMS)


def is_bias(slot: Slot) -> bool:
    """Whether a slot is a bias by name: ``bias``, ``bias_k``, ``in_proj_bias``, ..."""
    return "bias" in slot.role


def walk(
    model: nn.Module,
    module: nn.Module,
    name: str = "",
    path: str = "",
    used: tuple[type[nn.Module], str, str, bool] | None = None,
) -> Iterator[Slot]:
    """Every slot below a module, tied ones under each of their names, wrappers left out.

    ``used`` is the layer, role and alias of a parametrised tensor and whether it is normalised,
    where the module is a parametrization of it.
    """
    for attribute, parameter in module._parameters.items():
        if parameter is not None:
            full = name + attribute
            use = used or (type(module), attribute, full, _normalised(module, attribute))
            yield Slot(full, model, path + attribute, *use)
    for child_name, child in module._modules.items():
        if child is None:
            continue
        below = f"{path}{child_name}."
        if child_name == "parametrizations" and is_parametrized(module):
            for role, parametrization in child.named_children():
                kinds = {type(one) for one in parametrization.children()}
                divided = not kinds.isdisjoint(_NORMALISING)
                use = (type(module), role, name + role, divided)
                inside = f"{name}parametrizations.{role}."
                yield from walk(model, parametrization, inside, f"{below}{role}.", use)
            continue
        wrapped = child_name in _WRAPPING_NAMES or (
            child_name == "module" and isinstance(module, _WRAPPING_MODULES)
        )
        yield from walk(model, child, name if wrapped else f"{name}{child_name}.", below, used)


def _normalised(module: nn.Module, attribute: str) -> bool:
    """Whether a hook of the older weight_norm or spectral_norm makes the weight from this."""
    return any(
        type(hook).__name__ in ("WeightNorm", "SpectralNorm")
        and attribute in (f"{hook.name}_g", f"{hook.name}_v", f"{hook.name}_orig")  # type: ignore[attr-defined]
        for hook in module._forward_pre_hooks.values()
    )
