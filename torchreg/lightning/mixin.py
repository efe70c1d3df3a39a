"""A penalty for a LightningModule: one method to write, and each optimizer step counts it once."""

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, Literal, cast

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from torchreg.lightning.penalise import Penalise, callbacks_of
from torchreg.metrics import Metric
from torchreg.penalties import Penalty
from torchreg.proximal import ProximalOptimizer
from torchreg.regularizer import Regularizer
from torchreg.selection import select


class RegularizedMixin:
    """Minimise loss + penalty in a LightningModule that knows the loss alone.

    Write ``training_step`` and ``configure_optimizers`` as ever, without the penalty, and add
    one method, ``configure_regularizer``. In a class of your own, or over one that exists:

        class Net(RegularizedMixin, L.LightningModule): ...

        class Sparse(RegularizedMixin, ExistingModule):
            def configure_regularizer(self):
                return tr.L1(1e-4)

    The class attribute ``regularization`` says how the penalty acts:

    - ``"proximal"`` (the default): each optimizer that holds penalised parameters, when the fit
      starts or from a later batch on, is wrapped in a :class:`torchreg.ProximalOptimizer`, so
      weights become exact zeros. Schedulers and checkpoints stay those of the optimizer inside.
      For another optimizer than SGD, Adam and AdamW add the method
      ``proximal_metric(self, group, parameter, state)``, as ``ProximalOptimizer`` takes it.
    - ``"loss"``: the penalty joins the loss through its subgradient. Right before an optimizer
      steps, after the gradients have been accumulated, reduced over the processes and unscaled,
      and before they are clipped, the penalty's subgradient is added to them. This is the
      gradient of loss + penalty, and the penalty counts once per step where a term in the
      returned loss would not: under accumulation with any last window, 16-bit loss scaling,
      several backward passes, toggled optimizers. The loss that ``training_step`` returns, and
      so what you log and validate, stays the task loss.

    In both, a parameter without a gradient in a step is not penalised in it, as with torch's
    ``weight_decay``; a step that is skipped (``training_step`` returns None, an overflow) changes
    nothing. In manual optimization step through ``self.optimizers()``, in Lightning's way; there
    ``self.clip_gradients`` clips the gradient of the task, before the penalty joins it. With
    several optimizers each one sees the penalty of its own parameters.

    A penalty returned alone takes in the weights that are unfrozen during the fit, as by
    ``BackboneFinetuning``, from their first step on; a mapping takes what it names, frozen or not.

    Logged at the end of each epoch: ``train/task_loss`` (the mean over the batches of what
    ``training_step`` returned), ``train/penalty`` and ``train/sparsity`` (the exact zeros as a
    fraction of the penalised weights).

    Nothing is added to the ``state_dict``, and a checkpoint is that of the plain module; the
    penalty, like the loss, belongs to the program. The order of the base classes does not
    matter, and no method of yours is replaced: the mixin works through a callback that it adds to
    what ``configure_callbacks`` returns. Lightning's learning rate and batch size finders run
    without callbacks, and so without the penalty. Under Fabric, which has no hooks, use
    :class:`torchreg.Regularizer` and :class:`torchreg.ProximalOptimizer` directly.

    Raises:
        NotImplementedError: ``configure_regularizer`` is missing.
        TypeError: it returns something else than a penalty, a mapping or a Regularizer; the
            optimizers returned are already proximal (the penalty would act twice); no metric is
            known for an optimizer and there is no ``proximal_metric``; LBFGS with a line search
            in mode ``"loss"``; DeepSpeed.
        ValueError: an unknown mode; a penalised parameter that is trained by no optimizer; a
            Regularizer of another model.
        RuntimeError: in training, ``self.regularizer()`` was added to the loss as well (this
            object is watched; a Regularizer of your own, also the one that you returned, is not);
            or an optimizer, any in the process, moved penalised parameters without the penalty.
            Every message says what to change.

    Warns:
        UserWarning: a weight was unfrozen that a Regularizer with the default selection, resolved
            before, leaves out.

    Example:
        >>> import lightning.pytorch as L, torch, torchreg as tr, warnings
        >>> warnings.filterwarnings("ignore", module="lightning")  # its own
        >>> class Net(tr.lightning.RegularizedMixin, L.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = torch.nn.Linear(20, 1)
        ...     def training_step(self, batch, _):
        ...         x, y = batch
        ...         return torch.nn.functional.mse_loss(self.layer(x), y)
        ...     def configure_optimizers(self):
        ...         return torch.optim.Adam(self.parameters(), lr=0.05)
        ...     def configure_regularizer(self):
        ...         return tr.L1(0.2)
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(256, 20)
        >>> data = torch.utils.data.TensorDataset(x, 3 * x[:, :1])
        >>> batches = torch.utils.data.DataLoader(data, batch_size=256)
        >>> quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar",
        ...                        "enable_model_summary"], False)
        >>> model = Net()
        >>> L.Trainer(max_epochs=200, accelerator="cpu", **quiet).fit(model, batches)
        >>> print(tr.sparsity(model.regularizer).exact, "of", model.layer.weight.numel())
        19 of 20
    """

    regularization: Literal["proximal", "loss"] = "proximal"
    """How the penalty acts: through the proximal step, or through its subgradient."""

    proximal_metric: Metric | None = None
    """In mode ``"proximal"``, the step size of every penalised optimizer, if it is no known one.

    Write it as a method, ``proximal_metric(self, group, parameter, state)``, that returns
    a :class:`torchreg.StepSize`. See :class:`torchreg.ProximalOptimizer`.
    """

    _regularizer: Regularizer | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # As the class resolves it: its own, an existing module's or Lightning's. No order of the
        # base classes and no override can leave the penalty out.
        configure = getattr(cls, "configure_callbacks", None)
        if configure is not None and not hasattr(configure, "_attaches_penalty"):
            cls.configure_callbacks = _attaching(configure)  # type: ignore[attr-defined]

    def configure_regularizer(self) -> Penalty | Mapping[Any, Penalty] | Regularizer:
        """Say what is penalised: the one method to write.

        Called when the fit starts, after ``configure_model``, ``setup`` and the move to the
        device. Add none of it to the loss: only adding ``self.regularizer()`` is detected.

        Returns:
            A penalty (for the weights of this module: no biases, no normalisation), a mapping
            from selections to penalties, or a :class:`torchreg.Regularizer` of this module or of
            a submodule.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not say what is penalised. Give it the method "
            "configure_regularizer(self) that returns a penalty such as torchreg.L1(1e-4), a "
            "mapping from selections to penalties, or a torchreg.Regularizer."
        )

    @property
    def regularizer(self) -> Regularizer:
        """The penalties, bound to this module; built at first use and anew by each fit.

        For reports: ``torchreg.sparsity(self.regularizer)``, ``self.log(..., self.regularizer())``.
        """
        if self._regularizer is None:
            try:
                self._regularizer = _resolve(self)
            except AttributeError as error:
                # torch.nn.Module would report a missing attribute 'regularizer' in its place.
                raise RuntimeError(
                    f"configure_regularizer of {type(self).__name__} failed: {error}"
                ) from error
        return self._regularizer

    def _follow_unfrozen(self) -> None:
        if isinstance(self.regularizer, _Watched):  # Debias has put another in its place
            self.regularizer.follow_unfrozen()


class _Watched(Regularizer):
    """A regularizer whose value must not reach the loss while the trainer counts it already."""

    module: RegularizedMixin
    follows: Literal["takes in", "warns", "nothing"]
    frozen: list[Tensor]

    def follow_unfrozen(self) -> None:
        """Take in the weights of the default selection that were frozen when it was resolved."""
        if self.follows == "nothing" or not any(p.requires_grad for p in self.frozen):
            return
        self.frozen = [p for p in self.frozen if not p.requires_grad]
        if self.follows == "takes in":
            self.terms = Regularizer(self.model, self.terms[0].penalty).terms
            return
        penalised = set(self.selection().values())
        late = [name for name, p in select(self.model).items() if p not in penalised]
        if late:
            warnings.warn(
                f"{', '.join(late)} was frozen when the Regularizer that configure_regularizer of "
                f"{type(self.module).__name__} returned was built, and is trained now without a "
                "penalty. To penalise it, return the penalty alone or a mapping that names it; to "
                "leave it out, return a mapping that does not.",
                stacklevel=2,
            )

    def __call__(self) -> Tensor:
        value = super().__call__()
        if value.requires_grad:
            value.register_hook(self._refuse)
        return value

    def _refuse(self, _: Tensor) -> None:
        trainer = getattr(self.module, "_trainer", None)
        if trainer is not None and trainer.training:
            raise RuntimeError(
                "the penalty would count twice: training_step adds self.regularizer() to the loss, "
                f"and regularization = {self.module.regularization!r} takes it into account as "
                "well. Return the task loss alone."
            )


def _resolve(module: RegularizedMixin) -> Regularizer:
    """What ``configure_regularizer`` returns, as a Regularizer that watches over its use."""
    found = module.configure_regularizer()
    whole = cast(pl.LightningModule, module)
    if not isinstance(found, Regularizer | Penalty | Mapping):
        raise TypeError(
            f"configure_regularizer of {type(module).__name__} returned {found!r}. Expected a "
            "penalty such as torchreg.L1(1e-4), a mapping from selections to penalties, or a "
            "torchreg.Regularizer."
        )
    bound = found if isinstance(found, Regularizer) else Regularizer(whole, found)
    own = set(whole.parameters())
    if strange := [name for name, p in bound.selection().items() if p not in own]:
        raise ValueError(
            f"configure_regularizer of {type(module).__name__} returned a Regularizer of another "
            f"model: {', '.join(strange)} is no parameter of this one. Bind it to self or to a "
            "submodule: Regularizer(self, penalty)."
        )
    watched = copy.copy(bound)
    watched.__class__ = _Watched
    watched = cast(_Watched, watched)
    watched.module = module
    watched.frozen = [p for p in bound.model.parameters() if not p.requires_grad]
    if isinstance(found, Penalty):
        watched.follows = "takes in"
    elif isinstance(found, Regularizer) and set(bound.selection()) == set(select(bound.model)):
        watched.follows = "warns"  # the default selection, or one that cannot be told from it
    else:
        watched.follows = "nothing"
    return watched


def _attaching(
    configure: Callable[..., Sequence[Callback] | Callback],
) -> Callable[..., list[Callback]]:
    """``configure_callbacks`` with the penalty's callback added, once."""

    @wraps(configure)
    def configure_callbacks(self: pl.LightningModule) -> list[Callback]:
        found = configure(self)
        own = list(found) if isinstance(found, Sequence) else [found]
        present = own if self._trainer is None else [*own, *callbacks_of(self._trainer)]
        return own if any(type(c) is Penalise for c in present) else [*own, Penalise()]

    configure_callbacks._attaches_penalty = True  # type: ignore[attr-defined]
    return configure_callbacks


def regularizers_of(trainer: pl.Trainer, pl_module: pl.LightningModule) -> list[Regularizer]:
    """The module's regularizer, or those of its proximal optimizers, each once."""
    if isinstance(pl_module, RegularizedMixin):
        return [pl_module.regularizer]
    proximal = [o for o in trainer.optimizers if isinstance(o, ProximalOptimizer)]
    return list(dict.fromkeys(optimizer.regularizer for optimizer in proximal))


def check_makes_zeros(name: str, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
    """Raise for a callback that needs exact zeros where no optimizer makes any."""
    if isinstance(pl_module, RegularizedMixin) and pl_module.regularization == "proximal":
        return  # an optimizer may come to hold penalised weights later
    if not any(isinstance(optimizer, ProximalOptimizer) for optimizer in trainer.optimizers):
        raise TypeError(
            f"{name} exact zeros, and no optimizer makes any. Use RegularizedMixin with "
            "regularization = 'proximal', or a torchreg.ProximalOptimizer."
        )
