"""Shares that can be trained on: against a solve for every set of sources, and the certificate of the others."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mixray.errors import InputError
from mixray.simplex import CrossEntropy, FeasibleSet, Group, Mean, Prior, Problem, Worst, realisable, solve_problem

Array = NDArray[np.float64]
LEAST, SOURCES = 0.06, 5
GOALS: dict[str, Any] = {"one": Mean.of(None, 1), "mean": Mean.of(None, 2), "worst": Worst.of(2)}
LIMITS: dict[str, FeasibleSet] = {
    "free": FeasibleSet.of(SOURCES),
    "bounds": FeasibleSet.of(SOURCES, [0.02, 0, 0, 0, 0], [1, 0.5, 0.03, 1, 1]),
    "groups": FeasibleSet.of(SOURCES, groups=[Group([0, 1], upper=0.5), Group([3, 4], lower=0.1)]),
}


def problem(goal: str = "one", limits: str = "free", seed: int = 0, prior: Prior | None = None) -> Problem:
    draw = np.random.default_rng(seed)
    favour = draw.dirichlet(np.full(SOURCES, 0.5)) * 4
    objectives = tuple(
        CrossEntropy.from_log_probs(draw.normal(-5, 1.5, (80, SOURCES)) + np.roll(favour, target))
        for target in range(1 if goal == "one" else 2)
    )
    return Problem(objectives, LIMITS[limits], GOALS[goal], prior)


def best_of_all(of: Problem, least: float) -> float:
    """Return the smallest value over mixtures of shares that are 0 or at least the least one: a solve per support."""
    values = []
    for kept in product([True, False], repeat=of.sources):
        lower = np.where(kept, np.maximum(of.feasible.lower, least), of.feasible.lower)
        upper = np.where(kept, of.feasible.upper, 0.0)
        try:
            feasible = replace(of.feasible, lower=lower).limited_to(upper)
        except InputError:
            continue
        values.append(solve_problem(replace(of, feasible=feasible), tolerance=1e-9).point.value)
    return min(values)


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("goal", GOALS)
def test_no_other_choice_of_sources_is_better(goal: str, limits: str) -> None:
    restricted = 0
    for seed in range(2):
        of = problem(goal, limits, seed)
        optimum = solve_problem(of, tolerance=1e-9)
        answer = realisable(optimum.point, LEAST, tolerance=1e-9)
        shares, feasible = answer.point.shares, of.feasible
        assert ((shares == 0) | (shares >= LEAST * (1 - 1e-9))).all()
        assert abs(shares.sum() - 1) <= 1e-12
        assert ((shares >= feasible.lower - 1e-12) & (shares <= feasible.upper + 1e-12)).all()
        assert answer.point.value == pytest.approx(best_of_all(of, LEAST), abs=1e-4)
        assert answer.rise == pytest.approx(answer.point.value - optimum.point.value, abs=1e-9)
        assert not set(answer.dropped) & set(answer.raised)
        assert (shares[list(answer.dropped)] == 0).all()
        assert (shares[list(answer.raised)] > 0).all()
        restricted += answer.rise > 1e-6
    assert restricted >= 1


def test_shares_that_can_be_trained_on_stay_as_they_are() -> None:
    optimum = solve_problem(problem()).point
    answer = realisable(optimum, 1e-9, tolerance=1e-9)
    assert answer.point is optimum
    assert (answer.rise, answer.dropped, answer.raised) == (0, (), ())


def test_a_tiny_share_that_documents_need_is_raised_and_its_price_stated() -> None:
    """Source 1 alone explains one document of the worst target; its likelihood needs next to no share."""
    table = np.full((100, 2), [-10.0, -1000.0])
    table[0] = [-2000.0, -10.0]
    other = np.full((100, 2), [-12.0, -13.0])
    of = Problem(tuple(map(CrossEntropy.from_log_probs, (table, other))), FeasibleSet.of(2), Worst.of(2))
    optimum = solve_problem(of).point
    assert 0 < optimum.shares[1] < 1e-3
    answer = realisable(optimum, 0.01, tolerance=1e-9)
    assert (answer.raised, answer.dropped) == ((1,), ())
    assert answer.point.shares.tolist() == pytest.approx([0.99, 0.01])
    assert answer.rise > 1e-4


def test_a_pull_to_a_prior_leaves_no_tiny_shares() -> None:
    of = problem(prior=Prior.of([0.96, 0.01, 0.01, 0.01, 0.01], 1.0, SOURCES))
    optimum = solve_problem(of).point
    assert (optimum.shares > 0).all()
    shares = realisable(optimum, LEAST, tolerance=1e-9).point.shares
    assert ((shares == 0) | (shares >= LEAST * (1 - 1e-9))).all()


def test_limits_that_no_window_fits_are_refused() -> None:
    of = replace(problem(), feasible=FeasibleSet.of(SOURCES, [0.02, 0, 0, 0, 0], [0.03, 1, 1, 1, 1]))
    with pytest.raises(InputError, match="only shares that no training window can have\n  got: source 0"):
        realisable(solve_problem(of).point, LEAST, tolerance=1e-9)
