"""Some of the rows of a cross entropy: what one process of many keeps and sums.

A shard is a run of whole blocks, numbered over all rows, with the likelihoods divided by each row's largest and
rounded to float32. It answers with partial sums, from which whoever joins them, in order, gets the same bits for any
number of shards.

What float32 costs: a likelihood is off by at most 6e-8 of itself, under any mixture, hence a row's loss by at most 6e-8
nats, and the loss by 6e-8 nats times the sum of the row weights, which is at most 1 where it is in nats per token; in
practice by far less, for errors have both signs. Entries below 1.2e-38 of their row's largest become 0. Sums are
float64: the answer is that of the rounded table to the last digits.

Rows that do not fit the memory allowed lie in a scratch file without a name, which ends with its process however that
ends. It is read block by block, each for as long as it is worked on: the process never holds more of it, and the
system keeps in memory what there is room for.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mixray.errors import InputError, StageError
from mixray.simplex.analysis.draws import Draws
from mixray.simplex.checks import Mask, Matrix, Vector, name_rows, refuse_no_numbers, refuse_rows
from mixray.simplex.objectives.cross_entropy import FLOOR, cross_entropy_sums, replicate_sums, rescaled, weight_sums
from mixray.simplex.objectives.objective import Columns
from mixray.simplex.objectives.passes import Partial, added, blocks, mapped, summed

SMALLEST = np.finfo(np.float32).tiny
"""Smaller float32 numbers have fewer digits, and cost a processor a hundred times what others do."""
WORKING_BYTES = 320 * 2**20
"""What a shard's process needs beside its rows: the interpreter with its libraries, the block being worked on."""

PAGE_BYTES = 4096

Chunk = tuple[NDArray[np.floating], Vector, NDArray[np.int64] | None, Vector | None]
"""Consecutive rows: log-probabilities ``(rows, sources)`` in nats; and, ``(rows,)``, row weights, the number of each
row's document, None where every row is one, and row weight times tokens, None where that is the same for all."""


@dataclass(frozen=True, eq=False)
class Block:
    """``likelihood``: float32 ``(rows, sources)``; ``row_max``, ``row_weights``, ``document`` and ``row_tokens``:
    ``(rows,)``, the last two None as in a ``Chunk``; ``first``: the number of its first row."""

    likelihood: NDArray[np.float32]
    row_max: Vector
    row_weights: Vector
    document: NDArray[np.int64] | None
    row_tokens: Vector | None
    first: int

    def drawn(self, draws: Draws) -> Matrix:
        """How often every row's document is drawn, ``(replicates, rows)``."""
        rows = np.arange(self.first, self.first + len(self.likelihood))
        return draws.times(rows if self.document is None else self.document)

    def weights(self, draws: Draws) -> Matrix:
        """The row weights of every replicate, ``(replicates, rows)``."""
        return self.drawn(draws) * draws.scale[:, None] * self.row_weights


def process_bytes(memory: int, threads: int) -> int:
    """The most that the process of a shard takes whose rows may take ``memory`` bytes."""
    return memory + WORKING_BYTES * threads


def shard_spans(rows: int, sources: int, shards: int) -> list[tuple[int, int]]:
    """[first, last) block of every shard; fewer shards where there are fewer blocks."""
    count = len(blocks(rows, sources))
    shards = min(shards, count)
    edges = [count * shard // shards for shard in range(shards + 1)]
    return list(pairwise(edges))


class Shard:
    """``first``: the number of its first block; ``stored``: its blocks, in order; ``single_losses``: of each block, the
    loss under every source alone."""

    def __init__(self, first: int, stored: Sequence[Block], single_losses: Sequence[Vector], threads: int = 1) -> None:
        self._first, self._stored, self._single_losses, self._threads = first, stored, single_losses, threads
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
        single_losses: list[Vector] = []

        def blocks_ready() -> Iterator[Block]:
            for (start, _), chunk in zip(spans, _by_span(chunks, spans, sources), strict=True):
                single_losses.append(_single_losses(chunk))
                yield _block(chunk, excluded, start)

        ready = blocks_ready()
        first_block = next(ready)
        rows, whole = spans[-1][1] - spans[0][0], chain([first_block], ready)
        fits = rows * _row_bytes(first_block) <= memory
        stored = list(whole) if fits else _Scratch(whole, first_block, len(spans), scratch)
        return cls(first, stored, single_losses, threads)

    @property
    def in_memory(self) -> bool:
        return not isinstance(self._stored, _Scratch)

    def sums(self, points: Matrix, columns: Columns | None, draws: Draws | None = None) -> list[Partial]:
        """Partial sums of value, gradient and curvature at every point, as ``cross_entropy_sums`` lays them out; under
        the weights of the one replicate of ``draws`` where given."""

        def work(block: Block) -> Vector:
            weights = block.row_weights if draws is None else block.weights(draws)[0]
            return cross_entropy_sums(block.likelihood, weights, points, columns)

        return self._added(work, self._size * len(points))

    def replicate_sums(self, points: Matrix, draws: Draws, values: bool) -> list[Partial]:
        """Partial sums of value and gradient of each point under the weights of its replicate."""

        def work(block: Block) -> Vector:
            return replicate_sums(block.likelihood, block.row_max, block.weights(draws), points, values)

        return self._added(work, self._size * len(points))

    def replicate_weights(self, draws: Draws) -> list[Partial]:
        """Partial sums of the row weights, the loss's offset and the row tokens of each replicate, in this order."""

        def work(block: Block) -> Vector:
            times = block.drawn(draws)
            tokens = times.sum(axis=1) if block.row_tokens is None else times @ block.row_tokens
            return np.concatenate([times @ block.row_weights, -(times @ (block.row_weights * block.row_max)), tokens])

        return self._added(work, self._size)

    def replicate_losses(self, draws: Draws, mixtures: Matrix) -> list[Partial]:
        """Partial sums of the loss of every mixture in each replicate, ``(replicates, mixtures)``."""

        def work(block: Block) -> Vector:
            mixed = np.maximum(block.likelihood @ mixtures.T, FLOOR)
            return -(block.weights(draws) @ (np.log(mixed) + block.row_max[:, None])).ravel()

        return self._added(work, self._size * len(mixtures))

    def weight_sums(self) -> list[Partial]:
        """Partial sums of the row weights and of the loss's offset."""
        return self._added(lambda block: weight_sums(block.row_weights, block.row_max), 0)

    def single_losses(self) -> list[Partial]:
        """Partial sums of the loss under each source alone, from the rows before they were rounded."""
        return summed(self._single_losses, self._first)

    def row_tokens(self) -> list[Partial]:
        """Partial sums of row weight times tokens, or of the rows where that is the same for all."""

        def work(block: Block) -> Vector:
            tokens = block.row_tokens
            return np.array([len(block.likelihood) if tokens is None else tokens.sum()], np.float64)

        return self._added(work, 0)

    def keeps(self, allowed: Mask) -> bool:
        """Whether each row's largest likelihood under the allowed sources is not lost."""
        return all(bool((block.likelihood[:, allowed].max(axis=1) >= SMALLEST).all()) for block in self._stored)

    def row_losses(self, source_shares: Vector, draws: Draws | None = None) -> Vector:
        """What each of its rows adds to the value; under the weights of the one replicate of ``draws`` where given."""

        def work(block: Block) -> Vector:
            weights = block.row_weights if draws is None else block.weights(draws)[0]
            mixed = np.maximum(block.likelihood @ source_shares, FLOOR)
            return -weights * (np.log(mixed) + block.row_max)

        numbers = range(len(self._stored))
        parts = mapped(lambda number: work(self._stored[number]), numbers, self._size, self._threads)
        return np.concatenate(list(parts))

    def _added(self, work: Callable[[Block], Vector], entries: int) -> list[Partial]:
        numbers = range(len(self._stored))  # a block is read where it is worked on
        return added(lambda number: work(self._stored[number]), numbers, entries, self._threads, self._first)


def _by_span(chunks: Iterable[Chunk], spans: Sequence[tuple[int, int]], sources: int) -> Iterator[Chunk]:
    """The rows again, a block at a time, in float64: a block's bits do not depend on how its rows came."""
    source = iter(chunks)
    rest: Chunk = (np.empty((0, sources)), np.empty(0), None, None)
    for start, stop in spans:
        rows, filled = stop - start, 0
        while filled < rows:
            if not len(rest[0]):
                rest = next(source)
            if not filled:
                document = None if rest[2] is None else np.empty(rows, np.int64)
                row_tokens = None if rest[3] is None else np.empty(rows)
                block: Chunk = (np.empty((rows, sources), order="F"), np.empty(rows), document, row_tokens)
            taken = min(len(rest[0]), rows - filled)
            for whole, part in zip(block, rest, strict=True):
                if whole is not None and part is not None:
                    whole[filled : filled + taken] = part[:taken]
            log_probs, row_weights, document, row_tokens = rest
            rest = (
                log_probs[taken:],
                row_weights[taken:],
                None if document is None else document[taken:],
                None if row_tokens is None else row_tokens[taken:],
            )
            filled += taken
        yield block


def _single_losses(chunk: Chunk) -> Vector:
    """What a block of rows adds to the loss under every source alone: inf where a row that counts cannot occur."""
    counts = chunk[1] > 0
    with np.errstate(invalid="ignore"):  # what are no numbers is refused when the block is made
        losses: Vector = -(chunk[1][counts, None] * chunk[0][counts]).sum(axis=0)
    return losses


def _block(chunk: Chunk, excluded: Mask | None, first: int) -> Block:
    log_probs, row_weights, document, row_tokens = chunk
    bad = np.flatnonzero(~(np.isfinite(row_weights) & (row_weights >= 0)))
    if bad.size:
        raise InputError(
            f"row_weights: the weight of {name_rows(first + bad)} is no weight",
            got=row_weights[bad[0]],
            wanted="finite, >= 0",
        )
    row_max = rescaled(log_probs, excluded)
    refuse_no_numbers(row_max, first)
    refuse_rows(np.isneginf(row_max), "have probability 0 under every allowed source", first)
    np.multiply(log_probs, log_probs >= SMALLEST, out=log_probs)
    return Block(log_probs.astype(np.float32), row_max, row_weights, document, row_tokens, first)


def _arrays(block: Block) -> dict[str, NDArray[Any]]:
    """What is kept of its rows, by name; 8-byte numbers first."""
    named = {name: getattr(block, name) for name in ("row_max", "row_weights", "document", "row_tokens", "likelihood")}
    return {name: array for name, array in named.items() if array is not None}


def _row_bytes(block: Block) -> int:
    return sum(array[0].nbytes for array in _arrays(block).values())


class _Scratch(Sequence[Block]):
    """Blocks in a file: a record each, array after array, from the start of a page. None is larger than the first."""

    def __init__(self, ready: Iterable[Block], like: Block, count: int, folder: str | None) -> None:
        self._like, self._count, self._rows = like, count, [0] * count
        self._record = -(-len(like.likelihood) * _row_bytes(like) // PAGE_BYTES)
        self._record *= PAGE_BYTES
        try:
            self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder, prefix="mixray-shard-")  # noqa: SIM115
        except OSError as error:
            raise _no_scratch(folder, error) from error
        weakref.finalize(self, self._file.close)
        for number, block in enumerate(ready):
            self._rows[number] = len(block.likelihood)
            try:
                self._file.seek(number * self._record)
                for array in _arrays(block).values():
                    self._file.write(array.ravel(order="K").data)
                self._file.flush()
            except OSError as error:
                raise _no_scratch(folder, error) from error

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> Block:  # type: ignore[override]
        """Read, not mapped: a disk that fails is an error then, and not the end of the process."""
        like, rows = self._like, self._rows[number]
        record = np.empty(rows * _row_bytes(like), np.uint8)
        got = os.preadv(self._file.fileno(), [record.data], number * self._record)
        if got != record.nbytes:
            raise StageError("a shard's scratch file is shorter than what was written", got=got, wanted=record.nbytes)
        arrays: dict[str, Any] = {}
        offset = 0
        for name, array in _arrays(like).items():
            values = np.frombuffer(record, array.dtype, rows * array[0].size, offset)
            arrays[name], offset = values.reshape(rows, *array.shape[1:], order="F"), offset + values.nbytes
        return replace(like, first=like.first + number * len(like.likelihood), **arrays)


def _no_scratch(folder: str | None, error: OSError) -> StageError:
    return StageError(
        "a shard's rows cannot be written to scratch space",
        where=folder or tempfile.gettempdir(),
        got=str(error),
        wanted="a local folder with room for the rows: 4 bytes per source and 16 more, each",
        remedy="name another folder, or allow more memory per shard",
    )
