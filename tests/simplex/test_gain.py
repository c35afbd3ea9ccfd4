"""What a mixture gains on fresh documents: against the formula, ten-fold cross-fitting and the truth of simulations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import mixray
from mixray.errors import InputError
from mixray.simplex import (
    CrossEntropy,
    FeasibleSet,
    Group,
    Mean,
    Prior,
    Problem,
    SquaredError,
    gains,
    solve,
    solve_problem,
)

Array = NDArray[np.float64]
KINDS = 200


def world(seed: int, sources: int, *, planted: bool) -> tuple[Array, Array]:
    """Return the sources' densities of 200 kinds of documents ``(sources, kinds)``, and the target's ``(kinds,)``.

    The target is the balanced mixture or, ``planted``, one that a few sources make up.
    """
    draw = np.random.default_rng([seed, sources])
    densities = draw.dirichlet(np.ones(KINDS), sources)
    shares = draw.dirichlet(np.full(sources, 0.3)) if planted else np.full(sources, 1 / sources)
    return densities, shares @ densities


def documents_of(densities: Array, target: Array, seed: int, documents: int) -> Array:
    """Return the log-probabilities of documents that the target draws, ``(documents, sources)``."""
    return np.log(densities.T[np.random.default_rng(seed).choice(KINDS, documents, p=target)])


def fresh_gain(densities: Array, target: Array, shares: Array) -> float:
    return float(target @ (np.log(shares @ densities) - np.log(densities.mean(axis=0))))


def by_formula(log_probs: Array, shares: Array) -> tuple[float, float]:
    """Return the optimism tr(H^-1 V) and the variance of its quadratic form, 2 tr((H^-1 V)^2), of equal rows."""
    likelihood = np.exp(log_probs - log_probs.max(axis=1, keepdims=True))
    active = shares > 1e-9
    ratios = (likelihood / (likelihood @ shares)[:, None])[:, active] / len(log_probs)
    basis = np.linalg.svd(np.ones((1, active.sum())))[2][1:].T
    curvature = basis.T @ ratios.T @ ratios @ basis * len(log_probs)
    scores = (ratios - ratios.mean(axis=0)) @ basis
    product = np.linalg.solve(curvature, scores.T @ scores)
    return float(np.trace(product)), 2 * float(np.trace(product @ product))


@pytest.mark.parametrize(("documents", "sources", "planted"), [(100, 7, False), (100, 30, False), (400, 7, True)])
def test_the_interval_holds_the_gain_on_fresh_documents(documents: int, sources: int, planted: bool) -> None:
    """On the documents that chose the mixture, 30 sources always seem to gain, and never do where balanced is best."""
    held, claimed, problems = 0, 0, 25
    for seed in range(problems):
        densities, target = world(seed, sources, planted=planted)
        solution = solve(documents_of(densities, target, seed, documents))
        gain, fresh = solution.gain("balanced"), fresh_gain(densities, target, solution.weights)
        held += gain.low <= fresh <= gain.high
        claimed += gain.low > 0 >= fresh
    assert held >= 21  # with 95 % coverage, less in one of a hundred such tests
    assert claimed <= 1


@pytest.mark.parametrize("sources", [2, 7, 30])
def test_optimism_and_width_are_those_of_the_formula(sources: int) -> None:
    documents = 50 * sources  # so many that nothing is cross-fitted
    log_probs = documents_of(*world(0, sources, planted=False), 0, documents)
    solution = solve(log_probs, tolerance=1e-12)
    gain = gains(solution.point, {"balanced": np.full(sources, 1 / sources)}, replicates=2000)["balanced"]
    optimism, fit_variance = by_formula(log_probs, solution.weights)
    rows = np.log(np.exp(log_probs) @ solution.weights) - np.log(np.exp(log_probs).mean(axis=1))
    error = np.sqrt(rows.var(ddof=1) / documents + fit_variance)
    assert gain.optimism == pytest.approx(optimism, rel=0.1)
    assert gain.estimate == pytest.approx(rows.mean() - gain.optimism, abs=1e-12)
    assert (gain.high - gain.low) / (2 * 1.96) == pytest.approx(error, rel=0.15)


def test_ten_fold_cross_fitting_agrees_in_the_mean() -> None:
    estimates, crossed = [], []
    for seed in range(10):
        log_probs = documents_of(*world(seed, 7, planted=True), seed, 200)
        estimates.append(solve(log_probs).gain("balanced").estimate)
        folds = np.arange(200) % 10
        gain = 0.0
        for fold in range(10):
            shares, rows = solve(log_probs[folds != fold]).weights, np.exp(log_probs[folds == fold])
            gain += float((np.log(rows @ shares) - np.log(rows.mean(axis=1))).sum()) / 200
        crossed.append(gain)
    difference = np.array(estimates) - crossed
    # A fold's mixture has nine tenths of the documents, so a tenth more optimism.
    assert difference.mean() == pytest.approx(0, abs=0.1 * np.mean(estimates) + 3 * difference.std() / np.sqrt(10))


def test_the_gain_of_few_documents_is_cross_fitted() -> None:
    """Against ten solves by hand, on documents of three windows of unequal length."""
    densities, target = world(5, 15, planted=True)
    log_probs = np.repeat(documents_of(densities, target, 5, 60), 3, axis=0)
    documents, tokens = np.repeat(np.arange(60), 3), np.tile([1, 2, 5], 60)
    weights = np.full(180, 1 / tokens.sum())
    objective = CrossEntropy.from_log_probs(log_probs, weights, document_ids=documents, token_counts=tokens)
    gain = gain_of(Problem((objective,), FeasibleSet.of(15)))

    folds = (np.random.default_rng([0, 0]).permutation(60) % 10)[documents]
    held_out = np.zeros(len(log_probs))
    for fold in range(10):
        rest, out = folds != fold, folds == fold
        shares = solve(log_probs[rest], row_weights=weights[rest] / weights[rest].sum()).weights
        held_out[out] = np.log(np.exp(log_probs[out]) @ shares)
    differences = held_out - np.log(np.exp(log_probs).mean(axis=1))
    by_document = np.bincount(documents, weights=weights * differences)
    assert gain.estimate == pytest.approx(by_document.sum(), abs=1e-5)
    error = np.sqrt(60) * by_document.std(ddof=1)
    assert error < (gain.high - gain.low) / (2 * 1.96) < 2 * error


@pytest.mark.parametrize("weights", [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]], ids=["one document counts", "two count"])
def test_documents_that_do_not_count_are_no_documents_to_learn_from(weights: list[float]) -> None:
    gain = mixray.solve(np.log([[0.5, 0.2], [0.1, 0.6], [0.3, 0.3]]), row_weights=weights).gain("balanced")
    assert np.isfinite([gain.estimate, gain.low, gain.high]).all()


def test_a_document_that_no_other_would_allow_for_is_not_cross_fitted() -> None:
    """Without it, the source that alone explains it has no share: its cross-fitted loss would be infinite."""
    log_probs = np.array([[-1.0, -1.5]] * 20 + [[-np.inf, -1.0]])
    gain = solve(log_probs).gain("balanced")
    assert np.isfinite([gain.estimate, gain.low, gain.high]).all()


def of_table(log_probs: Array, **options: Any) -> Problem:
    options = {"feasible": FeasibleSet.of(log_probs.shape[1])} | options
    return Problem((CrossEntropy.from_log_probs(log_probs),), **options)


def gain_of(problem: Problem) -> Any:
    balanced = np.full(problem.sources, 1 / problem.sources)
    return gains(solve_problem(problem, tolerance=1e-11).point, {"balanced": balanced})["balanced"]


def test_limits_and_a_prior_leave_less_to_fit() -> None:
    log_probs = documents_of(*world(1, 7, planted=False), 1, 200)
    free = gain_of(of_table(log_probs)).optimism
    bound = FeasibleSet.of(7, 1 / 7 - 0.01, 1 / 7 + 0.01)
    grouped = FeasibleSet.of(7, groups=[Group([0, 1, 2], 0.43, 0.43), Group([3, 4], 0.28, 0.28)])
    fixed = FeasibleSet.of(7, 1 / 7, 1 / 7)
    assert gain_of(of_table(log_probs, feasible=fixed)).optimism == pytest.approx(0, abs=1e-12)
    assert gain_of(of_table(log_probs, feasible=bound)).optimism < 0.5 * free
    assert gain_of(of_table(log_probs, feasible=grouped)).optimism < 0.9 * free
    pulls = [gain_of(of_table(log_probs, prior=Prior.of(None, strength, 7))).optimism for strength in (1e-6, 0.1, 10.0)]
    assert free * 0.9 < pulls[0]
    assert pulls[0] > pulls[1] > pulls[2] > 0
    assert pulls[2] < 0.1 * free


def test_a_mean_over_targets_has_the_mean_of_their_moments() -> None:
    log_probs = documents_of(*world(2, 5, planted=False), 2, 300)
    rows = CrossEntropy.from_log_probs(log_probs)
    one, two = gain_of(of_table(log_probs)), gain_of(Problem((rows, rows), FeasibleSet.of(5), Mean.of(None, 2)))
    # Twice the same rows, drawn independently: as many documents again.
    assert two.optimism == pytest.approx(one.optimism / 2, rel=0.25)
    assert two.high - two.low < 0.85 * (one.high - one.low)


def test_rows_of_a_document_count_once() -> None:
    log_probs = documents_of(*world(3, 5, planted=True), 3, 150)
    alone = solve(log_probs).gain("balanced")
    tripled, ids = np.repeat(log_probs, 3, axis=0), np.repeat(np.arange(150), 3)
    together = mixray.solve(tripled, documents=ids).gain("balanced")
    apart = mixray.solve(tripled).gain("balanced")
    assert (together.estimate, together.low) == pytest.approx((alone.estimate, alone.low), rel=1e-3)
    assert apart.optimism == pytest.approx(alone.optimism / 3, rel=0.3)


def test_a_first_order_solver_has_the_optimism_of_newton() -> None:
    log_probs = documents_of(*world(4, 20, planted=True), 4, 200)
    exact, rough = (solve(log_probs, solver=solver, tolerance=1e-7).gain() for solver in ("newton", "entropic"))
    assert rough.optimism == pytest.approx(exact.optimism, rel=0.02)


def test_a_squared_error_has_a_gain() -> None:
    draw = np.random.default_rng(0)
    predictions = draw.normal(size=(100, 4))
    truth = predictions @ [0.4, 0.2, 0.2, 0.2] + draw.normal(0, 0.5, 100)
    problem = Problem((SquaredError.from_predictions(predictions, truth),), FeasibleSet.of(4))
    gain = gain_of(problem)
    # Least squares with 3 free shares: noise variance x 2 x 3 / n.
    assert gain.optimism == pytest.approx(0.25 * 2 * 3 / 100, rel=0.4)


def test_more_documents_are_named_where_they_would_tell() -> None:
    densities, target = world(5, 7, planted=True)
    clear = solve(documents_of(densities, target, 5, 2000)).gain()
    assert (clear.is_separated, clear.more_documents) == (True, 0)
    blended = 0.85 * densities.mean(axis=0) + 0.15 * target
    unclear = solve(documents_of(densities, blended, 5, 60)).gain()
    assert not unclear.is_separated
    assert unclear.more_documents is None or unclear.more_documents > 0
    same = solve(np.repeat(documents_of(densities, target, 5, 60)[:, :1], 3, axis=1)).gain()
    assert (same.estimate, same.more_documents) == (pytest.approx(0, abs=1e-12), None)


def test_a_larger_sample_of_the_size_named_tells_the_gain() -> None:
    densities, target = world(6, 7, planted=True)
    target = 0.7 * densities.mean(axis=0) + 0.3 * target
    needed = []
    for seed in range(20):
        gain = solve(documents_of(densities, target, seed, 150)).gain()
        needed.append(np.inf if gain.more_documents is None else 150 + gain.more_documents)
    enough = int(np.median(needed))
    told = sum(solve(documents_of(densities, target, seed, 2 * enough)).gain().low > 0 for seed in range(100, 110))
    assert told >= 7


def test_the_same_seed_gives_the_same_bits() -> None:
    log_probs = documents_of(*world(7, 5, planted=True), 7, 100)
    assert solve(log_probs).gain() == solve(log_probs).gain([0.2] * 5)


def test_one_document_has_no_interval() -> None:
    gain = solve(np.array([[-1.0, -2.0]])).gain()
    assert np.isnan([gain.low, gain.high]).all()
    assert not gain.is_separated


def test_the_solutions_interval_holds_its_shares() -> None:
    solution = solve(documents_of(*world(8, 4, planted=True), 8, 200))
    low, high = solution.interval.T
    assert solution.interval.shape == (4, 2)
    assert ((low <= solution.weights + 1e-9) & (solution.weights <= high + 1e-9)).all()
    assert (high - low).max() > 0.05


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        ("natural", "gain: not a valid baseline\n  got: 'natural'"),
        ([0.5, 0.6], "baseline baseline: not valid shares"),
        ([1.0, 0.0], "gives some rows probability 0"),
    ],
)
def test_refusals(baseline: Any, message: str) -> None:
    with np.errstate(divide="ignore"):
        solution = solve(np.log([[0.5, 0.5], [0.0, 1.0]]))
    with pytest.raises(InputError, match=message):
        solution.gain(baseline)


def test_too_few_replicates_are_refused() -> None:
    with pytest.raises(InputError, match="gains: too few replicates"):
        gains(solve(np.array([[-1.0, -2.0], [-2.0, -1.0]])).point, {}, replicates=1)


def test_a_point_of_another_problem_is_judged_by_that_problem() -> None:
    log_probs = documents_of(*world(9, 5, planted=True), 9, 100)
    solution = solve(log_probs)
    fixed = replace(solution.point.problem, feasible=FeasibleSet.of(5, solution.weights, solution.weights))
    gain = gains(fixed.at(solution.weights), {"balanced": np.full(5, 0.2)})["balanced"]
    assert gain.optimism == pytest.approx(0, abs=1e-12)
    assert gain.high - gain.low < solution.gain().high - solution.gain().low
