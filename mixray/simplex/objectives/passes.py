"""One pass over the rows of a table: what every block of rows adds, summed in an order that the table alone decides.

A block is as many rows as a core's cache nearly holds (smaller ones would wait for the interpreter's lock more often
than they work), and no fewer than there are sources: to add up its curvature, sources x sources numbers, is then not
the larger part of the work. The sums of blocks are added in pairs, pairs of pairs and so on (blocks 0-1, 2-3, ..., then
0-3, 4-7, ...), so any run of neighbouring blocks can be summed elsewhere, as a few partial sums, and the whole still
ends with the same bits. Sums are float64.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import chain, pairwise, takewhile
from threading import Event, Lock
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from mixray.simplex.checks import Matrix, Vector

BLOCK_BYTES = 2**21
SERIAL_ENTRIES = 2**20
"""Tables up to this size are not worth waking a thread for."""
RUNS_A_THREAD = 2
"""So that one that is held up leaves the rest to the others; each run costs a thread's waking."""

NARROW, STRIP = 32, 512
"""Up to the first number of columns BLAS multiplies two matrices, so many rows at a time, in half the time that it
takes for a block with itself, whose product is symmetric. And numpy lets other threads work only where a product has
more than 500 numbers, as those of many strips have together."""

Item = TypeVar("Item")
Result = TypeVar("Result")

Columns = NDArray[np.intp]
"""Numbers of sources, ascending."""
Span = tuple[int, int]
"""[start, stop) of a block's rows."""
Partial = tuple[int, int, Vector]
"""A partial sum: level, place and sum; it covers blocks [place << level, (place + 1) << level)."""


def block_rows(sources: int) -> int:
    """Return the rows of a block, which depend on the table's width alone."""
    return max(64, sources, BLOCK_BYTES // (8 * sources))


def blocks(rows: int, sources: int) -> list[Span]:
    """Return the spans of all blocks of a table."""
    size = block_rows(sources)
    return [(start, min(start + size, rows)) for start in range(0, rows, size)]


def summed(terms: Iterable[Vector], first: int = 0) -> list[Partial]:
    """Return partial sums of consecutive blocks from number ``first`` on: as few as can be had without knowing the
    others."""
    return joined((0, first + place, term) for place, term in enumerate(terms))


def joined(partials: Iterable[Partial]) -> list[Partial]:
    """Return neighbouring partial sums, in order, added wherever they are the two halves of a larger one."""
    stack: list[Partial] = []
    for partial in partials:
        level, place, total = partial
        while stack and stack[-1][0] == level and place % 2 == 1 and stack[-1][1] == place - 1:
            total = stack.pop()[2] + total
            level, place = level + 1, place // 2
        stack.append((level, place, total))
    return stack


def total(partials: Iterable[Partial]) -> Vector:
    """Return the sum of all blocks, from partial sums that together cover them, in order."""
    sums = [partial[2] for partial in joined(partials)]
    while len(sums) > 1:  # the last, incomplete pairs: from the right
        sums[-2:] = [sums[-2] + sums[-1]]
    return sums[0]


def added(
    work: Callable[[Item], Vector], items: Sequence[Item], entries: int, threads: int | None = None, first: int = 0
) -> list[Partial]:
    """Return the partial sums of ``work(item)``, the items consecutive blocks from number ``first`` on: each thread
    adds up runs of neighbours."""
    threads = threads or processors()
    runs = min(RUNS_A_THREAD * threads, len(items))
    edges = [len(items) * run // runs for run in range(runs + 1)]
    stopped = Event()

    def add(run: tuple[int, int]) -> list[Partial]:
        numbers = takewhile(lambda _: not stopped.is_set(), range(*run))
        return summed((work(items[number]) for number in numbers), first + run[0])

    try:
        return joined(chain.from_iterable(mapped(add, list(pairwise(edges)), entries, threads)))
    except BaseException:
        stopped.set()  # the other threads end with the block that they are at
        raise


def mapped(
    work: Callable[[Item], Result], items: Sequence[Item], entries: int, threads: int | None = None
) -> Iterator[Result]:
    """Yield ``work(item)`` of each, in order, by as many threads as this process has processors, or as given;
    ``entries``: the size of what they work on.

    BLAS keeps to one thread meanwhile: blocks are what runs side by side, and a block's bits depend on nothing else.
    """
    threads = threads or processors()
    with one_blas_thread():
        if entries <= SERIAL_ENTRIES or len(items) == 1 or threads == 1:
            yield from map(work, items)
        else:
            yield from _pool(threads).map(work, items)


def weighted_product(table: Matrix, row_weights: Vector, columns: Columns) -> Matrix:
    """Return ``table^T diag(row_weights) table`` over ``columns``, symmetric to the last bit."""
    rows, sources = table.shape
    if sources <= NARROW:  # to leave columns out would cost more than it saves
        scaled, whole = table * row_weights[:, None], rows - rows % STRIP
        left, right = (part[:whole].reshape(-1, STRIP, sources) for part in (table, scaled))
        product: Matrix = (left.transpose(0, 2, 1) @ right).sum(axis=0) + table[whole:].T @ scaled[whole:]
        product = (product + product.T) / 2
        return product if len(columns) == sources else product[np.ix_(columns, columns)]
    narrowed = table if len(columns) == sources else table[:, columns]
    scaled = narrowed * np.sqrt(row_weights)[:, None]
    return scaled.T @ scaled


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep BLAS to one thread inside the block.

    The limit holds for the whole process, whatever thread sets it. So solves that run side by side share it: the first
    sets it, and the last lifts it.
    """
    with _LIMIT.lock:
        if _LIMIT.users == 0:
            _LIMIT.limiter = _blas("scipy.linalg" in sys.modules).limit(limits=1, user_api="blas")
        _LIMIT.users += 1
    try:
        yield
    finally:
        with _LIMIT.lock:
            _LIMIT.users -= 1
            if _LIMIT.users == 0:
                _LIMIT.limiter.restore_original_limits()


class _Limit:
    """The process' limit on BLAS threads: how many blocks it holds for now, and what lifts it."""

    def __init__(self) -> None:
        self.lock, self.users, self.limiter = Lock(), 0, cast(Any, None)


_LIMIT = _Limit()


@cache
def _blas(_with_scipy: bool) -> Any:
    """Return the BLAS libraries that are loaded; scipy, where it is loaded, brings another one."""
    from threadpoolctl import ThreadpoolController

    np.ones((2, 2)) @ np.ones((2, 2))  # BLAS is loaded before it is asked for
    return ThreadpoolController()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="mixray-rows")
