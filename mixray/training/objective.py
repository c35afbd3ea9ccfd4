"""What a training step minimises, and the optimizer that takes it.

By default it is the mean over rows, with AdamW: decoupled weight decay (Loshchilov & Hutter, arXiv:1711.05101), linear
warm-up, then cosine decay. Any other ``Objective`` weighs a step's rows by their groups, with weights that it knows
before the step's first forward pass (so the logits of a batch never need to exist), and sees their losses afterwards.
``mixray.robust`` has such objectives.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import nn
from torch.optim.optimizer import ParamsT

from mixray.config.training import OptimizerConfig
from mixray.training.checkpoint import State


class Objective(Protocol):
    """Group weights that move once per optimizer step, the same on all workers."""

    @property
    def group_weights(self) -> torch.Tensor:
        """float64, shape (groups,), sums to 1."""
        ...

    def optimizer(self, model: nn.Module, config: OptimizerConfig, device: torch.device) -> torch.optim.Optimizer:
        """Return the optimizer of the model's trainable parameters. Called once, before everything else."""
        ...

    def step(self, group_ids: torch.Tensor) -> AbstractContextManager[torch.Tensor]:
        """Enclose the computation of a step's gradients, and give the row weights (rows,), on the device.

        group_ids: int64 (rows,) on the CPU, of this worker's rows of the step. The sum over rows of weight x loss has
        the factor in it that makes the mean of the workers' gradients that of the joined batch. The parameters may be
        elsewhere inside, and are back after the optimizer's ``step``, which comes right after this one's end.
        """
        ...

    def observe(self, row_losses: torch.Tensor, group_ids: torch.Tensor) -> None:
        """Take in the losses, detached, of all rows that ``step`` was told of, in its order; called before its end."""
        ...

    def state_dict(self) -> State:
        """Return what the optimizer's state does not have."""
        ...

    def load_state_dict(self, state: State) -> None: ...


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> ParamsT:
    """Return a model's trainable parameters. Only matrices decay (2 or more axes), not biases or norms."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices, vectors = [p for p in parameters if p.ndim >= 2], [p for p in parameters if p.ndim < 2]
    groups = ((matrices, config.weight_decay), (vectors, 0.0))
    return [{"params": members, "weight_decay": decay} for members, decay in groups if members]


def adamw(model: nn.Module, config: OptimizerConfig, device: torch.device) -> torch.optim.AdamW:
    """Return the optimizer of a model's ``parameter_groups``."""
    return torch.optim.AdamW(
        parameter_groups(model, config),
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.epsilon,
        fused=device.type in ("cpu", "cuda"),
    )


def learning_rate(step: int, steps: int, config: OptimizerConfig) -> float:
    """Return the learning rate of step ``step`` (from 0) of ``steps``.

    It is the peak at the end of the warm-up and ``final`` x peak at the last step.

    With w = round(warmup x steps): peak x (step + 1) / w while step < w, then, with t = (step + 1 - w) / (steps - w),
    peak x (final + (1 - final) x (1 + cos(pi t)) / 2).
    """
    warmup = round(config.warmup * steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    decay = 0.5 * (1 + math.cos(math.pi * (step + 1 - warmup) / (steps - warmup)))
    return config.learning_rate * (config.final + (1 - config.final) * decay)
