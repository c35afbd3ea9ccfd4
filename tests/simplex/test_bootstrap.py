"""Error bars: every replicate against a solve of its own, the shapes that theory knows, the same bits twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mixray.errors import InputError
from mixray.simplex import (  # fmt: skip
    Bootstrap,
    CrossEntropy,
    FeasibleSet,
    Goal,
    Group,
    Mean,
    Prior,
    Problem,
    SquaredError,
    Worst,
    bootstrap,
    solve_problem,
)
from mixray.simplex.objectives.draws import Draws
from tests.simplex.cases import reweighted

Array = NDArray[np.float64]

SHARES = np.array([0.6, 0.3, 0.1])


def disjoint(documents: int) -> Array:
    """Every document belongs to one source: its share is a sample proportion."""
    counts = (SHARES * documents).round().astype(int)
    return np.where(np.eye(3)[np.repeat(range(3), counts)] > 0, 0.0, -np.inf)


def blurred(seed: int, documents: int = 300, sources: int = 4) -> Array:
    draw = np.random.default_rng(seed)
    return draw.normal(-30, 1.5, (documents, sources)) + np.linspace(0, 1.5, sources)


def of_table(log_probs: Array, row_weights: Any = None) -> Problem:
    return Problem((CrossEntropy.from_log_probs(log_probs, row_weights),), FeasibleSet.of(log_probs.shape[1]))


def several(seed: int, goal: Goal, **options: Any) -> Problem:
    """Three targets of 200, 250 and 300 documents, each with a favourite source."""
    draw = np.random.default_rng(seed)
    tables = [draw.normal(-30, 1.5, (200 + 50 * t, 4)) + np.eye(3, 4)[t] for t in range(3)]
    options = {"feasible": FeasibleSet.of(4)} | options
    return Problem(tuple(CrossEntropy.from_log_probs(table) for table in tables), goal=goal, **options)


def regression(seed: int) -> Problem:
    draw = np.random.default_rng(seed)
    predictions = draw.normal(size=(300, 4, 2))
    truth = np.einsum("rko,k->ro", predictions, [0.5, 0.3, 0.2, 0.0]) + draw.normal(0, 0.5, (300, 2))
    return Problem((SquaredError.from_predictions(predictions, truth),), FeasibleSet.of(4))


def test_the_shares_of_replicates_spread_as_proportions_do() -> None:
    resampled_shares = bootstrap(of_table(disjoint(1000)), SHARES, seed=0, replicates=2000).replicate_shares
    np.testing.assert_allclose(resampled_shares.std(axis=0), np.sqrt(SHARES * (1 - SHARES) / 1000), rtol=0.06)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "one target": lambda: of_table(blurred(1)),
    "bounds": lambda: replace(of_table(blurred(1)), feasible=FeasibleSet.of(4, [0, 0.1, 0, 0], [0.3, 1, 1, 1])),
    "groups": lambda: replace(
        of_table(blurred(1)), feasible=FeasibleSet.of(4, None, None, [Group([2, 3], upper=0.6), Group([0, 2], 0.3)])
    ),
    "prior": lambda: replace(of_table(blurred(1)), prior=Prior.of([0.1, 0.2, 0.3, 0.4], 0.05, 4)),
    "squared error": lambda: regression(1),
    "weighted sum": lambda: several(1, Mean.of([0.5, 0.2, 0.1], 3)),
    "weighted sum, groups": lambda: several(
        1, Mean.of(None, 3), feasible=FeasibleSet.of(4, None, None, [Group([0, 1], upper=0.5)])
    ),
    "worst": lambda: several(1, Worst.of(3, [0.0, 0.1, 0.0])),
    "worst, tau 0.1": lambda: several(1, Worst.of(3, None, [0.5, 0.3, 0.2], 0.1)),
    "worst, tau 5": lambda: several(1, Worst.of(3, None, [0.5, 0.3, 0.2], 5.0)),
    "many sources": lambda: of_table(blurred(1, sources=80)),
    "many sources, bounds": lambda: replace(
        of_table(blurred(1, sources=80)), feasible=FeasibleSet.of(80, [0.01] * 3 + [0] * 77, [0.2] * 80)
    ),
    "many sources, groups": lambda: replace(
        of_table(blurred(1, sources=80)), feasible=FeasibleSet.of(80, None, None, [Group([78, 79], upper=0.2)])
    ),
    "many sources, worst": lambda: Problem(
        tuple(CrossEntropy.from_log_probs(blurred(seed, 100, sources=80)) for seed in (1, 2)),
        FeasibleSet.of(80),
        Worst.of(2),
    ),
    "worst, prior": lambda: several(1, Worst.of(3, tau=0.1), prior=Prior.of(None, 0.05, 4)),
}


def resampled(problem: Problem, seed: int, replicate: int) -> Problem:
    """Return the problem of one replicate, every row of which is a document, written out."""
    objectives = []
    for target, objective in enumerate(problem.objectives):
        (times,) = Draws.of(seed, target, range(replicate, replicate + 1)).times(np.arange(objective.rows))
        objectives.append(reweighted(objective, times / times.sum()))
    return replace(problem, objectives=tuple(objectives))


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_replicate_is_the_optimum_of_its_draw(name: str) -> None:
    problem = PROBLEMS[name]()
    shares = solve_problem(problem).weights
    found = bootstrap(problem, shares, seed=5, replicates=8)
    counts = [target.rows for target in problem.objectives]
    weight = float(problem.at(shares).target_weights.sum())
    for number, replicate in enumerate(found.replicate_shares):
        own = resampled(problem, 5, number)
        best = solve_problem(own)
        assert abs(replicate.sum() - 1) <= 1e-12
        assert own.at(replicate).value <= best.point.value + found.gap + 1e-10
        np.testing.assert_allclose(replicate, best.weights, atol=1e-2)
    assert found.gap <= 1e-3 * weight / np.sqrt(min(counts))
    assert found.documents == sum(counts)


@pytest.mark.parametrize("unit", [1.0, 1e-2, 1e-4])
def test_predictions_that_hardly_differ_are_resampled_in_any_unit(unit: float) -> None:
    """The sources' predictions differ by ``unit`` times what a standard normal does, around a truth of spread 0.5."""
    draw = np.random.default_rng(3)
    common, own = draw.normal(size=(300, 1)), draw.normal(size=(300, 3))
    errors = unit * draw.normal(0, 0.5, 300)
    in_units = SquaredError.from_predictions(common + unit * own, common[:, 0] + unit * own @ [0.5, 0.3, 0.2] + errors)
    of = Problem((in_units,), FeasibleSet.of(3))
    spread = bootstrap(of, solve_problem(of, tolerance=1e-15).weights, seed=0).replicate_shares.std(axis=0)
    assert ((spread > 0.012) & (spread < 0.05)).all()


def test_rows_of_a_document_are_drawn_together() -> None:
    # Ten windows a document, all alike: as uncertain as the documents are, not ten times surer.
    documents = disjoint(100)
    alone = bootstrap(of_table(documents), SHARES, seed=0)
    ids = np.repeat(np.arange(100), 10)
    windows = CrossEntropy.from_log_probs(np.repeat(documents, 10, axis=0), document_ids=ids, token_counts=[7] * 1000)
    together = bootstrap(Problem((windows,), FeasibleSet.of(3)), SHARES, seed=0)
    assert together.documents == 100
    np.testing.assert_allclose(together.replicate_shares, alone.replicate_shares, atol=1e-3)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_same_seed_gives_the_same_bits(name: str) -> None:
    problem = PROBLEMS[name]()
    shares = solve_problem(problem).weights
    first, second, other = (bootstrap(problem, shares, seed=seed, replicates=4) for seed in (1, 1, 2))
    assert first.replicate_shares.tobytes() == second.replicate_shares.tobytes()
    assert first.replicate_shares.tobytes() != other.replicate_shares.tobytes()


@pytest.mark.parametrize("name", ["one target", "worst, tau 0.1"])
def test_batches_change_the_memory_and_not_the_draws(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = PROBLEMS[name]()
    shares = solve_problem(problem).weights
    whole = bootstrap(problem, shares, seed=1, replicates=20)
    monkeypatch.setattr(import_module("mixray.simplex.analysis.sampling"), "BATCH_ENTRIES", 2000)
    again: Bootstrap = bootstrap(problem, shares, seed=1, replicates=20)
    np.testing.assert_allclose(again.replicate_shares, whole.replicate_shares, atol=1e-9)


def test_documents_without_weight_never_leave_a_replicate_empty() -> None:
    found = bootstrap(of_table(np.log([[0.9, 0.1], [0.2, 0.8]]), [1.0, 0.0]), [1.0, 0.0], seed=0)
    np.testing.assert_allclose(found.replicate_shares, [[1, 0]] * 200, atol=1e-6)


def test_a_source_that_a_replicate_never_sees_gets_no_share_in_it() -> None:
    found = bootstrap(of_table(disjoint(10)), SHARES, seed=0, replicates=400)
    assert found.replicate_shares[:, 2].min() == pytest.approx(0, abs=1e-4)
    assert found.replicate_shares[:, 0].max() < 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"replicates": 0}, "bootstrap: no replicates\n  got: 0\n  wanted: >= 1"),
        ({"source_shares": [0.5, 0.5]}, "source_shares: not valid shares"),
    ],
)
def test_refusals(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        bootstrap(**{"problem": of_table(disjoint(10)), "source_shares": SHARES, "seed": 0} | arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"document_ids": [1, 2]}, r"document_ids: one per row is needed\n  got: shape \(2,\)\n  wanted: \(10,\)"),
        ({"token_counts": [1, 2]}, r"token_counts: one whole number per row is needed\n.*\n  wanted: \(10,\)"),
        ({"token_counts": [0] * 10}, "token_counts: no tokens in rows 0, 1, 2"),
    ],
)
def test_refusals_of_documents(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CrossEntropy.from_log_probs(np.zeros((10, 2)), **arguments)
