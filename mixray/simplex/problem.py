"""The convex problem that a solver sees: an objective, a feasible set and, where wanted, a pull towards a prior.

    minimise  loss(shares) + strength * KL(shares || prior)   over  lower <= shares <= upper, sum = 1

A ``Point`` is a feasible mixture with its loss and its certificate: ``gap`` is never below the distance, in nats per
token, of its value from the best possible one (beyond rounding). It is Frank and Wolfe's gap, with the prior's term
kept exact instead of linearised, so that it stays finite at the boundary.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from mixray.errors import InputError
from mixray.simplex.checks import Matrix, Vector, checked_log_probs, checked_shares
from mixray.simplex.feasible import FeasibleSet
from mixray.simplex.objective import CrossEntropy, Evaluation, Line, Objective

SMALLEST_SHARE = 1e-300
"""Stands for a share of 0 inside a logarithm."""
START_BLEND = 1e-3
"""How much of the centre is mixed into given shares to start from."""


@dataclass(frozen=True, eq=False)
class Prior:
    """``strength * KL(shares || prior_shares)``, strength in nats per token; shares are 0 where the prior's are."""

    shares: Vector
    strength: float

    @classmethod
    def of(cls, prior_shares: ArrayLike | None, strength: float, sources: int) -> Prior | None:
        """None for a strength of 0; balanced unless shares are given. Raises InputError where they are no shares."""
        if not (np.isfinite(strength) and strength >= 0):
            raise InputError("prior_strength: no strength", got=strength, wanted="a finite number >= 0, nats per token")
        shares = np.full(sources, 1 / sources) if prior_shares is None else prior_shares
        shares = checked_shares("prior", shares, sources)
        return cls(shares, strength) if strength > 0 else None

    def value(self, source_shares: Vector) -> float:
        return self.strength * float(source_shares @ self._log_ratio(source_shares))

    def gradient(self, source_shares: Vector) -> Vector:
        return self.strength * (self._log_ratio(source_shares) + 1)

    def curvature(self, source_shares: Vector) -> Matrix:
        return np.diag(self.strength / np.maximum(source_shares, SMALLEST_SHARE))

    def _log_ratio(self, source_shares: Vector) -> Vector:
        return log_shares(source_shares) - log_shares(self.shares)


@dataclass(frozen=True, eq=False)
class Problem:
    objective: Objective
    feasible: FeasibleSet
    prior: Prior | None = None

    @classmethod
    def of(
        cls,
        log_probs: ArrayLike,
        row_weights: ArrayLike | None,
        lower: ArrayLike | None,
        upper: ArrayLike | None,
        prior: ArrayLike | None,
        prior_strength: float,
    ) -> Problem:
        """The problem of ``solve``'s arguments; a source that the prior excludes gets no share. Raises InputError."""
        table = checked_log_probs(log_probs)
        sources = table.shape[1]
        feasible = FeasibleSet.of(sources, lower, upper)
        pull = Prior.of(prior, prior_strength, sources)
        if pull is not None:
            feasible = FeasibleSet.of(sources, feasible.lower, np.where(pull.shares > 0, feasible.upper, 0.0))
        objective = CrossEntropy.from_log_probs(table, row_weights, allowed=feasible.upper > 0)
        return cls(objective, feasible, pull)

    def centre(self) -> Vector:
        """Where to start when nothing is known: the feasible shares nearest to the prior, or else to balanced."""
        return self.feasible.centre if self.prior is None else self.feasible.nearest(log_shares(self.prior.shares))

    def inside(self, source_shares: ArrayLike) -> Vector:
        """The feasible shares nearest to the given ones, moved a little towards the centre: from a share of exactly 0
        no multiplicative step returns. Raises InputError where they are no shares."""
        shares = checked_shares("start", source_shares, self.feasible.lower.size)
        nearest = self.feasible.nearest(log_shares(shares))
        return self.feasible.repair(nearest + START_BLEND * (self.centre() - nearest))

    def at(self, source_shares: Vector) -> Point:
        return Point(self, source_shares, self.objective.at(source_shares))

    def gap(self, source_shares: Vector, loss_gradient: Vector) -> float:
        """A bound on the value at these shares minus the least value, from the loss's gradient there."""
        if self.prior is None:
            best = self.feasible.linear_minimum(loss_gradient)
            return self.objective.gap(max(0.0, float(loss_gradient @ (source_shares - best))))
        best = self.feasible.nearest(log_shares(self.prior.shares) - loss_gradient / self.prior.strength)
        linear = float(loss_gradient @ (source_shares - best))
        return max(0.0, linear + self.prior.value(source_shares) - self.prior.value(best))


@dataclass(frozen=True, eq=False)
class Point:
    """Feasible shares, float64 ``(sources,)``, and what the problem says about them (nats per token)."""

    problem: Problem
    shares: Vector
    loss: Evaluation
    """The objective without the prior."""

    @cached_property
    def value(self) -> float:
        prior = self.problem.prior
        return self.loss.value + (prior.value(self.shares) if prior else 0.0)

    @cached_property
    def gradient(self) -> Vector:
        prior = self.problem.prior
        return self.loss.gradient + prior.gradient(self.shares) if prior else self.loss.gradient

    def curvature(self) -> Matrix:
        prior = self.problem.prior
        return self.loss.curvature() + prior.curvature(self.shares) if prior else self.loss.curvature()

    @cached_property
    def gap(self) -> float:
        """A bound on ``value`` minus the least value."""
        return self.problem.gap(self.shares, self.loss.gradient)

    def along(self, direction: Vector) -> Line:
        line, prior = self.loss.along(direction), self.problem.prior
        return PenalisedLine(line, prior, self.shares, direction) if prior else line


@dataclass(frozen=True, eq=False)
class PenalisedLine:
    line: Line
    prior: Prior
    shares: Vector
    direction: Vector

    def value(self, position: float) -> float:
        return self.line.value(position) + self.prior.value(self.shares + position * self.direction)

    def slope(self, position: float) -> float:
        gradient = self.prior.gradient(self.shares + position * self.direction)
        return self.line.slope(position) + float(gradient @ self.direction)


def log_shares(shares: Vector) -> Vector:
    """The logarithm, finite for a share of 0."""
    return np.log(np.maximum(shares, SMALLEST_SHARE))
