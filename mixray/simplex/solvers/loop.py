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
from mixray.simplex.objectives.passes import one_blas_thread
from mixray.simplex.problem import Point, Problem

Status = Literal["converged", "round_limit", "stalled"]

PATIENCE = 20
"""Rounds without a new least value or least gap after which the solver has reached its numerical precision."""


class Solver(Protocol):
    """A method that leads from one point to a better one."""

    def init(self, point: Point, tolerance: float) -> Any: ...

    def step(self, point: Point, state: Any) -> tuple[Point, Any]: ...


@dataclass(frozen=True, eq=False)
class Outcome:
    """``point``: the one whose gap is small enough, else the best one on the way. ``status`` and ``trace``: as in
    ``Solution``."""

    point: Point
    status: Status
    trace: Matrix


def minimise(problem: Problem, solver: Solver, start: Vector, tolerance: float, max_rounds: int) -> Outcome:
    """Run ``solver`` from ``start`` until the gap is at most ``tolerance`` (nats per token)."""
    if not tolerance > 0:
        raise InputError("tolerance: not a valid tolerance", got=tolerance, wanted="a number > 0, nats per token")
    if max_rounds < 0:
        raise InputError("max_rounds: not a valid number of rounds", got=max_rounds, wanted=">= 0")
    with one_blas_thread():  # its small products, too, have the same bits whatever else runs
        return _minimised(problem, solver, start, tolerance, max_rounds)


def _minimised(problem: Problem, solver: Solver, start: Vector, tolerance: float, max_rounds: int) -> Outcome:
    point = best = problem.at(start)
    state = solver.init(point, tolerance)
    trace = [(point.value, point.gap)]
    while True:
        status = _status(trace, tolerance, max_rounds)
        if status is None:
            moved, state = solver.step(point, state)
            # At the optimum's shares a step may still bring the prices that prove it.
            if not np.array_equal(moved.shares, point.shares) or moved.gap < point.gap:
                point = moved
                best = better(point, best)
                trace.append((point.value, point.gap))
                continue
            status = "stalled"
        return Outcome(point if status == "converged" else best, status, np.array(trace))


def better(point: Point, best: Point) -> Point:
    """Return the point of the lower value or, where rounding hides which that is, of the smaller gap."""
    rounding = 16 * float(np.spacing(abs(best.value)))
    if abs(point.value - best.value) <= rounding:
        return point if point.gap <= best.gap else best
    return point if point.value < best.value else best


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
