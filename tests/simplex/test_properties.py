"""What holds for every problem: the certificate, the identities of the objectives, optimality at the end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.optimize import linprog

from mixray.simplex import (  # fmt: skip
    CrossEntropy,
    FeasibleSet,
    Group,
    Mean,
    Objective,
    Point,
    Prior,
    Problem,
    SquaredError,
    Worst,
    mixture_loss,
    solve,
    solve_problem,
)
from mixray.simplex.objectives.draws import Documents
from mixray.simplex.problem import Proof
from tests.simplex.cases import row_weights_of

Array = NDArray[np.float64]
seeds = st.integers(0, 2**32 - 1)

log_prob_tables = st.tuples(st.integers(1, 8), st.integers(1, 6)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.floats(-2000, 0))
)


@st.composite
def problems(draw: st.DrawFn, *, multiplicative: bool = False, smooth: bool = False) -> Problem:
    """Log-probabilities up to thousands of nats apart or predictions, any weights, bounds and groups that fit together,
    one or more targets, with or without a prior. ``multiplicative``: as EM takes; ``smooth``: no plain maximum."""
    generator = np.random.default_rng(draw(seeds))
    sources, targets = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    spread = draw(st.sampled_from([0.1, 3.0, 1000.0]))
    squares = not multiplicative and draw(st.booleans())

    def objective() -> Objective:
        rows = int(generator.integers(1, 9))
        weights = generator.exponential(size=rows) + 1e-6
        if squares:
            predictions = generator.normal(size=(rows, sources, 2))
            return SquaredError.from_predictions(predictions, generator.normal(size=(rows, 2)), weights)
        return CrossEntropy.from_log_probs(spread * -generator.exponential(size=(rows, sources)), weights)

    inside = generator.dirichlet(np.ones(sources))  # within all limits by construction
    lower = inside * generator.uniform(size=sources) if draw(st.booleans()) else None
    upper = inside + (1 - inside) * generator.uniform(0.01, 1, sources) if draw(st.booleans()) else None
    groups = []
    for _ in range(draw(st.integers(0, 2))):
        members = np.flatnonzero(generator.random(sources) < 0.6)
        held = float(inside[members].sum())
        if members.size:
            low, high = held * generator.uniform(), held + (1 - held) * generator.uniform(0.01, 1)
            groups.append(Group(members.tolist(), low, min(high, 1.0)))
    temperatures = [0.2, 5.0] if smooth else [0.0, 0.2, 5.0]
    goal: Mean | Worst = Mean.of(generator.uniform(0.1, 2, targets), targets)
    if not multiplicative and draw(st.booleans()):
        tau = draw(st.sampled_from(temperatures))
        goal = Worst.of(targets, generator.normal(size=targets), generator.dirichlet(np.full(targets, 5.0)), tau)
    strength = 0.0 if multiplicative else draw(st.sampled_from([0.0, 1e-2, 1.0]))
    feasible = FeasibleSet.of(sources, lower, upper, groups)
    prior = Prior.of(generator.dirichlet(np.full(sources, 3.0)), strength, sources)
    return Problem(tuple(objective() for _ in range(targets)), feasible, goal, prior)


def feasible_points(problem: Problem, seed: int, count: int) -> list[Array]:
    draw = np.random.default_rng(seed)
    return [problem.feasible.nearest(draw.normal(0, 3, problem.sources)) for _ in range(count)]


def weight_of(problem: Problem) -> float:
    return float(sum(row_weights_of(objective).sum() for objective in problem.objectives))


def rounding(value: float) -> float:
    return 1e-12 * (1 + abs(value))


@given(problems(), seeds)
def test_the_gap_is_never_below_the_true_suboptimality(problem: Problem, seed: int) -> None:
    points = [problem.at(shares) for shares in feasible_points(problem, seed, 6)]
    best = min(point.value for point in [*points, solve_problem(problem, tolerance=1e-9 * weight_of(problem)).point])
    for point in points:
        assert point.gap >= point.value - best - 10 * rounding(best)


@settings(max_examples=60)
@given(problems(), seeds)
def test_newton_converges_and_no_round_raises_the_value(problem: Problem, seed: int) -> None:
    tolerance = 1e-8 * weight_of(problem)
    start = feasible_points(problem, seed, 1)[0]
    solution = solve_problem(problem, tolerance=tolerance, start=start)
    assert solution.status == "converged"
    assert (np.diff(solution.trace[:, 0]) <= 20 * rounding(solution.trace[0, 0])).all()
    feasible = problem.feasible
    assert abs(solution.weights.sum() - 1) <= 1e-12
    assert (feasible.lower <= solution.weights).all()
    assert (solution.weights <= feasible.upper).all()


@settings(max_examples=40)
@given(problems(smooth=True))
def test_no_round_of_a_first_order_method_raises_the_value(problem: Problem) -> None:
    solution = solve_problem(problem, solver="entropic", tolerance=1e-6 * weight_of(problem), max_rounds=6)
    assert (np.diff(solution.trace[:, 0]) <= 20 * rounding(solution.trace[0, 0])).all()


@settings(max_examples=60)
@given(problems(smooth=True))
def test_the_optimality_conditions_hold_at_the_end(problem: Problem) -> None:
    """gradient = one number + the limits' multipliers, each of its sign, and none where a limit is not met.

    The multipliers are those of scipy's linear program; the shares are ours.
    """
    weight, feasible = weight_of(problem), problem.feasible
    point = solve_problem(problem, tolerance=1e-11 * weight).point
    member = feasible.member
    rows = {"A_ub": np.vstack([member, -member])} if feasible.groups else {}
    limits = {"b_ub": np.concatenate([feasible.group_upper, -feasible.group_lower])} if feasible.groups else {}
    bounds = np.column_stack([feasible.lower, feasible.upper])
    found = linprog(
        point.gradient, **rows, **limits, A_eq=np.ones((1, problem.sources)), b_eq=[1.0], bounds=bounds,
        options={"presolve": False},  # which would mix the signs of limits that meet
    )  # fmt: skip
    assert found.status == 0
    at_lower, at_upper = found.lower.marginals, found.upper.marginals
    sums = found.ineqlin.marginals if feasible.groups else np.zeros(0)
    scale = 1 + np.abs(point.gradient).max()
    assert (at_lower >= -1e-7 * scale).all()
    assert (at_upper <= 1e-7 * scale).all()
    assert (sums <= 1e-7 * scale).all()
    multipliers = at_lower + at_upper + found.eqlin.marginals[0]
    priced = sums[: feasible.groups] - sums[feasible.groups :]
    np.testing.assert_allclose(multipliers + priced @ member, point.gradient, atol=1e-9 * scale)
    slack = at_lower @ (point.shares - feasible.lower) + at_upper @ (point.shares - feasible.upper)
    slack += sums[feasible.groups :] @ (feasible.group_lower - member @ point.shares)
    slack += sums[: feasible.groups] @ (member @ point.shares - feasible.group_upper)
    # A pull bends small shares by strength / share: what the gap leaves open there shows in the gradient.
    strength = problem.prior.strength if problem.prior else 0.0
    bent = np.sqrt(2 * strength * max(point.gap, 1e-13 * scale) / max(point.shares[point.shares > 0].min(), 1e-300))
    # The linear program's multipliers have their sign to within 1e-7, as above.
    assert -1e-7 * scale <= slack <= 1e-4 * scale + 2 * bent


@given(problems(), seeds)
def test_gradient_and_curvature_are_the_derivatives(problem: Problem, seed: int) -> None:
    here, there = feasible_points(problem, seed, 2)
    middle, direction = (here + there) / 2, (there - here) / 2  # away from the kinks at the ends
    step = 1e-4
    for objective in problem.objectives:
        every = np.arange(problem.sources)
        (at,) = objective.at(middle[None], every)
        before, after = objective.at(np.array([middle - step * direction, middle + step * direction]))
        noise = 1e-11 * (1 + abs(at.value)) / step
        assert at.gradient @ direction == pytest.approx((after.value - before.value) / (2 * step), rel=1e-3, abs=noise)
        by_slopes = (after.gradient - before.gradient) @ direction / (2 * step)
        assert at.curvature is not None
        assert direction @ at.curvature @ direction == pytest.approx(by_slopes, rel=1e-3, abs=1e-6 + noise)
        np.testing.assert_array_equal(at.curvature, at.curvature.T)
        assert np.linalg.eigvalsh(at.curvature).min() >= -1e-10 * np.abs(at.curvature).max()


@given(problems(), seeds)
def test_some_columns_of_the_curvature_are_a_part_of_it(problem: Problem, seed: int) -> None:
    draw = np.random.default_rng(seed)
    columns = np.flatnonzero(draw.random(problem.sources) < 0.6)
    shares = np.array(feasible_points(problem, seed, 2))
    for objective in problem.objectives:
        whole, part = objective.at(shares, np.arange(problem.sources)), objective.at(shares, columns)
        for one, other in zip(whole, part, strict=True):
            assert one.curvature is not None
            assert (other.value, other.gradient.tolist()) == (one.value, one.gradient.tolist())
            if columns.size:
                wanted = one.curvature[np.ix_(columns, columns)]
                np.testing.assert_allclose(other.curvature, wanted, rtol=1e-10, atol=1e-300)


@given(problems(), seeds)
def test_many_points_in_one_pass_are_each_point_alone(problem: Problem, seed: int) -> None:
    points = np.array(feasible_points(problem, seed, 3))
    for objective in problem.objectives:
        for point, together in zip(points, objective.at(points), strict=True):
            (alone,) = objective.at(point[None])
            assert together.value == pytest.approx(alone.value, rel=1e-12, abs=1e-12)
            np.testing.assert_allclose(together.gradient, alone.gradient, rtol=1e-9, atol=1e-12)
            assert objective.row_losses(point).sum() == pytest.approx(alone.value, rel=1e-9, abs=1e-9)


@given(problems(), seeds)
def test_replicates_are_objectives_of_their_weights(problem: Problem, seed: int) -> None:
    points = np.array(feasible_points(problem, seed, 3))
    for objective in problem.objectives:
        replicates = objective.replicates(seed, 0, range(3))
        together = replicates.at(points, np.arange(3), values=True)
        losses = replicates.losses(points)
        for i, evaluation in enumerate(together):
            (alone,) = replicates.one(i).at(points[i : i + 1])
            assert evaluation.value == pytest.approx(alone.value, rel=1e-9, abs=1e-9)
            assert losses[i, i] == pytest.approx(alone.value, rel=1e-9, abs=1e-9)
            np.testing.assert_allclose(evaluation.gradient, alone.gradient, rtol=1e-8, atol=1e-12)


@given(problems(multiplicative=True), seeds)
def test_shares_times_gradient_is_minus_the_sum_of_row_weights(problem: Problem, seed: int) -> None:
    for shares in feasible_points(problem, seed, 2):
        for at, objective in zip(problem.at(shares).evaluations, problem.objectives, strict=True):
            assert objective.total_weight is not None
            assert shares @ at.gradient == pytest.approx(-objective.total_weight, rel=1e-9)


# --------------------------------------------------------------------------------------------------------- invariances


def changed(problem: Problem, kind: str, seed: int) -> tuple[Problem, float]:
    """The same problem written otherwise, and by how much its value differs."""
    draw = np.random.default_rng(seed)
    targets: list[Any] = list(problem.objectives)
    if kind == "sources permuted":
        order = draw.permutation(problem.sources)
        moved = [
            CrossEntropy.from_log_probs(t.shards.table[:, order], row_weights_of(t), t.allowed[order])
            if isinstance(t, CrossEntropy)
            else replace(t, errors=t.errors[:, order])
            for t in targets
        ]
        old, prior = problem.feasible, problem.prior
        feasible = FeasibleSet(
            old.lower[order], old.upper[order], old.member[:, order], old.group_lower, old.group_upper
        )
        pull = None if prior is None else Prior(prior.shares[order], prior.strength)
        return Problem(tuple(moved), feasible, problem.goal, pull), 0.0
    found, shift = [], np.zeros(len(targets))
    for t, target in enumerate(targets):
        rows = np.arange(target.rows)
        weights = weights_before = row_weights_of(target)
        if kind == "rows permuted":
            rows = draw.permutation(target.rows)
            weights = weights[rows]
        if kind == "rows split":
            times = draw.integers(1, 4, target.rows)
            rows, weights = np.repeat(rows, times), np.repeat(weights / times, times)
        if isinstance(target, CrossEntropy):
            nats = draw.normal(0, 100, target.rows) if kind == "rows scaled" else np.zeros(target.rows)
            shift[t] = -weights_before @ nats
            moved_table = (target.shards.table + nats[:, None])[rows]
            found.append(CrossEntropy.from_log_probs(moved_table, weights, target.allowed))
        else:
            signs = draw.choice([-1.0, 1.0], target.rows) if kind == "rows scaled" else np.ones(target.rows)
            found.append(SquaredError((target.errors * signs[:, None, None])[rows], weights, Documents.of(weights)))
    if isinstance(problem.goal, Worst):  # offsets take the constants back
        return replace(
            problem, objectives=tuple(found), goal=replace(problem.goal, offsets=problem.goal.offsets + shift)
        ), 0.0
    return replace(problem, objectives=tuple(found)), float(problem.goal.target_weights(shift) @ shift)


@pytest.mark.parametrize("kind", ["rows scaled", "rows permuted", "rows split", "sources permuted"])
@settings(max_examples=25)
@given(problems(), seeds)
def test_the_value_does_not_depend_on_how_the_problem_is_written(kind: str, problem: Problem, seed: int) -> None:
    other, shift = changed(problem, kind, seed)
    tolerance = 1e-9 * weight_of(problem)
    plain, moved = (solve_problem(each, tolerance=tolerance) for each in (problem, other))
    noise = 100 * (rounding(shift) + rounding(plain.trace[0, 0]) + rounding(moved.trace[0, 0]))
    assert abs(moved.trace[-1, 0] - shift - plain.trace[-1, 0]) <= 2 * tolerance + noise


@given(log_prob_tables, st.integers(0, 5))
@settings(max_examples=50)
def test_a_duplicated_source_leaves_the_loss_unchanged(table: Array, source: int) -> None:
    source %= table.shape[1]
    once, twice = solve(table), solve(np.column_stack([table, table[:, source]]))
    assert twice.loss == pytest.approx(once.loss, abs=2e-8)


@given(log_prob_tables, st.floats(-500, 500))
@settings(max_examples=50)
def test_a_constant_added_to_every_log_probability_moves_the_loss_alone(table: Array, nats: float) -> None:
    plain, moved = solve(table, densities=True), solve(table + nats, densities=True)
    assert moved.loss == pytest.approx(plain.loss - nats, abs=3e-8)
    assert mixture_loss(table, moved.weights) == pytest.approx(plain.loss, abs=3e-8)


@given(seeds)
@settings(max_examples=30)
def test_one_token_rows_are_the_classification_case(seed: int) -> None:
    # Predictions of three models for the true labels; the loss is the mean negative log of their weighted average.
    draw = np.random.default_rng(seed)
    predictions = draw.dirichlet(np.ones(4), (25, 3))
    labels = draw.integers(4, size=25)
    true = predictions[np.arange(25), :, labels]
    shares = draw.dirichlet(np.ones(3))
    by_hand = -np.log(true @ shares).mean()
    assert mixture_loss(np.log(true), shares) == pytest.approx(by_hand, rel=1e-12)
    assert CrossEntropy.of_labels(predictions, labels).at(shares[None])[0].value == pytest.approx(by_hand, rel=1e-12)
    assert solve(np.log(true)).loss <= by_hand + 1e-12


@given(problems(), seeds)
def test_a_bad_proof_changes_no_truth(problem: Problem, seed: int) -> None:
    """Whatever prices a step suggests, the gap is between the truth and the certificate's own."""
    draw = np.random.default_rng(seed)
    targets = len(problem.objectives)
    best = solve_problem(problem, tolerance=1e-9 * weight_of(problem)).point.value
    for shares in feasible_points(problem, seed, 3):
        plain = problem.at(shares)
        pi = draw.dirichlet(np.ones(targets)) if isinstance(problem.goal, Worst) else plain.target_weights
        prices = draw.normal(0, 10, problem.feasible.groups)
        point = Point(problem, shares, plain.evaluations, None, Proof(pi, prices))
        assert point.value - best - 10 * rounding(best) <= point.gap <= plain.gap
