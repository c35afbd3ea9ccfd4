"""Expectation maximisation: the multiplicative update for mixture proportions (mixmin.md 2.4).

    responsibility_k = shares_k * (-gradient_k),   which sum to the sum of the row weights

The next shares maximise ``sum_k responsibility_k log shares_k``: proportional to the responsibilities, or, where there
are bounds, scaled and clipped. Every round lowers the loss, without a step size, but many rounds may be needed.
"""

from __future__ import annotations

from dataclasses import dataclass

from mixray.errors import InputError
from mixray.simplex.problem import Point, log_shares


@dataclass(frozen=True)
class EM:
    def init(self, point: Point) -> None:
        """Raises InputError for a problem with a prior, for which the update has no closed form."""
        if point.problem.prior is not None:
            raise InputError(
                "solver em cannot pull towards a prior", wanted="prior_strength 0", remedy="use newton or entropic"
            )

    def step(self, point: Point, state: None) -> tuple[Point, None]:
        return multiplicative(point), state


def multiplicative(point: Point) -> Point:
    """One round of EM for the loss without prior."""
    responsibility = point.shares * -point.loss.gradient
    return point.problem.at(point.problem.feasible.nearest(log_shares(responsibility)))
