"""What the loop knows of an objective other than the mean over rows.

Such an objective weighs a step's rows by their groups, with weights that it knows before the step's first forward pass
(so the logits of a batch never need to exist), and sees their losses afterwards. ``mixray.robust`` has them.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import nn

from mixray.config.training import OptimizerConfig
from mixray.training.checkpoint import State


class Objective(Protocol):
    """Group weights that move once per optimiser step, the same on all workers."""

    @property
    def group_weights(self) -> torch.Tensor:
        """float64, shape (groups,), sums to 1."""
        ...

    def optimizer(self, model: nn.Module, config: OptimizerConfig, device: torch.device) -> torch.optim.Optimizer:
        """The optimiser of the model's trainable parameters. Called once, before everything else."""
        ...

    def step(self, group_ids: torch.Tensor) -> AbstractContextManager[torch.Tensor]:
        """A step's gradients are made inside; gives row weights (rows,), on the device.

        group_ids: int64 (rows,) on the CPU, of this worker's rows of the step. The sum over rows of weight x loss has
        the factor in it that makes the mean of the workers' gradients that of the joined batch. The parameters may be
        elsewhere inside, and are back after the optimiser's ``step``, which comes right after this one's end.
        """
        ...

    def observe(self, row_losses: torch.Tensor, group_ids: torch.Tensor) -> None:
        """Take in the losses, detached, of all rows that ``step`` was told of, in its order; called before its end."""
        ...

    def state_dict(self) -> State:
        """What the optimiser's state does not have."""
        ...

    def load_state_dict(self, state: State) -> None: ...
