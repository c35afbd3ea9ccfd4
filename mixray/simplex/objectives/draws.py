"""Which documents a bootstrap replicate draws, and how often: the same wherever the draw is made.

A replicate draws every document a number of times that is Poisson(1) distributed, independently of all others, and its
row weights are then scaled to the full sample's total. This is nearly the same as drawing as many documents as there
are, with replacement, but needs no knowledge of the other documents: the number is a hash of seed, target, replicate
and document. So any process that holds a part of the rows can compute it, and the number of parts changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import exp, factorial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixray.numerics import splitmix64
from mixray.simplex.checks import Mask, Matrix, Vector
from mixray.simplex.objectives.rows import checked_token_counts, documents_of

POISSON = np.cumsum([exp(-1) / factorial(times) for times in range(12)])
THRESHOLDS = np.array(POISSON * 2**32, np.uint32)
"""A document is drawn as often as there are thresholds that are not above its 32 random bits. The chance of 13 or more
draws, 6e-11, is less than that of a single value of these bits."""
STRIDE = np.uint64(0x9E3779B97F4A7C15)
"""The step between the states of SplitMix64."""


@dataclass(frozen=True, eq=False)
class Documents:
    """Which document every row is part of.

    ``numbers``: int64 ``(rows,)``, 0 to ``count - 1``, or None where every row is a document. ``row_tokens``: float64
    ``(rows,)``, row weight times tokens, or None where it is the same for all rows: a replicate is scaled so that its
    sum is that of the full sample.
    """

    numbers: NDArray[np.int64] | None
    row_tokens: Vector | None
    count: int

    @classmethod
    def of(
        cls, row_weights: Vector, document_ids: ArrayLike | None = None, token_counts: ArrayLike | None = None
    ) -> Documents:
        """Return the record for rows in memory.

        ``document_ids``: the document of each row, ``(rows,)``; every row is a document by default. ``token_counts``:
        the tokens of each row, ``(rows,)``. With them a replicate's loss is per token of that replicate, without them
        per document. Raises InputError.
        """
        rows = row_weights.size
        row_tokens = None if token_counts is None else row_weights * checked_token_counts(token_counts, rows)
        if document_ids is None:
            return cls(None, row_tokens, rows)
        ids, numbers = documents_of(document_ids, rows)
        if row_tokens is None:
            row_tokens = (1 / np.bincount(numbers))[numbers]
        return cls(numbers.astype(np.int64), row_tokens, ids.size)

    def by_document(self, rows: Vector) -> Vector:
        """Return the sum of a quantity of the rows ``(rows,)`` in every document, ``(documents,)``."""
        if self.numbers is None:
            return rows
        return np.bincount(self.numbers, weights=rows, minlength=self.count).astype(np.float64, copy=False)

    def tokens_by_document(self) -> Vector | None:
        """Return the sum of ``row_tokens`` in every document, ``(documents,)``, or None where all are equal."""
        return None if self.row_tokens is None else self.by_document(self.row_tokens)


@dataclass(frozen=True, eq=False)
class Draws:
    """A batch of replicates. ``keys``: uint64 ``(replicates,)``. ``scale``: float64 ``(replicates,)``, the factor of
    all row weights of a replicate."""

    keys: NDArray[np.uint64]
    scale: Vector

    @classmethod
    def of(cls, seed: int, target: int, replicates: range) -> Draws:
        """Return the draws of these replicates of target number ``target``, with a scale of 1."""
        keys = [np.random.SeedSequence([seed, target, number]).generate_state(1, np.uint64) for number in replicates]
        return cls(np.concatenate(keys), np.ones(len(keys)))

    def select(self, which: NDArray[np.intp] | Mask) -> Draws:
        """Return some of the replicates."""
        return Draws(self.keys[which], self.scale[which])

    def times(self, documents: NDArray[np.int64]) -> Matrix:
        """Return how often every replicate draws each of the documents, float64 ``(replicates, documents)``."""
        first, last = int(documents.min()), int(documents.max())
        if last - first < len(documents) // 2:  # several rows of each document
            return self.times(np.arange(first, last + 1))[:, documents - first]
        states = (documents.astype(np.uint64) + np.uint64(1)) * STRIDE  # modulo 2^64
        times = np.empty((len(self.keys), len(documents)))
        for key, row in zip(self.keys, times, strict=True):  # one at a time stays in a core's cache
            bits = (splitmix64(states + key) >> np.uint64(32)).astype(np.uint32)
            draws = np.zeros(bits.shape, np.uint8)
            for threshold in THRESHOLDS:
                draws += bits >= threshold
            row[:] = draws
        return times


def draw_replicates(
    seed: int, target: int, replicates: range, sums_of: Callable[[Draws], Matrix], full_tokens: float
) -> tuple[Draws, Matrix]:
    """Return the scaled draws and their sums; a replicate is drawn again where none of its documents has a weight.

    ``sums_of(draws)``: ``(sums, replicates)``, of which the first is the total row weight and the last that of the row
    tokens; ``full_tokens``: the last one's value in the full sample. The sums returned are scaled, without the last.
    """
    draws = Draws.of(seed, target, replicates)
    sums = sums_of(draws)
    while (empty := sums[0] == 0).any():
        draws.keys[empty] = splitmix64(draws.keys[empty] + STRIDE)
        sums[:, empty] = sums_of(draws.select(empty))
    scale = full_tokens / sums[-1]
    return replace(draws, scale=scale), sums[:-1] * scale
