"""A keyed pseudo-random permutation of 0..n-1 with random access and no memory: a Feistel network with cycle walking.

A Feistel network over 2h bits is a bijection whatever its round function is. Walking on (applying it again) until the
value falls below n restricts it to a bijection of 0..n-1; the domain is less than 4n, so less than four steps are
expected.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from mixray.numerics import splitmix64

ROUNDS = 6


class Permutation:
    """``size`` items in a new order every epoch, a pure function of (seed, name, epoch).

    ``permutation(epochs, positions)``: both int64 of one shape, positions in [0, size); returns int64 in [0, size).
    """

    def __init__(self, seed: int, name: str, size: int) -> None:
        assert 0 < size < 2**62
        half = (max(1, (size - 1).bit_length()) + 1) // 2
        self.size = size
        self._half, self._mask = np.uint64(half), np.uint64((1 << half) - 1)
        digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8 * ROUNDS).digest()
        self._keys = np.frombuffer(digest, "<u8")

    def __call__(self, epochs: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.int64]:
        tweaks = splitmix64(epochs.astype(np.uint64) + np.uint64(1))
        values = self._network(positions.astype(np.uint64), tweaks)
        outside = np.flatnonzero(values >= self.size)
        while outside.size:
            values[outside] = self._network(values[outside], tweaks[outside])
            outside = outside[values[outside] >= self.size]
        return values.astype(np.int64)

    def _network(self, values: NDArray[np.uint64], tweaks: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = values >> self._half, values & self._mask
        for key in self._keys:
            left, right = right, left ^ (splitmix64(right ^ tweaks ^ key) & self._mask)
        return (left << self._half) | right
