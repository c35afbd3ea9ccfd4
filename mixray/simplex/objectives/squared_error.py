"""The squared error of a mixture of predictions (MixMin's second loss).

    loss(shares) = sum_i w_i |sum_k shares_k f_ik - y_i|^2

``f_ik`` is the prediction of source k's proxy for row i, ``y_i`` the truth and ``w_i`` the row's weight. Shares sum to
1, so a row's error is ``sum_k shares_k (f_ik - y_i)`` and the loss is ``shares^T G shares`` with the matrix
``G = sum_i w_i (f_i - y_i)(f_i - y_i)^T``. One pass over the rows computes G, and a solver then needs only G. The truth
is subtracted before anything is squared, so no digits cancel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixray.errors import InputError
from mixray.simplex.checks import Mask, Matrix, Vector, checked_row_weights, name_rows
from mixray.simplex.objectives.draws import Documents, Draws, draw_replicates
from mixray.simplex.objectives.objective import Evaluation
from mixray.simplex.objectives.passes import Columns, Span, added, blocks, total, weighted_product


@dataclass(frozen=True, eq=False)
class SquaredError:
    """An ``Objective``.

    ``errors``: predictions minus truth, float64 ``(rows, sources, outputs)``; ``row_weights``: float64 ``(rows,)``;
    ``sample``: the documents that a bootstrap draws.
    """

    errors: NDArray[np.float64]
    row_weights: Vector
    sample: Documents

    total_weight = None  # only a cross entropy has one
    rounding = 0.0

    @classmethod
    def from_predictions(
        cls,
        predictions: ArrayLike,
        truth: ArrayLike,
        row_weights: ArrayLike | None = None,
        *,
        document_ids: ArrayLike | None = None,
    ) -> SquaredError:
        """Return the squared error of a table in memory.

        Args:
            predictions: ``(rows, sources)`` or ``(rows, sources, outputs)``.
            truth: ``(rows,)`` or ``(rows, outputs)``.
            row_weights: ``(rows,)``; 1/rows each by default.
            document_ids: the document of each row, ``(rows,)``; every row is a document by default.

        Raises:
            InputError: for shapes that do not fit, and, with the rows' numbers, for values that are not finite.
        """
        predicted, targets = np.asarray(predictions, np.float64), np.asarray(truth, np.float64)
        predicted = predicted[:, :, None] if predicted.ndim == 2 else predicted
        targets = targets[:, None] if targets.ndim == 1 else targets
        if predicted.ndim != 3 or 0 in predicted.shape or targets.shape != (predicted.shape[0], predicted.shape[2]):
            raise InputError(
                "predictions and truth do not fit",
                got=f"shapes {np.shape(predictions)} and {np.shape(truth)}",
                wanted="(rows, sources) and (rows,), or (rows, sources, outputs) and (rows, outputs)",
            )
        weights = checked_row_weights(row_weights, len(predicted))
        errors = np.where(weights[:, None, None] > 0, predicted - targets[:, None, :], 0.0)
        bad = np.flatnonzero(~np.isfinite(errors).all(axis=(1, 2)))
        if bad.size:
            raise InputError(f"predictions or truth: not finite in {name_rows(bad)}", wanted="finite numbers")
        return cls(errors, weights, Documents.of(weights, document_ids))

    @cached_property
    def gram(self) -> Matrix:
        """The matrix G of the file's docstring, float64 ``(sources, sources)``. The curvature is 2 G."""
        rows, sources, outputs = self.errors.shape

        def gram_of_block(span: Span) -> Vector:
            block = slice(*span)
            table = self.errors[block].transpose(0, 2, 1).reshape(-1, sources)
            return weighted_product(table, np.repeat(self.row_weights[block], outputs), np.arange(sources)).ravel()

        return total(added(gram_of_block, blocks(rows, sources * outputs), self.errors.size)).reshape(sources, sources)

    @property
    def rows(self) -> int:
        return len(self.errors)

    @property
    def sources(self) -> int:
        return int(self.errors.shape[1])

    @property
    def documents(self) -> int:
        return self.sample.count

    def restricted_to(self, allowed: Mask) -> SquaredError:
        """Return itself: leaving sources out changes nothing about the mixtures of the others."""
        return self

    def at(self, points: Matrix, columns: Columns | None = None) -> list[Evaluation]:
        curvature = None if columns is None else 2 * self.gram[np.ix_(columns, columns)]
        images = points @ self.gram
        return [
            Evaluation(float(image @ point), 2 * image, curvature) for point, image in zip(points, images, strict=True)
        ]

    def loss(self, source_shares: Vector) -> float:
        return float(self.row_losses(source_shares).sum())

    def single_losses(self) -> Vector:
        """Return the loss under each source alone, ``(sources,)``."""
        return self.gram.diagonal().copy()

    def row_losses(self, source_shares: Vector) -> Vector:
        residual = np.einsum("ikj,k->ij", self.errors, source_shares)
        losses: Vector = self.row_weights * (residual**2).sum(axis=1)
        return losses

    def row_documents(self) -> Documents:
        return self.sample

    def replicates(self, seed: int, target: int, numbers: range) -> SquaredErrorReplicates:
        documents = np.arange(self.rows) if self.sample.numbers is None else self.sample.numbers
        row_tokens = np.ones(self.rows) if self.sample.row_tokens is None else self.sample.row_tokens

        def sums_of(draws: Draws) -> Matrix:
            """Return what ``draw_replicates`` asks for, ``(2, replicates)``: the sums of row weights and row tokens."""
            return np.stack([self.row_weights, row_tokens]) @ draws.times(documents).T

        draws, _ = draw_replicates(seed, target, numbers, sums_of, float(row_tokens.sum()))
        factors = draws.times(documents) * draws.scale[:, None]
        return SquaredErrorReplicates([replace(self, row_weights=factor * self.row_weights) for factor in factors])


@dataclass(frozen=True, eq=False)
class SquaredErrorReplicates:
    """A batch of bootstrap replicates: a squared error for each, with its row weights."""

    objectives: list[SquaredError]

    @property
    def count(self) -> int:
        return len(self.objectives)

    def at(self, points: Matrix, which: Columns, *, values: bool) -> list[Evaluation]:
        return [self.objectives[i].at(point[None])[0] for point, i in zip(points, which, strict=True)]

    def one(self, replicate: int) -> SquaredError:
        return self.objectives[replicate]

    def losses(self, mixtures: Matrix) -> Matrix:
        return np.array([[at.value for at in objective.at(mixtures)] for objective in self.objectives])
