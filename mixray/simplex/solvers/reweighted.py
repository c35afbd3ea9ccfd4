"""The best mixture of conditional models where the sources' inputs differ: covariate shift.

With input densities p_k(x), a model trained on a mixture comes near the distribution-weighted rule of Mansour, Mohri
and Rostamizadeh (2008), not the plain mixture of the sources' models f_k:

    f(y | x) = sum_k shares_k r_k(x) f_k(y | x) / sum_k shares_k r_k(x),        r_k(x) proportional to p_k(x)

Its loss is a difference of convex functions of the shares, and may have several local minima:

    loss(shares) = - sum_i w_i log sum_k shares_k r_ik f_ik  +  sum_i w_i log sum_k shares_k r_ik

A step replaces the first term by what the rule's responsibilities make of it, as expectation maximisation does, and the
second, concave, term by its tangent. Neither is anywhere below the loss, which therefore never rises:

    shares_k  <-  shares_k fall_k / rise_k,    fall_k = sum_i w_i r_ik f_ik / sum_j shares_j r_ij f_ij,
                                               rise_k = sum_i w_i r_ik / sum_j shares_j r_ij

Multiplying all shares by a number does not change the loss, so they may leave the simplex and be scaled back. What the
steps reach from several starts is compared; nothing certifies the best of them. Solving MixMin's convex
problem in every step instead (the concave-convex procedure) led to the same losses and took three to ten times as long.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from heapq import heappop, heappush
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from mixray.errors import InputError
from mixray.simplex.checks import (
    Mask,
    Matrix,
    Vector,
    checked_log_probs,
    checked_row_weights,
    checked_shares,
    refuse_rows,
    row_maxima,
)
from mixray.simplex.goal import log_shares
from mixray.simplex.objectives.rows import mixed_log_probs
from mixray.simplex.solvers.solve import solve

DRAWS = 4
"""Random starts beside the balanced shares, the plain mixture and nearly all on each source."""
MOST_CORNERS = 12
"""Sources up to which nearly all on each source is a start."""
CORNER = 0.9
MOST_STEPS = 2000
GROWTH = 2.0
"""By which factor a stretched step that helped grows."""
LEAST_LOG_SHARE = -60.0
"""Below the largest: from a share of exactly 0 no step leads away."""
LEAST_LOG_DENSITY = -60.0
"""Below the largest of a row: a source that exceeds it nowhere changes no row, and has no share."""
PIECES, MOST_CUT = 64, 4
"""Pieces of the simplex for the lower bound, of so many sources. That of more, in which so few pieces gain little and
take far longer than the steps do, is one piece."""
MOST_EXPONENT = 600.0
"""An exponential of more may be larger than any number."""
BOUND_GAP = 1e-6
"""Nats per row, by which a bound may be lower than it need be."""


@dataclass(frozen=True, eq=False)
class Reweighted:
    """The best of the local minima that were reached. There is no certificate.

    ``weights``: the source shares, float64 ``(sources,)``. ``loss``: nats per row of weight 1.
    ``slope``: how steeply the loss falls from there towards any source, at most: 0 at a local minimum.
    ``status``: ``local_minimum``: the slope is within the tolerance; ``step_limit``: it is not. Neither says that the
    loss is the smallest possible one.
    ``start_losses``: the losses that were reached from every start, ``(starts,)``; ``start_shares``: their shares,
    ``(starts, sources)``. Their spread shows how much the start matters.
    ``lower_bound``: no shares of sources that are dense at some row have a loss below it. Where sources' inputs differ
    much it is far below, but never below the loss of the best source at every row.
    """

    weights: Vector
    loss: float
    slope: float
    status: Literal["local_minimum", "step_limit"]
    start_losses: Vector
    start_shares: Matrix
    lower_bound: float


def solve_reweighted(
    log_probs: ArrayLike,
    log_densities: ArrayLike,
    *,
    row_weights: ArrayLike | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    tolerance: float = 1e-6,
    max_steps: int = MOST_STEPS,
    pieces: int | None = None,
) -> Reweighted:
    """Return the best source shares for the distribution-weighted rule that steps from several starts reach.

    The starts are balanced shares, the plain mixture (``solve``), nearly all on each source, and draws. A source that
    is nowhere dense, beside the densest source of the row, has a share of 0.

    Args:
        log_probs: log f_k of every row's label, nats, ``(rows, sources)``.
        log_densities: log p_k of every row's x, up to a number for each row, nats, ``(rows, sources)``, finite.
        row_weights: ``(rows,)``, finite, >= 0; 1/rows each by default.
        draws: random starts, from ``seed``.
        tolerance: on the slope, nats per row.
        max_steps: from each start.
        pieces: into how many the simplex is cut for the lower bound; 1 is the coarsest. None: 64 of up to 4 sources,
            and 1 of more.

    Raises:
        InputError: for tables and weights that are not valid, naming rows.
    """
    everything = _Problem.of(log_probs, log_densities, row_weights)
    is_dense = np.asarray((everything.densities > LEAST_LOG_DENSITY).any(axis=0))
    problem = everything.restricted_to(is_dense)
    ends = [problem.descend(start, tolerance, max_steps) for start in problem.starts(draws, seed, tolerance)]
    losses = np.array([problem.loss(end.shares) for end in ends])
    best = int(losses.argmin())
    start_shares = np.zeros((len(ends), everything.sources))
    start_shares[:, is_dense] = [end.shares for end in ends]
    if pieces is None:
        pieces = PIECES if problem.sources <= MOST_CUT else 1
    return Reweighted(
        weights=start_shares[best],
        loss=float(losses[best]),
        slope=ends[best].slope,
        status="local_minimum" if ends[best].slope <= tolerance else "step_limit",
        start_losses=losses,
        start_shares=start_shares,
        lower_bound=problem.lower_bound(float(losses[best]) - tolerance, pieces),
    )


def reweighted_log_probs(log_probs: ArrayLike, log_densities: ArrayLike, source_shares: ArrayLike) -> Vector:
    """Return the log-probability of every row under the distribution-weighted rule, nats, float64 ``(rows,)``.

    Arguments as in ``solve_reweighted``; ``source_shares``: ``(sources,)``. Raises InputError.
    """
    problem = _Problem.of(log_probs, log_densities, None)
    shares = checked_shares("source_shares", source_shares, problem.sources)
    return problem.row_log_probs(shares)


@dataclass(frozen=True, eq=False)
class _Point:
    """Shares with the rule's loss there, and its gradient: ``rise - fall``, both ``(sources,)``, those of the concave
    and of the convex term."""

    shares: Vector
    loss: float
    rise: Vector
    fall: Vector

    @property
    def slope(self) -> float:
        # The gradient times the shares is 0, so its entries are the slopes towards the sources.
        return float(np.maximum(0.0, self.fall - self.rise).max())  # NaN stays NaN


@dataclass(frozen=True, eq=False)
class _Problem:
    """``joint``: log r_ik f_ik; ``densities``: log r_ik; ``(rows, sources)``. ``row_weights``: sum 1, ``(rows,)``;
    ``total``: what they sum to before."""

    joint: Matrix
    densities: Matrix
    row_weights: Vector
    total: float

    @classmethod
    def of(cls, log_probs: ArrayLike, log_densities: ArrayLike, row_weights: ArrayLike | None) -> _Problem:
        table, densities = checked_log_probs(log_probs), np.asarray(log_densities, np.float64)
        if densities.shape != table.shape:
            raise InputError("log_densities: not the shape of log_probs", got=densities.shape, wanted=table.shape)
        refuse_rows(~np.asarray(np.isfinite(densities).all(axis=1)), "have densities that are not finite")
        weights = checked_row_weights(row_weights, len(table))
        refuse_rows((weights > 0) & np.isneginf(row_maxima(table)), "cannot occur under any source")
        counts = weights > 0
        densities = densities - densities.max(axis=1, keepdims=True)
        return cls(densities[counts] + table[counts], densities[counts], weights[counts] / weights.sum(), weights.sum())

    def restricted_to(self, is_kept: Mask) -> _Problem:
        """Return the problem of those sources alone. ``is_kept``: ``(sources,)``."""
        return replace(self, joint=self.joint[:, is_kept], densities=self.densities[:, is_kept])

    @property
    def sources(self) -> int:
        return int(self.joint.shape[1])

    def row_log_probs(self, shares: Vector) -> Vector:
        """Return the log-probability of every row under the rule, ``(rows,)``."""
        return mixed_log_probs(self.joint, shares) - mixed_log_probs(self.densities, shares)

    @cached_property
    def scaled(self) -> tuple[Matrix, Matrix, Vector]:
        """The exponentials of ``joint``, divided by the largest of each row, and of ``densities``, ``(rows, sources)``;
        the logarithms of what the first were divided by, ``(rows,)``."""
        largest = row_maxima(self.joint)
        return np.exp(self.joint - largest[:, None]), np.exp(np.maximum(self.densities, -MOST_EXPONENT)), largest

    def loss(self, shares: Vector) -> float:
        """Return the loss, also where a share times a likelihood is too small for a float, as ``at`` does not."""
        return -self.total * float(self.row_weights @ self.row_log_probs(shares))

    def at(self, shares: Vector) -> _Point:
        """Return the point at positive shares, or at shares some of which are 0."""
        joint, densities, log_scales = self.scaled
        joint_sums, density_sums = joint @ shares, densities @ shares
        weights = self.total * self.row_weights
        with np.errstate(divide="ignore", invalid="ignore"):  # no step goes to where a row cannot occur
            return _Point(
                shares,
                -float(weights @ (np.log(joint_sums) + log_scales - np.log(density_sums))),
                rise=(weights / density_sums) @ densities,
                fall=(weights / joint_sums) @ joint,
            )

    def starts(self, draws: int, seed: int, tolerance: float) -> Matrix:
        """Return the shares to start from, ``(starts, sources)``, all positive."""
        balanced = np.full(self.sources, 1 / self.sources)
        plain = solve(self.joint - self.densities, densities=True, row_weights=self.row_weights, tolerance=tolerance)
        corners = CORNER * np.eye(self.sources) + (1 - CORNER) * balanced
        return np.vstack(
            [
                balanced,
                CORNER * plain.weights + (1 - CORNER) * balanced,
                corners[: self.sources if self.sources <= MOST_CORNERS else 0],
                np.random.default_rng(seed).dirichlet(np.ones(self.sources), draws),
            ]
        )

    def descend(self, start: Vector, tolerance: float, max_steps: int) -> _Point:
        """Return where steps from a start lead: a local minimum, or as far as they come."""
        point, stretch = self.at(start), 1.0
        for _ in range(max_steps):
            if point.slope <= tolerance:
                break
            moved = self.at(_normalised(point.shares * point.fall / point.rise))
            # The step is safe but short: ever longer ones are tried (overrelaxation, Salakhutdinov and Roweis, 2003).
            direction = log_shares(moved.shares) - log_shares(point.shares)
            longer = log_shares(point.shares) + stretch * direction
            stretched = self.at(_normalised(np.exp(np.maximum(longer - longer.max(), LEAST_LOG_SHARE))))
            is_better = stretched.loss < moved.loss
            stretch = GROWTH * stretch if is_better or stretch == 1 else 1.0
            moved = stretched if is_better else moved
            if moved.loss >= point.loss:  # rounding allows no further progress
                break
            point = moved
        return point

    def lower_bound(self, enough: float, pieces: int) -> float:
        """Return a number that no shares' loss is below: by branch and bound, until it is ``enough`` or the simplex is
        cut into so many pieces."""
        # The rule is a convex combination of the sources' models at every row.
        by_row = -self.total * float(self.row_weights @ row_maxima(self.joint - self.densities))
        if by_row >= enough:
            return by_row
        start = np.eye(self.sources)
        queue = [(self.piece_bound(start), 0, start)]
        for number in range(1, pieces):
            if queue[0][0] >= enough:
                break
            _, _, corners = heappop(queue)
            for half, part in enumerate(self.halves(corners)):
                heappush(queue, (self.piece_bound(part), 2 * number + half, part))
        return max(by_row, queue[0][0])

    def piece_bound(self, corners: Matrix) -> float:
        """Return a lower bound on the loss of all shares in the cone of some ``corners``, ``(corners, sources)``.

        By Jensen's inequality the concave term is not below its mean over the corners. Each corner is scaled so that
        its own concave term is 0, and what is left is MixMin's problem, with the corners as sources.
        """
        joint = np.stack([mixed_log_probs(self.joint, corner) for corner in corners], axis=1)
        if np.isneginf(row_maxima(joint)).any():  # the only source that explains the row is lost to rounding
            return float("inf")
        densities = np.stack([mixed_log_probs(self.densities, corner) for corner in corners], axis=1)
        relaxed = solve(
            joint - self.row_weights @ densities, densities=True, row_weights=self.row_weights, tolerance=BOUND_GAP
        )
        return self.total * (relaxed.loss - relaxed.gap)

    def halves(self, corners: Matrix) -> tuple[Matrix, Matrix]:
        """Return the two parts of a piece, cut in the middle of the edge along which densities differ most."""
        densities = np.stack([mixed_log_probs(self.densities, corner) for corner in corners], axis=1)
        means = self.row_weights @ densities
        centred = densities - means
        product = centred.T @ (self.row_weights[:, None] * centred)
        spread = product.diagonal()[:, None] + product.diagonal() - 2 * product
        first, second = np.unravel_index(int(spread.argmax()), spread.shape)
        ratio = np.exp(np.clip(means[second] - means[first], -MOST_EXPONENT, MOST_EXPONENT))
        middle = corners[first] * ratio + corners[second]
        parts = corners.copy(), corners.copy()
        parts[0][first] = parts[1][second] = middle / middle.sum()
        return parts


def _normalised(shares: Vector) -> Vector:
    scaled: Vector = shares / shares.sum()
    return scaled
