"""AdamW with decoupled weight decay, and its learning rate: linear warm-up, then cosine decay.

Loshchilov & Hutter, "Decoupled Weight Decay Regularization", arXiv:1711.05101.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim.optimizer import ParamsT

from mixray.config.training import OptimizerConfig


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> ParamsT:
    """Return a model's trainable parameters. Only matrices decay (2 or more axes), not biases or norms."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices, vectors = [p for p in parameters if p.ndim >= 2], [p for p in parameters if p.ndim < 2]
    groups = ((matrices, config.weight_decay), (vectors, 0.0))
    return [{"params": members, "weight_decay": decay} for members, decay in groups if members]


def adamw(model: nn.Module, config: OptimizerConfig, device: torch.device) -> torch.optim.AdamW:
    """Return the optimiser of a model's ``parameter_groups``."""
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
