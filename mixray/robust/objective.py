"""Adapters that let the training loop use Group DRO and ALSO (``mixray.training.Objective``), built from a run file.

The training loop needs the weight of every row of a step before the step's first forward pass. Group DRO weighs a step
with the group weights that it began with, and its losses then give the weights of the next step. ALSO weighs it with
the weights of its look-ahead. A row's weight is thus a constant during the step: the gradients of a language model's
head can be computed block by block, as for the plain mean, and the number of micro-batches changes nothing.

With reference losses both judge a group by its excess: its loss minus the loss that a reference model reaches on the
group's rows, one number per group in nats. DoReMi cuts each token's excess off at 0. With one number per group that
would be wrong: about half of a group's rows are below their mean, so groups whose rows differ much would gain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn

from mixray.config.objective import ALSOConfig, ErmConfig, GroupObjective, ObjectiveConfig
from mixray.config.training import OptimizerConfig
from mixray.robust.also import ALSO
from mixray.robust.group_dro import GroupDRO
from mixray.robust.groups import PerGroup
from mixray.training.checkpoint import State
from mixray.training.objective import Objective, adamw, parameter_groups


class GroupDROObjective:
    """Group DRO with AdamW. An ``Objective``. ``reference_losses``: (groups,), nats."""

    def __init__(self, group_dro: GroupDRO, *, reference_losses: PerGroup | None = None) -> None:
        self._group_dro, self._references = group_dro, _References(reference_losses)

    @property
    def group_weights(self) -> torch.Tensor:
        return self._group_dro.group_weights

    def optimizer(self, model: nn.Module, config: OptimizerConfig, device: torch.device) -> torch.optim.Optimizer:
        self._group_dro.to(device)
        return adamw(model, config, device)

    @contextmanager
    def step(self, group_ids: torch.Tensor) -> Iterator[torch.Tensor]:
        with self._group_dro.accumulating(group_ids):
            yield self._group_dro.row_weights(group_ids)

    def observe(self, row_losses: torch.Tensor, group_ids: torch.Tensor) -> None:
        self._group_dro.add(row_losses, group_ids, reference_losses=self._references.of(group_ids))

    def state_dict(self) -> State:
        return dict(self._group_dro.state_dict())

    def load_state_dict(self, state: State) -> None:
        self._group_dro.load_state_dict(state)


class DoReMiObjective(GroupDROObjective):
    """Group DRO as DoReMi takes it (Xie et al. 2023, arXiv 2305.10429, Algorithm 1). An ``Objective``.

    Rows must be judged by their excess: the mean over tokens of max(loss - reference loss, 0). Every step multiplies
    the weights by exp(step size x mean excess of the group) and spreads ``smoothing`` of them evenly. A group without
    rows in a step keeps its last excess. The answer is ``mean_group_weights``, over all steps. A step is weighed by the
    weights that the one before it left, because the rows' weights must be known before their losses.
    """

    def __init__(self, num_groups: int, *, step_size: float, smoothing: float) -> None:
        super().__init__(GroupDRO(num_groups, step_size=step_size, missing="ema", smoothing=1.0))
        self._smoothing = smoothing
        self._sum, self._steps = torch.zeros(num_groups, dtype=torch.float64), 0

    @property
    def mean_group_weights(self) -> torch.Tensor:
        """The mean of the weights after each step, float64 (groups,), on the CPU, sums to 1."""
        return (self._sum / self._steps).cpu()

    @contextmanager
    def step(self, group_ids: torch.Tensor) -> Iterator[torch.Tensor]:
        with super().step(group_ids) as row_weights:
            yield row_weights
        weights = self.group_weights
        weights = (1 - self._smoothing) * weights + self._smoothing / len(weights)
        self._group_dro.weights.log_weights.copy_(weights.log())
        self._sum, self._steps = self._sum.to(weights.device) + weights, self._steps + 1

    def state_dict(self) -> State:
        return {"group_dro": super().state_dict(), "sum": self._sum.cpu(), "steps": self._steps}

    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state["group_dro"])
        self._sum, self._steps = state["sum"], state["steps"]


class ALSOObjective:
    """ALSO with decoupled weight decay. An ``Objective``.

    ``build_also``: returns the ALSO optimizer from the model's parameters and Adam's settings; all other settings are
    fixed in it. ``reference_losses``: (groups,), nats.
    """

    def __init__(self, build_also: Callable[..., ALSO], *, reference_losses: PerGroup | None = None) -> None:
        self._build_also, self._references = build_also, _References(reference_losses)
        self._optimizer: ALSO | None = None

    @property
    def _also(self) -> ALSO:
        assert self._optimizer is not None, "optimizer() must be called first"
        return self._optimizer

    @property
    def group_weights(self) -> torch.Tensor:
        return self._also.group_weights

    def optimizer(self, model: nn.Module, config: OptimizerConfig, device: torch.device) -> torch.optim.Optimizer:
        assert all(parameter.device.type == device.type for parameter in model.parameters())
        parameters, rate = parameter_groups(model, config), config.learning_rate
        self._optimizer = self._build_also(parameters, lr=rate, betas=config.betas, eps=config.epsilon, decoupled=True)
        return self._optimizer

    @contextmanager
    def step(self, group_ids: torch.Tensor) -> Iterator[torch.Tensor]:
        self._also.look_ahead(group_ids)
        try:
            yield self._also.row_weights(group_ids)
        except BaseException:
            self._also.look_back()  # the parameters return from the look-ahead
            raise

    def observe(self, row_losses: torch.Tensor, group_ids: torch.Tensor) -> None:
        self._also.add(row_losses, group_ids, reference_losses=self._references.of(group_ids))

    def state_dict(self) -> State:
        return {}  # ALSO is the optimizer, and the training loop stores the optimizer's state

    def load_state_dict(self, state: State) -> None:
        assert not state


class _References:
    """The reference loss of every group, if there are any."""

    def __init__(self, by_group: PerGroup | None) -> None:
        self._by_group = None if by_group is None else torch.as_tensor(by_group, dtype=torch.float64)

    def of(self, group_ids: torch.Tensor) -> torch.Tensor | None:
        """Return the reference loss of each row's group, float64 (rows,); None if there are no reference losses."""
        return None if self._by_group is None else self._by_group[group_ids.cpu()]


# ------------------------------------------------------------------------------------------------------ from a run file


def new_objective(
    config: ObjectiveConfig,
    group_shares: Mapping[str, float],
    *,
    windows: int,
    presence: Sequence[float],
    reference_losses: Mapping[str, float] | None,
) -> Objective | None:
    """Return the objective that trains an arm, or None for ERM, the training loop's default.

    group_shares: the share of training tokens of every group, in the order of the group ids, all positive. windows: the
    number of training windows (or examples) in the whole run. presence: the probability that a step has a window of the
    group, in the same order. reference_losses: nats per token, by source; needed only for ``excess: proxy``, which a
    run file can state only where the groups are the sources.
    """
    if isinstance(config, ErmConfig):
        return None
    references = None
    if config.excess == "proxy":
        assert reference_losses is not None, "excess: proxy needs the proxies' losses"
        references = [reference_losses[source] for source in group_shares]
    groups, prior = len(group_shares), _prior(config, group_shares)
    divides_by_presence = config.missing == "inverse_presence"
    if isinstance(config, ALSOConfig):
        build_also = partial(
            ALSO,
            num_groups=groups,
            step_size=config.step_size,
            missing=config.missing,
            tau=config.tau,
            prior=prior,
            mode=config.mode,
            weighting=config.weighting,
            presence=presence if divides_by_presence and config.weighting == "group_mean" else None,
        )
        return ALSOObjective(build_also, reference_losses=references)
    group_dro = GroupDRO(
        groups,
        step_size=config.step_size,
        missing=config.missing,
        tau=config.tau,
        prior=prior,
        adjustment=config.adjustment,
        alpha=config.alpha,
        training_counts=[share * windows for share in group_shares.values()],
        presence=presence if divides_by_presence else None,
    )
    return GroupDROObjective(group_dro, reference_losses=references)


def _prior(config: GroupObjective, group_shares: Mapping[str, float]) -> PerGroup | None:
    """Return the prior weight of every group, in the order of the groups; None for equal weights."""
    if config.prior == "uniform":
        return None
    weights = group_shares if config.prior == "shares" else config.prior
    return [weights[group] for group in group_shares]
