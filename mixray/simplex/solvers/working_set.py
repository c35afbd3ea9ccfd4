"""A first-order method for thousands of sources, for which a curvature over all would be too dear.

A round takes one step of ``em`` on all sources, which needs the gradient alone, and then one of Newton's on a few:
those whose shares are least settled and those with the most promising gradients, which move singly, and all others,
which move as one (their shares are scaled together). It is the fully corrective Frank-Wolfe method, with Newton's step
for its correction: near the optimum few sources have a share, and the rest has shrunk to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mixray.errors import InputError
from mixray.simplex.checks import Matrix, Vector
from mixray.simplex.feasible import FeasibleSet
from mixray.simplex.objectives.objective import Evaluation
from mixray.simplex.objectives.passes import Columns
from mixray.simplex.problem import Point, Problem
from mixray.simplex.solvers.first_order import is_multiplicative, multiplicative
from mixray.simplex.solvers.newton import follow
from mixray.simplex.solvers.quadratic import Step, model_step

DIFFERENCE = 1e-4
"""By which part the rest is scaled up and down for the difference that gives its curvature."""


@dataclass(frozen=True)
class WorkingSet:
    """``size``: the most sources that move singly in a round; half of them at least are kept for newcomers."""

    size: int = 192

    def init(self, point: Point, tolerance: float) -> float:
        """Raises InputError for a pull to a prior, under which every source has a share."""
        if point.problem.prior is not None:
            raise InputError(
                "solver working_set cannot pull towards a prior", wanted="prior_strength 0", remedy="use entropic"
            )
        return tolerance

    def step(self, point: Point, state: float) -> tuple[Point, float]:
        columns, rest = self._split(point)
        if is_multiplicative(point.problem):
            moved = point.problem.at(multiplicative(point), proof=point.proof)
            point = moved if moved.value <= point.value else point
            columns, rest = self._split(point)
        point = point.problem.at(point.shares, columns, point.proof)
        step = _step(point, columns, rest)
        return (point if step is None else follow(point, step)[0]), state

    def _split(self, point: Point) -> tuple[Columns, Vector]:
        """Return the sources that move singly, and the shares of the others."""
        columns = self._columns(point)
        rest = point.shares.copy()
        rest[columns] = 0.0
        return columns, rest

    def _columns(self, point: Point) -> Columns:
        feasible, shares = point.problem.feasible, point.shares
        movable = np.flatnonzero(feasible.free)
        if movable.size <= self.size:
            return movable
        prices = np.zeros(feasible.groups) if point.proof is None else point.proof.group_prices
        gradient = point.loss_gradient - prices @ feasible.member
        held = movable[shares[movable] > feasible.lower[movable]]
        unsettled = shares[held] * np.abs(gradient[held] - gradient @ shares)
        largest = held[np.argsort(-unsettled, kind="stable")[: self.size // 2]]
        others = np.setdiff1d(movable, largest)
        promising = others[np.argsort(gradient[others], kind="stable")[: self.size - largest.size]]
        return np.union1d(largest, promising)


def _step(point: Point, columns: Columns, rest: Vector) -> Step | None:
    """Return Newton's step over the columns and the rest as one more."""
    mass = float(rest.sum())
    if mass == 0:
        return model_step(point, point.problem.feasible.lower, point.problem.feasible.upper)
    direction = rest / mass
    basis = np.zeros((columns.size + 1, point.shares.size))
    basis[np.arange(columns.size), columns] = 1.0
    basis[-1] = direction
    curved = _along(point, direction, mass)
    evaluations = [
        replace(at, gradient=basis @ at.gradient, curvature=_bordered(at, basis @ along, float(direction @ along)))
        for at, along in zip(point.evaluations, curved, strict=True)
    ]
    small = Problem(point.problem.objectives, _scaled(point, columns, rest, mass, basis), point.problem.goal)
    shares = np.append(point.shares[columns], mass)
    step = model_step(
        Point(small, shares, tuple(evaluations), np.arange(columns.size + 1), point.proof),
        small.feasible.lower,
        small.feasible.upper,
    )
    return None if step is None else replace(step, direction=step.direction @ basis)


def _along(point: Point, direction: Vector, mass: float) -> list[Vector]:
    """Return the curvature times ``direction`` of every target: a central difference of gradients."""
    change = DIFFERENCE * mass * direction
    ahead, behind = point.problem.at_each([point.shares + change, point.shares - change])
    pairs = zip(ahead.evaluations, behind.evaluations, strict=True)
    return [(one.gradient - other.gradient) / (2 * DIFFERENCE * mass) for one, other in pairs]


def _bordered(at: Evaluation, cross: Vector, corner: float) -> Matrix:
    """Return the curvature with one more row and column: ``cross``, whose last entry is ``corner``."""
    assert at.curvature is not None
    size = len(at.curvature)
    wide = np.empty((size + 1, size + 1))
    wide[:size, :size] = at.curvature
    wide[size, :size] = wide[:size, size] = cross[:size]
    wide[size, size] = corner
    return wide


def _scaled(point: Point, columns: Columns, rest: Vector, mass: float, basis: Matrix) -> FeasibleSet:
    """Return the feasible set of the columns' shares and the rest's sum, whose parts keep their proportions."""
    full = point.problem.feasible
    positive = rest > 0
    shrink = float((full.lower[positive] / rest[positive]).max())
    grow = float((full.upper[positive] / rest[positive]).min())
    return FeasibleSet(
        np.append(full.lower[columns], min(1.0, shrink) * mass),
        np.append(full.upper[columns], min(1.0, max(1.0, grow) * mass)),
        full.member @ basis.T,
        full.group_lower,
        full.group_upper,
    )
