"""Group DRO and ALSO as objectives of the training loop (``mixray.training.Objective``), and from a run file.

Both weigh a step's rows with what they know before its first forward pass: Group DRO with the weights that the step
began with (its losses make the next ones), ALSO with those of its look-ahead. So a row's weight is a constant, the
gradients of a language model's head are made block by block as for the plain mean, and micro-batches change nothing.

Reference losses, one number per group in nats (what a reference model reaches on the group's rows), make both judge a
group by its excess over it. With one number per group an excess is not cut off at 0, as DoReMi does token by token:
half of a group's rows are below their mean, so that would reward groups whose rows differ much.
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
    """Group DRO with AdamW. reference_losses: (groups,), nats."""

    def __init__(self, group_dro: GroupDRO, *, reference_losses: PerGroup | None = None) -> None:
        self._group_dro, self._reference = group_dro, _References(reference_losses)

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
        self._group_dro.add(row_losses, group_ids, reference_losses=self._reference.of(group_ids))

    def state_dict(self) -> State:
        return dict(self._group_dro.state_dict())

    def load_state_dict(self, state: State) -> None:
        self._group_dro.load_state_dict(state)


class ALSOObjective:
    """ALSO with decoupled decay. ``new``: ALSO with all settings but the parameters and Adam's.

    ``reference_losses``: (groups,), nats.
    """

    def __init__(self, new: Callable[..., ALSO], *, reference_losses: PerGroup | None = None) -> None:
        self._new, self._reference = new, _References(reference_losses)
        self._optimizer: ALSO | None = None

    @property
    def _also(self) -> ALSO:
        assert self._optimizer is not None, "the optimiser comes first"
        return self._optimizer

    @property
    def group_weights(self) -> torch.Tensor:
        return self._also.group_weights

    def optimizer(self, model: nn.Module, config: OptimizerConfig, device: torch.device) -> torch.optim.Optimizer:
        assert all(parameter.device.type == device.type for parameter in model.parameters())
        parameters, rate = parameter_groups(model, config), config.learning_rate
        self._optimizer = self._new(parameters, lr=rate, betas=config.betas, eps=config.epsilon, decoupled=True)
        return self._optimizer

    @contextmanager
    def step(self, group_ids: torch.Tensor) -> Iterator[torch.Tensor]:
        self._also.look_ahead(group_ids)
        try:
            yield self._also.row_weights(group_ids)
        except BaseException:
            self._also.look_back()
            raise

    def observe(self, row_losses: torch.Tensor, group_ids: torch.Tensor) -> None:
        self._also.add(row_losses, group_ids, reference_losses=self._reference.of(group_ids))

    def state_dict(self) -> State:
        return {}  # the optimiser's has it all

    def load_state_dict(self, state: State) -> None:
        assert not state


class _References:
    """Reference losses by group, or none."""

    def __init__(self, by_group: PerGroup | None) -> None:
        self._by_group = None if by_group is None else torch.as_tensor(by_group, dtype=torch.float64)

    def of(self, group_ids: torch.Tensor) -> torch.Tensor | None:
        """Return the reference loss of rows of these groups, (rows,), where groups have any."""
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
    """Return the objective of an arm whose groups are its sources, or of a column; None for ERM.

    group_shares: share of training tokens by group, in the order of the groups, all positive. windows: in the run.
    presence: P(a step has a window of the group), in the same order. reference_losses: nats per token, by source;
    needed where the config says ``excess: proxy``, whose groups are the sources.
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
        new = partial(
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
        return ALSOObjective(new, reference_losses=references)
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
    if config.prior == "uniform":
        return None
    weights = group_shares if config.prior == "shares" else config.prior
    return [weights[group] for group in group_shares]
