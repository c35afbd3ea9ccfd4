"""What holds for every problem: the certificate, the identities of the objective, monotone rounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from mixray.simplex import EM, Newton, mixture_loss, solve
from mixray.simplex.problem import Problem

Array = NDArray[np.float64]

log_prob_tables = st.tuples(st.integers(1, 8), st.integers(1, 6)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.floats(-2000, 0))
)


@st.composite
def problems(draw: st.DrawFn, priors: bool = True) -> Problem:
    """Log-probabilities up to thousands of nats apart, any weights, feasible bounds, with or without a prior."""
    table = draw(log_prob_tables)
    rows, sources = table.shape
    weights = draw(arrays(np.float64, rows, elements=st.floats(1e-6, 10)))
    raw = draw(arrays(np.float64, (3, sources), elements=st.floats(0.01, 1)))
    inside = raw[0] / raw[0].sum()  # within the bounds by construction
    lower = inside * raw[1] if draw(st.booleans()) else None
    upper = inside + (1 - inside) * raw[2] if draw(st.booleans()) else None
    strength = draw(st.sampled_from([0.0, 1e-3, 1.0])) if priors else 0.0
    return Problem.of(table, weights, lower, upper, inside, strength)


def feasible_points(problem: Problem, seed: int, count: int = 20) -> Array:
    draw = np.random.default_rng(seed)
    logs = draw.normal(0, 3, (count, problem.feasible.lower.size))
    return np.array([problem.feasible.nearest(row) for row in logs])


def rounding(value: float) -> float:
    return 1e-12 * (1 + abs(value))


@given(problems(), st.integers(0, 2**32 - 1))
def test_the_gap_is_never_below_the_true_suboptimality(problem: Problem, seed: int) -> None:
    points = [problem.at(shares) for shares in feasible_points(problem, seed)]
    best = min(point.value for point in points)
    for point in points:
        assert point.gap >= point.value - best - rounding(best)


@given(problems(), st.integers(0, 2**32 - 1))
def test_a_newton_round_never_raises_the_value(problem: Problem, seed: int) -> None:
    point = problem.at(problem.inside(feasible_points(problem, seed, 1)[0]))
    state = Newton().init(point)
    for _ in range(3):
        moved, state = Newton().step(point, state)
        assert moved.value <= point.value + rounding(point.value)
        point = moved


@given(problems(priors=False), st.integers(0, 2**32 - 1))
def test_an_em_round_never_raises_the_loss(problem: Problem, seed: int) -> None:
    point = problem.at(feasible_points(problem, seed, 1)[0])
    for _ in range(3):
        moved, _ = EM().step(point, None)
        assert moved.value <= point.value + rounding(point.value)
        point = moved


@given(problems(priors=False), st.integers(0, 2**32 - 1))
def test_shares_times_gradient_is_minus_the_sum_of_row_weights(problem: Problem, seed: int) -> None:
    total = problem.objective.row_weights.sum()
    for shares in feasible_points(problem, seed, 3):
        assert shares @ problem.at(shares).gradient == pytest.approx(-total, rel=1e-10)


@given(problems(), st.integers(0, 2**32 - 1))
def test_gradient_and_curvature_are_the_derivatives(problem: Problem, seed: int) -> None:
    here, there = feasible_points(problem, seed, 2)
    middle = (here + there) / 2  # away from the kinks that an end of the line may have
    direction = (there - here) / 2
    point, line = problem.at(middle), problem.at(middle).along(direction)
    step = 1e-4
    noise = 1e-11 * (1 + abs(point.value)) / step
    assert line.value(0.0) == pytest.approx(point.value, rel=1e-12)
    assert point.gradient @ direction == pytest.approx(line.slope(0.0), rel=1e-6, abs=1e-9)
    by_values = (line.value(step) - line.value(-step)) / (2 * step)
    assert by_values == pytest.approx(line.slope(0.0), rel=1e-3, abs=noise)
    by_slopes = (line.slope(step) - line.slope(-step)) / (2 * step)
    assert direction @ point.curvature() @ direction == pytest.approx(by_slopes, rel=1e-3, abs=1e-7)


@given(problems())
def test_solve_keeps_what_it_promises(problem: Problem) -> None:
    from_problem = problem.objective
    table = np.log(np.maximum(from_problem.likelihood, 1e-300)) + from_problem.row_max[:, None]
    feasible, total = problem.feasible, from_problem.row_weights.sum()
    prior, strength = (None, 0.0) if problem.prior is None else (problem.prior.shares, problem.prior.strength)
    solution = solve(
        table,
        row_weights=from_problem.row_weights,
        lower=feasible.lower,
        upper=feasible.upper,
        prior=prior,
        prior_strength=strength,
        tolerance=1e-8 * total,
    )
    assert solution.status == "converged"
    assert abs(solution.weights.sum() - 1) <= 1e-12
    assert (feasible.lower <= solution.weights).all()
    assert (solution.weights <= feasible.upper).all()


@given(log_prob_tables, st.integers(0, 5))
def test_a_duplicated_source_leaves_the_loss_unchanged(table: Array, source: int) -> None:
    source %= table.shape[1]
    once, twice = solve(table), solve(np.column_stack([table, table[:, source]]))
    assert twice.loss == pytest.approx(once.loss, abs=2e-8)


@given(log_prob_tables, st.floats(-500, 500))
def test_a_constant_added_to_every_log_probability_moves_the_loss_alone(table: Array, nats: float) -> None:
    plain, moved = solve(table), solve(table + nats)
    assert moved.loss == pytest.approx(plain.loss - nats, abs=3e-8)
    assert mixture_loss(table, moved.weights) == pytest.approx(plain.loss, abs=3e-8)


@given(st.integers(0, 2**32 - 1))
def test_one_token_rows_are_the_classification_case(seed: int) -> None:
    # Predictions of three models for the true labels; the loss is the mean negative log of their weighted average.
    draw = np.random.default_rng(seed)
    predictions = draw.uniform(0.01, 1, (25, 3))
    shares = draw.dirichlet(np.ones(3))
    by_hand = -np.log(predictions @ shares).mean()
    assert mixture_loss(np.log(predictions), shares) == pytest.approx(by_hand, rel=1e-12)
    assert solve(np.log(predictions)).loss <= by_hand + 1e-12
