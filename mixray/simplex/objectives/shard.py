"""A part of the rows of a cross entropy: what one process keeps and sums.

A shard is a run of whole blocks, numbered over all rows. It answers every question with partial sums; whoever adds
these, in order, gets the same bits for any number of shards. The likelihoods are float64, or float32 to halve memory.
Every row is divided by its largest likelihood, so that log-probabilities may differ by thousands of nats.

What float32 costs: a likelihood is off by at most 6e-8 of itself, under any mixture, hence a row's loss by at most 6e-8
nats, and the loss by 6e-8 nats times the sum of the row weights, which is at most 1 where it is in nats per token; in
practice by far less, for errors have both signs. Entries below 1.2e-38 of their row's largest become 0. Sums are always
float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixray.errors import InputError
from mixray.simplex.checks import Mask, Matrix, Vector, name_rows, refuse_no_numbers, refuse_rows, row_maxima
from mixray.simplex.objectives.draws import Draws
from mixray.simplex.objectives.passes import Columns, Partial, added, blocks, mapped, summed, weighted_product
from mixray.simplex.objectives.rows import mixed_log_probs
from mixray.simplex.objectives.scratch import ScratchFile

FLOOR = 1e-140
"""The smallest likelihood of a row that enters a quotient: its square and its inverse are still numbers. Rows get there
only with no weight, or at the far end of a line search, which then turns back."""
LOWEST_LOG = -600.0
"""The lowest log-likelihood beside its row's largest, which is 0. It stands for all below, -inf too: an exponential too
small for a normal number takes several times as long, and for long documents most would be."""
SMALLEST = np.finfo(np.float32).tiny
"""Smaller float32 numbers have fewer digits, and cost a processor a hundred times what others do."""
SMALLEST_MAXIMUM = {"float32": float(SMALLEST), "float64": 1e-100}
"""By dtype: how far a row's largest likelihood under the sources that a mixture may have can be below 1."""
WORKING_BYTES = 320 * 2**20
"""What a shard's process needs beside its rows: the interpreter with its libraries, the block being worked on."""

Chunk = tuple[NDArray[np.floating], Vector, NDArray[np.int64] | None, Vector | None]
"""Consecutive rows: log-probabilities ``(rows, sources)`` in nats; and, ``(rows,)``, row weights, the number of each
row's document, None where every row is one, and row weight times tokens, None where that is the same for all."""


@dataclass(frozen=True, eq=False)
class Block:
    """Consecutive rows, ready to be summed.

    ``likelihood``: float32 or float64 ``(rows, sources)``, the largest entry of a row 1. ``row_max``: the log of what
    each row was divided by, ``(rows,)``. ``row_weights``, ``documents``, ``row_tokens``: as in a ``Chunk``. ``first``:
    the number of the first row. ``log_probs``: what the block was made from, where that stays in memory; then losses of
    any mixture are exact.
    """

    likelihood: NDArray[np.floating]
    row_max: Vector
    row_weights: Vector
    documents: NDArray[np.int64] | None
    row_tokens: Vector | None
    first: int
    log_probs: NDArray[np.floating] | None = None

    @classmethod
    def of(cls, chunk: Chunk, first: int, dtype: np.dtype[Any], excluded: Mask | None) -> Block:
        """Return the block of a float64 chunk, whose log-probabilities are overwritten. Bad rows are not refused yet:
        ``row_max`` shows them."""
        log_probs, row_weights, documents, row_tokens = chunk
        row_max = _to_likelihoods(log_probs, excluded)
        if dtype == np.float32:
            log_probs[log_probs < SMALLEST] = 0.0
        return cls(log_probs.astype(dtype, copy=False), row_max, row_weights, documents, row_tokens, first)

    def without_log_probs(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that a scratch file must hold, by field; 8-byte numbers first."""
        names = ("row_max", "row_weights", "documents", "row_tokens", "likelihood")
        return {name: array for name in names if (array := getattr(self, name)) is not None}

    def draws(self, draws: Draws) -> Matrix:
        """Return how often every replicate draws each row's document, times the replicate's scale, ``(replicates,
        rows)``."""
        rows = np.arange(self.first, self.first + len(self.likelihood))
        return draws.times(rows if self.documents is None else self.documents) * draws.scale[:, None]

    def weights(self, draws: Draws | None) -> Vector:
        """Return the row weights, ``(rows,)``, or those of the one replicate of ``draws``."""
        return self.row_weights if draws is None else self.draws(draws)[0] * self.row_weights

    def sums(self, points: Matrix, columns: Columns | None, draws: Draws | None) -> Vector:
        """Return value, gradient ``-F^T (w / F shares)`` and curvature ``F^T diag(w / (F shares)^2) F`` at every point,
        one after another in one vector."""
        likelihood = self.likelihood.astype(np.float64, copy=False)
        row_weights = self.weights(draws)
        mixed = np.maximum(likelihood @ points.T, FLOOR)
        values = row_weights @ np.log(mixed)
        quotients = row_weights[:, None] / mixed
        gradients = quotients.T @ likelihood
        if columns is None:
            return np.concatenate([-values, -gradients.ravel()])
        curvatures = [weighted_product(likelihood, weights, columns).ravel() for weights in (quotients / mixed).T]
        return np.concatenate([-values, -gradients.ravel(), *curvatures])

    def replicate_sums(self, points: Matrix, draws: Draws, values: bool) -> Vector:
        """Return value and gradient of each point under the weights of its replicate: two matrix products for all.

        Without ``values`` these are 0: a logarithm per row and replicate is most of the work.
        """
        likelihood = self.likelihood.astype(np.float64, copy=False)
        row_weights = self.draws(draws) * self.row_weights
        mixed = np.maximum(points @ likelihood.T, FLOOR)
        sums = np.zeros(len(points))
        if values:
            sums = -(row_weights * np.log(mixed)).sum(axis=1) - row_weights @ self.row_max
        gradients = np.divide(row_weights, mixed, out=mixed) @ likelihood
        return np.concatenate([sums, -gradients.ravel()])

    def weight_sums(self, draws: Draws | None) -> Vector:
        """Return the total of row weights, the loss's offset and the total of row tokens, one after another; each of
        every replicate where there are draws."""
        if draws is None:
            tokens = len(self.likelihood) if self.row_tokens is None else self.row_tokens.sum()
            return np.array([self.row_weights.sum(), -(self.row_weights @ self.row_max), tokens])
        times = self.draws(draws)
        tokens = times.sum(axis=1) if self.row_tokens is None else times @ self.row_tokens
        return np.concatenate([times @ self.row_weights, -(times @ (self.row_weights * self.row_max)), tokens])

    def row_losses(self, mixtures: Matrix) -> Matrix:
        """Return what each row adds to the loss of every mixture, ``(mixtures, rows)``; inf where a row that counts
        cannot occur, if there are log-probabilities."""
        losses = np.zeros((len(mixtures), len(self.likelihood)))
        counts = self.row_weights > 0
        if self.log_probs is None:
            mixed = np.maximum(self.likelihood @ mixtures.T, FLOOR)
            losses[:] = (-self.row_weights[:, None] * (np.log(mixed) + self.row_max[:, None])).T
        elif counts.any():
            table = self.log_probs if counts.all() else self.log_probs[counts]
            for loss, shares in zip(losses, mixtures, strict=True):
                loss[counts] = -self.row_weights[counts] * mixed_log_probs(table, shares)
        return losses

    def losses(self, mixtures: Matrix, draws: Draws | None) -> Vector:
        """Return the loss of every mixture, in every replicate where there are draws, ``(replicates x mixtures,)``."""
        losses = self.row_losses(mixtures)
        return losses.sum(axis=1) if draws is None else (self.draws(draws) @ losses.T).ravel()


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
        row_bytes = sum(array[0].nbytes for array in first_block.without_log_probs().values())
        if rows * row_bytes <= memory:
            return cls(first, list(every_block), single_losses, threads)
        file = ScratchFile((block.without_log_probs() for block in every_block), len(spans), scratch)
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


def _to_likelihoods(log_probs: NDArray[np.floating], excluded: Mask | None) -> Vector:
    """Turn log-probabilities, in place, into likelihoods divided by each row's largest, and return the logs of these.

    ``excluded``: the sources whose share is 0. Where no other can explain a row, its largest is -inf.
    """
    largest = row_maxima(log_probs)
    if not (largest < np.inf).all():  # NaN or +inf, which the caller refuses
        return largest
    if excluded is not None:
        log_probs[:, excluded] = -np.inf
        largest = row_maxima(log_probs)
    finite = largest if largest.min() > -np.inf else np.where(np.isneginf(largest), 0.0, largest)
    np.subtract(log_probs, finite[:, None], out=log_probs)
    if log_probs.min() < LOWEST_LOG:
        np.maximum(log_probs, LOWEST_LOG, out=log_probs)
    np.exp(log_probs, out=log_probs)
    return largest


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
    refuse_no_numbers(row_max, first)
    refuse_rows(np.isneginf(row_max), "have probability 0 under every allowed source", first)


def _refuse_bad_weights(row_weights: Vector, first: int) -> None:
    bad = np.flatnonzero(~(np.isfinite(row_weights) & (row_weights >= 0)))
    if bad.size:
        raise InputError(
            f"row_weights: the weight of {name_rows(first + bad)} is no weight",
            got=row_weights[bad[0]],
            wanted="finite, >= 0",
        )
