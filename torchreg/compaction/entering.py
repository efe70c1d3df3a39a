"""Where inputs of a model enter its graph without gradients: token ids, masks, comparisons."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from torchreg.compaction.running import tensors

_READING = {"item", "tolist", "numpy", "__bool__", "__int__", "__index__", "__float__"}


class Entering(TorchFunctionMode):
    """Watch a forward pass for what depends on the inputs without autograd's notice.

    A mask of ones on the example may be zero elsewhere: what it multiplies is no constant.

    Args:
        inputs: the tensors that the model is given.

    Attributes:
        nodes: the nodes of autograd whose results depend on a tensor without gradients that
            depends on the inputs.
        written: the nodes of autograd for tensors of which the model's code overwrote a part.
    """

    def __init__(self, inputs: Iterable[Tensor]) -> None:
        super().__init__()
        self.nodes: set[Node] = set()
        self.written: set[Node] = set()
        self._read = False
        # By identity, and held so that no identity is used anew.
        self._beside = {id(x): x for x in inputs if not x.requires_grad}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the function, and note its results and what it changed in place."""
        given = tensors((args, kwargs))
        versions = [x._version for x in given]
        out = func(*args, **(kwargs or {}))
        beside = any(id(x) in self._beside for x in given)
        # A number that was read is a number in whatever follows: all of it may depend on it.
        self._read |= beside and func.__name__ in _READING
        beside |= self._read
        changed = [x for x, version in zip(given, versions, strict=True) if x._version != version]
        changed += [x._base for x in changed if x._base is not None]
        self.written |= {
            x.grad_fn for x in changed if x.grad_fn and type(x.grad_fn).__name__ == "CopySlices"
        }
        for x in [*tensors(out), *changed]:
            if x.grad_fn is not None and beside:
                self.nodes.add(x.grad_fn)
            elif not x.requires_grad and (beside or any(one.requires_grad for one in given)):
                self._beside[id(x)] = x
        return out
