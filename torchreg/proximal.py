"""A ``torch.optim`` optimizer that leaves exact zeros and minimises loss + penalty."""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from torchreg import checks, distributed
from torchreg.guard import StepGuard
from torchreg.joint_step import joint_step_
from torchreg.metrics import Metric, StepSize, advance, before_step, is_known, metric_of, seal
from torchreg.proximal_step import proximal_step_
from torchreg.regularizer import Regularizer, check_regularizer
from torchreg.standin import StandIn


class ProximalOptimizer(StandIn):
    """Minimise loss + penalty with any supported optimizer, and reach exact zeros.

    Each ``step`` is the wrapped optimizer's own step, followed by the penalty's proximal map in
    that optimizer's metric: the step size D that it just used, per coordinate (see
    :mod:`torchreg.metrics`). So the weights converge to a stationary point of the objective as
    it was written, under momentum and under Adam too, where thresholding by ``lr * strength``
    solves another problem. The loss passed to ``backward`` must leave the penalty out.

    It is an ``Optimizer`` that shares ``param_groups``, ``state`` and ``defaults`` with the
    wrapped one: schedulers, GradScaler, Lightning and checkpoints see one optimizer. Its
    ``state_dict`` is the wrapped optimizer's (under SGD with momentum two more numbers per
    tensor) and either loads the other's. Strengths are not part of it: like the
    loss function, they belong to the program. A deepcopy or a pickle carries the
    regularizer, with a copy of its model, along.

    Step this one: a step of the wrapped optimizer past it would leave the penalty out, and is
    stopped. Of several wrappers around one optimizer the newest steps. torch's global step hooks
    see both optimizers at each step, this one outside.

    Penalised parameters of the model that this optimizer does not hold are left to the
    optimizer that does: several optimizers share one regularizer. A parameter whose ``grad``
    is None is not moved. Coupled ``weight_decay`` is part of the objective
    (``weight_decay / 2 * sum(w^2)``); the decoupled decay of AdamW and Adafactor belongs to no
    fixed objective, so pass ``weight_decay=0`` where the solution must be exact, and use
    :class:`torchreg.ElasticNet`. Note that AdamW's default is 0.01.

    Args:
        optimizer: SGD, Adam, AdamW, Adamax, NAdam, RAdam, RMSprop, Adagrad, Adadelta, Adafactor
            or ASGD, with their options; any other one together with ``metric``.
        regularizer: the penalties, bound to the model whose parameters the optimizer holds.
        metric: ``(param_group, parameter, state) -> D``, the factor by which the optimizer
            turned its gradient estimate into a move: a float, a tensor shaped like the
            parameter, or a :class:`torchreg.StepSize`. Called once per parameter, right after
            its step.
        compile: on the CPU, fuse metric and proximal map of L1, L2, ElasticNet and L0 into one
            kernel with ``torch.compile``, under Adam, AdamW, AMSGrad, NAdam, RAdam, RMSprop and
            Adagrad: several times faster, and the same to rounding. The first step then takes
            seconds longer, once in a process for each kind of penalty and dtype, and needs a C++
            compiler. All else takes the usual way.

    Raises:
        TypeError: no metric is known for the optimizer; it is already proximal, or no
            optimizer; or the regularizer is a bare penalty.
        ValueError: two penalties act on one parameter; no penalised parameter is in the
            optimizer, or a part of those of joint groups; a penalised parameter is held in half
            precision, or is complex under a per-coordinate metric; ``differentiable=True``.
        RuntimeError: from ``step``, a sparse gradient, or a newer wrapper around the optimizer.
            ``step`` also checks again what may have changed since: parameters, precision, ties.

    Example:
        >>> import torchreg as tr
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Linear(20, 1)
        >>> x = torch.randn(256, 20)
        >>> y = 3 * x[:, :1]
        >>> optimizer = tr.ProximalOptimizer(
        ...     torch.optim.Adam(model.parameters(), lr=0.05), tr.Regularizer(model, tr.L1(0.2))
        ... )
        >>> for _ in range(400):
        ...     optimizer.zero_grad()
        ...     torch.nn.functional.mse_loss(model(x), y).backward()
        ...     optimizer.step()
        >>> int((model.weight == 0).sum())
        19

    Source: A. Beck and M. Teboulle (2009) for the proximal gradient step; S. Becker and
    J. Fadili (2012) for a diagonal metric; J. Yun, A. Lozano and E. Yang, "Adaptive proximal
    gradient methods for structured neural networks" (2021) for it under Adam.
    """

    regularizer: Regularizer
    """The penalties that the proximal map is of."""

    metric: Metric
    """The step size D of the wrapped optimizer, read right after its step."""

    compile: bool
    """Whether metric and proximal map are fused into one kernel where they can be."""

    _before_prox_hooks: OrderedDict[int, Callable[[], None]]

    # GradScaler then unscales, and skips an overflowing step, on the wrapper itself; over a
    # fused base too, which would otherwise expect to be told of the scale.
    _step_supports_amp_scaling = False

    def __init__(
        self,
        optimizer: Optimizer,
        regularizer: Regularizer,
        *,
        metric: Metric | None = None,
        compile: bool = False,
    ) -> None:
        if isinstance(optimizer, ProximalOptimizer):
            raise TypeError(
                "this optimizer is already a ProximalOptimizer: the penalty would act twice. Wrap "
                "the torch.optim optimizer once, with one Regularizer for all penalties."
            )
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"expected a torch.optim optimizer to wrap, found {type(optimizer).__name__}: "
                "ProximalOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), regularizer)."
            )
        check_regularizer(regularizer)
        self.__setstate__(
            {
                "optimizer": optimizer,
                "regularizer": regularizer,
                "metric": metric_of(optimizer) if metric is None else checks.as_metric(metric),
                "compile": bool(compile),
            }
        )
        for group in self.param_groups:
            checks.refuse_differentiable(group)
        self._check()

    def _check(self) -> None:
        distributed.reshard(self.regularizer.model)
        checks.check_together(self.optimizer, self.regularizer, self.metric)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take the wrapped optimizer's step, then the proximal map, in place.

        Args:
            closure: passed on to the wrapped optimizer, which runs it under grad at the sparse
                weights.

        Returns:
            What the closure returned, or None.
        """
        before_step(self.optimizer)
        self._check()

        def checked() -> float:
            assert closure is not None
            loss = closure()
            self._check()
            return loss

        with self._guard.stepping(self):
            loss = self.optimizer.step(None if closure is None else checked)
        advance(self.optimizer)
        for hook in list(self._before_prox_hooks.values()):
            hook()
        self._apply_prox()
        return loss

    def step_sizes(self) -> Callable[[Tensor], StepSize | float | Tensor]:
        """What the metric returns for a parameter in this step: 0 for one that was not moved.

        Between the wrapped optimizer's move and the proximal map, for parameters that it holds.
        """
        return partial(self._step_size, self._group_of())

    def _step_size(
        self, groups: dict[Tensor, dict[str, Any]], parameter: Tensor
    ) -> StepSize | float | Tensor:
        if parameter.grad is None:
            return StepSize(0.0)
        return self.metric(groups[parameter], parameter, self.state.get(parameter, {}))

    def _group_of(self) -> dict[Tensor, dict[str, Any]]:
        """The options of each parameter that is held."""
        return {p: group for group in self.param_groups for p in group["params"]}

    def register_before_prox_hook(self, hook: Callable[[], None]) -> RemovableHandle:
        """Run a function in each step between the wrapped optimizer's move and the proximal map.

        There the step sizes are those of this step, and strengths may still be set:
        :class:`torchreg.TargetSparsity` does. Like every hook it is left behind by deepcopy and
        pickle.

        Returns:
            A handle whose ``remove()`` takes the function away.
        """
        handle = RemovableHandle(self._before_prox_hooks)
        self._before_prox_hooks[handle.id] = hook
        return handle

    @torch._disable_dynamo  # type: ignore[attr-defined]  # a compiled loop leaves its graph here
    @torch.no_grad()
    def _apply_prox(self) -> None:
        groups = self._group_of()
        found = partial(self._step_size, groups)
        for bundle in self.regularizer.bundles():
            penalty, parameters = bundle
            moved = [p for p in parameters.values() if p in groups and p.grad is not None]
            if len(parameters) == 1 and moved:
                parameter = moved[0]
                group, state = groups[parameter], self.state.get(parameter, {})
                proximal_step_(penalty, self.metric, group, parameter, state, self.compile)
            elif moved:
                joint_step_(bundle, found, trusted=is_known(self.metric))

    def release(self) -> Optimizer:
        """Give the wrapped optimizer back, to be stepped on its own, without the penalty.

        The next step of this one takes it again.
        """
        self._guard.release(self)
        return self.optimizer

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the wrapped optimizer; its penalised parameters take part from now on."""
        checks.refuse_differentiable(param_group)
        super().add_param_group(param_group)

    def _pack(self) -> dict[str, Any]:
        packed = self.optimizer.state_dict()
        seal(self.optimizer, packed)
        return packed

    def _unpack(self, state_dict: dict[str, Any]) -> None:
        checks.check_checkpoint(self.optimizer, state_dict, trusted=is_known(self.metric))
        self.optimizer.load_state_dict(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        kept = ("optimizer", "regularizer", "metric", "compile")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._before_prox_hooks = OrderedDict()
        self._guard = StepGuard.take(self.optimizer, self)

    def __repr__(self) -> str:
        return f"{type(self).__name__} around {self.optimizer!r}\n{self.regularizer!r}"
