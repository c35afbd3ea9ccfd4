"""The loop that every solver runs in: the certificate, the stopping rule, the trace and the statuses exist here, once.

A solver is a small record: ``init(point, tolerance)`` makes its state, ``step(point, state)`` returns the next point
and state. The loop stops on the certified gap, never on a step count or a gradient's norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from mixray.errors import InputError
from mixray.simplex.checks import Matrix, Vector
from mixray.simplex.problem import Point, Problem
from mixray.simplex.solvers.quadratic import optimal_target_weights

Status = Literal["converged", "round_limit", "stalled"]

PATIENCE = 20
"""Rounds without a new least value or least gap after which the solver has reached its numerical precision."""


class Solver(Protocol):
    """A method that leads from one point to a better one."""

    def init(self, point: Point, tolerance: float) -> Any: ...

    def step(self, point: Point, state: Any) -> tuple[Point, Any]: ...


@dataclass(frozen=True, eq=False)
class Solution:
    """A mixture and how good it is.

    ``weights``: the source shares, float64 ``(sources,)``, within their constraints, sum 1 within 1e-12.
    ``loss``: nats per token of the fit rows, without the prior's term; of several targets what the goal makes of them.
    ``gap``: a bound on how far the minimised value (the loss, plus the prior's term) is above the best possible one.
    ``status``: ``converged``: the gap is within the tolerance; ``round_limit``: it is not, after the rounds allowed;
    ``stalled``: numerical precision allows no further progress, the gap reached is reported.
    ``trace``: float64 ``(rounds + 1, 2)``: the minimised value and the gap, from the start to the answer.
    ``losses``: every target's, ``(targets,)``; ``target_weights``: pi, how much each counts at the answer.
    ``point``: the answer as the problem sees it. ``solver``: which one; ``why``, where that was left to ``auto``.
    """

    weights: Vector
    loss: float
    gap: float
    rounds: int
    status: Status
    trace: Matrix
    losses: Vector
    target_weights: Vector
    point: Point
    solver: str = ""
    why: str = ""


def minimise(
    problem: Problem,
    solver: Solver,
    start: Vector,
    tolerance: float,
    max_rounds: int,
) -> Solution:
    """Run ``solver`` from ``start`` until the gap is at most ``tolerance`` (nats per token)."""
    if not tolerance > 0:
        raise InputError("tolerance: not a valid tolerance", got=tolerance, wanted="a number > 0, nats per token")
    if max_rounds < 0:
        raise InputError("max_rounds: not a valid number of rounds", got=max_rounds, wanted=">= 0")
    point = problem.at(start)
    state = solver.init(point, tolerance)
    trace = [(point.value, point.gap)]
    while True:
        status = _status(trace, tolerance, max_rounds)
        if status is None:
            moved, state = solver.step(point, state)
            if not np.array_equal(moved.shares, point.shares):
                point = moved
                trace.append((point.value, point.gap))
                continue
            status = "stalled"
        return Solution(
            weights=point.shares,
            loss=point.loss,
            gap=point.gap,
            rounds=len(trace) - 1,
            status=status,
            trace=np.array(trace),
            losses=point.losses,
            target_weights=optimal_target_weights(point),
            point=point,
        )


def _status(trace: list[tuple[float, float]], tolerance: float, max_rounds: int) -> Status | None:
    if trace[-1][1] <= tolerance:
        return "converged"
    if len(trace) > max_rounds:
        return "round_limit"
    if len(trace) > PATIENCE:
        before, recent = np.array(trace[:-PATIENCE]), np.array(trace[-PATIENCE:])
        if (recent.min(axis=0) >= before.min(axis=0)).all():
            return "stalled"
    return None
