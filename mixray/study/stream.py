"""The training rows of an arm: which ones it draws, and what they weigh."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mixray.config.robust import RobustArm
from mixray.data.draws import Draws, GroupBalanced, InEpochs
from mixray.data.tabular.task import Task
from mixray.training import Batch


class ExampleStream:
    """A training part's rows in the arm's order, with their groups."""

    def __init__(self, task: Task, draws: Draws, group_weights: NDArray[np.float64] | None) -> None:
        """``group_weights``: (groups,), what the loss of a group's rows is multiplied by; None: 1."""
        self._part, self._draws, self._group_weights = task.train, draws, group_weights

    def read(self, start: int, stop: int) -> Batch:
        rows = self._draws.rows(start, stop)
        group_ids = self._part.group_ids[rows]
        weights = None if self._group_weights is None else self._group_weights[group_ids]
        return Batch((self._part.features[rows], self._part.labels[rows]), group_ids, weights)


def stream_of(arm: RobustArm, task: Task, seed: int) -> ExampleStream:
    """Rows in epochs, but for ``balanced``; weights 1, but for ``importance``: 1 / (groups x the group's share)."""
    if arm == "balanced":
        return ExampleStream(task, GroupBalanced(task.train.group_ids, seed), None)
    weights = importance_weights(task.training_counts) if arm == "importance" else None
    return ExampleStream(task, InEpochs(len(task.train), seed), weights)


def importance_weights(training_counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """(groups,): with these every group weighs the same in the mean over rows, and the mean weight is 1."""
    shares = training_counts.astype(np.float64) / training_counts.sum()
    weights: NDArray[np.float64] = 1 / (len(shares) * shares)
    return weights
