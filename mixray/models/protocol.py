"""What every kind of proxy can do: learn one source, score rows of a target, be kept in a folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mixray.config.training import LoopConfig
from mixray.training import (
    BatchStream,
    Checkpoint,
    Objective,
    Progress,
    RowLoss,
    TrainReport,
    WindowStream,
    World,
    train,
)
from mixray.training.device import Precision


@dataclass(frozen=True)
class Scores:
    """Log-probabilities of rows, in nats and in the order of the rows.

    ``totals``: float64, shape (rows,), summed over a row's predicted tokens.
    ``tokens``: where asked for, one float32 array of shape (predicted tokens,) per row.
    """

    totals: NDArray[np.float64]
    tokens: list[NDArray[np.float32]] | None


class Proxy(ABC):
    """A model on a device, with the precision it is run in (``precision`` of the run file).

    As a proxy it is cheap and learns one source; retrained models are the same, and learn a mixture.
    """

    row_columns: ClassVar[tuple[str, ...]]
    """Of a target's rows: what ``rows_of`` reads."""
    loss: Callable[[nn.Module], RowLoss] | None = None
    """As ``mixray.training.train`` takes it."""

    def __init__(self, model: nn.Module, *, device: torch.device, precision: Precision) -> None:
        self.model, self.device, self.precision = model.to(device), device, precision

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, *, device: torch.device, precision: Precision = "auto") -> Self:
        """The proxy that ``save`` wrote into ``folder``."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the proxy's files into an existing, empty folder."""

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
    ) -> TrainReport:
        """Train on a stream of rows; see ``mixray.training.train``."""
        return train(
            self.model,
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
        )

    @staticmethod
    @abstractmethod
    def rows_of(table: Any) -> Any:
        """What ``log_probs`` takes, of an Arrow table with ``row_columns``."""

    @abstractmethod
    def log_probs(self, rows: Any, *, batch_tokens: int, per_token: bool = False) -> Scores:
        """Score rows; see the kinds of proxies for what they are."""
