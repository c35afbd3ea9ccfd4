"""Some of the rows of a cross entropy: what one process of many keeps and sums.

A shard is a run of whole blocks, numbered over all rows, with the likelihoods divided by each row's largest and
rounded to float32. It answers with partial sums, from which whoever joins them, in order, gets the same bits for any
number of shards.

What float32 costs: a likelihood is off by at most 6e-8 of itself, under any mixture, hence a row's loss by at most 6e-8
nats, and the loss by 6e-8 nats times the mean rows per token: less than that per token, and in practice far less, for
errors have both signs. Entries below 1.2e-38 of their row's largest become 0. Sums are float64: the answer is that of
the rounded table to the last digits.

Rows that do not fit the memory allowed lie in a scratch file without a name, which ends with its process however that
ends. It is mapped block by block, only for as long as a block is worked on: the process never holds more of it.
"""

from __future__ import annotations

import mmap
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import IO

import numpy as np
from numpy.typing import NDArray

from mixray.errors import InputError, StageError
from mixray.simplex.checks import Mask, Matrix, Vector, checked_log_probs, name_rows, refuse_rows
from mixray.simplex.cross_entropy import FLOOR, cross_entropy_sums, rescaled, weight_sums
from mixray.simplex.objective import Columns
from mixray.simplex.passes import Partial, blocks, mapped, summed

SMALLEST = np.finfo(np.float32).tiny
"""Smaller float32 numbers have fewer digits, and cost a processor a hundred times what others do."""
WORKING_BYTES = 256 * 2**20
"""What a shard's process needs beside its rows: the interpreter with its libraries, the block being worked on."""

Chunk = tuple[NDArray[np.floating], Vector]
"""Consecutive rows: log-probabilities ``(rows, sources)`` in nats, and row weights ``(rows,)``."""


@dataclass(frozen=True, eq=False)
class Block:
    """``likelihood``: float32 ``(rows, sources)``; ``row_max`` and ``row_weights``: float64 ``(rows,)``."""

    likelihood: NDArray[np.float32]
    row_max: Vector
    row_weights: Vector


def shard_spans(rows: int, sources: int, shards: int) -> list[tuple[int, int]]:
    """[first, last) block of every shard; fewer shards where there are fewer blocks."""
    count = len(blocks(rows, sources))
    shards = min(shards, count)
    edges = [count * shard // shards for shard in range(shards + 1)]
    return list(pairwise(edges))


class Shard:
    """``first``: the number of its first block; ``stored``: its blocks, in order."""

    def __init__(self, first: int, stored: Sequence[Block], threads: int = 1) -> None:
        self._first, self._stored, self._threads = first, stored, threads
        self._size = sum(block.likelihood.size for block in stored)

    @classmethod
    def load(
        cls,
        chunks: Iterable[Chunk],
        spans: Sequence[tuple[int, int]],
        first: int,
        sources: int,
        *,
        memory: int,
        scratch: str | None = None,
        allowed: Mask | None = None,
        threads: int = 1,
    ) -> Shard:
        """The shard of the rows that ``chunks`` bring, in order.

        ``spans``: [start, stop) of its blocks among all rows; ``first``: the number of the first block; ``memory``:
        bytes that its rows may take, beyond which they go to a file in the folder ``scratch`` (the system's for
        temporary files by default); ``allowed``: the sources whose share may be above 0, all by default.

        Raises InputError, naming rows, for what ``CrossEntropy.from_log_probs`` refuses; StageError where the scratch
        file cannot be written.
        """
        excluded = None if allowed is None or allowed.all() else ~allowed
        ready = (
            _block(log_probs, row_weights, excluded, start)
            for (start, _), (log_probs, row_weights) in zip(spans, _by_span(chunks, spans, sources), strict=True)
        )
        fits = sum(_record_bytes(stop - start, sources) for start, stop in spans) <= memory
        stored = _in_memory(ready, spans, sources) if fits else _Scratch(ready, spans, sources, scratch)
        return cls(first, stored, threads)

    @property
    def in_memory(self) -> bool:
        return not isinstance(self._stored, _Scratch)

    def sums(self, points: Matrix, columns: Columns | None) -> list[Partial]:
        """Partial sums of value, gradient and curvature at every point, as ``cross_entropy_sums`` lays them out."""

        def work(block: Block) -> Vector:
            return cross_entropy_sums(block.likelihood, block.row_weights, points, columns)

        return summed(self._each(work, self._size * len(points)), self._first)

    def weight_sums(self) -> list[Partial]:
        """Partial sums of the row weights and of the loss's offset."""
        return summed(self._each(lambda block: weight_sums(block.row_weights, block.row_max), 0), self._first)

    def row_losses(self, source_shares: Vector) -> Vector:
        """What each of its rows adds to the value."""

        def work(block: Block) -> Vector:
            mixed = np.maximum(block.likelihood @ source_shares, FLOOR)
            return -block.row_weights * (np.log(mixed) + block.row_max)

        return np.concatenate(list(self._each(work, self._size)))

    def _each(self, work: Callable[[Block], Vector], entries: int) -> Iterator[Vector]:
        numbers = [(number, number + 1) for number in range(len(self._stored))]
        return mapped(lambda number, _: work(self._stored[number]), numbers, entries, self._threads)


def _by_span(
    chunks: Iterable[Chunk], spans: Sequence[tuple[int, int]], sources: int
) -> Iterator[tuple[Matrix, Vector]]:
    """The rows again, a block at a time, in float64: a block's bits do not depend on how its rows came."""
    source = iter(chunks)
    log_probs, row_weights = np.empty((0, sources)), np.empty(0)
    for start, stop in spans:
        table, weights, filled = np.empty((stop - start, sources)), np.empty(stop - start), 0
        while filled < stop - start:
            if not len(log_probs):
                log_probs, row_weights = next(source)  # type: ignore[assignment]
            taken = min(len(log_probs), stop - start - filled)
            table[filled : filled + taken], log_probs = log_probs[:taken], log_probs[taken:]
            weights[filled : filled + taken], row_weights = row_weights[:taken], row_weights[taken:]
            filled += taken
        yield table, weights


def _block(log_probs: Matrix, row_weights: Vector, excluded: Mask | None, first: int) -> Block:
    checked_log_probs(log_probs, first)
    bad = np.flatnonzero(~(np.isfinite(row_weights) & (row_weights >= 0)))
    if bad.size:
        raise InputError(
            f"row_weights: the weight of {name_rows(first + bad)} is no weight",
            got=row_weights[bad[0]],
            wanted="finite, >= 0",
        )
    row_max = rescaled(log_probs, excluded)
    refuse_rows(np.isneginf(row_max), "have probability 0 under every allowed source", first)
    np.multiply(log_probs, log_probs >= SMALLEST, out=log_probs)
    return Block(log_probs.astype(np.float32), row_max, row_weights)


def _in_memory(ready: Iterable[Block], spans: Sequence[tuple[int, int]], sources: int) -> list[Block]:
    rows, first = spans[-1][1] - spans[0][0], spans[0][0]
    whole = Block(np.empty((rows, sources), np.float32), np.empty(rows), np.empty(rows))
    stored = []
    for (start, stop), block in zip(spans, ready, strict=True):
        place = slice(start - first, stop - first)
        kept = Block(whole.likelihood[place], whole.row_max[place], whole.row_weights[place])
        kept.likelihood[:], kept.row_max[:], kept.row_weights[:] = block.likelihood, block.row_max, block.row_weights
        stored.append(kept)
    return stored


def _record_bytes(rows: int, sources: int) -> int:
    return rows * (4 * sources + 16)


class _Scratch(Sequence[Block]):
    """Blocks in a file: a record each, row_max, row_weights and likelihood, from the start of a page."""

    def __init__(
        self, ready: Iterable[Block], spans: Sequence[tuple[int, int]], sources: int, folder: str | None
    ) -> None:
        self._sizes, self._sources = [stop - start for start, stop in spans], sources
        self._page = mmap.ALLOCATIONGRANULARITY
        self._record = -(-_record_bytes(max(self._sizes), sources) // self._page) * self._page
        try:
            self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder, prefix="mixray-shard-")  # noqa: SIM115
        except OSError as error:
            raise _no_scratch(folder, error) from error
        weakref.finalize(self, self._file.close)
        for number, block in enumerate(ready):
            try:
                self._file.seek(number * self._record)
                for array in (block.row_max, block.row_weights, block.likelihood):
                    self._file.write(array.data)
                self._file.flush()
            except OSError as error:
                raise _no_scratch(folder, error) from error

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, number: int) -> Block:  # type: ignore[override]
        """Mapped for as long as the block lives."""
        rows = self._sizes[number]
        length = _record_bytes(rows, self._sources)
        mapping = mmap.mmap(self._file.fileno(), length, access=mmap.ACCESS_READ, offset=number * self._record)
        row_max, row_weights = np.frombuffer(mapping, np.float64, 2 * rows).reshape(2, rows)
        likelihood = np.frombuffer(mapping, np.float32, rows * self._sources, 16 * rows).reshape(rows, self._sources)
        return Block(likelihood, row_max, row_weights)


def _no_scratch(folder: str | None, error: OSError) -> StageError:
    return StageError(
        "a shard's rows cannot be written to scratch space",
        where=folder or tempfile.gettempdir(),
        got=str(error),
        wanted="a local folder with room for the rows: 4 bytes per source and 16 more, each",
        remedy="name another folder, or allow more memory per shard",
    )
