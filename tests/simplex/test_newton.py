"""Newton's quadratic model by hand, and what happens when the quadratic solver gives up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import daqp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mixray.simplex import (  # fmt: skip
    CrossEntropy,
    Evaluation,
    FeasibleSet,
    Goal,
    Group,
    Mean,
    Point,
    Problem,
    SquaredError,
    Worst,
    solve,
    solve_problem,
)
from mixray.simplex.solvers import quadratic
from mixray.simplex.solvers.quadratic import Step, model_step

Array = NDArray[np.float64]

LOG_PROBS = np.random.default_rng(0).normal(-5, 2, (60, 4))


def step_from(
    shares: list[float],
    gradients: Any,
    curvature: Any,
    goal: Goal | None = None,
    values: Any = None,
    groups: list[Group] | None = None,
    lower: Any = None,
    upper: Any = None,
) -> Step | None:
    """The step from a point whose losses, gradients and (one) curvature are given."""
    here, slopes = np.array(shares), np.atleast_2d(np.array(gradients, float))
    levels = np.zeros(len(slopes)) if values is None else np.array(values)
    every = np.arange(here.size)
    evaluations = [
        Evaluation(value, slope, np.array(curvature, float)) for value, slope in zip(levels, slopes, strict=True)
    ]
    feasible = FeasibleSet.of(here.size, lower, upper, groups or [])
    problem = Problem((), feasible, goal or Mean(np.ones(1)))
    return model_step(Point(problem, here, tuple(evaluations), every), feasible.lower, feasible.upper)


def test_the_step_of_a_quadratic_by_hand() -> None:
    # min -d1 + (d1^2 + d2^2) / 2 with d1 + d2 = 0: d1 = 1/2, by which it falls by 1/4; an upper bound cuts it.
    found = step_from([0.5, 0.5], [-1, 0], np.eye(2))
    assert found is not None
    np.testing.assert_allclose(found.direction, [0.5, -0.5], atol=1e-8)
    assert found.predicted == pytest.approx(0.25, abs=1e-8)
    cut = step_from([0.5, 0.5], [-1, 0], np.eye(2), upper=0.7)
    assert cut is not None
    assert cut.direction == pytest.approx([0.2, -0.2], abs=1e-15)


def test_a_group_cuts_the_step_and_has_its_price() -> None:
    # As above with d1 <= 0.1: the slope that is left, -1 + 2 x 0.1, is what loosening the limit would bring.
    found = step_from([0.5, 0.5], [-1, 0], np.eye(2), groups=[Group([0], upper=0.6)])
    assert found is not None
    np.testing.assert_allclose(found.direction, [0.1, -0.1], atol=1e-9)
    assert found.proof.group_prices == pytest.approx([-0.8], abs=1e-6)


def test_the_step_of_the_plain_maximum_by_hand() -> None:
    # max(-d, d) + d^2 is least at 0 where both targets count alike; with the first ahead by 0.4, at d = 0.2.
    even = step_from([0.5, 0.5], [[-0.5, 0.5], [0.5, -0.5]], np.eye(2), Worst.of(2), [0.0, 0.0])
    ahead = step_from([0.5, 0.5], [[-0.5, 0.5], [0.5, -0.5]], np.eye(2), Worst.of(2), [0.4, 0.0])
    assert even is not None
    assert ahead is not None
    np.testing.assert_allclose(even.direction, 0, atol=1e-7)
    np.testing.assert_allclose(even.proof.target_weights, [0.5, 0.5], atol=1e-6)
    np.testing.assert_allclose(ahead.direction, [0.2, -0.2], atol=1e-7)
    # Stationary: -pi_1 + pi_2 + 2 d = 0 with d = 0.2.
    np.testing.assert_allclose(ahead.proof.target_weights, [0.7, 0.3], atol=1e-6)


def test_curvature_and_gradient_along_the_sum_change_nothing() -> None:
    draw = np.random.default_rng(0)
    half, slope = draw.normal(size=(6, 4)), draw.normal(size=4)
    plain = step_from([0.25] * 4, slope, half.T @ half)
    moved = step_from([0.25] * 4, slope + 1e3, half.T @ half + 1e3)
    assert plain is not None
    assert moved is not None
    np.testing.assert_allclose(moved.direction, plain.direction, atol=1e-9)


@pytest.mark.parametrize("curvature", [np.zeros((3, 3)), np.full((3, 3), 2.0)])
def test_without_curvature_the_step_goes_to_the_bounds(curvature: Array) -> None:
    found = step_from([1 / 3] * 3, [3, 2, 1], curvature, upper=[1, 1, 0.8])
    assert found is not None
    np.testing.assert_allclose(found.direction[2], 0.8 - 1 / 3, atol=1e-8)
    assert found.direction[0] == pytest.approx(-1 / 3, abs=1e-8)


def test_there_is_no_step_where_nothing_can_or_should_move() -> None:
    assert step_from([0.3, 0.3, 0.4], [0, 1, 2], np.eye(3), lower=[0.3, 0.3, 0], upper=[0.3, 0.3, 1]) is None
    assert step_from([0.3, 0.3, 0.4], [1, 1, 1], np.zeros((3, 3))) is None


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_the_step_of_a_squared_error_is_its_minimiser(seed: int, grouped: bool) -> None:
    draw = np.random.default_rng(seed)
    feasible = FeasibleSet.of(4, None, None, [Group([0, 1], 0.2, 0.6)] if grouped else [])
    objective = SquaredError.from_predictions(draw.normal(size=(20, 4)), draw.normal(size=20))
    problem = Problem((objective,), feasible)
    start = problem.at(feasible.nearest(draw.normal(0, 2, 4)), np.arange(4))
    found = model_step(start, feasible.lower, feasible.upper)
    assert found is not None
    arrived = problem.at(feasible.repair(start.shares + found.direction), np.arange(4), found.proof)
    assert arrived.gap <= 1e-8
    assert start.value - arrived.value == pytest.approx(found.predicted, abs=1e-8)


@pytest.mark.parametrize("groups", [[], [Group([0, 1], upper=0.3)]], ids=["free", "group"])
def test_a_larger_ridge_is_tried_when_the_quadratic_solver_fails(
    groups: list[Group], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, real = [], daqp.solve
    expected = solve(LOG_PROBS, groups=groups, densities=True)

    def fails_at_first(hessian: Array, *arguments: Any, **settings: Any) -> Any:
        asked.append(hessian)
        found, value, flag, info = real(hessian, *arguments, **settings)
        return found, value, -1 if len(asked) % 2 else flag, info

    monkeypatch.setattr(quadratic.daqp, "solve", fails_at_first)
    # Two questions about limits that go to daqp, too.
    monkeypatch.setattr(FeasibleSet, "repair", lambda self, shares: self.box.repair(shares))
    monkeypatch.setattr(FeasibleSet, "_possible", lambda *_: True)
    solution = solve(LOG_PROBS, groups=groups, densities=True)
    assert solution.status == "converged"
    assert len(asked) > 2
    np.testing.assert_allclose(solution.weights, expected.weights, atol=1e-6)


def test_without_any_quadratic_solution_the_rounds_are_those_of_em(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quadratic.daqp, "solve", lambda *_, **__: (np.zeros(4), 0.0, -1, {}))
    solution = solve(LOG_PROBS, densities=True)
    assert solution.status == "converged"
    likelihood, shares = np.exp(LOG_PROBS), np.full(4, 0.25)
    for _ in range(solution.rounds):
        shares = shares * (likelihood / (likelihood @ shares)[:, None]).mean(axis=0)
    np.testing.assert_allclose(solution.weights, shares, atol=1e-12)


@pytest.fixture
def widths(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of sources in the curvature of every pass over the rows from here on."""
    found, real = list[int](), CrossEntropy.at

    def seen(self: CrossEntropy, points: Array, columns: Any = None) -> list[Evaluation]:
        found.append(0 if columns is None else len(columns))
        return real(self, points, columns)

    monkeypatch.setattr(CrossEntropy, "at", seen)
    return found


def test_sources_that_shall_have_no_share_cost_no_curvature(widths: list[int]) -> None:
    draw = np.random.default_rng(0)
    solution = solve(draw.normal(-5, 1, (300, 40)) - 30.0 * (np.arange(40) >= 5))
    assert solution.status == "converged"
    assert np.count_nonzero(solution.weights) <= 5
    assert widths[-2] <= 6


@pytest.mark.parametrize("cap", [1e-5, 1e-7, 1e-9, 1e-12])
@pytest.mark.parametrize("goal", [Mean(np.ones(2) / 2), Worst.of(2), Worst.of(2, tau=0.01)])
def test_a_source_that_alone_explains_a_row_may_be_all_but_excluded(cap: float, goal: Goal) -> None:
    """Its curvature there is 1 / cap^2 times the others'."""
    draw = np.random.default_rng(0)
    tables = draw.normal(-5, 1, (2, 150, 1)) - draw.exponential(1, (2, 150, 12))
    tables[0, :2] = -1000.0
    tables[0, :2, 0] = 0.0
    upper = np.r_[cap, np.ones(11)]
    objectives = tuple(CrossEntropy.from_log_probs(table) for table in tables)
    problem = Problem(objectives, FeasibleSet.of(12, None, upper, [Group([1, 2], upper=0.3)]), goal)
    solution = solve_problem(problem, tolerance=1e-10, max_rounds=30)
    assert solution.status == "converged"
    assert solution.weights[0] == cap


@pytest.mark.parametrize("sources", [7, 100])
def test_long_documents_need_few_rounds_and_few_sources_no_curvature(sources: int, widths: list[int]) -> None:
    # 200 to 20,000 tokens, sources apart by a tenth of a nat per token; the loss in nats per token.
    draw = np.random.default_rng(0)
    tokens = np.exp(draw.uniform(np.log(200), np.log(20_000), 10_000))
    per_token = -3.5 + 0.05 * draw.normal(size=sources) + 0.1 * draw.normal(size=(tokens.size, sources))
    solution = solve(tokens[:, None] * per_token, row_weights=1 / tokens / tokens.size)
    assert solution.status == "converged"
    assert solution.rounds <= 10
    assert sources > 7 or not any(widths)


def test_a_warm_start_saves_rounds() -> None:
    cold = solve(LOG_PROBS, tolerance=1e-10, densities=True)
    warm = solve(LOG_PROBS, tolerance=1e-10, start=cold.weights, densities=True)
    assert warm.rounds < cold.rounds
    assert warm.loss == pytest.approx(cold.loss, abs=2e-10)


def test_a_step_keeps_limits_that_are_met_only_within_rounding() -> None:
    objective = CrossEntropy.from_log_probs(LOG_PROBS)
    problem = Problem((objective,), FeasibleSet.of(4, None, None, [Group([0, 1], upper=0.3)]))
    shares = np.array([0.1, 0.2 + 1e-13, 0.3, 0.4 - 1e-13])
    point = replace(problem.at(shares, np.arange(4)), proof=None)
    found = model_step(point, problem.feasible.lower, problem.feasible.upper)
    assert found is not None
    assert found.direction[:2].sum() <= 1e-12
