"""Every objective x goal x limits x pull x solver, against a conic solver that shares no line with ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mixray.errors import InputError
from mixray.simplex import FeasibleSet, Solution, solve_problem
from tests.simplex.cases import GOALS, LIMITS, OBJECTIVES, PULLS, Array, Case, case

FEW_ROUNDS = 30
"""Of a first-order method: it need not arrive, what it certifies must hold."""


def over_all_cases(test: Callable[..., None]) -> Any:
    tables = {"pull": PULLS, "limits": LIMITS, "goal": GOALS, "objective": OBJECTIVES}
    for name, table in tables.items():
        test = pytest.mark.parametrize(name, table)(test)
    return test


def assert_feasible(shares: Array, feasible: FeasibleSet) -> None:
    assert abs(shares.sum() - 1) <= 1e-12
    assert (feasible.lower <= shares).all()
    assert (shares <= feasible.upper).all()
    sums = feasible.member @ shares
    assert (sums >= feasible.group_lower - 1e-11).all()
    assert (sums <= feasible.group_upper + 1e-11).all()


def assert_is_certified(solution: Solution, wanted: Case) -> None:
    """Feasible, of the value that it says, no further above the conic solver's answer than its gap; no round rose."""
    problem = wanted.problem
    assert_feasible(solution.weights, problem.feasible)
    value, rounding = solution.trace[-1, 0], 1e-12 * (wanted.weight + abs(solution.trace[-1, 0]))
    assert value == pytest.approx(wanted.value(solution.weights), abs=1e-9 * wanted.weight)
    rival = problem.feasible.repair(wanted.shares)
    assert value <= wanted.value(rival) + solution.gap + rounding
    assert (np.diff(solution.trace[:, 0]) <= rounding).all()
    assert solution.loss == problem.goal.value(solution.losses)
    assert problem.goal.lower_bound(solution.losses, solution.target_weights) <= solution.loss + rounding


@over_all_cases
def test_newton(objective: str, goal: str, limits: str, pull: str) -> None:
    wanted = case(objective, goal, limits, pull)
    solution = solve_problem(wanted.problem, tolerance=1e-8 * wanted.weight)
    assert solution.status == "converged"
    assert solution.gap <= 1e-8 * wanted.weight
    assert solution.rounds <= (10 if pull == "no prior" else 15)
    assert_is_certified(solution, wanted)
    # Not below what the conic solver found either, beyond its precision.
    assert solution.trace[-1, 0] >= wanted.value(wanted.problem.feasible.repair(wanted.shares)) - 1e-5 * wanted.weight


@over_all_cases
def test_entropic(objective: str, goal: str, limits: str, pull: str) -> None:
    wanted = case(objective, goal, limits, pull)
    if goal == "worst":
        with pytest.raises(InputError, match="solver entropic needs a smooth worst case\n  got: tau 0"):
            solve_problem(wanted.problem, solver="entropic")
        return
    tolerance = 1e-3 * wanted.weight
    solution = solve_problem(wanted.problem, solver="entropic", tolerance=tolerance, max_rounds=FEW_ROUNDS)
    assert solution.status == ("converged" if solution.gap <= tolerance else "round_limit")
    assert_is_certified(solution, wanted)
    first, best = solution.trace[0, 0], wanted.value(wanted.problem.feasible.repair(wanted.shares))
    assert solution.trace[-1, 0] - best <= 0.5 * (first - best) + solution.gap * (solution.status == "converged")
