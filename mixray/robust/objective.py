"""Group DRO and ALSO as objectives of the training loop (``mixray.training.Objective``).

Both weigh a step's rows with what they know before its first forward pass: Group DRO with the weights that the step
began with (its losses make the next ones), ALSO with those of its look-ahead. So a row's weight is a constant, the
gradients of a language model's head are made block by block as for the plain mean, and micro-batches change nothing.

Reference losses, one number per group in nats (what a reference model reaches on the group's rows), make both judge a
group by its excess over it. With one number per group an excess is not cut off at 0, as DoReMi does token by token:
half of a group's rows are below their mean, so that would reward groups whose rows differ much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from mixray.config.training import OptimizerConfig
from mixray.robust.also import ALSO
from mixray.robust.group_dro import GroupDRO
from mixray.robust.groups import PerGroup
from mixray.training.optimizer import adamw, parameter_groups


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

    def state_dict(self) -> dict[str, Any]:
        return dict(self._group_dro.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._group_dro.load_state_dict(state)


class ALSOObjective:
    """ALSO with decoupled decay. ``new``: ALSO with all settings but the parameters and Adam's.

    ``reference_losses``: (groups,), nats.
    """

    def __init__(self, new: Callable[..., ALSO], *, reference_losses: PerGroup | None = None) -> None:
        self._new, self._reference = new, _References(reference_losses)
        self._made: ALSO | None = None

    @property
    def _also(self) -> ALSO:
        assert self._made is not None, "the optimiser comes first"
        return self._made

    @property
    def group_weights(self) -> torch.Tensor:
        return self._also.group_weights

    def optimizer(self, model: nn.Module, config: OptimizerConfig, device: torch.device) -> torch.optim.Optimizer:
        assert all(parameter.device.type == device.type for parameter in model.parameters())
        adam = {"lr": config.learning_rate, "betas": config.betas, "eps": config.epsilon}
        self._made = self._new(parameter_groups(model, config), decoupled=True, **adam)
        return self._made

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

    def state_dict(self) -> dict[str, Any]:
        return {}  # the optimiser's has it all

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert not state


class _References:
    """Reference losses by group, or none."""

    def __init__(self, by_group: PerGroup | None) -> None:
        self._by_group = None if by_group is None else torch.as_tensor(by_group, dtype=torch.float64)

    def of(self, group_ids: torch.Tensor) -> torch.Tensor | None:
        """(rows,), where rows of these groups have any."""
        return None if self._by_group is None else self._by_group[group_ids.cpu()]
