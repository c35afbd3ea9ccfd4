"""The near-optimal set: its nearest mixture to a prior against a conic solver, its certificate, the path there."""

from __future__ import annotations

import warnings
from typing import Any

import cvxpy
import numpy as np
import pytest
from numpy.typing import NDArray

from mixray.errors import InputError
from mixray.simplex import (
    CrossEntropy,
    FeasibleSet,
    Group,
    Mean,
    Problem,
    Solution,
    Worst,
    gains,
    nearest_to_prior,
    paired_difference,
    prior_path,
    solve_problem,
)
from tests.simplex.cases import row_weights_of

Array = NDArray[np.float64]
PRIOR = np.array([0.1, 0.3, 0.2, 0.2, 0.2])
LIMITS: dict[str, FeasibleSet] = {
    "free": FeasibleSet.of(5),
    "bounds": FeasibleSet.of(5, [0, 0.05, 0, 0, 0], [0.4, 1, 1, 1, 1]),
    "groups": FeasibleSet.of(5, groups=[Group([0, 1], upper=0.5), Group([1, 2], lower=0.2)]),
}


def table(seed: int, rows: int = 200) -> Array:
    draw = np.random.default_rng(seed)
    return draw.normal(-30, 1, (rows, 5)) + np.array([1.4, 1.0, 0.3, 0.0, 0.0])


def solved(limits: str = "free", targets: int = 1, goal: Any = None, rows: int = 200) -> Solution:
    objectives = tuple(
        CrossEntropy.from_log_probs(table(seed, rows), np.full(rows, 0.05 / rows)) for seed in range(targets)
    )
    problem = Problem(objectives, LIMITS[limits], goal or Mean.of(None, targets))
    return solve_problem(problem, tolerance=1e-12)


def by_conic_solver(solution: Solution, allowed: float, limits: FeasibleSet) -> float:
    shares = cvxpy.Variable(5)
    (objective,) = solution.point.problem.objectives
    assert isinstance(objective, CrossEntropy)
    table, row_weights = objective.shards.table, row_weights_of(objective)
    top = table.max(axis=1)
    loss = -row_weights @ (top + cvxpy.log(np.exp(table - top[:, None]) @ shares))
    within = [shares >= limits.lower, shares <= limits.upper, cvxpy.sum(shares) == 1]
    within += (
        [limits.member @ shares <= limits.group_upper, limits.member @ shares >= limits.group_lower]
        if limits.groups
        else []
    )
    within += [loss <= solution.loss + allowed]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it calls six digits inaccurate
        divergence = cvxpy.sum(cvxpy.kl_div(shares, PRIOR))
        return float(cvxpy.Problem(cvxpy.Minimize(divergence), within).solve(solver=cvxpy.CLARABEL))


@pytest.mark.parametrize("allowed", [5e-5, 2e-4, 1e-3])
@pytest.mark.parametrize("limits", LIMITS)
def test_a_conic_solver_finds_no_mixture_nearer_to_the_prior(limits: str, allowed: float) -> None:
    optimum = solved(limits)
    found = nearest_to_prior(optimum, PRIOR, within=allowed, tolerance=1e-10)
    assert found.chosen.rise <= allowed
    assert found.divergence_gap <= 1e-5
    assert found.chosen.divergence == pytest.approx(by_conic_solver(optimum, allowed, LIMITS[limits]), abs=2e-5)
    assert optimum.point.problem.at(found.weights).loss == pytest.approx(optimum.loss + found.chosen.rise, abs=1e-12)


@pytest.mark.parametrize("goal", [Mean.of([1.0, 2.0], 2), Worst.of(2, tau=0.0), Worst.of(2, tau=0.01)], ids=str)
def test_several_targets(goal: Any) -> None:
    optimum = solved(targets=2, goal=goal)
    found = nearest_to_prior(optimum, PRIOR, within=2e-4, tolerance=1e-10)
    assert found.chosen.rise == pytest.approx(2e-4, rel=1e-3)
    assert found.divergence_gap <= 1e-5
    # No mixture on the way from the answer to the prior is within the limit: it lies on the set's border.
    beyond = found.weights + 0.01 * (PRIOR - found.weights)
    assert optimum.point.problem.at(beyond).loss > optimum.loss + 2e-4


def test_where_the_prior_is_near_optimal_it_is_the_answer() -> None:
    optimum = solved("bounds")
    found = nearest_to_prior(optimum, PRIOR, within=1.0, tolerance=1e-9)
    np.testing.assert_allclose(found.weights, PRIOR, atol=1e-12)
    assert (found.chosen.strength, found.divergence_gap) == (np.inf, 0.0)


def test_one_standard_error_is_that_of_the_gain_over_the_prior_and_its_optimism() -> None:
    optimum = solved()
    found = nearest_to_prior(optimum, PRIOR, within=None, tolerance=1e-10)
    rows = table(0)
    gain = np.log(np.exp(rows + 30) @ optimum.weights) - np.log(np.exp(rows + 30) @ PRIOR)
    over_prior = gains(optimum.point, {"prior": PRIOR})["prior"]
    assert over_prior.optimism > 0
    # The error of the fit comes on top of the paired one.
    least = over_prior.optimism + 0.05 * 0.9 * gain.std(ddof=1) / np.sqrt(200)
    assert least < found.within < 1.5 * least
    assert 0.999 * found.within <= found.chosen.rise <= found.within


@pytest.mark.parametrize("limits", LIMITS)
def test_the_path_runs_from_the_optimum_to_the_prior(limits: str) -> None:
    optimum = solved(limits)
    path = prior_path(optimum, PRIOR, tolerance=1e-9)
    assert path[0].weights.tolist() == optimum.weights.tolist()
    np.testing.assert_allclose(path[-1].weights, LIMITS[limits].nearest(np.log(PRIOR)), atol=1e-12)
    rises, divergences = [point.rise for point in path], [point.divergence for point in path]
    assert (np.diff(rises) >= -2e-9).all()
    assert (np.diff(divergences) <= 1e-5).all()
    assert rises[len(path) // 2] < 0.7 * rises[-1]
    for point in path:
        assert abs(point.weights.sum() - 1) <= 1e-12
        drawn = point.weights[point.weights > 0]
        assert point.effective_sources == pytest.approx(np.exp(-drawn @ np.log(drawn)))


def test_a_paired_difference_is_that_of_the_documents() -> None:
    optimum = solved(rows=60)
    rows = table(0, 60)
    change, error = paired_difference(optimum.point.problem, PRIOR, optimum.weights)
    by_row = 0.05 * (np.log(np.exp(rows + 30) @ optimum.weights) - np.log(np.exp(rows + 30) @ PRIOR))
    assert change == pytest.approx(by_row.mean(), rel=1e-9)
    assert error == pytest.approx(by_row.std(ddof=1) / np.sqrt(60), rel=1e-9)


def test_rows_of_one_document_count_once_in_the_error() -> None:
    rows, half = table(0, 40), np.full(40, 1 / 40)
    single = Problem((CrossEntropy.from_log_probs(rows, half),), LIMITS["free"])
    doubled = Problem(
        (
            CrossEntropy.from_log_probs(
                np.repeat(rows, 2, axis=0), np.repeat(half, 2) / 2, document_ids=np.repeat(np.arange(40), 2)
            ),
        ),
        LIMITS["free"],
    )
    best = solve_problem(single).weights
    once = paired_difference(single, PRIOR, best)
    assert paired_difference(doubled, PRIOR, best) == pytest.approx(once)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"within": 0.0}, "within: not a valid tolerance"),
        ({"within": None, "optimum": solved(rows=1)}, "one standard error needs at least two documents"),
        ({"within": 1e-3, "prior_shares": np.ones(5)}, "prior: not valid shares"),
        ({"within": 1e-3, "prior_shares": np.eye(5)[0]}, "the prior excludes sources.*\n.*source 1, 2, 3, 4"),
    ],
)
def test_refusals(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        nearest_to_prior(**{"optimum": solved(), "prior_shares": PRIOR, "tolerance": 1e-8} | arguments)
