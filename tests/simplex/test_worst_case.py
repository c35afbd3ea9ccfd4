"""The worst case of several targets: solved where documents are long, and error bars that move with the offsets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mixray.simplex import (
    BestMixture,
    BestSingle,
    CrossEntropy,
    FeasibleSet,
    Prior,
    Problem,
    Worst,
    gains,
    profile_intervals,
    solve_problem,
)
from mixray.simplex.solvers.loop import minimise
from mixray.simplex.solvers.newton import Newton

Array = NDArray[np.float64]


def long_documents(seed: int, documents: int, spread: float, tau: float, strength: float) -> Problem:
    """Three targets of documents of thousands of nats, which tell seven sources apart by ``spread`` nats."""
    draw = np.random.default_rng([seed, documents, 7])
    objectives = tuple(CrossEntropy.from_log_probs(draw.normal(-3000, spread, (documents, 7))) for _ in range(3))
    offsets = [objective.single_losses().min() for objective in objectives] if seed % 2 else None
    return Problem(objectives, FeasibleSet.of(7), Worst.of(3, offsets, None, tau), Prior.of(None, strength, 7))


@pytest.mark.parametrize(
    ("documents", "spread", "tau", "strength"),
    [(20, 30, 0, 0), (20, 100, 0, 0), (20, 30, 1e-12, 0), (5, 100, 0, 1e-3), (5, 30, 0, 1e-2), (5, 30, 0, 1e-4)],
)
def test_long_documents_are_solved(documents: int, spread: float, tau: float, strength: float) -> None:
    for seed in range(25):
        solution = solve_problem(long_documents(seed, documents, spread, tau, strength), tolerance=1e-8)
        assert solution.status == "converged", seed


def kinked(seed: int) -> Problem:
    """A plain maximum of three targets, which Newton's method often leaves before it is solved."""
    draw = np.random.default_rng([seed, 15])
    objectives = tuple(CrossEntropy.from_log_probs(draw.normal(-3000, 30, (10, 15))) for _ in range(3))
    return Problem(objectives, FeasibleSet.of(15), Worst.of(3))


def test_the_answer_is_the_best_certified_point() -> None:
    ended_early = 0
    for seed in range(12):
        solution = solve_problem(kinked(seed), max_rounds=25)
        rounding = 32 * np.spacing(solution.trace[0, 0])
        assert solution.point.value <= solution.trace[:, 0].min() + max(rounding, solution.gap)
        level = solution.trace[:, 0] <= solution.point.value
        assert solution.gap <= solution.trace[level, 1].min()
        ended_early += solution.status != "converged"
    assert ended_early > 0


def test_no_round_of_newtons_method_raises_the_value() -> None:
    for seed in range(12):
        trace = minimise(kinked(seed), Newton(), np.full(15, 1 / 15), 1e-9, 25).trace
        assert (np.diff(trace[:, 0]) <= 64 * np.spacing(trace[0, 0])).all()


def world(seed: int, documents: int, rule: str) -> Problem:
    """Two targets of two kinds of documents; a document's difficulty, alike under both sources, varies widely."""
    draw = np.random.default_rng(seed)
    objectives = []
    for likes in ([2.0, 0.0], [0.0, 2.0]):
        favoured = draw.random(documents) < 0.7
        lean = np.where(favoured[:, None], likes, likes[::-1])
        objectives.append(CrossEntropy.from_log_probs(draw.normal(-40, 10, (documents, 1)) + lean))
    feasible = FeasibleSet.of(2)
    offsets: Any = BestSingle(tuple(objectives)) if rule == "single" else BestMixture(tuple(objectives), feasible)
    return Problem(tuple(objectives), feasible, replace(Worst.of(2, offsets.full()), rule=offsets))


@pytest.mark.parametrize("rule", ["single", "mixture"])
def test_intervals_are_as_wide_as_fresh_samples_spread(rule: str) -> None:
    fresh = np.array([solve_problem(world(seed, 200, rule)).weights[0] for seed in range(40)])
    problem = world(1000, 200, rule)
    low, high = profile_intervals(solve_problem(problem).point, seed=0)[0]
    assert (high - low) / (2 * 1.96) == pytest.approx(fresh.std(), rel=0.4)
    assert high - low < 0.5
    fixed = replace(problem, goal=replace(problem.goal, rule=None))
    assert np.diff(profile_intervals(solve_problem(fixed).point, seed=0)[0])[0] > 1.5 * (high - low)


def test_a_replicates_offsets_are_those_of_its_documents() -> None:
    for rule in ("single", "mixture"):
        problem = world(0, 50, rule)
        assert isinstance(problem.goal, Worst)
        assert problem.goal.rule is not None
        batch = [target.replicates(3, place, range(4)) for place, target in enumerate(problem.objectives)]
        offsets = problem.goal.rule.replicated(batch)
        for number in range(4):
            for place, replicates in enumerate(batch):
                one = replicates.one(number)
                if rule == "single":
                    by_hand = min(one.at(single[None])[0].value for single in np.eye(2))
                else:
                    by_hand = solve_problem(Problem((one,), problem.feasible)).loss
                assert offsets[number, place] == pytest.approx(by_hand, abs=1e-3)


def test_the_gain_knows_that_equal_losses_are_not_equal_on_fresh_documents() -> None:
    """Three targets between which the fit finds a balance that others' documents do not have."""
    held, problems = 0, 25
    for seed in range(problems):
        draw = np.random.default_rng([seed, 3])
        densities = draw.dirichlet(np.ones(60), 5)
        targets = [draw.dirichlet(np.full(5, 0.5)) @ densities for _ in range(3)]
        samples = [np.log(densities.T[draw.choice(60, 200, p=target)]) for target in targets]
        objectives = tuple(map(CrossEntropy.from_log_probs, samples))
        solution = solve_problem(Problem(objectives, FeasibleSet.of(5), Worst.of(3)))
        balanced = np.full(5, 0.2)

        def worst(shares: Array, densities: Array = densities, targets: list[Array] = targets) -> float:
            return max(-float(target @ np.log(shares @ densities)) for target in targets)

        gain = gains(solution.point, {"balanced": balanced})["balanced"]
        held += gain.low <= worst(balanced) - worst(solution.weights) <= gain.high
    assert held >= 20
