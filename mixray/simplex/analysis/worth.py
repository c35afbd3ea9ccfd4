"""What each source is worth: by how much the best loss rises when it is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mixray.errors import InputError
from mixray.simplex.analysis.bootstrap import Documents
from mixray.simplex.analysis.paired import Z95, paired_difference
from mixray.simplex.checks import Vector
from mixray.simplex.solvers.loop import Solution
from mixray.simplex.solvers.solve import solve_problem


@dataclass(frozen=True, eq=False)
class Worth:
    """``worth``: loss without the source minus loss with it, nats per token, >= 0; ``interval``: 95 %, over documents,
    for both mixtures as they are (what re-optimising them adds is of second order); ``weights``: the best mixture
    without it; ``gap``: its certificate, and so how exact ``worth`` is."""

    worth: float
    interval: tuple[float, float] | None
    weights: Vector
    gap: float


def leave_one_out(
    solution: Solution, documents: Sequence[Documents] | None = None, *, solver: str = "auto", tolerance: float
) -> list[Worth | None]:
    """Per source its worth; None where the constraints allow no mixture without it.

    ``documents``: per target what is drawn (see ``bootstrap``); without it there are no intervals.
    """
    problem, shares = solution.point.problem, solution.weights
    found: list[Worth | None] = []
    for source, share in enumerate(shares):
        if share == 0:  # the optimum does without it
            found.append(Worth(0.0, (0.0, 0.0) if documents else None, shares, solution.gap))
            continue
        try:
            fewer = problem.without(source)
        except InputError:
            found.append(None)
            continue
        without = solve_problem(fewer, solver=solver, tolerance=tolerance, start=_spread(shares, source))
        interval = None
        worth = max(0.0, float(without.trace[-1, 0] - solution.trace[-1, 0]))
        if documents:
            _, error = paired_difference(problem, documents, without.weights, shares, solution.target_weights)
            interval = (max(0.0, worth - Z95 * error), worth + Z95 * error)
        found.append(Worth(worth, interval, without.weights, without.gap))
    return found


def _spread(shares: Vector, source: int) -> Vector:
    """The shares without one source's, which goes to the others in equal parts if they have none."""
    rest = shares.copy()
    rest[source] = 0.0
    if rest.sum() == 0:
        rest[:] = 1.0
        rest[source] = 0.0
    spread: Vector = rest / rest.sum()
    return np.asarray(spread)
