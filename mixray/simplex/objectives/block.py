"""A block of rows of a cross entropy: its likelihoods, and what its rows add to every sum.

Every row is divided by its largest likelihood, so that log-probabilities may differ by thousands of nats. The
likelihoods are float64, or float32 to halve memory; sums are always float64.

What float32 costs: a likelihood is off by at most 6e-8 of itself, under any mixture, hence a row's loss by at most 6e-8
nats, and the loss by 6e-8 nats times the sum of the row weights, which is at most 1 where it is in nats per token; in
practice by far less, for errors have both signs. The gap of a solution holds this twice. Entries below 1.2e-38 of their
row's largest become 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixray.simplex.checks import Mask, Matrix, Vector, row_maxima
from mixray.simplex.objectives.draws import Draws
from mixray.simplex.objectives.passes import Columns, weighted_product
from mixray.simplex.objectives.rows import mixed_log_probs

FLOOR = 1e-140
"""The smallest likelihood of a row that enters a quotient: its square and its inverse are still numbers. Rows get there
only with no weight, or at the far end of a line search, which then turns back."""
LOWEST_LOG = -600.0
"""The lowest log-likelihood beside its row's largest, which is 0. It stands for all below, -inf too: an exponential too
small for a normal number takes several times as long, and for long documents most would be."""
SMALLEST = np.finfo(np.float32).tiny
"""Smaller float32 numbers have fewer digits, and cost a processor a hundred times what others do."""
SMALLEST_MAXIMUM = {"float32": float(SMALLEST), "float64": 1e-100}
"""By dtype: how far a row's largest likelihood under the sources that a mixture may have can be below 1."""

Chunk = tuple[NDArray[np.floating], Vector, NDArray[np.int64] | None, Vector | None]
"""Consecutive rows: log-probabilities ``(rows, sources)`` in nats; and, ``(rows,)``, row weights, the number of each
row's document, None where every row is one, and row weight times tokens, None where that is the same for all."""


@dataclass(frozen=True, eq=False)
class Block:
    """Consecutive rows, ready to be summed.

    ``likelihood``: float32 or float64 ``(rows, sources)``, the largest entry of a row 1. ``row_max``: the log of what
    each row was divided by, ``(rows,)``. ``row_weights``, ``documents``, ``row_tokens``: as in a ``Chunk``. ``first``:
    the number of the first row. ``log_probs``: what the block was made from, where that stays in memory; then losses of
    any mixture are exact.
    """

    likelihood: NDArray[np.floating]
    row_max: Vector
    row_weights: Vector
    documents: NDArray[np.int64] | None
    row_tokens: Vector | None
    first: int
    log_probs: NDArray[np.floating] | None = None

    @classmethod
    def of(cls, chunk: Chunk, first: int, dtype: np.dtype[Any], excluded: Mask | None) -> Block:
        """Return the block of a float64 chunk, whose log-probabilities are overwritten. Bad rows are not refused yet:
        ``row_max`` shows them."""
        log_probs, row_weights, documents, row_tokens = chunk
        log_probs[row_weights == 0] = 0.0  # a row that does not count may hold anything
        row_max = _to_likelihoods(log_probs, excluded)
        if dtype == np.float32:
            log_probs[log_probs < SMALLEST] = 0.0
        return cls(log_probs.astype(dtype, copy=False), row_max, row_weights, documents, row_tokens, first)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that a scratch file must hold, by field; 8-byte numbers first."""
        names = ("row_max", "row_weights", "documents", "row_tokens", "likelihood")
        return {name: array for name in names if (array := getattr(self, name)) is not None}

    def draws(self, draws: Draws) -> Matrix:
        """Return how often every replicate draws each row's document, times the replicate's scale, ``(replicates,
        rows)``."""
        rows = np.arange(self.first, self.first + len(self.likelihood))
        return draws.times(rows if self.documents is None else self.documents) * draws.scale[:, None]

    def weights(self, draws: Draws | None) -> Vector:
        """Return the row weights, ``(rows,)``, or those of the one replicate of ``draws``."""
        return self.row_weights if draws is None else self.draws(draws)[0] * self.row_weights

    def sums(self, points: Matrix, columns: Columns | None, draws: Draws | None) -> Vector:
        """Return value, gradient ``-F^T (w / F shares)`` and curvature ``F^T diag(w / (F shares)^2) F`` at every point,
        one after another in one vector."""
        likelihood = self.likelihood.astype(np.float64, copy=False)
        row_weights = self.weights(draws)
        mixed = np.maximum(likelihood @ points.T, FLOOR)
        values = row_weights @ np.log(mixed)
        quotients = row_weights[:, None] / mixed
        gradients = quotients.T @ likelihood
        if columns is None:
            return np.concatenate([-values, -gradients.ravel()])
        curvatures = [weighted_product(likelihood, weights, columns).ravel() for weights in (quotients / mixed).T]
        return np.concatenate([-values, -gradients.ravel(), *curvatures])

    def replicate_sums(self, points: Matrix, draws: Draws, values: bool) -> Vector:
        """Return value and gradient of each point under the weights of its replicate: two matrix products for all.

        Without ``values`` these are 0: a logarithm per row and replicate is most of the work.
        """
        likelihood = self.likelihood.astype(np.float64, copy=False)
        row_weights = self.draws(draws) * self.row_weights
        mixed = np.maximum(points @ likelihood.T, FLOOR)
        sums = np.zeros(len(points))
        if values:
            sums = -(row_weights * np.log(mixed)).sum(axis=1) - row_weights @ self.row_max
        gradients = np.divide(row_weights, mixed, out=mixed) @ likelihood
        return np.concatenate([sums, -gradients.ravel()])

    def weight_sums(self, draws: Draws | None) -> Vector:
        """Return the total of row weights, the loss's offset and the total of row tokens, one after another; each of
        every replicate where there are draws."""
        if draws is None:
            tokens = len(self.likelihood) if self.row_tokens is None else self.row_tokens.sum()
            return np.array([self.row_weights.sum(), -(self.row_weights @ self.row_max), tokens])
        times = self.draws(draws)
        tokens = times.sum(axis=1) if self.row_tokens is None else times @ self.row_tokens
        return np.concatenate([times @ self.row_weights, -(times @ (self.row_weights * self.row_max)), tokens])

    def row_losses(self, mixtures: Matrix) -> Matrix:
        """Return what each row adds to the loss of every mixture, ``(mixtures, rows)``; inf where a row that counts
        cannot occur, if there are log-probabilities."""
        losses = np.zeros((len(mixtures), len(self.likelihood)))
        counts = self.row_weights > 0
        if self.log_probs is None:
            mixed = np.maximum(self.likelihood @ mixtures.T, FLOOR)
            losses[:] = (-self.row_weights[:, None] * (np.log(mixed) + self.row_max[:, None])).T
        elif counts.any():
            table = self.log_probs if counts.all() else self.log_probs[counts]
            for loss, shares in zip(losses, mixtures, strict=True):
                loss[counts] = -self.row_weights[counts] * mixed_log_probs(table, shares)
        return losses

    def losses(self, mixtures: Matrix, draws: Draws | None) -> Vector:
        """Return the loss of every mixture, in every replicate where there are draws, ``(replicates x mixtures,)``."""
        losses = self.row_losses(mixtures)
        return losses.sum(axis=1) if draws is None else (self.draws(draws) @ losses.T).ravel()


def _to_likelihoods(log_probs: NDArray[np.floating], excluded: Mask | None) -> Vector:
    """Turn log-probabilities, in place, into likelihoods divided by each row's largest, and return the logs of these.

    ``excluded``: the sources whose share is 0. Where no other can explain a row, its largest is -inf.
    """
    largest = row_maxima(log_probs)
    if not (largest < np.inf).all():  # NaN or +inf, which the caller refuses
        return largest
    if excluded is not None:
        log_probs[:, excluded] = -np.inf
        largest = row_maxima(log_probs)
    finite = largest if largest.min() > -np.inf else np.where(np.isneginf(largest), 0.0, largest)
    np.subtract(log_probs, finite[:, None], out=log_probs)
    if log_probs.min() < LOWEST_LOG:
        np.maximum(log_probs, LOWEST_LOG, out=log_probs)
    np.exp(log_probs, out=log_probs)
    return largest
