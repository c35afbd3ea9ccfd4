"""Intervals of shares: closed forms, limits, mixtures that are as good, and what one document tells."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from mixray.simplex import (
    CrossEntropy,
    FeasibleSet,
    Group,
    Mean,
    Prior,
    Problem,
    SquaredError,
    Worst,
    profile_intervals,
    solve_problem,
)

Array = NDArray[np.float64]


def intervals(problem: Problem, seed: int = 0, replicates: int = 200) -> Array:
    return profile_intervals(solve_problem(problem, tolerance=1e-12).point, seed=seed, replicates=replicates)


def disjoint(counts: list[int], windows: int = 1, limits: FeasibleSet | None = None) -> Problem:
    """Every document is one source's alone: shares are sample proportions."""
    documents = np.repeat(range(len(counts)), counts)
    table = np.where(np.eye(len(counts))[np.repeat(documents, windows)] > 0, 0.0, -20.0)
    ids = np.repeat(np.arange(documents.size), windows)
    objective = CrossEntropy.from_log_probs(table, document_ids=ids, token_counts=np.full(ids.size, 7))
    return Problem((objective,), FeasibleSet.of(len(counts)) if limits is None else limits)


def blurred(seed: int, documents: int = 300, sources: int = 4) -> CrossEntropy:
    draw = np.random.default_rng(seed)
    return CrossEntropy.from_log_probs(draw.normal(-30, 1.5, (documents, sources)) + np.linspace(0, 1.5, sources))


@pytest.mark.parametrize("windows", [1, 4])
def test_intervals_of_proportions_are_those_of_the_binomial(windows: int) -> None:
    shares = np.array([0.6, 0.3, 0.1])
    half = 1.96 * np.sqrt(shares * (1 - shares) / 1000)
    found = intervals(disjoint([600, 300, 100], windows), replicates=2000)
    np.testing.assert_allclose(found, np.stack([shares - half, shares + half], axis=1), atol=4e-3)


def test_a_source_of_no_document_may_have_what_the_likelihood_ratio_allows() -> None:
    """No document in n of a source whose share is v has probability (1 - v)^n: v is ruled out at z^2 / 2 nats."""
    none = intervals(disjoint([60, 40, 0]))[2]
    assert none[0] == 0
    assert none[1] == pytest.approx(1 - np.exp(-(1.96**2) / 2 / 100), rel=0.1)
    one = intervals(disjoint([60, 39, 1]), replicates=1000)[2]  # 2 (v n - 1 - log(v n)) = z^2 at v n = 4.4
    assert one[0] == pytest.approx(0, abs=1e-3)
    assert one[1] == pytest.approx(0.044, abs=0.006)


@pytest.mark.parametrize("unit", [1.0, 1e-2, 1e-4])
def test_the_interval_of_a_regression_is_the_sandwichs_in_any_unit(unit: float) -> None:
    draw = np.random.default_rng(3)
    predictions = draw.normal(size=(300, 1)) + unit * draw.normal(size=(300, 3))
    truth = predictions @ [0.5, 0.3, 0.2] + unit * draw.normal(0, 0.5, 300)
    problem = Problem((SquaredError.from_predictions(predictions, truth),), FeasibleSet.of(3))
    solution = solve_problem(problem, tolerance=1e-15)
    tangent = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    rows, errors = predictions @ tangent, predictions @ solution.weights - truth
    inverse = np.linalg.inv(rows.T @ rows)
    covariance = tangent @ inverse @ ((rows * errors[:, None]).T @ (rows * errors[:, None])) @ inverse @ tangent.T
    half = 1.96 * np.sqrt(covariance.diagonal())
    found = profile_intervals(solution.point, seed=0, replicates=2000)
    np.testing.assert_allclose(found[:, 1] - solution.weights, half, rtol=0.08)
    np.testing.assert_allclose(solution.weights - found[:, 0], half, rtol=0.08)


def test_an_interval_holds_the_shares_of_all_mixtures_that_are_as_good() -> None:
    draw = np.random.default_rng(1)
    table = draw.normal(-30, 1, (400, 2)) + np.array([1.0, 0.0])
    twins = Problem((CrossEntropy.from_log_probs(table[:, [0, 0, 1]]),), FeasibleSet.of(3))
    solution = solve_problem(twins)
    found = profile_intervals(solution.point, seed=0)
    together = solution.weights[0] + solution.weights[1]
    assert (found[:2, 0] == 0).all()
    assert (found[:2, 1] >= together).all()
    alone = intervals(Problem((CrossEntropy.from_log_probs(table),), FeasibleSet.of(2)))
    np.testing.assert_allclose(found[2], alone[1], atol=5e-3)


PROBLEMS = {
    "one target": Problem((blurred(1),), FeasibleSet.of(4)),
    "bounds": Problem((blurred(1),), FeasibleSet.of(4, [0, 0.1, 0, 0], [0.3, 1, 1, 1])),
    "groups": Problem((blurred(1),), FeasibleSet.of(4, None, None, [Group([2, 3], upper=0.6), Group([0, 2], 0.3)])),
    "prior": Problem((blurred(1),), FeasibleSet.of(4), prior=Prior.of([0.1, 0.2, 0.3, 0.4], 0.05, 4)),
    "weighted sum": Problem((blurred(1), blurred(2)), FeasibleSet.of(4), Mean.of([0.5, 0.2], 2)),
    "worst": Problem((blurred(1), blurred(2)), FeasibleSet.of(4), Worst.of(2)),
    "worst, tau 0.1": Problem((blurred(1), blurred(2)), FeasibleSet.of(4), Worst.of(2, tau=0.1)),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_an_interval_is_within_the_limits_holds_the_share_and_has_the_same_bits_twice(name: str) -> None:
    problem = PROBLEMS[name]
    shares = solve_problem(problem, tolerance=1e-12).weights
    first, second, other = (intervals(problem, seed) for seed in (1, 1, 2))
    assert first.tobytes() == second.tobytes()
    assert first.tobytes() != other.tobytes()
    low, high = first.T
    assert ((problem.feasible.lower <= low) & (low <= shares)).all()
    assert ((shares <= high) & (high <= problem.feasible.upper)).all()
    assert (high - low).max() > 0.02
    lower, upper = problem.feasible.group_lower, problem.feasible.group_upper
    for member, least, most in zip(problem.feasible.member, lower, upper, strict=True):
        assert (high[member > 0] <= most + 1e-9).all()
        assert high[member > 0].sum() >= least


def test_a_pull_to_a_prior_leaves_the_documents_less_to_say() -> None:
    pulled, free = (intervals(PROBLEMS[name]) for name in ("prior", "one target"))
    assert (np.diff(pulled) < np.diff(free)).all()


@pytest.mark.parametrize("name", ["one target", "prior"])
def test_many_sources_follow_as_if_without_limits_and_no_interval_is_shorter(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = intervals(PROBLEMS[name])
    monkeypatch.setattr("mixray.simplex.analysis.profile.MOST_LIMITED", 1)
    free = intervals(PROBLEMS[name])
    assert (np.diff(free) > 0.97 * np.diff(limited)).all()
    middle = (limited[:, 0] > 0) & (limited[:, 1] < 1)
    np.testing.assert_allclose(np.diff(free)[middle], np.diff(limited)[middle], rtol=0.15)


def test_one_document_rules_nothing_out() -> None:
    limits = FeasibleSet.of(2, 0.0, 0.7)
    problem = Problem((CrossEntropy.from_log_probs([[-1.0, -2.0]]),), limits)
    np.testing.assert_allclose(intervals(problem), [[0.0, 0.7], [0.0, 0.7]])


def test_shares_that_the_limits_fix_are_their_own_intervals() -> None:
    fixed = FeasibleSet.of(3, [0.2, 0, 0], [0.2, 1, 0])
    np.testing.assert_allclose(intervals(disjoint([5, 5, 0], limits=fixed)), [[0.2, 0.2], [0.8, 0.8], [0, 0]])
