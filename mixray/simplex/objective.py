"""What is minimised: the cross entropy of a mixture of the proxies (MixMin, arXiv 2502.10510).

    loss(shares) = - sum_i w_i log sum_k shares_k exp(l_ik)

with ``l_ik`` the log-probability of row i under the proxy of source k and ``w_i`` the row's weight. It is convex, and
linear inside the logarithm: that is what makes values along a line cheap and the certificate tight.

Every row is divided by its largest likelihood. That adds a constant to the loss, given back in ``value``, and lets
log-probabilities differ by thousands of nats.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from mixray.simplex.checks import Mask, Matrix, Vector, checked_log_probs, checked_row_weights, refuse_rows

BLOCK_BYTES = 2**21
"""Rows are visited in blocks of about this size: small enough for a core's cache, large enough for BLAS."""
FLOOR = 1e-140
"""The smallest likelihood of a row that enters a quotient."""


class Line(Protocol):
    """The objective on the segment from one point to another, the position running from 0 to 1."""

    def value(self, position: float) -> float: ...

    def slope(self, position: float) -> float: ...


class Evaluation(Protocol):
    """The objective at one point. ``curvature`` is the second derivative, shape ``(sources, sources)``."""

    @property
    def value(self) -> float: ...

    @property
    def gradient(self) -> Vector: ...

    def curvature(self) -> Matrix: ...

    def along(self, direction: Vector) -> Line: ...


class Objective(Protocol):
    """A convex function of the source shares. ``gap`` turns a Frank-Wolfe gap into the tightest bound it implies."""

    def at(self, source_shares: Vector) -> Evaluation: ...

    def gap(self, frank_wolfe_gap: float) -> float: ...


@dataclass(frozen=True, eq=False)
class CrossEntropy:
    """``likelihood``: float64 ``(rows, sources)``, the largest entry of a row 1; ``row_max``: the log of what each row
    was divided by; ``row_weights``: float64 ``(rows,)``."""

    likelihood: Matrix
    row_max: Vector
    row_weights: Vector

    @classmethod
    def from_log_probs(cls, log_probs: ArrayLike, row_weights: ArrayLike | None, allowed: Mask) -> CrossEntropy:
        """``log_probs``: nats, ``(rows, sources)``; ``row_weights``: ``(rows,)``, 1/rows each when None;
        ``allowed``: the sources whose share may be above 0.

        Raises InputError, naming rows, for NaN, +inf and rows that no allowed source can explain.
        """
        table = checked_log_probs(log_probs)
        weights = checked_row_weights(row_weights, table.shape[0])
        row_max = (table if allowed.all() else table[:, allowed]).max(axis=1).astype(np.float64)
        refuse_rows(np.isneginf(row_max), "have probability 0 under every allowed source")
        likelihood = np.subtract(table, row_max[:, None], dtype=np.float64)
        likelihood[:, ~allowed] = -np.inf
        np.exp(likelihood, out=likelihood)
        return cls(likelihood, row_max, weights)

    def reweighted(self, row_weights: Vector) -> CrossEntropy:
        """The same rows under other weights; the matrix is shared."""
        return replace(self, row_weights=row_weights)

    @cached_property
    def total_weight(self) -> float:
        return float(self.row_weights.sum())

    @cached_property
    def offset(self) -> float:
        """What the rescaling of the rows took from the loss, nats per token."""
        return -float(self.row_weights @ self.row_max)

    def at(self, source_shares: Vector) -> CrossEntropyAt:
        return CrossEntropyAt(self, self.likelihood @ source_shares)

    def gap(self, frank_wolfe_gap: float) -> float:
        """With W the sum of the row weights, ``<-gradient(a), a> = W``, and by Jensen's inequality
        ``loss(a) - loss(b) <= W log(<-gradient(a), b> / W)``: so ``W log(1 + gap / W)`` bounds the suboptimality."""
        return self.total_weight * float(np.log1p(frank_wolfe_gap / self.total_weight))


@dataclass(frozen=True, eq=False)
class CrossEntropyAt:
    """The cross entropy at one point, of which only the rows' mixed likelihood ``F shares`` is kept."""

    objective: CrossEntropy
    mixed: Vector

    @cached_property
    def value(self) -> float:
        return self.objective.offset - float(self.objective.row_weights @ np.log(floored(self.mixed)))

    @cached_property
    def gradient(self) -> Vector:
        """``-F^T (w / F shares)``, nats per token, shape ``(sources,)``."""
        gradient: Vector = -((self.objective.row_weights / floored(self.mixed)) @ self.objective.likelihood)
        return gradient

    def curvature(self) -> Matrix:
        """``F^T diag(w / (F shares)^2) F``: a symmetric product of scaled rows, summed block by block in row order."""
        likelihood = self.objective.likelihood
        scale = np.sqrt(self.objective.row_weights) / floored(self.mixed)
        rows, sources = likelihood.shape
        block = max(64, BLOCK_BYTES // (8 * sources))
        curvature, scratch = np.zeros((sources, sources)), np.empty((min(block, rows), sources))
        for start in range(0, rows, block):
            part = likelihood[start : start + block]
            scaled = np.multiply(part, scale[start : start + block, None], out=scratch[: len(part)])
            curvature += scaled.T @ scaled
        return curvature

    def along(self, direction: Vector) -> CrossEntropyLine:
        return CrossEntropyLine(self, self.objective.likelihood @ direction)


@dataclass(frozen=True, eq=False)
class CrossEntropyLine:
    """The mixed likelihood is linear along a segment, so a trial costs one pass over the rows, not over the matrix."""

    origin: CrossEntropyAt
    change: Vector

    def value(self, position: float) -> float:
        return CrossEntropyAt(self.origin.objective, self.origin.mixed + position * self.change).value

    def slope(self, position: float) -> float:
        mixed = floored(self.origin.mixed + position * self.change)
        return -float(self.origin.objective.row_weights @ (self.change / mixed))


def floored(mixed: Vector) -> Vector:
    """A row's likelihood, kept off 0 where its own square and inverse are still numbers. Rows get there only with no
    weight, or at the far end of a line search, which then turns back."""
    return np.maximum(mixed, FLOOR)
