"""The order in which training rows are drawn: a pure function of seed and position.

So a run that stops goes on with the same rows, and workers that share a batch agree.
"""

from __future__ import annotations

import hashlib
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mixray.numerics import splitmix64

Ids = NDArray[np.int64]
ROUNDS = 6
"""Of the Feistel network."""
BLOCK = 4096
"""How many positions have their draws from one generator."""


class Permutation:
    """An order of ``size`` items that is new in every epoch: a pure function of (seed, name, epoch).

    It has random access and needs no memory. A Feistel network over 2h bits is a bijection, whatever its round function
    is. Applying it again until the value falls below ``size`` (cycle walking) makes it a bijection of 0..size-1. The
    domain is smaller than 4 x ``size``, so fewer than four applications are expected.

    ``permutation(epochs, positions)``: both int64 of one shape, positions in [0, size). Returns the items at these
    positions, int64 in [0, size).
    """

    def __init__(self, seed: int, name: str, size: int) -> None:
        assert 0 < size < 2**62
        half = (max(1, (size - 1).bit_length()) + 1) // 2
        self.size = size
        self._half, self._mask = np.uint64(half), np.uint64((1 << half) - 1)
        digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8 * ROUNDS).digest()
        self._keys = np.frombuffer(digest, "<u8")

    def __call__(self, epochs: Ids, positions: Ids) -> Ids:
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


class Draws(Protocol):
    def rows(self, start: int, stop: int) -> Ids:
        """Return the row numbers at positions [start, stop), int64, shape (stop - start,)."""
        ...


class InEpochs:
    """Draw every row once an epoch, in an order that is new in each."""

    def __init__(self, rows: int, seed: int) -> None:
        self._size, self._order = rows, Permutation(seed, "examples", rows)

    def rows(self, start: int, stop: int) -> Ids:
        positions = np.arange(start, stop)
        return self._order(positions // self._size, positions % self._size)


class GroupBalanced:
    """Draw a group, all equally likely, and then a row of it, with replacement.

    The probability of a row is 1 / (groups x rows of its group), as in the weighted sampler of the Group DRO paper's
    code. ``group_ids``: of every row, int64, from 0.
    """

    def __init__(self, group_ids: Ids, seed: int) -> None:
        self._counts = np.bincount(group_ids)
        assert self._counts.all(), "a group has no rows"
        self._by_group = np.argsort(group_ids, kind="stable")
        self._first = np.cumsum(self._counts) - self._counts
        self._seed = seed
        self._block: tuple[int, Ids] = (-1, np.empty(0, dtype=np.int64))

    def rows(self, start: int, stop: int) -> Ids:
        numbers = range(start // BLOCK, (stop - 1) // BLOCK + 1)
        drawn = np.concatenate([self._drawn(number) for number in numbers])
        return drawn[start - numbers[0] * BLOCK : stop - numbers[0] * BLOCK]

    def _drawn(self, block: int) -> Ids:
        if self._block[0] != block:
            uniform = np.random.default_rng([self._seed, block]).random((2, BLOCK))
            groups = (uniform[0] * len(self._counts)).astype(np.int64)
            places = (uniform[1] * self._counts[groups]).astype(np.int64)
            self._block = (block, self._by_group[self._first[groups] + places])
        return self._block[1]
