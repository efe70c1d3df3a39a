"""Penalties bound to the named parameters of one model."""

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchreg import distributed
from torchreg.bundle import Bundle, Term
from torchreg.penalties.base import Penalty, total
from torchreg.selection import Where, slots
from torchreg.slots import is_bias, is_normalisation


class Regularizer:
    """Penalties bound to selections of one model; called, it is the term to add to a loss.

    The same object goes to :class:`torchreg.ProximalOptimizer`, to the reports and to the
    Lightning mixin. It is no ``nn.Module``: assigned to an attribute of the model it adds no
    key to the model's ``state_dict``. Parameters are looked up at each use, so FSDP2 and
    ``load_state_dict(assign=True)`` may replace them. ``repr`` prints the resolved table.

    It belongs to this model. ``copy.deepcopy(model)`` needs a Regularizer of its own; a
    deepcopy or a pickle of the Regularizer takes a copy of its model along.

    Args:
        model: any module, also a wrapped one (see :func:`torchreg.select`).
        penalties: one penalty, or a mapping from what to select (a glob, a module type, a
            callable or a tuple of these) to a penalty. Penalties whose selections overlap
            add up in a loss; the proximal optimizer refuses them.
        where: with a single penalty, what to select. The default is the weights: no biases,
            no normalisation parameters.
        exclude: with a single penalty, what to leave out of that.

    Raises:
        TypeError: something else than a penalty where a penalty is expected; a model wrapped in
            ``FullyShardedDataParallel``, the older FSDP.
        ValueError: a selection that matches nothing, ``where`` beside a mapping, or groups that
            do not take each element of a weight exactly once.

    Warns:
        UserWarning: nothing is penalised, since no weight is selected or every strength is 0.

    Example:
        >>> import torch
        >>> from torchreg import L1, L2
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> regularizer = Regularizer(model, {"0.weight": L1(1e-2), "2.weight": L2(1e-3)})
        >>> regularizer
        Regularizer: 18 of 23 parameters penalised
          name      shape  count  penalty
          0.weight  3 x 4     12  L1(l1=0.01): l1*sum|w|
          2.weight  2 x 3      6  L2(l2=0.001): l2*sum(w^2)
        >>> x, y = torch.randn(8, 4), torch.randint(2, (8,))
        >>> loss = nn.functional.cross_entropy(model(x), y) + regularizer()
    """

    def __init__(
        self,
        model: nn.Module,
        penalties: Penalty | Mapping[Any, Penalty],
        where: Where | None = None,
        *,
        exclude: Where | None = None,
    ) -> None:
        distributed.refuse_flat(model)
        if isinstance(penalties, Mapping):
            if where is not None or exclude is not None:
                raise ValueError(
                    "a mapping says itself what each penalty acts on: leave out where= and "
                    "exclude=, or pass a single penalty."
                )
            terms = [(self._penalty(p), slots(model, key)) for key, p in penalties.items()]
        else:
            terms = [(self._penalty(penalties), slots(model, where, exclude=exclude))]
        self.model = model
        self.terms = [Term(penalty, tuple(found)) for penalty, found in terms]
        if not self.terms:
            warnings.warn("this regularizer penalises nothing: the mapping is empty.", stacklevel=2)
        elif not any(term.slots for term in self.terms):
            warnings.warn(
                f"this regularizer penalises nothing: no weight of {type(model).__name__} was "
                "selected. The default takes trainable tensors of two or more dimensions, without "
                "biases, normalisation and what weight or spectral normalisation divides by its "
                "size; others are selected by name, as in '*.weight'.",
                stacklevel=2,
            )
        elif all(term.penalty.idle for term in self.terms):
            warnings.warn("this regularizer penalises nothing: every strength is 0.", stacklevel=2)

    @staticmethod
    def _penalty(found: object) -> Penalty:
        if isinstance(found, Penalty):
            return found
        raise TypeError(
            f"expected a penalty such as torchreg.L1(1e-4), or a mapping from names to penalties; "
            f"found {found!r} of type {type(found).__name__}."
        )

    def __call__(self) -> Tensor:
        """The penalty of the model as it is now: a differentiable scalar tensor.

        Of a sharded model every rank gets the whole penalty, and must ask for it together.
        """
        return total(
            [bundle.value() for bundle in self.bundles()],
            of="this regularizer",
        )

    @torch.no_grad()
    def add_gradients_(
        self, scale: float = 1.0, *, parameters: Iterable[Tensor] | None = None
    ) -> None:
        """Add one subgradient of the penalty to the ``grad`` of each penalised parameter.

        What ``loss + regularizer()`` adds by autograd, at a fraction of its cost: call it after
        ``backward`` and before the optimizer's step, once a step also under accumulation. It
        makes no exact zeros, as no penalty in a loss does. A parameter whose grad is None is
        left alone.

        Args:
            scale: a factor, such as the loss scale where a fused optimizer divides by it itself.
            parameters: act on these alone. The default is all of them.

        Raises:
            RuntimeError: a sparse gradient, since a penalty acts on all rows.

        Example:
            >>> import torch
            >>> from torchreg import L1
            >>> model = nn.Linear(3, 1)
            >>> _ = model.weight.data.copy_(torch.tensor([[-1.0, 0.0, 2.0]]))
            >>> model.weight.grad = torch.ones(1, 3)
            >>> Regularizer(model, L1(0.5)).add_gradients_()
            >>> model.weight.grad
            tensor([[0.5000, 1.0000, 1.5000]])
        """
        among = None if parameters is None else set(parameters)
        for bundle in self.bundles():
            moved = {
                name: parameter
                for name, parameter in bundle.parameters.items()
                if parameter.grad is not None and (among is None or parameter in among)
            }
            for name, parameter in moved.items():
                if parameter.grad is not None and parameter.grad.is_sparse:
                    raise RuntimeError(
                        f"{name} has a sparse gradient, and a penalty acts on all of its rows. Use "
                        "sparse=False in the embedding, or leave it out of the regularizer."
                    )
            if moved:
                bundle.add_gradient_(scale, moved)

    def items(self) -> Iterator[tuple[str, nn.Parameter, Penalty]]:
        """Every name, the parameter that it stands for now, and its penalty, in order.

        Tensors that were tied after this was built come once for each penalty.
        """
        for term in self.terms:
            for name, parameter in term.items():
                yield name, parameter, term.penalty

    def bundles(self) -> Iterator[Bundle]:
        """What each penalty acts on at once: one parameter, or those of joint groups."""
        for term in self.terms:
            yield from term.bundles()

    def selection(self) -> dict[str, nn.Parameter]:
        """The penalised parameters by name, each once."""
        first: dict[nn.Parameter, str] = {}
        for name, parameter, _ in self.items():
            first.setdefault(parameter, name)
        return {name: parameter for parameter, name in first.items()}

    def unpenalised(self) -> dict[str, nn.Parameter]:
        """The trainable parameters of the model that no penalty acts on, by name."""
        penalised = {parameter for _, parameter, _ in self.items()}
        return {
            slot.name: slot.parameter
            for slot in slots(self.model, where=_anything)
            if slot.parameter.requires_grad and slot.parameter not in penalised
        }

    def overlap(self) -> list[str]:
        """The names of parameters on which more than one penalty acts."""
        penalties = Counter(parameter for _, parameter, _ in self.items())
        return [name for name, p in self.selection().items() if penalties[p] > 1]

    def __repr__(self) -> str:
        rows = [("name", "shape", "count", "penalty")]
        swept = []
        for term in self.terms:
            for slot in term.slots:
                parameter = slot.parameter
                shape = " x ".join(str(size) for size in parameter.shape) or "scalar"
                told = f"{term.penalty!r}: {term.penalty.formula}"
                rows.append((slot.name, shape, f"{parameter.numel():,}", told))
                if is_bias(slot) or is_normalisation(slot):
                    swept.append(slot.name)
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        table = [
            f"  {name:<{widths[0]}}  {shape:>{widths[1]}}  {count:>{widths[2]}}  {told}"
            for name, shape, count, told in rows
        ]
        penalised = sum(parameter.numel() for parameter in self.selection().values())
        everything = sum(parameter.numel() for parameter in self.model.parameters())
        lines = [f"Regularizer: {penalised:,} of {everything:,} parameters penalised", *table]
        if swept:
            lines.append(f"  note: among them biases or normalisation: {', '.join(swept)}")
        return "\n".join(lines)


def _anything(_name: str, _parameter: nn.Parameter) -> bool:
    return True


def check_regularizer(found: object) -> None:
    """Raise a TypeError unless this is a :class:`Regularizer`."""
    if not isinstance(found, Regularizer):
        raise TypeError(
            f"expected a torchreg.Regularizer, found {type(found).__name__}: bind a penalty to the "
            "model first, Regularizer(model, penalty)."
        )
