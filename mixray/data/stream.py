"""The training stream of a mixture: the window at a position is a pure function of (seed, shares, position).

The j-th window (j = 0, 1, ...) of source k is due at time (j + 1/2) / share_k, and the stream is all sources merged by
(time, k): the divisor method of Webster and Sainte-Lague. At time t source k has had floor(t share_k + 1/2) windows,
within 1/2 of t share_k, and the shares sum to 1, so position p is reached at a time within K/2 of p (K sources with a
positive share). Hence at every prefix p the number n_k(p) of windows drawn from source k satisfies

    |n_k(p) - p share_k| <= 1/2 + share_k K/2.

The order is that of the *computed* float64 times, which rise with j: any prefix counted by them is a true prefix, so
blocks agree with their pieces to the last bit however large the position (float64 separates times up to about 1e15).

A source's own windows come in an order that depends on (seed, its name, epoch) alone: the same in every mixture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mixray.data.draws import Permutation

SMALLEST_SHARE = 1e-17
COUNTED_AT_ONCE = 1 << 20
"""At most so many windows are in memory when ``presence`` counts."""


class WindowReader(Protocol):
    """What the stream needs of a source: the number of its windows, or other rows, and their content."""

    def __len__(self) -> int: ...

    def read(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Return the windows at ``indices``: token ids, int64, shape (windows, window), or records, shape (rows,)."""
        ...


class MixtureStream:
    """The endless stream of windows of one mixture. It can be pickled and holds no position.

    ``source_shares``: the share of training tokens by source, finite, not negative, sum 1 within 1e-6. A source with
    share 0, or so small a share that its first window is due after position 1e17, never appears. ``windows``: the
    windows of all other sources, at least. One source with share 1 is the stream of its proxy.
    """

    def __init__(self, windows: Mapping[str, WindowReader], source_shares: Mapping[str, float], seed: int) -> None:
        shares = np.array(list(source_shares.values()), dtype=np.float64)
        assert (shares >= 0).all(), source_shares
        assert abs(shares.sum() - 1) <= 1e-6, source_shares
        self.seed = seed
        self.source_names = [name for name, share in source_shares.items() if share > SMALLEST_SHARE]
        positive = shares[shares > SMALLEST_SHARE]
        self._shares = positive / positive.sum()
        self._windows = [windows[name] for name in self.source_names]
        self._orders = [Permutation(seed, name, len(windows[name])) for name in self.source_names]

    def counts(self, position: int) -> dict[str, int]:
        """Return the number of windows drawn from each source before ``position``."""
        drawn, skip = self._prefix_before(position)
        sources, _ = self._merge(drawn, position + len(self._shares))
        drawn += np.bincount(sources[:skip], minlength=len(drawn))
        return dict(zip(self.source_names, drawn.tolist(), strict=True))

    def locate(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return, for positions [start, stop), indices into ``source_names`` and indices of windows in these sources,
        int64 each."""
        sources, drawn = self._draws(start, stop)
        indices = np.empty_like(drawn)
        for source, order in enumerate(self._orders):
            here = np.flatnonzero(sources == source)
            epochs, positions = np.divmod(drawn[here], order.size)
            indices[here] = order(epochs, positions)
        return sources, indices

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return the windows at positions [start, stop), as ``WindowReader`` returns them."""
        return self.read_with_sources(start, stop)[0]

    def read_with_sources(self, start: int, stop: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Return the windows at positions [start, stop), and their sources as indices into ``source_names``, int64."""
        sources, indices = self.locate(start, stop)
        present = np.unique(sources) if stop > start else np.zeros(1, dtype=np.int64)
        blocks = {source: np.flatnonzero(sources == source) for source in present.tolist()}
        rows = {source: self._windows[source].read(indices[here]) for source, here in blocks.items()}
        example = next(iter(rows.values()))
        result = np.empty((stop - start, *example.shape[1:]), dtype=example.dtype)
        for source, here in blocks.items():
            result[here] = rows[source]
        return result, sources

    def presence(
        self, batch: int, steps: int, group_ids: Mapping[str, NDArray[np.int64]] | None = None
    ) -> NDArray[np.float64]:
        """Count the share of the first ``steps`` batches that have a window of each source: float64, shape (sources,).

        ``group_ids``: source -> the groups of its windows, from 0. With it, the share is that of batches that have a
        window of each group, up to the last group that occurs. All shares are at least 1 / steps. A source's windows
        are evenly spread, so a batch misses them more rarely than a batch of independent draws would: about
        1 - batch x share of the time in place of (1 - share)^batch.
        """
        groups = None if group_ids is None else [group_ids[name] for name in self.source_names]
        steps_with = np.zeros(len(self._shares) if groups is None else 1 + max(map(np.max, groups)), dtype=np.int64)
        at_once = max(1, COUNTED_AT_ONCE // max(batch, len(steps_with)))
        for first in range(0, steps, at_once):
            last = min(first + at_once, steps)
            drawn = self._drawn(first * batch, last * batch, groups)
            has = np.zeros((last - first, len(steps_with)), dtype=np.bool_)
            has[np.arange(len(drawn)) // batch, drawn] = True
            steps_with += has.sum(axis=0)
        shares: NDArray[np.float64] = np.maximum(steps_with, 1) / steps
        return shares

    def _drawn(self, start: int, stop: int, groups: Sequence[NDArray[np.int64]] | None) -> NDArray[np.int64]:
        """Return the sources of the windows at positions [start, stop), or their groups."""
        if groups is None:
            return self._draws(start, stop)[0]
        sources, indices = self.locate(start, stop)
        drawn = np.empty_like(sources)
        for source, ids in enumerate(groups):
            here = np.flatnonzero(sources == source)
            drawn[here] = ids[indices[here]]
        return drawn

    def _draws(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return, for positions [start, stop), the source and how many of its windows come before."""
        assert 0 <= start <= stop
        drawn, skip = self._prefix_before(start)
        sources, counts = self._merge(drawn, stop + len(self._shares))
        chosen = slice(skip, skip + stop - start)
        return sources[chosen], counts[chosen]

    def _prefix_before(self, position: int) -> tuple[NDArray[np.int64], int]:
        """Return the windows by source of a prefix no longer than ``position``, and how many windows it is shorter."""
        drawn = self._due(float(position - len(self._shares)))
        skip = position - int(drawn.sum())
        assert skip >= 0
        return drawn, skip

    def _merge(self, drawn: NDArray[np.int64], until: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the windows after the prefix ``drawn`` that are due by time ``until``, in order: the sources and the
        numbers within them."""
        counts = np.maximum(self._due(float(until)) - drawn, 0)
        sources = np.repeat(np.arange(len(counts)), counts)
        first = np.cumsum(counts) - counts
        numbers = np.arange(len(sources)) - first[sources] + drawn[sources]
        times = (numbers + 0.5) / self._shares[sources]
        order = np.lexsort((sources, times))
        return sources[order], numbers[order]

    def _due(self, time: float) -> NDArray[np.int64]:
        """Return how many windows of each source have a computed time of at most ``time``."""
        counts: NDArray[np.int64] = np.maximum(np.floor(time * self._shares + 0.5), 0).astype(np.int64)
        counts += (counts + 0.5) / self._shares <= time  # the guess is off by one at most, by rounding
        counts -= (counts > 0) & ((counts - 0.5) / self._shares > time)
        return counts
