"""Which parameters of a model a penalty acts on.

A selection is an ordered ``dict[str, nn.Parameter]``. Names are those of the plain model:
``torch.compile``, DDP, FSDP, activation checkpointing and averaged models put wrappers in
between, and a selection reads through them.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.parametrize import is_parametrized
from torch.optim.swa_utils import AveragedModel

Predicate = Callable[[str, nn.Parameter], bool]
Where = str | type[nn.Module] | Predicate | Iterable["str | type[nn.Module] | Predicate"]

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_WRAPPING_NAMES = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_WRAPPING_MODULES = (DataParallel, DistributedDataParallel, AveragedModel)


@dataclass(frozen=True)
class Slot:
    """The place of one parameter in a model, looked up anew at each use.

    FSDP2 and ``load_state_dict(assign=True)`` put another Parameter object in the same
    place, so the object itself is never kept.
    """

    name: str
    owner: nn.Module
    attribute: str
    layer: nn.Module
    """The layer that uses it: the owner, or the layer that a parametrization belongs to."""

    role: str
    """What the layer calls it: ``weight``, ``bias``, ..."""

    alias: str
    """The name without its parametrization: ``fc.weight``."""

    @property
    def parameter(self) -> nn.Parameter:
        """The Parameter that is in this place now."""
        found = self.owner._parameters.get(self.attribute)
        if found is None:
            raise RuntimeError(
                f"the parameter {self.name!r} is no longer in the model: found nothing under "
                f"{type(self.owner).__name__}.{self.attribute}. Build the selection or the "
                "Regularizer again after the model's parameters have been replaced or "
                "parametrised."
            )
        return found


def select(
    model: nn.Module, where: Where | None = None, *, exclude: Where | None = None
) -> dict[str, nn.Parameter]:
    """Pick the parameters of a model that a penalty should act on.

    The default takes the weights: trainable tensors of two or more dimensions, without
    biases and without the parameters of normalisation layers. ``where`` takes exactly what
    it says instead, so the glob ``"*"`` takes biases too.

    A selection points at this one model: after ``copy.deepcopy(model)`` select again.
    Under ``torch.nn.utils.parametrize`` a name such as ``fc.weight`` finds the tensor that
    is stored, ``fc.parametrizations.weight.original``.

    Args:
        model: any module, also one wrapped by ``torch.compile``, DDP or FSDP.
        where: a glob over parameter names (``*`` crosses dots, case matters), a module type
            (the weights inside modules of that type; naming a normalisation type takes its
            weight too), a callable ``(name, parameter) -> bool``, or several of these, of
            which each adds to the selection.
        exclude: the same forms; what they match is left out.

    Returns:
        Parameters by name, in the model's order. A tied tensor appears once, under its first
        name, and is found by any of its names.

    Raises:
        ValueError: a pattern, type or callable matches nothing; the message lists the names
            that there are, nearest first. Also a lazy parameter that has no shape yet.
        TypeError: ``model`` is no module, or ``where`` has another type.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
        >>> list(select(model))
        ['0.weight', '2.weight']
        >>> list(select(model, "*.bias", exclude="1.*"))
        ['0.bias', '2.bias']
        >>> list(select(model, nn.BatchNorm1d))
        ['1.weight']
    """
    return {slot.name: slot.parameter for slot in slots(model, where, exclude=exclude)}


def slots(
    model: nn.Module, where: Where | None = None, *, exclude: Where | None = None
) -> list[Slot]:
    """Do what :func:`select` does, and return places that are looked up late."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"expected a torch.nn.Module to select from, found {type(model).__name__}: pass the "
            "model itself, not its parameters."
        )
    found = list(_walk(model))
    chosen = _matching(found, model, where)
    if exclude is not None:
        chosen -= _matching(found, model, exclude)
    first: dict[int, Slot] = {}
    for slot in found:
        if id(slot.parameter) in chosen:
            first.setdefault(id(slot.parameter), slot)
    for slot in first.values():
        if isinstance(slot.parameter, UninitializedParameter):
            raise ValueError(
                f"the parameter {slot.name!r} of a lazy module has no shape yet: run one batch "
                "through the model before selecting from it."
            )
    return list(first.values())


def is_normalisation(slot: Slot) -> bool:
    """Whether a slot belongs to a normalisation layer."""
    return isinstance(slot.layer, _NORMS)


def is_bias(slot: Slot) -> bool:
    """Whether a slot is a bias by name: ``bias``, ``bias_k``, ``in_proj_bias``, ..."""
    return "bias" in slot.role


def _walk(
    module: nn.Module, prefix: str = "", used: tuple[nn.Module, str, str] | None = None
) -> Iterator[Slot]:
    """Every slot below a module, tied ones under each of their names, wrappers left out.

    ``used`` is the layer, role and alias of a parametrised tensor, where the module is a
    parametrization of it.
    """
    for attribute, parameter in module._parameters.items():
        if parameter is not None:
            name = prefix + attribute
            yield Slot(name, module, attribute, *(used or (module, attribute, name)))
    for name, child in module._modules.items():
        if child is None:
            continue
        if name == "parametrizations" and is_parametrized(module):
            for role, parametrization in child.named_children():
                inside = f"{prefix}parametrizations.{role}."
                yield from _walk(parametrization, inside, (module, role, prefix + role))
            continue
        wrapped = name in _WRAPPING_NAMES or (
            name == "module" and isinstance(module, _WRAPPING_MODULES)
        )
        yield from _walk(child, prefix if wrapped else f"{prefix}{name}.", used)


def _is_weight(slot: Slot) -> bool:
    parameter = slot.parameter
    if isinstance(parameter, UninitializedParameter):
        return not is_bias(slot) and not is_normalisation(slot)
    return (
        parameter.requires_grad
        and parameter.dim() >= 2
        and not is_bias(slot)
        and not is_normalisation(slot)
    )


def _matching(found: list[Slot], model: nn.Module, where: Where | None) -> set[int]:
    """The ids of the parameters that ``where`` picks."""
    if where is None:
        return {id(slot.parameter) for slot in found if _is_weight(slot)}
    if isinstance(where, str | type) or (callable(where) and not isinstance(where, nn.Module)):
        picked = _matching_one(found, model, where)
        if not picked:
            raise ValueError(_nothing_matches(found, model, where))
        return picked
    if isinstance(where, nn.Module) or not isinstance(where, Iterable):
        raise TypeError(
            "expected a glob, a module type, a callable (name, parameter) -> "
            f"bool or several of these, found {where!r}."
        )
    several = list(where)
    if not several:
        raise ValueError("expected at least one pattern, found an empty collection.")
    return set().union(*(_matching(found, model, one) for one in several))


def _matching_one(
    found: list[Slot], model: nn.Module, where: str | type[nn.Module] | Predicate
) -> set[int]:
    if isinstance(where, str):
        exact = {id(slot.parameter) for slot in found if where in (slot.name, slot.alias)}
        return exact or {
            id(slot.parameter)
            for slot in found
            if fnmatchcase(slot.name, where) or fnmatchcase(slot.alias, where)
        }
    if isinstance(where, type):
        if not issubclass(where, nn.Module):
            raise TypeError(
                f"expected a module type such as torch.nn.Linear, found {where.__name__}."
            )
        inside = (slot for m in model.modules() if isinstance(m, where) for slot in _walk(m))
        return {
            id(slot.parameter)
            for slot in inside
            if not is_bias(slot) and (isinstance(slot.layer, where) or not is_normalisation(slot))
        }
    return {id(slot.parameter) for slot in found if where(slot.name, slot.parameter)}


def _nothing_matches(
    found: list[Slot], model: nn.Module, where: str | type[nn.Module] | Predicate
) -> str:
    names = [slot.name for slot in found]
    if isinstance(where, type):
        types = sorted({type(module).__name__ for module in model.modules()})
        return (
            f"no weight belongs to a module of type {where.__name__}; the model has modules of "
            f"type {', '.join(types)}."
        )
    if not isinstance(where, str):
        return f"the callable {where!r} selected none of these parameters: {_listed(names)}."
    inside = [name for name in names if name.startswith(where.rstrip(".") + ".")]
    near = inside or get_close_matches(where, names, n=3, cutoff=0.3)
    mend = f" The nearest: {_listed(near)}." if near else ""
    return (
        f"the pattern {where!r} matches no parameter.{mend} The model has: "
        f"{_listed(names) if names else 'no parameters'}."
    )


def _listed(names: list[str], most: int = 20) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
