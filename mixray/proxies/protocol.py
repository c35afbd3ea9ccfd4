"""What every kind of proxy can do: learn one source, score rows of a target, be kept in a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mixray.config.training import TrainingConfig
from mixray.training import Checkpoint, Progress, TrainReport, WindowStream


@dataclass(frozen=True)
class Scores:
    """Log-probabilities of rows, in nats and in the order of the rows.

    ``totals``: float64, shape (rows,), summed over a row's predicted tokens.
    ``tokens``: where asked for, one float32 array of shape (predicted tokens,) per row.
    """

    totals: NDArray[np.float64]
    tokens: list[NDArray[np.float32]] | None


class Proxy(Protocol):
    """A cheap model of one source."""

    def fit(
        self,
        stream: WindowStream,
        *,
        config: TrainingConfig,
        steps: int,
        seed: int,
        checkpoint: Checkpoint | None = None,
        progress: Callable[[Progress], None] = ...,
    ) -> TrainReport:
        """Train on a stream of one source's windows."""
        ...

    def log_probs(
        self, rows: Sequence[NDArray[np.integer[Any]]], *, batch_tokens: int, per_token: bool = False
    ) -> Scores:
        """Score rows of n + 1 token ids: the log-probability of ids[1:], each given those before it."""
        ...

    def save(self, folder: Path) -> None:
        """Write the proxy's files into an existing, empty folder."""
        ...
