"""Which parameters of a model a penalty acts on.

A selection is an ordered ``dict[str, nn.Parameter]``. Names are those of the plain model:
``torch.compile``, DDP, FSDP, activation checkpointing and averaged models put wrappers in
between, and a selection reads through them.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from torchreg.slots import Slot, is_bias, is_normalisation, walk

Predicate = Callable[[str, nn.Parameter], bool]
Where = str | type[nn.Module] | Predicate | Iterable["str | type[nn.Module] | Predicate"]


def select(
    model: nn.Module, where: Where | None = None, *, exclude: Where | None = None
) -> dict[str, nn.Parameter]:
    """Pick the parameters of a model that a penalty should act on.

    The default takes the weights: trainable tensors of two or more dimensions, without
    biases, without the parameters of normalisation layers and without tensors under weight or
    spectral normalisation. ``where`` takes exactly what it says instead, so the glob ``"*"``
    takes biases too.

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
            that there are, nearest first. ``exclude`` leaves nothing. A lazy parameter has no
            shape yet.
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
    found = list(walk(model, model))
    chosen = _matching(found, model, where)
    if exclude is not None:
        left = chosen - _matching(found, model, exclude)
        if chosen and not left:
            raise ValueError(f"exclude={exclude!r} leaves nothing of what was selected.")
        chosen = left
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


def _is_weight(slot: Slot) -> bool:
    # Weight normalisation keeps a direction and a length, original1 and original0: the function
    # does not change with the size of the one, and is 0 / 0 where it is zero. Nor does it with
    # the size of what spectral normalisation divides by its norm.
    split = re.search(r"\.original\d+$", slot.path) is not None
    if is_bias(slot) or is_normalisation(slot) or split or slot.normalised:
        return False
    parameter = slot.parameter
    lazy = isinstance(parameter, UninitializedParameter)
    return lazy or (parameter.requires_grad and parameter.dim() >= 2)


def _matching(found: list[Slot], model: nn.Module, where: Where | None) -> set[int]:
    """The ids of the parameters that ``where`` picks."""
    if where is None:
        return {id(slot.parameter) for slot in found if _is_weight(slot)}
    if isinstance(where, str | type) or (callable(where) and not isinstance(where, nn.Module)):
        picked = _matching_one(found, model, where)
        if not picked:
            raise ValueError(_nothing_matches(found, model, where))
        return picked
    if isinstance(where, nn.Module | Tensor | Mapping | bytes) or not isinstance(where, Iterable):
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
        inside = (slot for m in model.modules() if isinstance(m, where) for slot in walk(m, m))
        return {
            id(slot.parameter)
            for slot in inside
            if not is_bias(slot) and (issubclass(slot.layer, where) or not is_normalisation(slot))
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
