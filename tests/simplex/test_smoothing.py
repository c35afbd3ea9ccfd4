"""Worst cases at whose kinks Newton's method alone stalls: few long documents, which tell sources far apart."""

from __future__ import annotations

import numpy as np
import pytest

from mixray.simplex import CrossEntropy, Problem, solve_problem
from mixray.simplex.feasible import FeasibleSet
from mixray.simplex.goal import Worst
from mixray.simplex.solvers.loop import minimise
from mixray.simplex.solvers.newton import Newton

ROWS, SOURCES, SPREAD = 10, 15, 30.0


def long_documents(seed: int) -> Problem:
    """Two targets whose rows differ by tens of nats between sources."""
    draw = np.random.default_rng(seed)
    tables = [draw.normal(-100, SPREAD, (ROWS, SOURCES)) for _ in range(2)]
    objectives = tuple(CrossEntropy.from_log_probs(table, None, np.ones(SOURCES, bool)) for table in tables)
    return Problem(objectives, FeasibleSet.of(SOURCES, None, None, (), None), goal=Worst.of(2))


@pytest.mark.parametrize("seed", [4, 19])
def test_a_worst_case_at_which_newton_alone_stalls_is_solved(seed: int) -> None:
    problem = long_documents(seed)
    alone = minimise(problem, Newton(), problem.centre(), 1e-8, 300)
    assert alone.status != "converged"
    assert alone.point.gap > 1
    solution = solve_problem(problem)
    assert (solution.status, solution.solver) == ("converged", "newton")
    assert solution.gap <= 1e-8
    assert solution.loss < alone.point.loss
    assert len(solution.trace) == solution.rounds + 1
    assert solution.trace[-1].tolist() == [solution.loss, solution.gap]


def test_the_limit_on_rounds_holds_on_the_way_by_smooth_problems() -> None:
    solution = solve_problem(long_documents(4), max_rounds=104)
    assert solution.rounds <= 106
    assert solution.status == "round_limit" or solution.gap <= 1e-8
