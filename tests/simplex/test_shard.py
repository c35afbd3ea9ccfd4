"""Rows in parts, rounded to float32: in memory or in a scratch file, the sums have the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import exp, factorial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixray.errors import InputError, StageError
from mixray.simplex import CrossEntropy, FeasibleSet, Mean, Problem, Worst, solve_problem
from mixray.simplex.objectives.cross_entropy import evaluations
from mixray.simplex.objectives.draws import THRESHOLDS, Draws
from mixray.simplex.objectives.passes import block_rows, blocks, total
from mixray.simplex.objectives.shard import Shard, shard_spans
from tests.simplex.cases import reweighted

SOURCES = 128
ROWS = 4 * block_rows(SOURCES) + 100


@pytest.fixture(scope="module")
def table() -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities whose rows differ by hundreds of nats, some -inf, and row weights."""
    draw = np.random.default_rng(0)
    log_probs = -300 * draw.random((ROWS, 1)) + 20 * draw.standard_normal((ROWS, SOURCES))
    log_probs[draw.random((ROWS, SOURCES)) < 0.01] = -np.inf
    return log_probs, draw.random(ROWS) / ROWS


def pieces(log_probs: np.ndarray, row_weights: np.ndarray, start: int, stop: int, size: int) -> Iterator[Any]:
    for first in range(start, stop, size):
        part = slice(first, min(first + size, stop))
        yield log_probs[part], row_weights[part], None, None


def load(table: tuple[np.ndarray, np.ndarray], first: int, last: int, size: int = 1000, **options: Any) -> Shard:
    spans = blocks(*table[0].shape)[first:last]
    chunks = pieces(*table, spans[0][0], spans[-1][1], size)
    return Shard.load(chunks, spans, first, table[0].shape[1], **{"memory": 2**30, **options})


def rounded(log_probs: np.ndarray, row_weights: np.ndarray, allowed: np.ndarray | None = None) -> CrossEntropy:
    """The same in one piece."""
    return CrossEntropy.from_log_probs(log_probs, row_weights, allowed, dtype=np.float32)


POINTS = np.random.default_rng(1).dirichlet(np.ones(SOURCES), 3)
COLUMNS = np.array([0, 3, 100])


@pytest.mark.parametrize("shards", [1, 2, 3, 9])
@pytest.mark.parametrize("memory", [2**30, 0])
@pytest.mark.parametrize("size", [70, 5000])
def test_the_sums_have_the_bits_of_one_table(table: Any, shards: int, memory: int, size: int) -> None:
    whole = rounded(*table)
    parts = [load(table, *span, size=size, memory=memory) for span in shard_spans(*table[0].shape, shards)]
    assert all(part.in_memory == bool(memory) for part in parts)
    weight, offset, _ = total(partial for part in parts for partial in part.weight_sums())
    assert weight == whole.total_weight
    for columns in (None, COLUMNS):
        sums = total(partial for part in parts for partial in part.sums(POINTS, columns))
        found = evaluations(sums, offset, len(POINTS), SOURCES, columns)
        for ours, theirs in zip(found, whole.at(POINTS, columns), strict=True):
            assert ours.value == theirs.value
            np.testing.assert_array_equal(ours.gradient, theirs.gradient)
            np.testing.assert_array_equal(ours.curvature, theirs.curvature)
    losses = np.concatenate([part.row_losses(POINTS[0]) for part in parts])
    np.testing.assert_allclose(losses, whole.row_losses(POINTS[0]), rtol=1e-6, atol=1e-9)  # rounded, exact


@pytest.mark.parametrize("memory", [2**30, 0])
def test_single_losses_are_those_of_the_rows_before_rounding(table: Any, memory: int) -> None:
    """Where a row is a thousand nats below its largest, and where a source cannot explain a row that does not count."""
    log_probs, row_weights = table[0].copy(), table[1].copy()
    log_probs[5] = 0
    log_probs[5, 3:6] = -1000
    log_probs[:, 7] = np.where(np.isneginf(log_probs[:, 7]), -1, log_probs[:, 7])
    log_probs[9, 7] = -np.inf
    row_weights[9] = 0
    found = []
    for shards in (1, 3):
        spans = shard_spans(ROWS, SOURCES, shards)
        parts = [load((log_probs, row_weights), *span, memory=memory) for span in spans]
        found.append(total(partial for part in parts for partial in part.single_losses()))
    np.testing.assert_array_equal(*found)
    exact = CrossEntropy.from_log_probs(log_probs, row_weights).single_losses()
    assert np.isfinite(exact[7])
    assert np.isinf(exact).any()
    np.testing.assert_allclose(found[0], exact, rtol=1e-12)


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_no_bit(table: Any, threads: int) -> None:
    one, many = load(table, 0, 5), load(table, 0, 5, threads=threads)
    np.testing.assert_array_equal(total(one.sums(POINTS, COLUMNS)), total(many.sums(POINTS, COLUMNS)))


def test_rounding_costs_less_than_one_part_in_ten_million(table: Any) -> None:
    exact = CrossEntropy.from_log_probs(*table).at(POINTS)
    for ours, theirs in zip(rounded(*table).at(POINTS), exact, strict=True):
        assert abs(ours.value - theirs.value) < 6e-8 * table[1].sum()


def test_documents_are_drawn_as_poisson_says_and_independently() -> None:
    documents, draws = np.arange(200_000), Draws.of(3, 0, range(4))
    times = draws.times(documents)
    found = [(times == k).mean() for k in range(6)]
    np.testing.assert_allclose(found, [exp(-1) / factorial(k) for k in range(6)], atol=2e-3)
    assert abs(np.corrcoef(times) - np.eye(4)).max() < 0.01
    assert abs(np.corrcoef(times[0, 1:], times[0, :-1])[0, 1]) < 0.01
    assert THRESHOLDS.dtype == np.uint32
    assert (np.diff(THRESHOLDS.astype(np.int64)) > 0).all()


def test_a_draw_is_the_same_wherever_it_is_made() -> None:
    documents, draws = np.arange(1000), Draws.of(3, 1, range(10, 20))
    times = draws.times(documents)
    np.testing.assert_array_equal(times[:, 300:400], draws.times(documents[300:400]))
    np.testing.assert_array_equal(times[4:5], Draws.of(3, 1, range(14, 15)).times(documents))
    assert (times != Draws.of(4, 1, range(10, 20)).times(documents)).any()
    assert (times != Draws.of(3, 2, range(10, 20)).times(documents)).any()


@pytest.mark.parametrize("memory", [2**30, 0])
@pytest.mark.parametrize("grouped", [False, True])
def test_replicates_have_the_sums_of_reweighted_rows(table: Any, memory: int, grouped: bool) -> None:
    log_probs, row_weights = table
    document = np.arange(ROWS) // 3 if grouped else np.arange(ROWS)
    row_tokens = np.random.default_rng(2).random(ROWS)

    def chunks(start: int, stop: int) -> Iterator[Any]:
        for log_probs_part, weights_part, _, _ in pieces(log_probs, row_weights, start, stop, 777):
            here = slice(start, start + len(weights_part))
            yield (
                (log_probs_part, weights_part, document[here], row_tokens[here])
                if grouped
                else (log_probs_part, weights_part, None, None)
            )
            start = here.stop

    def parts(shards: int) -> Iterator[Shard]:
        for first, last in shard_spans(ROWS, SOURCES, shards):
            spans = blocks(ROWS, SOURCES)[first:last]
            yield Shard.load(chunks(spans[0][0], spans[-1][1]), spans, first, SOURCES, memory=memory)

    one, three = list(parts(1)), list(parts(3))
    assert all(part.in_memory == bool(memory) for part in three)

    def both(method: str, *arguments: Any) -> np.ndarray:
        found, again = (
            total(partial for part in split for partial in getattr(part, method)(*arguments)) for split in (one, three)
        )
        np.testing.assert_array_equal(found, again)
        return found

    draws = replace(Draws.of(0, 0, range(3)), scale=np.array([1.0, 2.0, 0.5]))
    times, whole = draws.times(document), rounded(*table)
    expected = [reweighted(whole, own, np.float32) for own in times * draws.scale[:, None] * row_weights]
    values = evaluations(both("replicate_sums", POINTS, draws, True), 0.0, 3, SOURCES, None)
    weights, offsets, tokens = both("weight_sums", draws).reshape(3, 3)
    for i, rows in enumerate(expected):
        (theirs,) = rows.at(POINTS[i : i + 1], COLUMNS)
        assert values[i].value == pytest.approx(theirs.value, rel=1e-12)
        np.testing.assert_allclose(values[i].gradient, theirs.gradient, rtol=1e-12)
        sums = both("sums", POINTS[i : i + 1], COLUMNS, draws.select(np.array([i])))
        (alone,) = evaluations(sums, float(offsets[i]), 1, SOURCES, COLUMNS)
        assert alone.value == pytest.approx(theirs.value, rel=1e-12)
        np.testing.assert_allclose(alone.curvature, theirs.curvature, rtol=1e-12)
    np.testing.assert_allclose(weights, [rows.total_weight for rows in expected], rtol=1e-12)
    wanted_tokens = times @ (row_tokens if grouped else np.ones(ROWS)) * draws.scale
    np.testing.assert_allclose(tokens, wanted_tokens, rtol=1e-12)
    assert both("weight_sums")[2] == pytest.approx(row_tokens.sum() if grouped else ROWS)
    losses = both("losses", POINTS, draws).reshape(3, 3)
    wanted = [[rows.at(point[None])[0].value for point in POINTS] for rows in expected]
    np.testing.assert_allclose(losses, wanted, rtol=1e-12)


def test_excluded_sources_do_not_scale_the_rows(table: Any) -> None:
    log_probs, row_weights = table[0].copy(), table[1]
    log_probs[:, 0] += 1e4
    allowed = np.arange(SOURCES) > 0
    shares = np.full(SOURCES, 1 / (SOURCES - 1))
    shares[0] = 0
    shard = load((log_probs, row_weights), 0, 5, allowed=allowed)
    sums, (_, offset, _) = total(shard.sums(shares[None], None)), total(shard.weight_sums())
    whole = rounded(log_probs, row_weights, allowed)
    assert sums[0] + offset == whole.at(shares[None])[0].value


def test_shards_are_whole_blocks_and_all_of_them() -> None:
    assert shard_spans(ROWS, SOURCES, 1) == [(0, 5)]
    assert shard_spans(ROWS, SOURCES, 3) == [(0, 1), (1, 3), (3, 5)]
    assert shard_spans(ROWS, SOURCES, 100) == [(i, i + 1) for i in range(5)]


@pytest.mark.parametrize(
    ("fault", "message"),
    [(np.nan, "hold NaN"), (np.inf, r"hold \+inf"), (-np.inf, "have probability 0 under every allowed source")],
)
def test_bad_rows_are_named_by_their_number_among_all(table: Any, fault: float, message: str) -> None:
    log_probs, row_weights = table[0].copy(), table[1]
    bad = block_rows(SOURCES) + 17
    log_probs[bad] = fault
    with pytest.raises(InputError, match=message) as caught:
        load((log_probs, row_weights), 1, 3)
    assert f"row {bad}" in str(caught.value)


def test_bad_weights_are_named_too(table: Any) -> None:
    row_weights = table[1].copy()
    row_weights[3000] = -1
    with pytest.raises(InputError, match="the weight of row 3000 is not a valid weight"):
        load((table[0], row_weights), 0, 5)


def test_scratch_space_that_cannot_be_written(table: Any, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="cannot be written to scratch space") as caught:
        load(table, 0, 5, memory=0, scratch=str(tmp_path / "absent"))
    assert str(tmp_path / "absent") in str(caught.value)


def test_the_scratch_file_has_no_name(table: Any, tmp_path: Path) -> None:
    shard = load(table, 0, 5, memory=0, scratch=str(tmp_path))
    assert not shard.in_memory
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("goal", ["one target", "weighted sum", "worst"])
def test_the_gap_holds_what_float32_hides(goal: str) -> None:
    """Source 1 is likelier by less than float32 can tell, so that a mixture seems as good."""
    table = np.array([[-2.8e-8, 0.0], [-2.5e-8, 0.0]]) - 3
    exact, rounded_ = (
        CrossEntropy.from_log_probs(table, [0.7, 0.3], dtype=dtype) for dtype in (np.float64, np.float32)
    )
    targets, of_goal = {
        "one target": (1, Mean.of([1.0], 1)),
        "weighted sum": (2, Mean.of([0.5, 2.0], 2)),
        "worst": (2, Worst.of(2)),
    }[goal]
    stored, given = (Problem((rows,) * targets, FeasibleSet.of(2), of_goal) for rows in (rounded_, exact))
    solution = solve_problem(stored)
    above = given.loss(solution.weights) - given.loss(np.array([0.0, 1.0]))
    weight = 1.0 if goal != "weighted sum" else 2.5
    assert 1e-8 < above <= solution.gap <= 2e-7 * weight
    assert (solution.status, solution.point.gap) == ("converged", pytest.approx(0, abs=1e-8))
    assert solve_problem(given).gap <= 1e-8
