"""A part of the rows of a cross entropy: what one process keeps and sums.

A shard is a run of whole blocks, numbered over all rows. It answers every question with partial sums; whoever adds
these, in order, gets the same bits for any number of shards. Its rows lie in memory or, where they do not fit, in a
scratch file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixray.errors import InputError
from mixray.simplex.checks import Mask, Matrix, Vector, name_rows, refuse_rows, require_numbers
from mixray.simplex.objectives.block import SMALLEST_MAXIMUM, Block, Chunk
from mixray.simplex.objectives.draws import Draws
from mixray.simplex.objectives.passes import Columns, Partial, added, blocks, mapped, summed
from mixray.simplex.objectives.scratch import ScratchFile

WORKING_BYTES = 320 * 2**20
"""What a shard's process needs beside its rows: the interpreter with its libraries, the block being worked on."""


class Shard:
    """Consecutive blocks and the partial sums over them.

    ``first``: the number of the first block; ``stored``: the blocks, in order; ``single_losses``: for each block, the
    loss under every source alone, where that cannot be had from log-probabilities in memory.
    """

    def __init__(
        self, first: int, stored: Sequence[Block], single_losses: Sequence[Vector] | None, threads: int | None
    ) -> None:
        self._first, self._stored, self._single_losses, self._threads = first, stored, single_losses, threads
        self._size = sum(block.likelihood.size for block in stored)

    @classmethod
    def of_table(
        cls,
        log_probs: NDArray[np.floating],
        row_weights: Vector,
        documents: NDArray[np.int64] | None,
        row_tokens: Vector | None,
        *,
        dtype: np.dtype[Any],
        allowed: Mask | None,
    ) -> Shard:
        """Return the one shard of a table in memory, which is not copied but kept for exact losses. Raises InputError,
        naming rows, where they hold NaN or +inf or cannot occur under the ``allowed`` sources."""
        excluded = None if allowed is None or allowed.all() else ~allowed

        def make(span: tuple[int, int]) -> Block:
            here = slice(*span)
            chunk = (
                np.array(log_probs[here], np.float64, order="F"),
                row_weights[here],
                None if documents is None else documents[here],
                None if row_tokens is None else row_tokens[here],
            )
            return replace(Block.of(chunk, span[0], dtype, excluded), log_probs=log_probs[here])

        spans = blocks(*log_probs.shape)
        stored = list(mapped(make, spans, log_probs.size))
        _refuse_bad_rows(np.concatenate([block.row_max for block in stored]))
        return cls(0, stored, None, None)

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
        """Return the float32 shard of the rows that ``chunks`` bring, in order.

        Args:
            chunks: the rows of the blocks, a few at a time.
            spans: [start, stop) of the blocks among all rows.
            first: the number of the first block.
            sources: the columns of the table.
            memory: bytes that the rows may take; larger shards lie in a scratch file.
            scratch: the folder for such a file; by default that for temporary files.
            allowed: ``(sources,)``, the sources whose share may be above 0; all by default.
            threads: how many work on the blocks.

        Raises:
            InputError: naming rows, as ``of_table``, and for weights that are not valid. StageError: where the scratch
                file cannot be written.
        """
        excluded = None if allowed is None or allowed.all() else ~allowed
        single_losses: list[Vector] = []

        def checked_blocks() -> Iterator[Block]:
            for (start, _), chunk in zip(spans, _by_span(chunks, spans, sources), strict=True):
                single_losses.append(_single_losses(chunk[0], chunk[1]))
                _refuse_bad_weights(chunk[1], start)
                block = Block.of(chunk, start, np.dtype(np.float32), excluded)
                _refuse_bad_rows(block.row_max, start)
                yield block

        ready = checked_blocks()
        first_block = next(ready)
        rows, every_block = spans[-1][1] - spans[0][0], chain([first_block], ready)
        row_bytes = sum(array[0].nbytes for array in first_block.arrays().values())
        if rows * row_bytes <= memory:
            return cls(first, list(every_block), single_losses, threads)
        file = ScratchFile((block.arrays() for block in every_block), len(spans), scratch)
        return cls(first, _ScratchBlocks(file, first_block), single_losses, threads)

    @property
    def in_memory(self) -> bool:
        return not isinstance(self._stored, _ScratchBlocks)

    def sums(self, points: Matrix, columns: Columns | None, draws: Draws | None = None) -> list[Partial]:
        """Return partial sums of value, gradient and curvature at every point, under the weights of the one replicate
        of ``draws`` where there are any."""
        return self._added(lambda block: block.sums(points, columns, draws), self._size * len(points))

    def replicate_sums(self, points: Matrix, draws: Draws, values: bool) -> list[Partial]:
        """Return partial sums of value and gradient of each point under the weights of its replicate."""
        return self._added(lambda block: block.replicate_sums(points, draws, values), self._size * len(points))

    def weight_sums(self, draws: Draws | None = None) -> list[Partial]:
        """Return partial sums of row weights, offset and row tokens, in this order, each of all replicates."""
        return self._added(lambda block: block.weight_sums(draws), 0 if draws is None else self._size)

    def losses(self, mixtures: Matrix, draws: Draws | None = None) -> list[Partial]:
        """Return partial sums of the loss of every mixture, in each replicate where there are draws."""
        return self._added(lambda block: block.losses(mixtures, draws), self._size * len(mixtures))

    def single_losses(self) -> list[Partial]:
        """Return partial sums of the loss under each source alone, from the rows before they were rounded."""
        if self._single_losses is None:
            return self._added(lambda block: _single_losses(block.log_probs, block.row_weights), self._size)
        return summed(self._single_losses, self._first)

    def explains(self, allowed: Mask) -> bool:
        """Return whether no row's largest likelihood under the allowed sources is lost to rounding."""
        smallest = SMALLEST_MAXIMUM[self._stored[0].likelihood.dtype.name]
        return all(bool((block.likelihood[:, allowed].max(axis=1) >= smallest).all()) for block in self._stored)

    def row_losses(self, source_shares: Vector) -> Vector:
        """Return what each row adds to the loss, ``(rows,)``."""
        return np.concatenate(self._mapped(lambda block: block.row_losses(source_shares[None])[0]))

    def documents(self) -> tuple[NDArray[np.int64] | None, Vector | None]:
        """Return the document and the row tokens of every row, as in a ``Chunk``."""
        columns = zip(*self._mapped(lambda block: (block.documents, block.row_tokens)), strict=True)
        numbers, row_tokens = (None if parts[0] is None else np.concatenate(parts) for parts in columns)
        return numbers, row_tokens

    def _added(self, work: Callable[[Block], Vector], entries: int) -> list[Partial]:
        numbers = range(len(self._stored))  # a block is read where it is worked on
        return added(lambda number: work(self._stored[number]), numbers, entries, self._threads, self._first)

    def _mapped(self, work: Callable[[Block], Any]) -> list[Any]:
        numbers = range(len(self._stored))
        return list(mapped(lambda number: work(self._stored[number]), numbers, self._size, self._threads))


class _ScratchBlocks(Sequence[Block]):
    """Blocks in a scratch file, each read when it is needed. ``like``: the first, whose shape all but the last have."""

    def __init__(self, file: ScratchFile, like: Block) -> None:
        self._file, self._like = file, like

    def __len__(self) -> int:
        return len(self._file)

    def __getitem__(self, number: int) -> Block:  # type: ignore[override]
        first = self._like.first + number * len(self._like.likelihood)
        return replace(self._like, first=first, **self._file.read(number))


def process_bytes(memory: int, threads: int) -> int:
    """Return the most that the process of a shard takes whose rows may take ``memory`` bytes."""
    return memory + WORKING_BYTES * threads


def shard_spans(rows: int, sources: int, shards: int) -> list[tuple[int, int]]:
    """Return [first, last) block of every shard; there are fewer shards where there are fewer blocks."""
    count = len(blocks(rows, sources))
    shards = min(shards, count)
    edges = [count * shard // shards for shard in range(shards + 1)]
    return list(pairwise(edges))


def _by_span(chunks: Iterable[Chunk], spans: Sequence[tuple[int, int]], sources: int) -> Iterator[Chunk]:
    """Yield the rows again, a block at a time, in float64: a block's bits do not depend on how its rows came."""
    source = iter(chunks)
    rest: Chunk = (np.empty((0, sources)), np.empty(0), None, None)
    for start, stop in spans:
        rows, filled = stop - start, 0
        while filled < rows:
            if not len(rest[0]):
                rest = next(source)
            if not filled:
                documents = None if rest[2] is None else np.empty(rows, np.int64)
                row_tokens = None if rest[3] is None else np.empty(rows)
                block: Chunk = (np.empty((rows, sources), order="F"), np.empty(rows), documents, row_tokens)
            count = min(len(rest[0]), rows - filled)
            for target, part in zip(block, rest, strict=True):
                if target is not None and part is not None:
                    target[filled : filled + count] = part[:count]
            log_probs, row_weights, numbers, tokens = rest
            rest = (
                log_probs[count:],
                row_weights[count:],
                None if numbers is None else numbers[count:],
                None if tokens is None else tokens[count:],
            )
            filled += count
        yield block


def _single_losses(log_probs: NDArray[np.floating] | None, row_weights: Vector) -> Vector:
    """Return a block's loss under every source alone; inf where a row that counts cannot occur."""
    assert log_probs is not None
    counts = row_weights > 0
    with np.errstate(invalid="ignore"):  # rows that are no numbers are refused when the block is made
        return np.array([-(row_weights[counts] * column[counts]).sum() for column in log_probs.T], np.float64)


def _refuse_bad_rows(row_max: Vector, first: int = 0) -> None:
    require_numbers(row_max, first)
    refuse_rows(np.isneginf(row_max), "have probability 0 under every allowed source", first)


def _refuse_bad_weights(row_weights: Vector, first: int) -> None:
    bad = np.flatnonzero(~(np.isfinite(row_weights) & (row_weights >= 0)))
    if bad.size:
        raise InputError(
            f"row_weights: the weight of {name_rows(first + bad)} is not a valid weight",
            got=row_weights[bad[0]],
            wanted="finite, >= 0",
        )
