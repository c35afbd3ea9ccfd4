"""Expectation maximisation: the multiplicative update for mixture proportions (mixmin.md 2.4).

    responsibility_k = shares_k * (-gradient_k),   which sum to the sum of the row weights

The next shares maximise ``sum_k responsibility_k log shares_k``: proportional to the responsibilities, or, where there
are constraints, scaled and clipped. Every round lowers the loss, without a step size, but many rounds may be needed.
"""

from __future__ import annotations

from dataclasses import dataclass

from mixray.errors import InputError
from mixray.simplex.checks import Vector
from mixray.simplex.goal import Mean
from mixray.simplex.prior import log_shares
from mixray.simplex.problem import Point, Problem

HALVINGS = 60


@dataclass(frozen=True)
class EM:
    def init(self, point: Point, tolerance: float) -> None:
        """Raises InputError for what has no such update: a prior, a worst case, a squared error."""
        problem = point.problem
        if problem.prior is not None or not isinstance(problem.goal, Mean) or not is_multiplicative(problem):
            raise InputError(
                "solver em minimises a cross entropy, or a weighted sum of them, alone",
                wanted="no prior, no worst case, no squared error",
                remedy="use newton or entropic",
            )

    def step(self, point: Point, state: None) -> tuple[Point, None]:
        """One round. Limits on groups that overlap may make the step too long; it is then shortened."""
        problem, wanted = point.problem, multiplicative(point)
        moved = problem.at(wanted)
        if problem.feasible.groups > 1:
            for _ in range(HALVINGS):
                if moved.value <= point.value:
                    break
                wanted = problem.feasible.repair((point.shares + wanted) / 2)
                moved = problem.at(wanted)
        return moved, state


def is_multiplicative(problem: Problem) -> bool:
    """Whether minus the gradient is a responsibility: for cross entropies."""
    return all(objective.total_weight is not None for objective in problem.objectives)


def multiplicative(point: Point) -> Vector:
    """The shares after one round of EM for the loss without prior, its targets weighted as they are at the point."""
    responsibility = point.shares * -point.loss_gradient
    return point.problem.feasible.nearest(log_shares(responsibility))
