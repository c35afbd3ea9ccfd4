"""Classifiers of fixed-length rows: a linear head, or a head on a small multi-layer perceptron."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy

from mixray.config.training import HeadConfig, Precision
from mixray.data import ExampleInputs
from mixray.models.protocol import Network, Scores
from mixray.training import RowLoss, autocast, weighted_sum

SETTINGS, WEIGHTS = "config.json", "model.safetensors"


class Classifier(nn.Module):
    """features (rows, columns) -> logits (rows, classes). ``trunk`` gives the representation, ``head`` is linear."""

    def __init__(self, config: HeadConfig, *, features: int, classes: int, seed: int) -> None:
        super().__init__()
        self.settings = {"features": features, "classes": classes, **config.model_dump(mode="json")}
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
    mu-strongly convex for a linear head. The losses that are returned for the record are without it.
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


class ExampleClassifier(Network):
    """A model whose log-probabilities are those of the true labels: the likelihood of a mixture of conditionals."""

    row_columns = ("features", "label")
    loss = staticmethod(partial(ClassifierLoss, l2=0.0))
    network: Classifier

    @classmethod
    def create(
        cls, config: HeadConfig, inputs: ExampleInputs, *, seed: int, device: torch.device, precision: Precision
    ) -> Self:
        """Return an untrained classifier whose weights are drawn from ``seed``."""
        network = Classifier(config, features=inputs.features, classes=len(inputs.label_names), seed=seed)
        return cls(network, device=device, precision=precision)

    @classmethod
    def load(cls, folder: Path, *, device: torch.device, precision: Precision = "auto") -> Self:
        from safetensors.torch import load_file

        settings = json.loads((folder / SETTINGS).read_text())
        sizes = {name: settings.pop(name) for name in ("features", "classes")}
        network = Classifier(HeadConfig.model_validate(settings), **sizes, seed=0)
        network.load_state_dict(load_file(folder / WEIGHTS))
        return cls(network, device=device, precision=precision)

    def save(self, folder: Path) -> None:
        """Write ``config.json`` and ``model.safetensors``."""
        from safetensors.torch import save_file

        (folder / SETTINGS).write_text(json.dumps(self.network.settings))
        save_file({name: weights.cpu() for name, weights in self.network.state_dict().items()}, folder / WEIGHTS)

    @staticmethod
    def rows_of(table: Any) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        features = table["features"].combine_chunks()
        return features.flatten().to_numpy().reshape(len(features), -1), table["label"].to_numpy()

    def training_losses(self, rows: NDArray[np.void]) -> NDArray[np.float64]:
        """Return the loss of every example, nats. ``rows``: records of features and label (rows,)."""
        features, labels = (np.ascontiguousarray(rows[name]) for name in ("features", "label"))
        return -self.log_probs((features, labels), batch_tokens=max(1, len(rows))).totals

    def log_probs(
        self, rows: tuple[NDArray[np.float32], NDArray[np.int64]], *, batch_tokens: int, segment: int | None = None
    ) -> Scores:
        """Return the log-probabilities of the true labels, nats; a row counts as one token, which is its one segment.

        ``rows``: features, float32 (rows, columns), and labels, int64 (rows,).
        """
        features, labels = rows
        logits = self._logits(torch.split(torch.tensor(features), batch_tokens))
        totals = -cross_entropy(logits, torch.tensor(labels).to(self.device), reduction="none").cpu().numpy()
        return Scores(totals.astype(np.float64), None if segment is None else list(totals[:, None]))

    def predictions(self, features: Any, *, batch_tokens: int) -> NDArray[np.float64]:
        """Return the log-probability of every class, float64 (rows, classes), nats. ``features``: a sparse matrix."""
        starts = range(0, features.shape[0], batch_tokens)
        logits = self._logits(torch.tensor(features[start : start + batch_tokens].toarray()) for start in starts)
        return torch.log_softmax(logits, dim=1).cpu().numpy().astype(np.float64)

    def _logits(self, blocks: Iterable[torch.Tensor]) -> torch.Tensor:
        """Return the logits of blocks of features, float32 (rows, classes)."""
        self.network.eval()
        with torch.inference_mode(), autocast(self.device, self.precision):
            return torch.cat([self.network(block.to(self.device)).float() for block in blocks])
