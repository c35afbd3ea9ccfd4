"""The squared error of a mixture of predictions (MixMin's second loss).

    loss(shares) = sum_i w_i |sum_k shares_k f_ik - y_i|^2

Shares sum to 1, so the error is ``sum_k shares_k (f_ik - y_i)`` and the loss ``shares^T G shares`` with
``G = sum_i w_i (f_i - y_i)(f_i - y_i)^T``: one pass over the rows, which are not read again, and no cancellation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixray.errors import InputError
from mixray.simplex.checks import Mask, Matrix, Vector, checked_row_weights, name_rows
from mixray.simplex.objectives.objective import Columns, Evaluation
from mixray.simplex.objectives.passes import Span, added, blocks, total


@dataclass(frozen=True, eq=False)
class SquaredError:
    """``errors``: ``(rows, sources, outputs)``, read once for ``gram`` ``(sources, sources)`` and then for
    ``row_losses`` alone; ``row_weights``: float64 ``(rows,)``."""

    errors: NDArray[np.float64]
    row_weights: Vector

    total_weight = None

    @classmethod
    def from_predictions(
        cls, predictions: ArrayLike, truth: ArrayLike, row_weights: ArrayLike | None = None
    ) -> SquaredError:
        """``predictions``: ``(rows, sources)`` or ``(rows, sources, outputs)``; ``truth``: ``(rows,)`` or
        ``(rows, outputs)``; ``row_weights``: ``(rows,)``, 1/rows each when None. Raises InputError, naming rows."""
        predicted, wanted = np.asarray(predictions, np.float64), np.asarray(truth, np.float64)
        predicted = predicted[:, :, None] if predicted.ndim == 2 else predicted
        wanted = wanted[:, None] if wanted.ndim == 1 else wanted
        if predicted.ndim != 3 or 0 in predicted.shape or wanted.shape != (predicted.shape[0], predicted.shape[2]):
            raise InputError(
                "predictions and truth do not fit",
                got=f"shapes {np.shape(predictions)} and {np.shape(truth)}",
                wanted="(rows, sources) and (rows,), or (rows, sources, outputs) and (rows, outputs)",
            )
        weights = checked_row_weights(row_weights, len(predicted))
        errors = predicted - wanted[:, None, :]
        bad = np.flatnonzero(~np.isfinite(errors).all(axis=(1, 2)))
        if bad.size:
            raise InputError(f"predictions or truth: no numbers in {name_rows(bad)}", wanted="finite numbers")
        return cls(errors, weights)

    @cached_property
    def gram(self) -> Matrix:
        rows, sources, outputs = self.errors.shape

        def work(span: Span) -> Vector:
            here = slice(*span)
            part = self.errors[here] * np.sqrt(self.row_weights[here])[:, None, None]
            flat = part.transpose(0, 2, 1).reshape(-1, sources)
            return (flat.T @ flat).ravel()

        return total(added(work, blocks(rows, sources * outputs), self.errors.size)).reshape(sources, sources)

    def reweighted(self, row_weights: Vector) -> SquaredError:
        """The same rows under other weights; the errors are shared."""
        return replace(self, row_weights=row_weights)

    def restricted_to(self, allowed: Mask) -> SquaredError:
        """Itself: no source has a part in what the others do."""
        return self

    @property
    def rows(self) -> int:
        return len(self.errors)

    @property
    def sources(self) -> int:
        return int(self.errors.shape[1])

    def at(self, points: Matrix, columns: Columns | None = None) -> list[Evaluation]:
        curvature = None if columns is None else 2 * self.gram[np.ix_(columns, columns)]
        images = points @ self.gram
        return [
            Evaluation(float(image @ point), 2 * image, curvature) for point, image in zip(points, images, strict=True)
        ]

    def replicates_at(self, points: Matrix, row_weights: Matrix, *, values: bool) -> list[Evaluation]:
        """Each point under row weights of its own, ``(points, rows)``."""
        pairs = zip(points, row_weights, strict=True)
        return [self.reweighted(weights).at(point[None])[0] for point, weights in pairs]

    def row_losses(self, source_shares: Vector) -> Vector:
        residual = np.einsum("ikj,k->ij", self.errors, source_shares)
        losses: Vector = self.row_weights * (residual**2).sum(axis=1)
        return losses
