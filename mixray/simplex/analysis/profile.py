"""Intervals of the shares: which shares of a source the documents do not rule out.

A share v is in the 95 % interval where the best mixture with that share is hardly worse than the optimum:

    rise(v) <= z^2 / 2 * (d^T V d) / (d^T H d)        rise(v) = least rise of the loss where the source's share is v

with d the change of the shares that v takes, H the curvature of the loss, V the second moment of its gradient over
samples of documents, and z = 1.96. This is the profile likelihood's interval, with the scale of a loss that is no
likelihood (documents of several windows, means of targets, squared errors). All other shares stay within their limits:
this is what makes it hold where many are at or near 0. Rust and Burrus (1972) proposed it for estimates under such
limits; Batlle and others (arXiv 2310.02461, 2023) show where it falls a little short. Quantiles of bootstrap
replicates are too short there: a source to which the documents gave nothing by chance gets nothing in most of them.

The rise is that of the loss's quadratic model at the optimum, so no problem is solved again. At an upper end, where a
source that few documents need may be further from its share than curvature there says, the loss itself is asked, too.
In a worst case the shares follow the targets' losses, too (``sampling.py``): there H and V are those of the shares' own
normal distribution.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mixray.numerics import Z95
from mixray.simplex.analysis.sampling import (
    AT_LIMIT,
    SMALLEST_CURVATURE,
    null_space,
    sampled_noise,
    target_coupling,
)
from mixray.simplex.checks import Matrix, Vector
from mixray.simplex.feasible import DAQP_EQUALITY
from mixray.simplex.objectives.passes import Columns, one_blas_thread
from mixray.simplex.problem import Point
from mixray.simplex.solvers.quadratic import minimise_quadratic, optimal_target_weights

MOST_MODELLED = 64
"""Sources that follow a change of one share, at least those between their bounds; with more the work grows fast."""
MOST_LIMITED = 128
"""So many sources between their bounds keep to these while they follow; of more, a quadratic program for each of some
trials of every end would take minutes, and they follow as if there were no limits, which makes intervals no shorter."""
PRECISION = 0.01
"""Of an end: how far the rise there may be from the limit, in its square root."""
ROUNDS = 30
LENGTHS = (1.0, 1.5, 2.25, 3.5)
"""Multiples of the model's distance to an upper end at which the loss itself is asked."""
POINTS = 256
"""Mixtures whose losses are taken in one pass over the rows."""


def profile_intervals(optimum: Point, *, seed: int, replicates: int = 200) -> Matrix:
    """Return the 95 % interval of every share, over documents, ``(sources, 2)``, within the limits.

    Where several mixtures are as good, an interval holds the shares in all of them. Where a target has one document,
    nothing is known of others, and the interval is all that the bounds allow.

    Args:
        optimum: the optimum of its problem.
        seed: of the samples over which the gradient's second moment is taken; the same seed gives the same bits.
        replicates: how many samples.
    """
    feasible = optimum.problem.feasible
    intervals = np.stack([optimum.shares, optimum.shares], axis=1)
    free = np.flatnonzero(feasible.free)
    if free.size < 2:
        return intervals
    if min(target.documents for target in optimum.problem.objectives) < 2:
        return np.stack([feasible.lower, feasible.upper], axis=1)
    with one_blas_thread():  # its many small products have the same bits whatever else runs
        profile = _Profile.of(optimum, free, seed, replicates)
        intervals[free, 0] -= [profile.end(place, -1.0).distance for place in range(free.size)]
        intervals[free, 1] += profile.upper_distances([profile.end(place, 1.0) for place in range(free.size)])
    return np.clip(intervals, feasible.lower[:, None], feasible.upper[:, None])


@dataclass(frozen=True)
class _End:
    """Where the model's interval ends. ``place``: of the source among the columns; ``distance``: from its share, >= 0;
    ``room``: what its bound leaves; ``limit``: the rise at the end."""

    place: int
    distance: float
    room: float
    limit: float


@dataclass(frozen=True, eq=False)
class _Profile:
    """The quadratic model of the loss at the optimum over ``columns``.

    ``slope``: its gradient, ``(columns,)``, not 0 where limits close a direction; ``curvature``: H, ``moment``: V, both
    ``(columns, columns)``; ``others``: the places of the sources that follow a change of one share; ``exact``: the loss
    has the model's units, and can be asked itself.
    """

    optimum: Point
    columns: Columns
    target_weights: Vector
    slope: Vector
    curvature: Matrix
    moment: Matrix
    others: Columns
    exact: bool

    @classmethod
    def of(cls, optimum: Point, columns: Columns, seed: int, replicates: int) -> _Profile:
        problem, shares = optimum.problem, optimum.shares
        weights = optimal_target_weights(optimum)
        curved = problem.at(shares, columns, optimum.proof)
        jacobian = curved.jacobian[:, columns] - np.median(curved.jacobian[:, columns], axis=1, keepdims=True)
        slope, curvature = weights @ jacobian, curved.curvature(weights)
        # Only directions that sum to 0 matter; along the sum there is as much as elsewhere, so that it is definite.
        curvature = curvature - curvature.mean(axis=0)
        curvature = curvature - curvature.mean(axis=1, keepdims=True)
        curvature = (curvature + curvature.T) / 2 + curvature.trace() / columns.size**2
        if problem.prior is not None:
            slope = slope + problem.prior.gradient(shares)[columns]
            curvature = curvature + np.diag(problem.prior.curvature(shares)[columns])
        noise = sampled_noise(problem, shares, shares[None], seed=seed, replicates=replicates)
        pull = np.tensordot(noise.gradients[:, :, columns], weights, axes=(1, 0))
        # A closed direction has a slope, of which every document adds its part: then the mean counts, too.
        counts = np.array([target.documents for target in problem.objectives])
        parts = float((np.square(weights) / counts).sum() / np.square(weights.sum()))
        pull = np.vstack([pull / math.sqrt(len(pull) - 1), math.sqrt(parts) * slope])
        moment, exact = pull.T @ pull, True
        coupling = target_coupling(problem.goal, curved.losses, weights, curvature, jacobian)
        if coupling.any():
            losses = np.vstack([noise.losses[:, :, 0] / math.sqrt(len(pull) - 2), np.zeros(len(weights))])
            pull, coupled = pull + losses @ coupling @ jacobian, curvature + jacobian.T @ coupling @ jacobian
            curvature, slope = _of_the_estimate(curvature, coupled, pull, slope)
            moment, exact = curvature, False
        room = np.minimum(shares - problem.feasible.lower, problem.feasible.upper - shares)[columns]
        closed = np.where(room > AT_LIMIT, -1.0, np.abs(slope - shares[columns] @ slope / shares[columns].sum()))
        enough = max(MOST_MODELLED, int((closed < 0).sum()))
        others = np.sort(np.argsort(closed, kind="stable")[:enough])
        return cls(optimum, columns, weights, slope, curvature, moment, others, exact)

    def end(self, place: int, sign: float) -> _End:
        """Return where the interval of a source ends below (``sign`` -1) or above (1) its share."""
        source, feasible = self.columns[place], self.optimum.problem.feasible
        share = float(self.optimum.shares[source])
        room = share - float(feasible.lower[source]) if sign < 0 else float(feasible.upper[source]) - share
        if room <= AT_LIMIT:
            return _End(place, max(room, 0.0), room, 0.0)
        inside, outside = (0.0, 0.0), (room, self._excess(place, sign * room))
        if outside[1] <= 1:
            return _End(place, room, room, math.inf)
        for _ in range(ROUNDS):
            if outside[1] - 1 <= PRECISION or outside[0] - inside[0] <= AT_LIMIT:
                break
            part = (1 - inside[1]) / (outside[1] - inside[1]) if math.isfinite(outside[1]) else 0.5
            length = inside[0] + float(np.clip(part + PRECISION / 2, 0.02, 0.98)) * (outside[0] - inside[0])
            excess = self._excess(place, sign * length)
            inside, outside = ((length, excess), outside) if excess <= 1 else (inside, (length, excess))
        direction = self._direction(place, sign * outside[0])
        return _End(place, outside[0], room, 0.0 if direction is None else self._limit(direction))

    def _excess(self, place: int, change: float) -> float:
        """Return the square root of the rise over what is allowed: up to 1 within the interval, and proportional to the
        change where no limit is met; inf where there is no mixture with that share."""
        direction = self._direction(place, change)
        if direction is None:
            return math.inf
        rise = float(self.slope @ direction + direction @ self.curvature @ direction / 2)
        if rise <= 16 * float(np.spacing(abs(self.optimum.value))):
            return 0.0
        limit = self._limit(direction)
        return math.sqrt(rise / limit) if limit > 0 else math.inf

    def _limit(self, direction: Vector) -> float:
        """Return by how much the loss may rise in a direction."""
        bent = float(direction @ self.curvature @ direction)
        return Z95**2 / 2 * float(direction @ self.moment @ direction) / bent if bent > 0 else 0.0

    @cached_property
    def _inverse(self) -> Matrix:
        """The inverse of H over ``others``, bordered by the sum of their shares, ``(others + 1, others + 1)``."""
        size = self.others.size
        bordered = np.ones((size + 1, size + 1))
        bordered[:size, :size] = self.curvature[np.ix_(self.others, self.others)]
        bordered[size, size] = 0.0
        return np.asarray(np.linalg.pinv(bordered, hermitian=True), np.float64)

    def _without_limits(self, place: int) -> Vector:
        """Return how the others best follow a change of one share by 1 where nothing limits them, ``(columns,)``."""
        direction, size = np.zeros(self.columns.size), self.others.size
        if place in self.others:
            column = self._inverse[:size, np.searchsorted(self.others, place)]
            direction[self.others] = column
            direction /= direction[place] or 1.0
        else:
            pushes = np.append(-self.curvature[self.others, place], -1.0)
            direction[self.others] = self._inverse[:size] @ pushes
        direction[place] = 1.0
        return direction

    def _direction(self, place: int, change: float) -> Vector | None:
        """Return how the shares best follow a change of one of them, ``(columns,)``; None where they cannot."""
        if self.others.size > MOST_LIMITED:
            return change * self._without_limits(place)
        followers = self.others[self.others != place]
        feasible, shares = self.optimum.problem.feasible, self.optimum.shares
        sources = self.columns[followers]
        gradient = self.slope[followers] + change * self.curvature[followers, place]
        gradient = gradient - gradient.mean()
        curvature = self.curvature[np.ix_(followers, followers)]
        scale = max(float(curvature.diagonal().max()), float(np.ptp(gradient)))
        if scale == 0:
            return None
        member, sums = feasible.member[:, sources], feasible.member @ shares
        moved = sums + change * feasible.member[:, self.columns[place]]
        senses = np.zeros(sources.size + 1 + feasible.groups, np.int32)
        senses[sources.size] = DAQP_EQUALITY
        solution = minimise_quadratic(
            curvature / scale,
            gradient / scale,
            np.vstack([np.ones(sources.size), member]),
            np.concatenate([feasible.upper[sources] - shares[sources], [-change], feasible.group_upper - moved]),
            np.concatenate([feasible.lower[sources] - shares[sources], [-change], feasible.group_lower - moved]),
            senses,
        )
        if solution is None:
            return None
        direction = np.zeros(self.columns.size)
        direction[followers], direction[place] = solution[0], change
        return direction

    # ---------------------------------------------------------------------------------------------- the loss itself

    def upper_distances(self, ends: Sequence[_End]) -> Vector:
        """Return how far above the shares the intervals end, ``(columns,)``: by the model or, where that is further, by
        the loss itself along the mixtures that the model names."""
        distances = np.array([end.distance for end in ends])
        trials = [trial for end in ends if self.exact and end.distance < end.room for trial in self._trials(end)]
        nearest = {end.place: (0.0, 0.0) for end in ends}  # the last trial within the interval, and its excess
        for first in range(0, len(trials), POINTS):
            batch = trials[first : first + POINTS]
            points = self.optimum.problem.at_each([shares for *_, shares in batch])
            for (end, length, _), point in zip(batch, points, strict=True):
                inside = nearest[end.place]
                if inside[1] > 1:
                    continue
                excess = math.sqrt(max(self._rise(point), 0.0) / end.limit)
                reached = (
                    length if excess <= 1 else inside[0] + (length - inside[0]) * (1 - inside[1]) / (excess - inside[1])
                )
                distances[end.place] = max(distances[end.place], reached)
                nearest[end.place] = (length, excess)
        return distances

    def _trials(self, end: _End) -> Iterator[tuple[_End, float, Vector]]:
        """Yield mixtures at and beyond an upper end: it, how far above its share the source's is, and the shares."""
        for length in sorted({min(end.room, times * end.distance) for times in LENGTHS}):
            direction = self._direction(end.place, length)
            if direction is not None and end.limit > 0:
                shares = self.optimum.shares.copy()
                shares[self.columns] += direction
                yield end, length, self.optimum.problem.feasible.repair(shares)

    def _rise(self, point: Point) -> float:
        """Return by how much the value at a point is above the optimum's."""
        optimum, prior = self.optimum, self.optimum.problem.prior
        rise = float(self.target_weights @ (point.losses - optimum.losses))
        if prior is not None:
            rise += prior.value(point.shares) - prior.value(optimum.shares)
        return rise


def _of_the_estimate(curvature: Matrix, coupled: Matrix, pull: Matrix, slope: Vector) -> tuple[Matrix, Vector]:
    """Return the curvature and the slope, in units of log-likelihood, of the shares' own sampling distribution.

    In a worst case some directions follow from the targets' losses, others from their gradients, and no scale is common
    to both. With the shares' covariance S = H^-1 V H^-1, the model is that of a normal distribution around the optimum
    without limits: curvature S^-1, slope S^-1 H^-1 slope.

    ``curvature``: of the losses alone; ``coupled``: with what couples them; ``pull``: ``(samples, columns)``, whose
    second moment V is its sum of squares.
    """
    unit = 1 / np.sqrt(curvature.diagonal())
    tangent = null_space(unit[None])  # the shares' sum is fixed
    basis, coordinates = unit[:, None] * tangent, tangent / unit[:, None]
    curvatures, directions = np.linalg.eigh(basis.T @ coupled @ basis)
    floor = SMALLEST_CURVATURE * curvature.shape[0]
    inverse = directions / np.maximum(curvatures, floor) @ directions.T
    moved = pull @ basis @ inverse
    precision = np.linalg.pinv(moved.T @ moved, rcond=SMALLEST_CURVATURE, hermitian=True)
    along = coordinates @ precision @ (inverse @ (basis.T @ slope))
    own = coordinates @ precision @ coordinates.T
    return own + own.trace() / own.shape[0] ** 2, along
