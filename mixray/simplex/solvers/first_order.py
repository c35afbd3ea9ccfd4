"""The two first-order steps, which need the gradient alone.

Expectation maximisation (EM), with which other solvers start their rounds, is the multiplicative update for mixture
proportions:

    responsibility_k = shares_k * (-gradient_k),   which sum to the sum of the row weights

The next shares maximise ``sum_k responsibility_k log shares_k``: proportional to the responsibilities, or, where there
are constraints, scaled and clipped. It lowers a cross entropy, or a weighted sum of them, without a step size.

Entropic (exponentiated gradient) descent (``Entropic``) is the method of the MixMin paper, its Algorithm 1:

    shares <- shares * exp(-step * gradient), scaled and clipped into the feasible set

The released code takes 100 steps of 1.0 whatever the gradient's scale: ``Entropic(fixed_step=1.0)``. For long documents
that gradient is tiny and those steps hardly move. Without ``fixed_step`` the step is the longest found for which

    <gradient(new) - gradient(old), new - old> <= <log new - log old, new - old> / step

which implies descent (the loss is then no more curved than the entropy, on average, between the two points) and, unlike
a comparison of two losses, still holds its meaning when they agree to the last digit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mixray.errors import InputError
from mixray.simplex.checks import Vector
from mixray.simplex.goal import Worst, log_shares
from mixray.simplex.problem import Point, Problem

GROWTH, SHRINKAGE = 2.0, 0.5
MOST_TRIALS = 100


def is_multiplicative(problem: Problem) -> bool:
    """Return whether minus the gradient is a responsibility, as it is for cross entropies."""
    return all(objective.total_weight is not None for objective in problem.objectives)


def multiplicative(point: Point) -> Vector:
    """Return the shares after one round of EM for the loss without prior, with the target weights of the point."""
    responsibility = point.shares * -point.loss_gradient
    return point.problem.feasible.nearest(log_shares(responsibility))


@dataclass(frozen=True)
class Entropic:
    """Entropic descent. ``fixed_step``: in inverse nats per token; by default the longest step that is safe."""

    fixed_step: float | None = None

    def init(self, point: Point, tolerance: float) -> float:
        """Return the first step to try, in inverse nats per token. Raises InputError for a plain maximum."""
        if isinstance(point.problem.goal, Worst) and point.problem.goal.tau == 0:
            raise InputError(
                "solver entropic needs a smooth worst case",
                got="tau 0",
                wanted="tau > 0",
                remedy="use newton, or a small tau",
            )
        return 1 / max(float(np.abs(point.loss_gradient).max()), 1e-300)

    def step(self, point: Point, state: float) -> tuple[Point, float]:
        if self.fixed_step is not None:
            return _move(point, self.fixed_step), state
        step = state
        for _ in range(MOST_TRIALS):
            moved = _move(point, step)
            change = moved.shares - point.shares
            entropy_rise = float((log_shares(moved.shares) - log_shares(point.shares)) @ change)
            if float((moved.loss_gradient - point.loss_gradient) @ change) <= entropy_rise / step:
                return moved, step * GROWTH
            step *= SHRINKAGE
        return point, step


def _move(point: Point, step: float) -> Point:
    """Take one step; the prior's term is minimised exactly, not linearised."""
    problem = point.problem
    moved = log_shares(point.shares) - step * point.loss_gradient
    if problem.prior is not None:
        pull = step * problem.prior.strength
        moved = (moved + pull * log_shares(problem.prior.shares)) / (1 + pull)
    return problem.at(problem.feasible.nearest(moved))
