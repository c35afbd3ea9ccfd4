"""A method for thousands of sources, where the curvature over all of them would cost too much to compute.

A round has two steps. The first is the multiplicative step of EM on all sources, which only cross entropies have
and which needs only the gradient. The second is a step of Newton's method in few variables: one for every source of the
working set, and one more for the sum of all other shares, which keep their proportions to each other. The working set
is chosen anew in each round: the sources whose shares are furthest from settled, and those whose gradient promises the
largest decrease.

This is the fully corrective Frank-Wolfe method with Newton's step as the correction. Near the optimum only a few
sources have a share, all of them in the working set, and the sum of the others has shrunk to nothing.
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
"""The curvature of the other shares' sum comes from gradients where these shares are larger, and smaller, by this part
of themselves."""


@dataclass(frozen=True)
class WorkingSet:
    """``size``: the largest number of sources in the working set. At most half are chosen because their shares are not
    settled, so that at least half remain for sources that should gain a share."""

    size: int = 192

    def init(self, point: Point, tolerance: float) -> None:
        """Return no state: a round needs none. Raises InputError where there is a prior, which gives every source a
        share, so that no small working set would do."""
        if point.problem.prior is not None:
            raise InputError(
                "solver working_set cannot pull towards a prior", wanted="prior_strength 0", remedy="use entropic"
            )

    def step(self, point: Point, state: None) -> tuple[Point, None]:
        """Take one round: the multiplicative step, where the loss has one, and then Newton's."""
        columns, rest = self._split(point)
        if is_multiplicative(point.problem):
            moved = point.problem.at(multiplicative(point), proof=point.proof)
            point = moved if moved.value <= point.value else point
            columns, rest = self._split(point)
        point = point.problem.at(point.shares, columns, point.proof)  # now with the curvature over the working set
        step = _newton_step(point, columns, rest)
        return (point if step is None else follow(point, step)[0]), state

    def _split(self, point: Point) -> tuple[Columns, Vector]:
        """Return the working set, and the shares of the other sources, ``(sources,)``, 0 for those of the set."""
        columns = self._working_set(point)
        rest = point.shares.copy()
        rest[columns] = 0.0
        return columns, rest

    def _working_set(self, point: Point) -> Columns:
        feasible, shares = point.problem.feasible, point.shares
        movable = np.flatnonzero(feasible.free)
        if movable.size <= self.size:
            return movable
        prices = np.zeros(feasible.groups) if point.proof is None else point.proof.group_prices
        gradient = point.loss_gradient - prices @ feasible.member
        above_lower = movable[shares[movable] > feasible.lower[movable]]
        # Shares between their limits have one gradient at the optimum; without limits it is gradient @ shares.
        imbalance = shares[above_lower] * np.abs(gradient[above_lower] - gradient @ shares)
        unsettled = above_lower[np.argsort(-imbalance, kind="stable")[: self.size // 2]]
        others = np.setdiff1d(movable, unsettled)
        promising = others[np.argsort(gradient[others], kind="stable")[: self.size - unsettled.size]]
        return np.union1d(unsettled, promising)


def _newton_step(point: Point, columns: Columns, rest: Vector) -> Step | None:
    """Return Newton's step in the shares of ``columns`` and, as one more variable, the sum of ``rest``. None where the
    model has no step (see ``model_step``)."""
    mass = float(rest.sum())
    if mass == 0:
        return model_step(point, point.problem.feasible.lower, point.problem.feasible.upper)
    direction = rest / mass
    basis = np.zeros((columns.size + 1, point.shares.size))
    basis[np.arange(columns.size), columns] = 1.0
    basis[-1] = direction
    products = _curvature_products(point, direction, mass)
    evaluations = [
        replace(at, gradient=basis @ at.gradient, curvature=_bordered(at, basis @ product, float(direction @ product)))
        for at, product in zip(point.evaluations, products, strict=True)
    ]
    small = Problem(point.problem.objectives, _reduced_set(point, columns, rest, mass, basis), point.problem.goal)
    shares = np.append(point.shares[columns], mass)
    step = model_step(
        Point(small, shares, tuple(evaluations), np.arange(columns.size + 1), point.proof),
        small.feasible.lower,
        small.feasible.upper,
    )
    return None if step is None else replace(step, direction=step.direction @ basis)


def _curvature_products(point: Point, direction: Vector, mass: float) -> list[Vector]:
    """Return every target's curvature times ``direction``, ``(sources,)``, as a central difference of gradients."""
    change = DIFFERENCE * mass * direction
    ahead, behind = point.problem.at_each([point.shares + change, point.shares - change])
    pairs = zip(ahead.evaluations, behind.evaluations, strict=True)
    return [(above.gradient - below.gradient) / (2 * DIFFERENCE * mass) for above, below in pairs]


def _bordered(at: Evaluation, cross: Vector, corner: float) -> Matrix:
    """Return the curvature with one more row and column, which hold ``cross`` and end in ``corner``."""
    assert at.curvature is not None
    size = len(at.curvature)
    wide = np.empty((size + 1, size + 1))
    wide[:size, :size] = at.curvature
    wide[size, :size] = wide[:size, size] = cross[:size]
    wide[size, size] = corner
    return wide


def _reduced_set(point: Point, columns: Columns, rest: Vector, mass: float, basis: Matrix) -> FeasibleSet:
    """Return the limits on the shares of ``columns`` and on the sum of ``rest``, whose proportions are fixed."""
    full = point.problem.feasible
    positive = rest > 0
    # The factors at which the first share of the rest would reach its lower and its upper limit.
    shrink = float((full.lower[positive] / rest[positive]).max())
    grow = float((full.upper[positive] / rest[positive]).min())
    return FeasibleSet(
        np.append(full.lower[columns], min(1.0, shrink) * mass),
        np.append(full.upper[columns], min(1.0, max(1.0, grow) * mass)),
        full.member @ basis.T,
        full.group_lower,
        full.group_upper,
    )
