"""The first-order method for many sources: the same answer as Newton's, whatever the size of its working set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mixray.errors import InputError
from mixray.simplex import (
    CrossEntropy,
    FeasibleSet,
    Goal,
    Group,
    Mean,
    Problem,
    SquaredError,
    WorkingSet,
    Worst,
    solve,
    solve_problem,
)

Array = NDArray[np.float64]
SOURCES = 60


def correlated(seed: int, rows: int = 300, noise: float = 0.05) -> Array:
    draw = np.random.default_rng(seed)
    common = draw.normal(-20, 5, (rows, 1)) + 0.3 * draw.normal(size=(rows, 6)) @ draw.normal(size=(6, SOURCES))
    return common + noise * draw.normal(size=(rows, SOURCES))


def separated(seed: int) -> Array:
    return np.random.default_rng(seed).normal(-500, 20, (300, SOURCES))


LIMITS: dict[str, dict[str, Any]] = {
    "free": {},
    "bounds": {"lower": np.where(np.arange(SOURCES) % 7 == 0, 0.01, 0.0), "upper": 0.15},
    "groups": {"groups": [Group(range(30), upper=0.4), Group(range(20, 40), lower=0.3)]},
    "fixed": {"lower": np.where(np.arange(SOURCES) < 3, 0.1, 0.0), "upper": np.where(np.arange(SOURCES) < 3, 0.1, 1.0)},
}
GOALS: dict[str, Goal] = {"mean": Mean.of(None, 2), "worst": Worst.of(2), "smooth worst": Worst.of(2, tau=0.1)}


@pytest.mark.parametrize("size", [16, 24, 100])
@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("rows", [correlated, separated])
def test_it_ends_where_newton_ends(rows: Any, limits: str, size: int) -> None:
    table = rows(0)
    by_newton = solve(table, tolerance=1e-9, **LIMITS[limits])
    found = solve(table, tolerance=1e-9, solver=WorkingSet(size), **LIMITS[limits])
    assert found.status == "converged"
    assert found.loss == pytest.approx(by_newton.loss, abs=2e-9)
    assert (np.diff(found.trace[:, 0]) <= 1e-12 * abs(found.loss)).all()


@pytest.mark.parametrize("limits", ["free", "groups"])
@pytest.mark.parametrize("goal", GOALS)
def test_several_targets(goal: str, limits: str) -> None:
    objectives = tuple(CrossEntropy.from_log_probs(correlated(seed)) for seed in range(2))
    problem = Problem(objectives, FeasibleSet.of(SOURCES, **LIMITS[limits]), GOALS[goal])
    by_newton = solve_problem(problem, tolerance=1e-9)
    found = solve_problem(problem, tolerance=1e-9, solver=WorkingSet(20))
    assert found.status == by_newton.status == "converged"
    assert found.loss == pytest.approx(by_newton.loss, abs=2e-9)


def test_a_squared_error() -> None:
    draw = np.random.default_rng(0)
    predictions = draw.normal(size=(200, SOURCES))
    truth = predictions[:, :5].mean(axis=1) + draw.normal(size=200)
    problem = Problem((SquaredError.from_predictions(predictions, truth),), FeasibleSet.of(SOURCES))
    found = solve_problem(problem, solver=WorkingSet(20))
    assert found.status == "converged"
    assert found.loss == pytest.approx(solve_problem(problem).loss, abs=2e-8)


def test_a_thousand_sources_need_few_rounds() -> None:
    draw = np.random.default_rng(0)
    table = draw.normal(-3, 1, (2000, 1)) + 0.3 * draw.normal(size=(2000, 6)) @ draw.normal(size=(6, 1000))
    table += 0.05 * draw.normal(size=table.shape)
    found = solve(table, densities=True)
    assert (found.solver, found.status) == ("working_set", "converged")
    assert found.rounds <= 10
    assert found.why.startswith("1,000 sources, 2,000 rows")


@pytest.mark.parametrize(
    ("sources", "strength", "solver"),
    [(5, 0.0, "newton"), (5, 0.1, "newton"), (400, 0.0, "working_set"), (400, 1.0, "newton"), (1001, 1.0, "entropic")],
)
def test_the_solver_is_chosen_by_size_and_says_why(sources: int, strength: float, solver: str) -> None:
    table = np.random.default_rng(0).normal(-5, 1, (50, sources))
    found = solve(table, prior_strength=strength)
    assert (found.solver, found.status) == (solver, "converged")
    assert f"{sources:,} sources, 50 rows" in found.why
    assert solve(table, solver=solver, prior_strength=strength).why == ""


def test_what_no_other_solver_reaches_is_left_to_newton() -> None:
    """More sources than a curvature is cheap for, and a worst case with kinks or a squared error within limits."""
    draw = np.random.default_rng(0)
    rows = tuple(CrossEntropy.from_log_probs(draw.normal(-5, 1, (60, 400))) for _ in range(2))
    predictions = draw.normal(size=(60, 400))
    error = SquaredError.from_predictions(predictions, predictions @ draw.dirichlet(np.full(400, 0.05)))
    for problem in (
        Problem(rows, FeasibleSet.of(400), Worst.of(2)),
        Problem((error,), FeasibleSet.of(400, 0, 0.01, [Group(range(200), upper=0.4)])),
    ):
        solution = solve_problem(problem)
        assert (solution.solver, solution.status) == ("newton", "converged")


def test_a_prior_is_refused() -> None:
    with pytest.raises(InputError, match="working_set cannot pull towards a prior"):
        solve(correlated(0), solver="working_set", prior_strength=0.1)
