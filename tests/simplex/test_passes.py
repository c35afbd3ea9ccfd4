"""Sums over blocks: the same bits however runs of neighbouring blocks are split, and by however many threads."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from mixray.simplex import CrossEntropy, SquaredError, solve
from mixray.simplex.objectives import passes
from mixray.simplex.objectives.passes import added, block_rows, blocks, joined, mapped, one_blas_thread, summed, total

Array = NDArray[np.float64]


def uneven(seed: int, count: int) -> list[Array]:
    """Terms of very different size: another order of adding shows in the last bits."""
    draw = np.random.default_rng(seed)
    return list(draw.normal(size=(count, 7)) * 10.0 ** draw.integers(-8, 8, (count, 1)))


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.data())
def test_every_split_into_runs_gives_the_same_bits(seed: int, count: int, data: st.DataObject) -> None:
    terms = uneven(seed, count)
    inner = data.draw(st.sets(st.integers(1, count - 1))) if count > 1 else set()
    cuts = [0, *sorted(inner), count]
    runs = [summed(terms[first:last], first) for first, last in pairwise(cuts)]
    whole = total(summed(terms))
    assert total(partial for run in runs for partial in run).tobytes() == whole.tobytes()
    np.testing.assert_allclose(whole, np.sum(terms, axis=0), rtol=1e-9, atol=1e-6)


@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.data())
def test_runs_may_be_joined_before_they_reach_the_top(seed: int, count: int, data: st.DataObject) -> None:
    terms = uneven(seed, count)
    middle, last = sorted(data.draw(st.tuples(st.integers(1, count - 1), st.integers(1, count))))
    left, right = summed(terms[:middle]), summed(terms[middle:last], middle)
    rest = summed(terms[last:], last)
    assert total([*joined([*left, *right]), *rest]).tobytes() == total(summed(terms)).tobytes()


@given(st.integers(0, 100), st.integers(1, 40))
def test_a_run_is_as_few_partial_sums_as_its_place_allows(first: int, count: int) -> None:
    partials = summed([np.ones(1)] * count, first)
    covered = [(place << level, (place + 1) << level) for level, place, _ in partials]
    assert covered[0][0] == first
    assert covered[-1][1] == first + count
    assert all(stop == start for (_, stop), (start, _) in pairwise(covered))
    assert [int(term[0]) for *_, term in partials] == [stop - start for start, stop in covered]
    # Never two halves of one larger sum side by side.
    assert not any(a == b and m % 2 == 0 and n == m + 1 for (a, m, _), (b, n, _) in pairwise(partials))


@pytest.mark.parametrize("sources", [1, 7, 100, 2000, 10**6])
def test_blocks_cover_the_rows_once(sources: int) -> None:
    size = block_rows(sources)
    for rows in (1, size - 1, size, size + 1, 3 * size + 5):
        spans = blocks(rows, sources)
        assert [row for start, stop in spans for row in (start, stop)][1:-1] == [
            edge for stop in range(size, rows, size) for edge in (stop, stop)
        ]
        assert (spans[0][0], spans[-1][1]) == (0, rows)


@pytest.fixture
def many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every table is worth a thread, and there are more threads than processors."""
    pool = ThreadPoolExecutor(8)
    monkeypatch.setattr(passes, "SERIAL_ENTRIES", 0)
    monkeypatch.setattr(passes, "_pool", lambda _: pool)


@pytest.mark.parametrize("columns", [None, np.arange(12), np.array([1, 5, 6])], ids=["no curvature", "all", "some"])
def test_threads_change_no_bit(columns: NDArray[np.intp] | None, request: pytest.FixtureRequest) -> None:
    draw = np.random.default_rng(0)
    rows = 4 * block_rows(12) + 17
    table = draw.normal(-9, 3, (rows, 12))
    cross = CrossEntropy.from_log_probs(table, draw.exponential(size=rows) / rows)
    points = draw.dirichlet(np.ones(12), 3)

    def answers() -> list[bytes]:
        square = SquaredError.from_predictions(table, table[:, 0])  # its gram is read anew
        resampled = cross.replicates(0, 0, range(3)).at(points, np.arange(3), values=True)
        found = [*cross.at(points, columns), *square.at(points, columns), *resampled]
        parts = [(np.float64(at.value), at.gradient, at.curvature) for at in found]
        return [part.tobytes() for at in parts for part in at if part is not None]

    alone = answers()
    request.getfixturevalue("many_threads")
    assert answers() == alone


@pytest.mark.usefixtures("many_threads")
def test_blocks_come_back_in_order_and_errors_come_through() -> None:
    assert list(mapped(lambda number: 2 * number, range(50), 1)) == list(range(0, 100, 2))

    def fails(number: int) -> Array:
        if number == 30:
            raise ZeroDivisionError
        return np.zeros(1)

    with pytest.raises(ZeroDivisionError):
        list(mapped(fails, range(50), 1))
    with pytest.raises(ZeroDivisionError):
        added(fails, range(50), 1)


@pytest.mark.usefixtures("many_threads")
def test_after_an_error_no_thread_works_on() -> None:
    begun: list[int] = []

    def work(number: int) -> Array:
        begun.append(number)
        if number == 0:
            raise ZeroDivisionError
        time.sleep(0.01)
        return np.zeros(1)

    with pytest.raises(ZeroDivisionError):
        added(work, range(1000), 1, 2)
    time.sleep(0.1)
    assert len(begun) < 20


@pytest.mark.usefixtures("many_threads")
@pytest.mark.parametrize("first", [0, 1, 6])
@pytest.mark.parametrize("count", [1, 2, 7, 50])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_that_add_up_runs_make_the_same_partial_sums(first: int, count: int, threads: int) -> None:
    terms = uneven(0, count)
    found, alone = added(terms.__getitem__, range(count), 1, threads, first), summed(terms, first)
    assert [(level, place, term.tobytes()) for level, place, term in found] == [
        (level, place, term.tobytes()) for level, place, term in alone
    ]


def test_solves_side_by_side_leave_blas_the_threads_that_it_had() -> None:
    controller = ThreadpoolController()
    draw = np.random.default_rng(0)
    table = draw.normal(-10, 2, (4000, 6))
    alone = solve(table)
    with controller.limit(limits=2, user_api="blas"):
        before = [pool["num_threads"] for pool in controller.info() if pool["user_api"] == "blas"]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda _: solve(table), range(64)))
        after = [library["num_threads"] for library in controller.info() if library["user_api"] == "blas"]
    assert after == before
    assert all(solution.weights.tobytes() == alone.weights.tobytes() for solution in together)


def test_nested_limits_end_with_the_outermost_whichever_begins_first() -> None:
    controller = ThreadpoolController()

    def threads() -> set[int]:
        return {library["num_threads"] for library in controller.info() if library["user_api"] == "blas"}

    with controller.limit(limits=2, user_api="blas"):
        first, second = one_blas_thread(), one_blas_thread()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert threads() == {1}
        second.__exit__(None, None, None)
        assert threads() == {2}
