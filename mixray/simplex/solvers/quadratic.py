"""The step of Newton's method: the minimiser of a quadratic model over the feasible set, by daqp's active-set method.

    one target, or a weighted sum    min <g, d> + d^T H d / 2
    worst case, tau = 0              min z + d^T H d / 2   with  L_t + <g_t, d> - b_t <= z for every target t
    worst case, tau > 0              min tau log sum_t pi_hat_t exp((L_t + <g_t, d> - b_t) / tau) + d^T H d / 2

``H`` is the curvature of the losses under the weights pi that the solution itself gives the targets. The third is no
quadratic program but costs no pass over the rows: it is solved by Newton's method of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import daqp
import numpy as np
from numpy.typing import NDArray

from mixray.simplex.checks import Mask, Matrix, Vector
from mixray.simplex.feasible import DAQP_EQUALITY, DAQP_SOLVED, FeasibleSet
from mixray.simplex.goal import Worst
from mixray.simplex.objectives.passes import Columns
from mixray.simplex.problem import Point, Proof

Senses = NDArray[np.int32]
"""What kind of constraint a row is, in daqp's numbers."""
RIDGES = (1e-12, 1e-9, 1e-6, 1e-3)
"""Added to the curvature's diagonal, relative to its largest entry; the next one is tried where daqp fails."""
LEVEL_CURVATURE = 1e-9
"""Of the bound z of the worst case: daqp wants every variable to have some."""
REFINEMENTS = 4
"""How often H is made anew from the pi that its own solution gave."""
SHARPEST = 1e-10
"""Nats per token: the worst case with a smaller tau is below the plain maximum by less than any tolerance."""
SMALLEST_UNIT = 1e-6
"""In smaller units a share may be lost to rounding if the target with its slope does not count."""
INNER_ROUNDS, INNER_TRIALS = 60, 40
STEEP = 1e8
"""How many times the others' largest curvature a source's own may be before their digits are lost beside it."""


@dataclass(frozen=True, eq=False)
class Step:
    """``direction``: ``(sources,)``, feasible from the point; ``predicted``: by how much the model falls, >= 0."""

    direction: Vector
    predicted: float
    proof: Proof


def model_step(point: Point, lower: Vector, upper: Vector, losses: Vector | None = None) -> Step | None:
    """Return the step from a point with curvature to the model's minimiser, within bounds on the shares that are no
    wider than the feasible set's; only sources in ``point.columns`` move. None where nothing can move or daqp finds no
    solution.

    ``losses``: what the targets' losses are in the model where no share moves, ``(targets,)``; those at the point by
    default.
    """
    assert point.columns is not None
    pi = point.target_weights if point.proof is None else point.proof.target_weights
    free = point.columns[upper[point.columns] > lower[point.columns]]
    # At first any target may count: pi is a guess where the worst case has a kink.
    solution, stays = None, _steep_at_cap(point, free, upper, np.full(len(pi), 1 / len(pi)))
    for _ in range(REFINEMENTS if len(pi) > 1 else 1):
        moving = free[~stays]
        if moving.size < 2:
            return None
        model = _Model.of(point, moving, lower[moving], upper[moving], point.losses if losses is None else losses)
        hessian = model.hessian(pi)
        solution = model.minimise(hessian)
        if solution is None:
            return None
        before, stays = stays, _steep_at_cap(point, free, upper, solution[1])
        if np.abs(solution[1] - pi).max() < 1e-3 and np.array_equal(stays, before):
            break
        pi = solution[1]
    assert solution is not None
    moved, pi, prices = solution
    direction = np.zeros(point.shares.size)
    direction[moving] = moved
    return Step(direction, max(0.0, model.fall(moved, hessian)), Proof(pi, prices))


def _steep_at_cap(point: Point, free: Columns, upper: Vector, pi: Vector) -> Mask:
    """Return which of the free sources stay at their upper bound outside of the model: those that pay more than any
    other, and whose curvature drowns the others'. Such a source alone explains some row, and its bound makes that row
    unlikely."""
    assert point.columns is not None
    capped: Mask = point.shares[free] >= upper[free]
    if not capped.any():
        return capped
    curvature = point.curvature(pi).diagonal()[np.searchsorted(point.columns, free)]
    gradient = (pi @ point.jacobian)[free]
    steep = capped & (curvature > STEEP * curvature[~capped].max(initial=0.0))
    stays: Mask = steep & (gradient < gradient[~steep].min(initial=np.inf))
    return stays


def optimal_target_weights(point: Point) -> Vector:
    """Return how much each target counts at an optimum, ``(targets,)``. Where the worst case has a kink, its
    subgradient names one worst target alone: there the multipliers of the model at the optimum tell."""
    goal, feasible = point.problem.goal, point.problem.feasible
    if not (isinstance(goal, Worst) and goal.tau == 0):
        return point.target_weights
    curved = point.problem.at(point.shares, np.flatnonzero(feasible.free), point.proof)
    step = model_step(curved, feasible.lower, feasible.upper)
    if step is not None:
        return step.proof.target_weights
    return point.target_weights if point.proof is None else point.proof.target_weights


@dataclass(frozen=True, eq=False)
class _Model:
    """The model over the free sources: ``jacobian`` ``(targets, free)``, ``extra``: the prior's gradient."""

    point: Point
    free: Columns
    lower: Vector
    upper: Vector
    losses: Vector
    jacobian: Matrix
    extra: Vector
    feasible: FeasibleSet

    @classmethod
    def of(cls, point: Point, free: Columns, lower: Vector, upper: Vector, losses: Vector) -> _Model:
        jacobian = point.jacobian[:, free]
        prior = point.problem.prior
        extra = prior.gradient(point.shares)[free] if prior else np.zeros(free.size)
        return cls(point, free, lower, upper, losses, jacobian, extra, point.problem.feasible)

    def hessian(self, target_weights: Vector) -> Matrix:
        """Only curvature along directions that sum to 0 matters; with the rest projected out, nearly equal columns
        keep their digits. Along the sum there is as much as elsewhere, so that it is definite."""
        assert self.point.columns is not None
        places = np.searchsorted(self.point.columns, self.free)
        tangent = self.point.curvature(target_weights)[np.ix_(places, places)]
        tangent = tangent - tangent.mean(axis=0)
        tangent = tangent - tangent.mean(axis=1, keepdims=True)
        tangent = (tangent + tangent.T) / 2 + tangent.trace() / self.free.size**2
        if (prior := self.point.problem.prior) is not None:
            tangent = tangent + np.diag(prior.curvature(self.point.shares)[self.free])
        curvature: Matrix = tangent
        return curvature

    def fall(self, moved: Vector, hessian: Matrix) -> float:
        goal, losses = self.point.problem.goal, self.losses
        rise = goal.value(losses + self.jacobian @ moved) - goal.value(losses)
        return -(rise + float(self.extra @ moved) + float(moved @ hessian @ moved) / 2)

    def minimise(self, hessian: Matrix) -> tuple[Vector, Vector, Vector] | None:
        """Return (direction, pi, group prices), or None where daqp finds no solution."""
        goal, losses = self.point.problem.goal, self.losses
        still = np.zeros(self.free.size)
        if not isinstance(goal, Worst):
            pi = goal.target_weights(losses)
            gradient = pi @ self.jacobian + self.extra
            solution = self._quadratic(hessian, gradient - gradient.mean(), still)
            return None if solution is None else (solution[0], pi, solution[1])
        if goal.tau <= SHARPEST:
            return self._epigraph(hessian, losses - goal.offsets)
        return self._smooth(hessian, goal, losses)

    def _quadratic(self, hessian: Matrix, gradient: Vector, moved: Vector) -> tuple[Vector, Vector] | None:
        """Return the minimiser ``d`` of ``<gradient, d> + d^T hessian d / 2`` with ``moved + d`` feasible; group
        prices. The gradient is centred: what is common to all sources does not count."""
        size = self.free.size
        scale = max(float(hessian.diagonal().max()), float(np.ptp(gradient)))
        if scale == 0:
            return None
        rows, upper, lower, senses = self._rows(moved)
        solution = minimise_quadratic(hessian / scale, gradient / scale, rows, upper, lower, senses)
        return None if solution is None else (solution[0], -scale * solution[1][size + 1 :])

    def _epigraph(self, hessian: Matrix, above: Vector) -> tuple[Vector, Vector, Vector] | None:
        """A tiny share that alone explains some document has a huge slope. It moves in units in which its slope is
        that of the others, on all targets or on those that may come to be the worst; or else in the others' own units.
        Of the steps in these units the one that promises most is taken."""
        slopes = np.abs(self._centred_jacobian())
        steepness = float(np.median(slopes.max(axis=0)))
        every, near = np.ones(above.size, bool), above >= above.max() - steepness
        trials = [(np.ones(self.free.size), every)]
        if steepness > 0:
            units = [steepness / np.maximum(slopes[which].max(axis=0), steepness) for which in (every, near)]
            trials = [(units[0], every)]
            if units[0].min() < SMALLEST_UNIT:
                trials.append((np.ones(self.free.size), every))
                if self.point.problem.prior is None:  # with a prior, which shrinks no share to nothing, it misleads
                    trials.append((units[1], near))
        best, most, resolution = None, 0.0, 16 * float(np.spacing(np.abs(self.losses).max()))
        for unit, which in trials:
            solution = self._epigraph_in(unit, hessian, above, which)
            fall = -np.inf if solution is None else self.fall(solution[0], hessian)
            if fall > 2 * max(most, 0.0) + resolution or best is None:
                best, most = solution, fall
        return best

    def _epigraph_in(
        self, unit: Vector, hessian: Matrix, above: Vector, scaling: Mask
    ) -> tuple[Vector, Vector, Vector] | None:
        size, targets = self.free.size, above.size
        slopes, curvature = self._centred_jacobian() * unit, hessian * unit * unit[:, None]
        # The median: one source's curvature may be a million times the others', which would lose their digits.
        scale = max(
            float(np.median(curvature.diagonal())), float(np.ptp(slopes[scaling], axis=1).max()), float(np.ptp(above))
        )
        if scale == 0:
            return None
        rows, upper, lower, senses = self._rows(np.zeros(size))
        wide = np.zeros((size + 1, size + 1))
        wide[:size, :size] = curvature / scale
        wide[size, size] = LEVEL_CURVATURE
        gradient = np.append((self.extra - self.extra.mean()) * unit / scale, 1.0)
        cuts = np.column_stack([slopes / scale, -np.ones(targets)])
        size_of_cut = np.abs(cuts).max(axis=1)
        cuts = cuts / size_of_cut[:, None]
        solution = minimise_quadratic(
            wide,
            gradient,
            np.vstack([np.column_stack([rows * unit, np.zeros(len(rows))]), cuts]),
            np.concatenate([upper[:size] / unit, [1e6], upper[size:], (above.max() - above) / scale / size_of_cut]),
            np.concatenate([lower[:size] / unit, [-1e6], lower[size:], np.full(targets, -1e30)]),
            np.concatenate([senses[:size], [0], senses[size:], np.zeros(targets, np.int32)]).astype(np.int32),
        )
        if solution is None:
            return None
        multipliers = np.maximum(solution[1][-targets:], 0.0) / size_of_cut
        pi = multipliers / multipliers.sum() if multipliers.sum() > 0 else np.eye(targets)[int(np.argmax(above))]
        return unit * solution[0][:size], pi, -scale * solution[1][size + 2 : -targets]

    def _centred_jacobian(self) -> Matrix:
        """Return the slopes but for what is common to all sources, whose shares have a fixed sum. The median: beside a
        mean with a huge slope in it the others' digits would be lost."""
        centred: Matrix = self.jacobian - np.median(self.jacobian, axis=1, keepdims=True)
        return centred

    def _smooth(self, hessian: Matrix, goal: Worst, losses: Vector) -> tuple[Vector, Vector, Vector] | None:
        """From the better of no step and the step of tau = 0, by Newton's method with a backtracking line search."""
        moved, prices = np.zeros(self.free.size), np.zeros(self.feasible.groups)
        sharp = self._epigraph(hessian, losses - goal.offsets)
        if sharp is not None and self.fall(sharp[0], hessian) > 0:
            moved = sharp[0]
        for _ in range(INNER_ROUNDS):
            reached = losses + self.jacobian @ moved
            pi, goal_curvature = goal.target_weights(reached), goal.curvature(reached)
            assert goal_curvature is not None
            gradient = pi @ self.jacobian + self.extra + hessian @ moved
            centred = self._centred_jacobian()
            bent = hessian + centred.T @ goal_curvature @ centred
            solution = self._quadratic(bent, gradient - np.median(gradient), moved)
            if solution is None:
                break
            change, prices = solution
            decrease = -float(gradient @ change)
            before, length = self.fall(moved, hessian), 1.0
            if decrease <= 1e-15 * (1 + abs(float(reached.max()))):
                moved = moved + change
                break
            for _ in range(INNER_TRIALS):
                if self.fall(moved + length * change, hessian) >= before + 0.1 * length * decrease:
                    break
                length /= 2
            moved = moved + length * change
        pi = goal.target_weights(losses + self.jacobian @ moved)
        return moved, pi, prices

    def _rows(self, moved: Vector) -> tuple[Matrix, Vector, Vector, Senses]:
        """Return the constraints on a further step from ``point.shares + moved``, as daqp takes them."""
        here, feasible = self.point.shares[self.free] + moved, self.feasible
        member = feasible.member[:, self.free]
        sums = feasible.member @ self.point.shares + member @ moved
        senses = np.zeros(here.size + 1 + feasible.groups, np.int32)
        senses[here.size] = DAQP_EQUALITY
        return (
            np.vstack([np.ones(here.size), member]),
            np.concatenate([np.maximum(self.upper - here, 0), [0.0], np.maximum(feasible.group_upper - sums, 0)]),
            np.concatenate([np.minimum(self.lower - here, 0), [0.0], np.minimum(feasible.group_lower - sums, 0)]),
            senses,
        )


def minimise_quadratic(
    hessian: Matrix, gradient: Vector, rows: Matrix, upper: Vector, lower: Vector, senses: Senses
) -> tuple[Vector, Vector] | None:
    """Solve by daqp with the smallest ridge that suffices; return the solution and all multipliers (> 0: at its upper
    limit).

    What is at a bound by its multiplier is put there exactly; the other constraints hold but for rounding.
    """
    size = gradient.size
    # In units in which every variable's own curvature is 1: a pull to a prior bends small shares most.
    diagonal = hessian.diagonal()
    unit = np.where(diagonal > 2 * LEVEL_CURVATURE, 1 / np.sqrt(np.maximum(diagonal, LEVEL_CURVATURE)), 1.0)
    hessian, gradient, rows = hessian * unit * unit[:, None], gradient * unit, rows * unit
    upper, lower = upper.copy(), lower.copy()
    upper[:size] /= unit
    lower[:size] /= unit
    for ridge in RIDGES:
        minimiser, _, flag, info = daqp.solve(
            hessian + ridge * np.eye(size), gradient, rows, upper, lower, senses, primal_tol=1e-12
        )
        if flag == DAQP_SOLVED and np.isfinite(minimiser).all():
            multipliers = np.array(info["lam"])
            at_bounds, low, high = multipliers[:size], lower[:size], upper[:size]
            minimiser = np.where(at_bounds < 0, low, np.where(at_bounds > 0, high, np.clip(minimiser, low, high)))
            multipliers[:size] = at_bounds / unit
            return unit * minimiser, multipliers
    return None
