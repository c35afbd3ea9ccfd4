"""The convex problem that a solver sees: objectives, a goal, a feasible set and a pull to a prior.

    minimise  goal(L_1(shares), ..., L_T(shares)) + strength * KL(shares || prior)   over the feasible set

A ``Point`` is a feasible mixture with its losses and its certificate: ``gap`` is never below the distance of its value
from the best possible one (beyond rounding). It is Frank and Wolfe's gap over the feasible set, sharpened by Jensen's
inequality where the objectives are cross entropies, with the prior's term kept exact instead of linearised, so that it
stays finite at the boundary; for the worst case of several targets it is a primal-dual gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from mixray.simplex.checks import Matrix, Vector, checked_shares
from mixray.simplex.feasible import FeasibleSet
from mixray.simplex.goal import Goal, Mean, Prior, log_shares
from mixray.simplex.objectives.objective import Evaluation, Objective
from mixray.simplex.objectives.passes import Columns

START_BLEND = 1e-3
"""How much of the centre is mixed into given shares to start from."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A convex problem over the source shares.

    ``objectives``: one per target. A source that the prior excludes gets no share. Raises InputError, naming rows,
    where the sources that may have a share cannot explain a row.
    """

    objectives: tuple[Objective, ...]
    feasible: FeasibleSet
    goal: Goal = field(default_factory=lambda: Mean(np.ones(1)))
    prior: Prior | None = None

    def __post_init__(self) -> None:
        if self.prior is not None and (excluded := (self.prior.shares == 0) & (self.feasible.upper > 0)).any():
            limited = self.feasible.limited_to(np.where(excluded, 0.0, self.feasible.upper))
            object.__setattr__(self, "feasible", limited)
        allowed = self.feasible.upper > 0
        if not allowed.all():
            restricted = tuple(objective.restricted_to(allowed) for objective in self.objectives)
            object.__setattr__(self, "objectives", restricted)

    @property
    def sources(self) -> int:
        return self.feasible.lower.size

    def centre(self) -> Vector:
        """Return the default start: the feasible shares nearest to the prior, or else to balanced shares."""
        return self.feasible.centre if self.prior is None else self.feasible.nearest(log_shares(self.prior.shares))

    def inside(self, source_shares: ArrayLike) -> Vector:
        """Return the feasible shares nearest to the given ones, moved a little towards the centre: no multiplicative
        step leads away from a share of exactly 0. Raises InputError for shares that are not valid."""
        shares = checked_shares("start", source_shares, self.sources)
        nearest = self.feasible.nearest(log_shares(shares))
        return self.feasible.repair(nearest + START_BLEND * (self.centre() - nearest))

    def at(self, source_shares: Vector, columns: Columns | None = None, proof: Proof | None = None) -> Point:
        """Return the point at feasible shares, with curvature over ``columns`` where there are any."""
        evaluations = [objective.at(source_shares[None], columns)[0] for objective in self.objectives]
        return Point(self, source_shares, tuple(evaluations), columns, proof)

    def loss(self, source_shares: Vector) -> float:
        """Return what the losses come to at any shares, feasible or not; inf where a row that counts cannot occur.

        Where rows are float32 on shards elsewhere, only shares of sources that these were divided by will do.
        """
        return self.goal.value(np.array([objective.loss(source_shares) for objective in self.objectives]))

    def at_each(self, points: Sequence[Vector]) -> list[Point]:
        """Return several points, evaluated in one pass over the rows."""
        by_target = [objective.at(np.array(points)) for objective in self.objectives]
        return [Point(self, shares, at) for shares, at in zip(points, zip(*by_target, strict=True), strict=True)]

    def without(self, source: int) -> Problem:
        """Return the same problem without one source. Raises InputError where the constraints allow no such mixture."""
        return replace(self, feasible=self.feasible.without(source))


@dataclass(frozen=True, eq=False)
class Proof:
    """Prices that a solver's step suggests to the certificate, which tries them beside the prices at the point.

    ``target_weights``: pi, ``(targets,)``. ``group_prices``: prices of the groups' limits, ``(groups,)``. Good ones
    prove a small gap; no prices can prove a wrong one.
    """

    target_weights: Vector
    group_prices: Vector


@dataclass(frozen=True, eq=False)
class Point:
    """Feasible shares, float64 ``(sources,)``, with their losses, gradients and certificate."""

    problem: Problem
    shares: Vector
    evaluations: tuple[Evaluation, ...]
    columns: Columns | None = None
    """The sources over which there is curvature."""
    proof: Proof | None = None

    @cached_property
    def losses(self) -> Vector:
        """The loss on every target, ``(targets,)``."""
        return np.array([at.value for at in self.evaluations])

    @cached_property
    def loss(self) -> float:
        """What the goal makes of the losses, without the prior's term."""
        return self.problem.goal.value(self.losses)

    @cached_property
    def value(self) -> float:
        """What is minimised: the loss and the prior's term."""
        prior = self.problem.prior
        return self.loss + (prior.value(self.shares) if prior else 0.0)

    @cached_property
    def target_weights(self) -> Vector:
        return self.problem.goal.target_weights(self.losses)

    @cached_property
    def jacobian(self) -> Matrix:
        """The losses' gradients, ``(targets, sources)``."""
        return np.array([at.gradient for at in self.evaluations])

    @cached_property
    def loss_gradient(self) -> Vector:
        gradient: Vector = self.target_weights @ self.jacobian
        return gradient

    @cached_property
    def gradient(self) -> Vector:
        """The gradient of the value, ``(sources,)``."""
        prior = self.problem.prior
        return self.loss_gradient + prior.gradient(self.shares) if prior else self.loss_gradient

    def curvature(self, target_weights: Vector) -> Matrix:
        """Return the curvature of the losses under these target weights, over ``columns``."""
        curvatures = np.array([at.curvature for at in self.evaluations])
        total: Matrix = np.tensordot(target_weights, curvatures, axes=1)
        return total

    @cached_property
    def gap(self) -> float:
        """An upper bound on ``value`` minus the least possible value, nats per token."""
        gap = self._gap(self.target_weights, None)
        if self.proof is None or (isinstance(self.problem.goal, Mean) and not self.problem.feasible.groups):
            return gap  # with one choice of target weights and no group a proof suggests nothing
        return min(gap, self._gap(self.proof.target_weights, self.proof.group_prices))

    @cached_property
    def storage_error(self) -> float:
        """By how much more than the gap the value may be above the least one of the rows before they were rounded: its
        rounding, and that of the least one."""
        rounding = np.array([objective.rounding for objective in self.problem.objectives])
        goal = self.problem.goal
        return 2 * float(goal.weights @ rounding if isinstance(goal, Mean) else rounding.max())

    def _gap(self, target_weights: Vector, group_prices: Vector | None) -> float:
        problem = self.problem
        gradient = target_weights @ self.jacobian
        at_shares = float(gradient @ self.shares)
        if problem.prior is not None:
            least = problem.prior.least(gradient, problem.feasible, group_prices)
            above = at_shares + problem.prior.value(self.shares) - least
        else:
            least = problem.feasible.linear_bound(gradient, group_prices)
            # Not less than what rounding may hide.
            above = _sharpened(problem, target_weights, max(at_shares - least, float(np.spacing(abs(at_shares)))))
        return max(0.0, above + (self.loss - problem.goal.lower_bound(self.losses, target_weights)))


def _sharpened(problem: Problem, target_weights: Vector, frank_wolfe_gap: float) -> float:
    """Return ``W log(1 + gap / W)`` where every objective is a cross entropy (see ``Objective.total_weight``)."""
    totals = [objective.total_weight for objective in problem.objectives]
    if any(weight is None for weight in totals):
        return frank_wolfe_gap
    weight = float(target_weights @ np.array(totals, np.float64))
    return weight * float(np.log1p(frank_wolfe_gap / weight))
