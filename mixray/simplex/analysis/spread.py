"""What a mixture is like: how many sources it really uses, and which of them stand for one another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mixray.simplex.checks import Matrix, Vector
from mixray.simplex.problem import Point
from mixray.simplex.solvers.quadratic import optimal_target_weights

ANTI_CORRELATED = -0.8
NOTABLE_SPREAD = 0.01
"""Standard deviation of a share across replicates below which the data fix it."""
ALIKE = 1e-6
"""Curvature along the exchange of two sources, relative to their own, below which their columns are equal."""


@dataclass(frozen=True)
class Interchangeable:
    """Two sources that the data hardly tell apart. ``correlation``: of their shares across replicates."""

    first: int
    second: int
    correlation: float


def effective_number(source_shares: Vector) -> float:
    """The exponential of the shares' entropy: 1 for one source, p for p equal shares."""
    drawn = source_shares[source_shares > 0]
    return float(np.exp(-(drawn @ np.log(drawn))))


def interchangeable(point: Point, replicate_shares: Matrix) -> list[Interchangeable]:
    """Pairs whose shares rise and fall against each other across the bootstrap's replicates ``(replicates, sources)``,
    and pairs with equal columns, between which no replicate can decide. ``point``: the optimum.
    """
    free = np.flatnonzero(point.problem.feasible.free & (replicate_shares.mean(axis=0) > NOTABLE_SPREAD / 2))
    if free.size < 2 or len(replicate_shares) < 3:
        return []
    curved = point.problem.at(point.shares, free)
    curvature = curved.curvature(optimal_target_weights(point))
    own = curvature.diagonal()
    exchange = own[:, None] + own - 2 * curvature
    alike = exchange <= ALIKE * (own[:, None] + own)
    moves = replicate_shares[:, free].std(axis=0)
    notable = moves >= NOTABLE_SPREAD
    centred = replicate_shares[:, free] - replicate_shares[:, free].mean(axis=0)
    correlation = (centred.T @ centred) / len(centred) / np.maximum(np.outer(moves, moves), 1e-300)
    against = (correlation <= ANTI_CORRELATED) & notable & notable[:, None]
    pairs = np.argwhere(np.triu(against | alike, 1))
    return [Interchangeable(int(free[i]), int(free[j]), float(np.clip(correlation[i, j], -1, 1))) for i, j in pairs]
