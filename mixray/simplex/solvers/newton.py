"""Newton's method on the simplex: sequential quadratic programming with the exact curvature.

A round minimises the quadratic model over the feasible set (``quadratic.py``) and goes there in one pass over the rows,
which also brings the next curvature; only where the model was wrong does it search the line to it, eight points a pass.
The curvature, rows x sources^2 multiplications, is what a round costs: sources that have no share and whose gradient
says that they shall have none are left out of it.

While the model is wrong, each round starts with the multiplicative step of ``em``, which costs little and brings every
share to its order of magnitude: from far below, Newton's method alone no more than doubles a share in a round. Where
it does well by itself, as on long documents, which tell sources far apart, the round ends there, without a curvature.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mixray.simplex.checks import Vector
from mixray.simplex.goal import Worst
from mixray.simplex.objectives.passes import Columns
from mixray.simplex.problem import Point, Problem
from mixray.simplex.solvers.first_order import Entropic, is_multiplicative, multiplicative
from mixray.simplex.solvers.quadratic import Step, model_step

SLOPE_LEFT, DECREASE_NEEDED = 0.3, 0.1
"""A step is accepted when it leaves at most the first part of the slope, or brings the second of what was predicted."""
SMALL_SHARE, SMALLEST_CUT = 1e-8, 1e-3
"""With a prior, whose slope is infinite at 0, shares below the first are left to the multiplicative step, and no share
falls below the second part of itself in one round."""
FEW_SOURCES = 32
"""So few are always all in the curvature: leaving some out saves little, and leaving out the wrong costs a pass."""
GAP_LEFT, GAP_LEFT_ALONE = 0.5, 0.25
"""The model fits where a whole step leaves at most the first part of the gap; it is not asked where the multiplicative
step alone leaves at most the second."""
LENGTHS = 0.5 ** np.arange(1, 9)
SHORTER = 0.5 ** np.arange(9, 41, 4)
FIRST_ORDER = Entropic()


@dataclass(frozen=True)
class State:
    """``model_fits``: the last step was the model's and brought the gap down; ``everything``: leave no source out;
    ``first_order``: the step size of ``entropic``, which replaces ``em`` where there is a prior."""

    tolerance: float
    model_fits: bool
    everything: bool
    first_order: float | None


@dataclass(frozen=True)
class Newton:
    def init(self, point: Point, tolerance: float) -> State:
        prior = point.problem.prior
        first_order = FIRST_ORDER.init(point, tolerance) if prior and _has_first_order(point.problem) else None
        return State(tolerance, not _has_first_order(point.problem), False, first_order)

    def step(self, point: Point, state: State) -> tuple[Point, State]:
        start = point
        if not state.model_fits or (state.first_order is not None and (point.shares < SMALL_SHARE).any()):
            point, state = _first_order(point, state)
            if point.gap <= GAP_LEFT_ALONE * start.gap:
                return point, state
        columns = np.flatnonzero(point.problem.feasible.free) if state.everything else _columns(point)
        if point.columns is None or not set(columns).issubset(point.columns):
            point = point.problem.at(point.shares, columns, point.proof)
        bounds = _bounds(point, small_frozen=state.first_order is not None)
        newton_step = model_step(point, *bounds)
        moved, model_fits = (
            (point, False) if newton_step is None else self._follow(point, newton_step, bounds, state.tolerance)
        )
        idle = moved.value >= start.value and moved.gap >= start.gap
        if idle and not state.everything and columns.size < point.problem.feasible.free.sum():
            return self.step(start, replace(state, everything=True))
        # A share that a step took to 0 by mistake comes back by no more than a doubling in a round, every step whole.
        model_fits = model_fits and moved.gap <= GAP_LEFT * start.gap
        model_fits = model_fits or not _has_first_order(point.problem)
        return moved, replace(state, model_fits=model_fits, everything=idle)

    def _follow(self, point: Point, step: Step, bounds: tuple[Vector, Vector], tolerance: float) -> tuple[Point, bool]:
        target = point.problem.feasible.repair(point.shares + step.direction)
        # Within the tolerance by prediction, this is the last round: its curvature would not be used.
        return follow(point, step, None if step.predicted <= tolerance else columns_to_move(point, target), bounds)


def follow(
    point: Point, step: Step, columns: Columns | None = None, bounds: tuple[Vector, Vector] | None = None
) -> tuple[Point, bool]:
    """Return where the step leads and whether it was taken whole.

    ``columns``: those of the curvature there; ``bounds``: those of the step, which is then corrected where it is too
    long for a worst case: the model has the curvature of all losses in its value, but none in the single losses that it
    compares, so a step along an edge between two of them ends beside it.
    """
    problem = point.problem
    target = problem.feasible.repair(point.shares + step.direction)
    whole = problem.at(target, columns, step.proof)
    direction = target - point.shares
    slope = step.predicted if isinstance(problem.goal, Worst) else -float(point.gradient @ direction)
    resolution = 16 * float(np.spacing(abs(point.value)))
    level = slope <= resolution and whole.value <= point.value + resolution
    if level or _acceptable(whole, point, direction, 1.0, slope, resolution):
        return whole, True
    if isinstance(problem.goal, Worst) and bounds is not None:
        corrected = model_step(point, *bounds, losses=whole.losses - point.jacobian @ direction)
        if corrected is not None:
            trial = problem.at(problem.feasible.repair(point.shares + corrected.direction), columns, step.proof)
            if _acceptable(trial, point, direction, 1.0, slope, resolution):
                return trial, True
    for lengths in (LENGTHS, SHORTER):
        tried = problem.at_each([problem.feasible.repair(point.shares + length * direction) for length in lengths])
        for length, trial in zip(lengths, tried, strict=True):
            if _acceptable(trial, point, direction, float(length), slope, resolution):
                return replace(trial, proof=step.proof), False
    return point, False


def _acceptable(trial: Point, origin: Point, direction: Vector, length: float, slope: float, resolution: float) -> bool:
    """Return whether the trial is no higher, and either well down or, which keeps its meaning where values agree to the
    last digit, flatter.

    ``slope``: by how much the value would fall in a step of length 1 if it were linear.
    """
    if trial.value > origin.value + resolution:
        return False
    if origin.value - trial.value >= DECREASE_NEEDED * length * slope:
        return True
    return not isinstance(origin.problem.goal, Worst) and float(trial.gradient @ direction) <= SLOPE_LEFT * slope


def _first_order(point: Point, state: State) -> tuple[Point, State]:
    """Take one step of ``em`` or, with a prior, of ``entropic``."""
    if state.first_order is not None:
        point, size = FIRST_ORDER.step(point, state.first_order)
        return point, replace(state, first_order=size)
    problem, target = point.problem, multiplicative(point)
    moved = problem.at(target, proof=point.proof)
    # Where EM is not sure to lower the value it may still.
    return (moved if moved.value <= point.value else point), state


def _has_first_order(problem: Problem) -> bool:
    if problem.prior is None:
        return is_multiplicative(problem)
    return not (isinstance(problem.goal, Worst) and problem.goal.tau == 0)


def _columns(point: Point) -> Columns:
    return columns_to_move(point, point.shares)


def columns_to_move(point: Point, shares: Vector) -> Columns:
    """Return the sources that may move at ``shares``, judged by the gradient at ``point``: those with a share to lose,
    and those whose gradient is below that of one of these. With groups the gradient alone does not say: a source may
    pay by what it lets others do."""
    feasible = point.problem.feasible
    if point.problem.prior is not None or feasible.groups or feasible.free.sum() <= FEW_SOURCES:
        return np.flatnonzero(feasible.free)
    gradients = point.jacobian if isinstance(point.problem.goal, Worst) else point.loss_gradient[None]
    above_lower = shares > feasible.lower
    promising = (
        (gradients < gradients[:, above_lower].max(axis=1, keepdims=True)).any(axis=0) if above_lower.any() else True
    )
    return np.flatnonzero(feasible.free & (above_lower | promising))


def _bounds(point: Point, small_frozen: bool) -> tuple[Vector, Vector]:
    feasible, shares = point.problem.feasible, point.shares
    if point.problem.prior is None:
        return feasible.lower, feasible.upper
    small = (shares < SMALL_SHARE) & small_frozen
    lower = np.where(small, shares, np.maximum(feasible.lower, SMALLEST_CUT * shares))
    return lower, np.where(small, shares, feasible.upper)
