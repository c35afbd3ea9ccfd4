"""What a source and a limit are worth: against solving again without the one and with the other loosened."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

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
    Solution,
    SquaredError,
    Worst,
    bootstrap,
    effective_number,
    interchangeable,
    leave_one_out,
    shadow_prices,
    solve,
    solve_problem,
)

Array = NDArray[np.float64]
SOURCES = 5
GOALS: dict[str, Any] = {
    "one": Mean.of(None, 1),
    "mean": Mean.of([1.0, 3.0], 2),
    "worst": Worst.of(2),
    "smooth worst": Worst.of(2, tau=0.05),
}


def table(seed: int, rows: int = 150) -> Array:
    draw = np.random.default_rng(seed)
    return draw.normal(-5, 1, (rows, SOURCES)) + np.array([1.2, 1.0, 0.5, 0.0, -0.5])[np.roll(range(SOURCES), seed)]


def problem(goal: str, feasible: FeasibleSet, prior: Prior | None = None) -> Problem:
    targets = 1 if goal == "one" else 2
    objectives = tuple(CrossEntropy.from_log_probs(table(seed)) for seed in range(targets))
    return Problem(objectives, feasible, GOALS[goal], prior)


def best(of: Problem) -> Solution:
    return solve_problem(of, tolerance=1e-13)


Limits = dict[str, Any]
LIMITED: dict[str, Limits] = {
    "an upper bound": {"upper": [0.1, 0.3, 1, 1, 1]},
    "a lower bound": {"lower": [0, 0, 0, 0.1, 0.05]},
    "a group's cap": {"groups": [Group([0, 1], upper=0.4)]},
    "a group's floor": {"groups": [Group([3, 4], lower=0.3)]},
    "overlapping groups": {"groups": [Group([0, 1], upper=0.4), Group([1, 2], upper=0.35)]},
    "all": {"upper": [0.2, 1, 1, 1, 1], "lower": [0, 0, 0, 0, 0.1], "groups": [Group([0, 1, 2], upper=0.7)]},
    "a fixed share": {"lower": [0, 0.15, 0, 0, 0], "upper": [1, 0.15, 1, 1, 1]},
}
COINCIDING: dict[str, Limits] = {
    "a source and its group": {"upper": [0.1, 1, 1, 1, 1], "groups": [Group([0], upper=0.1)]},
    "a group twice": {"groups": [Group([0, 1], upper=0.4), Group([0, 1], upper=0.4)]},
    "a group and the rest": {"groups": [Group([0, 1], upper=0.4), Group([2, 3, 4], lower=0.6)]},
    "caps that fill their group": {"upper": [0.2, 0.2, 1, 1, 1], "groups": [Group([0, 1], upper=0.4)]},
    "caps that sum to 1": {"upper": [0.1, 0.2, 0.1, 0.2, 0.4]},
    "floors that sum to 1": {"lower": [0.1, 0.2, 0.1, 0.2, 0.4]},
    "nested groups": {"groups": [Group([0, 1], upper=0.3), Group([0, 1, 2], upper=0.3)]},
    "a fixed share and its group": {
        "lower": [0, 0.15, 0, 0, 0],
        "upper": [1, 0.15, 1, 1, 1],
        "groups": [Group([1], upper=0.15), Group([0, 1], upper=0.3)],
    },
}


def loosened(limits: Limits, kind: str, place: int, by: float) -> Limits:
    """The same limits, one of them wider."""
    if kind in ("lower", "upper"):
        values = list(limits[kind])
        values[place] += by if kind == "upper" else -by
        return limits | {kind: values}
    groups = list(limits["groups"])
    edge = "upper" if kind == "group_upper" else "lower"
    groups[place] = replace(groups[place], **{edge: getattr(groups[place], edge) + (by if edge == "upper" else -by)})
    return limits | {"groups": groups}


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("name", LIMITED | COINCIDING)
def test_a_price_is_what_loosening_the_limit_brings(name: str, goal: str) -> None:
    limits, step = (LIMITED | COINCIDING)[name], 1e-6
    here = best(problem(goal, FeasibleSet.of(SOURCES, **limits)))
    prices = shadow_prices(here.point)
    given = {"upper": "upper" in limits, "lower": "lower" in limits}
    given |= {"group_lower": "groups" in limits, "group_upper": "groups" in limits}
    priced = 0
    for kind, there_is in given.items():
        for place, price in enumerate(getattr(prices, kind) if there_is else []):
            edge = (
                limits[kind][place] if kind in limits else getattr(limits["groups"][place], kind.removeprefix("group_"))
            )
            if edge in (0.0, 1.0):
                assert price == 0
                continue
            wider = best(problem(goal, FeasibleSet.of(SOURCES, **loosened(limits, kind, place, step))))
            brought = (here.trace[-1, 0] - wider.trace[-1, 0]) / step
            assert price == pytest.approx(brought, rel=0.02, abs=2e-4)
            priced += price > 1e-3
    assert priced >= (name in LIMITED)


def test_without_active_limits_there_are_no_prices() -> None:
    prices = shadow_prices(best(problem("one", FeasibleSet.of(SOURCES, 0.0, 0.99))).point)
    assert not prices.lower.any()
    assert not prices.upper.any()


def test_a_prior_is_part_of_the_price() -> None:
    limits = {"upper": [0.2, 1, 1, 1, 1]}
    pull = Prior.of([0.6, 0.1, 0.1, 0.1, 0.1], 0.3, SOURCES)
    here = best(problem("one", FeasibleSet.of(SOURCES, **limits), pull))
    wider = best(problem("one", FeasibleSet.of(SOURCES, **loosened(limits, "upper", 0, 1e-5)), pull))
    assert shadow_prices(here.point).upper[0] == pytest.approx(
        (here.trace[-1, 0] - wider.trace[-1, 0]) / 1e-5, rel=1e-3
    )


@pytest.mark.parametrize("goal", GOALS)
def test_a_source_is_worth_what_solving_without_it_costs(goal: str) -> None:
    feasible = FeasibleSet.of(SOURCES, [0, 0, 0, 0.05, 0])
    here = best(problem(goal, feasible))
    found = leave_one_out(here, tolerance=1e-12)
    assert found[3] is None  # its lower bound needs it
    for source, worth in enumerate(found):
        if worth is None:
            continue
        upper = np.ones(SOURCES)
        upper[source] = 0.0
        without = best(problem(goal, FeasibleSet.of(SOURCES, feasible.lower, upper)))
        assert worth.worth == pytest.approx(without.trace[-1, 0] - here.trace[-1, 0], abs=1e-9)
        assert worth.weights[source] == 0
    assert max(worth.worth for worth in found if worth) > 0.01


def test_the_worths_interval_is_that_of_the_paired_documents_and_of_the_fit() -> None:
    here = best(problem("one", FeasibleSet.of(SOURCES)))
    objective = here.point.problem.objectives[0]
    assert isinstance(objective, CrossEntropy)
    worth = leave_one_out(here, tolerance=1e-12, replicates=4000)[0]
    assert worth is not None
    rises = 150 * (objective.row_losses(worth.weights) - objective.row_losses(here.weights))
    # A share that is fitted lowers the loss of 150 documents by about 1 / (2 x 150).
    half = 1.96 * np.sqrt(rises.var(ddof=1) / 150 + 1 / 150**2)
    middle = worth.worth - 1 / 300
    assert worth.interval == pytest.approx((max(0, middle - half), middle + half), rel=0.1, abs=1e-3)


@pytest.mark.parametrize("documents", [200, 800])
def test_the_intervals_of_small_sources_hold_their_worth(documents: int) -> None:
    """Of seven sources of known densities three make up a few percent of the target, two nothing."""
    shares = np.array([0.5, 0.3, 0.14, 0.04, 0.02, 0.0, 0.0])
    held = small = 0
    for seed in range(12):
        draw = np.random.default_rng(seed)
        densities = draw.dirichlet(np.ones(60), 7)
        target = shares @ densities
        population = solve_problem(
            Problem((CrossEntropy.from_log_probs(np.log(densities.T), target),), FeasibleSet.of(7)), tolerance=1e-10
        )
        truth = [0.0 if each is None else each.worth for each in leave_one_out(population, tolerance=1e-10)]
        kinds = draw.choice(60, documents, p=target)
        for source, worth in enumerate(leave_one_out(solve(np.log(densities.T[kinds])), tolerance=1e-9)):
            assert worth is not None
            if source > 2:
                held += worth.interval[0] <= truth[source] + 1e-8 and truth[source] <= worth.interval[1] + 1e-8
                small += 1
    assert held >= 0.9 * small


def test_the_only_source_cannot_be_left_out() -> None:
    assert leave_one_out(solve(np.array([[-1.0], [-2.0]])), tolerance=1e-9) == [None]


def test_the_effective_number_counts_equal_shares() -> None:
    assert effective_number(np.full(7, 1 / 7)) == pytest.approx(7)
    assert effective_number(np.array([1.0, 0.0])) == 1
    assert 1 < effective_number(np.array([0.9, 0.1])) < 2


def test_sources_with_nearly_the_same_rows_are_interchangeable_and_others_are_not() -> None:
    log_probs = table(0)
    log_probs[:, 3] = log_probs[:, 0] + np.random.default_rng(1).normal(0, 0.1, len(log_probs))
    of = Problem((CrossEntropy.from_log_probs(log_probs),), FeasibleSet.of(SOURCES))
    here = best(of)
    pairs = interchangeable(here.point, bootstrap(of, here.weights, seed=0).replicate_shares)
    assert [(pair.first, pair.second) for pair in pairs] == [(0, 3)]
    assert pairs[0].correlation < -0.8


def test_equal_columns_are_interchangeable_whatever_the_replicates_say() -> None:
    log_probs = table(0)[:, [0, 1, 2, 0]]
    of = Problem((CrossEntropy.from_log_probs(log_probs),), FeasibleSet.of(4))
    here = best(of)
    pairs = interchangeable(here.point, bootstrap(of, here.weights, seed=0, replicates=50).replicate_shares)
    assert (0, 3) in [(pair.first, pair.second) for pair in pairs]


def test_well_separated_sources_are_not_interchangeable() -> None:
    separate = np.where(np.eye(3)[np.repeat(range(3), [400, 300, 300])] > 0, 0.0, -20.0)
    of = Problem((CrossEntropy.from_log_probs(separate),), FeasibleSet.of(3))
    here = best(of)
    assert interchangeable(here.point, bootstrap(of, here.weights, seed=0).replicate_shares) == []


def pairs_of(log_probs: Array) -> list[tuple[int, int]]:
    of = Problem((CrossEntropy.from_log_probs(log_probs),), FeasibleSet.of(log_probs.shape[1]))
    here = best(of)
    found = interchangeable(here.point, bootstrap(of, here.weights, seed=0).replicate_shares)
    return [(pair.first, pair.second) for pair in found]


def test_two_sources_that_share_everything_are_told_apart_by_their_documents() -> None:
    """Two shares that sum to 1 rise and fall against each other whatever the documents say."""
    separate = np.where(np.eye(2)[np.repeat(range(2), [50, 50])] > 0, 0.0, -1000.0)
    assert pairs_of(separate) == []
    # The same documents, each with a trace of a preference: any split will do.
    assert pairs_of(separate * 3e-4) == [(0, 1)]


def test_worth_and_prices_of_a_squared_error() -> None:
    draw = np.random.default_rng(0)
    predictions = draw.normal(size=(80, 3))
    objective = SquaredError.from_predictions(predictions, predictions @ [0.7, 0.2, 0.1] + 0.1 * draw.normal(size=80))
    here = best(Problem((objective,), FeasibleSet.of(3, None, [0.5, 1, 1])))
    wider = best(Problem((objective,), FeasibleSet.of(3, None, [0.5 + 1e-5, 1, 1])))
    assert shadow_prices(here.point).upper[0] == pytest.approx((here.loss - wider.loss) / 1e-5, rel=1e-3)
    worth = leave_one_out(here, tolerance=1e-12)[0]
    assert worth is not None
    assert worth.worth > 0.1
