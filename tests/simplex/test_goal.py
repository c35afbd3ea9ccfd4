"""Several targets: closed forms, the limits of the temperature, the fixed point of the targets' weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mixray.errors import InputError
from mixray.simplex import (
    CrossEntropy,
    FeasibleSet,
    Goal,
    Mean,
    Prior,
    Problem,
    Solution,
    SquaredError,
    Worst,
    solve_problem,
)

Array = NDArray[np.float64]

# Target 1 is explained by source 1 alone, target 2 by source 2: L_1 = -log s, L_2 = -log (1 - s), s the first share.
OPPOSED = tuple(CrossEntropy.from_log_probs(np.where(np.eye(2)[[t]] > 0, 0.0, -np.inf)) for t in range(2))


def minimised(objectives: tuple[Any, ...], goal: Goal, **options: Any) -> Solution:
    sources = objectives[0].sources
    solution = solve_problem(Problem(objectives, FeasibleSet.of(sources), goal), **{"tolerance": 1e-10} | options)
    assert solution.status == "converged"
    return solution


def several(seed: int, targets: int = 3, sources: int = 4) -> tuple[CrossEntropy, ...]:
    draw = np.random.default_rng(seed)
    tables = draw.normal(-6, 1.5, (targets, 30, sources)) + 1.5 * np.eye(targets, sources)[:, None, :]
    return tuple(CrossEntropy.from_log_probs(table) for table in tables)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (3.0, 1.0), (0.2, 0.05)])
def test_a_weighted_sum_of_opposed_targets_shares_by_weight(weights: tuple[float, float]) -> None:
    solution = minimised(OPPOSED, Mean.of(weights, 2))
    np.testing.assert_allclose(solution.weights, np.array(weights) / sum(weights), atol=1e-4)
    np.testing.assert_allclose(solution.losses, -np.log(solution.weights), rtol=1e-12)
    assert solution.target_weights.tolist() == list(weights)


@pytest.mark.parametrize("offset", [0.0, 0.7, -2.0])
def test_the_plain_maximum_of_opposed_targets_makes_them_equal(offset: float) -> None:
    # -log s - b = -log (1 - s):  s = 1 / (1 + e^b);  pi makes the gradients cancel: pi_1 / s = pi_2 / (1 - s).
    first = 1 / (1 + np.exp(offset))
    solution = minimised(OPPOSED, Worst.of(2, [offset, 0.0]))
    np.testing.assert_allclose(solution.weights, [first, 1 - first], atol=1e-8)
    np.testing.assert_allclose(solution.target_weights, [first, 1 - first], atol=1e-6)
    assert solution.loss == pytest.approx(-np.log(1 - first), abs=1e-9)


@pytest.mark.parametrize("solver", ["newton", "entropic"])
@pytest.mark.parametrize("tau", [0.3, 1.0, 4.0])
def test_a_tempered_maximum_of_opposed_targets(tau: float, solver: str) -> None:
    # min over s of tau log(q s^(-1/tau) + (1-q) (1-s)^(-1/tau)): s / (1-s) = (q / (1-q))^(tau / (1 + tau)).
    prior = 0.8
    odds = (prior / (1 - prior)) ** (tau / (1 + tau))
    solution = minimised(OPPOSED, Worst.of(2, None, [prior, 1 - prior], tau), solver=solver)
    np.testing.assert_allclose(solution.weights, [odds / (1 + odds), 1 / (1 + odds)], atol=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_small_temperatures_approach_the_maximum_from_below(seed: int) -> None:
    # tau KL(pi || pi_hat) <= tau log 1/min pi_hat: so far apart are the two values at most.
    objectives = several(seed)
    prior = np.array([0.5, 0.3, 0.2])
    plain = minimised(objectives, Worst.of(3)).loss
    values = [minimised(objectives, Worst.of(3, None, prior, tau)).loss for tau in (1e-4, 1e-3, 1e-2, 0.1)]
    for tau, value in zip((1e-4, 1e-3, 1e-2, 0.1), values, strict=True):
        assert plain + tau * np.log(prior.min()) - 1e-9 <= value <= plain + 1e-9
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("seed", range(4))
def test_large_temperatures_approach_the_mean_under_the_prior_from_above(seed: int) -> None:
    # tau log sum pi_hat exp(x / tau) = mean + variance / (2 tau) + ...
    objectives, prior, offsets = several(seed), np.array([0.5, 0.3, 0.2]), np.array([0.3, 0.0, -0.2])
    mean = minimised(objectives, Mean.of(prior, 3)).loss - prior @ offsets
    values = [minimised(objectives, Worst.of(3, offsets, prior, tau)).loss for tau in (1.0, 10.0, 100.0, 1e4)]
    assert values == sorted(values, reverse=True)
    assert values[-1] == pytest.approx(mean, abs=1e-4)
    assert values[-1] >= mean - 1e-9


@pytest.mark.parametrize("solver", ["newton", "entropic"])
@pytest.mark.parametrize("tau", [0.05, 0.5, 5.0])
def test_the_targets_weights_are_the_fixed_point(tau: float, solver: str) -> None:
    objectives, prior, offsets = several(7), np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.0, -0.1])
    solution = minimised(objectives, Worst.of(3, offsets, prior, tau), solver=solver, tolerance=1e-8)
    wanted = prior * np.exp((solution.losses - offsets) / tau)
    np.testing.assert_allclose(solution.target_weights, wanted / wanted.sum(), atol=1e-3)
    # And the shares minimise the sum under these weights: the saddle point.
    fixed = minimised(objectives, Mean.of(solution.target_weights, 3), tolerance=1e-9)
    np.testing.assert_allclose(fixed.weights, solution.weights, atol=5e-3)


def test_at_the_plain_maximum_only_the_worst_targets_count() -> None:
    solution = minimised(several(3), Worst.of(3, [0.0, 0.0, 4.0]))
    assert solution.target_weights.sum() == pytest.approx(1)
    behind = solution.losses - [0.0, 0.0, 4.0] < solution.loss - 1e-6
    assert behind.any()
    np.testing.assert_allclose(solution.target_weights[behind], 0, atol=1e-6)


@pytest.mark.parametrize(
    "goal",
    [Mean.of(None, 3), Mean.of([0.5, 0.3, 0.2], 3), Worst.of(3), Worst.of(3, tau=0.1), Worst.of(3, tau=50.0)],
    ids=["mean", "weighted", "worst", "small tau", "large tau"],
)
def test_equal_targets_are_one_target(goal: Goal) -> None:
    one = several(5, targets=1)[0]
    alone, together = minimised((one,), Mean.of([1.0], 1)), minimised((one, one, one), goal)
    assert together.loss == pytest.approx(alone.loss, abs=1e-9)
    np.testing.assert_allclose(together.weights, alone.weights, atol=1e-4)


@pytest.mark.parametrize("goal", [Mean.of(None, 3), Worst.of(3), Worst.of(3, tau=0.5)], ids=["mean", "worst", "tau"])
def test_a_strong_prior_is_the_answer(goal: Goal) -> None:
    shares = np.array([0.1, 0.2, 0.3, 0.4])
    problem = Problem(several(6), FeasibleSet.of(4), goal, Prior.of(shares, 1e7, 4))
    solution = solve_problem(problem, tolerance=1e-4)
    assert solution.status == "converged"
    np.testing.assert_allclose(solution.weights, shares, atol=1e-5)


def test_the_squared_error_of_two_sources() -> None:
    # sum w (y - s f_1 - (1 - s) f_2)^2: least squares of y - f_2 on f_1 - f_2.
    draw = np.random.default_rng(0)
    predictions, weights = draw.normal(size=(50, 2)), draw.uniform(0.5, 1, 50)
    truth = predictions @ [0.3, 0.7] + draw.normal(0, 0.1, 50)
    difference = predictions[:, 0] - predictions[:, 1]
    first = (weights * difference) @ (truth - predictions[:, 1]) / (weights @ difference**2)
    assert 0 < first < 1
    for solver in ("newton", "entropic"):
        objective = SquaredError.from_predictions(predictions, truth, weights)
        solution = minimised((objective,), Mean.of([1.0], 1), solver=solver, tolerance=1e-9)
        np.testing.assert_allclose(solution.weights, [first, 1 - first], atol=1e-4)
        by_hand = weights @ (predictions @ solution.weights - truth) ** 2
        assert solution.loss == pytest.approx(by_hand, rel=1e-12)
        assert objective.row_losses(solution.weights).sum() == pytest.approx(by_hand, rel=1e-12)


def test_a_squared_error_is_solved_in_one_quadratic_step() -> None:
    draw = np.random.default_rng(1)
    predictions = draw.normal(size=(60, 5))
    objective = SquaredError.from_predictions(predictions, predictions @ [0.1, 0.2, 0.3, 0.4, 0.0])
    solution = minimised((objective,), Mean.of([1.0], 1))
    assert solution.rounds <= 2
    np.testing.assert_allclose(solution.weights, [0.1, 0.2, 0.3, 0.4, 0.0], atol=1e-5)


GOALS: dict[str, Goal] = {
    "mean": Mean.of([0.7, 0.1, 0.4], 3),
    "worst": Worst.of(3, [0.5, 0.0, -0.5], [0.2, 0.5, 0.3]),
    "cold": Worst.of(3, [0.5, 0.0, -0.5], [0.2, 0.5, 0.3], 0.01),
    "warm": Worst.of(3, [0.5, 0.0, -0.5], [0.2, 0.5, 0.3], 2.0),
}
loss_vectors = st.lists(st.floats(-50, 50), min_size=3, max_size=3).map(np.array)


@pytest.mark.parametrize("name", GOALS)
@given(loss_vectors, loss_vectors)
def test_a_goal_is_convex_rises_and_is_proved_by_its_weights(name: str, losses: Array, other: Array) -> None:
    goal, slack = GOALS[name], 1e-9
    pi = goal.target_weights(losses)
    assert (pi >= 0).all()
    assert goal.value(other) >= goal.value(losses) + pi @ (other - losses) - slack
    assert goal.value(np.maximum(losses, other)) >= goal.value(losses) - slack
    assert goal.lower_bound(losses, pi) == pytest.approx(goal.value(losses), abs=1e-9)
    if isinstance(goal, Worst):
        foreign = goal.target_weights(other)
        assert goal.lower_bound(losses, foreign) <= goal.value(losses) + slack


@pytest.mark.parametrize("name", ["cold", "warm"])
@given(loss_vectors)
def test_the_bend_is_the_derivative_of_the_weights(name: str, losses: Array) -> None:
    goal = GOALS[name]
    assert isinstance(goal, Worst)
    step = 1e-4 * goal.tau
    by_differences = np.array(
        [(goal.target_weights(losses + e) - goal.target_weights(losses - e)) / (2 * step) for e in step * np.eye(3)]
    )
    np.testing.assert_allclose(goal.curvature(losses), by_differences, atol=1e-4 / goal.tau)


def test_losses_thousands_apart_overflow_nothing() -> None:
    goal = Worst.of(2, tau=1e-3)
    assert goal.value(np.array([0.0, 5000.0])) == pytest.approx(5000, abs=1e-2)
    assert goal.target_weights(np.array([0.0, 5000.0])).tolist() == [0.0, 1.0]
    assert np.isfinite(goal.lower_bound(np.array([0.0, 5000.0]), np.array([0.0, 1.0])))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Worst.of(2, tau=-0.1), "tau: not a valid temperature\n  got: -0.1\n  wanted: a finite number >= 0"),
        (lambda: Worst.of(2, tau=np.inf), "tau: not a valid temperature\n  got: inf"),
        (lambda: Worst.of(2, tau=np.nan), "tau: not a valid temperature\n  got: nan"),
        (lambda: Worst.of(2, [0.0]), r"offsets: one per target is needed\n  got: \[0.\]\n  wanted: 2 finite numbers"),
        (lambda: Worst.of(2, [0.0, np.nan]), "offsets: one per target is needed"),
        (lambda: Worst.of(2, None, [0.0, 1.0]), "target_prior: a target with prior 0 never counts"),
        (lambda: Worst.of(2, None, [0.5, 0.6]), "target_prior: not valid shares"),
        (lambda: Worst.of(2, None, [1.0]), "target_prior: not valid shares"),
        (lambda: Mean.of([1.0, 0.0], 2), "target_weights: not valid weights\n.*\n  wanted: 2 finite numbers > 0"),
        (lambda: Mean.of([1.0], 2), "target_weights: not valid weights"),
        (lambda: Mean.of([1.0, np.inf], 2), "target_weights: not valid weights"),
    ],
)
def test_refusals(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
