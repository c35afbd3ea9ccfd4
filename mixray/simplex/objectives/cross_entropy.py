"""The cross entropy of a mixture of the proxies (MixMin, arXiv 2502.10510).

    loss(shares) = - sum_i w_i log sum_k shares_k exp(l_ik)

with ``l_ik`` the log-probability of row i under the proxy of source k and ``w_i`` the row's weight. For a classifier
``l_ik`` is the log-probability of row i's true label: the conditional cross entropy is the same function.

Every row is divided by its largest likelihood. That adds a constant to the loss, given back in the value, and lets
log-probabilities differ by thousands of nats.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixray.errors import InputError
from mixray.simplex.checks import (
    Mask,
    Matrix,
    Vector,
    checked_row_weights,
    checked_table,
    name_rows,
    refuse_no_numbers,
    refuse_rows,
    row_maxima,
)
from mixray.simplex.objectives.evaluate import mixed_log_probs
from mixray.simplex.objectives.objective import Columns, Evaluation
from mixray.simplex.objectives.passes import Span, added, blocks, mapped, total

FLOOR = 1e-140
"""The smallest likelihood of a row that enters a quotient: its square and its inverse are still numbers. Rows get there
only with no weight, or at the far end of a line search, which then turns back."""
LEAST_KEPT = 1e-100
"""Of a row's largest likelihood under the sources that a mixture may have."""
LEAST_LOG = -600.0
"""Of a likelihood beside its row's largest, which is 1. It stands for all below, 0 too: an exponential too small for a
normal number takes several times as long, and for long documents most would be."""
NARROW, STRIP = 32, 512
"""Up to the first number of columns BLAS multiplies two matrices, so many rows at a time, in half the time that it
takes for a block with itself, whose product is symmetric. And numpy lets other threads work only where a product has
more than 500 numbers, as those of many strips have together."""


@dataclass(frozen=True, eq=False)
class CrossEntropy:
    """``likelihood``: float32 or float64 ``(rows, sources)``, the largest entry of a row 1; ``row_max``: the log of
    what each row was divided by; ``row_weights``: float64 ``(rows,)``. Sums are float64 whatever the table is."""

    likelihood: NDArray[np.floating]
    row_max: Vector
    row_weights: Vector
    log_probs: NDArray[np.floating]
    """What it was made from, not copied."""
    allowed: Mask | None = None
    """The sources that rows were divided by the largest of; None: all."""
    fits: Mask | None = None
    """Other sources, of which each row's largest is known not to be lost beside that one."""

    @classmethod
    def from_log_probs(
        cls, log_probs: ArrayLike, row_weights: ArrayLike | None = None, allowed: Mask | None = None
    ) -> CrossEntropy:
        """``log_probs``: nats, ``(rows, sources)``; ``row_weights``: ``(rows,)``, 1/rows each when None;
        ``allowed``: the sources whose share may be above 0, all by default.

        Raises InputError, naming rows, for NaN, +inf and rows that no allowed source can explain.
        """
        table = checked_table(log_probs)
        weights = checked_row_weights(row_weights, table.shape[0])
        some = None if allowed is None or allowed.all() else ~allowed
        # Column after column: to scale rows, take maxima or leave columns out is then fast however few there are.
        likelihood, row_max = np.empty(table.shape, order="F"), np.empty(len(table))

        def rescale(span: Span) -> None:
            here = slice(*span)
            np.copyto(likelihood[here], table[here])
            row_max[here] = rescaled(likelihood[here], some)

        list(mapped(rescale, blocks(*table.shape), table.size))
        refuse_no_numbers(row_max)
        refuse_rows(np.isneginf(row_max), "have probability 0 under every allowed source")
        return cls(likelihood, row_max, weights, table, None if some is None else allowed)

    @classmethod
    def of_labels(
        cls, probabilities: ArrayLike, labels: ArrayLike, row_weights: ArrayLike | None = None
    ) -> CrossEntropy:
        """The conditional cross entropy of classifiers: the mixture's probability of the true label.

        ``probabilities``: ``(rows, sources, classes)``, each source's classifier's; ``labels``: ``(rows,)``, whole
        numbers. Raises InputError, naming rows, for labels that are no class and numbers that are no probabilities.
        """
        table, label = np.asarray(probabilities, np.float64), np.asarray(labels)
        if table.ndim != 3 or 0 in table.shape:
            raise InputError(
                "probabilities: a table per source is needed",
                got=f"shape {table.shape}",
                wanted="(rows, sources, classes)",
            )
        if label.shape != table.shape[:1] or label.dtype.kind not in "iu":
            raise InputError(
                "labels: one class number per row is needed",
                got=f"shape {label.shape}, dtype {label.dtype}",
                wanted=f"({len(table)},), whole numbers",
            )
        unknown = np.flatnonzero((label < 0) | (label >= table.shape[2]))
        if unknown.size:
            raise InputError(f"labels: no class in {name_rows(unknown)}", wanted=f"0 to {table.shape[2] - 1}")
        odd = np.flatnonzero(~((table >= 0) & (table <= 1 + 1e-6)).all(axis=(1, 2)))
        if odd.size:
            raise InputError(f"probabilities: no probabilities in {name_rows(odd)}", wanted="0 to 1")
        with np.errstate(divide="ignore"):  # log 0 = -inf is meant: a classifier that rules the label out
            return cls.from_log_probs(np.log(table[np.arange(len(table)), :, label]), row_weights)

    def reweighted(self, row_weights: Vector) -> CrossEntropy:
        """The same rows under other weights; the matrix is shared."""
        return replace(self, row_weights=row_weights)

    def restricted_to(self, allowed: Mask) -> CrossEntropy:
        """The same rows for mixtures of some sources only.

        Rows are divided by the largest likelihood under these where, beside the one they were divided by, it would be
        lost: a long document's may be a thousand nats below. Raises InputError for rows that none of them can explain.
        """
        before = np.ones(self.sources, bool) if self.allowed is None else self.allowed
        if any(np.array_equal(allowed, known) for known in (before, self.fits) if known is not None):
            return self
        if not (allowed & ~before).any() and self.likelihood[:, allowed].max(axis=1).min() >= LEAST_KEPT:
            return replace(self, fits=allowed)
        return CrossEntropy.from_log_probs(self.log_probs, self.row_weights, allowed)

    @property
    def rows(self) -> int:
        return len(self.likelihood)

    @property
    def sources(self) -> int:
        return int(self.likelihood.shape[1])

    @property
    def total_weight(self) -> float:
        return float(self._weight_sums[0])

    @property
    def offset(self) -> float:
        """What the rescaling of the rows took from the loss, nats per token."""
        return float(self._weight_sums[1])

    @cached_property
    def _weight_sums(self) -> Vector:
        def work(span: Span) -> Vector:
            here = slice(*span)
            return weight_sums(self.row_weights[here], self.row_max[here])

        return total(added(work, blocks(self.rows, self.sources), self.rows))

    def at(self, points: Matrix, columns: Columns | None = None) -> list[Evaluation]:
        def work(span: Span) -> Vector:
            here = slice(*span)
            return cross_entropy_sums(self.likelihood[here], self.row_weights[here], points, columns)

        sums = total(added(work, blocks(self.rows, self.sources), self.likelihood.size * len(points)))
        return evaluations(sums, self.offset, len(points), self.sources, columns)

    def replicates_at(self, points: Matrix, row_weights: Matrix, *, values: bool) -> list[Evaluation]:
        """Each point under row weights of its own, ``(points, rows)``: two matrix products for all of them. Without
        ``values`` these are 0: a logarithm per row and replicate is most of the work."""

        def work(span: Span) -> Vector:
            here = slice(*span)
            return replicate_sums(self.likelihood[here], self.row_max[here], row_weights[:, here], points, values)

        sums = total(added(work, blocks(self.rows, self.sources), self.likelihood.size * len(points)))
        return evaluations(sums, 0.0, len(points), self.sources, None)

    def row_losses(self, source_shares: Vector) -> Vector:
        """inf for a row that counts and cannot occur. Any shares will do, those of excluded sources too."""
        losses = np.zeros(self.rows)
        counts = self.row_weights > 0
        table = self.log_probs if counts.all() else self.log_probs[counts]
        losses[counts] = -self.row_weights[counts] * mixed_log_probs(table, source_shares)
        return losses

    def single_losses(self) -> Vector:
        """The loss under each source alone, ``(sources,)``."""
        return np.array([self.row_losses(corner).sum() for corner in np.eye(self.sources)])


def rescaled(log_probs: NDArray[np.floating], excluded: Mask | None) -> Vector:
    """Turn log-probabilities, in place, into likelihoods divided by each row's largest; the logs of these.

    ``excluded``: the sources whose share is 0. Where no other can explain a row, its largest is -inf.
    """
    largest = row_maxima(log_probs)
    if not (largest < np.inf).all():  # NaN or +inf, which the caller refuses
        return largest
    if excluded is not None:
        log_probs[:, excluded] = -np.inf
        largest = row_maxima(log_probs)
    known = largest if largest.min() > -np.inf else np.where(np.isneginf(largest), 0.0, largest)
    np.subtract(log_probs, known[:, None], out=log_probs)
    if log_probs.min() < LEAST_LOG:
        np.maximum(log_probs, LEAST_LOG, out=log_probs)
    np.exp(log_probs, out=log_probs)
    return largest


def weight_sums(row_weights: Vector, row_max: Vector) -> Vector:
    """What a block of rows adds to the total weight and to the offset."""
    return np.array([row_weights.sum(), -(row_weights @ row_max)])


def cross_entropy_sums(
    likelihood: NDArray[np.floating], row_weights: Vector, points: Matrix, columns: Columns | None
) -> Vector:
    """What a block of rows adds to value, gradient and curvature at every point, one after another in one vector.

    gradient: ``-F^T (w / F shares)``; curvature: ``F^T diag(w / (F shares)^2) F``.
    """
    part = likelihood.astype(np.float64, copy=False)
    mixed = np.maximum(part @ points.T, FLOOR)
    values = row_weights @ np.log(mixed)
    quotients = row_weights[:, None] / mixed
    gradients = quotients.T @ part
    if columns is None:
        return np.concatenate([-values, -gradients.ravel()])
    curvatures = [_weighted_product(part, weights, columns).ravel() for weights in (quotients / mixed).T]
    return np.concatenate([-values, -gradients.ravel(), *curvatures])


def _weighted_product(part: Matrix, row_weights: Vector, columns: Columns) -> Matrix:
    """``part^T diag(row_weights) part`` over ``columns``, symmetric to the last bit."""
    rows, sources = part.shape
    if sources <= NARROW:  # to leave columns out would cost more than it saves
        scaled, whole = part * row_weights[:, None], rows - rows % STRIP
        left, right = (table[:whole].reshape(-1, STRIP, sources) for table in (part, scaled))
        product: Matrix = (left.transpose(0, 2, 1) @ right).sum(axis=0) + part[whole:].T @ scaled[whole:]
        product = (product + product.T) / 2
        return product if len(columns) == sources else product[np.ix_(columns, columns)]
    some = part if len(columns) == sources else part[:, columns]
    scaled = some * np.sqrt(row_weights)[:, None]
    return scaled.T @ scaled


def replicate_sums(
    likelihood: NDArray[np.floating], row_max: Vector, row_weights: Matrix, points: Matrix, values: bool
) -> Vector:
    """What a block of rows adds to value and gradient of each point under weights of its own, ``(points, rows)``."""
    part = likelihood.astype(np.float64, copy=False)
    mixed = np.maximum(points @ part.T, FLOOR)
    sums = np.zeros(len(points))
    if values:
        sums = -(row_weights * np.log(mixed)).sum(axis=1) - row_weights @ row_max
    gradients = np.divide(row_weights, mixed, out=mixed) @ part
    return np.concatenate([sums, -gradients.ravel()])


def evaluations(sums: Vector, offset: float, points: int, sources: int, columns: Columns | None) -> list[Evaluation]:
    """The sums over all rows, taken apart."""
    values, rest = sums[:points] + offset, sums[points:]
    gradients = rest[: points * sources].reshape(points, sources)
    size = 0 if columns is None else len(columns)
    curvatures = rest[points * sources :].reshape(points, size, size) if size else [None] * points
    return [Evaluation(float(values[i]), gradients[i], curvatures[i]) for i in range(points)]
