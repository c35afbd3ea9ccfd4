"""Classifiers of fixed-length rows: a linear head, or a head on a small multi-layer perceptron."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from mixray.config.robust import HeadConfig
from mixray.training import RowLoss, weighted_sum


class Classifier(nn.Module):
    """features (rows, columns) -> logits (rows, classes). ``trunk`` gives the representation, ``head`` is linear."""

    def __init__(self, config: HeadConfig, *, features: int, classes: int, seed: int) -> None:
        super().__init__()
        widths = [features, *(config.hidden if config.head == "mlp" else [])]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = [layer for before, after in pairwise(widths) for layer in (nn.Linear(before, after), nn.ReLU())]
            self.trunk = nn.Sequential(*layers)
            self.head = nn.Linear(widths[-1], classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.trunk(features))
        return logits


class ClassifierLoss(RowLoss):
    """Cross-entropies of rows, nats, each with mu / 2 |parameters|^2 added to what is differentiated.

    So every group's loss has the penalty in it, whatever the groups' weights (which sum to 1 on average), and is
    mu-strongly convex for a linear head. The losses that are told are without it.
    """

    def __init__(self, model: nn.Module, l2: float) -> None:
        super().__init__()
        self.model, self.l2 = model, l2

    def forward(
        self, features: torch.Tensor, labels: torch.Tensor, row_weights: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """features float32 (rows, columns), labels int64 (rows,)."""
        losses = cross_entropy(self.model(features).float(), labels, reduction="none")
        total, plain = weighted_sum(losses, row_weights)
        if not self.l2:
            return total, plain
        squares = torch.stack([parameter.square().sum() for parameter in self.model.parameters()]).sum()
        weight = len(labels) if row_weights is None else row_weights.sum()
        return total + weight * self.l2 / 2 * squares, plain
