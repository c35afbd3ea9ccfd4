"""The base classes of models. Every model can score the rows of a target, be saved in a folder and loaded from it.

A network also trains on a stream of rows; ``causal_lm.py`` and ``classifier.py`` hold the two kinds. Boosted trees
(``boosted_trees.py``) learn from all rows at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mixray.config.training import LoopConfig, Precision
from mixray.training import (
    BatchStream,
    Checkpoint,
    HeldOut,
    Objective,
    Progress,
    RowLoss,
    TrainReport,
    WindowStream,
    World,
    train,
)

Value = Literal["log_prob", "error"]
"""What a model gives a row: the log-probability of the truth, or a predicted number minus the true one."""


@dataclass(frozen=True)
class Scores:
    """Log-probabilities of rows, in nats and in the order of the rows.

    ``totals``: float64, shape (rows,), each the sum over the row's tokens that count, or the row's error (``Value``).
    ``segments``: one float32 array of shape (segments,) per row, each the sum over a segment's tokens; None unless
    ``log_probs`` was called with ``segment``.
    """

    totals: NDArray[np.float64]
    segments: list[NDArray[np.float32]] | None


class Model(ABC):
    """A model that scores rows. A proxy is one that is trained on one source, an arm is trained on a mixture."""

    row_columns: ClassVar[tuple[str, ...]]
    """The columns of a target's rows that ``rows_of`` reads."""
    value: Value = "log_prob"
    """What ``log_probs`` returns."""

    @property
    @abstractmethod
    def parameter_count(self) -> int:
        """How many numbers the model learns."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, *, device: torch.device, precision: Precision = "auto") -> Self:
        """Return the model that ``save`` wrote into ``folder``."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the model's files into an existing, empty folder."""

    @staticmethod
    @abstractmethod
    def rows_of(table: Any) -> Any:
        """Return the rows of an Arrow table that has the ``row_columns``, in the form that ``log_probs`` takes."""

    @abstractmethod
    def log_probs(self, rows: Any, *, batch_tokens: int, segment: int | None = None) -> Scores:
        """Return the log-probabilities of rows as ``rows_of`` returns them.

        ``batch_tokens``: the largest number of tokens in one forward pass. ``segment``: the tokens of the pieces whose
        log-probabilities are returned too, which what counts of a row is cut into from its start on; its last one may
        be shorter.
        """


class Network(Model):
    """A torch network on a device, with the precision that it computes in (``precision`` of the run file)."""

    loss: Callable[..., RowLoss] | None = None
    """Returns the loss module of a network, as ``mixray.training.train`` takes it; None for the loss that it uses by
    default."""

    def __init__(self, network: nn.Module, *, device: torch.device, precision: Precision) -> None:
        self.network, self.device, self.precision = network.to(device), device, precision

    @property
    def parameter_count(self) -> int:
        """The number of all parameters, embeddings included and tied ones once."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    @property
    def trained_count(self) -> int:
        """How many of them are trained."""
        return sum(parameter.numel() for parameter in self.network.parameters() if parameter.requires_grad)

    def fit(
        self,
        stream: BatchStream | WindowStream,
        *,
        config: LoopConfig,
        steps: int,
        seed: int,
        objective: Objective | None = None,
        group_names: Sequence[str] | None = None,
        world: World = World(),  # noqa: B008 (frozen)
        checkpoint: Checkpoint | None = None,
        progress: Callable[[Progress], None] = lambda _: None,
        held_out: HeldOut | None = None,
    ) -> TrainReport:
        """Train on a stream of rows; see ``mixray.training.train``."""
        return train(
            self.network,
            stream,
            steps=steps,
            config=config,
            device=self.device,
            seed=seed,
            loss=self.loss,
            objective=objective,
            group_names=group_names,
            world=world,
            checkpoint=checkpoint,
            progress=progress,
            held_out=held_out,
        )

    @abstractmethod
    def training_losses(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        """Return the loss of rows such as the model is trained on, nats per token (or example), float64 (rows,)."""
