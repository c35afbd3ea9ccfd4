"""Bootstrap draws that are the same wherever they are made.

How often a replicate draws a document is Poisson(1): documents are drawn independently of each other, which makes
nearly the same replicates as drawing as many documents as there are. The number is a hash of seed, target, replicate
and document, so that whoever holds some of the rows knows it, and no number of shards changes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, factorial

import numpy as np
from numpy.typing import NDArray

from mixray.simplex.checks import Matrix, Vector

SMALL_CHANCES = np.cumsum([exp(-1) / factorial(times) for times in range(12)])
THRESHOLDS = np.array(SMALL_CHANCES * 2**32, np.uint32)
"""Of 32 random bits: a document is drawn as often as there are thresholds not above them. The chance of 13 times or
more, 6e-11, is less than one of the bits' values."""
STRIDE, FIRST, SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True, eq=False)
class Draws:
    """A batch of replicates. ``keys``: uint64 ``(replicates,)``; ``scale``: ``(replicates,)``, by what all weights of
    each are multiplied."""

    keys: NDArray[np.uint64]
    scale: Vector

    @classmethod
    def of(cls, seed: int, target: int, replicates: range) -> Draws:
        keys = [np.random.SeedSequence([seed, target, number]).generate_state(1, np.uint64) for number in replicates]
        return cls(np.concatenate(keys), np.ones(len(keys)))

    def chosen(self, which: NDArray[np.intp]) -> Draws:
        return Draws(self.keys[which], self.scale[which])

    def times(self, documents: NDArray[np.int64]) -> Matrix:
        """How often each document is drawn, ``(replicates, documents)``. The bits are those of splitmix64."""
        with np.errstate(over="ignore"):  # modulo 2^64
            state = (documents.astype(np.uint64) + np.uint64(1)) * STRIDE + self.keys[:, None]
            state = (state ^ (state >> np.uint64(30))) * FIRST
            state = (state ^ (state >> np.uint64(27))) * SECOND
            bits = ((state ^ (state >> np.uint64(31))) >> np.uint64(32)).astype(np.uint32)
        times = np.zeros(bits.shape, np.uint8)
        for threshold in THRESHOLDS:
            times += bits >= threshold
        return times.astype(np.float64)
