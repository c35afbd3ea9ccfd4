"""How a model does on each group, on its worst group, and on average in the two meanings of the word.

The literature's "average accuracy" is sometimes the mean over test rows and sometimes, as for Waterbirds, the groups'
values weighed by their shares of the training data. Here each has its own name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mixray.errors import InputError
from mixray.robust.groups import checked_ids

Rows = torch.Tensor | NDArray[np.generic] | Sequence[float]


@dataclass(frozen=True, eq=False)
class GroupAccuracy:
    """The accuracy on each group of a sample.

    values: in [0, 1], float64 (groups,), NaN for a group without rows; counts: int64 (groups,).
    """

    values: NDArray[np.float64]
    counts: NDArray[np.int64]

    @property
    def worst_group(self) -> int:
        """The id of the worst group that has rows; of equals the first."""
        return int(np.nanargmin(self.values))

    @property
    def worst(self) -> float:
        return float(self.values[self.worst_group])

    @property
    def average_test(self) -> float:
        """The mean over the sample's rows."""
        present = self.counts > 0
        return float(self.values[present] @ self.counts[present] / self.counts.sum())

    def average_training_share(self, training_counts: Rows) -> float:
        """Return the groups' values weighed by their shares of the training rows, (groups,).

        Raises InputError where a group has training rows and none here, and for counts that are not valid.
        """
        weights = _vector(training_counts, "training_counts").astype(np.float64)
        if weights.shape != self.values.shape or not (weights >= 0).all() or not weights.sum() > 0:
            raise InputError(
                "training counts must be one for each group",
                where="training_counts",
                got=weights.tolist(),
                wanted=f"{len(self.values)} numbers, none negative, not all 0",
            )
        unknown = np.flatnonzero((weights > 0) & (self.counts == 0))
        if len(unknown):
            raise InputError(
                "a group of the training data has no rows here",
                where=f"group {', '.join(map(str, unknown))}",
                got=f"counts {self.counts.tolist()}, training counts {weights.tolist()}",
                remedy="ask for average_test, or measure on a sample that has every group",
            )
        used = weights > 0
        return float(self.values[used] @ weights[used] / weights.sum())


def group_accuracy(predictions: Rows, labels: Rows, group_ids: Rows, *, num_groups: int) -> GroupAccuracy:
    """Return the share of rows whose predicted class is the label; all three of shape (rows,).

    Raises InputError where shapes differ, where a group id is not valid and where there are no rows.
    """
    predicted, actual = _vector(predictions, "predictions"), _vector(labels, "labels")
    if predicted.shape != actual.shape:
        raise InputError(
            "predictions and labels must have the same shape",
            where="predictions",
            got=f"shapes {predicted.shape} and {actual.shape}",
            remedy="for one score per class pass scores.argmax(1)",
        )
    ids = checked_ids(torch.as_tensor(group_ids), num_groups).cpu().numpy()
    if len(ids) != len(actual) or not len(actual):
        raise InputError(
            "every row needs a group, and there must be rows",
            where="group_ids",
            got=f"{len(ids)} ids for {len(actual)} rows",
        )
    counts = np.bincount(ids, minlength=num_groups)
    correct = np.bincount(ids, weights=predicted == actual, minlength=num_groups)
    return GroupAccuracy(np.divide(correct, counts, out=np.full(num_groups, np.nan), where=counts > 0), counts)


def _vector(values: Rows, where: str) -> NDArray[np.generic]:
    """Return numbers of shape (n,), wherever they are."""
    vector = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    if vector.ndim != 1:
        raise InputError("a vector is wanted", where=where, got=f"shape {vector.shape}", wanted="shape (n,)")
    return vector
