"""A penalty for a LightningModule: one method to write, and each optimizer step counts it once."""

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from types import MethodType
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from torchreg.lightning.penalise import Penalise, callbacks_of
from torchreg.lightning.watched import Watched, resolve
from torchreg.metrics import Metric
from torchreg.penalties import Penalty
from torchreg.proximal import ProximalOptimizer
from torchreg.regularizer import Regularizer


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

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; ``configure_callbacks`` of one object keeps the penalty as well."""
        if name == "configure_callbacks" and not hasattr(value, "_attaches_penalty"):
            given = value  # called without this object, as a plain function on an object is
            value = MethodType(_attaching(lambda _: given()), self)
        super().__setattr__(name, value)

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
                self._regularizer = resolve(self)
            except AttributeError as error:
                # torch.nn.Module would report a missing attribute 'regularizer' in its place.
                raise RuntimeError(
                    f"configure_regularizer of {type(self).__name__} failed: {error}"
                ) from error
        return self._regularizer

    def _follow_unfrozen(self) -> None:
        if isinstance(self.regularizer, Watched):  # Debias has put another in its place
            self.regularizer.follow_unfrozen()


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
