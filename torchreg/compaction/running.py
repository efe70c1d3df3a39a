"""Run a model on a caller's example, and refuse what cannot be compacted as it is."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.parametrize import is_parametrized
from torch.optim.swa_utils import AveragedModel
from torch.utils._pytree import tree_leaves, tree_map

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def check_model(model: object, *, training: bool = False) -> None:
    """Raise for a model that cannot be cut, with what to do instead.

    Args:
        model: what was given as one.
        training: whether training mode is allowed.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a torch.nn.Module to compact, found {type(model).__name__}.")
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("a scripted model cannot be cut: compact it first, then script the result.")
    if hasattr(model, "_orig_mod"):
        raise TypeError("torch.compile wraps this model: pass model._orig_mod, compile the result.")
    if isinstance(model, DataParallel | DistributedDataParallel | AveragedModel):
        raise TypeError(f"{type(model).__name__} wraps this model: pass model.module instead.")
    for name, layer in model.named_modules():
        told = f"{name or 'the model'} ({type(layer).__name__})"
        if layer.training and not training:
            raise ValueError(
                f"{told} is in training mode, where dropout and normalisation have no fixed "
                "outputs: call model.eval() first."
            )
        if is_parametrized(layer):
            raise ValueError(
                f"{told} is parametrised, so its weight is computed anew at each use: call "
                "torch.nn.utils.parametrize.remove_parametrizations first."
            )
        for key, parameter in layer.named_parameters(recurse=False):
            if isinstance(parameter, UninitializedParameter):
                raise ValueError(f"{told} is lazy: run one batch through the model first.")
            if parameter.is_meta:
                raise ValueError(
                    f"{key} of {told} is on the meta device, without values: load the weights "
                    "first."
                )
            if type(parameter.data) is not Tensor:
                raise TypeError(
                    f"{key} of {told} is a {type(parameter.data).__name__}: gather or dequantise "
                    "the model into plain tensors first."
                )
        if any(getattr(layer, hooks) for hooks in _HOOKS):
            raise ValueError(
                f"{told} has hooks, which would run on the trial inputs and see other shapes "
                "afterwards: remove them first (handle.remove(), torch.nn.utils.prune.remove, "
                "remove_weight_norm, remove_spectral_norm), and register your own on the result."
            )


def copied(model: nn.Module) -> nn.Module:
    """A copy of a model, to run or to cut; what its last forward pass has left on it, detached.

    Raises:
        TypeError: it holds something that cannot be copied.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for leaf in tensors(list(vars(module).values())):
            if leaf.grad_fn is not None:  # features kept for later: torch copies leaves alone
                memo[id(leaf)] = leaf.detach().clone()
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise TypeError(
            f"{type(model).__name__} cannot be copied ({type(error).__name__}: {error}): take "
            "what holds it up (a lock, a file, a process) off the model first."
        ) from error


def differentiable(model: nn.Module) -> nn.Module:
    """A copy in float64, not compiled, of which every parameter requires gradients, if it can."""
    exact = copied(model).double()
    for module in exact.modules():
        module._compiled_call_impl = None
    for parameter in exact.parameters():
        if parameter.is_floating_point() or parameter.is_complex():
            parameter.requires_grad_()
    return exact


class Example:
    """The arguments of one call of a model: a tensor, a tuple or list of them, or keywords."""

    def __init__(self, given: Any) -> None:
        if isinstance(given, Tensor):
            self.args: tuple[Any, ...] = (given,)
        elif isinstance(given, tuple | list):
            self.args = tuple(given)
        else:
            self.args = ()
        self.keywords: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {}
        if not self.tensors():
            raise TypeError(
                "expected an example input, as the model takes it: a tensor, a tuple of "
                f"arguments or a mapping of keywords; found {_told(given)}."
            )
        if any(x.layout != torch.strided for x in self.tensors()):
            raise TypeError("expected a dense example, found a sparse one: call .to_dense() on it.")
        if not any(x.numel() for x in self.tensors()):
            raise ValueError(
                f"expected an example with at least one sample, found one shaped {self}: pass a "
                "small batch of the data."
            )

    def __call__(self, model: nn.Module) -> Any:
        """Call the model with copies of the tensors, which it may change in place."""
        return self.map(Tensor.clone).direct(model)

    def direct(self, model: nn.Module) -> Any:
        """Call the model with the tensors themselves."""
        return model(*self.args, **self.keywords)

    def __str__(self) -> str:
        return ", ".join(str(tuple(x.shape)) for x in self.tensors())

    def map(self, change: Callable[[Tensor], Tensor]) -> "Example":
        """The same call with changed tensors."""
        changed = Example.__new__(Example)
        changed.args, changed.keywords = tree_map(
            lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf,
            (self.args, self.keywords),
        )
        return changed

    def double(self) -> "Example":
        """The same call with its floating tensors in float64."""
        return self.map(lambda x: x.detach().double() if x.is_floating_point() else x.detach())

    def random(self, seed: int) -> "Example":
        """Normal noise of the example's scale in the place of its floating tensors."""
        generator = torch.Generator().manual_seed(seed)

        def noise(x: Tensor) -> Tensor:
            if not x.is_floating_point():
                return x
            drawn = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
            return drawn * x.abs().max().clamp(min=1.0) if x.numel() else drawn

        return self.map(noise)

    def repeated(self, batch: int) -> "Example":
        """The first sample of the example, ``batch`` times."""
        if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
            raise ValueError(f"a batch size must be a whole number of at least 1, found {batch!r}.")
        sizes = {x.shape[0] for x in self.tensors() if x.dim() > 0}
        if len(sizes) != 1:
            raise ValueError(
                f"the tensors of the example, shaped {self}, have no batch dimension in common: "
                "time the models with inputs of your own."
            )
        return self.map(lambda x: x[:1].repeat_interleave(batch, 0) if x.dim() > 0 else x)

    def tensors(self) -> list[Tensor]:
        """Its tensors, in order."""
        return tensors((self.args, self.keywords))


def _told(given: object) -> str:
    """What was found, short: no array is written out."""
    return repr(given) if given is None or isinstance(given, str) else f"a {type(given).__name__}"


def run_once(model: nn.Module, example: Example) -> Any:
    """Run a model on an example without gradients, and explain what goes wrong."""
    try:
        with torch.no_grad():
            return example(model)
    except Exception as error:
        raise ValueError(
            f"the model ({type(model).__name__}) does not run on the example, shaped {example} "
            f"({type(error).__name__}: {error}): pass an input as the model takes it, on its "
            "device. (To be compacted it has to run in float64 too.)"
        ) from error


def run_seen(model: nn.Module, example: Example) -> Any:
    """:func:`run_once`, and refuse an output in which there is no tensor to follow or compare."""
    returned = run_once(model, example)
    if not tensors(returned):
        raise TypeError(
            f"the model returns a {type(returned).__name__} in which no tensor is seen, so nothing "
            "can be followed or compared. Wrap it in a module that returns the tensors themselves: "
            "alone, or in a tuple, a list or a dict."
        )
    return returned


def tensors(nested: Any) -> list[Tensor]:
    """The tensors in what a model takes or returns, in order."""
    return [leaf for leaf in tree_leaves(nested) if isinstance(leaf, Tensor)]


def difference(one: Any, other: Any) -> float:
    """The largest difference of two outputs, relative to the largest size in the first.

    Raises:
        ValueError: their shapes or structures differ.
    """
    pairs = list(zip(tensors(one), tensors(other), strict=True))
    worst = 0.0
    for a, b in pairs:
        if a.shape != b.shape:
            raise ValueError(f"an output is shaped {tuple(b.shape)}, not {tuple(a.shape)}")
        if a.numel():
            a, b = a.double(), b.double()
            scale = max(float(a.abs().max()), 1e-30)
            apart = float((a - b).abs().max()) / scale
            worst = max(worst, apart if apart == apart else float("inf"))
    return worst
