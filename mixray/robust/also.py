"""ALSO: an Adam that minimises a worst mixture of group losses (arXiv 2508.16734).

    min over theta, max over pi of  sum_g pi_g L_g(theta) - tau KL(pi || prior)

A step in the optimistic mode, with AdamStep what one Adam step adds and Mirror the step of ``group_weights``:

    look_ahead   theta_half = theta_{t-1} + AdamStep(look_ahead_scale g_{t-1}),   pi_half = Mirror(pi_{t-1}, L_{t-1})
    loss         g_t = gradient at theta_half of sum_g pi_half_g L_g
    step         theta_t = theta_{t-1} + AdamStep(g_t),   pi_t = Mirror(pi_{t-1}, L_t)

The first step has nothing to look ahead with. The mode descent_ascent takes theta_{t-1} and pi_{t-1} for the half step.

    also = ALSO(model.parameters(), num_groups)
    for inputs, labels, group_ids in loader:
        also.zero_grad()
        also.look_ahead()
        losses = cross_entropy(model(inputs), labels, reduction="none")
        also.loss(losses, group_ids).backward()
        also.step()

After ``step`` the parameters are theta_t: evaluate and save then. In micro-batches announce the rows of the step first,
``also.look_ahead(group_ids)``, and call ``loss`` once per micro-batch; or, where losses make their gradients in the
forward pass, weigh the rows by ``row_weights`` and give the losses to ``add``.

Where it departs from the released code, and why (effects measured on it; the tests measure the first again):

| released code                           | here                             | effect of theirs                       |
|-----------------------------------------|----------------------------------|----------------------------------------|
| ranks groups by the sum of their losses | by the mean, or the sum by name  | 95 of .3, 5 of 2.0: pi = (.999, .001)  |
| no lr in param_groups                   | all settings, per group          | StepLR raises KeyError                 |
| no pi, prior, gradient in state_dict    | all there                        | pi is uniform after loading            |
| moments advance in both half steps      | once per gradient                | step 5 after 3 steps                   |
| look-ahead of unused parameters stays   | all are undone                   | an unused parameter: .90 to .80        |
| log(pi + 1.2e-7), the same in Adam      | log-weights; Adam's eps is 1e-8  | 3:1 becomes 1.11:1 (1e6 groups, idle)  |
| pi starts uniform                       | at the prior                     | not as documented                      |
| absent groups have loss 0               | see ``group_losses``             | rare groups starve                     |
| returns groups / batch times the loss   | the loss                         | .274 for 1.097                         |
| p.data rebound; one batch, one worker   | in place; micro-batches, workers | workers drift apart                    |

Defaults that differ: pi's step size is Group DRO's .01 (theirs 1e-3), weight decay 0 (theirs 1e-3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, cast, get_args

import torch
from torch.optim.optimizer import ParamsT

from mixray.config.objective import MissingGroups
from mixray.errors import InputError
from mixray.robust.adam_step import ParameterGroup, advance, has_fused, local_parts, new_moments, peek
from mixray.robust.group_losses import DEFAULT_MISSING, GroupLosses
from mixray.robust.group_weights import GroupWeights
from mixray.robust.groups import PerGroup, checked_ids, non_negative
from mixray.robust.steps import JudgedRows, Step, WeighedStep
from mixray.training.checkpoint import State

Mode = Literal["optimistic", "descent_ascent"]
Weighting = Literal["group_mean", "group_sum", "sample"]
GROUP_STATE = "groups."
"""Before the names of what a state keeps of the groups, among the settings of the first parameter group."""


class ALSO(WeighedStep, torch.optim.Optimizer):
    """Adam on the parameters, mirror ascent on the group weights.

    lr, betas, eps, weight_decay: Adam's, per parameter group if wished. decoupled: the decay multiplies the parameters
    by 1 - lr weight_decay, as AdamW's does; else it is L2, weight_decay / 2 |theta|^2 in the loss, as in the paper.
    weighting: what L_g is. group_mean: the mean loss of the group's rows. group_sum (the paper's code): groups / rows
    times their sum, so that uniform weights are ERM and large groups count more. sample: group_sum where every
    training row is a group of its own, ``num_groups`` the rows and ``group_ids`` their numbers.
    step_size, tau, prior: of the weights; prior (groups,), uniform where None, is also where they start.
    missing, presence, smoothing: for group_mean, what to do about groups that a batch lacks, see ``group_losses``.
    clip_excess: with reference losses, a row's excess below 0 counts as 0.

    A parameter without a gradient is left as it was, decay included, as by torch's optimizers.
    Raises InputError for settings, ids, shapes and dtypes that are wrong, and for calls out of order. Losses that are
    not finite reach the returned scalar and leave the weights as they were; a GradScaler that finds an overflow skips
    the step whole. Under torch.distributed the weights are those of the joined batch on every worker.
    """

    # A GradScaler then hands its scale and its verdict to ``step``, which has a look-ahead to undo either way.
    _step_supports_amp_scaling = True
    how_to_begin = (
        "no step has begun whose rows are known",
        "call look_ahead(group_ids) with the group ids of all rows of the step",
    )

    def __init__(
        self,
        params: ParamsT,
        num_groups: int,
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled: bool = False,
        mode: Mode = "optimistic",
        look_ahead_scale: float = 1.0,
        weighting: Weighting = "group_mean",
        step_size: float = 0.01,
        tau: float = 0.01,
        prior: PerGroup | None = None,
        missing: MissingGroups = DEFAULT_MISSING,
        presence: PerGroup | None = None,
        smoothing: float = 0.1,
        clip_excess: bool = False,
    ) -> None:
        _check_choice(mode, Mode, "mode")
        _check_choice(weighting, Weighting, "weighting")
        if weighting != "group_mean" and (missing != DEFAULT_MISSING or presence is not None):
            raise InputError(
                "sums need nothing for missing groups: an absent group's sum is 0",
                where="missing, presence",
                got=f'weighting="{weighting}"',
                remedy='leave them out, or choose weighting="group_mean"',
            )
        if not all(0 <= beta < 1 for beta in betas):
            raise InputError("betas are out of range", where="betas", got=betas, wanted="at least 0, below 1")
        adam = {"lr": lr, "eps": eps, "weight_decay": weight_decay}
        for name, value in adam.items():
            non_negative(value, name)
        super().__init__(params, adam | {"betas": betas, "decoupled": decoupled})
        self.num_groups, self.mode, self.weighting, self.clip_excess = num_groups, mode, weighting, clip_excess
        self.look_ahead_scale = non_negative(look_ahead_scale, "look_ahead_scale")
        device = self.param_groups[0]["params"][0].device
        self._weights = GroupWeights(num_groups, step_size=step_size, tau=tau, prior=prior).to(device)
        self._losses = GroupLosses(num_groups, missing=missing, presence=presence, smoothing=smoothing).to(device)
        # What the last step's Mirror saw, for the next look-ahead; nothing moves before there was one.
        self._last = (torch.zeros_like(self.group_weights), torch.zeros_like(self.group_weights, dtype=torch.bool))
        self._half: torch.Tensor | None = None
        self._step: Step | None = None
        self._base: dict[torch.Tensor, torch.Tensor] = {}
        self._displaced: list[torch.Tensor] = []

    @property
    def group_weights(self) -> torch.Tensor:
        """pi_t: float64, shape (groups,), sums to 1. Before ``step``, pi_{t-1}."""
        return self._weights.log_weights.exp()

    @torch.no_grad()
    def look_ahead(self, group_ids: torch.Tensor | Sequence[int] | None = None) -> None:
        """Begin a step: move the parameters to theta_half and the weights to pi_half (optimistic mode).

        group_ids: integers (rows,), of all rows of this worker's step, where ``loss`` will see them in parts.
        A step that was begun and not ended is forgotten.
        """
        self.look_back()
        if group_ids is not None:
            ids = checked_ids(group_ids, self.num_groups).to(self.group_weights.device)
            self._step = Step.announced(ids, self.num_groups)
        if self.mode == "descent_ascent":
            return
        self._half = self._weights.ascended(*self._last).exp()
        for group in self._groups():
            parameters = [p for p in group["params"] if "last_gradient" in self.state.get(p, {})]
            base = [self._base.setdefault(p, torch.empty_like(p)) for p in parameters]
            if not parameters:
                continue
            self._displaced += parameters
            torch._foreach_copy_(local_parts(base), local_parts(parameters))
            states = [self.state[p] for p in parameters]
            gradients = [state["last_gradient"] for state in states]
            peek(parameters, gradients, states, group, fused=has_fused(group["params"]))

    @torch.no_grad()
    def look_back(self) -> None:
        """Undo ``look_ahead``: back to theta_{t-1} to the last bit, the step's losses forgotten."""
        if self._displaced:
            base = [self._base[p] for p in self._displaced]
            torch._foreach_copy_(local_parts(self._displaced), local_parts(base))
        self._displaced, self._step, self._half = [], None, None

    def loss(
        self,
        losses: torch.Tensor,
        group_ids: torch.Tensor | Sequence[int],
        *,
        reference_losses: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the scalar to differentiate, for losses (rows,) with their graph and group_ids, integers (rows,).

        Its value is sum_g pi_half_g L_g of the joined batch, as the mean over workers. One call is a whole step, unless
        ``look_ahead`` was told the group ids: then the calls are parts that add up to it. With reference losses (rows,)
        weights and value are those of the excess losses, the gradient that of ``losses``.
        """
        if self.mode == "optimistic" and self._half is None:
            raise InputError(
                "the optimistic mode takes its losses at the look-ahead point",
                where="ALSO.loss",
                remedy="call look_ahead() before the forward pass of each step, or step(closure)",
            )
        rows = JudgedRows.of(losses, group_ids, self.num_groups, reference_losses, clip=self.clip_excess)
        if self._step is None:
            self._step = Step.announced(rows.ids, self.num_groups)
        row_weights = self._weights_of_rows(self._step.counts)
        self._add(self._step, rows)
        return rows.loss(row_weights)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Go back to theta_{t-1}, then to theta_t and pi_t. Without a ``loss`` before it the weights stay.

        closure: clears the gradients, computes ``loss``, runs backward, returns the loss; ``look_ahead`` is called
        before it, and the returned loss is returned.
        """
        value = None
        if closure is not None:
            self.look_ahead()
            with torch.enable_grad():
                value = closure()
        step = self._step
        self.look_back()
        sums = None if step is None else step.total()
        found_inf, scale = getattr(self, "found_inf", None), getattr(self, "grad_scale", None)
        if found_inf is not None and float(found_inf) > 0:
            return value
        for group in self._groups():
            self._descend(group, scale)
        if step is not None and sums is not None:
            self._climb(sums, step.counts)
        return value

    def state_dict(self) -> State:
        """Return torch's state, with the group weights, their averages and their last losses in the first param group.

        There schedulers leave them alone, and ``torch.distributed.checkpoint`` keeps them.
        Raises InputError between ``look_ahead`` and ``step``: the model's parameters are elsewhere then.
        """
        if self._displaced:
            raise InputError(
                "the parameters are at the look-ahead point",
                where="ALSO.state_dict",
                remedy="save after step(), or call look_back() first",
            )
        state = super().state_dict()
        buffers = {GROUP_STATE + name: buffer.clone() for name, buffer in self._group_buffers().items()}
        first, *others = state["param_groups"]
        return state | {"param_groups": [first | buffers, *others]}

    def load_state_dict(self, state_dict: State) -> None:
        """Go on from a state: the same steps to the last bit. Raises InputError for the state of another optimizer."""
        self.look_back()
        first, *others = state_dict["param_groups"]
        if missing := [name for name in self._group_buffers() if GROUP_STATE + name not in first]:
            raise InputError(
                "a state of ALSO is incomplete",
                where="ALSO.load_state_dict",
                got=f"no {', '.join(missing)} in its first parameter group",
                wanted="what ALSO.state_dict() returned; Adam's own state has no group weights",
            )
        loaded = {name: first[GROUP_STATE + name] for name in self._group_buffers()}
        first = {name: value for name, value in first.items() if not name.startswith(GROUP_STATE)}
        super().load_state_dict({"state": state_dict["state"], "param_groups": [first, *others]})
        for group in self._groups():
            for p in group["params"]:
                # torch leaves the step counter where it was; the one-pass kernel needs it beside the parameter.
                if p in self.state and has_fused(group["params"]):
                    self.state[p]["step"] = self.state[p]["step"].to(p.device)
        for name, buffer in self._group_buffers().items():
            buffer.copy_(loaded[name])

    def _group_buffers(self) -> dict[str, torch.Tensor]:
        """Return what is remembered of groups, by name; the tensors themselves."""
        last_losses, last_moving = self._last
        remembered = self._weights.state_dict() | self._losses.state_dict()
        return remembered | {"last_losses": last_losses, "last_moving": last_moving}

    def _groups(self) -> list[ParameterGroup]:
        return cast("list[ParameterGroup]", self.param_groups)

    def _add(self, step: Step, rows: JudgedRows) -> None:
        super()._add(step, rows)
        if step.added > step.rows:
            raise InputError(
                "more losses than the step has rows",
                where="ALSO.loss",
                got=f"losses of {step.added} rows",
                wanted=f"losses of {step.rows} rows",
                remedy="end each step with step(); give look_ahead the group ids of all micro-batches of a step",
            )

    def _weights_of_rows(self, counts: torch.Tensor) -> torch.Tensor:
        self._weights.refuse_impossible(counts)
        half = (self.group_weights if self._half is None else self._half).to(counts.device)
        if self.weighting == "group_mean":
            return half / (counts.clamp(min=1) * self._losses.row_presence(counts))
        return half * len(half) / counts.sum()

    def _descend(self, group: ParameterGroup, scale: torch.Tensor | None) -> None:
        fused = has_fused(group["params"])
        parameters = [p for p in group["params"] if p.grad is not None]
        gradients = [p.grad for p in parameters if p.grad is not None]
        if any(gradient.is_sparse for gradient in gradients):
            raise InputError(
                "a gradient is sparse",
                where="ALSO.step",
                wanted="dense gradients, whose look-ahead moves every element",
                remedy="build the embedding with sparse=False",
            )
        if scale is not None and gradients:
            torch._foreach_div_(local_parts(gradients), scale.to(gradients[0].device))
        for p in parameters:
            if p not in self.state:
                self.state[p] = new_moments(p, fused=fused)
        states = [self.state[p] for p in parameters]
        if parameters:
            advance(parameters, gradients, states, group, fused=fused)
        if self.mode == "descent_ascent":
            return
        for p in group["params"]:
            if p.grad is None:
                self.state.get(p, {}).pop("last_gradient", None)
            else:
                last = self.state[p].setdefault("last_gradient", torch.empty_like(p))
                (into,), (gradient,) = local_parts([last]), local_parts([p.grad])
                torch.mul(gradient, self.look_ahead_scale, out=into)

    def _climb(self, sums: torch.Tensor, counts: torch.Tensor) -> None:
        sums, counts = sums.to(self.group_weights.device), counts.to(self.group_weights.device)
        if self.weighting == "group_mean":
            means, scale, moving = self._losses.update(sums, counts)
            self._last = (means * scale, moving.clone())
        else:
            self._last = (sums * len(sums) / counts.sum(), sums.isfinite().all().expand(len(sums)).clone())
        self._weights.log_weights.copy_(self._weights.ascended(*self._last))


def _check_choice(value: str, choices: Any, where: str) -> None:
    if value not in get_args(choices):
        raise InputError("no such choice", where=where, got=value, wanted=" | ".join(get_args(choices)))
