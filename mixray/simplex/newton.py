"""Newton's method on the simplex: sequential quadratic programming with the exact curvature.

A round solves ``min <g, d> + d^T H d / 2`` over the feasible set by daqp's dual active-set method, then searches the
line to its solution. The curvature is what a round costs: rows x sources^2 / 2 multiplications. Before it, each round
takes the multiplicative step of ``em``, which costs little and brings every share to its order of magnitude, where the
quadratic model is good: from far below, Newton's method alone no more than doubles a share in a round.
"""

from __future__ import annotations

from dataclasses import dataclass

import daqp
import numpy as np

from mixray.simplex.checks import Matrix, Vector
from mixray.simplex.em import multiplicative
from mixray.simplex.entropic import Entropic
from mixray.simplex.objective import Line
from mixray.simplex.problem import Point

RIDGES = (1e-9, 1e-6, 1e-3)
"""Added to the curvature's diagonal, relative to its largest entry; the next one is tried where daqp fails."""
SLOPE_KEPT = 0.3
"""A step is accepted when it leaves at most this share of the slope, in absolute value."""
SMALL_SHARE, SMALLEST_CUT = 1e-8, 1e-3
"""With a prior, whose slope is infinite at 0, shares below the first are left to the multiplicative step, and no share
falls below the second part of itself in one round."""
FIRST_ORDER = Entropic()
MOST_TRIALS = 60
DAQP_SOLVED = 1
DAQP_EQUALITY = 5


@dataclass(frozen=True)
class Newton:
    def init(self, point: Point) -> float | None:
        """The step size of ``entropic``, whose step replaces that of ``em`` where there is a prior."""
        return None if point.problem.prior is None else FIRST_ORDER.init(point)

    def step(self, point: Point, state: float | None) -> tuple[Point, float | None]:
        feasible = point.problem.feasible
        lower, upper = feasible.lower, feasible.upper
        if state is None:
            point = multiplicative(point)
        else:
            point, state = FIRST_ORDER.step(point, state)
            small = point.shares < SMALL_SHARE
            lower = np.where(small, point.shares, np.maximum(lower, SMALLEST_CUT * point.shares))
            upper = np.where(small, point.shares, upper)
        direction = newton_direction(point.gradient, point.curvature(), lower - point.shares, upper - point.shares)
        if direction is None:
            return point, state
        position = search(point.along(direction), point.value)
        return point.problem.at(feasible.repair(point.shares + position * direction)), state


def newton_direction(gradient: Vector, curvature: Matrix, lower: Vector, upper: Vector) -> Vector | None:
    """The minimiser of ``<gradient, d> + d^T curvature d / 2`` over ``lower <= d <= upper, sum d = 0``.

    Only the curvature along directions that sum to 0 matters; with the rest projected out, nearly equal columns keep
    their digits. A ridge makes it definite where columns are equal. None when daqp finds no solution.
    """
    free = np.flatnonzero(upper > lower)
    if free.size < 2:
        return None
    tangent = curvature[np.ix_(free, free)]
    tangent = tangent - tangent.mean(axis=0)
    tangent = tangent - tangent.mean(axis=1, keepdims=True)
    scale = max(float(tangent.diagonal().max()), float(np.ptp(gradient[free])))
    if scale == 0:
        return None
    hessian = (tangent + tangent.T) / (2 * scale) + 1 / free.size
    slopes = (gradient[free] - gradient[free].mean()) / scale
    for ridge in RIDGES:
        found = _solve_quadratic(hessian + ridge * np.eye(free.size), slopes, lower[free], upper[free])
        if found is not None:
            direction = np.zeros(gradient.size)
            direction[free] = found
            return direction
    return None


def _solve_quadratic(hessian: Matrix, gradient: Vector, lower: Vector, upper: Vector) -> Vector | None:
    """One call of daqp. What is at a bound by its multiplier is put there exactly; the sum is 0 but for rounding."""
    sources = gradient.size
    senses = np.append(np.zeros(sources, dtype=np.int32), np.int32(DAQP_EQUALITY))
    found, _, flag, info = daqp.solve(
        hessian, gradient, np.ones((1, sources)), np.append(upper, 0.0), np.append(lower, 0.0), senses, primal_tol=1e-12
    )
    if flag != DAQP_SOLVED or not np.isfinite(found).all():
        return None
    multiplier = info["lam"][:sources]
    return np.where(multiplier < 0, lower, np.where(multiplier > 0, upper, np.clip(found, lower, upper)))


def search(line: Line, value: float) -> float:
    """How far to go along a line at whose start the objective is ``value``: to its end, 1, if that leaves little
    slope, else to just before its minimum.

    Bisection on the slope, which is increasing and, unlike differences of values, keeps its digits near the optimum.
    """
    start = line.slope(0.0)
    resolution = 16 * float(np.spacing(abs(value)))
    if abs(start) <= resolution:
        return 1.0
    if start > 0:
        return 0.0
    end = line.slope(1.0)
    if end <= 0 or (end <= -SLOPE_KEPT * start and line.value(1.0) <= value + resolution):
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(MOST_TRIALS):
        middle = (low + high) / 2
        slope = line.slope(middle)
        if slope > 0:
            high = middle
        else:
            low = middle
            if slope >= SLOPE_KEPT * start:
                break
    return low
